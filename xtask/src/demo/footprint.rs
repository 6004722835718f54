//! What the agent costs a node: memory, idle time, and how soon the fence stands.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::policy::Terms;
use super::scene::Scene;
use super::stage::Stage;
use crate::cmd::step;

/// Seconds between statements, as a node is configured by default.
const INTERVAL_SECONDS: u32 = 60;
/// How long nothing is asked of the agent.
const IDLE: Duration = Duration::from_secs(60);
/// The kernel's ticks a second in `/proc`: `USER_HZ`, fixed on Linux.
const TICKS: f64 = 100.0;

/// Runs release builds on the demo's stage.
pub(crate) fn measure() -> Result<Value> {
    let mut scene = Scene::open()?;
    let mut stage = Stage::set_up(&mut scene, true, INTERVAL_SECONDS)?;
    let world = whole_world()?;
    let default_deny = time_to_default_deny(&scene, &mut stage)?;
    step(format_args!("   default deny after {default_deny:.1} ms"));

    apply(&scene, &mut stage, &world, false)?;
    stage.node.start_agent(&scene)?;
    stage.wait_for_pending(&scene)?;
    apply(&scene, &mut stage, &world, true)?;
    stage.wait_for_verdict(&scene, true)?;
    stage.wait_for_standing(&scene, true)?;

    let pids = stage.node.pids();
    let (before, begun) = (ticks(&pids)?, Instant::now());
    step("   idle for a minute");
    thread::sleep(IDLE);
    scene.go_on()?;
    let busy = (ticks(&pids)? - before) / TICKS / begun.elapsed().as_secs_f64();
    let resident = mib(&pids, "Rss:")?;
    let proportional = mib(&pids, "Pss:")?;

    let whole = time_to_whole_fence(&scene, &mut stage)?;
    Ok(json!({
        "resident_mib": resident,
        "resident_mib_aim": 20,
        "proportional_mib": proportional,
        "idle_percent_of_core": busy * 100.0,
        "idle_percent_of_core_aim": 0.1,
        "default_deny_ms": default_deny,
        "default_deny_ms_aim": 100,
        "whole_fence_ms": whole,
        "whole_fence_ms_aim": 400,
    }))
}

/// From exec to the first datagram that does not pass, seen by the sender inside the fence.
fn time_to_default_deny(scene: &Scene, stage: &mut Stage) -> Result<f64> {
    let begun = Instant::now();
    stage.node.spawn_fence(scene)?;
    while stage.first_sender(&[Stage::ABROAD])? == [true] {
        scene.go_on()?;
        if begun.elapsed() > Duration::from_secs(20) {
            bail!("the fence does not come");
        }
    }
    let taken = begun.elapsed();
    stage.node.wait_for_fence(scene)?;
    Ok(taken.as_secs_f64() * 1000.0)
}

/// From exec after a boot, the policy on disk, until the study has exactly what it may have without
/// a lease.
fn time_to_whole_fence(scene: &Scene, stage: &mut Stage) -> Result<f64> {
    stage.node.cut_power()?;
    scene.kill_workloads()?;
    scene.drop_pins()?;
    stage.workloads = stage.world.start_workloads(scene)?;
    let begun = Instant::now();
    stage.node.spawn_fence(scene)?;
    while stage.first_sender(&[Stage::ABROAD, Stage::TIME])? != [false, true] {
        scene.go_on()?;
        if begun.elapsed() > Duration::from_secs(20) {
            bail!("the whole fence does not come");
        }
    }
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

/// Debian's table of both families, as one file.
fn whole_world() -> Result<String> {
    let mut text = String::new();
    for file in ["/usr/share/tor/geoip", "/usr/share/tor/geoip6"] {
        text += &fs::read_to_string(Path::new(file)).with_context(|| format!("read {file}"))?;
    }
    // The demo's host in Germany, whose documentation address no table has.
    text += "3221225984,3221226047,DE\n";
    Ok(text)
}

fn apply(scene: &Scene, stage: &mut Stage, world: &str, listed: bool) -> Result<()> {
    let node = listed.then(|| stage.enrolled()).transpose()?;
    let terms = Terms {
        collector_toml: &stage.collector.for_policy,
        pcrs: &stage.pcrs,
        listed: node.as_ref(),
        lease_seconds: 600,
        max_silence_seconds: 300,
        world: ("world.txt", world),
        reason: "a whole world",
        instead: &[],
    };
    let bundle = stage.approvers.sign(scene, terms)?;
    stage.collector.apply(&bundle)
}

/// Time on the processor, in ticks, of all these processes.
fn ticks(pids: &[u32]) -> Result<f64> {
    let mut all = 0.0;
    for pid in pids {
        let stat =
            fs::read_to_string(format!("/proc/{pid}/stat")).context("read a process's stat")?;
        let after = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest)
            .context("read a process's stat")?;
        // utime and stime are the 14th and 15th field, the 12th and 13th after the name.
        for field in after.split_whitespace().skip(11).take(2) {
            all += field.parse::<f64>().context("read a process's time")?;
        }
    }
    Ok(all)
}

/// Memory of these processes in MiB. `Rss:` counts a page that both have in each, `Pss:` once.
fn mib(pids: &[u32], which: &str) -> Result<f64> {
    let mut kib = 0.0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .context("read a process's memory")?;
        let line = text.lines().find_map(|line| line.strip_prefix(which));
        let number = line
            .and_then(|rest| rest.split_whitespace().next())
            .with_context(|| format!("no {which}"))?;
        kib += number.parse::<f64>().context("read a process's memory")?;
    }
    Ok(kib / 1024.0)
}
