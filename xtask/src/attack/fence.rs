//! Root takes the fence away and says that it stands.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::ground::Ground;
use super::outcome::Outcome;
use crate::demo::flows::Standing;

/// What the log and its register show; everything else is the kernel's word, passed on by root.
const MEASURED: [&str; 7] = [
    "fence.agent",
    // Uses that were extended; who opened the fence by other means needed none.
    "fence.break_glass",
    "fence.rules",
    "fence.programs",
    "fence.world",
    "fence.policy",
    "fence.policy_version",
];

/// By then what nobody holds any more is detached, also on a machine that is busy.
const DETACHED: Duration = Duration::from_secs(30);
/// The statement from before anything was forged.
const HONEST: &str = "honest-statement";

pub(super) fn forged(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    demanded(ground, outcome)?;

    ground.stage.node.kill_agent()?;
    ground.stored_statement(HONEST)?;
    let log = ground.scene.path("fence-pcr.log");
    let early = ground.scene.path("fence-pcr.log.early");
    fs::copy(&log, &early).context("copy the fence's log")?;
    for (forge, tried, expected) in [
        ("no-log", "the fence's log left out", "claim-provenance"),
        ("cut-log", "the log cut short", "fence-log-does-not-replay"),
        (
            "world",
            "a world map that was never put in force",
            "fence-log-mismatch",
        ),
        (
            "programs",
            "programs that were never put in force",
            "fence-log-mismatch",
        ),
    ] {
        say(ground, outcome, &early, (forge, tried, expected), None)?;
    }

    // Detached, and nothing extended: what was put in force is still what was put in force.
    ground.stage.node.kill_fence()?;
    ground.scene.drop_pins()?;
    // What is unpinned is detached when the kernel gets to it.
    let end = Instant::now() + DETACHED;
    let mut open = ground.stage.measure(&ground.scene, Standing::Unfenced)?;
    while !open.as_expected() && Instant::now() < end {
        open = ground.stage.measure(&ground.scene, Standing::Unfenced)?;
    }
    if !open.as_expected() {
        bail!("root did not take the fence away:\n{}", open.table());
    }
    outcome.saw("root detached the fence, and everybody reached everybody: prevention ends there");
    let mut unheard = Outcome::new("as before");
    let tried = ("nothing", "as if nothing had been", "");
    say(ground, &mut unheard, &early, tried, None)?;
    let verdict = ground.stage.verdict()?;
    outcome.saw(format!(
        "a profile that takes the agent's word for fence.mode then said {verdict}: what has to \
         hold before root can lie, a profile must demand as measured"
    ));
    above_its_source(ground, outcome)?;

    // The fence is never loaded in this boot, and its log of the last one is shown.
    ground.stage.node.cut_power()?;
    ground.scene.kill_workloads()?;
    ground.scene.drop_pins()?;
    ground.stage.tpm.boot(&ground.scene, false)?;
    ground.stage.node.draw_boot_id()?;
    let boot = fs::read_to_string(ground.scene.path("boot_id")).context("read the boot id")?;
    let boot = boot.trim().replace('-', "");
    let tried = "booted without a fence, with the log of the boot before";
    let tried = ("nothing", tried, "fence-log-mismatch");
    say(ground, outcome, &early, tried, Some(&boot))
}

/// A profile that asks more of a claim than its source can give is met by nobody.
fn demanded(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let newest = ground.stage.approvers.newest().context("a policy")?;
    let profile = fs::read_to_string(newest.join("profile.toml")).context("read the profile")?;
    let (before, _) = profile
        .split_once("[[require]]\nclaim = \"fence.mode\"")
        .context("the profile's word on fence.mode")?;
    let measured = format!(
        "{before}[[require]]\nclaim = \"fence.mode\"\none_of = [\"enforcing\"]\n\
         provenance = \"measured\"\n"
    );
    let listed = ground.listed.clone();
    let instead = [("profile.toml".to_owned(), measured)];
    let reason = "fence.mode is to be measured";
    ground
        .stage
        .apply_with(&ground.scene, Some(&listed), reason, &instead, |_| {})?;
    ground.stage.wait_for_policy(&ground.scene)?;
    ground.stage.wait_for_verdict(&ground.scene, false)?;
    let tried = "the agent's word, where the profile wants it measured";
    ground.judged(outcome, tried, "claim-provenance")?;
    ground.stage.apply(
        &ground.scene,
        Some(&listed),
        "fence.mode is the agent's word again",
    )?;
    ground.stage.wait_for_policy(&ground.scene)?;
    ground.stage.wait_for_verdict(&ground.scene, true).map(drop)
}

/// No claim about the fence is worth more than whoever made it.
fn above_its_source(ground: &Ground, outcome: &mut Outcome) -> Result<()> {
    let shown = ground.stage.node()?;
    let submods = shown["result"]["submods"].as_object();
    let claims: Vec<(&String, &Value)> = submods
        .into_iter()
        .flatten()
        .filter_map(|(_, submod)| submod["bailiwick.claims"].as_object())
        .flatten()
        .filter(|(name, _)| name.starts_with("fence."))
        .collect();
    if claims.is_empty() {
        bail!(
            "the result has no claim about the fence: {}",
            shown["result"]
        );
    }
    for (name, claim) in claims {
        let provenance = claim["provenance"].as_str().unwrap_or_default();
        let shown = MEASURED.contains(&name.as_str());
        if shown {
            outcome.saw(format!("{name}: {provenance}"));
            continue;
        }
        let raised = provenance != "self-reported";
        outcome.tried(
            &format!("{name} of a fence that is not there"),
            "self-reported",
            (!raised).then_some(provenance),
            &claim["value"].to_string(),
        );
    }
    Ok(())
}

fn say(
    ground: &Ground,
    outcome: &mut Outcome,
    log: &Path,
    (forge, tried, expected): (&str, &str, &str),
    boot: Option<&str>,
) -> Result<()> {
    let stored = ground.stored_statement("stored-statement")?;
    let (config, stored, log) = (
        ground.stage.node.config().display().to_string(),
        stored.display().to_string(),
        log.display().to_string(),
    );
    let honest = ground.scene.path(HONEST).display().to_string();
    let mut words = vec!["forge", "--config", &config, "--stored", &stored];
    words.extend(["--honest", &honest]);
    words.extend(["--log", &log, "--forge", forge, "--tried", tried]);
    words.extend(["--expected", expected]);
    words.extend(boot.into_iter().flat_map(|boot| ["--boot", boot]));
    ground.attacker(outcome, words)
}
