//! The small sections.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::tpm::{AkKind, Bank, EkKind, Tcti};

/// `[peers]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeersSection {
    /// Addresses of workloads in other network namespaces; the host's own are found. What may be
    /// signed for, and for which study, say inventory and policy.
    pub addresses: Vec<IpAddr>,
}

/// `[tpm]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TpmSection {
    /// `device:PATH` or `swtpm:host=HOST,port=PORT`.
    pub tcti: Tcti,
    /// Endorsement key that names the TPM.
    pub ek: EkKind,
    /// Kind of AK, where there is none yet.
    pub ak: AkKind,
    /// Bank to quote.
    pub bank: Bank,
    /// PCRs to quote.
    pub pcrs: Vec<u8>,
    /// The maker's attestation key, where it provided one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iak: Option<Iak>,
}

/// `[tpm.iak]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Iak {
    /// Persistent handle, for example `0x81090000`.
    pub handle: u32,
    /// Its certificate and what else leads to the maker's root, leaf first: PEM or DER files, or
    /// NV indices as `nv:0x01c90000`.
    pub certificates: Vec<String>,
}

impl Default for TpmSection {
    fn default() -> Self {
        Self {
            tcti: Tcti::device(),
            ek: EkKind::default(),
            ak: AkKind::default(),
            bank: Bank::default(),
            // Firmware and boot (0 to 7), boot loader (8, 9), IMA (10), UKI (11 to 13), shim (14).
            pcrs: (0..=14).collect(),
            iak: None,
        }
    }
}

/// `[policy]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The first approvers, in OpenSSH's `allowed_signers` format; part of the machine's image.
    pub approvers: PathBuf,
    /// How many of them have to sign.
    pub threshold: u32,
}

/// `[spool]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolSection {
    /// Folder; default `spool` in the state folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Most bytes kept on disk for the collector.
    pub max_bytes: u64,
}

impl Default for SpoolSection {
    fn default() -> Self {
        Self {
            dir: None,
            max_bytes: 256 << 20,
        }
    }
}

/// `[evidence]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvidenceSection {
    /// Seconds between statements nobody asked for.
    pub interval_s: u64,
    /// Part of the interval by which each one is drawn earlier or later, 0 to 0.5.
    pub jitter: f64,
    /// Seconds between reports of GPUs under confidential computing, where nothing changes.
    pub gpu_interval_s: u64,
}

impl Default for EvidenceSection {
    fn default() -> Self {
        Self {
            interval_s: 60,
            jitter: 0.2,
            gpu_interval_s: 3600,
        }
    }
}

impl EvidenceSection {
    /// Time between statements, before jitter.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_s)
    }

    /// Time between reports of GPUs.
    #[must_use]
    pub const fn gpu_interval(&self) -> Duration {
        Duration::from_secs(self.gpu_interval_s)
    }
}

/// `[host]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSection {
    /// Root of procfs.
    pub proc: PathBuf,
    /// Root of sysfs.
    pub sys: PathBuf,
    /// NVML to ask for GPUs; default the loader's `libnvidia-ml.so.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvml: Option<PathBuf>,
    /// Where the kernel's modules and its devices' firmware lie, in `modules` and `firmware`.
    pub lib: PathBuf,
    /// Folders that hold studies' data: of each is told whether what lies below is encrypted.
    pub mounts: Vec<PathBuf>,
}

impl Default for HostSection {
    fn default() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
            sys: PathBuf::from("/sys"),
            nvml: None,
            lib: PathBuf::from("/lib"),
            mounts: Vec::new(),
        }
    }
}
