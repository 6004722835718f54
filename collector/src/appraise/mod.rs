//! From a verified statement to what the collector does about it.
//!
//! The judgement itself is `bailiwick_attestation::appraisal`, the same function an auditor runs;
//! here it gets its arguments, and its result becomes a lease or the end of one.

mod ending;

use bailiwick_attestation::appraisal::{
    AkWord, AttestationResult, Boot, Deviation, Enrolled, Finding, GeoWord, GpuAnchor, Previous,
    Reference, Run, Status, Subject, Tie, VerifiedEvidence, appraise_at, shown_receipt,
};
use bailiwick_attestation::evidence::{Freshness, Nonce};
use bailiwick_attestation::gpu::Endorsements;
use bailiwick_attestation::profile::Profile;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::standing::{LeaseSignError, LeaseSigner};
use bailiwick_attestation::tlog::{Head, LogEntry};
use bailiwick_attestation::tpm::ClockInfo;
use bailiwick_attestation::x509::Certificate;
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest, UnixTime};
use bailiwick_policy::model::LogKey;

use crate::direct::{Policy, pending_name};
use crate::enroll::EkTrust;
use crate::identity::{Makers, Presented, ak_word, foreign_devices, geo_word, tpm_kind};
use crate::outward::Grant;
use crate::record::{FenceFacts, NodeRow, Verdict};

pub use ending::Ending;

/// Longest reason in a lease: nodes read 4 KiB at most.
const REASON: usize = 400;

/// What is concluded, and what follows.
#[derive(Debug)]
pub struct Appraised {
    /// The judgement.
    pub result: AttestationResult,
    /// Its overall word.
    pub verdict: Verdict,
    /// One line per deviation.
    pub reasons: Vec<String>,
    /// Standing granted or ended; none where nothing changes.
    pub lease: Option<v1::Lease>,
    /// Wall time at which the node's standing ends, as far as this collector granted it.
    pub lease_until: Option<UnixTime>,
    /// What was refused first: claim and code of the deviation. Nodes that fail alike share it.
    pub cause: Option<String>,
    /// What others may believe, beside a lease that grants.
    pub outward: Option<Grant>,
    /// Whose word it is where the node stands.
    pub place: GeoWord,
}

/// A statement and whose it is.
#[derive(Debug)]
pub struct Case<'a> {
    /// The installation.
    pub deployment: &'a DeploymentId,
    /// The enrolled node.
    pub row: &'a NodeRow,
    /// What it enrolled with: an AK, or a guest's key.
    pub signer: &'a Enrolled,
    /// The envelope.
    pub envelope: &'a v1::Evidence,
    /// What that signed.
    pub evidence: &'a VerifiedEvidence,
    /// The statement before.
    pub previous: Option<&'a Previous>,
    /// The policy in force.
    pub policy: Option<&'a Policy>,
    /// When the challenge it answers was opened, if it answers one.
    pub asked: Option<UnixTime>,
    /// Whose certificates of TPMs and devices count.
    pub trust: &'a EkTrust,
    /// What vouches for GPUs.
    pub endorsements: &'a Endorsements,
    /// When it came.
    pub now: UnixTime,
}

impl Case<'_> {
    /// Judges it. Only an affirming answer to a challenge grants, and a warning keeps what stands;
    /// *refused* ends standing at once, *could not check* lets it run out.
    ///
    /// Without a signer nothing is granted and nothing ended: no key of this collector stands in
    /// the policy, and no node would believe it.
    pub fn judge(&self, signer: Option<&LeaseSigner>) -> Result<Appraised, LeaseSignError> {
        let listed = self.policy.and_then(|policy| policy.listed(&self.row.ek));
        let reference = self
            .policy
            .map(|policy| policy.reference(&self.row.ek, self.endorsements));
        let place = self.geo_word();
        let result = self.appraised(reference.as_ref(), &place, self.now);
        let verdict = verdict_of(result.status);
        let reasons = reasons(&result);
        // Under a profile that asks for it, or the word is nobody's conclusion.
        let asked = self
            .policy
            .is_some_and(|policy| policy.profile(&self.row.ek).gpu.is_some());
        let proven = asked && result.shows("gpu.hardware");
        let challenged = matches!(self.evidence.freshness(), Freshness::Challenged(_));
        let (mut lease, mut lease_until) = (None, self.row.lease_until);
        let mut outward = None;
        if let (Some(node), Some(policy), Some(signer), true) =
            (listed, self.policy, signer, challenged)
        {
            let (clock_ms, boot) = self.lease_clock();
            let leased = stands(self.row.lease_until, self.now, self.same_boot());
            let length = match verdict {
                Verdict::Affirming => Some(policy.lease_ms(&node.ek)),
                Verdict::Contraindicated => Some(0),
                Verdict::Warning if leased && keeps(result.deviations()) => {
                    Some(policy.lease_ms(&node.ek))
                }
                Verdict::None | Verdict::Warning | Verdict::Stale => None,
            };
            if let Some(length) = length {
                let until_clock_ms = match length {
                    0 => 0,
                    length => clock_ms.saturating_add(length),
                };
                lease = Some(signer.sign(&v1::LeaseBody {
                    deployment: self.deployment.to_string(),
                    node: node.name.to_string(),
                    ak_name: self.row.ak_name.clone(),
                    reset_count: boot,
                    until_clock_ms,
                    statement_digest: self.evidence.statement().digest.as_bytes().to_vec(),
                    manifest_digest: policy.manifest_digest().as_bytes().to_vec(),
                    reason: reason(verdict, &reasons),
                    quoted_clock_ms: clock_ms,
                    quoted_boot_time_ns: self.envelope.quoted_boot_time_ns,
                    gpus_proven: length > 0 && proven,
                })?);
                lease_until =
                    (length > 0).then(|| UnixTime(self.now.millis().saturating_add(length)));
                // The lease ends on the TPM's clock, counted from the quote, and that was made after
                // the challenge: for however long the answer was held back, the certificate
                // outlasts no lease.
                let quoted = self.asked.unwrap_or(self.now);
                outward = (verdict == Verdict::Affirming).then(|| Grant {
                    node: node.name.clone(),
                    manifest: policy.manifest_digest(),
                    until: UnixTime(quoted.millis().saturating_add(length)),
                });
            }
        }
        Ok(Appraised {
            cause: cause(&result),
            result,
            verdict,
            reasons,
            lease,
            lease_until,
            outward,
            place,
        })
    }
}

impl Case<'_> {
    /// The clock a lease counts on, ms, and the boot it is for: the TPM's and its `resetCount`. A guest
    /// without one has the kernel's, and its key is of one boot.
    fn lease_clock(&self) -> (u64, u32) {
        match self.evidence.clock() {
            Some(clock) => (clock.clock, clock.reset_count),
            None => ending::kernel_clock(self.envelope),
        }
    }

    /// Whether the statement before is of this boot. A TPM counts its resets. A guest's word is its boot
    /// id, and its key does not outlive a boot.
    fn same_boot(&self) -> bool {
        let Some(previous) = self.previous else {
            return false;
        };
        match self.evidence.clock() {
            Some(clock) => previous.boot.reset_count == clock.reset_count,
            None => {
                previous.boot.id == self.evidence.statement().boot_id
                    && previous.ak == Sha256Digest::of(&[&self.row.ak_name])
            }
        }
    }

    /// What another profile would conclude of it at `at`, all else being as it is.
    #[must_use]
    pub fn under(&self, profile: &Profile, at: UnixTime) -> AttestationResult {
        let reference = self.policy.map(|policy| Reference {
            profile,
            ..policy.reference(&self.row.ek, self.endorsements)
        });
        self.appraised(reference.as_ref(), &self.geo_word(), at)
    }

    /// Whose word it is where the node stands.
    fn geo_word(&self) -> GeoWord {
        let signed = self.policy.and_then(|policy| {
            let node = policy.listed(&self.row.ek)?;
            Some((node, policy.approvers()))
        });
        geo_word(self.evidence.geotag(), self.deployment, signed, self.now)
    }

    fn appraised(
        &self,
        reference: Option<&Reference<'_>>,
        place: &GeoWord,
        at: UnixTime,
    ) -> AttestationResult {
        let listed = self.policy.and_then(|policy| policy.listed(&self.row.ek));
        let word = self.ak_word();
        let foreign = match (self.policy, listed) {
            (Some(policy), Some(node)) => {
                let owner = |device: &str| policy.device_owner(device);
                foreign_devices(self.evidence, &node.name, owner)
            }
            _ => Vec::new(),
        };
        let logs = self.policy.map_or(&[][..], Policy::logs);
        let name = listed.map(|node| &node.name);
        let receipt = receipt_of(self.envelope, logs, name, &self.row.ek);
        let subject = Subject {
            geotag: place,
            endorsed_until: endorsed_until(&self.row.enrolment),
            receipt: receipt.as_ref(),
            deployment: self.deployment,
            node: listed.map(|node| &node.name),
            jurisdiction: listed.map(|node| &node.jurisdiction),
            ek: &self.row.ek,
            signer: self.signer.into(),
            guest: listed.and_then(|node| node.guest.as_ref()),
            tpm: tpm_kind(&self.row.enrolment, listed),
            ak_word: &word,
            listed_ak: listed.and_then(|node| node.ak.as_deref()),
            chassis_serial: listed.and_then(|node| node.chassis_serial.as_deref()),
            devices: listed.map_or(&[], |node| &node.devices),
            foreign_devices: &foreign,
            epoch: listed.map_or(0, |node| node.epoch),
        };
        appraise_at(
            self.evidence,
            &subject,
            reference,
            self.previous,
            self.now,
            at,
        )
    }

    /// Whose word it is that the node's AK and EK are one TPM's.
    fn ak_word(&self) -> AkWord {
        let Some(policy) = self.policy else {
            return AkWord::Collector;
        };
        let presented = Presented {
            deployment: self.deployment,
            enrolment: &self.row.enrolment,
            ek: &self.row.ek,
            signer: self.signer,
        };
        let makers = Makers {
            roots: &self.trust.iak_roots,
            intermediates: &self.trust.iak_intermediates,
        };
        let listed = policy.listed(&self.row.ek);
        ak_word(&presented, listed, policy.approvers(), &makers)
    }
}

/// One line per deviation: what was refused first, then what could not be checked.
#[must_use]
pub fn reasons(result: &AttestationResult) -> Vec<String> {
    let mut deviations: Vec<_> = result.deviations().collect();
    deviations.sort_by_key(|deviation| match deviation.finding {
        Finding::Refused => 0,
        Finding::Unchecked => 1,
        Finding::Warning => 2,
    });
    deviations.iter().map(ToString::to_string).collect()
}

/// Nothing but what a person should look at: a clock that is off, an endorsement or a policy that
/// ended. Cutting off whoever runs then would be an outage, and no fence would be the better for it.
/// A node behind what approvers signed has what is left of its lease to catch up.
fn keeps<'a>(mut deviations: impl Iterator<Item = &'a Deviation>) -> bool {
    deviations.all(|deviation| {
        deviation.finding == Finding::Warning
            && !matches!(&*deviation.code, "policy-behind" | "approvers-behind")
    })
}

/// A lease granted in this boot has not run out. After a reboot the kernel has none, whatever the store
/// still says.
fn stands(lease_until: Option<UnixTime>, now: UnixTime, same_boot: bool) -> bool {
    lease_until.is_some_and(|until| now < until) && same_boot
}

/// What the brake counts by: stable words alone, for values differ from node to node.
fn cause(result: &AttestationResult) -> Option<String> {
    let mut refused = result
        .deviations()
        .filter(|deviation| deviation.finding == Finding::Refused);
    refused
        .next()
        .map(|deviation| format!("{} {}", deviation.claim, deviation.code))
}

fn reason(verdict: Verdict, reasons: &[String]) -> String {
    let text = reasons.first().map_or(verdict.as_str(), String::as_str);
    text.chars().take(REASON).collect()
}

/// The statement before, as appraisal wants it; none if what is stored is not whole.
#[must_use]
pub fn previous_of(message: &v1::PreviousStatement) -> Option<Previous> {
    Some(Previous {
        digest: Sha256Digest::from_slice(&message.digest)?,
        epoch: message.epoch,
        sequence: message.sequence,
        boot: Boot {
            id: message.boot_id.as_slice().try_into().ok()?,
            reset_count: message.boot_reset_count,
        },
        clock: message.clock.as_ref().map(clock_of),
        log: Head::of(message.log.as_ref()?)?,
        ak: Sha256Digest::from_slice(&message.ak)?,
        wall_time: UnixTime(message.wall_time_ms),
        boot_time_ns: message.boot_time_ns,
        tie: match &message.tie {
            Some(tie) => Some(Tie {
                clock: clock_of(tie.clock.as_ref()?),
                boot_time_ns: tie.boot_time_ns,
                fresh: tie.fresh,
            }),
            None => None,
        },
        gpu: match &message.gpu {
            Some(gpu) => Some(GpuAnchor {
                reports: Sha256Digest::from_slice(&gpu.reports)?,
                challenge: Nonce::from_slice(&gpu.challenge).ok()?,
                clock_ms: gpu.clock_ms,
                reset_count: gpu.reset_count,
            }),
            None => None,
        },
        run: match &message.run {
            Some(run) => Some(Run {
                last_receipt: Sha256Digest::from_slice(&run.last_receipt)?,
                number: run.number,
            }),
            None => None,
        },
    })
}

const fn clock_of(clock: &v1::ClockState) -> ClockInfo {
    ClockInfo {
        clock: clock.clock_ms,
        reset_count: clock.reset_count,
        restart_count: clock.restart_count,
        safe: clock.safe,
    }
}

const fn clock_message(clock: ClockInfo) -> v1::ClockState {
    v1::ClockState {
        clock_ms: clock.clock,
        reset_count: clock.reset_count,
        restart_count: clock.restart_count,
        safe: clock.safe,
    }
}

/// When the first certificate of the chain shown at enrolment ends; `None` where approvers signed
/// for the EK instead.
#[must_use]
pub fn endorsed_until(enrolment: &v1::Enrolment) -> Option<UnixTime> {
    let chain = enrolment.ek_chain.iter();
    chain
        .filter_map(|der| Certificate::parse(der).ok())
        .map(|certificate| certificate.not_after())
        .min()
}

/// The receipt an envelope was signed under, held against the logs of the policy. In the log the
/// node has its name, or had that of one nobody listed.
#[must_use]
pub fn receipt_of(
    evidence: &v1::Evidence,
    logs: &[LogKey],
    listed: Option<&NodeId>,
    ek: &Sha256Digest,
) -> Option<LogEntry> {
    let pending = pending_name(ek);
    let mut names = vec![pending.as_str()];
    names.extend(listed.map(NodeId::as_str));
    // A receipt by a revoked key may be anybody's.
    let good = logs.iter().filter(|log| log.term.revoked.is_none());
    let keys = good.map(|log| log.vkey.as_str());
    shown_receipt(evidence, keys, &names)
}

/// The same, to be stored.
#[must_use]
pub fn previous_message(previous: &Previous) -> v1::PreviousStatement {
    v1::PreviousStatement {
        digest: previous.digest.as_bytes().to_vec(),
        epoch: previous.epoch,
        sequence: previous.sequence,
        boot_id: previous.boot.id.to_vec(),
        boot_reset_count: previous.boot.reset_count,
        clock: previous.clock.map(clock_message),
        log: Some(previous.log.to_proto()),
        ak: previous.ak.as_bytes().to_vec(),
        wall_time_ms: previous.wall_time.millis(),
        boot_time_ns: previous.boot_time_ns,
        tie: previous.tie.map(|tie| v1::ClockTie {
            clock: Some(clock_message(tie.clock)),
            boot_time_ns: tie.boot_time_ns,
            fresh: tie.fresh,
        }),
        gpu: previous.gpu.map(|gpu| v1::GpuAnchor {
            reports: gpu.reports.as_bytes().to_vec(),
            challenge: gpu.challenge.as_bytes().to_vec(),
            clock_ms: gpu.clock_ms,
            reset_count: gpu.reset_count,
        }),
        run: previous.run.map(|run| v1::HistoryRun {
            last_receipt: run.last_receipt.as_bytes().to_vec(),
            number: run.number,
        }),
    }
}

/// The store's word for a result's.
#[must_use]
pub const fn verdict_of(status: Status) -> Verdict {
    match status {
        Status::Affirming => Verdict::Affirming,
        Status::Warning => Verdict::Warning,
        Status::None => Verdict::None,
        Status::Contraindicated => Verdict::Contraindicated,
    }
}

/// When a moment of the node's boot clock is by ours, as far as the quote tells.
fn wall(end_boot_ns: u64, quoted_boot_ns: u64, received: UnixTime) -> UnixTime {
    let left_ms = end_boot_ns.saturating_sub(quoted_boot_ns) / 1_000_000;
    UnixTime(received.millis().saturating_add(left_ms))
}

/// What alerts need of the fence, of a statement quoted and received at these moments.
#[must_use]
pub fn fence_facts(fence: &v1::FenceState, quoted_boot_ns: u64, received: UnixTime) -> FenceFacts {
    use v1::fence_state::Mode;
    let state = match (fence.fault.is_some(), fence.mode()) {
        (true, _) => "fault",
        (false, Mode::Enforcing) => "enforcing",
        (false, Mode::DefaultDeny) => "default-deny",
        (false, Mode::Absent) => "absent",
        (false, Mode::Unspecified) => "unknown",
    };
    FenceFacts {
        state: state.to_owned(),
        reason: fence
            .fault
            .as_deref()
            .unwrap_or_default()
            .chars()
            .take(REASON)
            .collect(),
        break_glass: fence.break_glass.as_ref().map(|glass| {
            let manifest = hex::encode(glass.manifest_digest.get(..32).unwrap_or_default());
            let until = wall(glass.end_boot_ns, quoted_boot_ns, received);
            (manifest, until)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Deviation, Finding, keeps, stands};
    use bailiwick_attestation::UnixTime;

    #[test]
    fn a_warning_keeps_what_stands_and_a_node_left_behind_runs_out() {
        let of = |finding, code: &str| Deviation {
            claim: "evidence.wall_time".to_owned(),
            finding,
            code: code.to_owned(),
            expected: String::new(),
            found: String::new(),
            provenance: None,
        };
        let skew = of(Finding::Warning, "clock-skew");
        let ended = of(Finding::Warning, "policy-expired");
        let behind = of(Finding::Warning, "policy-behind");
        let approvers = of(Finding::Warning, "approvers-behind");
        let rows = [
            ("a clock and a policy", vec![&skew, &ended], true),
            ("behind the policy", vec![&behind], false),
            ("behind it, and more", vec![&skew, &behind], false),
            ("behind the approvers", vec![&approvers, &skew], false),
        ];
        for (name, deviations, want) in rows {
            assert_eq!(keeps(deviations.into_iter()), want, "{name}");
        }
        for finding in [Finding::Unchecked, Finding::Refused] {
            let worse = of(finding, "clock-skew");
            assert!(!keeps([&skew, &worse].into_iter()), "{finding:?}");
        }
    }

    #[test]
    fn a_lease_stands_in_its_boot_until_its_end() {
        let until = Some(UnixTime(100));
        let rows = [
            ("in time", until, 99, true, true),
            ("at its end", until, 100, true, false),
            ("after a reboot", until, 99, false, false),
            ("none", None, 99, true, false),
        ];
        for (name, until, now, same_boot, want) in rows {
            assert_eq!(stands(until, UnixTime(now), same_boot), want, "{name}");
        }
    }
}
