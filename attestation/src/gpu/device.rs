//! One device: its report, its chain, and whether they belong together.

use std::fmt;

use crate::crypto::VerifyError;
use crate::error::ParseError;
use crate::ids::UnixTime;
use crate::x509::{Bundle, Certificate};

use super::dice::{Dice, Fwid};
use super::opaque::Pdi;
use super::path::{Anchors, ChainRefused, check_remembering, outside_dates, p384_point};
use super::remembered::{GoodSignatures, Kind, once};
use super::report::{Report, ReportRefused};
use super::rim::Edition;

/// Certificates in the chain of a device: key of the firmware, key of the chip, two CAs, root.
pub const CHAIN_LENGTH: usize = 5;
/// `0x41` before the identifier in a chip certificate's serial number is a GPU's, `0x50` a switch's.
const SERIAL_PREFIXES: [u8; 2] = [0x41, 0x50];

/// How an inventory begins such an identifier.
pub const PDI_PREFIX: &str = "PDI-";

/// Evidence of one device, as it was received.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The report.
    pub report: &'a [u8],
    /// Its certificates, leaf first; `None`: none were given.
    pub chain: Option<&'a Bundle>,
    /// The nonce that whoever passed it on says it answers.
    pub stated_nonce: Option<[u8; 32]>,
}

/// What came of one check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Checked {
    /// Checked, and good.
    Good,
    /// Checked, and not.
    Bad,
    /// What it takes was not given.
    NotChecked,
}

impl Checked {
    /// `ok`, `bad`, `not-checked`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Bad => "bad",
            Self::NotChecked => "not-checked",
        }
    }
}

/// The firmware's digest in the report against that in the leaf certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FwidState {
    /// Equal.
    Match,
    /// Not equal, or the certificate has none.
    Mismatch,
    /// The report says nothing of it: drivers before 550 and switches never do.
    NotReported,
    /// There is no certificate, or no report.
    NotChecked,
}

impl FwidState {
    /// `match`, `mismatch`, `not-reported`, `not-checked`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Mismatch => "mismatch",
            Self::NotReported => "not-reported",
            Self::NotChecked => "not-checked",
        }
    }
}

/// Families whose evidence can be judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Architecture {
    /// GH100.
    Hopper,
    /// GB100 and its relatives, GB20x.
    Blackwell,
    /// The third NVSwitch, LS10.
    Ls10,
}

impl Architecture {
    /// `HOPPER`, `BLACKWELL`, `LS10`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hopper => "HOPPER",
            Self::Blackwell => "BLACKWELL",
            Self::Ls10 => "LS10",
        }
    }

    /// By the name of a chip: `GH100`, `GB100`, `LS_10`.
    fn of_chip(chip: &str) -> Option<Self> {
        match chip {
            "GH100" => Some(Self::Hopper),
            "LS10" => Some(Self::Ls10),
            _ if chip.starts_with("GB") => Some(Self::Blackwell),
            _ => None,
        }
    }

    /// By what the report says, which a switch says otherwise than a GPU.
    fn of_report(report: &Report<'_>) -> Option<Self> {
        match report.opaque.gpu_info {
            // Architecture as the chip's registers number it.
            Some(0x180) => Some(Self::Hopper),
            Some(0x1a0 | 0x1b0) => Some(Self::Blackwell),
            Some(_) => None,
            None => report.opaque.is_of_a_switch().then_some(Self::Ls10),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a device's evidence is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DeviceRefused {
    /// Not a report that can be judged.
    #[error("the report")]
    Report(#[source] ReportRefused),
    /// A certificate that cannot be read.
    #[error("certificate {place} of the chain")]
    Certificate {
        /// From 0, the leaf.
        place: usize,
        /// What is wrong with it.
        #[source]
        error: ParseError,
    },
    /// The chain.
    #[error("the chain")]
    Chain(#[source] ChainRefused),
    /// The leaf's key did not sign the report.
    #[error("the report's signature by the key of {leaf:?}")]
    Signature {
        /// Its label.
        leaf: String,
        /// Why.
        #[source]
        reason: VerifyError,
    },
    /// The report answers another challenge.
    #[error("the report answers {found}, and not {wanted}")]
    Nonce {
        /// Request nonce of the report, hex.
        found: String,
        /// What was asked, or what the evidence says was asked, hex.
        wanted: String,
    },
    /// The leaf's extension about its firmware.
    #[error("the firmware's digest in the leaf certificate")]
    Dice(#[source] ParseError),
    /// The report is of other firmware than the one that holds the key.
    #[error("FWID: the report has {found}, the certificate {}", .expected.as_deref().unwrap_or("none"))]
    Fwid {
        /// In the report, hex.
        found: String,
        /// In the certificate, hex.
        expected: Option<String>,
    },
    /// The key the leaf's was derived from is not the chip's.
    #[error("the leaf was derived from another key than that of {0:?}")]
    DeviceKey(String),
    /// The device says that it is open.
    #[error("the device is not secured, in recovery, or open to debugging: flags {0:#010b}")]
    Open(u8),
    /// Report and certificate are of different chips.
    #[error("the report is of {found}, the certificate of {expected}")]
    Architecture {
        /// In the report.
        found: Architecture,
        /// In the certificate.
        expected: Architecture,
    },
    /// A chip whose evidence nobody here knows how to judge.
    #[error("{0:?} is no chip that is known")]
    UnknownChip(String),
}

impl DeviceRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Report(refused) => refused.code(),
            Self::Certificate { .. } => "certificate-unreadable",
            Self::Chain(refused) => refused.code(),
            Self::Signature { .. } => "report-signature",
            Self::Nonce { .. } => "nonce-mismatch",
            Self::Dice(_) => "fwid-malformed",
            Self::Fwid { .. } => "fwid-mismatch",
            Self::DeviceKey(_) => "device-id-mismatch",
            Self::Open(_) => "device-debug",
            Self::Architecture { .. } => "arch-mismatch",
            Self::UnknownChip(_) => "unknown-architecture",
        }
    }
}

/// What a chip certificate says of whose it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The chip: `GH100`, `LS10`.
    pub chip: String,
    /// Serial number of the certificate.
    pub serial: Vec<u8>,
    /// The per-device identifier in it, where it has the shape of NVIDIA's.
    pub pdi: Option<Pdi>,
}

impl Identity {
    /// Reads the certificate of a chip, the second of its chain. `GH100 A01 GSP BROM` is of GH100;
    /// NVIDIA writes the switch `LS_10` here and LS10 elsewhere.
    #[must_use]
    pub fn of(chip: &Certificate) -> Self {
        let name = chip.subject().common_name();
        let first = name.split(' ').next().unwrap_or_default();
        let serial = chip.serial();
        let pdi = match serial.split_first() {
            Some((prefix, pdi)) if SERIAL_PREFIXES.contains(prefix) => pdi.try_into().ok(),
            _ => None,
        };
        Self {
            chip: first.replace('_', ""),
            serial: serial.to_vec(),
            pdi,
        }
    }

    /// As an inventory writes it: `PDI-` and 16 hex digits.
    #[must_use]
    pub fn inventory_name(&self) -> Option<String> {
        Some(format!("{PDI_PREFIX}{}", hex::encode(self.pdi?)))
    }
}

/// What is known of one device, check by check. No field stands for another; a verdict is for
/// whoever knows what is required.
#[derive(Clone, Debug)]
pub struct Device<'a> {
    /// What it says, if it can be read.
    pub report: Option<Report<'a>>,
    /// Certificates as given.
    pub certificates: &'a [Certificate],
    /// By whom the second certificate says it is.
    pub identity: Option<Identity>,
    /// By certificate, or, without one, by report.
    pub architecture: Option<Architecture>,
    /// The leaf's key signed the report.
    pub signature: Checked,
    /// The chain leads to an anchor, and all of it is valid.
    pub chain: Checked,
    /// Report and leaf name the same firmware.
    pub fwid: FwidState,
    /// All that is wrong.
    pub refused: Vec<DeviceRefused>,
}

impl Device<'_> {
    /// It is a switch.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.architecture == Some(Architecture::Ls10)
    }

    /// The kind of device, as reference values tell them apart.
    #[must_use]
    pub fn edition(&self) -> Edition {
        if self.is_switch() {
            Edition::Switch
        } else {
            Edition::Gpu
        }
    }

    /// The chip, as reference values spell it: what the report says, else the certificate's, else
    /// the first of its family.
    #[must_use]
    pub fn product(&self) -> Option<&str> {
        let said = self
            .report
            .as_ref()
            .and_then(|r| r.opaque.chip_info.as_deref());
        match self.architecture? {
            Architecture::Hopper => Some("GH100"),
            Architecture::Ls10 => Some("LS10"),
            Architecture::Blackwell => Some(said.unwrap_or("GB100")),
        }
    }

    /// Name under which NVIDIA keeps the reference values of the driver. Switches have none.
    #[must_use]
    pub fn driver_rim_id(&self) -> Option<String> {
        let version = self.report.as_ref()?.opaque.driver_version.as_deref()?;
        match self.architecture? {
            Architecture::Hopper => Some(format!("NV_GPU_DRIVER_GH100_{version}")),
            Architecture::Blackwell => {
                Some(format!("NV_GPU_CC_DRIVER_{}_{version}", self.product()?))
            }
            Architecture::Ls10 => None,
        }
    }

    /// Name under which NVIDIA keeps the reference values of VBIOS or switch firmware.
    #[must_use]
    pub fn vbios_rim_id(&self) -> Option<String> {
        let opaque = &self.report.as_ref()?.opaque;
        let version = opaque.vbios_version.as_deref()?.replace('.', "");
        let id = if self.is_switch() {
            // Reports of switches have no names for these: they are the same for all.
            format!("NV_SWITCH_BIOS_5612_0002_890_{version}")
        } else {
            let project = opaque.project.as_deref()?;
            let (sku, chip) = (opaque.project_sku.as_deref()?, opaque.chip_sku.as_deref()?);
            format!("NV_GPU_VBIOS_{project}_{sku}_{chip}_{version}")
        };
        Some(id.to_ascii_uppercase())
    }
}

/// Judges one device: its report, its chain under `anchors` at `at`, the firmware both name, and
/// `nonce`, if one was asked with. Nothing stops at the first refusal.
#[must_use]
pub fn judge<'a>(
    evidence: Evidence<'a>,
    anchors: &Anchors,
    nonce: Option<[u8; 32]>,
    at: UnixTime,
) -> Device<'a> {
    judge_remembering(evidence, anchors, nonce, at, None)
}

/// The same, sparing signatures that were good before.
#[must_use]
pub(crate) fn judge_remembering<'a>(
    evidence: Evidence<'a>,
    anchors: &Anchors,
    nonce: Option<[u8; 32]>,
    at: UnixTime,
    memory: Option<&GoodSignatures>,
) -> Device<'a> {
    let mut refused = Vec::new();
    let report = match Report::parse(evidence.report) {
        Ok(report) => Some(report),
        Err(error) => {
            refused.push(DeviceRefused::Report(error));
            None
        }
    };
    let mut device = Device {
        report,
        certificates: &[],
        identity: None,
        architecture: None,
        signature: Checked::NotChecked,
        chain: Checked::NotChecked,
        fwid: FwidState::NotChecked,
        refused,
    };
    if let Some(report) = &device.report {
        device.architecture = Architecture::of_report(report);
        let wanted = [nonce, evidence.stated_nonce];
        for wanted in wanted.iter().flatten().filter(|one| *one != report.nonce) {
            device.refused.push(DeviceRefused::Nonce {
                found: hex::encode(report.nonce),
                wanted: hex::encode(wanted),
            });
        }
    }
    if let Some(bundle) = evidence.chain {
        device.certificates = &bundle.certificates;
        judge_chain(bundle, anchors, at, memory, &mut device);
        // With a certificate missing, the first is perhaps not the leaf.
        if bundle.unreadable.is_empty() {
            if let Some(leaf) = bundle.certificates.first() {
                judge_leaf(leaf, evidence.report, memory, &mut device);
            }
            if let Some(chip) = bundle.certificates.get(1) {
                judge_chip(chip, &mut device);
            }
        }
    }
    device
}

fn judge_chain(
    bundle: &Bundle,
    anchors: &Anchors,
    at: UnixTime,
    memory: Option<&GoodSignatures>,
    device: &mut Device<'_>,
) {
    let before = device.refused.len();
    for (place, error) in &bundle.unreadable {
        device.refused.push(DeviceRefused::Certificate {
            place: *place,
            error: error.clone(),
        });
    }
    let chain = &bundle.certificates;
    let wrong = check_remembering(chain, CHAIN_LENGTH, anchors, memory);
    let dates = outside_dates(chain.iter().take(CHAIN_LENGTH), at);
    let wrong = wrong.into_iter().chain(dates).map(DeviceRefused::Chain);
    device.refused.extend(wrong);
    device.chain = if device.refused.len() == before {
        Checked::Good
    } else {
        Checked::Bad
    };
}

/// The leaf's key signed the report, which stands in `bytes`; the leaf's firmware is the report's.
fn judge_leaf(
    leaf: &Certificate,
    bytes: &[u8],
    memory: Option<&GoodSignatures>,
    device: &mut Device<'_>,
) {
    let Some(report) = &device.report else {
        return;
    };
    let verified = match leaf.key() {
        Ok(key) => {
            let point = p384_point(key).unwrap_or_default();
            once(memory, Kind::Report, &[point, bytes], || report.verify(key))
        }
        Err(_) => Err(VerifyError::KeyKind),
    };
    device.signature = Checked::Good;
    if let Err(reason) = verified {
        device.signature = Checked::Bad;
        device.refused.push(DeviceRefused::Signature {
            leaf: leaf.subject().label(),
            reason,
        });
    }
    let certified = match Dice::of(leaf) {
        Ok(dice) => dice.fwid,
        // Told below, with the rest of what the leaf says.
        Err(_) => None,
    };
    device.fwid = fwid_state(report.opaque.fwid, certified);
    if device.fwid == FwidState::Mismatch {
        device.refused.push(DeviceRefused::Fwid {
            found: hex::encode(report.opaque.fwid.unwrap_or([0; 48])),
            expected: certified.map(hex::encode),
        });
    }
}

fn fwid_state(reported: Option<Fwid>, certified: Option<Fwid>) -> FwidState {
    match (reported, certified) {
        (None, _) => FwidState::NotReported,
        (Some(reported), Some(certified)) if reported == certified => FwidState::Match,
        (Some(_), _) => FwidState::Mismatch,
    }
}

/// What the second certificate, the chip's, says; and what the leaf says of it.
fn judge_chip(chip: &Certificate, device: &mut Device<'_>) {
    let identity = Identity::of(chip);
    let certified = Architecture::of_chip(&identity.chip);
    let reported = device.architecture;
    match (certified, reported) {
        (None, _) => {
            let name = identity.chip.clone();
            device.refused.push(DeviceRefused::UnknownChip(name));
        }
        (Some(expected), Some(found)) if expected != found => {
            device
                .refused
                .push(DeviceRefused::Architecture { found, expected });
        }
        _ => {}
    }
    device.architecture = certified;
    device.identity = Some(identity);
    let Some(leaf) = device.certificates.first() else {
        return;
    };
    match Dice::of(leaf) {
        Ok(dice) => {
            let own = dice.device_key.as_ref();
            if own.is_some_and(|own| chip.key() != Ok(own)) {
                let name = chip.subject().label();
                device.refused.push(DeviceRefused::DeviceKey(name));
            }
            if dice.is_open() {
                let flags = dice.flags.unwrap_or_default();
                device.refused.push(DeviceRefused::Open(flags));
            }
        }
        Err(error) => device.refused.push(DeviceRefused::Dice(error)),
    }
}
