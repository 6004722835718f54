//! Frames that no cgroup hook sees, from the namespace of the uplink itself.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{DE, DE6, US, US6};
use crate::act::{Shot, Technique};
use crate::ground::Side;
use crate::net::{self, WIRE};
use crate::play::{CARDIO, Play, number};
use crate::row::Row;
use crate::sys;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        31,
        "queue-bypass",
        "frames past the queue, where the second line hangs, by a call and by a ring",
        bypass,
    ),
    Row::new(1, "packet-socket", "frames written by hand", frames),
    Row::new(
        32,
        "lying-ethertype",
        "a socket that says it sends something else",
        lie,
    ),
    Row::new(
        33,
        "wrapped-frames",
        "tags, MPLS, PPPoE and SNAP around IP",
        wrapped,
    ),
    Row::new(
        17,
        "foreign-program-first",
        "root puts a program before ours that lets everything pass",
        foreign,
    )
    .evidenced()
    .alone(),
    Row::new(
        22,
        "af-xdp",
        "frames from memory that the device reads",
        express,
    )
    .evidenced()
    .alone(),
];

fn bypass(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Bypass, &Shot::at(US))?;
    // Also where it would harm nobody: what blinds a line is refused, whoever asks.
    play.attack(Technique::Bypass, &Shot::at(DE))?;
    play.passes(Technique::Frame, &Shot::at(DE))
}

fn frames(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Frame, &Shot::at(US))?;
    play.attack(Technique::Frame, &Shot::at(US6))?;
    play.passes(Technique::Frame, &Shot::at(DE))?;
    play.passes(Technique::Frame, &Shot::at(DE6))
}

fn lie(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Lie, &Shot::at(US))?;
    play.attack(Technique::Lie, &Shot::at(US6))?;
    play.passes(Technique::Lie, &Shot::at(DE))
}

fn wrapped(play: &mut Play<'_>) -> Result<()> {
    for to in [US, US6] {
        play.attack(Technique::Tagged, &Shot::at(to))?;
        play.attack(Technique::Wrapped, &Shot::at(to))?;
    }
    play.attack(Technique::Wrapped, &Shot::at(DE))?;
    play.passes(Technique::Tagged, &Shot::at(DE))
}

fn foreign(play: &mut Play<'_>) -> Result<()> {
    play.ground.stand()?;
    play.attack(Technique::Frame, &Shot::at(US))?;
    let job = play.ground.net(Side::Fenced).job.clone();
    let pass = sys::answer_always(0).context("load a program")?;
    let link = net::within(&job, || {
        sys::attach_first(&pass, WIRE).context("attach it first")
    })?;
    let begun = Instant::now();
    let shot = Shot::at(US).count(1);
    loop {
        let (tried, arrived) = play
            .ground
            .fire(Side::Fenced, CARDIO, Technique::Frame, &shot)?;
        play.outcome.attempts += tried.attempts;
        play.outcome.leaked += number(arrived.len());
        if arrived.is_empty() {
            break;
        }
        if begun.elapsed() > Duration::from_secs(20) {
            play.outcome.wrong("ours never was the first again");
            return Ok(());
        }
    }
    play.outcome.saw(format!(
        "ours was the first again within {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    told(play)?;
    drop(link);
    Ok(())
}

/// What the agent says of lines that were changed.
fn told(play: &mut Play<'_>) -> Result<()> {
    let changes = play.ground.log_lines("was not first");
    if changes.is_empty() {
        play.outcome.wrong("the agent does not say it");
    }
    for change in changes {
        play.outcome.saw(format!("the agent says: {change}"));
    }
    Ok(())
}

fn express(play: &mut Play<'_>) -> Result<()> {
    play.ground.stand()?;
    let shot = Shot::at(US);
    let (_, arrived) = play
        .ground
        .fire(Side::Open, CARDIO, Technique::Express, &shot)?;
    play.would_leak("AF_XDP", arrived.len());
    let (tried, arrived) = play
        .ground
        .fire(Side::Fenced, CARDIO, Technique::Express, &shot)?;
    play.outcome.attempts += tried.attempts;
    play.outcome.leaked += number(arrived.len());
    thread::sleep(Duration::from_millis(600));
    let fence = play.ground.state()?.fence.context("the fence's state")?;
    let said: Vec<&String> = fence
        .unfenced_paths
        .iter()
        .filter(|path| path.to_lowercase().contains("xdp"))
        .collect();
    if said.is_empty() {
        let line = format!("unfenced paths do not say it: {:?}", fence.unfenced_paths);
        play.outcome.wrong(line);
    }
    for path in said {
        play.outcome.saw(format!("unfenced path: {path}"));
    }
    Ok(())
}
