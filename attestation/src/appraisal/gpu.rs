//! GPUs: their reports held against roots, challenge, reference values and profile.
//!
//! What a profile without `[gpu]` sees is recorded and not judged. A claim is `hardware-signed`
//! only if NVIDIA's root vouches for the key that signed it, in answer to a challenge of the
//! collector; all else is somebody's word, a double's for instance.

mod findings;
mod place;

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::{
    Boot, Previous, Reference, Subject,
    claims::Found,
    result::{AppraisedClaim, AttestationResult},
    verify::VerifiedEvidence,
};
use crate::{
    evidence::{Freshness, GpuCitation, Nonce, gpu_nonce},
    gpu::{
        self, Asked, Checked, Device, Evidence,
        rim::{Comparison, Slot},
    },
    ids::{Sha256Digest, UnixTime},
    profile::{Provenance, Value},
    proto::v1,
    x509::Bundle,
};
use findings::Judged;

/// How the claims of this part begin; no node makes one of them.
pub(super) const PREFIX: &str = "gpu.";
/// How they compare with reference values.
const MEASUREMENTS: &str = "measurements";
/// Most devices looked at: no machine has as many.
const MAX_DEVICES: usize = 64;

/// Reports that answered a challenge which a statement answered, too: when that was, on the TPM's
/// clock, or on the kernel's of a guest without one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GpuAnchor {
    /// SHA-256 of the reports, as cited.
    pub reports: Sha256Digest,
    /// The challenge.
    pub challenge: Nonce,
    /// The TPM's clock when that statement was quoted, ms; `CLOCK_BOOTTIME` of a guest without one when
    /// it was put together.
    pub clock_ms: u64,
    /// Its boot; zero in a guest without a TPM, whose boot id and key have to be the same.
    pub reset_count: u32,
}

/// What ages are counted on, ms: the TPM's clock, or the kernel's word where there is none.
fn counted_ms(evidence: &VerifiedEvidence) -> u64 {
    let kernels = evidence.statement.boot_time_ns / 1_000_000;
    evidence.clock().map_or(kernels, |clock| clock.clock)
}

/// How old reports are that an earlier statement of this boot showed. A TPM's clock that went back is
/// told as such; a kernel's says nothing then.
fn age_since(anchor: &GpuAnchor, evidence: &VerifiedEvidence) -> Option<u64> {
    let now = counted_ms(evidence);
    match evidence.alone() {
        false => Some(now.saturating_sub(anchor.clock_ms)),
        true => now.checked_sub(anchor.clock_ms),
    }
}

/// What later statements may cite, once `evidence` is recorded.
pub(super) fn anchor(
    evidence: &VerifiedEvidence,
    previous: Option<&Previous>,
) -> Option<GpuAnchor> {
    let cited = evidence.statement.gpu.as_ref()?;
    if answers(evidence, cited) {
        return Some(GpuAnchor {
            reports: cited.reports,
            challenge: cited.challenge,
            clock_ms: counted_ms(evidence),
            reset_count: Boot::of(evidence).reset_count,
        });
    }
    anchored(evidence, cited, previous).copied()
}

/// The statement answers the very challenge that its GPUs were asked with.
fn answers(evidence: &VerifiedEvidence, cited: &GpuCitation) -> bool {
    matches!(evidence.freshness, Freshness::Challenged(nonce) if nonce == cited.challenge)
}

/// What an earlier statement of this boot showed of the same reports.
fn anchored<'a>(
    evidence: &VerifiedEvidence,
    cited: &GpuCitation,
    previous: Option<&'a Previous>,
) -> Option<&'a GpuAnchor> {
    let previous = previous?;
    let anchor = previous.gpu.as_ref()?;
    let boot = Boot::of(evidence);
    let same = anchor.reports == cited.reports
        && anchor.challenge == cited.challenge
        && anchor.reset_count == boot.reset_count
        && (!evidence.alone() || (previous.boot == boot && previous.ak == evidence.ak));
    same.then_some(anchor)
}

/// Claims made of reports.
#[derive(Debug, Default)]
pub(super) struct GpuClaims(BTreeMap<String, AppraisedClaim>);

impl GpuClaims {
    /// What reports say under that name.
    pub(super) fn find(&self, claim: &str) -> Found {
        self.0.get(claim).map_or(Found::Missing, |claim| {
            Found::Is(claim.value.clone(), claim.provenance)
        })
    }

    fn put(&mut self, name: &str, value: Value, provenance: Provenance) {
        let claim = AppraisedClaim { value, provenance };
        self.0.insert(format!("{PREFIX}{name}"), claim);
    }
}

/// Reports and chains as they travelled, read.
struct Came {
    reports: v1::GpuReports,
    /// Of each report, in order; `None`: bytes that are no certificates.
    chains: Vec<Option<Bundle>>,
}

/// Why there is nothing to look at.
enum Absent {
    /// The statement cites none.
    NotCited,
    /// It cites reports that nobody has.
    NotKept,
    /// Bytes that are not what they should be.
    Malformed(&'static str),
}

fn came(evidence: &VerifiedEvidence) -> Result<(Came, GpuCitation), Absent> {
    let cited = evidence.statement.gpu.ok_or(Absent::NotCited)?;
    let (Some(reports), Some(chains)) = (&evidence.gpu_reports, &evidence.gpu_chains) else {
        return Err(Absent::NotKept);
    };
    match Came::read(reports, chains) {
        Ok(came) => Ok((came, cited)),
        Err(why) => Err(Absent::Malformed(why)),
    }
}

impl Came {
    fn read(reports: &[u8], chains: &[u8]) -> Result<Self, &'static str> {
        let Ok(reports) = v1::GpuReports::decode(reports) else {
            return Err("the reports are no GpuReports");
        };
        let Ok(chains) = v1::GpuChains::decode(chains) else {
            return Err("the chains are no GpuChains");
        };
        if reports.reports.len() > MAX_DEVICES {
            return Err("more reports than any machine has GPUs");
        }
        if reports.reports.len() != chains.chains.len() {
            return Err("as many chains as reports make a set");
        }
        let chains = chains.chains.iter();
        let chains = chains.map(|chain| Bundle::parse(chain).ok()).collect();
        Ok(Self { reports, chains })
    }

    /// Names of the chips whose certificates are there.
    fn names(&self) -> Vec<String> {
        let chains = self.chains.iter().flatten();
        let chips = chains.filter_map(|chain| chain.certificates.get(1));
        chips
            .filter_map(|chip| gpu::Identity::of(chip).inventory_name())
            .collect()
    }
}

/// Names of chips in reports and chains as they travel. Nothing of it is verified; whoever calls
/// has limited their length.
pub fn read_gpus(reports: &[u8], chains: &[u8]) -> Result<Vec<String>, &'static str> {
    Came::read(reports, chains).map(|came| came.names())
}

/// Judges the GPUs of a node, where the profile asks for it; notes what they say in any case.
pub(super) fn judge(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    subject: &Subject<'_>,
    reference: &Reference<'_>,
    previous: Option<&Previous>,
    now: UnixTime,
) -> GpuClaims {
    let profile = reference.profile.gpu.as_ref();
    let (came, cited) = match came(evidence) {
        Ok(came) => came,
        Err(absent) => {
            if profile.is_some() {
                result.deviate(findings::absent(&absent, evidence));
            }
            return GpuClaims::default();
        }
    };
    let given: Vec<Evidence<'_>> = came
        .reports
        .reports
        .iter()
        .zip(&came.chains)
        .map(|(report, chain)| Evidence {
            report: &report.report,
            chain: chain.as_ref(),
            stated_nonce: None,
        })
        .collect();
    let endorsements = reference.endorsements;
    let rims = endorsements.rims(
        profile.and_then(|profile| profile.rims.as_ref()),
        profile.and_then(|profile| profile.rim_roots.as_ref()),
        now,
    );
    let device_roots = profile.and_then(|profile| profile.device_roots.as_ref());
    let anchors = endorsements.device_anchors(device_roots, now);
    let answer = gpu::appraise(&Asked {
        devices: &given,
        anchors: &anchors,
        nonce: Some(gpu_nonce(&cited.challenge, &subject.signer.name())),
        ocsp: &endorsements.ocsp,
        crls: &endorsements.crls,
        rims: &rims,
        at: now,
        memory: endorsements.memory(),
    });
    let anchor = anchored(evidence, &cited, previous);
    let age_ms = match (answers(evidence, &cited), anchor) {
        (true, _) => Some(0),
        (false, Some(anchor)) => age_since(anchor, evidence),
        (false, None) => None,
    };
    let judged = Judged {
        evidence,
        came: &came,
        answer: &answer,
        rims: &rims,
        endorsements,
        age_ms,
        now,
    };
    let claims = claims(&judged);
    for deviation in judged.placed(subject, profile) {
        result.deviate(deviation);
    }
    if let Some(profile) = profile {
        for deviation in judged.against(profile) {
            result.deviate(deviation);
        }
    }
    for (name, claim) in &claims.0 {
        result.note(name.clone(), claim.clone());
    }
    result.endorsements.extend(judged.relied_on());
    claims
}

/// What was said, and by whom.
fn claims(judged: &Judged<'_>) -> GpuClaims {
    let mut claims = GpuClaims::default();
    let all_proven = judged.all_proven();
    let of_all = match all_proven {
        true => Provenance::HardwareSigned,
        false => Provenance::SelfReported,
    };
    let reports = u64::try_from(judged.answer.devices.len()).unwrap_or(u64::MAX);
    claims.put("reports", Value::Number(reports), of_all);
    claims.put("hardware", Value::Flag(all_proven), of_all);
    if let Some(age) = judged.age_ms {
        let by = of_all.min(judged.age_by());
        claims.put("age_seconds", Value::Number(age / 1000), by);
    }
    if let Some(topology) = judged.answer.topology {
        claims.put("topology", Value::Text(topology.name().to_owned()), of_all);
    }
    let devices = judged.answer.devices.iter().zip(&judged.answer.comparisons);
    for (place, (device, comparison)) in devices.enumerate() {
        let own = match judged.not_hardware(device) {
            None => Provenance::HardwareSigned,
            Some(_) => Provenance::SelfReported,
        };
        for (name, text) in texts(device, comparison.as_ref()) {
            // What was held against a site's own reference values is no more than the site's word.
            let by = match comparison {
                Some(one) if name == MEASUREMENTS && judged.own_values(one) => {
                    own.min(Provenance::OperatorSigned)
                }
                _ => own,
            };
            claims.put(&format!("{place}.{name}"), Value::Text(text), by);
        }
        let proven = own == Provenance::HardwareSigned;
        claims.put(&format!("{place}.hardware"), Value::Flag(proven), own);
    }
    claims
}

fn texts(device: &Device<'_>, comparison: Option<&Comparison>) -> Vec<(&'static str, String)> {
    let mut out = vec![
        ("chain", device.chain.name().to_owned()),
        ("signature", device.signature.name().to_owned()),
        ("firmware", device.fwid.name().to_owned()),
    ];
    let mut add = |name, text: Option<String>| out.extend(text.map(|text| (name, text)));
    add(
        "architecture",
        device.architecture.map(|it| it.name().to_owned()),
    );
    let opaque = device.report.as_ref().map(|report| &report.opaque);
    add("driver", opaque.and_then(|it| it.driver_version.clone()));
    add("vbios", opaque.and_then(|it| it.vbios_version.clone()));
    let mode = opaque.and_then(gpu::Opaque::mode);
    add("mode", mode.map(|mode| mode.name().to_owned()));
    let pdi = device.identity.as_ref().and_then(|identity| identity.pdi);
    add("pdi", pdi.map(hex::encode));
    let compared = comparison.filter(|it| it.compared() > 0);
    add(
        MEASUREMENTS,
        compared.map(|it| match it.good() {
            true => format!("{} of {} match", it.matched.len(), it.compared()),
            false => format!("{} do not match", it.mismatched.len() + it.conflict.len()),
        }),
    );
    out
}

/// Names of chips whose certificates came along, `PDI-` and 16 hex digits each, whoever vouches for
/// them: what an inventory is asked about. What a name is worth, its chain and its report show.
#[must_use]
pub fn named_gpus(evidence: &VerifiedEvidence) -> Vec<String> {
    came(evidence).map_or_else(|_absent| Vec::new(), |(came, _)| came.names())
}

/// Per-device identifiers that NVIDIA certified and whose keys signed what came: `PDI-` and 16 hex
/// digits. Whether the report answers this node's challenge is of no account: one that does not
/// was taken from somewhere.
#[must_use]
pub fn certified_gpus(
    evidence: &VerifiedEvidence,
    endorsements: &gpu::Endorsements,
    now: UnixTime,
) -> Vec<String> {
    let Ok((came, _)) = came(evidence) else {
        return Vec::new();
    };
    if !endorsements.hardware {
        return Vec::new();
    }
    let devices = came.reports.reports.iter().zip(&came.chains);
    let judged = devices.map(|(report, chain)| {
        let given = Evidence {
            report: &report.report,
            chain: chain.as_ref(),
            stated_nonce: None,
        };
        let memory = endorsements.memory();
        gpu::judge_remembering(given, &endorsements.devices, None, now, memory)
    });
    let certified =
        judged.filter(|one| (one.chain, one.signature) == (Checked::Good, Checked::Good));
    certified
        .filter_map(|one| one.identity?.inventory_name())
        .collect()
}

/// How a device of an answer is called in words: `GPU 0 (GPU-…)`.
fn called(came: &Came, place: usize) -> String {
    let uuid = came.reports.reports.get(place).map(|it| it.uuid.as_str());
    let uuid: String = uuid.unwrap_or_default().chars().take(64).collect();
    match uuid.is_empty() {
        true => format!("GPU {place}"),
        false => format!("GPU {place} ({uuid})"),
    }
}

impl Judged<'_> {
    fn devices(&self) -> impl Iterator<Item = (usize, &Device<'_>)> {
        self.answer.devices.iter().enumerate()
    }

    /// Documents that what was concluded of these GPUs hangs on: when one of them ends, or is
    /// replaced, it may be something else.
    fn relied_on(&self) -> BTreeSet<Sha256Digest> {
        let known = self.answer.revocation.iter().map(|one| one.document);
        let compared = self.answer.comparisons.iter().flatten();
        let rims: Vec<Sha256Digest> = compared.flat_map(|one| self.values_of(one)).collect();
        let signers = rims
            .iter()
            .filter_map(|rim| self.endorsements.own_root_of(rim));
        let good = self.devices().map(|(_, device)| device);
        let good = good.filter(|device| device.chain == Checked::Good);
        let roots = good.filter_map(|device| device.certificates.last());
        let roots = roots.filter_map(|root| self.endorsements.brought_root(root));
        let all = known.chain(signers).chain(roots);
        all.chain(rims.iter().copied()).collect()
    }

    /// Digests of the reference values that were compared with.
    fn values_of(&self, one: &Comparison) -> impl Iterator<Item = Sha256Digest> {
        let of_slot = |slot: Slot, place: usize| {
            let mut rims = self.rims.iter().filter(|(own, _)| *own == slot);
            rims.nth(place).map(|(_, rim)| rim.digest)
        };
        let driver = one.driver.and_then(|place| of_slot(Slot::Driver, place));
        let vbios = one.vbios.and_then(|place| of_slot(Slot::Vbios, place));
        driver.into_iter().chain(vbios)
    }

    /// Not all of the reference values are NVIDIA's.
    fn own_values(&self, one: &Comparison) -> bool {
        let mut rims = self.values_of(one);
        rims.any(|rim| self.endorsements.own_root_of(&rim).is_some())
    }

    /// Whose clock an age is by. Of reports that answer this very challenge none is asked.
    fn age_by(&self) -> Provenance {
        let cited = self.evidence.statement.gpu.as_ref();
        let now = cited.is_some_and(|cited| answers(self.evidence, cited));
        match self.evidence.alone() && !now {
            true => Provenance::SelfReported,
            false => Provenance::HardwareSigned,
        }
    }

    /// Every GPU there is proved itself.
    fn all_proven(&self) -> bool {
        let stopped = !self.came.reports.stopped.is_empty();
        let all = self.came.reports.count.map(u64::from);
        let told = u64::try_from(self.answer.devices.len()).ok();
        let proven = |(_, device): (usize, &Device<'_>)| self.not_hardware(device).is_none();
        !stopped
            && all.is_some()
            && all == told
            && all != Some(0)
            && self.age_ms.is_some()
            && self.devices().all(proven)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_as_many_chains_as_reports_and_no_more_than_a_machine_has_gpus() {
        let none = v1::GpuChains::default().encode_to_vec();
        let of = |count| v1::GpuReports {
            reports: vec![v1::GpuReport::default(); count],
            ..v1::GpuReports::default()
        };
        for (count, want) in [
            (1, "as many chains as reports make a set"),
            (MAX_DEVICES, "as many chains as reports make a set"),
            (MAX_DEVICES + 1, "more reports than any machine has GPUs"),
        ] {
            let refused = Came::read(&of(count).encode_to_vec(), &none).err();
            assert_eq!(refused, Some(want), "{count}");
        }
        assert!(Came::read(&of(0).encode_to_vec(), &none).is_ok());
    }
}
