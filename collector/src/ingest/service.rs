//! `EvidenceService`: lets a node in and hands its stream to a task of its own.

use std::sync::{Arc, Mutex};

use bailiwick_attestation::appraisal::Enrolled;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{DeploymentId, Sha256Digest};
use bailiwick_policy::kind::Kind;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::stream::Stream;
use super::{LogsKnown, Nonces, Streams};
use crate::auth::{NodePeer, Peer};
use crate::cas::Cas;
use crate::clock;
use crate::config;
use crate::direct::{Director, LeaseKeys, chunks};
use crate::endorsements::Endorsed;
use crate::enroll::EkTrust;
use crate::keys::Keys;
use crate::outward::Outward;
use crate::proto::evidence_service_server::EvidenceService;
use crate::record::{NodeRow, Store};
use crate::standing::Standing;

/// Messages to a node that it has not read yet. A node that reads none is dropped.
const OUTBOX: usize = 16;

/// What all streams share.
#[derive(Debug)]
pub struct Shared {
    /// The installation.
    pub deployment: DeploymentId,
    /// Where it is kept.
    pub store: Store,
    /// The policy in force.
    pub director: Arc<Director>,
    /// Sign standing, as far as the policy in force lists them.
    pub leases: Arc<LeaseKeys>,
    /// Keys of what nodes seal.
    pub keys: Keys,
    /// Signs what others believe.
    pub outward: Outward,
    /// Open challenges.
    pub nonces: Mutex<Nonces>,
    /// Whose certificates let a node in.
    pub cas: Arc<Cas>,
    /// Who is connected.
    pub streams: Streams,
    /// Whose certificates of TPMs and devices count.
    pub trust: Arc<EkTrust>,
    /// What vouches for GPUs.
    pub endorsements: Arc<Endorsed>,
    /// Who has standing, and who is told of whom.
    pub standing: Standing,
    /// What nodes' logs have shown.
    pub logs: LogsKnown,
    /// Bounds.
    pub config: config::Ingest,
    /// Ends every stream: a server that stops waits for those it has.
    pub stop: CancellationToken,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Evidence(pub Arc<Shared>);

/// The node at the other end, or why there is none.
fn node_peer<T>(request: &Request<T>) -> Result<NodePeer, Status> {
    match request.extensions().get::<Peer>() {
        Some(Peer::Node(peer)) => Ok(peer.clone()),
        _ => Err(Status::unauthenticated(
            "certificate-required: enrol first and connect with the certificate that gives",
        )),
    }
}

impl Evidence {
    /// Checks that the certificate is still the node's own.
    async fn admit<T>(
        &self,
        request: &Request<T>,
    ) -> Result<(NodePeer, NodeRow, Enrolled), Status> {
        let peer = node_peer(request)?;
        let refuse = |why: &str| Err(Status::unauthenticated(why));
        if peer.deployment != self.0.deployment.as_str() {
            return refuse("deployment-mismatch: the certificate is another deployment's");
        }
        if clock::now() >= peer.not_after {
            return refuse("certificate-expired: enrol again");
        }
        let Some(row) = self
            .0
            .store
            .node_get(&peer.ek_digest)
            .await
            .map_err(store)?
        else {
            return refuse("node-unknown: enrol first");
        };
        let current = self.0.director.current();
        if let Some(why) = current.as_ref().and_then(|policy| policy.retired(&row.ek)) {
            // No enrolling again: what is out of service stays so until approvers say otherwise.
            return Err(Status::permission_denied(format!("node-retired: {why}")));
        }
        let listed = current.as_ref().map(|policy| policy.collector_keys());
        let counting = self.0.cas.counting(listed, clock::now());
        if !counting.iter().any(|ca| Some(ca.spki) == peer.issuer) {
            return refuse("certificate-authority: its CA counts no more; enrol again");
        }
        if row.revoked.is_some() {
            return refuse("certificate-revoked: enrol again");
        }
        if row.certificate != peer.certificate || row.ak_name != peer.ak_name {
            return refuse("certificate-superseded: the node has enrolled since; use that one");
        }
        let signer = Enrolled::of(&row.enrolment)
            .map_err(|why| Status::internal(format!("the stored enrolment: {why}")))?;
        Ok((peer, row, signer))
    }
}

#[tonic::async_trait]
impl EvidenceService for Evidence {
    type AttestStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;
    type FetchPolicyStream = ReceiverStream<Result<v1::PolicyChunk, Status>>;

    async fn attest(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        let (peer, row, signer) = self.admit(&request).await?;
        let registration = self.0.streams.open(peer.ek_digest, peer.certificate);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let stream = Stream::new(Arc::clone(&self.0), peer, signer, outbox.clone());
        let inbound = request.into_inner();
        tokio::spawn(async move {
            let ek = row.ek;
            info!(%ek, "stream open");
            let ended = stream.run(inbound, registration).await;
            match ended {
                Ok(()) => info!(%ek, "stream closed by the node"),
                Err(status) => {
                    warn!(%ek, code = ?status.code(), why = status.message(), "stream closed");
                    // The node may be gone already.
                    drop(outbox.try_send(Err(status)));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn fetch_policy(
        &self,
        request: Request<v1::FetchPolicyRequest>,
    ) -> Result<Response<Self::FetchPolicyStream>, Status> {
        let (peer, ..) = self.admit(&request).await?;
        let policy = self.0.director.current();
        let policy = policy.ok_or_else(|| Status::not_found("no-policy: none is in force"))?;
        if policy.listed(&peer.ek_digest).is_none() {
            return Err(Status::permission_denied(
                "node-pending: the signed inventory does not list this node",
            ));
        }
        let want = Sha256Digest::from_slice(&request.into_inner().manifest_digest);
        let manifests = self.0.director.manifests();
        let found = manifests
            .values()
            .find(|offered| Some(offered.manifest.digest) == want);
        if let Some(offered) = found {
            return Ok(Response::new(send_chunks(Arc::clone(&offered.bundle))));
        }
        // Each erasure is an act of its own: older ones are offered, too.
        let erasures = self.0.store.manifest_list(Kind::Erasure).await;
        let erasures = erasures.map_err(store)?;
        let found = erasures
            .into_iter()
            .find(|row| Some(row.manifest_digest) == want);
        let Some(row) = found else {
            return Err(Status::not_found(
                "policy-superseded: another one is the newest; the stream offers it",
            ));
        };
        Ok(Response::new(send_chunks(Arc::new(row.bundle))))
    }
}

/// Sends a bundle at the pace it is read; ends with the reader.
pub(crate) fn send_chunks(bundle: Arc<Vec<u8>>) -> ReceiverStream<Result<v1::PolicyChunk, Status>> {
    let (sender, messages) = mpsc::channel(2);
    tokio::spawn(async move {
        for chunk in chunks(bundle) {
            if sender.send(Ok(chunk)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(messages)
}

/// The database failed: the peer did nothing wrong and may try again.
pub(crate) fn store(error: crate::record::StoreError) -> Status {
    tracing::error!(error = %error_chain(&error), "the store failed");
    Status::unavailable("store-failed: the collector could not read or write its record; try again")
}

/// An error with its sources, on one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Bytes of an envelope on the wire.
pub(super) fn size(evidence: &v1::Evidence) -> usize {
    evidence.encoded_len()
}
