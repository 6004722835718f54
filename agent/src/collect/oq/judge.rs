//! From figures to a verdict, and to claims. Pure: what was measured and what is configured go in.

use bailiwick_attestation::{
    Sha256Digest,
    proto::v1::{Claim, claim::Value},
};
use serde::{Deserialize, Serialize};

use super::{Answer, Figures, Rate, Stopped, Tried, around::checks};
use crate::collect::claim;

/// Longest reason that becomes a claim.
const WORDS: usize = 300;

/// What a node's GPUs were measured at when they were taken into use, in one mode.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// `off`, `on`, `devtools` or `protected-pcie`, as the driver says.
    pub mode: String,
    /// From the host, megabytes (10^6) in a second.
    pub to_device_mb_s: u64,
    /// To the host, likewise.
    pub to_host_mb_s: u64,
    /// Within the device's memory, likewise.
    pub within_mb_s: u64,
    /// Part by which each may be less or more, above 0 and below 1. More is no better: what moves
    /// faster than encryption allows is not encrypted.
    pub tolerance: f64,
    /// NVLinks of each GPU that are up, where there are any. `None`: nothing is known of them.
    pub nvlinks: Option<u32>,
}

/// What is to be thought of a GPU, and of all of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Every answer was right, and every figure within its band.
    Passed,
    /// An answer was wrong, or a figure outside its band.
    Failed,
    /// Something was not tried, or there is nothing to hold it against.
    NotRun,
}

impl Verdict {
    /// `passed`, `failed`, `not-run`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotRun => "not-run",
        }
    }
}

/// The verdict, and why it is no better.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judged {
    /// Over all GPUs: one that failed outweighs those not run, and those the ones that passed.
    pub verdict: Verdict,
    /// Of the first GPU that is not passed.
    pub reason: Option<String>,
    /// Each GPU's own.
    pub gpus: Vec<Verdict>,
}

/// Holds what was measured against what is expected in that mode.
#[must_use]
pub fn judge(answer: &Answer, baselines: &[Baseline]) -> Judged {
    let each: Vec<(Verdict, Option<String>)> = answer
        .gpus
        .iter()
        .map(|tried| match one(tried, baselines) {
            Ok(()) => (Verdict::Passed, None),
            Err(Stopped::Failed(why)) => (Verdict::Failed, Some(why)),
            Err(Stopped::NotRun(why)) => (Verdict::NotRun, Some(why)),
        })
        .collect();
    let gpus: Vec<Verdict> = each.iter().map(|(verdict, _)| *verdict).collect();
    let first = |wanted| each.iter().position(|(verdict, _)| *verdict == wanted);
    let reason = |index: usize| {
        let (_, why) = each.get(index)?;
        Some(format!("GPU {index}: {}", why.as_deref()?))
    };
    let (verdict, reason) = match (first(Verdict::Failed), first(Verdict::NotRun)) {
        (Some(failed), _) => (Verdict::Failed, reason(failed)),
        (None, Some(left)) => (Verdict::NotRun, reason(left)),
        (None, None) => match &answer.not_run {
            Some(why) => (Verdict::NotRun, Some(why.clone())),
            None if gpus.is_empty() => (Verdict::NotRun, Some("there is no GPU".to_owned())),
            None => (Verdict::Passed, None),
        },
    };
    Judged {
        verdict,
        reason,
        gpus,
    }
}

fn of_mode<'a>(tried: &Tried, baselines: &'a [Baseline]) -> Option<&'a Baseline> {
    baselines.iter().find(|it| it.mode == tried.mode)
}

fn one(tried: &Tried, baselines: &[Baseline]) -> Result<(), Stopped> {
    if let Err(failed @ Stopped::Failed(_)) = &tried.outcome {
        return Err(failed.clone());
    }
    let baseline = of_mode(tried, baselines);
    let checks = checks(tried, baseline);
    let failed = checks
        .iter()
        .find(|(_, check)| matches!(check, Err(Stopped::Failed(_))));
    if let Some((_, failed)) = failed {
        return failed.clone();
    }
    let figures = tried.outcome.as_ref().map_err(Clone::clone)?;
    let Some(baseline) = baseline else {
        let why = format!("right so far, and no baseline for mode {:?}", tried.mode);
        return Err(Stopped::NotRun(why));
    };
    for (what, found, wanted) in [
        ("from the host", figures.to_device, baseline.to_device_mb_s),
        ("to the host", figures.to_host, baseline.to_host_mb_s),
        ("within memory", figures.within, baseline.within_mb_s),
    ] {
        if !within(found, wanted, baseline.tolerance) {
            return Err(Stopped::Failed(format!(
                "{} MB/s {what}, {wanted} within {} % expected",
                found.mb_s,
                baseline.tolerance * 100.0
            )));
        }
    }
    // What NVML cannot tell has not passed, and keeps nothing from passing but where a baseline asks.
    let [(_, links), ..] = checks;
    match baseline.nvlinks {
        Some(_) => links,
        None => Ok(()),
    }
}

fn within(found: Rate, wanted: u64, tolerance: f64) -> bool {
    let lossy = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    let (found, wanted) = (lossy(found.mb_s), lossy(wanted));
    (found - wanted).abs() <= wanted * tolerance
}

/// What a statement says: the verdict, the figures, and the digest of the answer they were taken from.
#[must_use]
pub fn claims(
    judged: &Judged,
    answer: &Answer,
    baselines: &[Baseline],
    bytes: &[u8],
    boot_ns: u64,
) -> Vec<Claim> {
    const SOURCE: &str = "oq: computed through libcuda";
    let clip = |text: &str| text.chars().take(WORDS).collect::<String>();
    let mut out = vec![claim(
        "oq.verdict",
        SOURCE,
        Value::Text(judged.verdict.name().to_owned()),
    )];
    if let Some(reason) = &judged.reason {
        out.push(claim("oq.reason", SOURCE, Value::Text(clip(reason))));
    }
    if bytes.is_empty() {
        return out;
    }
    let digest = Sha256Digest::of(&[bytes]).0.to_vec();
    out.push(claim("oq.answer", SOURCE, Value::Data(digest)));
    out.push(claim(
        "oq.boot-s",
        SOURCE,
        Value::Number(boot_ns / 1_000_000_000),
    ));
    for (index, (tried, verdict)) in answer.gpus.iter().zip(&judged.gpus).enumerate() {
        let mut put = |field: &str, value| {
            out.push(claim(&format!("oq.gpu.{index}.{field}"), SOURCE, value));
        };
        put("uuid", Value::Text(clip(&tried.uuid)));
        put("mode", Value::Text(clip(&tried.mode)));
        put("verdict", Value::Text(verdict.name().to_owned()));
        for (name, check) in checks(tried, of_mode(tried, baselines)) {
            let (verdict, why) = match check {
                Ok(()) => (Verdict::Passed, None),
                Err(Stopped::Failed(why)) => (Verdict::Failed, Some(why)),
                Err(Stopped::NotRun(why)) => (Verdict::NotRun, Some(why)),
            };
            put(name, Value::Text(verdict.name().to_owned()));
            if let Some(why) = why {
                put(&format!("{name}-reason"), Value::Text(clip(&why)));
            }
        }
        let Ok(figures) = &tried.outcome else {
            continue;
        };
        for (field, number) in numbers(figures) {
            put(field, Value::Number(number));
        }
    }
    out
}

/// What a statement says where nothing was tried, and why.
#[must_use]
pub fn not_run(why: &str) -> Vec<Claim> {
    let answer = Answer::nothing(why);
    claims(&judge(&answer, &[]), &answer, &[], &[], 0)
}

const fn numbers(figures: &Figures) -> [(&'static str, u64); 9] {
    [
        ("mix-us", figures.mix_us),
        ("memory-bytes", figures.memory_bytes),
        ("to-device-mb-s", figures.to_device.mb_s),
        ("to-device-spread", figures.to_device.spread_percent),
        ("to-host-mb-s", figures.to_host.mb_s),
        ("to-host-spread", figures.to_host.spread_percent),
        ("within-mb-s", figures.within.mb_s),
        ("within-spread", figures.within.spread_percent),
        ("took-ms", figures.took_ms),
    ]
}
