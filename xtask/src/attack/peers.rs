//! A way out that nobody hosts.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::ground::Ground;
use super::outcome::Outcome;
use crate::cmd;
use crate::demo::flows::Standing;
use crate::demo::policy::NODE;
use crate::demo::tpm::Factory;
use crate::paths;

/// The study's own network, and the node's part of it.
const NETWORK: &str = "\"10.9.1.0/24\", \"fd09:1::/64\"";
const HOSTED: &str = "\"10.9.1.1/32\", \"fd09:1::1/128\"";
const ADDRESSES: &str = "\"10.9.1.1\", \"fd09:1::1\"";

/// Whoever carries entries makes one.
pub(super) fn made_up_peer(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    attested_peers(ground)?;
    ground.outside(outcome, "with the node's own entry", Standing::Attested)?;
    // The agent would tell the fence what it knows, in between.
    ground.stage.node.kill_agent()?;
    let (_tpm, thief) = ground.another_machine(&Factory::default())?;
    let honest = live(ground, &thief, ("own-tpm", NODE, "cardio", "10.9.1.1"))?;
    outcome.saw(format!(
        "{honest} address counts that the node itself hosts and signs"
    ));
    for (tried, entry, expected) in [
        (
            "signed by a key of the collector's",
            ("software", NODE, "cardio", "10.9.1.1"),
            "peer-other-ak",
        ),
        (
            "signed by a genuine TPM that is not this node's",
            ("other-tpm", NODE, "cardio", "10.9.1.1"),
            "peer-other-ak",
        ),
        (
            "for a node that nobody listed",
            ("other-tpm", "gpu-77", "cardio", "10.9.1.7"),
            "peer-node-not-listed",
        ),
        (
            "by the node's own root, for a host abroad",
            ("own-tpm", NODE, "cardio", "203.0.113.10"),
            "peer-out-of-range",
        ),
        (
            "by the node's own root, for its neighbour's address",
            ("own-tpm", NODE, "cardio", "10.9.1.2"),
            "peer-out-of-range",
        ),
        (
            "by the node's own root, for another study",
            ("own-tpm", NODE, "onco", "10.9.1.1"),
            "peer-not-of-study",
        ),
        (
            "by the node's own root, for no study",
            ("own-tpm", NODE, "stray", "10.9.1.1"),
            "peer-study-unknown",
        ),
    ] {
        let fence = ground.log_from_now("fence");
        let count = live(ground, &thief, entry)?;
        let line = fence.line("peer entries refused").unwrap_or_default();
        let code = line
            .split_once("code=\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(code, _)| code)
            .filter(|_| count == 0);
        outcome.tried(tried, expected, code, &format!("{count} count; {line}"));
    }
    // Told the forgeries alone, the fence lost the honest entry too: less, not more.
    ground
        .at_most(outcome, "afterwards", Standing::Attested)
        .map(drop)
}

/// Approvers let `cardio` speak to entries of its own network, and the node hosts its part of it.
fn attested_peers(ground: &mut Ground) -> Result<()> {
    let newest = ground.stage.approvers.newest().context("a policy")?;
    let read = |path: &str| fs::read_to_string(newest.join(path)).with_context(|| path.to_owned());
    let study = read("studies/cardio.toml")?;
    let peers = "[peers]\naddresses = ";
    let (before, rest) = study.split_once(peers).context("the study's peers")?;
    let (_, after) = rest.split_once('\n').context("the study's peers")?;
    let study = format!("{before}{peers}[{NETWORK}]\nattested = true\n{after}");
    let place = "jurisdiction = \"DE\"\n";
    let hosted = format!("{place}addresses = [{HOSTED}]\n");
    let inventory = read("inventory.toml")?.replacen(place, &hosted, 1);
    let instead = [
        ("studies/cardio.toml".to_owned(), study),
        ("inventory.toml".to_owned(), inventory),
    ];
    let listed = ground.listed.clone();
    ground.stage.node.kill_agent()?;
    let config = ground.stage.node.config();
    let text = fs::read_to_string(config).context("read agent.toml")?;
    fs::write(
        config,
        format!("{text}\n[peers]\naddresses = [{ADDRESSES}]\n"),
    )
    .context("write agent.toml")?;
    ground.stage.node.start_agent(&ground.scene)?;
    let reason = "peers are attested";
    ground
        .stage
        .apply_with(&ground.scene, Some(&listed), reason, &instead, |_| {})?;
    ground.stage.wait_for_policy(&ground.scene)?;
    // The agent looks at its addresses every few seconds.
    let scene = &ground.scene;
    let stage = &mut ground.stage;
    stage.wait(scene, "the study's own entry", |stage| {
        let matrix = stage.measure(scene, Standing::Attested)?;
        anyhow::ensure!(matrix.as_expected(), "{}", matrix.table());
        Ok(())
    })
}

/// Tells the fence this entry alone; answers how many addresses count then.
fn live(
    ground: &Ground,
    thief: &std::path::Path,
    (by, node, study, address): (&str, &str, &str, &str),
) -> Result<u64> {
    let mut attacker = Command::new(paths::binary(false, "attacker"));
    attacker
        .args(["peer", "--by", by, "--node", node, "--study", study])
        .args(["--address", address, "--config"])
        .arg(ground.stage.node.config())
        .arg("--thief")
        .arg(thief);
    let said = cmd::output(&mut attacker)?;
    let said: Value = serde_json::from_str(&said).context("read the attacker's answer")?;
    said["peers_live"].as_u64().context("how many count")
}
