//! A collector that means no good, in the place of the node's own.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::ground::{Ground, Log};
use super::outcome::Outcome;
use crate::demo::daemon::{Daemon, tied};
use crate::demo::flows::Standing;
use crate::paths;

/// For everything it tries, one piece of evidence at a time.
const PATIENCE: Duration = Duration::from_secs(240);
/// What a node may grow by while it is flooded.
const GROWTH_KIB: u64 = 96 * 1024;
/// Steps that nothing is said of: the node goes on, and that is measured.
const SILENT: &str = "-";

/// With every key of the real collector it breaks one rule after the other.
pub(super) fn collector(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let stolen = ground.stage.collector.state().to_owned();
    at_the_door(ground, outcome, &stolen, "--stranger", "ca-not-listed")?;

    let statements = ground.stage.count("statements")?;
    let resident = resident(ground)?;
    let logs = ["agent", "fence"].map(|name| ground.log_from_now(name));
    let mut hostile = start(ground, &stolen, None)?;
    let said = ground.log("hostile");
    let done = ground.scene.wait("the hostile collector", PATIENCE, || {
        hostile.alive()?;
        said.line("\"done\"")
    });
    done.with_context(|| hostile.last_words())?;
    let grown = self::resident(ground)?.saturating_sub(resident);
    told(&said, &logs, outcome)?;
    ensure!(grown < GROWTH_KIB, "the node grew by {grown} KiB");
    outcome.saw(format!("the node grew by {grown} KiB meanwhile"));
    // No lease came of it: the one there was has run out, and the fence stands as ever.
    ground.wait_for_the_end(Duration::from_secs(90))?;
    ground.outside(outcome, "under it, without a lease", Standing::Unattested)?;
    hostile.kill()?;

    ground.stage.collector.start(&ground.scene)?;
    ground.stage.wait_for_statement(&ground.scene)?;
    ground.stage.wait_for_verdict(&ground.scene, true)?;
    ground.stage.wait_for_standing(&ground.scene, true)?;
    let after = ground.stage.count("statements")?;
    outcome.saw(format!(
        "back at the true collector: {} statements more, those made meanwhile among them",
        after - statements
    ));
    ground.outside(outcome, "afterwards", Standing::Attested)
}

/// It gets no further than its certificate.
pub(super) fn at_the_door(
    ground: &mut Ground,
    outcome: &mut Outcome,
    stolen: &Path,
    shows: &str,
    code: &str,
) -> Result<()> {
    let agent = ground.log_from_now("agent");
    let mut hostile = start(ground, stolen, Some(shows))?;
    let line = ground
        .scene
        .wait("the agent to look at it", Duration::from_secs(120), || {
            hostile.alive()?;
            agent.line(code)
        });
    let spoke = agent.count("stream open");
    hostile.kill()?;
    let line = line?;
    let tried = format!("a collector that shows a certificate of a CA that is {code}");
    let refused = (spoke == 0).then_some(code);
    outcome.tried(&tried, code, refused, &line);
    ground.stage.collector.start(&ground.scene)?;
    ground.stage.wait_for_statement(&ground.scene)?;
    ground.stage.wait_for_standing(&ground.scene, true)
}

/// In the true one's place, which is down from now on.
fn start(ground: &mut Ground, stolen: &Path, shows: Option<&str>) -> Result<Daemon> {
    let stored = ground.stored_statement("before-the-hostile-collector")?;
    ground.stage.collector.kill()?;
    let mut attacker = tied(paths::binary(false, "attacker"));
    attacker
        .args(["hostile", "--config"])
        .arg(ground.stage.node.config())
        .arg("--stolen")
        .arg(stolen)
        .arg("--stored")
        .arg(stored)
        .arg("--ak")
        .arg(ground.listed.ak.as_deref().context("the node's AK")?)
        .args(shows);
    Daemon::start(&ground.scene, "hostile", &mut attacker)
}

/// Every step it says it took, held against what agent and fence say of it.
fn told(said: &Log, logs: &[Log], outcome: &mut Outcome) -> Result<()> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut steps = 0;
    for line in said.lines() {
        let Ok(step) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let word = |key: &str| step[key].as_str().map(str::to_owned);
        let (Some(tried), Some(expected)) = (word("tried"), word("expected")) else {
            continue;
        };
        if tried == "done" || expected.starts_with("ca-") {
            continue;
        }
        steps += 1;
        if expected == SILENT {
            outcome.tried(&tried, "goes-on", Some("goes-on"), "");
            continue;
        }
        let number = seen.entry(expected.clone()).or_default();
        *number += 1;
        let times: usize = logs.iter().map(|log| log.count(&expected)).sum();
        let last = logs.iter().find_map(|log| log.last(&expected));
        let code = (times >= *number).then_some(expected.as_str());
        outcome.tried(&tried, &expected, code, &last.unwrap_or_default());
    }
    ensure!(
        steps >= 20,
        "the hostile collector tried {steps} things only"
    );
    Ok(())
}

/// KiB of both processes of the node.
fn resident(ground: &Ground) -> Result<u64> {
    let mut sum = 0;
    for pid in ground.stage.node.pids() {
        // `setpriv` and `unshare` become the program itself.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        let status = status.context("read a process's status")?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let words = line.and_then(|line| line.split_whitespace().nth(1));
        sum += words.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}
