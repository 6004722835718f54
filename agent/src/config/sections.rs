//! The small sections.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::collect::oq::Baseline;
use crate::tpm::{AkKind, Bank, EkKind, Tcti};

/// `signer`: with what this node's statements are signed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SignedBy {
    /// Quotes of its TPM.
    #[default]
    Tpm,
    /// Reports of the processor that runs it as a confidential guest. No TPM is opened.
    Tee,
}

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
    /// Persistent handle of a key that is the AK, in place of one of ours: what keeps a vTPM beside a
    /// guest vouches for its own key alone (Azure's lies at `0x81000003`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ak_handle: Option<u32>,
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
            ak_handle: None,
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
    /// NSCQ to ask for NVSwitches; default the loader's `libnvidia-nscq.so.2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nscq: Option<PathBuf>,
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
            nscq: None,
            lib: PathBuf::from("/lib"),
            mounts: Vec::new(),
        }
    }
}

/// `[tee]`: who is asked for reports on the confidential guest this node runs in, if it is one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeeSection {
    /// configfs-tsm, where the kernel has it.
    pub reports: PathBuf,
    /// AMD's device, where it has not.
    pub device: PathBuf,
    /// Where the key of a guest without a TPM outlives a restart of the agent: in memory (tmpfs,
    /// ramfs), for the boot. Read where `signer = "tee"`.
    pub key: PathBuf,
}

impl Default for TeeSection {
    fn default() -> Self {
        Self {
            reports: PathBuf::from("/sys/kernel/config/tsm/report"),
            device: PathBuf::from("/dev/sev-guest"),
            key: PathBuf::from("/run/bailiwick-agent/guest-key"),
        }
    }
}

/// `[oq]`: operational qualification, the small computation that GPUs are tried with.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct OqSection {
    /// Try GPUs after boot, when the driver says something else than before, and each `interval_s`.
    pub enabled: bool,
    /// CUDA's driver API; default the loader's `libcuda.so.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda: Option<PathBuf>,
    /// Most of each GPU's memory that is taken, MiB; a twentieth of what is free at the most.
    pub memory_mib: u64,
    /// Most time for all GPUs.
    pub seconds: u64,
    /// Seconds after which GPUs are tried again.
    pub interval_s: u64,
    /// What was measured when the GPUs were taken into use, one for each mode. Without one for the
    /// mode they are in, nothing has passed.
    #[serde(rename = "baseline", skip_serializing_if = "Vec::is_empty")]
    pub baselines: Vec<Baseline>,
}

impl Default for OqSection {
    fn default() -> Self {
        Self {
            enabled: false,
            cuda: None,
            memory_mib: 1024,
            seconds: 20,
            interval_s: 86_400,
            baselines: Vec::new(),
        }
    }
}

impl OqSection {
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, value, range) in [
            ("oq.memory_mib", self.memory_mib, 16..=1024),
            ("oq.seconds", self.seconds, 1..=600),
            ("oq.interval_s", self.interval_s, 600..=31_536_000),
        ] {
            if !range.contains(&value) {
                let (least, most) = range.into_inner();
                return Err((key, format!("must lie within {least} and {most}")));
            }
        }
        for (at, one) in self.baselines.iter().enumerate() {
            let earlier = self.baselines.iter().take(at);
            let fault = if !OQ_MODES.contains(&one.mode.as_str()) {
                format!("mode {:?} is none of {}", one.mode, OQ_MODES.join(", "))
            } else if earlier.clone().any(|it| it.mode == one.mode) {
                format!("mode {:?} is there twice", one.mode)
            } else if !(one.tolerance > 0.0 && one.tolerance < 1.0) {
                "tolerance must lie between 0 and 1".to_owned()
            } else if [one.to_device_mb_s, one.to_host_mb_s, one.within_mb_s].contains(&0) {
                "no figure can be 0".to_owned()
            } else {
                continue;
            };
            return Err(("oq.baseline", fault));
        }
        Ok(())
    }
}

/// Modes of confidential computing, in each of which bytes move at another speed.
const OQ_MODES: [&str; 4] = ["off", "on", "devtools", "protected-pcie"];
