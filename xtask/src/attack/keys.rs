//! The collector's keys, rotated while it works and revoked once they are stolen.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};

use super::ground::Ground;
use super::hostile;
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
            closed += u32::from(flows::probe(&stage.world, &mut stage.workloads)? == Some(false));
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

/// Key and CA of the log and of the doors are replaced while the node attests, and the old ones
/// revoked: whoever stole them comes too late.
pub(super) fn log_and_ca(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let heard = ground.stage.pager.count();
    let before = ground.stage.count("statements")?;
    let state = ground.stage.collector.state().to_owned();
    let stolen = ground.scene.path("stolen-keys");
    cmd::run(cmd::command("cp").arg("-a").arg(&state).arg(&stolen))?;
    let honest = ground.stored_statement("under-the-old-key")?;

    let make = |words: &[&str]| {
        let mut make = cmd::command(paths::binary(false, "bailiwick-collector"));
        let (verb, rest) = words.split_first().context("a subcommand")?;
        cmd::output(make.arg(verb).arg("--dir").arg(&state).args(rest))
    };
    let log = section(&make(&["log-key", "log-2"])?, "log")?;
    let ca = section(&make(&["ca-key", "ca-2", "--name", "127.0.0.1"])?, "ca")?;
    let old = ground.stage.collector.for_policy.clone();
    let (old_log, old_ca) = (section(&old, "log")?, section(&old, "ca")?);
    let rest = section(&old, "lease_key")? + &section(&old, "key_store")?;
    let new_ca = state.join("cas/ca-2/ca.pem");
    ground
        .stage
        .collector
        .operators_trust(&ground.scene, &[&state.join("ca.pem"), &new_ca])?;
    // The collector takes up keys when it starts; nodes see a connection that breaks.
    ground.stage.collector.kill()?;
    ground.stage.collector.start(&ground.scene)?;

    let revoked = format!("revoked = \"{}\"\n", rfc3339(now()? - 1)?);
    let steps = [
        (
            "the new keys stand beside the old",
            format!("{old_log}{log}{old_ca}{ca}{rest}"),
        ),
        (
            "the new CA stands first",
            format!("{old_log}{log}{ca}{old_ca}{rest}"),
        ),
        (
            "the old ones are revoked",
            format!("{old_log}{revoked}{log}{ca}{old_ca}{revoked}{rest}"),
        ),
    ];
    let mut closed = 0;
    for (step, text) in &steps {
        let listed = ground.listed.clone();
        let instead = [("collector.toml".to_owned(), text.clone())];
        ground
            .stage
            .apply_with(&ground.scene, Some(&listed), step, &instead, |_| {})?;
        ground.stage.wait_for_policy(&ground.scene)?;
        for _ in 0..PROBES {
            let stage = &mut ground.stage;
            closed += u32::from(flows::probe(&stage.world, &mut stage.workloads)? == Some(false));
        }
        ground.stage.wait_for_statement(&ground.scene)?;
        ground.stage.wait_for_verdict(&ground.scene, true)?;
    }
    let after = ground.stage.count("statements")?;
    let gap = ground
        .stage
        .pager
        .heard("firing", "BailiwickSpoolGap", heard);
    if gap.is_ok() {
        bail!("a statement was lost on the way");
    }
    ensure!(after > before, "{before} statements before, {after} after");
    outcome.saw(format!(
        "rotated in three policies: {} statements accepted, no gap, {closed} of {} probes closed",
        after - before,
        3 * PROBES
    ));
    ground.stage.collector.for_policy = steps.into_iter().last().map_or(old, |(_, text)| text);
    receipts(ground, outcome, &stolen, &honest)?;

    let config = ground.stage.node.config().display().to_string();
    let ak = ground.listed.ak.clone().context("the node's AK")?;
    let (thief, ca) = (stolen.display().to_string(), new_ca.display().to_string());
    let ek = ground.listed.ek.clone();
    let words = ["issued", "--victim", &config, "--ek", &ek, "--ak", &ak];
    let words = words.into_iter().chain(["--stolen", &thief, "--ca", &ca]);
    ground.attacker(outcome, words.chain(["--revoked"]))?;
    hostile::at_the_door(ground, outcome, &stolen, "--revoked", "ca-key-revoked")?;
    ground.outside(outcome, "afterwards", Standing::Attested)
}

/// What an auditor is shown under the stolen key of the log.
fn receipts(ground: &Ground, outcome: &mut Outcome, stolen: &Path, honest: &Path) -> Result<()> {
    let newest = ground.stage.approvers.newest().context("a policy")?;
    let judge = |file: &Path, with: bool| -> Result<(String, String)> {
        let report = ground.verify_with(file, with.then_some(newest))?;
        let checks = report["checks"].as_array().context("checks")?;
        let receipt = checks
            .iter()
            .find(|check| check["name"] == "receipt")
            .context("a check of the receipt")?;
        let word = |key: &str| receipt[key].as_str().unwrap_or_default().to_owned();
        Ok((word("outcome"), word("detail")))
    };
    // It was good, and is: the log shows it under its present key.
    let (good, detail) = judge(&ground.stored_statement("under-the-new-key")?, true)?;
    ensure!(good == "ok", "an honest receipt: {good}: {detail}");
    let (later, earlier) = ((now()? + 3600).to_string(), (now()? - 3600).to_string());
    let forge = |name: &str, words: &[&str]| -> Result<PathBuf> {
        let out = ground.scene.path(name);
        let mut attacker = cmd::command(paths::binary(false, "attacker"));
        attacker.arg("backdate").arg("--stored").arg(honest);
        attacker.arg("--stolen").arg(stolen).arg("--out").arg(&out);
        cmd::output(attacker.args(words))?;
        Ok(out)
    };
    for (tried, name, words, due) in [
        (
            "a receipt under the revoked key, of after its revocation",
            "receipt-of-later",
            vec!["--at", &later],
            "refused",
        ),
        (
            "the same, in a file that says nothing of newer keys",
            "receipt-of-later-silent",
            vec!["--at", &later, "--silent"],
            "refused",
        ),
        (
            "a receipt under the revoked key, dated before",
            "receipt-of-before",
            vec!["--at", &earlier, "--silent"],
            "undecided",
        ),
    ] {
        let (found, detail) = judge(&forge(name, &words)?, true)?;
        let code = (found != "ok").then_some("receipt-key-revoked");
        let code = code
            .filter(|code| detail.contains(code))
            .or(match found.as_str() {
                "ok" => None,
                _ => Some("another-reason"),
            });
        outcome.tried(tried, "receipt-key-revoked", code, &detail);
        ensure!(found == due || found == "ok", "{tried}: {found}: {detail}");
    }
    Ok(())
}

/// One table of the collector's keys, as it stands in a file.
fn section(text: &str, name: &str) -> Result<String> {
    let head = format!("[[{name}]]");
    let at = text.find(&head).with_context(|| format!("no {head}"))?;
    let (_, found) = text.split_at(at);
    let end = found
        .get(head.len()..)
        .and_then(|rest| rest.find("[["))
        .map_or(found.len(), |at| at + head.len());
    let (found, _) = found.split_at(end);
    Ok(format!("{}\n", found.trim_end()))
}

fn now() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now.context("the clock is before 1970")?.as_secs())
}

fn rfc3339(secs: u64) -> Result<String> {
    let said = cmd::output(
        cmd::command("date")
            .args(["--utc", "--date"])
            .arg(format!("@{secs}"))
            .arg("+%Y-%m-%dT%H:%M:%SZ"),
    )?;
    Ok(said.trim().to_owned())
}

#[cfg(test)]
mod unit {
    use super::section;

    #[test]
    fn a_table_is_cut_out_whole() {
        let text = "# words\n[[log]]\norigin = 1\n\n[[ca]]\nid = 2\n";
        assert_eq!(section(text, "log").unwrap(), "[[log]]\norigin = 1\n");
        assert_eq!(section(text, "ca").unwrap(), "[[ca]]\nid = 2\n");
        assert!(section(text, "lease_key").is_err());
    }
}
