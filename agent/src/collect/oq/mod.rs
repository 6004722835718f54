//! Operational qualification of GPUs, in a short-lived child: `bailiwick-agent probe oq`.
//!
//! A small computation whose every right answer is one constant, a pattern through some memory, and
//! how fast bytes move. It is bounded in time and memory and never runs beside other work: where the
//! driver lists a process, or cannot say, nothing is run. What was not run has not passed.
//!
//! Self-reported like all that a library says: the constants are in the open, and who controls the
//! host can answer with them. It tells a broken GPU, or one that is not what it was, from a good one.

mod around;
mod expected;
mod judge;
mod look;
mod run;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

pub use around::Around;
pub use judge::{Baseline, Judged, Verdict, claims, judge, not_run};

use super::nvml::{LIBRARY as NVML, run_bounded};
use crate::sys::cuda::Cuda;
use around::Watch;
use look::Look;
use run::Limits;

/// The name the loader knows.
const CUDA: &str = "libcuda.so.1";
/// Most GPUs that are tried: a machine has eight.
const MAX_GPUS: u32 = 16;
/// Most output read.
const MAX_OUTPUT: u64 = 64 << 10;
/// For loading libraries and waking GPUs, beyond the time that a run may take.
pub const WAKING: Duration = Duration::from_secs(30);

/// Where it is asked, and what that may take.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// NVML; `None`: the loader's.
    pub nvml: Option<PathBuf>,
    /// CUDA's driver API; `None`: the loader's `libcuda.so.1`.
    pub cuda: Option<PathBuf>,
    /// Of each device's memory, bytes; a twentieth of what is free at the most.
    pub memory: u64,
    /// For all devices together.
    pub time: Duration,
}

/// How fast bytes move: the middle of ten times.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Megabytes (10^6) in a second.
    pub mb_s: u64,
    /// The middle of how far all ten were from that, in percent of the time.
    pub spread_percent: u64,
}

/// What was measured on a GPU whose every answer was right.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Microseconds that the computation took.
    pub mix_us: u64,
    /// Memory that kept what was written.
    pub memory_bytes: u64,
    /// From the host.
    pub to_device: Rate,
    /// To the host.
    pub to_host: Rate,
    /// Within the device's memory.
    pub within: Rate,
    /// Milliseconds for everything.
    pub took_ms: u64,
}

/// Why there are no figures.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// It could not, or must not, be run.
    NotRun(String),
    /// It ran, and an answer was wrong.
    Failed(String),
}

/// One GPU.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// The driver's name for it.
    pub uuid: String,
    /// As the driver says: `off`, `on`, `devtools`, `protected-pcie`; bytes move at another speed in
    /// each.
    pub mode: String,
    /// What came of it.
    pub outcome: Result<Figures, Stopped>,
    /// What NVML says beside.
    pub around: Around,
}

/// What the child says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// CUDA's version as its library says: 13000 is 13.0.
    pub cuda: Option<i32>,
    /// Each GPU that NVML names.
    pub gpus: Vec<Tried>,
    /// Why none was tried.
    pub not_run: Option<String>,
}

impl Answer {
    /// Nothing was tried.
    #[must_use]
    pub fn nothing(why: &str) -> Self {
        Self {
            cuda: None,
            gpus: Vec::new(),
            not_run: Some(why.to_owned()),
        }
    }
}

/// The child's work: one GPU after the other, each only if nobody uses it.
#[must_use]
pub fn probe(bounds: &Bounds) -> Answer {
    tried(bounds).unwrap_or_else(|why| Answer::nothing(&why))
}

fn tried(bounds: &Bounds) -> Result<Answer, String> {
    let until = Instant::now() + bounds.time;
    let library = bounds.nvml.as_deref().unwrap_or_else(|| Path::new(NVML));
    let nvml = look::open(library)?;
    let count = nvml.device_count().map_err(|err| err.to_string())?;
    if count == 0 {
        return Err("there is no GPU".to_owned());
    }
    if count > MAX_GPUS {
        return Err(format!("{count} GPUs: at most {MAX_GPUS} are tried"));
    }
    let looks: Vec<_> = (0..count).map(|index| Look::at(&nvml, index)).collect();
    if let Some(why) = looks.iter().find_map(Look::refusal) {
        // Work on one slows the others' way to the host.
        return Err(why);
    }
    let library = bounds.cuda.as_deref().unwrap_or_else(|| Path::new(CUDA));
    let cuda = Cuda::open(library.as_os_str())
        .map_err(|fault| format!("{}: {fault}", library.display()))?;
    let said = |fault: crate::sys::cuda::Fault| fault.to_string();
    let devices = cuda.devices().map_err(said)?;
    let memory = usize::try_from(bounds.memory).unwrap_or(usize::MAX);
    let limits = Limits { memory, until };
    let mut gpus = Vec::new();
    for (index, before) in (0..count).zip(looks) {
        let named = |uuid: &[u8; 16]| look::uuid(uuid) == before.uuid;
        let device = devices.iter().find(|(_, uuid)| named(uuid));
        let watch = Watch::on(&nvml, index);
        let outcome = match device {
            None => Err(Stopped::NotRun("CUDA does not name it".to_owned())),
            Some((device, _)) => cuda
                .context(*device)
                .map_err(|fault| Stopped::NotRun(fault.to_string()))
                .and_then(|context| run::run(&context, limits)),
        };
        let after = Look::at(&nvml, index);
        gpus.push(Tried {
            uuid: before.uuid.clone(),
            mode: before.mode.clone(),
            outcome: before.held_against(&after, outcome),
            around: watch.end(&nvml, index),
        });
    }
    Ok(Answer {
        cuda: cuda.version().ok(),
        gpus,
        not_run: None,
    })
}

/// Asks a child of this program, which is killed when it is late. The answer, and its bytes as they
/// came.
pub async fn ask(program: PathBuf, bounds: &Bounds, patience: Duration) -> (Answer, Vec<u8>) {
    let mut args: Vec<OsString> = ["probe", "oq"].map(OsString::from).into();
    let seconds = bounds.time.as_secs().to_string();
    for (name, value) in [
        ("--library", bounds.nvml.clone().map(OsString::from)),
        ("--cuda", bounds.cuda.clone().map(OsString::from)),
        ("--memory-bytes", Some(bounds.memory.to_string().into())),
        ("--seconds", Some(seconds.into())),
    ] {
        if let Some(value) = value {
            args.push(name.into());
            args.push(value);
        }
    }
    let answer = run_bounded(program, args, patience, MAX_OUTPUT).await;
    let answer = answer.and_then(|output| match serde_json::from_slice(&output) {
        Ok(answer) => Ok((answer, output)),
        Err(err) => Err(format!(
            "the probe's answer is not what it should be: {err}"
        )),
    });
    answer.unwrap_or_else(|why| (Answer::nothing(&why), Vec::new()))
}
