//! The collector's keys, rotated while it works and revoked once they are stolen.

use anyhow::{Context as _, Result, bail, ensure};

use super::ground::Ground;
use super::outcome::Outcome;
use crate::cmd;
use crate::demo::flows::{self, Standing};
use crate::paths;

/// Probes in each step of a rotation.
const PROBES: u32 = 5;

/// The lease key is replaced in three policies, and the thief of the old one comes too late.
pub(super) fn lease_key(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let heard = ground.stage.pager.count();
    let before = ground.stage.count("statements")?;
    let state = ground.stage.collector.state().to_owned();
    let made = cmd::output(
        cmd::command(paths::binary(false, "bailiwick-collector"))
            .args(["lease-key", "--dir"])
            .arg(&state)
            .arg("lease-of-this-year"),
    )?;
    let at = made.find("[[lease_key]]").context("the new key's lines")?;
    let (_, new) = made.split_at(at);
    let old = ground.stage.collector.for_policy.clone();
    let (key, rest) = old.split_once("[[log]]").context("the collector's keys")?;
    let rest = format!("[[log]]{rest}");
    // The collector takes up keys when it starts; nodes see a connection that breaks.
    ground.stage.collector.kill()?;
    ground.stage.collector.start(&ground.scene)?;

    let mut closed = 0;
    for (step, text) in [
        (
            "the new key stands behind the old one",
            format!("{key}\n{new}\n{rest}"),
        ),
        ("it stands before it", format!("{new}\n{key}\n{rest}")),
        ("it stands alone", format!("{new}\n{rest}")),
    ] {
        let listed = ground.listed.clone();
        let instead = [("collector.toml".to_owned(), text)];
        ground
            .stage
            .apply_with(&ground.scene, Some(&listed), step, &instead, |_| {})?;
        ground.stage.wait_for_policy(&ground.scene)?;
        for _ in 0..PROBES {
            let stage = &mut ground.stage;
            closed += u32::from(!flows::probe(&stage.world, &mut stage.workloads)?);
        }
        ground.stage.wait_for_statement(&ground.scene)?;
        ground.stage.wait_for_verdict(&ground.scene, true)?;
    }
    let after = ground.stage.count("statements")?;
    if ground
        .stage
        .pager
        .heard("firing", "BailiwickSpoolGap", heard)
        .is_ok()
    {
        bail!("a statement was lost on the way");
    }
    ensure!(after > before, "{before} statements before, {after} after");
    outcome.saw(format!(
        "rotated in three policies: {} statements accepted, no gap, {closed} of {} probes closed",
        after - before,
        3 * PROBES
    ));

    let config = ground.stage.node.config().display().to_string();
    let stolen = state.display().to_string();
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
    let words = words.into_iter().chain(["--stolen", &stolen, "--revoked"]);
    ground.attacker(outcome, words)?;
    ground.outside(outcome, "afterwards", Standing::Attested)
}
