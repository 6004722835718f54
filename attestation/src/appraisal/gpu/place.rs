//! Where a GPU belongs: the identifier in its chip's certificate, held against the inventory.
//!
//! What NVML says of identifiers is judged beside the other words about devices. Here the chip's own
//! certificate speaks, and the key below it signed the report.

use std::collections::BTreeSet;

use super::super::{
    Subject,
    identity::devices,
    result::{Deviation, Finding},
};
use super::{called, findings::Judged};
use crate::gpu::{Checked, Device, PDI_PREFIX};
use crate::profile::{GpuProfile, Provenance};

/// Its chain leads to a root that is trusted, and its key signed what came. What the report
/// answers does not matter here: one that is played again is of somebody's GPU.
fn signed(device: &Device<'_>) -> bool {
    (device.chain, device.signature) == (Checked::Good, Checked::Good)
}

/// Where a GPU is listed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Listed {
    /// By the identifier in its chip's certificate.
    Chip,
    /// By a name that NVML has for it, which no other GPU here goes by.
    Name,
    /// Not at all.
    No,
}

impl Judged<'_> {
    /// GPUs that belong to another node, or not to this one, and those of this one that showed
    /// nothing. Asked for or not, a certificate that contradicts what approvers signed is refused.
    pub(super) fn placed(
        &self,
        subject: &Subject<'_>,
        profile: Option<&GpuProfile>,
    ) -> Vec<Deviation> {
        let all = subject.devices.iter().map(String::as_str);
        let chips: Vec<&str> = all.filter(|name| name.starts_with(PDI_PREFIX)).collect();
        let demanded = profile.is_some_and(|profile| profile.listed);
        let listed = self.listed(subject.devices);
        let mut shown = Vec::new();
        let mut out = Vec::new();
        for (place, device) in self.devices().filter(|(_, device)| signed(device)) {
            let by = match self.not_hardware(device) {
                None => Provenance::HardwareSigned,
                Some(_) => Provenance::SelfReported,
            };
            let name = chip(device);
            let label = name.as_deref().unwrap_or("no identifier");
            let others = &mut subject.foreign_devices.iter();
            let owner = others.find(|(device, _)| Some(device) == name.as_ref());
            let listed = listed.get(place).copied().unwrap_or(Listed::No);
            let (finding, code, expected, found) = match (owner, listed) {
                (Some((_, owner)), _) => (
                    Finding::Refused,
                    "gpu-of-another-node",
                    "a GPU of this node".to_owned(),
                    format!("{label}, which the inventory gives to {owner}"),
                ),
                (None, Listed::Chip) => {
                    shown.push(name);
                    continue;
                }
                (None, Listed::No) if !chips.is_empty() => (
                    Finding::Refused,
                    "gpu-not-of-node",
                    subject.devices.join(" or "),
                    label.to_owned(),
                ),
                (None, _) if demanded => (
                    Finding::Unchecked,
                    "gpu-unlisted",
                    "identifiers of GPUs (PDI) in the inventory".to_owned(),
                    format!("none, and {label} is here"),
                ),
                (None, _) => continue,
            };
            out.push(Deviation {
                claim: format!("gpu.{place}.pdi"),
                finding,
                code: code.to_owned(),
                expected,
                found: format!("{}: {found}", called(self.came, place)),
                provenance: (finding == Finding::Refused).then_some(by),
            });
        }
        let missing = chips
            .into_iter()
            .filter(|listed| !shown.iter().flatten().any(|name| name == listed));
        if profile.is_some() {
            out.extend(missing.map(|listed| Deviation {
                claim: "gpu.reports".to_owned(),
                finding: Finding::Refused,
                code: "gpu-of-node-missing".to_owned(),
                expected: format!("a report of {listed}"),
                found: "none that verifies".to_owned(),
                provenance: None,
            }));
        }
        out
    }

    /// How each device is listed, in the order of the answer. A name of NVML's counts for one of
    /// them, or any number of GPUs could go by that of one: first for the one whose chip is listed,
    /// then for whichever comes first.
    fn listed(&self, names: &[String]) -> Vec<Listed> {
        let nvml = devices(&self.evidence.statement).unwrap_or_default();
        let own = |place: usize| -> Vec<&str> {
            let report = self.came.reports.reports.get(place);
            let uuid = report.map_or("", |report| report.uuid.as_str());
            let same = nvml.iter().find(|one| one.uuid.as_deref() == Some(uuid));
            let serial = same.and_then(|one| one.serial.as_deref());
            let both = [Some(uuid), serial].into_iter().flatten();
            both.filter(|name| names.iter().any(|listed| listed == name))
                .collect()
        };
        let by_chip = |device: &Device<'_>| {
            signed(device) && chip(device).is_some_and(|name| names.contains(&name))
        };
        let mut taken: BTreeSet<&str> = BTreeSet::new();
        for (place, _) in self.devices().filter(|(_, device)| by_chip(device)) {
            taken.extend(own(place));
        }
        let each = self.devices().map(|(place, device)| {
            if by_chip(device) {
                return Listed::Chip;
            }
            let own = own(place);
            if own.is_empty() || own.iter().any(|name| taken.contains(name)) {
                return Listed::No;
            }
            taken.extend(own);
            Listed::Name
        });
        each.collect()
    }
}

/// What the certificate of its chip names it.
fn chip(device: &Device<'_>) -> Option<String> {
    device.identity.as_ref()?.inventory_name()
}
