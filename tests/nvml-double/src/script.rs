//! What the double answers: one JSON file beside the library, read when it is initialised.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The file's name, behind the library's.
pub const SUFFIX: &str = ".json";
/// Behind the library's name: one line for each call about confidential computing.
pub const CALLS: &str = ".calls";
/// Behind the library's name: there once a request for a report or a certificate failed.
pub const TORN: &str = ".torn";

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It answers with this code and fills nothing in.
    Code(u32),
    /// It never answers.
    Hang,
    /// It says that it filled in more than its buffer holds.
    Oversized,
    /// It says that it filled in nothing.
    Empty,
    /// The process ends in it.
    Crash,
}

/// One GPU.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// `GPU-…`
    pub uuid: String,
    /// Of the board.
    pub serial: String,
    /// As people know it.
    pub name: String,
    /// `96.00.9F.00.01`
    pub vbios: String,
    /// `00000000:01:00.0`
    pub pci: String,
    /// The per-device identifier.
    pub pdi: u64,
    /// PEM.
    pub chain: PathBuf,
    /// A report: as it is, or, with a key, without its signature and under any nonce.
    pub report: PathBuf,
    /// PKCS#8 of the key that signs it; `None`: the report is a recorded one.
    pub key: Option<PathBuf>,
    /// Divided, now and after the next reset.
    pub mig: (u32, u32),
    /// Errors in memory are corrected, now and after the next reset.
    pub ecc: (u32, u32),
    /// Processes that compute on it, each time somebody asks; the last one stays.
    pub computing: Vec<u32>,
    /// Errors in memory that could not be corrected, likewise.
    pub errors: Vec<u64>,
    /// Percent of its time that it is busy.
    pub busy: u32,
    /// Degrees Celsius.
    pub degrees: u32,
    /// Millijoules since the driver was loaded, or the GPU reset.
    pub energy: u64,
    /// Rows of memory wait for a reset.
    pub remap_pending: bool,
    /// NVLinks it has; with none of them it knows of no such thing.
    pub links: u32,
    /// How many of those are up, from the first on, each time somebody asks; the last one stays.
    pub links_up: Vec<u32>,
    /// Why clocks are held down, in NVML's bits, likewise.
    pub throttled: Vec<u64>,
    /// Xid errors that come as soon as somebody listens.
    pub xids: Vec<u64>,
}

/// Where a computation goes wrong.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// In its result.
    Computed,
    /// In what memory kept.
    Kept,
    /// On the way within memory.
    Copied,
    /// On the way from the host.
    Arrived,
    /// On the way to the host.
    Returned,
}

/// Everything CUDA's half answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CudaScript {
    /// The GPUs, `GPU-…`.
    pub devices: Vec<String>,
    /// Bytes of memory that are free.
    pub free: u64,
    /// What is computed or moved wrongly.
    pub wrong: Option<Wrong>,
    /// What goes wrong, by the symbol.
    pub faults: BTreeMap<String, Fault>,
}

impl Default for CudaScript {
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            free: 80 << 30,
            wrong: None,
            faults: BTreeMap::new(),
        }
    }
}

/// One NVSwitch.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// `SWX-…`
    pub label: String,
    /// 0: SV10, 1: LR10, 2: LS10.
    pub arch: i8,
    /// -1 unknown, 0 off, 1 on, 2 failure, 3 on and locked.
    pub mode: i8,
    /// PEM.
    pub chain: PathBuf,
    /// As of a [`Device`].
    pub report: PathBuf,
    /// Likewise.
    pub key: Option<PathBuf>,
}

/// Everything NSCQ's half answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NscqScript {
    /// The switches.
    pub switches: Vec<Switch>,
    /// What goes wrong, by the symbol, or by what a path asks of a switch: `config/certificate`. Codes
    /// are written without their sign.
    pub faults: BTreeMap<String, Fault>,
}

/// Everything it answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// `550.90.07`
    pub driver: String,
    /// 0: simulated; of NVML: 0 unavailable, 1 SIM, 2 PROD.
    pub environment: u32,
    /// 1: confidential computing is on.
    pub feature: u32,
    /// 1: developers' mode.
    pub devtools: u32,
    /// 0 none, 1 Protected PCIe, 2 NVLE.
    pub multi_gpu: u32,
    /// 1: work is accepted.
    pub ready: u32,
    /// 0 none, 1 SEV, 2 TDX, 3 SEV-SNP.
    pub cpu: u32,
    /// The GPUs.
    pub devices: Vec<Device>,
    /// What goes wrong, by the symbol.
    pub faults: BTreeMap<String, Fault>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            driver: "550.90.07".to_owned(),
            environment: 2,
            feature: 1,
            devtools: 0,
            multi_gpu: 0,
            ready: 1,
            cpu: 3,
            devices: Vec::new(),
            faults: BTreeMap::new(),
        }
    }
}
