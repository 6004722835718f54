//! Where a GPU belongs: the identifier in its chip's certificate, held against the inventory.
//!
//! What NVML says of identifiers is judged beside the other words about devices. Here the chip's own
//! certificate speaks, and the key below it signed the report.

use super::super::{
    Subject,
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

impl Judged<'_> {
    /// GPUs that belong to another node, or not to this one, and those of this one that showed
    /// nothing. Asked for or not, a certificate that contradicts what approvers signed is refused.
    pub(super) fn placed(
        &self,
        subject: &Subject<'_>,
        profile: Option<&GpuProfile>,
    ) -> Vec<Deviation> {
        let all = subject.devices.iter().map(String::as_str);
        let listed: Vec<&str> = all.filter(|name| name.starts_with(PDI_PREFIX)).collect();
        let demanded = profile.is_some_and(|profile| profile.listed);
        let mut shown = Vec::new();
        let mut out = Vec::new();
        for (place, device) in self.devices().filter(|(_, device)| signed(device)) {
            let by = match self.not_hardware(device) {
                None => Provenance::HardwareSigned,
                Some(_) => Provenance::SelfReported,
            };
            let identity = device.identity.as_ref();
            let name = identity.and_then(|identity| identity.inventory_name());
            let label = name.as_deref().unwrap_or("no identifier");
            let others = &mut subject.foreign_devices.iter();
            let owner = others.find(|(device, _)| Some(device) == name.as_ref());
            let (finding, code, expected, found) = match owner {
                Some((_, owner)) => (
                    Finding::Refused,
                    "gpu-of-another-node",
                    "a GPU of this node".to_owned(),
                    format!("{label}, which the inventory gives to {owner}"),
                ),
                None if listed.contains(&label) => {
                    shown.push(name);
                    continue;
                }
                None if !listed.is_empty() => (
                    Finding::Refused,
                    "gpu-not-of-node",
                    listed.join(" or "),
                    label.to_owned(),
                ),
                None if demanded => (
                    Finding::Unchecked,
                    "gpu-unlisted",
                    "identifiers of GPUs (PDI) in the inventory".to_owned(),
                    format!("none, and {label} is here"),
                ),
                None => continue,
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
        let missing = listed
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
}
