//! Against the programs and the process that put them there.

use std::fs;
use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{DE, US};
use crate::act::{Shot, Technique};
use crate::actor::Tried;
use crate::ground::Side;
use crate::play::{CARDIO, Play, number};
use crate::policy::{Terms, study};
use crate::row::Row;
use crate::sys;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        20,
        "workload-before-policy",
        "a workload's first packets, before anybody was told of its cgroup",
        first_packets,
    ),
    Row::new(
        29,
        "child-overrides",
        "a program that allows everything, attached below the fence as of old",
        override_below,
    ),
    Row::new(18, "root-detaches", "root detaches the links", detached)
        .evidenced()
        .alone(),
    Row::new(
        18,
        "root-puts-back-a-policy",
        "root puts the policy of before back, past the agent",
        put_back,
    )
    .evidenced()
    .alone(),
    Row::new(
        19,
        "agent-killed",
        "the process that put the fence there is gone",
        killed,
    )
    .alone(),
];

/// How many workloads are started.
const WORKLOADS: u32 = 20;

fn first_packets(play: &mut Play<'_>) -> Result<()> {
    let root = play.ground.root();
    let late = study(
        &root,
        "late",
        "\"10.9.3.1/32\"",
        "jurisdictions = [\"DE\"]\n",
    )
    .replace("studies/late", "studies/late-*");
    play.ground
        .apply(&Terms::default().with("studies/late.toml", late))?;
    let shot = Shot::at(US).from("10.9.3.1");
    let (_, arrived) = play.ground.fire(Side::Open, "", Technique::Udp, &shot)?;
    play.would_leak("a workload's first packets", arrived.len());
    play.ground.hush()?;
    play.ground.witness(Side::Fenced).forget();
    let mut tried = Tried::default();
    for number in 0..WORKLOADS {
        let below = format!("studies/late-{number}");
        fs::create_dir(play.ground.cgroup(Side::Fenced, &below)).context("a new cgroup")?;
        let attacker = play
            .ground
            .attacker(Side::Fenced, &below, Technique::Udp, &shot)?;
        tried.add(&attacker.finish()?);
    }
    let arrived = play.ground.witness(Side::Fenced).arrived().len();
    play.counted(&tried, arrived)?;
    // In time it is the study's, and may go where the study may.
    let end = Instant::now() + Duration::from_secs(10);
    let may = Shot::at(DE).from("10.9.3.1");
    loop {
        let (_, arrived) =
            play.ground
                .fire(Side::Fenced, "studies/late-0", Technique::Udp, &may)?;
        if !arrived.is_empty() {
            break;
        }
        if Instant::now() > end {
            play.outcome.wrong("its cgroup never became the study's");
            break;
        }
    }
    for number in 0..WORKLOADS {
        let below = format!("studies/late-{number}");
        // What cannot go now goes with the ground.
        drop(fs::remove_dir(play.ground.cgroup(Side::Fenced, &below)));
    }
    play.ground.apply(&Terms::default())
}

fn override_below(play: &mut Play<'_>) -> Result<()> {
    let below = format!("{CARDIO}/child");
    let folder = play.ground.cgroup(Side::Fenced, &below);
    fs::create_dir_all(&folder).context("a cgroup below the study's")?;
    let pass = sys::pass_all().context("load a program")?;
    let cgroup = File::open(&folder).context("open a cgroup")?;
    // Exclusive, overridable, one of many.
    for flags in [0_u32, 1, 2] {
        let said = match sys::attach_legacy(&pass, &cgroup, flags) {
            Ok(()) => "attached".to_owned(),
            Err(error) => format!("refused: {error}"),
        };
        play.outcome
            .saw(format!("attach with flags {flags}: {said}"));
        play.attack_as(&below, Technique::Udp, &Shot::at(US))?;
    }
    let (_, arrived) = play
        .ground
        .fire(Side::Fenced, &below, Technique::Udp, &Shot::at(DE))?;
    if arrived.is_empty() {
        play.outcome.wrong("what may be reached is not");
    }
    Ok(())
}

fn detached(play: &mut Play<'_>) -> Result<()> {
    play.ground.stand()?;
    play.attack(Technique::Udp, &Shot::at(US))?;
    let links = play.ground.folder().join("bpf");
    let mut pins = Vec::new();
    find_links(&links, &mut pins)?;
    for pin in &pins {
        let link = sys::open_pin(pin).with_context(|| pin.display().to_string())?;
        sys::detach_link(&link).with_context(|| format!("detach {}", pin.display()))?;
    }
    let what = format!("{} links were detached: attached again", pins.len());
    if play.until_mended(Technique::Udp, &what)? {
        play.says_mended("was detached", "links.mended")?;
    }
    Ok(())
}

fn put_back(play: &mut Play<'_>) -> Result<()> {
    play.ground.stand()?;
    play.ground.apply(&Terms::to(&["DE", "US"]))?;
    let pin = play.ground.pin("maps/POLICY")?;
    let outer = sys::open_pin(&pin).with_context(|| pin.display().to_string())?;
    let old = sys::inner_map(&outer).context("the policy's table")?;
    play.ground.apply(&Terms::default())?;
    play.attack(Technique::Udp, &Shot::at(US))?;
    let frozen = sys::inner_map(&outer).context("the policy's table")?;
    // The kernel reads as many bytes as the table has: far fewer than these.
    let mut nothing = vec![0; 8 << 20];
    match sys::update_first(&frozen, &mut nothing) {
        Err(refused) => play.outcome.saw(format!("the table itself: {refused}")),
        Ok(()) => play.outcome.wrong("the table in force can be written"),
    }
    sys::set_inner_map(&outer, &old).context("put the old table back")?;
    if !play.until_mended(Technique::Udp, "the policy in force was put back")? {
        return Ok(());
    }
    play.says_mended("held map", "tables.mended")?;
    let fence = play.ground.state()?.fence.context("the fence's state")?;
    if let Some(fault) = fence.fault {
        play.outcome.wrong(format!("a fault is left: {fault}"));
    }
    play.passes(Technique::Udp, &Shot::at(DE))
}

/// Pins below `links` folders.
pub(super) fn find_links(
    folder: &std::path::Path,
    found: &mut Vec<std::path::PathBuf>,
) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry.context("a pin")?.path();
        if path.is_dir() {
            find_links(&path, found)?;
        } else if folder.ends_with("links") {
            found.push(path);
        }
    }
    Ok(())
}

fn killed(play: &mut Play<'_>) -> Result<()> {
    play.ground.stand()?;
    play.attack(Technique::Udp, &Shot::at(US))?;
    play.ground.kill_fence()?;
    let (tried, arrived) = play
        .ground
        .fire(Side::Fenced, CARDIO, Technique::Udp, &Shot::at(US))?;
    play.outcome.attempts += tried.attempts;
    play.outcome.leaked += number(arrived.len());
    play.outcome.saw(format!(
        "with nobody there, senders are told {:?}",
        tried.refused
    ));
    play.passes(Technique::Udp, &Shot::at(DE))
}
