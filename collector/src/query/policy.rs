//! An operator brings what approvers signed.

use std::collections::BTreeMap;
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
        let newest: BTreeMap<Kind, u64> = manifests
            .iter()
            .map(|(kind, offered)| (*kind, offered.manifest.version))
            .collect();
        let spoke: Vec<&NodeRow> = rows.iter().filter(listed).collect();
        let mut lagging: Vec<v1::LaggingNode> = spoke
            .iter()
            .filter_map(|row| {
                let has = self.streams.has(&row.ek);
                let behind = behind(&newest, row.policy_version, has.as_ref());
                (!behind.is_empty()).then(|| v1::LaggingNode {
                    node: node_name(current.as_deref(), &row.ek),
                    policy_version: row.policy_version,
                    last_seen_ms: row.last_seen.map_or(0, UnixTime::millis),
                    behind,
                })
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

/// Of which kinds a node has an older manifest than the newest, or has not said what it has. The
/// policy is what its statements say; of the others it tells when it connects.
fn behind(
    newest: &BTreeMap<Kind, u64>,
    policy: u64,
    has: Option<&BTreeMap<Kind, u64>>,
) -> Vec<v1::KindBehind> {
    let of = |kind: &Kind| match kind {
        Kind::Policy => Some(policy),
        other => has.map(|has| has.get(other).copied().unwrap_or(0)),
    };
    newest
        .iter()
        .map(|(kind, newest)| (kind, newest, of(kind)))
        .filter(|(_, newest, version)| version.is_none_or(|version| version < **newest))
        .map(|(kind, _, version)| v1::KindBehind {
            kind: kind.as_str().to_owned(),
            version,
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_shown_for_each_kind_and_what_nobody_said_is_not_taken_for_good() {
        let newest = [
            (Kind::Policy, 5),
            (Kind::Approvers, 2),
            (Kind::World, 3),
            (Kind::BreakGlass, 1),
        ];
        let newest: BTreeMap<Kind, u64> = newest.into();
        let all: BTreeMap<Kind, u64> = newest.clone();
        let edit = |kind, version| {
            let mut has = all.clone();
            has.insert(kind, version);
            has
        };
        let mut without = all.clone();
        without.remove(&Kind::BreakGlass);
        type Row<'a> = (
            &'a str,
            u64,
            Option<BTreeMap<Kind, u64>>,
            &'a [(&'a str, Option<u64>)],
        );
        let rows: &[Row<'_>] = &[
            ("has all", 5, Some(all.clone()), &[]),
            ("has more", 6, Some(edit(Kind::World, 4)), &[]),
            (
                "an older policy, by its statements",
                4,
                Some(all.clone()),
                &[("policy", Some(4))],
            ),
            (
                "older approvers",
                5,
                Some(edit(Kind::Approvers, 1)),
                &[("approvers", Some(1))],
            ),
            (
                "an older map",
                5,
                Some(edit(Kind::World, 2)),
                &[("world", Some(2))],
            ),
            (
                "no break-glass",
                5,
                Some(without),
                &[("break-glass", Some(0))],
            ),
            (
                "has said nothing",
                5,
                None,
                &[("approvers", None), ("world", None), ("break-glass", None)],
            ),
        ];
        for (name, policy, has, want) in rows {
            let found = behind(&newest, *policy, has.as_ref());
            let mut found: Vec<_> = found
                .iter()
                .map(|behind| (behind.kind.as_str(), behind.version))
                .collect();
            let mut want = want.to_vec();
            found.sort_unstable();
            want.sort_unstable();
            assert_eq!(found, want, "{name}");
        }
        assert!(behind(&BTreeMap::new(), 0, None).is_empty(), "no manifests");
    }
}
