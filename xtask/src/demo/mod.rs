//! `cargo xtask demo`: the whole story on real parts, and nothing of the machine touched.

pub mod daemon;
pub mod fleet;
pub mod flows;
pub(crate) mod footprint;
mod gpu;
pub(crate) mod helper;
pub mod pager;
pub mod policy;
mod report;
pub mod scene;
pub mod stage;
pub mod stream;
pub mod tpm;
pub mod upgrade;
pub mod world;

use std::time::{Duration, SystemTime};

use anyhow::Result;

use self::flows::{Matrix, Standing};
use self::policy::NODE;
use self::report::{NO_MACHINE, Report};
use self::scene::Scene;
use self::stage::{FENCE_BROKEN, NOT_TRUSTED, STALE, Stage};
use crate::build;
use crate::cmd::{self, step};
use crate::install::{self, capability};

/// Seconds between statements. Short, so that a story of minutes is told in one.
const INTERVAL_SECONDS: u32 = 2;

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
    if told.is_err() {
        // The logs go with the scene.
        for name in ["fence", "agent", "collector"] {
            let text =
                std::fs::read_to_string(scene.path(&format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            for line in lines
                .get(lines.len().saturating_sub(10)..)
                .unwrap_or_default()
            {
                step(format_args!("{name}: {line}"));
            }
        }
    }
    (report, told)
}

fn acts(scene: &mut Scene, report: &mut Report, stage: &mut Option<Stage>) -> Result<()> {
    step("== parts: a TPM with its maker's certificate, two approvers, a collector, a small world");
    let stage = stage.insert(Stage::set_up(scene, false, INTERVAL_SECONDS)?);

    // What answers for GPUs here is a double, and has to be told from hardware to the end.
    stage.node.give_gpus(scene, 2)?;

    step("== before any fence: everybody reaches everybody");
    show(report, &stage.measure(scene, Standing::Unfenced)?);

    step("== the fence stands before any policy does: nothing passes");
    stage.node.start_fence(scene)?;
    show(report, &stage.measure(scene, Standing::Closed)?);

    step("== enrollment: the TPM is real, but no approver has listed it");
    stage.apply(scene, None, "first policy, nobody listed")?;
    stage.node.start_agent(scene)?;
    let listed = stage.wait_for_pending(scene)?;
    report.enrolled = Some(true);
    step(format_args!("   pending: ek {}", listed.ek));

    step("== an approver's own client challenges EK and AK; the collector only passes bytes");
    let inventory = stage.approve(scene)?;
    step("== both approvers sign the inventory with that entry in it");
    let instead = [("inventory.toml".to_owned(), inventory)];
    let reason = "gpu-01 is listed and confirmed";
    stage.apply_with(scene, Some(&listed), reason, &instead, |_| {})?;
    let first = stage.wait_for_verdict(scene, true)?;
    let word = stage.ak_word()?;
    step(format_args!("   verdict: {first}; ak: {word}"));
    report.approved = Some(word.starts_with("confirmed"));
    report.verdict_before = Some(first);
    stage.wait_for_standing(scene, true)?;
    let since = SystemTime::now();
    let matrix = stage.measure(scene, Standing::Attested)?;
    show(report, &matrix);
    report.flows = Some(matrix);
    step("   why not, as the fence reported it:");
    for line in stage.denials(scene, since)? {
        step(format_args!("     {line}"));
    }

    let (mut alerted, mut resolved) = (true, true);

    step("== the process that holds the fence is killed: what it attached stays");
    let heard = stage.pager.count();
    let killed = stage.while_killed(scene)?;
    step(format_args!("   {killed}"));
    report.fence_killed = Some(killed);
    show(report, &stage.measure(scene, Standing::Attested)?);
    alerted &= stage.notice(scene, "firing", FENCE_BROKEN, heard)?;
    stage.node.start_fence(scene)?;
    stage.wait_for_verdict(scene, true)?;
    stage.wait_for_standing(scene, true)?;
    resolved &= stage.notice(scene, "resolved", FENCE_BROKEN, heard)?;

    step("== another build of the agent takes over: links stay, and get its programs");
    stage.wait_for_standing(scene, true)?;
    let upgraded = stage.upgrade(scene)?;
    step(format_args!("   {}", upgraded.met));
    step(format_args!(
        "   {} links were given other programs; measured: {} instead of {}",
        upgraded.links, upgraded.after, upgraded.before
    ));
    report.fence_upgraded = Some(upgraded);
    stage.wait_for_verdict(scene, true)?;
    stage.wait_for_standing(scene, true)?;
    show(report, &stage.measure(scene, Standing::Attested)?);

    step("== the agent falls silent: its lease runs out, and somebody is told");
    let heard = stage.pager.count();
    stage.node.kill_agent()?;
    show(report, &stage.measure(scene, Standing::Attested)?);
    alerted &= stage.notice(scene, "firing", STALE, heard)?;
    stage.wait_for_standing(scene, false)?;
    let ended = stage.measure(scene, Standing::Unattested)?;
    show(report, &ended);
    report.lease_ended = Some(ended.as_expected());
    step("== it speaks again: the next affirming statement earns a lease");
    stage.node.start_agent(scene)?;
    stage.wait_for_verdict(scene, true)?;
    stage.wait_for_standing(scene, true)?;
    let returned = stage.measure(scene, Standing::Attested)?;
    show(report, &returned);
    report.lease_returned = Some(returned.as_expected());
    resolved &= stage.notice(scene, "resolved", STALE, heard)?;

    step("== tampering: somebody extends PCR 4 behind the agent's back");
    let heard = stage.pager.count();
    stage.tpm.tamper()?;
    let turned = stage.wait_for_verdict(scene, false)?;
    step(format_args!("   verdict: {turned}"));
    report.verdict_after_tamper = Some(turned);
    for line in stage.why()? {
        step(format_args!("   {line}"));
    }
    stage.wait_for_standing(scene, false)?;
    let cut = stage.measure(scene, Standing::Unattested)?;
    show(report, &cut);
    alerted &= stage.notice(scene, "firing", NOT_TRUSTED, heard)?;
    report.alerted = Some(alerted);

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
    resolved &= stage.notice(scene, "resolved", NOT_TRUSTED, heard)?;
    report.resolved = Some(resolved);

    step("== a policy that takes GPUs which prove themselves: a double proves nothing");
    let judged = stage.judge_gpus(scene)?;
    for line in judged.lines() {
        step(format_args!("   {line}"));
    }
    let without = stage.measure(scene, Standing::Unattested)?;
    show(report, &without);
    report.gpu = Some(judged);
    stage.forget_gpus(scene)?;

    step("== the record");
    stage.record(scene, report)?;

    step("== the node's own boot is not shown here");
    step(format_args!("   {NO_MACHINE}"));
    Ok(())
}

fn show(report: &mut Report, matrix: &Matrix) {
    report.saw(matrix);
    for line in matrix.table().lines() {
        step(format_args!("   {line}"));
    }
}

/// Leaves everything running until Ctrl-C, and tells how to look around.
fn stay(scene: &Scene, stage: &mut Stage) -> Result<()> {
    let client = stage.collector.client_by_hand();
    let namespace = world::enter_by_hand(&stage.world);
    let lines: [String; 7] = [
        "everything stays up until Ctrl-C. Look around with".to_owned(),
        format!("  {client} nodes"),
        format!("  {client} node show {NODE}"),
        format!("  {client} node why {NODE}"),
        format!("  {client} events"),
        format!("  nsenter --net={} ping 192.0.2.10", namespace.display()),
        format!("logs and configuration: {}", scene.path("").display()),
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
