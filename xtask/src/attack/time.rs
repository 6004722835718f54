//! Clocks that are wrong.
//!
//! The calendar has no namespace, so the loader puts a few lines before the C library that shift
//! it, in the processes under attack alone: the programs themselves have no such switch.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::ground::{Ground, Log, shim};
use super::outcome::Outcome;
use crate::demo::flows::Standing;

/// Short, so that its end is waited for often.
const LEASE_SECONDS: u32 = 8;
/// What a busy machine takes to notice the end.
const SLACK: Duration = Duration::from_secs(3);

const HOUR: i64 = 3600;
const YEAR: i64 = 366 * 24 * HOUR;

const SHIFTS: [(&str, i64); 4] = [
    ("an hour ahead", HOUR),
    ("an hour behind", -HOUR),
    ("a year ahead", YEAR),
    ("a year behind", -YEAR),
];

/// The environment of a process whose calendar is off.
pub(super) fn skewed(library: &Path, seconds: i64) -> Vec<(&'static str, String)> {
    vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("SKEW_SECONDS", seconds.to_string()),
    ]
}

/// The library that shifts the calendar.
pub(super) fn library(ground: &Ground) -> Result<std::path::PathBuf> {
    shim(&ground.scene, "skew", include_str!("skew.c"))
}

fn short_leases(ground: &mut Ground, seconds: u32, reason: &str) -> Result<()> {
    let listed = ground.listed.clone();
    ground
        .stage
        .apply_with(&ground.scene, Some(&listed), reason, &[], |terms| {
            terms.lease_seconds = seconds;
        })?;
    ground.stage.wait_for_policy(&ground.scene)?;
    ground.stage.wait_for_statement(&ground.scene)
}

/// With the clock off: whether the node is affirmed at all, and how long its standing outlasts it.
fn outlast(
    ground: &mut Ground,
    outcome: &mut Outcome,
    agent: &Log,
    (whose, shift): (&str, &str),
) -> Result<()> {
    let open = ground
        .scene
        .wait("standing", Duration::from_secs(15), || {
            let (world, workloads) = (&ground.stage.world, &mut ground.stage.workloads);
            if crate::demo::flows::probe(world, workloads)? == Some(true) {
                return Ok(());
            }
            bail!("closed")
        })
        .is_ok();
    let verdict = ground
        .stage
        .verdict()
        .unwrap_or_else(|_| "unknown".to_owned());
    ground.stage.node.kill_agent()?;
    let limit = Duration::from_secs(u64::from(LEASE_SECONDS)) + SLACK;
    let tried = format!("standing outlasts its lease, {whose}'s clock {shift}");
    let standing = if open { "open" } else { "closed" };
    match ground.wait_for_the_end(limit) {
        Ok(taken) => outcome.tried(
            &tried,
            "lease-ended",
            Some("lease-ended"),
            &format!(
                "verdict {verdict}, fence {standing}, closed {:.1} s after the last statement; \
                 a lease lasts {LEASE_SECONDS} s",
                taken.as_secs_f64()
            ),
        ),
        Err(error) => outcome.tried(&tried, "lease-ended", None, &format!("{error:#}")),
    }
    let why = agent.last("why=").filter(|_| !open).unwrap_or_default();
    outcome.saw(format!(
        "{whose}'s clock {shift}: verdict {verdict}, fence {standing} {why}"
    ));
    let tried = format!("{shift}, lease over");
    ground.outside(outcome, &tried, Standing::Unattested)
}

pub(super) fn agent_clock(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let library = library(ground)?;
    short_leases(ground, LEASE_SECONDS, "short leases")?;
    for (shift, seconds) in SHIFTS {
        ground.stage.node.kill_agent()?;
        ground.stage.node.kill_fence()?;
        ground.stage.node.environment = skewed(&library, seconds);
        let agent = ground.log_from_now("agent");
        ground.stage.node.start_fence(&ground.scene)?;
        ground.stage.node.start_agent(&ground.scene)?;
        outlast(ground, outcome, &agent, ("the node", shift))?;
    }
    ground.stage.node.kill_fence()?;
    ground.stage.node.environment.clear();
    ground.stage.node.start_fence(&ground.scene)?;
    ground.stage.node.start_agent(&ground.scene)?;
    ground
        .stage
        .wait_for_verdict(&ground.scene, true)
        .context("with the clock right again")?;
    ground.stage.wait_for_standing(&ground.scene, true)?;
    outcome.saw("with the clock right again, standing came back by itself");
    short_leases(
        ground,
        crate::demo::stage::LEASE_SECONDS,
        "leases as before",
    )
}

pub(super) fn collector_clock(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let library = library(ground)?;
    short_leases(ground, LEASE_SECONDS, "short leases")?;
    for (shift, seconds) in SHIFTS {
        ground.stage.collector.kill()?;
        ground.stage.collector.environment = skewed(&library, seconds);
        let agent = ground.log_from_now("agent");
        ground.stage.collector.start(&ground.scene)?;
        outlast(ground, outcome, &agent, ("the collector", shift))?;
        ground.stage.node.start_agent(&ground.scene)?;
    }
    ground.stage.collector.kill()?;
    ground.stage.collector.environment.clear();
    ground.stage.collector.start(&ground.scene)?;
    ground
        .stage
        .wait_for_verdict(&ground.scene, true)
        .context("with the clock right again")?;
    ground.stage.wait_for_standing(&ground.scene, true)?;
    outcome.saw("with the clock right again, standing came back by itself");
    Ok(())
}
