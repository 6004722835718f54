//! What broke, and what comes back in its place.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::ground::Ground;
use super::outcome::Outcome;
use crate::cmd;
use crate::demo::flows::Standing;

/// Everything the node kept is gone: keys, spool, policy. Its TPM is the same.
pub(super) fn disk(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    begin_anew(
        ground,
        outcome,
        "the same EK comes back with another AK",
        false,
    )
}

/// Root clears the TPM and the disk, and has no past.
pub(super) fn tpm_cleared(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let agent = ground.log_from_now("agent");
    ground.stage.node.kill_agent()?;
    ground.stage.tpm.clear()?;
    ground.stage.node.start_agent(&ground.scene)?;
    let line = ground.scene.wait(
        "the agent to notice a cleared TPM",
        Duration::from_secs(60),
        || agent.line("do not load"),
    )?;
    let tried = "the TPM alone is cleared, and the agent started again";
    outcome.tried(tried, "foreign-keys", Some("foreign-keys"), &line);
    let tried = "TPM and disk are cleared, and the node enrols with a clean past";
    begin_anew(ground, outcome, tried, true)
}

fn begin_anew(ground: &mut Ground, outcome: &mut Outcome, tried: &str, clear: bool) -> Result<()> {
    let receipts = ground.stage.count("receipts")?;
    let statements = ground.stage.count("statements")?;
    ground.stage.node.cut_power()?;
    ground.scene.kill_workloads()?;
    ground.scene.drop_pins()?;
    let state = ground.scene.path("node");
    fs::remove_dir_all(&state).context("lose the disk")?;
    ground.stage.tpm.boot(&ground.scene, false)?;
    if clear {
        ground.stage.tpm.clear()?;
    }
    ground.stage.node.draw_boot_id()?;
    let agent = ground.log_from_now("agent");
    ground.stage.node.start_fence(&ground.scene)?;
    ground.stage.workloads = ground.stage.world.start_workloads(&ground.scene)?;
    ground.stage.node.start_agent(&ground.scene)?;
    let line = ground.scene.wait(
        "the collector to answer the new AK",
        Duration::from_secs(60),
        || agent.line("ak-not-of-node"),
    )?;
    outcome.tried(tried, "ak-not-of-node", Some("ak-not-of-node"), &line);
    ground.outside(outcome, "with nothing on disk", Standing::Closed)?;
    let now = ground.stage.count("statements")?;
    anyhow::ensure!(
        now >= statements,
        "{statements} statements before, {now} after"
    );
    outcome.saw(format!(
        "the record has all it had: {statements} statements, {receipts} receipts"
    ));
    Ok(())
}

/// Root has the TPM sign statements over a log that is milder than the truth.
pub(super) fn log_rewritten(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    // Something to hide.
    ground.outside(outcome, "denials for the log", Standing::Attested)?;
    ground.stage.wait_for_statement(&ground.scene)?;
    ground.stage.node.kill_agent()?;
    let stored = ground.stored_statement("stored-statement")?;
    let (config, stored) = (
        ground.stage.node.config().display().to_string(),
        stored.display().to_string(),
    );
    ground.attacker(
        outcome,
        ["rewrite", "--config", &config, "--stored", &stored],
    )?;
    ground.stage.node.start_agent(&ground.scene)?;
    ground.stage.wait_for_statement(&ground.scene)?;
    ground.stage.wait_for_verdict(&ground.scene, true)?;
    outcome.saw("the honest log goes on from where it was");
    Ok(())
}

/// The whole disk is put back as it was: keys, spool, chain and log of an earlier hour.
pub(super) fn disk_rolled_back(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let (state, copy) = (ground.scene.path("node"), ground.scene.path("node-earlier"));
    ground.stage.node.kill_agent()?;
    cmd::run(cmd::command("cp").arg("-a").arg(&state).arg(&copy))?;
    ground.stage.node.start_agent(&ground.scene)?;
    ground.outside(outcome, "denials for the log", Standing::Attested)?;
    ground.stage.wait_for_statement(&ground.scene)?;
    ground.stage.wait_for_statement(&ground.scene)?;
    ground.stage.node.kill_agent()?;
    fs::remove_dir_all(&state).context("lose the newer disk")?;
    fs::rename(&copy, &state).context("put the older one back")?;
    let agent = ground.log_from_now("agent");
    ground.stage.node.start_agent(&ground.scene)?;
    let line = ground.scene.wait(
        "the collector to know another history",
        Duration::from_secs(60),
        || agent.line("a new epoch begins"),
    )?;
    let code = line
        .split_once("code=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(code, _)| code);
    outcome.tried(
        "the disk of an earlier hour",
        "sequence-forked",
        code,
        &line,
    );
    // The epoch is heard; standing takes an approver's word.
    ground.stage.wait_for_statement(&ground.scene)?;
    ground.judged(outcome, "standing in the new epoch", "epoch-unacknowledged")?;
    let taken = ground.wait_for_the_end(Duration::from_secs(35))?;
    outcome.saw(format!("closed after {:.1} s", taken.as_secs_f64()));
    ground.outside(
        outcome,
        "in an epoch nobody acknowledged",
        Standing::Unattested,
    )
}
