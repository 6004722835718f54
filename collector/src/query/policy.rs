//! An operator brings what approvers signed.

use std::sync::Arc;

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::proto::v1;
use bailiwick_policy::kind::Kind;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::warn;

use super::Query;
use crate::auth::OperatorPeer;
use crate::clock;
use crate::direct::{ApplyError, Collect, Offered, node_name};
use crate::ingest::{error_chain, send_chunks, store_failed};
use crate::record::NodeRow;

impl Query {
    pub(super) async fn apply(
        &self,
        operator: &OperatorPeer,
        mut upload: Streaming<v1::PolicyChunk>,
    ) -> Result<v1::ApplyPolicyResponse, Status> {
        let mut collect = Collect::default();
        while let Some(chunk) = upload.message().await? {
            collect.push(&chunk).map_err(|refused| {
                Status::invalid_argument(format!("policy-too-large: {refused}"))
            })?;
        }
        let applied = self
            .director
            .apply(collect.finish(), operator.name.as_str(), clock::now())
            .await;
        match applied {
            Ok(applied) => Ok(v1::ApplyPolicyResponse {
                version: applied.version,
                manifest_digest: applied.manifest_digest.as_bytes().to_vec(),
                kind: applied.kind.as_str().to_owned(),
            }),
            Err(ApplyError::Refused(refused)) => {
                warn!(by = %operator.name, code = refused.code(), "policy refused");
                Err(Status::failed_precondition(format!(
                    "{}: {refused}",
                    refused.code()
                )))
            }
            Err(ApplyError::Malformed(error)) => Err(Status::invalid_argument(format!(
                "policy-malformed: {error}"
            ))),
            Err(ApplyError::Store(error)) => Err(store_failed(error)),
            Err(error @ ApplyError::Check(_)) => Err(Status::internal(error_chain(&error))),
        }
    }

    /// The newest manifest of a kind, as nodes fetch it.
    pub(super) fn show(
        &self,
        kind: &str,
    ) -> Result<ReceiverStream<Result<v1::PolicyChunk, Status>>, Status> {
        let kind = Kind::parse(kind).ok_or_else(|| {
            Status::invalid_argument(format!("kind-unknown: {kind:?} is no kind of manifest"))
        })?;
        let manifests = self.director.manifests();
        let offered = manifests.get(&kind).ok_or_else(|| {
            Status::not_found(format!("no-policy: no manifest of kind {kind} is in force"))
        })?;
        Ok(send_chunks(Arc::clone(&offered.bundle)))
    }

    pub(super) async fn policy_status_now(&self) -> Result<v1::PolicyStatusResponse, Status> {
        let manifests = self.director.manifests();
        let current = self.director.current();
        let chain = self.director.chain().await;
        let rows = self.store.node_list().await.map_err(store_failed)?;
        let listed = |row: &&NodeRow| {
            let policy = current.as_ref();
            row.newest.is_some() && policy.is_some_and(|policy| policy.listed(&row.ek).is_some())
        };
        let newest = current.as_ref().map_or(0, |policy| policy.version());
        let spoke: Vec<&NodeRow> = rows.iter().filter(listed).collect();
        let lagging = spoke.iter().filter(|row| row.policy_version < newest);
        let mut lagging: Vec<v1::LaggingNode> = lagging
            .map(|row| v1::LaggingNode {
                node: node_name(current.as_deref(), &row.ek),
                policy_version: row.policy_version,
                last_seen_ms: row.last_seen.map_or(0, UnixTime::millis),
            })
            .collect();
        lagging.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(v1::PolicyStatusResponse {
            manifests: manifests.values().map(|offered| status(offered)).collect(),
            lagging,
            approvers_digest: chain.current().digest().as_bytes().to_vec(),
            threshold: chain.current().threshold(),
            nodes: u64::try_from(spoke.len()).unwrap_or(u64::MAX),
        })
    }
}

fn status(offered: &Offered) -> v1::ManifestStatus {
    let manifest = &offered.manifest;
    v1::ManifestStatus {
        kind: manifest.kind.as_str().to_owned(),
        version: manifest.version,
        manifest_digest: manifest.digest.as_bytes().to_vec(),
        not_after_ms: manifest.not_after.millis(),
        reason: manifest.reason.clone(),
        signers: offered
            .signers
            .iter()
            .map(|signer| signer.principals.clone())
            .collect(),
    }
}
