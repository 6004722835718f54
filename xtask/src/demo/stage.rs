//! Everything that runs in a demo, and how to wait for it and ask it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::fleet::{Collector, Node};
use super::flows::{self, Matrix, Standing};
use super::pager::Pager;
use super::policy::{Approvers, DEPLOYMENT, Listed, NODE, Terms};
use super::report::Report;
use super::scene::Scene;
use super::stream::{Met, Stream};
use super::tpm::SoftTpm;
use super::upgrade;
use super::world::{WORLD_CSV, Workloads, World};
use crate::cmd::{self, step};

/// The alert of a node whose verdict turned.
pub const NOT_TRUSTED: &str = "BailiwickNodeNotTrusted";
/// The alert of a node that says nothing.
pub const STALE: &str = "BailiwickNodeStale";
/// The alert of a fence that is not whole.
pub const FENCE_BROKEN: &str = "BailiwickFenceBroken";
/// The verdict that grants standing.
pub(super) const AFFIRMING: &str = "affirming";
/// Long enough to see standing last, short enough to see it run out.
pub const LEASE_SECONDS: u32 = 30;
/// A node silent for longer is stale.
const MAX_SILENCE_SECONDS: u32 = 12;
/// Ample: statements come every other second, and a busy machine takes its time.
const SOON: Duration = Duration::from_secs(120);

/// Datagrams flow for this long before something is done to the fence, and after.
const FLOWING: Duration = Duration::from_secs(1);

/// What came of another build taking over.
#[derive(Debug)]
pub struct Upgraded {
    pub met: Met,
    /// Links that ran the one build's programs and now run the other's, as the fence told.
    pub links: usize,
    /// What the fence's PCR says the programs come from.
    pub before: String,
    pub after: String,
}

/// Everything that runs. Fields are dropped in order: the node before what it talks to.
#[derive(Debug)]
pub struct Stage {
    pub workloads: Workloads,
    pub node: Node,
    pub collector: Collector,
    pub pager: Pager,
    pub world: World,
    pub tpm: SoftTpm,
    pub approvers: Approvers,
    /// What a clean boot leaves in the registers.
    pub pcrs: Vec<(u8, String)>,
}

impl Stage {
    /// Everything but fence and agent is running when this returns.
    pub fn set_up(scene: &mut Scene, release: bool, interval_seconds: u32) -> Result<Self> {
        let mut tpm = SoftTpm::manufacture(scene)?;
        tpm.boot(scene, false)?;
        let approvers = Approvers::appoint(scene, release)?;
        let pager = Pager::start(scene)?;
        let mut collector = Collector::configure(scene, &approvers, &pager, release)?;
        collector.start(scene)?;
        let world = World::build(scene)?;
        Ok(Self {
            workloads: world.start_workloads(scene)?,
            node: Node::configure(scene, &approvers, &collector, &tpm, interval_seconds)?,
            pcrs: tpm.values()?,
            collector,
            pager,
            world,
            tpm,
            approvers,
        })
    }

    /// Starts the node and has it listed; returns once its lease opens the fence.
    pub fn attest(&mut self, scene: &Scene) -> Result<()> {
        self.node.start_fence(scene)?;
        self.apply(scene, None, "first policy, nobody listed")?;
        self.node.start_agent(scene)?;
        let listed = self.wait_for_pending(scene)?;
        self.apply(scene, Some(&listed), "gpu-01 is listed")?;
        self.wait_for_verdict(scene, true)?;
        self.wait_for_standing(scene, true)
    }

    /// Has an approver's own client challenge EK and AK of the pending node, and sign its entry;
    /// returns the inventory that holds it.
    pub fn approve(&mut self, scene: &Scene) -> Result<String> {
        let folder = scene.path("approval");
        fs::create_dir_all(&folder).context("make a folder")?;
        let inventory = folder.join("inventory.toml");
        fs::write(&inventory, "").context("begin an inventory")?;
        let (roots, between) = SoftTpm::maker(scene)?;
        let mut approve = self.collector.client();
        approve
            .args([
                "enroll",
                "approve",
                NODE,
                "--deployment",
                DEPLOYMENT,
                "--policy",
            ])
            .arg(&folder)
            .arg("--key")
            .arg(self.approvers.key("alice"))
            .args(["--by", "alice", "--yes", "--jurisdiction", "DE"])
            .args(["--place", "demo / row 1 / rack 1"]);
        for (option, files) in [("--roots", roots), ("--intermediates", between)] {
            for file in files {
                approve.arg(option).arg(file);
            }
        }
        let saw = cmd::output(&mut approve)?;
        for line in saw.lines().filter(|line| !line.trim().is_empty()) {
            step(format_args!("   {line}"));
        }
        fs::read_to_string(&inventory).context("read the signed inventory")
    }

    /// Whose word it is that the AK lives in the node's TPM.
    pub fn ak_word(&self) -> Result<String> {
        let shown = self.node()?;
        let word = shown["ak"].as_str();
        Ok(word.context("whose word the AK is")?.to_owned())
    }

    /// Signs the next version of the policy and gives it to the collector.
    pub fn apply(&mut self, scene: &Scene, listed: Option<&Listed>, reason: &str) -> Result<()> {
        self.apply_with(scene, listed, reason, &[], |_| {})
    }

    /// The same, where something is to be otherwise than always.
    pub fn apply_with(
        &mut self,
        scene: &Scene,
        listed: Option<&Listed>,
        reason: &str,
        instead: &[(String, String)],
        edit: impl FnOnce(&mut Terms<'_>),
    ) -> Result<()> {
        let mut terms = Terms {
            collector_toml: &self.collector.for_policy,
            pcrs: &self.pcrs,
            listed,
            lease_seconds: LEASE_SECONDS,
            max_silence_seconds: MAX_SILENCE_SECONDS,
            world: ("world.csv", WORLD_CSV),
            reason,
            instead,
        };
        edit(&mut terms);
        let bundle = self.approvers.sign(scene, terms)?;
        self.collector.apply(&bundle)
    }

    /// A datagram to Germany, which takes a lease.
    pub const ABROAD: &str = "udp 10.9.1.1 192.0.2.10:7000";
    /// A datagram to the time service, which takes a policy and no lease.
    pub const TIME: &str = "udp 10.9.1.1 10.9.0.1:123";

    /// Whether the kernel takes each of these datagrams from the first study's process.
    pub fn first_sender(&mut self, tries: &[&str]) -> Result<Vec<bool>> {
        let sender = self
            .workloads
            .senders
            .first_mut()
            .context("every group has a sender")?;
        sender.ask(
            &tries
                .iter()
                .map(|one| (*one).to_owned())
                .collect::<Vec<_>>(),
        )?;
        Ok(sender.answer()?.iter().map(|said| said == "sent").collect())
    }

    /// Waits for a value while everything that should run does.
    pub fn wait<T>(
        &mut self,
        scene: &Scene,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut died = None;
        let found = scene.wait(what, SOON, || {
            match self
                .collector
                .alive()
                .and_then(|()| self.node.alive())
                .and_then(|()| self.pager.alive())
            {
                Ok(()) => look(self).map(Some),
                Err(error) => {
                    died = Some(error);
                    Ok(None)
                }
            }
        })?;
        found.ok_or_else(|| died.unwrap_or_else(|| anyhow::anyhow!("a program ended")))
    }

    pub fn measure(&mut self, scene: &Scene, standing: Standing) -> Result<Matrix> {
        flows::measure(scene, &self.world, &mut self.workloads, standing)
    }

    /// Waits for a verdict that affirms, or for one that does not.
    pub fn wait_for_verdict(&mut self, scene: &Scene, affirming: bool) -> Result<String> {
        let what = if affirming {
            "an affirming verdict"
        } else {
            "the verdict to turn"
        };
        self.wait(scene, what, |stage| match stage.verdict()? {
            verdict if (verdict == AFFIRMING) == affirming => Ok(verdict),
            verdict => bail!("the verdict is {verdict}:\n{}", stage.why()?.join("\n")),
        })
    }

    /// Waits until the kernel lets `cardio` out, or no longer does.
    pub fn wait_for_standing(&mut self, scene: &Scene, open: bool) -> Result<()> {
        let what = if open {
            "the lease to open the fence"
        } else {
            "the lease to end"
        };
        self.wait(scene, what, |stage| {
            if flows::probe(&stage.world, &mut stage.workloads)? == Some(open) {
                return Ok(());
            }
            bail!(
                "datagrams {}",
                if open {
                    "do not arrive"
                } else {
                    "still arrive"
                }
            )
        })
    }

    /// Power cut, TPM reset, and everything started again. Keys and policy are on disk.
    pub fn reboot(&mut self, scene: &Scene, tampered: bool) -> Result<()> {
        self.node.cut_power()?;
        scene.kill_workloads()?;
        scene.drop_pins()?;
        self.tpm.boot(scene, tampered)?;
        self.node.draw_boot_id()?;
        self.node.start_fence(scene)?;
        self.workloads = self.world.start_workloads(scene)?;
        self.node.start_agent(scene)
    }

    /// Kills the process that holds the fence while datagrams flow; says what they met with.
    pub fn while_killed(&mut self, scene: &Scene) -> Result<Met> {
        let stream = Stream::begin(scene, &self.world)?;
        thread::sleep(FLOWING);
        self.node.kill_fence()?;
        thread::sleep(FLOWING);
        stream.end(&self.world)
    }

    /// Another build of the agent takes the place of this one while datagrams flow.
    pub fn upgrade(&mut self, scene: &Scene) -> Result<Upgraded> {
        let before = self.programs()?;
        let other = scene.path("bailiwick-agent-other");
        upgrade::another_build(self.node.build(), &other)?;
        let updated = || -> Result<usize> {
            let log =
                fs::read_to_string(scene.path("fence.log")).context("read the fence's log")?;
            Ok(log.lines().filter(|line| line.contains("updated")).count())
        };
        let earlier = updated()?;
        // Nobody attests meanwhile: that a fence is away is a reason to end its lease early, and
        // then what may pass would be another thing.
        self.node.kill_agent()?;
        let stream = Stream::begin(scene, &self.world)?;
        thread::sleep(FLOWING);
        self.node.stop_fence()?;
        self.node.use_build(other);
        self.node.start_fence(scene)?;
        thread::sleep(FLOWING);
        let met = stream.end(&self.world)?;
        let links = updated()?.saturating_sub(earlier);
        self.node.start_agent(scene)?;
        let after = self.wait(
            scene,
            "the other build's programs in the PCR",
            |stage| match stage.programs()? {
                same if same == before => bail!("they are still {same}"),
                other => Ok(other),
            },
        )?;
        Ok(Upgraded {
            met,
            links,
            before,
            after,
        })
    }

    /// Digest of the object the fence's programs come from, as its PCR measured it.
    fn programs(&self) -> Result<String> {
        let shown = self.node()?;
        let submods = shown["result"]["submods"].as_object();
        let claim = submods
            .into_iter()
            .flatten()
            .map(|(_, submod)| &submod["bailiwick.claims"]["fence.programs"])
            .find(|claim| claim["provenance"] == "measured")
            .context("fence.programs as measured")?;
        let value = claim["value"].as_str().context("its value")?;
        Ok(value.to_owned())
    }

    /// Waits until the node says it has the policy signed last.
    pub fn wait_for_policy(&mut self, scene: &Scene) -> Result<()> {
        let want = self.approvers.version();
        self.wait(scene, "the policy to arrive", |stage| {
            let has = stage.node()?["policy_version"].as_u64();
            if has == Some(want) {
                return Ok(());
            }
            bail!("the node has version {has:?} of {want}")
        })
    }

    /// Waits for a statement that the collector took after this moment.
    pub fn wait_for_statement(&mut self, scene: &Scene) -> Result<()> {
        let before = self.count("statements")?;
        self.wait(scene, "a statement of the new boot", |stage| {
            let now = stage.count("statements")?;
            if now >= before + 2 {
                Ok(())
            } else {
                bail!("{now} statements")
            }
        })
    }

    /// Waits until a person is told, later than the first `after` notices.
    pub fn notice(
        &mut self,
        scene: &Scene,
        status: &str,
        alertname: &str,
        after: usize,
    ) -> Result<bool> {
        let notice = self.wait(scene, &format!("Alertmanager to say {status}"), |stage| {
            stage.pager.heard(status, alertname, after)
        })?;
        step(format_args!(
            "   Alertmanager: {} {} for {}",
            notice.status, notice.alertname, notice.node
        ));
        Ok(notice.node == NODE)
    }

    pub(super) fn record(&mut self, scene: &Scene, report: &mut Report) -> Result<()> {
        report.statements = Some(self.count("statements")?);
        report.receipts = Some(self.count("receipts")?);
        let (_, hex) = self
            .pcrs
            .first()
            .context("registers were read at the first boot")?;
        let pcr = bytes(hex).with_context(|| format!("{hex} is no digest"))?;
        report.verified_offline = Some(self.collector.verifies_offline(
            scene,
            &self.approvers,
            &pcr,
        )?);
        Ok(())
    }

    /// Waits for the node that enrolled and that nobody listed.
    pub fn wait_for_pending(&mut self, scene: &Scene) -> Result<Listed> {
        self.wait(scene, "the pending node", |stage| stage.enrolled())
    }

    /// The one node there is, by its TPM.
    pub fn enrolled(&self) -> Result<Listed> {
        let all = self.collector.ask(&["nodes"])?;
        let nodes = all
            .as_array()
            .or_else(|| all["nodes"].as_array())
            .context("a list of nodes")?;
        let [node] = nodes.as_slice() else {
            bail!("{} nodes", nodes.len())
        };
        let word = |key: &str| node[key].as_str().map(str::to_owned);
        Ok(Listed {
            ek: word("ek").context("the node's EK")?,
            ak: word("ak"),
            state: word("state").unwrap_or_default(),
            reason: word("reason").unwrap_or_default(),
        })
    }

    /// What `bailiwick node show` says.
    pub fn node(&self) -> Result<Value> {
        self.collector.ask(&["node", "show", NODE])
    }

    /// The node's verdict now.
    pub fn verdict(&self) -> Result<String> {
        Ok(self.node()?["verdict"]
            .as_str()
            .context("the node's verdict")?
            .to_owned())
    }

    /// How many statements, or receipts, the collector has of the node.
    pub fn count(&self, what: &str) -> Result<u64> {
        self.node()?[what]
            .as_u64()
            .with_context(|| format!("the number of {what}"))
    }

    /// The deviations in an operator's words.
    pub fn why(&self) -> Result<Vec<String>> {
        let mut client = self.collector.client();
        let out = client
            .args(["node", "why", NODE])
            .stdout(Stdio::piped())
            .output();
        let out = out.context("start the client")?;
        Ok(String::from_utf8_lossy(&out.stdout)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Why packets did not pass, as the fence reported: study, where to, rule, how many.
    pub fn denials(&mut self, scene: &Scene, since: SystemTime) -> Result<Vec<String>> {
        let since = since
            .duration_since(UNIX_EPOCH)
            .context("the clock is before 1970")?
            .as_secs();
        let since = since.to_string();
        self.wait(scene, "the fence's events", |stage| {
            let all = stage
                .collector
                .ask(&["events", "--limit", "1000", "--from", &since])?;
            let events = all.as_array().context("a list of events")?;
            let mut counts = BTreeMap::<_, u64>::new();
            for event in events {
                let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
                let key = (word("study"), word("jurisdiction"), word("rule"));
                *counts.entry(key).or_default() += event["count"].as_u64().unwrap_or(1);
            }
            if counts.is_empty() {
                bail!("no event yet");
            }
            let line = |((study, place, rule), count): ((String, String, String), u64)| {
                let study = if study.is_empty() {
                    "(no study)"
                } else {
                    &study
                };
                format!("{study:<10} -> {place:<10} {rule:<16} {count} packets")
            };
            Ok(counts.into_iter().map(line).collect())
        })
    }
}

impl Upgraded {
    /// Every datagram was judged as it had to be, by other programs than before.
    pub fn as_expected(&self) -> bool {
        self.met.as_expected() && self.links > 0 && self.before != self.after
    }

    pub(super) fn json(&self) -> Value {
        let mut value = self.met.json();
        if let Some(all) = value.as_object_mut() {
            all.insert("links_updated".to_owned(), self.links.into());
            all.insert("programs_before".to_owned(), json!(self.before));
            all.insert("programs_after".to_owned(), json!(self.after));
        }
        value
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok());
    pairs
        .map(|pair| u8::from_str_radix(pair?, 16).ok())
        .collect()
}
