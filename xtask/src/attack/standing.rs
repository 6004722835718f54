//! Standing that was not earned, or does not end.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::ground::Ground;
use super::outcome::Outcome;
use crate::demo::flows::Standing;
use crate::demo::stage::LEASE_SECONDS;

/// The lease, and what a busy machine takes to notice its end.
fn lease_and_a_little() -> Duration {
    Duration::from_secs(u64::from(LEASE_SECONDS) + 3)
}

pub(super) fn made_up_lease(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let config = ground.stage.node.config().display().to_string();
    let stolen = ground.stage.collector.state().display().to_string();
    let ak = ground.listed.ak.clone().context("the node's AK")?;
    let words = [
        "lease",
        "--config",
        &config,
        "--ek",
        &ground.listed.ek,
        "--ak",
        &ak,
    ];
    let words = words.into_iter().chain(["--stolen", &stolen]);
    ground.attacker(outcome, words)?;
    outcome.saw("handed to the fence's own socket, which is the last door");
    ground.outside(outcome, "afterwards", Standing::Attested)
}

pub(super) fn killed_and_cut(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    ground.stage.node.kill_agent()?;
    ground.stage.collector.kill()?;
    let taken = ground.wait_for_the_end(lease_and_a_little())?;
    outcome.saw(format!(
        "closed {:.1} s after agent and uplink were gone; the lease lasts {LEASE_SECONDS} s",
        taken.as_secs_f64()
    ));
    ground.outside(outcome, "after the lease's end", Standing::Unattested)?;
    // The lease's end outlives the process that set it, too.
    ground.stage.node.kill_fence()?;
    ground.outside(
        outcome,
        "the fence process killed as well",
        Standing::Unattested,
    )?;
    ground.stage.node.start_fence(&ground.scene)?;
    ground.outside(
        outcome,
        "the fence process started again",
        Standing::Unattested,
    )?;
    // An agent without its uplink gets no standing from anybody.
    ground.stage.node.start_agent(&ground.scene)?;
    std::thread::sleep(Duration::from_secs(3));
    ground.outside(
        outcome,
        "the agent back, the uplink still cut",
        Standing::Unattested,
    )?;
    ground.stage.collector.start(&ground.scene)?;
    ground.stage.wait_for_verdict(&ground.scene, true)?;
    ground.stage.wait_for_standing(&ground.scene, true)?;
    outcome.saw("with the uplink back, the next affirming statement restored standing");
    Ok(())
}

pub(super) fn reboot(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let statements = ground.stage.count("statements")?;
    ground.stage.reboot(&ground.scene, true)?;
    ground.outside(
        outcome,
        "a tampered machine, just booted",
        Standing::Unattested,
    )?;
    ground.stage.wait_for_statement(&ground.scene)?;
    ground.stage.wait_for_verdict(&ground.scene, false)?;
    ground.outside(outcome, "once it had attested", Standing::Unattested)?;
    ground.judged(outcome, "the tampered machine attests", "pcr-value")?;

    // Another boot id, and the TPM was not reset: what kexec looks like.
    ground.stage.reboot(&ground.scene, false)?;
    ground.stage.wait_for_verdict(&ground.scene, true)?;
    ground.stage.wait_for_standing(&ground.scene, true)?;
    ground.stage.node.kill_agent()?;
    ground.stage.node.draw_boot_id()?;
    ground.stage.node.start_agent(&ground.scene)?;
    ground.stage.wait_for_verdict(&ground.scene, false)?;
    ground.stage.wait_for_standing(&ground.scene, false)?;
    let tried = "another kernel without a reset of the TPM";
    ground.judged(outcome, tried, "boot-without-reset")?;
    ground.outside(outcome, "meanwhile", Standing::Unattested)?;

    ground.stage.reboot(&ground.scene, false)?;
    ground.stage.wait_for_verdict(&ground.scene, true)?;
    ground.stage.wait_for_standing(&ground.scene, true)?;
    let now = ground.stage.count("statements")?;
    ensure!(
        now > statements,
        "{statements} statements before, {now} after"
    );
    outcome.saw("a clean boot restored standing");
    Ok(())
}

/// The TPM signs whatever it is asked to while all is well.
pub(super) fn signed_in_advance(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    ground.stage.node.kill_agent()?;
    let stored = ground.stored_statement("stored-statement")?;
    let (config, stored) = (
        ground.stage.node.config().display().to_string(),
        stored.display().to_string(),
    );
    let tcti = ground.stage.tpm.tcti();
    let tampered = format!("4:sha256={}", "5b".repeat(32));
    let wait = (lease_and_a_little().as_secs() + 5).to_string();
    let words = ["stock", "--config", &config, "--stored", &stored];
    let words = words.into_iter().chain(["--wait", &wait, "--"]);
    let spoil = ["tpm2_pcrextend", "-T", &tcti, &tampered];
    ground.attacker(outcome, words.chain(spoil))?;
    let taken = ground.wait_for_the_end(lease_and_a_little())?;
    outcome.saw(format!(
        "closed {:.1} s later, though statements of a clean machine kept coming",
        taken.as_secs_f64()
    ));
    ground.outside(outcome, "afterwards", Standing::Unattested)
}
