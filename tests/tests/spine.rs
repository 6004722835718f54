//! Faults of the whole: real programs on the demo's stage, packets counted where they arrive.
//!
//! Needs root, and the programs built (`cargo xtask test` does both before it comes here).

use anyhow::{Result, ensure};
use xtask::demo::flows::Standing;
use xtask::demo::scene::Scene;
use xtask::demo::stage::Stage;

/// Seconds between statements.
const INTERVAL: u32 = 1;

fn stage() -> Result<(Scene, Stage)> {
    let mut scene = Scene::open()?;
    let stage = Stage::set_up(&mut scene, false, INTERVAL)?;
    Ok((scene, stage))
}

/// Tries everything once and fails on the first flow that did otherwise.
fn expect(scene: &Scene, stage: &mut Stage, standing: Standing) -> Result<()> {
    let matrix = stage.measure(scene, standing)?;
    ensure!(matrix.as_expected(), "{standing:?}:\n{}", matrix.table());
    Ok(())
}

#[test]
fn a_genuine_tpm_that_nobody_listed_stays_pending_and_closed() -> Result<()> {
    let (scene, mut stage) = stage()?;
    stage.node.start_fence(&scene)?;
    stage.apply(&scene, None, "nobody is listed")?;
    stage.node.start_agent(&scene)?;
    stage.wait_for_pending(&scene)?;
    let reason = stage.wait(&scene, "the reason", |stage| {
        let node = stage.enrolled()?;
        ensure!(node.state == "pending", "state {}", node.state);
        ensure!(!node.reason.is_empty(), "no reason yet");
        Ok(node.reason)
    })?;
    ensure!(
        reason.contains("inventory"),
        "does not say what to sign: {reason}"
    );
    expect(&scene, &mut stage, Standing::Closed)
}

#[test]
fn killed_processes_leave_the_fence_standing() -> Result<()> {
    let (scene, mut stage) = stage()?;
    stage.attest(&scene)?;
    stage.node.cut_power()?;
    expect(&scene, &mut stage, Standing::Attested)?;
    // Restarting swaps what is attached; nothing passes in between.
    stage.node.start_fence(&scene)?;
    expect(&scene, &mut stage, Standing::Attested)?;
    stage.node.start_agent(&scene)?;
    stage.wait_for_statement(&scene)?;
    expect(&scene, &mut stage, Standing::Attested)
}

#[test]
fn a_rebooted_node_is_closed_until_it_appraises_clean() -> Result<()> {
    let (scene, mut stage) = stage()?;
    stage.attest(&scene)?;
    stage.reboot(&scene, true)?;
    expect(&scene, &mut stage, Standing::Unattested)?;
    stage.wait_for_statement(&scene)?;
    stage.wait_for_verdict(&scene, false)?;
    expect(&scene, &mut stage, Standing::Unattested)?;
    stage.reboot(&scene, false)?;
    stage.wait_for_verdict(&scene, true)?;
    stage.wait_for_standing(&scene, true)?;
    expect(&scene, &mut stage, Standing::Attested)
}

#[test]
fn a_collector_killed_mid_stream_forgets_nothing_it_accepted() -> Result<()> {
    let (scene, mut stage) = stage()?;
    stage.attest(&scene)?;
    for _ in 0..3 {
        let before = stage.count("statements")?;
        stage.collector.kill()?;
        stage.collector.start(&scene)?;
        let after = stage.count("statements")?;
        ensure!(after >= before, "{before} statements before, {after} after");
        stage.wait_for_statement(&scene)?;
    }
    stage.wait_for_verdict(&scene, true)?;
    ensure!(
        stage.pager.heard("firing", "BailiwickSpoolGap", 0).is_err(),
        "the collector lost a statement of the chain"
    );
    Ok(())
}

#[test]
fn a_node_that_finds_no_collector_is_fenced_and_keeps_trying() -> Result<()> {
    let (scene, mut stage) = stage()?;
    stage.apply(&scene, None, "nobody is listed")?;
    stage.collector.kill()?;
    stage.node.start_fence(&scene)?;
    stage.node.start_agent(&scene)?;
    expect(&scene, &mut stage, Standing::Closed)?;
    stage.node.alive()?;
    stage.collector.start(&scene)?;
    stage.wait_for_pending(&scene).map(drop)
}
