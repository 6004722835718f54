//! One bad profile, a hundred nodes: what would cut off a fleet, and what may not be in its way.
//!
//! The nodes are programs with keys of their own, which speak the real protocol over real TLS to
//! the real collector. What they are told is counted where they are told it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::ground::{Ground, refusal};
use super::outcome::Outcome;
use crate::cmd;
use crate::demo::daemon::tied;
use crate::demo::flows::Standing;
use crate::paths;

/// The one that looks on, and stays well.
const WITNESS: (usize, usize) = (0, 1);
/// Those that fail for one cause.
const HUNDRED: (usize, usize) = (1, 101);
/// Those that fail for another meanwhile.
const OTHERS: (usize, usize) = (101, 104);
/// All of them.
const NODES: usize = 104;
/// Whose addresses they host.
const STUDY: &str = "fleet";
/// What the hundred fail for, as operators see it.
const CAUSE: &str = "tpm.pcr.sha256.4 pcr-value";
/// Longer than the attack: what ends, ends early.
const LEASE_SECONDS: u32 = 1800;
/// The policy's share where its profile names none: percent of the nodes that had standing.
const SHARE_PERCENT: usize = 5;

/// The program that is a hundred nodes; killed when dropped.
struct Fleet {
    child: Child,
    steps: ChildStdin,
    answers: BufReader<ChildStdout>,
    inventory: String,
}

impl Fleet {
    fn start(ground: &Ground) -> Result<Self> {
        let log = File::create(ground.scene.path("fleet.log")).context("open a log")?;
        let mut program = tied(paths::binary(false, "attacker"));
        program
            .args(["fleet", "--study", STUDY, "--nodes", &NODES.to_string()])
            .arg("--config")
            .arg(ground.stage.node.config());
        for (index, value) in &ground.stage.pcrs {
            program.arg("--pcr").arg(format!("{index}={value}"));
        }
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("start a fleet")?;
        let (steps, answers) = (child.stdin.take(), child.stdout.take());
        let mut fleet = Self {
            child,
            steps: steps.context("its stdin is piped")?,
            answers: BufReader::new(answers.context("its stdout is piped")?),
            inventory: String::new(),
        };
        let first = fleet.answer(ground)?;
        let inventory = first["inventory"].as_str().context("an inventory")?;
        fleet.inventory = inventory.to_owned();
        Ok(fleet)
    }

    fn answer(&mut self, ground: &Ground) -> Result<Value> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .context("listen to the fleet")?;
        if line.is_empty() {
            let said = fs::read_to_string(ground.scene.path("fleet.log"));
            bail!("the fleet ended: {}", said.unwrap_or_default().trim());
        }
        serde_json::from_str(&line).with_context(|| format!("read {line:?}"))
    }

    fn ask(&mut self, ground: &Ground, step: &str) -> Result<Value> {
        writeln!(self.steps, "{step}").context("tell the fleet")?;
        self.answer(ground)
    }

    /// Has some of them attest once each: well, or with something wrong.
    fn attest(&mut self, ground: &Ground, (from, to): (usize, usize), how: &str) -> Result<Told> {
        let folder = ground.stage.approvers.newest().context("a policy")?;
        let step = format!("{how} {} {from} {to}", folder.display());
        let said = self.ask(ground, &step)?;
        let count = |key: &str| said[key].as_u64().with_context(|| format!("{key}: {said}"));
        let told = Told {
            asked: count("asked")?,
            affirmed: said["verdicts"]["affirming"].as_u64().unwrap_or(0),
            refused: said["verdicts"]["contraindicated"].as_u64().unwrap_or(0),
            granted: count("granted")?,
            ended: count("ended")?,
            outward: count("outward")?,
        };
        let want = match how {
            "attest" => told.affirmed,
            _ => told.refused,
        };
        ensure!(
            want == told.asked,
            "{how}: not all were judged alike: {said}"
        );
        Ok(told)
    }

    /// Waits until the witness is told of so many peers.
    fn peers(&mut self, ground: &Ground, want: usize) -> Result<()> {
        let want = wide(want);
        ground
            .scene
            .wait("the witness's peers", Duration::from_secs(60), || {
                let said = self.ask(ground, "peers")?;
                ensure!(said["peers"] == want, "{said} of {want}");
                Ok(())
            })
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What nodes were told for one statement each.
#[derive(Clone, Copy, Debug)]
struct Told {
    asked: u64,
    affirmed: u64,
    refused: u64,
    granted: u64,
    ended: u64,
    outward: u64,
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

pub(super) fn one_cause(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let mut fleet = listed(ground)?;
    let told = fleet.attest(ground, (0, NODES), "attest")?;
    ensure!(
        told.granted == wide(NODES),
        "not all have standing: {told:?}"
    );
    fleet.peers(ground, NODES - 1)?;
    outcome.saw(format!(
        "{NODES} simulated nodes beside the real one, enrolled and affirmed, each told of the others"
    ));

    // The bad profile, the bad update: it is the same here.
    let heard = ground.stage.pager.count();
    let told = fleet.attest(ground, HUNDRED, "register")?;
    // The real node has standing, too.
    let share = wide((NODES + 1) * SHARE_PERCENT / 100);
    let hundred = wide(HUNDRED.1 - HUNDRED.0);
    ensure!(told.ended > 0, "nobody's lease was ended: {told:?}");
    outcome.counted(
        "leases ended early for one cause, beyond the policy's share",
        "brake-held",
        hundred,
        told.ended.saturating_sub(share),
    );
    outcome.saw(format!(
        "{} ended before the share of {SHARE_PERCENT} % was passed, and no more",
        told.ended
    ));
    for (tried, got) in [
        ("new standing for a refused statement", told.granted),
        ("a new outward certificate for it", told.outward),
    ] {
        outcome.counted(tried, "pcr-value", hundred, got);
    }
    let shown = held(ground)?;
    let names = shown["nodes"].as_u64().unwrap_or(0);
    ensure!(names == hundred, "the brake counts {names}: {shown}");
    outcome.saw(format!("`brake show`: {CAUSE}, held, {names} nodes"));
    // Those that were dropped before anybody could know are back.
    let missing = u64::from(fleet.peers(ground, NODES - 1).is_err());
    outcome.counted(
        "addresses dropped before peers",
        "brake-held",
        hundred,
        missing,
    );
    still_judged(ground, outcome, heard)?;

    let told = fleet.attest(ground, OTHERS, "fence")?;
    let others = wide(OTHERS.1 - OTHERS.0);
    let kept = others.saturating_sub(told.ended) + told.granted;
    let tried = "standing kept by nodes that fail for another cause meanwhile";
    outcome.counted(tried, "lease-ended", others, kept);
    let left = NODES - 1 - (OTHERS.1 - OTHERS.0);
    fleet.peers(ground, left)?;
    let told = fleet.attest(ground, WITNESS, "attest")?;
    ensure!(told.granted == 1, "an honest node got no lease: {told:?}");
    outcome.saw("their peers drop them, and an honest node's lease is renewed as ever");

    hold_on(ground, outcome, &mut fleet)?;

    let person = "a register that a firmware update changed";
    cmd::output(
        ground
            .stage
            .collector
            .client()
            .args(["brake", "confirm", CAUSE, "--reason", person]),
    )?;
    let told = fleet.attest(ground, HUNDRED, "register")?;
    let kept = hundred.saturating_sub(told.ended) + told.granted;
    let tried = "standing kept once a person has let go of the cause";
    outcome.counted(tried, "lease-ended", hundred, kept);
    fleet.peers(ground, 0)?;
    let acts = ground
        .stage
        .collector
        .ask(&["enroll", "acts", "--kind", "brake"])?;
    let acts = acts.as_array().map_or(0, Vec::len);
    ensure!(acts == 1, "{acts} acts of letting go in the log");
    outcome.saw("who let go and why stands in the log; peers drop all of the hundred");
    ground.outside(outcome, "the real node afterwards", Standing::Attested)
}

/// Approvers list the fleet, and a study whose addresses it hosts.
fn listed(ground: &mut Ground) -> Result<Fleet> {
    let fleet = Fleet::start(ground)?;
    let newest = ground.stage.approvers.newest().context("a policy")?;
    let inventory = fs::read_to_string(newest.join("inventory.toml")).context("read inventory")?;
    let study = format!(
        "name = \"{STUDY}\"\nmode = \"enforce\"\n[select]\ncgroups = [\"{}/{STUDY}\"]\n\
         [allow]\n[peers]\naddresses = [\"10.20.0.0/16\"]\nattested = true\n",
        ground.scene.fence_root()
    );
    let instead = [
        (
            "inventory.toml".to_owned(),
            format!("{inventory}\n{}", fleet.inventory),
        ),
        (format!("studies/{STUDY}.toml"), study),
    ];
    let node = ground.listed.clone();
    ground
        .stage
        .apply_with(&ground.scene, Some(&node), "a fleet", &instead, |terms| {
            terms.lease_seconds = LEASE_SECONDS;
            terms.max_silence_seconds = LEASE_SECONDS;
        })?;
    ground.stage.wait_for_policy(&ground.scene)?;
    Ok(fleet)
}

/// The cause, as an operator sees it.
fn held(ground: &Ground) -> Result<Value> {
    let causes = ground.stage.collector.ask(&["brake", "show"])?;
    let mut causes = causes.as_array().into_iter().flatten();
    let cause = causes.find(|cause| cause["cause"] == CAUSE);
    let cause = cause.context("the brake does not know the cause")?;
    ensure!(cause["phase"] == "held", "{cause}");
    Ok(cause.clone())
}

/// What is held back is what the network does, and nothing else.
fn still_judged(ground: &mut Ground, outcome: &mut Outcome, heard: usize) -> Result<()> {
    let collector = &ground.stage.collector;
    let all = collector.ask(&["nodes"])?;
    let all = all.as_array().context("a list of nodes")?;
    let refused = all.iter().filter(|node| {
        let name = node["node"].as_str().or_else(|| node["name"].as_str());
        node["verdict"] == "contraindicated" && name.is_some_and(|name| name.starts_with("sim-"))
    });
    let refused = refused.count();
    ensure!(
        refused == HUNDRED.1 - HUNDRED.0,
        "{refused} nodes are shown as refused"
    );
    let one = collector.ask(&["node", "show", "sim-050"])?;
    let counts = (one["statements"].as_u64(), one["receipts"].as_u64());
    ensure!(counts == (Some(2), Some(2)), "one of them: {counts:?}");
    ground
        .scene
        .wait("a person to be told", Duration::from_secs(60), || {
            ground.stage.pager.heard("firing", "BailiwickBrake", heard)
        })?;
    outcome.saw(
        "all hundred are shown as refused, each statement is on record with its receipt, and \
         Alertmanager woke a person",
    );
    Ok(())
}

/// Nothing but a person lets go of it.
fn hold_on(ground: &mut Ground, outcome: &mut Outcome, fleet: &mut Fleet) -> Result<()> {
    let hundred = wide(HUNDRED.1 - HUNDRED.0);
    let told = fleet.attest(ground, HUNDRED, "register")?;
    outcome.counted("the hundred ask again", "pcr-value", hundred, told.granted);
    outcome.counted(
        "leases ended at the second try",
        "brake-held",
        hundred,
        told.ended,
    );
    let mut other = ground.stage.collector.client();
    other.args(["brake", "confirm", "fence.mode fence-mode", "--reason", "?"]);
    let tried = "a person lets go of a cause that is not held";
    match refusal(&mut other)? {
        Some((code, said)) => outcome.tried(tried, "brake-not-held", Some(&code), &said),
        None => outcome.tried(tried, "brake-not-held", None, "it was taken"),
    }
    ground.stage.collector.kill()?;
    fleet.ask(ground, "hang-up")?;
    ground.stage.collector.start(&ground.scene)?;
    let told = fleet.attest(ground, HUNDRED, "register")?;
    outcome.counted(
        "leases ended after a restart of the collector",
        "brake-held",
        hundred,
        told.ended,
    );
    outcome.counted("standing after it", "pcr-value", hundred, told.granted);
    held(ground)?;
    // The witness is back on a stream of its own, and told of the hundred.
    fleet.attest(ground, WITNESS, "attest")?;
    fleet.peers(ground, HUNDRED.1 - HUNDRED.0)
}
