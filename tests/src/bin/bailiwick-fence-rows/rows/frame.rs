//! Frames that no cgroup hook sees, from the namespace of the uplink itself.

use std::process::Command;
use std::thread;
use std::time::Duration;

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
        17,
        "first-place-taken",
        "programs and filters that let everything pass hold the first place before the fence comes",
        taken,
    )
    .alone(),
    Row::new(
        17,
        "first-priority-taken",
        "the same on every kernel, by filters alone: as the first priority can be held",
        priority,
    )
    .alone()
    .in_vm(),
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
    if play.until_mended(Technique::Frame, "ours was the first again")? {
        play.says_mended("was not first", "links.mended")?;
    }
    drop(link);
    Ok(())
}

/// `tc` arguments of filters that let everything pass and end the chain: under the handle the fence
/// uses, for one protocol alone, and of another kind. One priority has room for one of them.
const HOLDERS: [&[&str]; 3] = [
    &[
        "all", "prio", "1", "handle", "1", "bpf", "bytecode", PASS, "flowid", "1:1",
    ],
    &[
        "ip", "prio", "1", "handle", "1", "bpf", "bytecode", PASS, "flowid", "1:1",
    ],
    &[
        "all", "prio", "1", "u32", "match", "u32", "0", "0", "flowid", "1:1",
    ],
];
/// One instruction: everything matches.
const PASS: &str = "1,6 0 0 4294967295,";

/// Somebody holds the first place by a filter.
fn hold(space: &str, holder: &[&str]) -> Result<()> {
    let tc = |words: &[&str]| -> Result<()> {
        let out = Command::new("tc")
            .args(words)
            .output()
            .context("start tc")?;
        let said = String::from_utf8_lossy(&out.stderr);
        anyhow::ensure!(out.status.success(), "tc {}: {said}", words.join(" "));
        Ok(())
    };
    net::within(space, || {
        // There may be one from before.
        drop(tc(&["qdisc", "add", "dev", WIRE, "clsact"]));
        let place = ["filter", "replace", "dev", WIRE, "egress", "protocol"];
        tc(&[&place, holder].concat())
    })
}

fn taken(play: &mut Play<'_>) -> Result<()> {
    let job = play.ground.net(Side::Fenced).job.clone();
    let pass = sys::answer_always(0).context("load a program")?;
    let link = net::within(&job, || {
        sys::attach_first(&pass, WIRE).context("attach it first")
    })?;
    let [same_handle, ..] = HOLDERS;
    hold(&job, same_handle)?;
    play.ground.stand()?;
    for to in [US, US6] {
        play.attack(Technique::Frame, &Shot::at(to))?;
    }
    play.passes(Technique::Frame, &Shot::at(DE))?;
    drop(link);
    Ok(())
}

fn priority(play: &mut Play<'_>) -> Result<()> {
    let job = play.ground.net(Side::Fenced).job.clone();
    for holder in HOLDERS {
        hold(&job, holder)?;
        play.ground.stand()?;
        for to in [US, US6] {
            play.attack(Technique::Frame, &Shot::at(to))?;
        }
        play.passes(Technique::Frame, &Shot::at(DE))?;
        for change in play.ground.log_lines("found its place taken") {
            play.outcome.saw(format!("the agent says: {change}"));
        }
        play.ground.stop_fence()?;
        play.ground.unfence()?;
        net::within(&job, || {
            let mut tc = Command::new("tc");
            let gone = tc.args(["qdisc", "del", "dev", WIRE, "clsact"]).output();
            gone.map(drop).context("start tc")
        })?;
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
