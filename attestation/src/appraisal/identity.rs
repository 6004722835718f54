//! Whose the evidence is, as far as it shows: chassis, devices, epoch, and whose word the AK is.

use std::collections::BTreeMap;
use std::fmt;

use super::{
    Subject,
    result::{AttestationResult, Deviation, Finding},
    signer::Signer,
    verify::VerifiedEvidence,
};
use crate::{
    cvm::is_chip_name,
    evidence::{ClaimValue, ParsedStatement},
    gpu::PDI_PREFIX,
    profile::Provenance,
};

/// Whose word it is that AK and EK live in one TPM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AkWord {
    /// An approver challenged both and signed so; who, as the approvers' file names them.
    Confirmed(String),
    /// The maker's: an IAK certified the AK, and its certificate names the inventory's chassis.
    Iak,
    /// There is no TPM: the processor bound the guest's key itself.
    Processor,
    /// The collector's alone.
    Collector,
}

impl AkWord {
    /// Somebody else than the collector says so.
    #[must_use]
    pub fn vouched(&self) -> bool {
        match self {
            Self::Confirmed(_) | Self::Iak | Self::Processor => true,
            Self::Collector => false,
        }
    }
}

impl fmt::Display for AkWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmed(by) => write!(f, "confirmed by {by}"),
            Self::Iak => f.write_str("iak"),
            Self::Processor => f.write_str("processor"),
            Self::Collector => f.write_str("collector's word"),
        }
    }
}

/// A GPU as NVML names it in one statement; either name may stand in the inventory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Device {
    /// `GPU-…`.
    pub uuid: Option<String>,
    /// The board's.
    pub serial: Option<String>,
    /// `PDI-` and the per-device identifier, which the chip's certificate has too.
    pub pdi: Option<String>,
}

impl Device {
    /// Its names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.uuid.iter().chain(&self.serial);
        names.chain(&self.pdi).map(String::as_str)
    }
}

/// The devices a statement names, or why it names none. All of it is NVML's word.
pub fn devices(statement: &ParsedStatement) -> Result<Vec<Device>, String> {
    match statement.claims.get("nvml.gpus") {
        None => return Err("not in the evidence".to_owned()),
        Some(ClaimValue::Unavailable(why)) => return Err(clip(why)),
        Some(_) => {}
    }
    let mut found: BTreeMap<&str, Device> = BTreeMap::new();
    for (name, value) in &statement.claims {
        let Some((index, field)) = name
            .strip_prefix("nvml.gpu.")
            .and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        let ClaimValue::Text(text) = value else {
            continue;
        };
        let device = found.entry(index).or_default();
        match field {
            "uuid" => device.uuid = Some(text.clone()),
            "serial" => device.serial = Some(text.clone()),
            "pdi" => device.pdi = Some(format!("PDI-{text}")),
            _ => {}
        }
    }
    Ok(found.into_values().collect())
}

fn clip(text: &str) -> String {
    text.chars().take(200).collect()
}

/// Holds the statement against what the inventory says this node is. `gpus_asked`: GPUs have to
/// show by themselves who they are.
pub(super) fn judge(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    subject: &Subject<'_>,
    gpus_asked: bool,
) {
    for deviation in [
        listed_ak(subject.signer, subject.listed_ak),
        epoch(evidence.statement.epoch, subject.epoch),
        chassis(
            evidence.statement.claims.get("chassis.serial"),
            subject.chassis_serial,
        ),
    ]
    .into_iter()
    .flatten()
    {
        result.deviate(deviation);
    }
    for deviation in held_against(&devices(&evidence.statement), subject, gpus_asked) {
        result.deviate(deviation);
    }
}

fn said(claim: &str, finding: Finding, code: &str, expected: String, found: String) -> Deviation {
    Deviation {
        claim: claim.to_owned(),
        finding,
        code: code.to_owned(),
        expected,
        found,
        provenance: (finding != Finding::Unchecked).then_some(Provenance::SelfReported),
    }
}

/// Where approvers named an AK, no other speaks for the node.
fn listed_ak(signer: Signer<'_>, listed: Option<&[u8]>) -> Option<Deviation> {
    let listed = listed?;
    let found = signer.name();
    if listed == found {
        return None;
    }
    Some(Deviation {
        claim: "node.ak".to_owned(),
        finding: Finding::Refused,
        code: "ak-not-of-node".to_owned(),
        expected: hex::encode(listed),
        found: hex::encode(found),
        provenance: Some(Provenance::OperatorSigned),
    })
}

/// A node that lost its log or AK may say so, and has no standing until an approver has looked:
/// not for its first statement alone, but for as long as nobody has.
fn epoch(found: u64, acknowledged: u64) -> Option<Deviation> {
    (found > acknowledged).then(|| {
        said(
            "evidence.epoch",
            Finding::Unchecked,
            "epoch-unacknowledged",
            format!("an epoch that an approver acknowledged, {acknowledged} at most"),
            format!("epoch {found}"),
        )
    })
}

/// DMI's word against the inventory's. Root can make DMI say anything: equal serials prove
/// nothing, and a profile cannot ask for more than `self-reported` of them.
fn chassis(claim: Option<&ClaimValue>, listed: Option<&str>) -> Option<Deviation> {
    let listed = listed?;
    let name = "node.chassis_serial";
    let unchecked = |why: String| {
        let code = "chassis-unavailable";
        Some(said(name, Finding::Unchecked, code, listed.to_owned(), why))
    };
    match claim {
        Some(ClaimValue::Text(found)) if found == listed => None,
        Some(ClaimValue::Text(found)) => Some(said(
            name,
            Finding::Refused,
            "chassis-serial",
            listed.to_owned(),
            clip(found),
        )),
        Some(ClaimValue::Unavailable(why)) => unchecked(format!("unavailable: {}", clip(why))),
        Some(_) => unchecked("not a text".to_owned()),
        None => unchecked("not in the evidence".to_owned()),
    }
}

/// NVML's word against the inventory's. Where nobody wrote devices down, none is missed.
fn held_against(
    found: &Result<Vec<Device>, String>,
    subject: &Subject<'_>,
    gpus_asked: bool,
) -> Vec<Deviation> {
    let name = "node.devices";
    let mut out = Vec::new();
    // Processors speak for themselves, or are not asked.
    let listed_gpus: Vec<String> = {
        let all = subject.devices.iter();
        all.filter(|name| !is_chip_name(name)).cloned().collect()
    };
    let found = match found {
        Ok(found) => found.as_slice(),
        Err(why) => {
            if !listed_gpus.is_empty() {
                out.push(said(
                    name,
                    Finding::Unchecked,
                    "devices-unavailable",
                    listed_gpus.join(", "),
                    why.clone(),
                ));
            }
            return out;
        }
    };
    let is_listed = |device: &Device| {
        let mut names = device.names();
        names.any(|name| listed_gpus.iter().any(|own| own == name))
    };
    let named = |listed: &str| {
        let mut names = found.iter().flat_map(Device::names);
        names.any(|name| name == listed)
    };
    // Older drivers tell nobody's.
    let no_pdis = found.iter().all(|device| device.pdi.is_none());
    for listed in &listed_gpus {
        if no_pdis && listed.starts_with(PDI_PREFIX) {
            if !gpus_asked {
                let why = "NVML tells no identifiers of chips".to_owned();
                let code = "devices-unavailable";
                out.push(said(name, Finding::Unchecked, code, listed.clone(), why));
            }
            continue;
        }
        if !named(listed) {
            out.push(said(
                name,
                Finding::Refused,
                "device-missing",
                listed.clone(),
                "not there".to_owned(),
            ));
        }
    }
    let of_others = subject.foreign_devices.iter();
    for (device, owner) in of_others.filter(|(device, _)| named(device)) {
        out.push(said(
            name,
            Finding::Refused,
            "device-of-another-node",
            format!("{device} at {owner}"),
            "it is here".to_owned(),
        ));
    }
    let foreign = |device: &Device| {
        let mut names = device.names();
        names.any(|name| {
            subject
                .foreign_devices
                .iter()
                .any(|(other, _)| other == name)
        })
    };
    // Whether a GPU is one of those listed by chip is for the GPUs to show, or not known, as said.
    let mut listed = listed_gpus.iter();
    let unknown = no_pdis && listed.any(|name| name.starts_with(PDI_PREFIX));
    for device in found {
        if !listed_gpus.is_empty() && !unknown && !is_listed(device) && !foreign(device) {
            let names: Vec<&str> = device.names().collect();
            out.push(said(
                name,
                Finding::Warning,
                "device-unlisted",
                "only devices of the inventory".to_owned(),
                clip(&names.join(", ")),
            ));
        }
    }
    out
}
