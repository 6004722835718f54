//! Reports of GPUs under confidential computing, in a short-lived child: `bailiwick-agent probe gpu`.
//!
//! Asking is not free: a request for a report or a certificate that fails tears confidential
//! computing down on that machine. So nothing is asked where it is off, GPUs are asked one after
//! the other, none twice, and whatever fails ends the asking. What the library says of itself
//! stands beside the reports and is the driver's word; the reports are judged by whoever reads
//! them (`bailiwick inspect gpu --evidence`).

mod cited;
mod library;
mod schedule;
pub mod switches;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

pub use cited::{Cited, LOGS, cited};
pub use library::Loaded;
pub use schedule::{PAUSE, Schedule};
pub use switches::Switches;

use super::nvml::run_bounded;

/// Most GPUs asked: a machine has eight.
const MAX_GPUS: u32 = 16;
/// Longest report: the buffer the library has for one.
const MAX_REPORT: usize = 0x2000;
/// Longest chain: the buffer the library has for one.
const MAX_CHAIN: usize = 0x1400;

/// How GPUs of such a set are used together.
const PROTECTED_PCIE: u32 = 1;

/// `nvmlInit` wakes GPUs that sleep, and each takes its time to sign: eight of them, twice over.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// Most output read: sixteen GPUs with the longest report and chain, in base64.
const MAX_OUTPUT: u64 = 512 << 10;

/// What the driver says about confidential computing: its word, not the GPU's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mode {
    /// Confidential computing is on.
    pub enabled: bool,
    /// Developers' mode: the GPU can be debugged.
    pub devtools: bool,
    /// 0: not available, 1: simulated, 2: production.
    pub environment: u32,
    /// How several GPUs are used together: 0 not, 1 Protected PCIe, 2 NVLE.
    pub multi_gpu: Result<u32, String>,
    /// The GPUs accept work.
    pub ready: Result<bool, String>,
}

/// What a driver is asked. Every answer is bounded by whoever implements it.
pub trait Gpus {
    /// How many there are.
    fn count(&self) -> Result<u32, String>;
    /// What the driver says about confidential computing.
    fn mode(&self) -> Result<Mode, String>;
    /// Universal id of one.
    fn uuid(&self, index: u32) -> Result<String, String>;
    /// The chain of the key that signs its reports, PEM.
    fn chain(&self, index: u32) -> Result<Vec<u8>, String>;
    /// A report in answer to `nonce`.
    fn report(&self, index: u32, nonce: [u8; 32]) -> Result<Vec<u8>, String>;
}

/// Evidence of one GPU, in the form NVIDIA's tools and `bailiwick inspect gpu` read.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// What was asked, hex.
    pub nonce: String,
    /// The report, base64.
    pub evidence: String,
    /// The chain, base64 of PEM.
    pub certificate: String,
    /// The driver's name for the GPU.
    pub uuid: String,
}

/// What came of asking all of them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Collected {
    /// The driver's word.
    pub mode: Result<Mode, String>,
    /// GPUs there are, and switches, where they make a set.
    pub count: Result<u32, String>,
    /// Of those asked, in order.
    pub evidence: Vec<Evidence>,
    /// Why not all were asked, if so.
    pub stopped: Option<String>,
}

/// The child's work. Where there is no library to ask, that is the answer.
#[must_use]
pub fn probe(library: Option<&Path>, nonce: [u8; 32]) -> Collected {
    match Loaded::open(library) {
        Ok(loaded) => collect(&loaded, nonce),
        Err(why) => Collected::nothing(&why),
    }
}

/// Asks a child of this program, which is killed when it is late. Nothing is asked again: whatever
/// it was doing, the next question waits for its time.
pub async fn ask(
    program: PathBuf,
    library: Option<&Path>,
    nonce: [u8; 32],
    patience: Duration,
) -> Collected {
    let mut args: Vec<OsString> = ["probe", "gpu", "--nonce"].map(OsString::from).into();
    args.push(hex::encode(nonce).into());
    if let Some(library) = library {
        args.push("--library".into());
        args.push(library.into());
    }
    let answer = run_bounded(program, args, patience, MAX_OUTPUT).await;
    let answer = answer.and_then(|output| {
        serde_json::from_slice(&output)
            .map_err(|err| format!("the probe's answer is not what it should be: {err}"))
    });
    answer.unwrap_or_else(|why| Collected::nothing(&why))
}

/// Asks the GPUs, and then their switches, where they make a set under Protected PCIe: each by a child of
/// its own, and no switch after a GPU that failed.
pub async fn ask_all(
    program: PathBuf,
    nvml: Option<&Path>,
    nscq: Option<&Path>,
    nonce: [u8; 32],
    patience: Duration,
) -> Collected {
    let mut collected = ask(program.clone(), nvml, nonce, patience).await;
    if collected.protected() && collected.stopped.is_none() {
        let switches = switches::ask(program, nscq, Some(nonce), patience).await;
        collected.join(switches);
    }
    collected
}

impl Collected {
    /// GPUs make a set with their switches.
    fn protected(&self) -> bool {
        let together = self.mode.as_ref().ok().map(|mode| &mode.multi_gpu);
        together == Some(&Ok(PROTECTED_PCIE))
    }

    /// Takes the switches of the set along: they count, as GPUs do.
    fn join(&mut self, switches: Switches) {
        if let (Ok(count), Ok(all)) = (&mut self.count, &switches.switches) {
            *count = count.saturating_add(u32::try_from(all.len()).unwrap_or(u32::MAX));
        }
        self.evidence.extend(switches.evidence);
        self.stopped = switches.stopped.map(|why| format!("switches: {why}"));
    }

    pub(crate) fn nothing(why: &str) -> Self {
        Self {
            mode: Err(why.to_owned()),
            count: Err(why.to_owned()),
            evidence: Vec::new(),
            stopped: Some(why.to_owned()),
        }
    }
}

/// Asks every GPU once, if confidential computing is on, until one fails.
pub fn collect(gpus: &dyn Gpus, nonce: [u8; 32]) -> Collected {
    let mut collected = Collected {
        mode: gpus.mode(),
        count: gpus.count(),
        evidence: Vec::new(),
        stopped: None,
    };
    // Protected PCIe is a mode of its own, in which confidential computing is said to be off.
    let protected = |mode: &Mode| mode.multi_gpu.as_ref().is_ok_and(|mode| *mode > 0);
    let on = collected
        .mode
        .as_ref()
        .is_ok_and(|mode| mode.enabled || protected(mode));
    let count = collected.count.as_ref().copied().unwrap_or_default();
    if !on {
        return collected;
    }
    if count > MAX_GPUS {
        collected.stopped = Some(format!("{count} GPUs: at most {MAX_GPUS} are asked"));
        return collected;
    }
    for index in 0..count {
        match one(gpus, index, nonce) {
            Ok(evidence) => collected.evidence.push(evidence),
            Err(why) => {
                collected.stopped = Some(format!("GPU {index}: {why}"));
                break;
            }
        }
    }
    collected
}

fn one(gpus: &dyn Gpus, index: u32, nonce: [u8; 32]) -> Result<Evidence, String> {
    let uuid = gpus.uuid(index)?;
    let chain = bounded("chain", gpus.chain(index)?, MAX_CHAIN)?;
    let report = bounded("report", gpus.report(index, nonce)?, MAX_REPORT)?;
    Ok(packed(uuid, nonce, &report, &chain))
}

fn packed(uuid: String, nonce: [u8; 32], report: &[u8], chain: &[u8]) -> Evidence {
    Evidence {
        nonce: hex::encode(nonce),
        evidence: STANDARD.encode(report),
        certificate: STANDARD.encode(chain),
        uuid,
    }
}

fn bounded(what: &str, bytes: Vec<u8>, most: usize) -> Result<Vec<u8>, String> {
    match bytes.len() {
        0 => Err(format!("an empty {what}")),
        len if len > most => Err(format!("a {what} of {len} bytes")),
        _ => Ok(bytes),
    }
}
