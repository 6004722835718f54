//! One piece of evidence: whose it is, whether it follows, what it is worth, and the row.

use std::sync::{Arc, PoisonError};

use bailiwick_attestation::appraisal::{Previous, VerifiedEvidence, certified_gpus, devices};
use bailiwick_attestation::cvm::snp::MAX_TABLE;
use bailiwick_attestation::cvm::tdx::MAX_QUOTE_BYTES;
use bailiwick_attestation::evidence::{Freshness, GuestSigner, ParsedStatement};
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{Head, head_follows};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use tonic::Status;
use tracing::{error, info, warn};

use super::place::{Claimed, Last, Place, follows_on, place};
use super::service;
use super::stream::Stream;
use crate::appraise::{
    Appraised, Case, fence_facts, previous_message as stored_previous, previous_of,
};
use crate::direct::{Policy, node_name};
use crate::outward::{Grant, transport_key};
use crate::place::ShownPlace;
use crate::quiet::Quiet;
use crate::record::{NewStatement, NodeRow, StoreError, Verdict};
use crate::standing::{Change, Decision};

/// Longest manifest of a service beside a guest: what the kernel has room for.
const MAX_MANIFEST: usize = 4096;
/// Longest envelope, all but the measurement list.
const ENVELOPE: usize = 4 * 1024 * 1024;
/// Longest list of a node that approvers listed: a quarter of a million entries.
const LIST_OF_NODES: usize = 32 * 1024 * 1024;
/// Longest list of anybody else who enrolled: some 50,000 entries.
const LIST_OF_OTHERS: usize = 6 * 1024 * 1024;
/// Longest log by name, the list apart; others are not taken.
const LOGS: [(&str, usize); 5] = [
    ("gpu", 256 * 1024),
    ("gpu-chains", 512 * 1024),
    ("boot", 1024 * 1024),
    ("userspace", 1024 * 1024),
    ("fence", 1024 * 1024),
];
/// The log that is as long as the machine is busy.
const LIST: &str = "ima";

/// A refusal that is about more than the statement: the node's history is not what it was.
const LOG_REWRITTEN: &str = "log-rewritten";

/// Lines about refused evidence.
static REFUSED: Quiet = Quiet::new();

/// What the node is told.
#[derive(Debug)]
pub(super) enum Answer {
    Accepted(Box<Recorded>),
    Refused(v1::Refused),
}

/// A statement on disk, and what follows from it.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) accepted: v1::Accepted,
    pub(super) receipt: v1::Receipt,
    pub(super) lease: Option<v1::Lease>,
    pub(super) outward: Option<v1::OutwardCertificate>,
}

/// Evidence that was not recorded, and why.
struct Refusal {
    code: &'static str,
    detail: String,
}

impl Refusal {
    fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

/// When evidence came, when the challenge it answers was opened, and the policy in force then.
#[derive(Debug)]
struct Came {
    asked: Option<UnixTime>,
    now: UnixTime,
    policy: Option<Arc<Policy>>,
}

impl Stream {
    /// Judges one envelope. An error ends the stream; a refusal does not.
    pub(super) async fn evidence(
        &mut self,
        evidence: v1::Evidence,
        now: UnixTime,
    ) -> Result<Answer, Status> {
        let digest = Sha256Digest::of(&[&evidence.statement]);
        match self.try_evidence(evidence, digest, now).await? {
            Ok(answer) => Ok(answer),
            Err(refusal) => {
                if let Some(left_out) = REFUSED.ask() {
                    warn!(ek = %self.peer.ek_digest, code = refusal.code,
                        detail = %refusal.detail, left_out, "evidence refused");
                }
                Ok(Answer::Refused(v1::Refused {
                    statement_digest: digest.as_bytes().to_vec(),
                    code: refusal.code.to_owned(),
                    detail: refusal.detail,
                    next: None,
                }))
            }
        }
    }

    async fn try_evidence(
        &mut self,
        mut evidence: v1::Evidence,
        digest: Sha256Digest,
        now: UnixTime,
    ) -> Result<Result<Answer, Refusal>, Status> {
        if let Err(refusal) = bounded(&evidence) {
            return Ok(Err(refusal));
        }
        let current = self.shared.director.current();
        if current.is_none_or(|policy| policy.listed(&self.peer.ek_digest).is_none()) {
            shorten(&mut evidence);
        }
        // An answer that got lost: the row is there, and nothing is judged twice.
        if let Some(answer) = self.known(&digest).await? {
            return Ok(Ok(answer));
        }
        let (mut verified, asked) = match self.verify(&evidence, now) {
            Ok(verified) => verified,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let store = &self.shared.store;
        let row = store
            .node_get(&self.peer.ek_digest)
            .await
            .map_err(service::store)?
            .ok_or_else(|| Status::unauthenticated("node-unknown: enrol first"))?;
        if row.ak_name != self.peer.ak_name {
            return Err(superseded());
        }
        let proof = evidence.log_consistency.as_ref();
        let gap = match self.place(&row, verified.statement(), proof).await? {
            Ok(gap) => gap,
            Err(refusal) => {
                if refusal.code == LOG_REWRITTEN {
                    let fault = store.log_fault(row.ek, now, refusal.detail.clone());
                    fault.await.map_err(service::store)?;
                }
                return Ok(Err(refusal));
            }
        };
        let policy = self.shared.director.current();
        let logs = &self.shared.logs;
        let whole = logs.complete(store, &mut verified, &row.ek, policy.as_deref(), now);
        let whole_logs = whole.await.map_err(service::store)?;
        let came = Came { asked, now, policy };
        let mut answer = self.record(evidence, &verified, &row, gap, came).await?;
        if let Ok(Answer::Accepted(recorded)) = &mut answer {
            self.shared.logs.put(row.ek, verified.logs_read());
            recorded.accepted.whole_logs = whole_logs;
        }
        Ok(answer)
    }

    /// The answer to a statement that is recorded already.
    async fn known(&self, digest: &Sha256Digest) -> Result<Option<Answer>, Status> {
        let store = &self.shared.store;
        let stored = store.statement_get(&self.peer.ek_digest, digest).await;
        let Some(statement) = stored.map_err(service::store)? else {
            return Ok(None);
        };
        let receipt = store.receipt(&statement).await.map_err(service::store)?;
        let accepted = v1::Accepted {
            statement_digest: digest.as_bytes().to_vec(),
            verdict: statement.verdict,
            reasons: statement.reasons,
            ..v1::Accepted::default()
        };
        Ok(Some(Answer::Accepted(Box::new(Recorded {
            accepted,
            receipt,
            lease: None,
            outward: None,
        }))))
    }

    /// Shows that whoever enrolled said it, in answer to an open challenge if to any; answers when that
    /// was opened.
    fn verify(
        &self,
        evidence: &v1::Evidence,
        now: UnixTime,
    ) -> Result<(VerifiedEvidence, Option<UnixTime>), Refusal> {
        let refuse = |error: &bailiwick_attestation::appraisal::EvidenceRefused| {
            Refusal::new(error.code(), service::error_chain(error))
        };
        let freshness = Freshness::of(evidence).map_err(|error| refuse(&error))?;
        let mut asked = None;
        if let Freshness::Challenged(nonce) = &freshness {
            let mut nonces = self
                .shared
                .nonces
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let taken = nonces
                .take(&self.peer.ek_digest, nonce, now)
                .map_err(|refused| Refusal::new(refused.code(), refused.to_string()))?;
            asked = Some(taken);
        }
        let verified = VerifiedEvidence::verify(evidence, &self.signer, &freshness)
            .map_err(|error| refuse(&error))?;
        let statement = verified.statement();
        if statement.deployment != self.shared.deployment {
            return Err(Refusal::new(
                "deployment-mismatch",
                format!(
                    "the statement was made in {}, this is {}",
                    statement.deployment, self.shared.deployment
                ),
            ));
        }
        let numbers = [
            statement.epoch,
            statement.sequence,
            statement.policy.map_or(0, |policy| policy.version),
            statement.log.size,
        ];
        if numbers.iter().any(|number| i64::try_from(*number).is_err()) {
            return Err(Refusal::new(
                "statement-malformed",
                "epoch, sequence, policy version or log size exceeds 2^63 - 1",
            ));
        }
        Ok((verified, asked))
    }

    async fn place(
        &self,
        row: &NodeRow,
        statement: &ParsedStatement,
        proof: Option<&v1::LogConsistency>,
    ) -> Result<Result<Option<String>, Refusal>, Status> {
        let last = match &row.newest {
            None => None,
            Some(newest) => Some(Last {
                epoch: newest.epoch,
                sequence: newest.sequence,
                digest: Sha256Digest::from_slice(&newest.digest)
                    .ok_or_else(|| Status::internal("the stored statement has no digest"))?,
                same_ak: same_signer(row.newest_ak.as_deref(), &row.ak_name),
            }),
        };
        let (epoch, sequence) = (statement.epoch, statement.sequence);
        let claimed = Claimed {
            epoch,
            sequence,
            previous: statement.previous,
        };
        if let (Some(last), Some(newest)) = (&last, &row.newest)
            && follows_on(last, &claimed)
        {
            let before = newest.log.as_ref().and_then(Head::of);
            let before = before.unwrap_or_else(Head::empty);
            if let Err(refused) = head_follows(&before, &statement.log, proof) {
                let detail = service::error_chain(&refused);
                return Ok(Err(Refusal::new(refused.code(), detail)));
            }
        }
        let detail = match place(last.as_ref(), &claimed) {
            Place::Next { gap } => return Ok(Ok(gap)),
            Place::Forked(detail) => detail,
            Place::Passed => {
                let at = self.shared.store.statement_at(&row.ek, epoch, sequence);
                let Some(other) = at.await.map_err(service::store)? else {
                    let last = last.map_or((0, 0), |last| (last.sequence, last.epoch));
                    return Ok(Err(Refusal::new(
                        "sequence-behind",
                        format!("number {} of epoch {} was accepted already", last.0, last.1),
                    )));
                };
                format!("another statement, {other}, was accepted as number {sequence}")
            }
        };
        Ok(Err(Refusal::new("sequence-forked", detail)))
    }

    async fn record(
        &mut self,
        evidence: v1::Evidence,
        verified: &VerifiedEvidence,
        row: &NodeRow,
        missing: Option<String>,
        Came { asked, now, policy }: Came,
    ) -> Result<Result<Answer, Refusal>, Status> {
        // The clock is the TPM's, whatever AK signs: a cleared chip has no clean past.
        let previous = row.newest.as_ref().and_then(previous_of);
        let endorsements = self.shared.endorsements.current();
        let case = Case {
            deployment: &self.shared.deployment,
            row,
            signer: &self.signer,
            envelope: &evidence,
            evidence: verified,
            previous: previous.as_ref(),
            policy: policy.as_deref(),
            asked,
            trust: &self.shared.trust,
            endorsements: &endorsements,
            now,
        };
        let mut appraised = case
            .judge(
                policy
                    .as_ref()
                    .and_then(|policy| self.shared.leases.active(policy.collector_keys(), now)),
            )
            .map_err(|error| Status::internal(error.to_string()))?;
        let (lease_ended, changes) = self.end_or_hold(&mut appraised, row, policy.as_deref(), now);
        let store = &self.shared.store;
        store.brakes_change(changes).await.map_err(service::store)?;
        let certified = certified_gpus(verified, &endorsements, now);
        let statement = verified.statement();
        let quoted_boot_ns = evidence.quoted_boot_time_ns;
        let gap = missing.or_else(|| {
            let gap = statement.gaps.first()?;
            let (what, why): (String, String) = (
                gap.what.chars().take(80).collect(),
                gap.reason.chars().take(200).collect(),
            );
            Some(format!("{} {what} lost: {why}", gap.count))
        });
        if row.verdict != appraised.verdict {
            info!(ek = %row.ek, from = row.verdict.as_str(), to = appraised.verdict.as_str(),
                "verdict turns");
        }
        let inserted = self
            .shared
            .store
            .statement_insert(NewStatement {
                ek: row.ek,
                subject: node_name(policy.as_deref(), &row.ek),
                epoch: statement.epoch,
                sequence: statement.sequence,
                digest: statement.digest,
                evidence,
                verdict: appraised.verdict,
                reasons: appraised.reasons.clone(),
                result: appraised.result.to_json().to_string().into_bytes(),
                received: now,
                manifest_digest: policy.as_ref().map(|policy| policy.manifest_digest()),
                enrolment: row.enrolment.clone(),
                ak_name: row.ak_name.clone(),
                previous: row.newest.clone(),
                newest: stored_previous(&Previous::after(verified, previous.as_ref())),
                policy_version: statement.policy.map_or(0, |policy| policy.version),
                challenged: matches!(verified.freshness(), Freshness::Challenged(_)),
                lease_until: appraised.lease_until,
                lease_ended,
                fence: fence_facts(&statement.fence, quoted_boot_ns, now),
                gap,
                devices: device_names(statement, &certified),
                gpus: certified,
                place: ShownPlace::of(
                    statement,
                    &appraised.place,
                    appraised.verdict == Verdict::Affirming,
                ),
            })
            .await;
        let index = match inserted {
            Ok(index) => index,
            Err(StoreError::Conflict) => {
                return Ok(Err(Refusal::new(
                    "sequence-forked",
                    "another statement was accepted under this number meanwhile",
                )));
            }
            Err(StoreError::Superseded) => return Err(superseded()),
            Err(error) => return Err(service::store(error)),
        };
        if let (Some(_), Some(until)) = (&appraised.lease, appraised.lease_until) {
            let changes = self.shared.standing.granted(row.ek, until);
            store.brakes_change(changes).await.map_err(service::store)?;
        }
        let receipt = self.shared.store.receipt_at(statement.digest, index);
        let receipt = receipt.await.map_err(service::store)?;
        let accepted = v1::Accepted {
            statement_digest: statement.digest.as_bytes().to_vec(),
            verdict: appraised.verdict.as_str().to_owned(),
            reasons: appraised.reasons,
            ..v1::Accepted::default()
        };
        let outward = appraised
            .outward
            .and_then(|grant| self.outward(&grant, row, now));
        Ok(Ok(Answer::Accepted(Box::new(Recorded {
            accepted,
            receipt,
            lease: appraised.lease,
            outward,
        }))))
    }

    /// A refused statement ends the lease early, unless the brake holds its cause: then the lease
    /// runs out by itself. Says why it was ended, and what the brake has to keep.
    fn end_or_hold(
        &self,
        appraised: &mut Appraised,
        row: &NodeRow,
        policy: Option<&Policy>,
        now: UnixTime,
    ) -> (Option<String>, Vec<Change>) {
        let ends = appraised.verdict == Verdict::Contraindicated && appraised.lease.is_some();
        let (Some(policy), true) = (policy, ends) else {
            return (None, Vec::new());
        };
        let cause = appraised.cause.as_deref().unwrap_or("unknown");
        let standing = &self.shared.standing;
        let (decision, changes) = standing.refused(row.ek, cause, &policy.brake(), now);
        match decision {
            Decision::Act => {
                let why = appraised.reasons.first().cloned().unwrap_or_default();
                (Some(why), changes)
            }
            Decision::Hold => {
                appraised.lease = None;
                appraised.lease_until = row.lease_until;
                (None, changes)
            }
        }
    }

    /// The certificate that goes with a lease, where the node has none that still lasts.
    fn outward(
        &mut self,
        grant: &Grant,
        row: &NodeRow,
        now: UnixTime,
    ) -> Option<v1::OutwardCertificate> {
        // Enrolled anew or revoked meanwhile: the key on this stream is not the node's any more.
        if row.certificate != self.peer.certificate || row.revoked.is_some() {
            return None;
        }
        if !self.last_outward.due(grant, now) {
            return None;
        }
        let key = transport_key(&row.enrolment)
            .inspect_err(|fault| {
                error!(ek = %row.ek, fault = service::error_chain(fault),
                    "the transport key of its enrolment cannot be read");
            })
            .ok()?;
        match (self.shared.outward).issue(grant, &key, now) {
            Ok(certificate) => {
                self.last_outward.issued(grant.clone(), &certificate, now);
                Some(certificate)
            }
            Err(fault) => {
                error!(ek = %row.ek, fault = service::error_chain(&fault),
                    "no outward certificate could be issued");
                None
            }
        }
    }
}

/// Whether the log of what signed before goes on under what signs now. A TPM's AK lasts, and one that was
/// lost took the log's honesty with it. A guest has a key for each boot, and its processor speaks for all
/// of them: what it was, enrolment says, and its log has to go on from the head it named.
fn same_signer(before: Option<&[u8]>, now: &[u8]) -> bool {
    let guest = |name: &[u8]| GuestSigner::key_named(name).is_some();
    before.is_some_and(|before| before == now || (guest(before) && guest(now)))
}

/// Enrolled anew while this was on its way: what the stream is told may take a moment.
fn superseded() -> Status {
    Status::unauthenticated("certificate-superseded: the node has enrolled since; use that one")
}

/// Every name of every device, where NVML could be asked, and what NVIDIA certified of them.
fn device_names(statement: &ParsedStatement, certified: &[String]) -> Option<Vec<String>> {
    let devices = devices(statement).ok();
    if devices.is_none() && certified.is_empty() {
        return None;
    }
    let devices = devices.unwrap_or_default();
    let told = devices.iter().flat_map(|device| device.names());
    let told = told.map(str::to_owned);
    let mut names: Vec<String> = told.chain(certified.iter().cloned()).collect();
    names.sort();
    names.dedup();
    Some(names)
}

/// Whoever is not listed is heard, and gets less room: a list for which there is none is left out, and
/// the node is asked for it once somebody wants to see it.
fn shorten(evidence: &mut v1::Evidence) {
    let fits = |log: &v1::Log| log.name != LIST || log.content.len() <= LIST_OF_OTHERS;
    evidence.logs.retain(fits);
}

fn bounded(evidence: &v1::Evidence) -> Result<(), Refusal> {
    let mut lists = evidence.logs.iter().filter(|log| log.name == LIST);
    let list = lists.next().map_or(0, |log| log.content.len());
    let size = service::size(evidence).saturating_sub(list);
    if size > ENVELOPE {
        return Err(Refusal::new(
            "evidence-too-large",
            format!("Evidence: {size} bytes beside the list exceed the limit of {ENVELOPE}"),
        ));
    }
    let mut seen = Vec::new();
    for log in &evidence.logs {
        let mut limits = LOGS.into_iter().chain([(LIST, LIST_OF_NODES)]);
        let Some((name, limit)) = limits.find(|(name, _)| *name == log.name) else {
            return Err(Refusal::new(
                "evidence-malformed",
                "Evidence.logs names a log other than boot, ima, userspace, fence, gpu and gpu-chains",
            ));
        };
        if log.content.len() > limit || seen.contains(&name) {
            return Err(Refusal::new(
                "evidence-too-large",
                format!("Evidence.logs: {name} is there twice or exceeds {limit} bytes"),
            ));
        }
        seen.push(name);
    }
    if let Some(v1::evidence::Signer::TeeReport(report)) = &evidence.signer
        && report.report.len() > MAX_QUOTE_BYTES
    {
        return Err(Refusal::new(
            "evidence-too-large",
            format!("Evidence.tee_report: exceeds {MAX_QUOTE_BYTES} bytes"),
        ));
    }
    if let Some(tee) = &evidence.tee {
        let report = tee.report.as_ref().map_or(0, |report| report.report.len());
        let parts = [
            ("report", report, MAX_QUOTE_BYTES),
            ("certificates", tee.certificates.len(), MAX_TABLE),
            ("manifest", tee.manifest.len(), MAX_MANIFEST),
        ];
        if let Some((part, _, most)) = parts.iter().find(|(_, found, most)| found > most) {
            return Err(Refusal::new(
                "evidence-too-large",
                format!("Evidence.tee: {part} exceeds {most} bytes"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_under_another_key_of_a_guest_alone() {
        let guest = |byte| {
            let key = Sha256Digest([byte; 32]);
            GuestSigner {
                key,
                instance: None,
            }
            .name()
        };
        let ak = |byte| [vec![0, 11], vec![byte; 32]].concat();
        let rows = [
            ("the same AK", Some(ak(1)), ak(1), true),
            ("another AK", Some(ak(1)), ak(2), false),
            ("the same key", Some(guest(1)), guest(1), true),
            ("the key of a later boot", Some(guest(1)), guest(2), true),
            ("a guest after a TPM", Some(ak(1)), guest(1), false),
            ("a TPM after a guest", Some(guest(1)), ak(1), false),
            ("the first of all", None, guest(1), false),
        ];
        for (row, before, now, want) in rows {
            assert_eq!(same_signer(before.as_deref(), &now), want, "{row}");
        }
    }
}
