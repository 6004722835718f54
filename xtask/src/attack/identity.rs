//! Those who would be a node, or have one believed that is none.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::ground::Ground;
use super::outcome::Outcome;
use super::time;
use crate::cmd;
use crate::demo::flows::Standing;
use crate::demo::policy::{NODE, THRESHOLD};
use crate::demo::tpm::Factory;
use crate::paths;

/// SHA-256 of the manifest in force, hex.
fn manifest(ground: &Ground) -> Result<String> {
    let shown = ground.stage.collector.ask(&["policy", "show"])?;
    let digest = shown["manifest"]
        .as_str()
        .context("the manifest's digest")?;
    Ok(digest.to_owned())
}

pub(super) fn shop_bought_tpm(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let (_tpm, config) = ground.another_machine(&Factory::default())?;
    let manifest = manifest(ground)?;
    let config = config.display().to_string();
    let words = [
        "stranger",
        "--config",
        &config,
        "--victim",
        NODE,
        "--manifest",
        &manifest,
    ];
    ground.attacker(outcome, words)?;
    outcome.saw("its evidence is kept, as pending; no policy, no lease, no outward certificate");
    Ok(())
}

/// A maker's certificate that was good once.
pub(super) fn endorsement_expired(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    const DAY: i64 = 24 * 3600;
    let library = time::library(ground)?;
    // swtpm's certificates never end by themselves.
    let tools = ground.scene.path("factory");
    fs::create_dir_all(&tools).context("make a folder for tools")?;
    let tool = tools.join("swtpm_cert");
    let real = cmd::find("swtpm_cert").context("swtpm-tools brings swtpm_cert")?;
    let script = format!(
        "#!/bin/sh\nexec {} \"$@\" --days \"$DAYS\"\n",
        real.display()
    );
    fs::write(&tool, script).context("write a tool")?;
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o700)).context("write a tool")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", tools.display());
    for (tried, made, lasts, expected) in [
        ("a certificate that ended yesterday", -2 * DAY, 1, "expired"),
        ("one that begins tomorrow", DAY, 9, "not-yet-valid"),
        ("one that lasts until tomorrow", 0, 1, "pending"),
    ] {
        let mut environment = time::skewed(&library, made);
        environment.extend([("PATH", path.clone()), ("DAYS", lasts.to_string())]);
        let factory = Factory { environment };
        let (_tpm, config) = ground.another_machine(&factory)?;
        let config = config.display().to_string();
        let words = [
            "enrol",
            "--config",
            &config,
            "--tried",
            tried,
            "--expected",
            expected,
        ];
        ground.attacker(outcome, words)?;
    }
    outcome.saw("the last is the neighbour that is let in, as far as a stranger is");
    Ok(())
}

pub(super) fn stolen_certificate(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let (_tpm, thief) = ground.another_machine(&Factory::default())?;
    let (thief, victim) = (
        thief.display().to_string(),
        ground.stage.node.config().display().to_string(),
    );
    let query = ground.stage.collector.query_address();
    let operators = ground.stage.collector.state().join("operators");
    let operators = operators.display().to_string();
    let mut words = vec!["certificate", "--victim", &victim, "--thief", &thief];
    words.extend(["--query", &query, "--operators", &operators]);
    ground.attacker(outcome, words.iter().copied())?;

    // Once the theft is noticed: revoked, and the node enrols again by itself.
    let kept = ground.scene.path("node").join("enrolment");
    let older = ground.scene.path("stolen-enrolment");
    fs::copy(&kept, &older).context("copy the certificate")?;
    cmd::output(
        ground
            .stage
            .collector
            .client()
            .args(["node", "revoke", NODE]),
    )?;
    let before = fs::read(&older).context("read the certificate")?;
    ground
        .stage
        .wait(&ground.scene, "the node to enrol again", |_| {
            let now = fs::read(&kept).context("read the certificate")?;
            anyhow::ensure!(now != before, "the certificate is the old one");
            Ok(())
        })?;
    ground.stage.wait_for_statement(&ground.scene)?;
    let older = older.display().to_string();
    words.extend(["--older", &older]);
    ground.attacker(outcome, words)?;
    outcome.saw("after `node revoke` the node enrolled again by itself and went on attesting");
    Ok(())
}

pub(super) fn software_key(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let confirmed = ground.stored_statement("stored-statement")?;
    let unconfirmed = ground.unconfirmed.clone();
    invent(
        ground,
        outcome,
        "a software key in place of the AK that approvers confirmed",
        &confirmed,
        "ak-refused",
    )?;
    invent(
        ground,
        outcome,
        "a software key where approvers confirmed none",
        &unconfirmed,
        "ak-collectors-word",
    )
}

/// A forgery in which all but the AK's home fits together, in an auditor's hands.
fn invent(
    ground: &Ground,
    outcome: &mut Outcome,
    tried: &str,
    stored: &Path,
    expected: &str,
) -> Result<()> {
    let whose = |report: &Value| report["ak"].as_str().unwrap_or_default().to_owned();
    let honest = ground.verify(stored)?;
    let forged = ground.scene.path("invented-statement");
    let mut attacker = cmd::command(paths::binary(false, "attacker"));
    attacker
        .args(["invent", "--threshold", &THRESHOLD.to_string(), "--stored"])
        .arg(stored)
        .arg("--collector")
        .arg(ground.stage.collector.state())
        .arg("--approvers")
        .arg(ground.stage.approvers.allowed_signers())
        .arg("--out")
        .arg(&forged);
    cmd::output(&mut attacker)?;
    let report = ground.verify(&forged)?;
    let ak = whose(&report);
    let refused: Vec<String> = report["checks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|check| check["outcome"] == "refused")
        .map(|check| format!("{}-refused", check["name"].as_str().unwrap_or_default()))
        .collect();
    let code = match (refused.first(), ak.as_str()) {
        (Some(code), _) => Some(code.as_str()),
        // Where approvers named no AK, verification says whose word it is, and can say no more.
        (None, "collector's word") if whose(&honest) == "collector's word" => {
            Some("ak-collectors-word")
        }
        (None, _) => None,
    };
    let said = format!(
        "verified {}, refused {refused:?}, `ak: {ak}`; the honest one says `ak: {}`",
        report["verified"],
        whose(&honest)
    );
    outcome.tried(tried, expected, code, &said);
    outcome.saw(format!("{tried}: {said}"));
    Ok(())
}

/// The TPM is the one listed, and the machine around it another.
pub(super) fn other_chassis(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    const LISTED: &str = "CHASSIS-1";
    let sys = ground.scene.path("sys");
    let dmi = sys.join("class/dmi/id");
    fs::create_dir_all(&dmi).context("make a sysfs")?;
    let config = ground.stage.node.config();
    let text = fs::read_to_string(config).context("read agent.toml")?;
    fs::write(config, format!("{text}\n[host]\nsys = {sys:?}\n")).context("write agent.toml")?;
    let newest = ground.stage.approvers.newest().context("a policy")?;
    let inventory = fs::read_to_string(newest.join("inventory.toml")).context("read inventory")?;
    let place = "jurisdiction = \"DE\"\n";
    let named = format!("{place}chassis_serial = \"{LISTED}\"\n");
    let instead = [(
        "inventory.toml".to_owned(),
        inventory.replacen(place, &named, 1),
    )];
    let listed = ground.listed.clone();
    let reason = "the chassis is named";
    ground
        .stage
        .apply_with(&ground.scene, Some(&listed), reason, &instead, |_| {})?;
    for (tried, serial, expected) in [
        ("the listed chassis", Some(LISTED), None),
        ("another chassis", Some("CHASSIS-2"), Some("chassis-serial")),
        (
            "a chassis that says nothing",
            None,
            Some("chassis-unavailable"),
        ),
    ] {
        ground.stage.node.kill_agent()?;
        let file = dmi.join("chassis_serial");
        match serial {
            Some(serial) => fs::write(&file, serial).context("write a serial number")?,
            None => fs::remove_file(&file).context("remove a serial number")?,
        }
        ground.stage.node.start_agent(&ground.scene)?;
        ground.stage.wait_for_statement(&ground.scene)?;
        ground
            .stage
            .wait_for_verdict(&ground.scene, expected.is_none())?;
        let Some(expected) = expected else {
            outcome.saw(format!("{tried}: affirmed, the neighbour that is let in"));
            continue;
        };
        ground.judged(outcome, tried, expected)?;
    }
    ground.stage.wait_for_standing(&ground.scene, false)?;
    ground.outside(outcome, "afterwards", Standing::Unattested)
}

/// Approvers took it out of service, and the lease it has would last for half an hour.
pub(super) fn retired(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let listed = ground.listed.clone();
    ground
        .stage
        .apply_with(&ground.scene, Some(&listed), "long leases", &[], |terms| {
            terms.lease_seconds = 1800;
        })?;
    ground.stage.wait_for_policy(&ground.scene)?;
    ground.stage.wait_for_statement(&ground.scene)?;
    ground.stage.wait_for_verdict(&ground.scene, true)?;
    ground.stage.wait_for_standing(&ground.scene, true)?;
    let retired = format!(
        "[[retired]]\nname = \"{NODE}\"\nek = \"{}\"\nat = \"2026-01-01T00:00:00Z\"\n\
         reason = \"sold\"\n",
        listed.ek
    );
    let instead = [("inventory.toml".to_owned(), retired)];
    let agent = ground.log_from_now("agent");
    let reason = "the node is sold";
    ground
        .stage
        .apply_with(&ground.scene, Some(&listed), reason, &instead, |_| {})?;
    let tried = "a retired node goes on under the lease it has";
    match ground.wait_for_the_end(Duration::from_secs(30)) {
        Ok(taken) => outcome.tried(
            tried,
            "node-retired",
            Some("node-retired"),
            &format!(
                "closed {:.1} s after approvers said so",
                taken.as_secs_f64()
            ),
        ),
        Err(error) => outcome.tried(tried, "node-retired", None, &format!("{error:#}")),
    }
    ground.outside(outcome, "once it is retired", Standing::Unattested)?;
    let line = ground
        .scene
        .wait("the node to come back", Duration::from_secs(120), || {
            agent.line("node-retired")
        })?;
    let tried = "it comes back with its certificate, and for another";
    outcome.tried(tried, "node-retired", Some("node-retired"), &line);
    ground.outside(outcome, "afterwards", Standing::Unattested)
}
