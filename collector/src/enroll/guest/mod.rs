//! The guest's way in: a processor's report in place of a TPM's answer.
//!
//! `BeginGuest` gives a nonce, and `FinishGuest` takes a report that binds it and the key that the guest
//! drew for this boot. What has the name is what approvers listed: chips, and what is launched on them.
//! One running guest has a name at a time. A newer one takes the place of an older one, and an older one
//! that comes back shows that two run.

mod checks;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError};

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::evidence::Nonce;
use bailiwick_attestation::proto::v1::{self, enrolled};
use tonic::Status;
use tracing::{error, info, warn};

use super::joins::Words;
use super::service::{Enroll, REFUSED, random};
use crate::direct::Policy;
use crate::ingest::{Closed, store_failed};
use crate::quiet::Quiet;
use crate::record::{Admitted, NewEnrolment};

pub use checks::{Applicant, Asked, GuestRefused, Shown, check, entry, judge, of_node, to_sign};

/// Whoever runs a second guest can have it try as often as they like.
static TWICE: Quiet = Quiet::new();

/// What waits for a report.
#[derive(Debug)]
pub(super) struct Waiting {
    request: v1::GuestRequest,
    applicant: Applicant,
}

fn refused(why: &GuestRefused) -> Status {
    let chain = crate::ingest::error_chain(why);
    if let Some(left_out) = REFUSED.ask() {
        warn!(code = why.code(), error = %chain, left_out, "enrolment of a guest refused");
    }
    let text = format!("{}: {chain}", why.code());
    match why.unchecked() {
        true => Status::unavailable(text),
        false => Status::failed_precondition(text),
    }
}

impl Enroll {
    pub(super) fn guest_begin(
        &self,
        request: v1::GuestRequest,
        now: UnixTime,
    ) -> Result<v1::GuestChallenge, Status> {
        let inner = &self.0;
        let applicant = checks::check(&request, &inner.deployment).map_err(|why| refused(&why))?;
        let policy = inner.director.current();
        let words = words(policy.as_deref(), &applicant);
        checks::named(&words, &applicant.claimed).map_err(|why| refused(&why))?;
        let (number, nonce) = (random::<16>()?, random::<32>()?);
        inner
            .guests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .begin(number, nonce, Waiting { request, applicant }, now);
        Ok(v1::GuestChallenge {
            session: number.to_vec(),
            nonce: nonce.to_vec(),
        })
    }

    /// What the report is worth, beside whoever serves nodes: a table of certificates that nobody has
    /// looked at yet may cost tenths of a second, and anybody may send one. One is judged at a time.
    async fn judged(
        &self,
        applicant: Applicant,
        proof: v1::GuestProof,
        nonce: &Nonce,
        policy: Option<Arc<Policy>>,
        now: UnixTime,
    ) -> Result<(Applicant, v1::GuestProof, Result<Shown, GuestRefused>), Status> {
        let turn = Arc::clone(&self.0.judging).acquire_owned().await;
        let turn = turn.map_err(|_closed| Status::unavailable("the collector ends"))?;
        let inner = Arc::clone(&self.0);
        let nonce = *nonce;
        let judging = tokio::task::spawn_blocking(move || {
            let endorsements = inner.endorsements.current();
            let asked = Asked {
                deployment: &inner.deployment,
                nonce: &nonce,
                profile: policy.as_deref().map(Policy::profile_of_guests),
                endorsements: &endorsements,
                at: now,
            };
            let shown = checks::judge(&applicant, proof.evidence.as_ref(), &asked);
            drop(turn);
            (applicant, proof, shown)
        });
        judging
            .await
            .map_err(|_panicked| Status::internal("the judgement did not end"))
    }

    pub(super) async fn guest_finish(
        &self,
        proof: v1::GuestProof,
        now: UnixTime,
    ) -> Result<v1::Enrolled, Status> {
        let inner = &self.0;
        let taken = inner
            .guests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(&proof.session, now);
        let (nonce, waiting) = taken.map_err(|error| {
            if let Some(left_out) = REFUSED.ask() {
                warn!(
                    code = error.code(),
                    left_out, "enrolment of a guest refused"
                );
            }
            Status::permission_denied(format!("{}: {error}", error.code()))
        })?;
        let nonce = Nonce::new(nonce);
        let Waiting { request, applicant } = waiting;
        // The inventory may have changed since `BeginGuest`.
        let policy = inner.director.current();
        let words = words(policy.as_deref(), &applicant);
        let listed = checks::named(&words, &applicant.claimed).map_err(|why| refused(&why))?;
        let (applicant, proof, shown) = self
            .judged(applicant, proof, &nonce, policy.clone(), now)
            .await?;
        let shown = shown
            .and_then(|shown| {
                checks::of_node(listed, &shown.facts, &request)?;
                Ok(shown)
            })
            .map_err(|why| refused(&why))?;
        self.follows(&applicant.id, policy.as_deref()).await?;
        let ak_name = shown.signer.name();
        let issued = self.issue(
            policy.as_deref(),
            applicant.id,
            ak_name.clone(),
            applicant.point.clone(),
            now,
        )?;
        let node = applicant.claimed.to_string();
        let admitted = inner
            .store
            .enrolment_insert(NewEnrolment {
                ek: applicant.id,
                claimed_name: node.clone(),
                ak_name: ak_name.clone(),
                certificate: issued.digest(),
                certificate_not_after: issued.not_after,
                enrolment: v1::Enrolment {
                    request: None,
                    node: node.clone(),
                    activated_ms: now.millis(),
                    ek_chain: Vec::new(),
                    guest: Some(v1::GuestEnrolment {
                        request: Some(request),
                        nonce: nonce.as_bytes().to_vec(),
                        evidence: proof.evidence,
                    }),
                },
                now,
            })
            .await
            .map_err(store_failed)?;
        match admitted {
            Admitted::Superseded => {
                if let Some(left_out) = TWICE.ask() {
                    error!(
                        node,
                        left_out, "a guest came back that another has followed: two run"
                    );
                }
                return Err(refused(&GuestRefused::Superseded(applicant.claimed)));
            }
            // After the row: a stream that opens with the older certificate in between is refused by it.
            Admitted::Enrolled => {
                self.close_older(&applicant.id, Closed::ReEnrolled).await?;
            }
            Admitted::TookOver => {
                let counts = self.close_older(&applicant.id, Closed::TakenOver).await?;
                // Here and not by the stream: that may be slow to end, and would take what the new one
                // has by then. Nor by somebody whom the next has followed already.
                if counts == ak_name {
                    let changes = inner.standing.withdrawn(&applicant.id);
                    let kept = inner.store.brakes_change(changes).await;
                    kept.map_err(store_failed)?;
                }
            }
        }
        info!(node, ?admitted, "a guest enrolled");
        Ok(v1::Enrolled {
            state: enrolled::State::Enrolled.into(),
            node,
            reason: String::new(),
            certificate_chain: issued.chain,
            certificate_not_after_ms: issued.not_after.millis(),
        })
    }
}

/// What approvers signed of the name.
fn words<'a>(policy: Option<&'a Policy>, applicant: &Applicant) -> Words<'a> {
    let words = policy.map(|policy| Words::of(policy, &applicant.id, &applicant.claimed));
    words.unwrap_or_default()
}
