//! `cargo xtask demo`: the whole story on real parts, and nothing of the machine touched.

mod daemon;
mod fleet;
mod flows;
pub(crate) mod footprint;
pub(crate) mod helper;
mod pager;
mod policy;
mod report;
mod scene;
mod tpm;
mod world;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::fleet::{Collector, Node};
use self::flows::{Matrix, Standing};
use self::pager::Pager;
use self::policy::{Approvers, Listed, NODE, Terms};
use self::report::Report;
use self::scene::Scene;
use self::tpm::SoftTpm;
use self::world::{WORLD_CSV, Workloads, World};
use crate::build;
use crate::cmd::{self, step};
use crate::install::{self, capability};

/// The alert of a node whose verdict turned.
const NOT_TRUSTED: &str = "BailiwickNodeNotTrusted";
/// The verdict that grants standing.
const AFFIRMING: &str = "affirming";
/// Seconds between statements. Short, so that a story of minutes is told in one.
const INTERVAL_SECONDS: u32 = 2;
/// Long enough to see standing last, short enough to see it run out.
const LEASE_SECONDS: u32 = 30;
/// A node silent for longer is stale.
const MAX_SILENCE_SECONDS: u32 = 12;
/// Ample: statements come every other second.
const SOON: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Tell the story and end, instead of staying up to look around
    #[arg(long)]
    once: bool,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    capability::for_demo()?;
    install::for_demo()?;
    build::kernel_side()?;
    build::programs(false)?;
    let mut scene = Scene::open()?;
    let mut stage = None;
    let (report, told) = tell(&mut scene, &mut stage);
    match args.output {
        Output::Json => cmd::result(format_args!("{:#}", report.json()))?,
        Output::Text => cmd::result(report.text())?,
    }
    told?;
    if !args.once
        && let Some(stage) = &mut stage
    {
        stay(&scene, stage)?;
    }
    report.verdict()
}

/// The story for the test run, which has a result of its own to print.
pub(crate) fn check() -> Result<()> {
    let mut scene = Scene::open()?;
    let mut stage = None;
    let (report, told) = tell(&mut scene, &mut stage);
    for line in report.text().lines() {
        step(format_args!("   {line}"));
    }
    told?;
    report.verdict()
}

/// The story, and what it found out as far as it came.
fn tell(scene: &mut Scene, stage: &mut Option<Stage>) -> (Report, Result<()>) {
    let mut report = Report::default();
    let told = acts(scene, &mut report, stage);
    (report, told)
}

/// Everything that runs. Fields are dropped in order: the node before what it talks to.
struct Stage {
    workloads: Workloads,
    node: Node,
    collector: Collector,
    pager: Pager,
    world: World,
    tpm: SoftTpm,
    approvers: Approvers,
    /// What a clean boot leaves in the registers.
    pcrs: Vec<(u8, String)>,
}

fn acts(scene: &mut Scene, report: &mut Report, stage: &mut Option<Stage>) -> Result<()> {
    step("== parts: a TPM with its maker's certificate, two approvers, a collector, a small world");
    let stage = stage.insert(Stage::set_up(scene, false, INTERVAL_SECONDS)?);

    step("== before any fence: everybody reaches everybody");
    show(report, &stage.measure(scene, Standing::Unfenced)?);

    step("== the fence stands before any policy does: nothing passes");
    stage.node.start_fence(scene)?;
    show(report, &stage.measure(scene, Standing::Closed)?);

    step("== enrollment: the TPM is real, but no approver has listed it");
    stage.apply(scene, None, "first policy, nobody listed")?;
    stage.node.start_agent(scene)?;
    let listed = stage.wait(scene, "the pending node", |stage| pending(&stage.collector))?;
    report.enrolled = Some(true);
    step(format_args!("   pending: ek {}", listed.ek));

    step("== both approvers sign an inventory with that TPM in it");
    stage.apply(scene, Some(&listed), "gpu-01 is listed")?;
    let first = stage.wait_for_verdict(scene, true)?;
    step(format_args!("   verdict: {first}"));
    report.verdict_before = Some(first);
    stage.wait_for_standing(scene, true)?;
    let matrix = stage.measure(scene, Standing::Attested)?;
    show(report, &matrix);
    report.flows = Some(matrix);

    step("== tampering: somebody extends PCR 4 behind the agent's back");
    stage.tpm.tamper()?;
    let turned = stage.wait_for_verdict(scene, false)?;
    step(format_args!("   verdict: {turned}"));
    report.verdict_after_tamper = Some(turned);
    for line in why(&stage.collector)? {
        step(format_args!("   {line}"));
    }
    stage.wait_for_standing(scene, false)?;
    let cut = stage.measure(scene, Standing::Unattested)?;
    show(report, &cut);
    report.alerted = Some(stage.notice(scene, "firing", 0)?);

    step("== a reboot does not help while the machine is tampered with");
    stage.reboot(scene, true)?;
    stage.wait_for_statement(scene)?;
    let still = stage.measure(scene, Standing::Unattested)?;
    show(report, &still);
    report.quarantined = Some(cut.as_expected() && still.as_expected());

    step("== the way back: a clean boot");
    let heard = stage.pager.count();
    stage.reboot(scene, false)?;
    let back = stage.wait_for_verdict(scene, true)?;
    step(format_args!("   verdict: {back}"));
    stage.wait_for_standing(scene, true)?;
    let matrix = stage.measure(scene, Standing::Attested)?;
    show(report, &matrix);
    report.recovered = Some(matrix.as_expected());
    report.resolved = Some(stage.notice(scene, "resolved", heard)?);

    step("== the record");
    stage.record(scene, report)
}

impl Stage {
    /// Everything but fence and agent is running when this returns.
    fn set_up(scene: &mut Scene, release: bool, interval_seconds: u32) -> Result<Self> {
        let mut tpm = SoftTpm::manufacture(scene)?;
        tpm.boot(scene, false)?;
        let approvers = Approvers::appoint(scene)?;
        let pager = Pager::start(scene)?;
        let collector = Collector::start(scene, &approvers, &pager, release)?;
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

    /// Signs the next version of the policy and gives it to the collector.
    fn apply(&mut self, scene: &Scene, listed: Option<&Listed>, reason: &str) -> Result<()> {
        let terms = Terms {
            collector_toml: &self.collector.for_policy,
            pcrs: &self.pcrs,
            listed,
            lease_seconds: LEASE_SECONDS,
            max_silence_seconds: MAX_SILENCE_SECONDS,
            world: ("world.csv", WORLD_CSV),
            reason,
        };
        let bundle = self.approvers.sign(scene, terms)?;
        self.collector.apply(&bundle)
    }

    /// A datagram to Germany, which takes a lease.
    const ABROAD: &str = "udp 10.9.1.1 192.0.2.10:7000";
    /// A datagram to the time service, which takes a policy and no lease.
    const TIME: &str = "udp 10.9.1.1 10.9.0.1:123";

    /// Whether the kernel takes each of these datagrams from the first study's process.
    fn first_sender(&mut self, tries: &[&str]) -> Result<Vec<bool>> {
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
    fn wait<T>(
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

    fn measure(&mut self, scene: &Scene, standing: Standing) -> Result<Matrix> {
        flows::measure(scene, &self.world, &mut self.workloads, standing)
    }

    /// Waits for a verdict that affirms, or for one that does not.
    fn wait_for_verdict(&mut self, scene: &Scene, affirming: bool) -> Result<String> {
        let what = if affirming {
            "an affirming verdict"
        } else {
            "the verdict to turn"
        };
        self.wait(scene, what, |stage| match verdict(&stage.collector)? {
            verdict if (verdict == AFFIRMING) == affirming => Ok(verdict),
            verdict => bail!("the verdict is {verdict}"),
        })
    }

    /// Waits until the kernel lets `cardio` out, or no longer does.
    fn wait_for_standing(&mut self, scene: &Scene, open: bool) -> Result<()> {
        let what = if open {
            "the lease to open the fence"
        } else {
            "the lease to end"
        };
        self.wait(scene, what, |stage| {
            if flows::probe(&stage.world, &mut stage.workloads)? == open {
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
    fn reboot(&mut self, scene: &Scene, tampered: bool) -> Result<()> {
        self.node.cut_power()?;
        scene.kill_workloads()?;
        scene.drop_pins()?;
        self.tpm.boot(scene, tampered)?;
        self.node.start_fence(scene)?;
        self.workloads = self.world.start_workloads(scene)?;
        self.node.start_agent(scene)
    }

    /// Waits for a statement that the collector took after this moment.
    fn wait_for_statement(&mut self, scene: &Scene) -> Result<()> {
        let before = count(&self.collector, "statements")?;
        self.wait(scene, "a statement of the new boot", |stage| {
            let now = count(&stage.collector, "statements")?;
            if now >= before + 2 {
                Ok(())
            } else {
                bail!("{now} statements")
            }
        })
    }

    fn notice(&mut self, scene: &Scene, status: &str, after: usize) -> Result<bool> {
        let notice = self.wait(scene, &format!("Alertmanager to say {status}"), |stage| {
            stage.pager.heard(status, NOT_TRUSTED, after)
        })?;
        step(format_args!(
            "   Alertmanager: {} {} for {}",
            notice.status, notice.alertname, notice.node
        ));
        Ok(notice.node == NODE)
    }

    fn record(&mut self, scene: &Scene, report: &mut Report) -> Result<()> {
        report.statements = Some(count(&self.collector, "statements")?);
        report.receipts = Some(count(&self.collector, "receipts")?);
        let _ = scene;
        Ok(())
    }
}

fn show(report: &mut Report, matrix: &Matrix) {
    report.saw(matrix);
    for line in matrix.table().lines() {
        step(format_args!("   {line}"));
    }
}

/// The node that enrolled and that nobody listed.
fn pending(collector: &Collector) -> Result<Listed> {
    let all = collector.ask(&["nodes"])?;
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
    })
}

fn node(collector: &Collector) -> Result<Value> {
    collector.ask(&["node", "show", NODE])
}

fn verdict(collector: &Collector) -> Result<String> {
    Ok(node(collector)?["verdict"]
        .as_str()
        .context("the node's verdict")?
        .to_owned())
}

fn count(collector: &Collector, what: &str) -> Result<u64> {
    node(collector)?[what]
        .as_u64()
        .with_context(|| format!("the number of {what}"))
}

/// The deviations in an operator's words.
fn why(collector: &Collector) -> Result<Vec<String>> {
    let mut client = collector.client();
    client.args(["node", "why", NODE]);
    let out = client
        .stdout(std::process::Stdio::piped())
        .output()
        .context("start the client")?;
    Ok(String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Leaves everything running until Ctrl-C, and tells how to look around.
fn stay(scene: &Scene, stage: &mut Stage) -> Result<()> {
    let client = cmd::shown(&stage.collector.client());
    let namespace = world::enter_by_hand(&stage.world);
    let lines: [String; 7] = [
        "everything stays up until Ctrl-C. Look around with".to_owned(),
        format!("  {client} nodes"),
        format!("  {client} node show {NODE}"),
        format!("  {client} node why {NODE}"),
        format!("  {client} events"),
        format!("  nsenter --net={} ping 192.0.2.10", namespace.display()),
        format!(
            "logs and configuration: {} (a lease lasts {LEASE_SECONDS} s)",
            scene.path("").display()
        ),
    ];
    for line in lines {
        step(line);
    }
    loop {
        std::thread::sleep(Duration::from_millis(200));
        if scene.go_on().is_err() {
            return Ok(());
        }
        stage.collector.alive().and_then(|()| stage.node.alive())?;
    }
}
