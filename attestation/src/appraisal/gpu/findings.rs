//! What falls short of `[gpu]`, each claim by itself.

use super::super::{
    result::{Deviation, Finding},
    verify::VerifiedEvidence,
};
use super::{Absent, Came, called};
use crate::{
    evidence::ClaimValue,
    gpu::{
        Answer, Architecture, Checked, CrlRefused, Device, DeviceRefused, Endorsements, FwidState,
        Mode, OcspRefused, Status, Topology,
        rim::{self, Comparison, Slot},
    },
    ids::UnixTime,
    profile::{GpuProfile, Provenance},
};

/// Drivers before this one name no firmware in their reports.
const FWID_SINCE: &str = "550";
/// Most characters of what others wrote.
const WORDS: usize = 300;
/// Most deviations of one kind that are told one by one.
const TOLD: usize = 8;

/// Everything there is to judge by.
pub(super) struct Judged<'a> {
    pub(super) evidence: &'a VerifiedEvidence,
    pub(super) came: &'a Came,
    pub(super) answer: &'a Answer<'a>,
    pub(super) rims: &'a [(Slot, rim::Checked)],
    /// Which roots are NVIDIA's.
    pub(super) endorsements: &'a Endorsements,
    /// By the TPM's clock, or the kernel's of a guest without one; `None`: nobody can tell when the GPUs were asked.
    pub(super) age_ms: Option<u64>,
    pub(super) now: UnixTime,
}

fn clip(text: &str) -> String {
    text.chars().take(WORDS).collect()
}

/// No reports to look at.
pub(super) fn absent(absent: &Absent, evidence: &VerifiedEvidence) -> Deviation {
    let (finding, code, found) = match absent {
        Absent::NotCited => match evidence.statement.claims.get("nvml.reports") {
            Some(ClaimValue::Unavailable(why)) => {
                let why = format!("unavailable: {}", clip(why));
                (Finding::Unchecked, "gpu-unavailable", why)
            }
            // Leaving it out must not be worth more than doing it wrongly.
            _ => (
                Finding::Refused,
                "gpu-missing",
                "not in the evidence".to_owned(),
            ),
        },
        Absent::NotKept => {
            let found = "cited, and nobody has them".to_owned();
            (Finding::Unchecked, "gpu-not-kept", found)
        }
        Absent::Malformed(why) => (Finding::Refused, "gpu-malformed", (*why).to_owned()),
    };
    Deviation {
        claim: "gpu.reports".to_owned(),
        finding,
        code: code.to_owned(),
        expected: "reports of all GPUs".to_owned(),
        found,
        provenance: None,
    }
}

/// Collects deviations.
struct Told(Vec<Deviation>);

impl Told {
    fn add(&mut self, claim: &str, finding: Finding, code: &str, expected: String, found: String) {
        self.from(claim, finding, code, expected, found, None);
    }

    fn refuse(&mut self, claim: &str, code: &str, expected: String, found: String, by: Provenance) {
        self.from(claim, Finding::Refused, code, expected, found, Some(by));
    }

    fn from(
        &mut self,
        claim: &str,
        finding: Finding,
        code: &str,
        expected: String,
        found: String,
        provenance: Option<Provenance>,
    ) {
        self.0.push(Deviation {
            claim: format!("gpu.{claim}"),
            finding,
            code: code.to_owned(),
            expected,
            found,
            provenance,
        });
    }
}

impl Judged<'_> {
    /// Why a device is not shown to be hardware; `None`: it is.
    pub(super) fn not_hardware(&self, device: &Device<'_>) -> Option<String> {
        let refused = |wanted: fn(&DeviceRefused) -> bool| device.refused.iter().any(wanted);
        if device.chain != Checked::Good {
            return Some("its chain leads to no root of NVIDIA's".to_owned());
        }
        if !self.endorsements.is_hardware(device.certificates.last()) {
            return Some("a root that is not NVIDIA's vouches for it".to_owned());
        }
        if refused(|why| matches!(why, DeviceRefused::Nonce { .. })) {
            return Some("a report that answers another challenge, played again".to_owned());
        }
        if device.signature != Checked::Good {
            return Some("its key did not sign the report".to_owned());
        }
        let other = device.refused.first()?;
        Some(format!("{}: {}", other.code(), clip(&other.to_string())))
    }

    /// All that falls short.
    pub(super) fn against(&self, profile: &GpuProfile) -> Vec<Deviation> {
        let mut told = Told(Vec::new());
        self.presence(profile, &mut told);
        self.age(profile, &mut told);
        for (place, device) in self.answer.devices.iter().enumerate() {
            self.one(place, device, profile, &mut told);
        }
        self.set(profile, &mut told);
        self.disagreements(&mut told);
        told.0
    }

    /// As many as there should be, all asked, in the mode asked for.
    fn presence(&self, profile: &GpuProfile, told: &mut Told) {
        let came = &self.came.reports;
        let reports = came.reports.len();
        if let Some(mode) = came.mode {
            let off = !mode.enabled && mode.multi_gpu.unwrap_or_default() == 0;
            if off {
                let found = "off, as the driver says".to_owned();
                told.refuse(
                    "mode",
                    "gpu-mode",
                    "confidential computing on".to_owned(),
                    found,
                    Provenance::SelfReported,
                );
            }
            if mode.devtools && !profile.devtools {
                let found = "on: the GPUs can be debugged".to_owned();
                told.refuse(
                    "devtools",
                    "gpu-devtools",
                    "developers' mode off".to_owned(),
                    found,
                    Provenance::SelfReported,
                );
            }
        }
        if !came.stopped.is_empty() {
            let found = clip(&came.stopped);
            let wanted = "reports of all GPUs".to_owned();
            told.add("reports", Finding::Refused, "gpu-not-proven", wanted, found);
        } else if came.count.and_then(|count| usize::try_from(count).ok()) != Some(reports) {
            let all = came
                .count
                .map_or_else(|| "an unknown number".to_owned(), |n| n.to_string());
            let found = format!("{reports} of {all}");
            let wanted = "reports of all GPUs".to_owned();
            told.add("reports", Finding::Refused, "gpu-not-proven", wanted, found);
        }
        let wanted = profile.count.and_then(|count| usize::try_from(count).ok());
        // Switches come along with a set and are counted by its topology.
        let gpus = self.answer.devices.iter();
        let gpus = gpus.filter(|device| !device.is_switch()).count();
        let enough = wanted.map_or(gpus > 0, |wanted| wanted == gpus);
        if !enough {
            let expected = wanted.map_or_else(|| "at least 1".to_owned(), |n| n.to_string());
            told.add(
                "reports",
                Finding::Refused,
                "gpu-count",
                expected,
                gpus.to_string(),
            );
        }
    }

    fn age(&self, profile: &GpuProfile, told: &mut Told) {
        let most = profile.max_age_seconds;
        let wanted = format!("at most {most} seconds");
        match self.age_ms {
            // Asked before the collector knew: nobody can tell how old it is.
            None => told.add(
                "age_seconds",
                Finding::Unchecked,
                "gpu-unanchored",
                wanted,
                "made for a challenge that no accepted statement of this boot answered".to_owned(),
            ),
            Some(age) if age / 1000 > u64::from(most) => {
                let found = match self.evidence.alone() {
                    false => format!("{} seconds", age / 1000),
                    true => format!("{} seconds by its kernel's clock", age / 1000),
                };
                let by = self.age_by();
                told.refuse("age_seconds", "gpu-report-old", wanted, found, by);
            }
            Some(_) => {}
        }
    }

    fn one(&self, place: usize, device: &Device<'_>, profile: &GpuProfile, told: &mut Told) {
        let name = called(self.came, place);
        let own = |field: &str| format!("{place}.{field}");
        let proven = self.not_hardware(device);
        if let Some(why) = &proven {
            told.add(
                &own("hardware"),
                Finding::Refused,
                "not-hardware",
                "a GPU that proves itself under NVIDIA's root".to_owned(),
                format!("{name}: not hardware: {why}"),
            );
        }
        for why in &device.refused {
            let mut text = why.to_string();
            let mut source = std::error::Error::source(why);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            told.add(
                &own("report"),
                Finding::Refused,
                why.code(),
                "a report that verifies".to_owned(),
                format!("{name}: {}", clip(&text)),
            );
        }
        let by = match proven {
            None => Provenance::HardwareSigned,
            Some(_) => Provenance::SelfReported,
        };
        self.said(place, device, profile, by, told);
        if device.fwid == FwidState::NotReported && names_firmware(device) {
            let found = format!("{name}: the report does not name it");
            let wanted = "the firmware that holds the key".to_owned();
            told.refuse(&own("firmware"), "fwid-not-reported", wanted, found, by);
        }
        if profile.measurements {
            let comparison = self.answer.comparisons.get(place).and_then(Option::as_ref);
            match comparison {
                Some(comparison) => self.measured(place, device, comparison, profile, told),
                None => told.add(
                    &own("measurements"),
                    Finding::Unchecked,
                    "measurements-unread",
                    "measurements among reference values".to_owned(),
                    format!("{name}: none that can be read"),
                ),
            }
        }
        self.revocation(place, device, profile, told);
    }

    /// What the device says of itself, against what may be.
    fn said(
        &self,
        place: usize,
        device: &Device<'_>,
        profile: &GpuProfile,
        by: Provenance,
        told: &mut Told,
    ) {
        if device.is_switch() {
            // These conditions are on GPUs; what a switch says is held against them as a set.
            return;
        }
        let name = called(self.came, place);
        let none = || "nothing".to_owned();
        let mut refuse = |field: &str, code: &str, expected: String, found: Option<String>| {
            let found = format!("{name}: {}", found.unwrap_or_else(none));
            told.refuse(&format!("{place}.{field}"), code, expected, found, by);
        };
        let opaque = device.report.as_ref().map(|report| &report.opaque);
        let mode = opaque.and_then(|opaque| opaque.mode());
        if let Some(wanted) = &profile.modes
            && !mode.is_some_and(|mode| wanted.contains(&mode))
        {
            let wanted: Vec<&str> = wanted.iter().map(|mode| mode.name()).collect();
            let found = mode.map(|mode| mode.name().to_owned());
            refuse("mode", "gpu-mode", wanted.join(" or "), found);
        }
        if let Some(wanted) = &profile.architectures
            && !device
                .architecture
                .is_some_and(|found| wanted.contains(&found))
        {
            let names: Vec<&str> = wanted.iter().map(|one| one.name()).collect();
            let found = device.architecture.map(|found| found.name().to_owned());
            refuse(
                "architecture",
                "gpu-architecture",
                names.join(" or "),
                found,
            );
        }
        for (field, code, range, found) in [
            (
                "driver",
                "gpu-driver",
                &profile.driver,
                opaque.and_then(|opaque| opaque.driver_version.as_deref()),
            ),
            (
                "vbios",
                "gpu-vbios",
                &profile.vbios,
                opaque.and_then(|opaque| opaque.vbios_version.as_deref()),
            ),
        ] {
            if !range.hold(found.unwrap_or_default()) {
                refuse(field, code, range.to_string(), found.map(clip));
            }
        }
    }

    fn measured(
        &self,
        place: usize,
        device: &Device<'_>,
        comparison: &Comparison,
        profile: &GpuProfile,
        told: &mut Told,
    ) {
        let name = called(self.came, place);
        let claim = format!("{place}.measurements");
        for slot in comparison.missing(device.edition()) {
            let id = match slot {
                Slot::Driver => device.driver_rim_id(),
                Slot::Vbios => device.vbios_rim_id(),
            };
            let id = id.unwrap_or_else(|| "reference values".to_owned());
            told.add(
                &claim,
                Finding::Unchecked,
                "rim-missing",
                format!("{} among the endorsements", clip(&id)),
                format!("{name}: none that will do"),
            );
        }
        for index in &comparison.conflict {
            let found = format!("{name}: driver and VBIOS both claim measurement {index}");
            let wanted = "reference values that agree".to_owned();
            told.add(&claim, Finding::Refused, "rim-conflict", wanted, found);
        }
        let more = comparison.mismatched.len().saturating_sub(TOLD);
        for one in comparison.mismatched.iter().take(TOLD) {
            let expected: Vec<String> = one.expected.iter().map(hex::encode).collect();
            let found = one
                .found
                .as_ref()
                .map_or_else(|| "none".to_owned(), hex::encode);
            told.add(
                &claim,
                Finding::Refused,
                "measurement-mismatch",
                clip(&format!("{} ({})", expected.join(" or "), one.name)),
                format!("{name}, measurement {}: {found}", one.index),
            );
        }
        if more > 0 {
            let found = format!("{name}: {more} more");
            let wanted = "measurements among reference values".to_owned();
            told.add(
                &claim,
                Finding::Refused,
                "measurement-mismatch",
                wanted,
                found,
            );
        }
        let uncovered = comparison.uncovered_nonzero.iter().copied();
        let uncovered = uncovered.filter(|index| !profile.uncovered.contains(index));
        let uncovered: Vec<u8> = uncovered.collect();
        // Where reference values are missing, they are missed by name.
        if !uncovered.is_empty() && comparison.missing(device.edition()).is_empty() {
            let found = format!("{name}: {uncovered:?} are not zero");
            let wanted = "reference values for all that is measured".to_owned();
            told.add(
                &claim,
                Finding::Warning,
                "uncovered-measurement",
                wanted,
                found,
            );
        }
        self.expired_signers(&name, &claim, comparison, profile, told);
    }

    fn expired_signers(
        &self,
        name: &str,
        claim: &str,
        comparison: &Comparison,
        profile: &GpuProfile,
        told: &mut Told,
    ) {
        for (slot, place) in [
            (Slot::Driver, comparison.driver),
            (Slot::Vbios, comparison.vbios),
        ] {
            // Places are among those of their slot.
            let mut of_slot = self.rims.iter().filter(|(own, _)| *own == slot);
            let used = place.and_then(|place| of_slot.nth(place));
            if used.is_some_and(|(_, rim)| rim.signer_valid == Some(false)) && !profile.expired_rims
            {
                told.add(
                    claim,
                    Finding::Refused,
                    "rim-signer-expired",
                    "reference values whose signer's certificate counts".to_owned(),
                    format!("{name}: one that has run out"),
                );
            }
        }
    }

    fn revocation(&self, place: usize, device: &Device<'_>, profile: &GpuProfile, told: &mut Told) {
        let name = called(self.came, place);
        let claim = format!("{place}.revocation");
        let Some(most) = profile.revocation_seconds else {
            return;
        };
        // Neither the leaf, which is made anew at each start, nor the root has anybody to say so.
        let between = device.certificates.iter().skip(1).take(3);
        for certificate in between {
            let mut about = self.answer.revocation.iter();
            let fresh = about.any(|one| {
                one.subject == certificate
                    && one.status == Status::Good
                    && self.now.secs().saturating_sub(one.this_update.secs()) <= u64::from(most)
            });
            if !fresh {
                told.add(
                    &claim,
                    Finding::Unchecked,
                    "revocation-unknown",
                    format!("a response or a list of the last {most} seconds"),
                    format!("{name}: none about {:?}", certificate.subject().label()),
                );
            }
        }
    }

    /// What they are together, and what is known to be revoked.
    fn set(&self, profile: &GpuProfile, told: &mut Told) {
        let responses = self.answer.ocsp_refused.iter().map(|(_, why)| why);
        let responses = responses.filter(|why| matches!(why, OcspRefused::Revoked { .. }));
        let lists = self.answer.crl_refused.iter().map(|(_, why)| why);
        let lists = lists.filter(|why| matches!(why, CrlRefused::Revoked { .. }));
        let revoked = responses
            .map(|why| (why.code(), why.to_string()))
            .chain(lists.map(|why| (why.code(), why.to_string())));
        for (code, text) in revoked {
            let wanted = "certificates that are not revoked".to_owned();
            told.add("revocation", Finding::Refused, code, wanted, clip(&text));
        }
        self.unsigned(told);
        for why in &self.answer.topology_refused {
            let wanted = "GPUs and switches that name each other".to_owned();
            told.add(
                "topology",
                Finding::Refused,
                why.code(),
                wanted,
                clip(&why.to_string()),
            );
        }
        if self.answer.topology == Some(Topology::Incomplete)
            && profile.modes.as_deref() == Some(&[Mode::ProtectedPcie])
        {
            told.add(
                "topology",
                Finding::Unchecked,
                "topology-incomplete",
                "reports of the switches, too".to_owned(),
                "none came".to_owned(),
            );
        }
    }

    /// Responses about these certificates that are nobody's word. They neither revoke nor vouch;
    /// that somebody brought them is for a person to look at.
    fn unsigned(&self, told: &mut Told) {
        let all = self.answer.ocsp_refused.iter().map(|(_, why)| why);
        let all = all.filter(|why| matches!(why, OcspRefused::Signature { .. }));
        for why in all.take(TOLD) {
            let wanted = "responses that the issuer or its responder signed".to_owned();
            let found = clip(&why.to_string());
            told.add("revocation", Finding::Warning, why.code(), wanted, found);
        }
    }

    /// What NVML and `/proc` say, against what the devices signed.
    fn disagreements(&self, told: &mut Told) {
        let claims = &self.evidence.statement.claims;
        let text = |name: &str| match claims.get(name) {
            Some(ClaimValue::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let mut differ = |place: usize, what: &str, signed: Option<&str>, source: &str| {
            let (Some(signed), Some(said)) = (signed, text(source)) else {
                return;
            };
            if !signed.eq_ignore_ascii_case(said) {
                let name = called(self.came, place);
                told.refuse(
                    &format!("{place}.{what}"),
                    "gpu-disagreement",
                    format!("{name}: {}, as it signed", clip(signed)),
                    format!("{}, as {source} says", clip(said)),
                    Provenance::SelfReported,
                );
            }
        };
        for (place, device) in self.answer.devices.iter().enumerate() {
            let opaque = device.report.as_ref().map(|report| &report.opaque);
            let driver = opaque.and_then(|it| it.driver_version.as_deref());
            differ(place, "driver", driver, "nvml.driver-version");
            differ(place, "driver", driver, "nvidia.driver-version");
            let Some(index) = self.index_of(place) else {
                continue;
            };
            let vbios = opaque.and_then(|it| it.vbios_version.as_deref());
            differ(place, "vbios", vbios, &format!("nvml.gpu.{index}.vbios"));
            let pdi = device.identity.as_ref().and_then(|it| it.pdi);
            let pdi = pdi.map(hex::encode);
            differ(
                place,
                "pdi",
                pdi.as_deref(),
                &format!("nvml.gpu.{index}.pdi"),
            );
        }
    }

    /// The number under which NVML has the device that gave this report.
    fn index_of(&self, place: usize) -> Option<usize> {
        let uuid = &self.came.reports.reports.get(place)?.uuid;
        let claims = &self.evidence.statement.claims;
        (0..self.answer.devices.len()).find(|index| {
            let name = format!("nvml.gpu.{index}.uuid");
            matches!(claims.get(&name), Some(ClaimValue::Text(own)) if own == uuid)
        })
    }
}

/// Blackwell always does, and Hopper under drivers from 550 on.
fn names_firmware(device: &Device<'_>) -> bool {
    let opaque = device.report.as_ref().map(|report| &report.opaque);
    let driver = opaque.and_then(|it| it.driver_version.as_deref());
    let major = driver
        .and_then(|driver| driver.split('.').next())
        .unwrap_or_default();
    device.architecture == Some(Architecture::Blackwell)
        || (major.len(), major) >= (FWID_SINCE.len(), FWID_SINCE)
}
