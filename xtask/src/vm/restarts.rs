//! Other ways into another kernel than a clean boot: without firmware, and in the middle of an
//! attestation.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::stage::{Boot, Stage};
use super::validated::{AFFIRMED, Play, REFUSED};

/// Where the root disk has what was booted.
const KERNEL: &str = "/boot/vmlinuz";
const RAMDISK: &str = "/boot/initrd";

pub(super) fn play(stage: &mut Stage<'_>) -> Result<()> {
    let mut play = Play::begin(stage)?;
    kexec(&mut play)?;
    cut_off(&mut play)
}

/// The same kernel, started by the one that runs: firmware measured nothing, no register was
/// cleared, and the new kernel's list begins anew.
fn kexec(play: &mut Play<'_, '_>) -> Result<()> {
    play.boot(Boot::default())?;
    play.verdict("a clean boot is affirmed", AFFIRMED, &[])?;
    // In memory, so that the file on disk stays what it is.
    let order = json!({ "run": ["sh", "-c",
        format!("cp {KERNEL} /run/changed && echo changed >> /run/changed")] });
    play.stage.order(&order)?;
    let changed = play
        .stage
        .try_order(&json!({ "kexec": "/run/changed", "initrd": RAMDISK }))?;
    play.stage.check(
        "a kernel that nobody signed is not taken, Secure Boot on",
        changed["ok"] == false,
        changed["error"].clone(),
    );
    play.stage
        .last_order(&json!({ "kexec": KERNEL, "initrd": RAMDISK }))?;
    play.stage.ready()?;
    play.stage.start_node()?;
    play.verdict(
        "the same kernel started by kexec is refused: its list is not what was extended",
        REFUSED,
        &["ima.list", "PCR 10"],
    )?;
    play.stage.cut_power()
}

/// Power is cut while the agent has a challenge to answer, more than once.
fn cut_off(play: &mut Play<'_, '_>) -> Result<()> {
    play.boot(Boot::default())?;
    play.verdict("a clean boot restores standing", AFFIRMED, &[])?;
    play.stage.restart_agent()?;
    thread::sleep(Duration::from_millis(1500));
    play.stage.cut_power()?;
    play.boot(Boot::default())?;
    play.verdict(
        "power cut in the middle of an attestation: the next boot is affirmed, and nothing else \
         is said of it",
        AFFIRMED,
        &[],
    )?;
    play.stage.shut_down()
}
