//! From evidence, profile, policy and a point in time to an attestation result.
//!
//! Two steps that cannot be taken in the wrong order: [`VerifiedEvidence::verify`] shows that this
//! AK spoke these bytes in answer to this challenge, or that the report of a guest's processor is over
//! just that (whose report it is, takes endorsements and a time); [`appraise`] holds what was said against what
//! approvers signed. The first refuses bytes, the second a node. *Checked and refused*, *could not
//! check* and *worth a look* never look alike: see [`Finding`].

mod boot;
mod booted;
mod chain;
mod claims;
mod cvm;
mod drift;
mod fence;
mod geo;
mod gpu;
mod guest;
mod host;
mod identity;
mod ima;
mod logs;
mod result;
mod shown;
mod signed;
mod signer;
mod strict;
#[cfg(test)]
mod tests;
mod time;
mod verify;
mod voice;

use crate::{
    cvm::GuestIdentity,
    evidence::Freshness,
    gpu::Endorsements,
    ids::{DeploymentId, JurisdictionCode, NodeId, Sha256Digest, UnixTime},
    profile::{Profile, Provenance, TimeProfile},
    tlog::{Head, LogEntry},
    tpm::ClockInfo,
};

pub use boot::asks_logs;
pub use drift::{Drift, drift};
pub use geo::GeoWord;
pub use gpu::{GpuAnchor, certified_gpus, named_gpus, read_gpus};
pub use identity::{AkWord, Device, devices};
pub use logs::LogsRead;
pub use result::{
    AppraisedClaim, AttestationResult, Deviation, ENDORSEMENTS, Finding, ParseResultError, Status,
    Submod, TrustVector,
};
pub use shown::{Shown, shown};
pub use signed::ReportRefused;
pub use signer::{Enrolled, NobodyEnrolled, Signer};
pub use time::{Run, Tie, shown_receipt};
pub use verify::{EvidenceRefused, GeotagShown, VerifiedEvidence};
pub use voice::TpmKind;

/// Whose evidence it is, as enrolment and the signed inventory say.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The deployment the collector serves.
    pub deployment: &'a DeploymentId,
    /// The name the signed inventory gives this EK; `None` while pending.
    pub node: Option<&'a NodeId>,
    /// Where the inventory says it stands.
    pub jurisdiction: Option<&'a JurisdictionCode>,
    /// SHA-256 of its EK's `TPMT_PUBLIC`, or what stands for it: `evidence::guest_id`.
    pub ek: &'a Sha256Digest,
    /// The enrolled AK, or a guest's key.
    pub signer: Signer<'a>,
    /// A guest's chips and launch, by the inventory; `None`: it lists a TPM, or nothing.
    pub guest: Option<&'a GuestIdentity>,
    /// Whether its TPM is a chip, as its certificates and approvers say.
    pub tpm: TpmKind,
    /// Whose word it is that AK and EK are one TPM's.
    pub ak_word: &'a AkWord,
    /// Name of the AK the inventory binds the node to, where it does.
    pub listed_ak: Option<&'a [u8]>,
    /// Serial number of the chassis, by the inventory.
    pub chassis_serial: Option<&'a str>,
    /// GPU UUIDs, serials or identifiers of chips, by the inventory; empty: nobody wrote them down.
    pub devices: &'a [String],
    /// Devices this statement, or a certificate of a GPU beside it, names that the inventory gives
    /// to another node, and which.
    pub foreign_devices: &'a [(String, NodeId)],
    /// Highest epoch of the node's log that an approver acknowledged.
    pub epoch: u64,
    /// When the first certificate of the EK's chain ends, as it was shown at enrolment; `None`
    /// where approvers signed for the EK instead.
    pub endorsed_until: Option<UnixTime>,
    /// Whose word it is where the node stands.
    pub geotag: &'a GeoWord,
    /// What an unchallenged statement is signed under: see [`shown_receipt`].
    pub receipt: Option<&'a LogEntry>,
}

/// What the node is held against.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// The profile of the signed policy.
    pub profile: &'a Profile,
    /// Version of that policy.
    pub version: u64,
    /// SHA-256 of its manifest.
    pub manifest: Sha256Digest,
    /// When it ends.
    pub not_after: UnixTime,
    /// Digest of the approvers in force.
    pub approvers: Sha256Digest,
    /// Digests of those before them, which a node may not have let go of yet.
    pub approvers_before: &'a [Sha256Digest],
    /// What vouches for GPUs and processors.
    pub endorsements: &'a Endorsements,
}

/// The statement accepted before this one from the same TPM, or of the same guest.
#[derive(Clone, Copy, Debug)]
pub struct Previous {
    /// SHA-256 of its bytes.
    pub digest: Sha256Digest,
    /// Its epoch.
    pub epoch: u64,
    /// Its index in that epoch.
    pub sequence: u64,
    /// The boot it was made in.
    pub boot: Boot,
    /// The TPM's clock when it was quoted; `None`: no TPM signed it.
    pub clock: Option<ClockInfo>,
    /// The node's own log as it named it.
    pub log: Head,
    /// SHA-256 of the name of the AK that signed it, or of what stands for one. Another AK hides the TPM's counters behind
    /// other numbers (TPM 2.0 Library Part 1, "Attestation Data"); the clock it cannot hide.
    pub ak: Sha256Digest,
    /// The node's word about UTC.
    pub wall_time: UnixTime,
    /// Its `CLOCK_BOOTTIME`, ns.
    pub boot_time_ns: u64,
    /// What statements of that boot are measured from.
    pub tie: Option<Tie>,
    /// The run it belongs to, if it was made out of reach.
    pub run: Option<Run>,
    /// Reports of GPUs it cites, if they answered a challenge that a statement answered, too.
    pub gpu: Option<GpuAnchor>,
}

/// A kernel's boot and the TPM reset it began with. The two change together or not at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Boot {
    /// The kernel's random boot id.
    pub id: [u8; 16],
    /// `TPMS_CLOCK_INFO.resetCount` when that id was first seen; zero where no TPM signs, for which
    /// one key is of one boot.
    pub reset_count: u32,
}

impl Boot {
    /// The boot that evidence speaks of.
    pub(super) fn of(evidence: &VerifiedEvidence) -> Self {
        Self {
            id: evidence.statement.boot_id,
            reset_count: evidence.clock().map_or(0, |clock| clock.reset_count),
        }
    }
}

impl Previous {
    /// What the next statement is held against, once `evidence` is recorded.
    ///
    /// A boot that changed without its TPM reset, or the other way round, stays remembered as it
    /// was: what it breaks is broken until an honest boot, and not for one statement only.
    #[must_use]
    pub fn after(evidence: &VerifiedEvidence, previous: Option<&Self>) -> Self {
        let statement = &evidence.statement;
        let now = Boot::of(evidence);
        let boot = match previous {
            Some(previous)
                if previous.ak == evidence.ak && !chain::boots_agree(&now, &previous.boot) =>
            {
                previous.boot
            }
            _ => now,
        };
        // Quoted again after later ones were signed: their clocks are no step back.
        let clock = match previous {
            Some(previous) if time::quoted_late(evidence, Some(previous)) => previous.clock,
            _ => evidence.clock(),
        };
        Self {
            digest: statement.digest,
            epoch: statement.epoch,
            sequence: statement.sequence,
            boot,
            clock,
            log: statement.log,
            ak: evidence.ak,
            wall_time: statement.wall_time,
            boot_time_ns: statement.boot_time_ns,
            tie: time::tie_after(evidence, previous),
            run: time::run_after(evidence, previous),
            gpu: gpu::anchor(evidence, previous),
        }
    }
}

/// What hardware beside the TPM showed.
#[derive(Debug, Default)]
struct Devices {
    gpus: gpu::GpuClaims,
    guest: cvm::CvmClaims,
}

/// Holds what evidence shows against the demands of a profile, and against nothing else: not
/// against the statement before, the inventory or the policy in force. Nor is a processor heard: a
/// guest's TPM is held for its provider's.
#[must_use]
pub fn held_against(
    evidence: &VerifiedEvidence,
    tpm: TpmKind,
    profile: &Profile,
    at: UnixTime,
) -> AttestationResult {
    let mut result = AttestationResult::empty(evidence, at);
    result.tpm = voice::voice(evidence, tpm, Some(profile));
    // Nor is there anybody whose GPUs these could be.
    let devices = Devices::default();
    claims::demands(&mut result, evidence, None, profile, &devices, at);
    result.conclude();
    result
}

/// Holds verified evidence against the reference. Pure: the same arguments give the same result
/// in the collector and in an auditor's hands.
///
/// Without a reference (no policy applied, or the node is pending) nothing can be affirmed, and
/// the result says which of the two it is.
#[must_use]
pub fn appraise(
    evidence: &VerifiedEvidence,
    subject: &Subject<'_>,
    reference: Option<&Reference<'_>>,
    previous: Option<&Previous>,
    now: UnixTime,
) -> AttestationResult {
    appraise_at(evidence, subject, reference, previous, now, now)
}

/// The same of evidence that came at `now`, with what the profile demands at another time `at`: what
/// will be so when a window has ended, or what is so of evidence that came a while ago.
#[must_use]
pub fn appraise_at(
    evidence: &VerifiedEvidence,
    subject: &Subject<'_>,
    reference: Option<&Reference<'_>>,
    previous: Option<&Previous>,
    now: UnixTime,
    at: UnixTime,
) -> AttestationResult {
    let mut result = AttestationResult::new(evidence, subject, reference, now);
    let profile = reference.map(|reference| reference.profile);
    result.tpm = voice::voice(evidence, subject.tpm, profile);
    let guest = match (subject.node, reference) {
        (Some(_), Some(reference)) => cvm::judge(&mut result, evidence, subject, reference, at),
        _ => cvm::CvmClaims::default(),
    };
    match guest.keeps_tpm() {
        cvm::Keeps::Yes => result.tpm = Provenance::HardwareSigned,
        cvm::Keeps::Unknown => result.tpm_unknown = true,
        cvm::Keeps::No => {}
    }
    chain::judge(&mut result, evidence, previous);
    if let Freshness::Unchallenged { .. } = evidence.freshness {
        result.deviate(Deviation {
            claim: "evidence.freshness".to_owned(),
            finding: Finding::Unchecked,
            code: "unchallenged".to_owned(),
            expected: "an answer to a challenge of the collector".to_owned(),
            found: "made while the collector was out of reach".to_owned(),
            provenance: None,
        });
    }
    let limits = reference.map_or_else(TimeProfile::default, |reference| reference.profile.time);
    time::judge(&mut result, evidence, subject, previous, &limits, now);
    match (subject.node, reference) {
        (None, _) => result.deviate(Deviation {
            claim: "node.inventory".to_owned(),
            finding: Finding::Unchecked,
            code: "pending".to_owned(),
            expected: match evidence.alone() {
                false => "an entry in the signed inventory that names this EK".to_owned(),
                true => "an entry in the signed inventory that lists this guest".to_owned(),
            },
            found: "none".to_owned(),
            provenance: None,
        }),
        (Some(_), None) => result.deviate(Deviation {
            claim: "policy.version".to_owned(),
            finding: Finding::Unchecked,
            code: "no-policy".to_owned(),
            expected: "a policy applied at the collector".to_owned(),
            found: "none".to_owned(),
            provenance: None,
        }),
        (Some(node), Some(reference)) => {
            if let Some(deviation) = guest::listed(evidence.signer_kind(), subject) {
                result.deviate(deviation);
            }
            let asked = reference.profile.gpu.is_some();
            identity::judge(&mut result, evidence, subject, asked);
            let gpus = gpu::judge(&mut result, evidence, subject, reference, previous, at);
            let devices = Devices { gpus, guest };
            claims::judge(&mut result, evidence, node, reference, now);
            claims::demands(
                &mut result,
                evidence,
                Some(subject),
                reference.profile,
                &devices,
                at,
            );
        }
    }
    result.conclude();
    result
}
