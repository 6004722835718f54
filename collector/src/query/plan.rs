//! `profile plan`: the newest evidence of each node, appraised under another profile.

use bailiwick_attestation::appraisal::{AttestationResult, Status as Word};
use bailiwick_attestation::profile::Profile;
use bailiwick_attestation::proto::v1::{self, plan_profile_request::Whom};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use std::sync::Arc;

use super::Query;
use crate::appraise::{Case, previous_of};
use crate::clock;
use crate::direct::Policy;
use crate::ingest::{error_chain, store_failed};
use crate::plan::{Change, planned};
use crate::recorded::recorded;

/// Reasons told of one node, and most characters of each.
const REASONS: usize = 16;
const WORDS: usize = 1000;
/// Why a profile says nothing of guests.
const OF_GUESTS: &str = "it is held against guest-profile.toml, which this one does not change";

impl Query {
    pub(super) fn plan(
        &self,
        request: &v1::PlanProfileRequest,
    ) -> Result<ReceiverStream<Result<v1::PlannedNode, Status>>, Status> {
        let profile = Profile::parse("profile.toml", &request.profile)
            .map_err(|error| Status::invalid_argument(format!("profile-refused: {error}")))?;
        let policy = self.director.current();
        let policy = policy.ok_or_else(|| {
            Status::failed_precondition("no-policy: no node is listed until a policy is in force")
        })?;
        let at = request.at_ms.map_or_else(clock::now, UnixTime);
        let whom = request.whom();
        let (sender, messages) = mpsc::channel(16);
        let (query, profile) = (self.clone(), Arc::new(profile));
        tokio::spawn(async move {
            let listed = &policy.verified().model.inventory.nodes;
            let of_guests = policy.verified().model.guest_profile.is_some();
            for node in listed {
                let guest = node.guest.is_some();
                let row = match (whom, guest) {
                    (Whom::Hosts, true) | (Whom::Guests, false) => continue,
                    (Whom::Unspecified, true) if of_guests => Ok(untold(OF_GUESTS.to_owned())),
                    _ => query.planned(&policy, &node.ek, &profile, at).await,
                };
                let row = row.map(|row| v1::PlannedNode {
                    node: node.name.to_string(),
                    ..row
                });
                let failed = row.is_err();
                if sender.send(row).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(messages))
    }

    async fn planned(
        &self,
        policy: &Arc<Policy>,
        ek: &Sha256Digest,
        profile: &Arc<Profile>,
        at: UnixTime,
    ) -> Result<v1::PlannedNode, Status> {
        let Some(mut row) = self.store.node_get(ek).await.map_err(store_failed)? else {
            return Ok(untold("it never enrolled".to_owned()));
        };
        let open = (UnixTime(0), UnixTime(u64::MAX));
        let newest = self.store.statement_before(ek, open.0, open.1, None);
        let Some(newest) = newest.await.map_err(store_failed)? else {
            return Ok(untold("it never said anything".to_owned()));
        };
        let mut stored = newest.stored;
        stored.logs = self.kept_logs(ek, &stored).await?;
        row.enrolment = stored.enrolment.clone().unwrap_or_default();
        let (policy, profile) = (Arc::clone(policy), Arc::clone(profile));
        let trust = Arc::clone(&self.trust);
        let endorsements = self.endorsements.current();
        // A millisecond or so of hashing and one signature: not beside whoever serves nodes.
        let judged = tokio::task::spawn_blocking(move || {
            let (signer, verified) = match recorded(&stored) {
                Ok(found) => found,
                Err(refused) => {
                    let why = format!("the record: {}: {}", refused.code(), error_chain(&refused));
                    return Err(why);
                }
            };
            let previous = stored.previous.as_ref().and_then(previous_of);
            let Some(envelope) = &stored.evidence else {
                return Err("the record has no evidence".to_owned());
            };
            let case = Case {
                deployment: policy.deployment(),
                row: &row,
                signer: &signer,
                envelope,
                evidence: &verified,
                previous: previous.as_ref(),
                policy: Some(&policy),
                asked: None,
                trust: &trust,
                endorsements: &endorsements,
                now: UnixTime(stored.received_ms),
            };
            let in_force = policy.profile(&row.ek);
            Ok((
                case.under(in_force, at),
                case.under(&profile, at),
                stored.received_ms,
            ))
        });
        let judged = judged.await;
        let judged = judged.map_err(|_panicked| Status::internal("the appraisal did not end"))?;
        Ok(match judged {
            Ok((now, then, received_ms)) => v1::PlannedNode {
                received_ms,
                ..told(&now, &then)
            },
            Err(why) => untold(why),
        })
    }
}

/// Nobody can tell what would become of it.
fn untold(because: String) -> v1::PlannedNode {
    v1::PlannedNode {
        change: Change::Untold.as_str().to_owned(),
        because: vec![because],
        ..v1::PlannedNode::default()
    }
}

fn told(now: &AttestationResult, then: &AttestationResult) -> v1::PlannedNode {
    let planned = planned(now, then);
    let words = |status: Word| status.as_str().to_owned();
    let because = planned.because.iter().take(REASONS);
    v1::PlannedNode {
        change: planned.change.as_str().to_owned(),
        now: words(now.status),
        then: words(then.status),
        because: because
            .map(|one| one.to_string().chars().take(WORDS).collect())
            .collect(),
        statement_digest: then.statement.as_bytes().to_vec(),
        ..v1::PlannedNode::default()
    }
}
