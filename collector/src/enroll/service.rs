//! `EnrollService`: Begin and Finish. What a guest without a TPM does instead is in [`super::guest`].

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand;
use bailiwick_attestation::proto::v1::{self, enrolled};
use bailiwick_attestation::tpm::make_credential;
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use tracing::{error, info, warn};

use super::checks::{self, Applicant};
use super::guest;
use super::joins;
use super::{EkTrust, EnrollRefused, Sessions};
use crate::cas::Cas;
use crate::clock;
use crate::config;
use crate::direct::{Director, Policy, pending_name};
use crate::endorsements::Endorsed;
use crate::ingest::{Closed, Streams, store_failed};
use crate::init::NodeCertificate;
use crate::proto::enroll_service_server::EnrollService;
use crate::quiet::Quiet;
use crate::record::{NewEnrolment, Store};
use crate::standing::Standing;

/// What waits for a TPM's answer.
struct Waiting {
    request: v1::EnrollRequest,
    applicant: Applicant,
}

/// The service. Clones share it.
#[derive(Clone)]
pub struct Enroll(pub(super) Arc<Inner>);

/// What it stands on.
#[derive(Debug)]
pub struct Parts {
    /// The installation.
    pub deployment: DeploymentId,
    /// Issue transport certificates.
    pub cas: Arc<Cas>,
    /// Whose TPMs are real.
    pub trust: Arc<EkTrust>,
    /// What vouches for processors.
    pub endorsements: Arc<Endorsed>,
    /// Bounds.
    pub config: config::Enroll,
    /// Where nodes are kept.
    pub store: Store,
    /// The policy in force.
    pub director: Arc<Director>,
    /// Who is connected.
    pub streams: Streams,
    /// Who has standing.
    pub standing: Standing,
}

pub(super) struct Inner {
    pub(super) parts: Parts,
    sessions: Mutex<Sessions<Waiting>>,
    pub(super) guests: Mutex<Sessions<guest::Waiting>>,
    /// Whose turn it is to have a report judged.
    pub(super) judging: Arc<Semaphore>,
}

impl Deref for Inner {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// A transport certificate for whoever showed who it is.
pub(super) struct Issued {
    pub(super) not_after: UnixTime,
    /// Its own first, then its CA's.
    pub(super) chain: Vec<Vec<u8>>,
}

impl Issued {
    /// SHA-256 of the certificate.
    pub(super) fn digest(&self) -> Sha256Digest {
        let own = self.chain.first();
        Sha256Digest::of(&[own.map_or(&[], Vec::as_slice)])
    }
}

impl std::fmt::Debug for Enroll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enroll")
            .field("deployment", &self.0.deployment)
            .finish_non_exhaustive()
    }
}

impl Enroll {
    /// For one installation.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let life_ms = parts.config.session_seconds * 1000;
        Self(Arc::new(Inner {
            sessions: Mutex::new(Sessions::new(life_ms)),
            guests: Mutex::new(Sessions::new(life_ms)),
            judging: Arc::new(Semaphore::new(1)),
            parts,
        }))
    }
}

/// Anybody can be refused as often as they like.
pub(super) static REFUSED: Quiet = Quiet::new();

fn refused(error: &EnrollRefused) -> Status {
    if let Some(left_out) = REFUSED.ask() {
        warn!(code = error.code(), %error, left_out, "enrolment refused");
    }
    Status::failed_precondition(format!("{}: {error}", error.code()))
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], Status> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_unspecified| Status::internal("no randomness"))?;
    Ok(bytes)
}

#[tonic::async_trait]
impl EnrollService for Enroll {
    async fn begin(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollChallenge>, Status> {
        let inner = &self.0;
        let request = request.into_inner();
        let policy = inner.director.current();
        let now = clock::now();
        let applicant = checks::check(
            &request,
            &inner.deployment,
            &inner.trust,
            policy.as_deref(),
            now,
        )
        .map_err(|error| refused(&error))?;
        self.follows(&applicant.ek_digest, policy.as_deref())
            .await?;
        let (number, secret) = (random::<16>()?, random::<32>()?);
        let credential = make_credential(&applicant.ek, applicant.ak.name(), &secret)
            .map_err(|error| Status::failed_precondition(format!("{}: {error}", error.code())))?;
        inner
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .begin(number, secret, Waiting { request, applicant }, now);
        Ok(Response::new(v1::EnrollChallenge {
            session: number.to_vec(),
            credential_blob: credential.id_object,
            encrypted_secret: credential.encrypted_secret,
        }))
    }

    async fn finish(
        &self,
        request: Request<v1::EnrollProof>,
    ) -> Result<Response<v1::Enrolled>, Status> {
        let proof = request.into_inner();
        let now = clock::now();
        let finished = self
            .0
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .finish(&proof.session, &proof.secret, now);
        let waiting = finished.map_err(|error| {
            if let Some(left_out) = REFUSED.ask() {
                warn!(code = error.code(), left_out, "enrolment refused");
            }
            Status::permission_denied(format!("{}: {error}", error.code()))
        })?;
        self.admit(waiting, now).await.map(Response::new)
    }

    async fn begin_guest(
        &self,
        request: Request<v1::GuestRequest>,
    ) -> Result<Response<v1::GuestChallenge>, Status> {
        self.guest_begin(request.into_inner(), clock::now())
            .map(Response::new)
    }

    async fn finish_guest(
        &self,
        request: Request<v1::GuestProof>,
    ) -> Result<Response<v1::Enrolled>, Status> {
        self.guest_finish(request.into_inner(), clock::now())
            .await
            .map(Response::new)
    }
}

impl Enroll {
    /// Whether the TPMs that had this node's name before are out of service, and guests that had it.
    pub(super) async fn follows(
        &self,
        ek: &Sha256Digest,
        policy: Option<&Policy>,
    ) -> Result<(), Status> {
        let Some((policy, node)) = policy.and_then(|policy| Some((policy, policy.listed(ek)?)))
        else {
            return Ok(());
        };
        let former = self.0.store.node_list_by_name(node.name.as_str()).await;
        let spoken_for =
            |former: &_| policy.listed(former).is_some() || policy.retired(former).is_some();
        joins::follows(node, ek, &former.map_err(store_failed)?, spoken_for)
            .map_err(|error| refused(&error))
    }

    /// A transport certificate, by a CA that counts.
    pub(super) fn issue(
        &self,
        policy: Option<&Policy>,
        ek_digest: Sha256Digest,
        ak_name: Vec<u8>,
        public_point: Vec<u8>,
        now: UnixTime,
    ) -> Result<Issued, Status> {
        let inner = &self.0;
        let life = inner.config.certificate_seconds.saturating_mul(1000);
        // Certificates count whole seconds.
        let not_after = UnixTime::from_secs(now.millis().saturating_add(life) / 1000);
        let listed = policy.map(Policy::collector_keys);
        let Some(issuing) = inner.cas.issuing(listed, now) else {
            error!("approvers list no CA of this collector that counts: nobody is let in");
            return Err(Status::unavailable(
                "no-ca: approvers list no CA of this collector that counts",
            ));
        };
        let certificate = NodeCertificate {
            ek_digest,
            ak_name,
            public_point,
            not_after,
        };
        let certificate = issuing
            .authority
            .issue_node(&certificate, now)
            .map_err(|error| Status::internal(format!("certificate: {error}")))?;
        let chain = [&certificate, issuing.authority.certificate()];
        Ok(Issued {
            not_after,
            chain: chain.map(|der| der.to_vec()).to_vec(),
        })
    }

    /// Ends what older certificates opened, and answers which key counts: another than this one's, if
    /// somebody was faster.
    pub(super) async fn close_older(
        &self,
        ek: &Sha256Digest,
        why: Closed,
    ) -> Result<Vec<u8>, Status> {
        let row = self.0.store.node_get(ek).await.map_err(store_failed)?;
        let row = row.ok_or_else(|| Status::internal("the enrolment is not in the record"))?;
        self.0.streams.close_older(ek, &row.certificate, why);
        Ok(row.ak_name)
    }

    /// The TPM has answered: certificate, row, and an end to what the older certificate opened.
    async fn admit(&self, waiting: Waiting, now: UnixTime) -> Result<v1::Enrolled, Status> {
        let inner = &self.0;
        let Waiting { request, applicant } = waiting;
        let ek = applicant.ek_digest;
        let policy = inner.director.current();
        // The inventory may have changed since `Begin`.
        if let Some(why) = policy.as_ref().and_then(|policy| policy.retired(&ek)) {
            return Err(refused(&EnrollRefused::Retired(why.to_owned())));
        }
        let ak_name = applicant.ak.name().as_bytes().to_vec();
        let issued = self.issue(
            policy.as_deref(),
            ek,
            ak_name.clone(),
            applicant.transport_point,
            now,
        )?;
        let listed = policy.as_ref().and_then(|policy| policy.listed(&ek));
        let node = listed.map(|node| node.name.to_string()).unwrap_or_default();
        let reason = match listed {
            Some(_) => String::new(),
            None => format!(
                "{} is not in the signed inventory; have approvers add and sign in inventory.toml\n{}",
                pending_name(&ek),
                checks::entry(&request, &ek)
            ),
        };
        inner
            .store
            .enrolment_insert(NewEnrolment {
                ek,
                claimed_name: applicant.claimed.to_string(),
                ak_name,
                certificate: issued.digest(),
                certificate_not_after: issued.not_after,
                enrolment: v1::Enrolment {
                    request: Some(request),
                    node: node.clone(),
                    activated_ms: now.millis(),
                    ek_chain: applicant.ek_chain,
                    guest: None,
                },
                now,
            })
            .await
            .map_err(store_failed)?;
        // After the row: a stream that opens with the older certificate in between is refused by it.
        self.close_older(&ek, Closed::ReEnrolled).await?;
        info!(%ek, node, claimed = %applicant.claimed, "enrolled");
        let state = if listed.is_some() {
            enrolled::State::Enrolled
        } else {
            enrolled::State::Pending
        };
        Ok(v1::Enrolled {
            state: state.into(),
            node,
            reason,
            certificate_chain: issued.chain,
            certificate_not_after_ms: issued.not_after.millis(),
        })
    }
}
