//! One node, and one of its statements, as answers.

use std::collections::HashSet;

use bailiwick_attestation::evidence::ParsedStatement;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_policy::kind::Kind;
use prost::Message as _;
use tonic::Status;

use super::{Query, maybe_digest};
use crate::alert::place::of_node;
use crate::clock;
use crate::direct::{Current, Policy, node_name};
use crate::ingest::store_failed;
use crate::place::line;
use crate::record::NodeRow;
use crate::standing::why::{Facts, conditions, why};

fn fence_conditions(stored: &v1::StoredStatement) -> Vec<v1::StandingLine> {
    let evidence = stored.evidence.as_ref();
    let statement = evidence.map(|evidence| v1::Statement::decode(evidence.statement.as_slice()));
    let fence = statement.and_then(Result::ok).and_then(|s| s.fence);
    fence.as_ref().map_or_else(Vec::new, conditions)
}

/// Where a TPM that enrolled stands with the inventory.
pub(super) fn state(policy: Option<&Policy>, ek: &Sha256Digest) -> &'static str {
    match policy {
        Some(policy) if policy.retired(ek).is_some() => "retired",
        Some(policy) if policy.listed(ek).is_some() => "enrolled",
        _ => "pending",
    }
}

impl Query {
    /// Nodes of the inventory that nothing was ever heard of.
    pub(super) fn never_enrolled(
        &self,
        policy: Option<&Policy>,
        known: &[v1::NodeSummary],
    ) -> Vec<v1::NodeSummary> {
        let known: HashSet<&[u8]> = known.iter().map(|node| node.ek_digest.as_slice()).collect();
        let nodes = policy.map_or(&[][..], |policy| &policy.verified().model.inventory.nodes);
        nodes
            .iter()
            .filter(|node| !known.contains(node.ek.as_bytes().as_slice()))
            .map(|node| v1::NodeSummary {
                node: node.name.to_string(),
                state: "never-enrolled".to_owned(),
                verdict: "none".to_owned(),
                ek_digest: node.ek.as_bytes().to_vec(),
                place: node.place.clone().unwrap_or_default(),
                reason: match node.guest {
                    Some(_) => "the inventory lists it, and it never enrolled",
                    None => "the inventory lists it, and its TPM never enrolled",
                }
                .to_owned(),
                ..v1::NodeSummary::default()
            })
            .collect()
    }

    /// A node's line; at a time before its first verdict there is none.
    pub(super) async fn summary(
        &self,
        row: &NodeRow,
        current: &Current,
        at: Option<UnixTime>,
    ) -> Result<Option<v1::NodeSummary>, Status> {
        let listed = current.as_ref().and_then(|policy| policy.listed(&row.ek));
        let mut summary = v1::NodeSummary {
            node: node_name(current.as_deref(), &row.ek),
            state: state(current.as_deref(), &row.ek).to_owned(),
            verdict: row.verdict.as_str().to_owned(),
            since_ms: row.since.millis(),
            last_seen_ms: row.last_seen.map_or(0, UnixTime::millis),
            policy_version: row.policy_version,
            statements: row.statements,
            ek_digest: row.ek.as_bytes().to_vec(),
            lease_until_ms: row.lease_until.map(UnixTime::millis),
            reason: row.reason.clone(),
            place: listed
                .and_then(|node| node.place.clone())
                .unwrap_or_default(),
        };
        let Some(at) = at else {
            return Ok(Some(summary));
        };
        let held = self.store.interval_list(&row.ek, Some(at)).await;
        let Some(interval) = held.map_err(store_failed)?.into_iter().next() else {
            return Ok(None);
        };
        summary.verdict = interval.verdict;
        summary.reason = interval.reason;
        summary.since_ms = interval.from.millis();
        // A lease of now says nothing about then.
        summary.lease_until_ms = None;
        Ok(Some(summary))
    }

    pub(super) async fn node(
        &self,
        name: &str,
        at: Option<UnixTime>,
    ) -> Result<v1::GetNodeResponse, Status> {
        let (row, current) = self.find(name).await?;
        let summary = self.summary(&row, &current, at).await?;
        let summary = summary
            .ok_or_else(|| Status::not_found("node-unknown: there was no verdict on it then"))?;
        let intervals = self.store.interval_list(&row.ek, at).await;
        let intervals = intervals.map_err(store_failed)?;
        let wanted = match at {
            None => row.newest.as_ref().map(|newest| newest.digest.clone()),
            Some(_) => intervals
                .first()
                .and_then(|interval| interval.digest)
                .map(|digest| digest.as_bytes().to_vec()),
        };
        let digest = wanted.as_deref().and_then(Sha256Digest::from_slice);
        let stored = match digest {
            None => None,
            Some(digest) => {
                let stored = self.store.statement_get(&row.ek, &digest).await;
                stored.map_err(store_failed)?.map(|row| row.stored)
            }
        };
        let mut standing = match at {
            None => self.standing_lines(&row, &current, &summary.node),
            Some(_) => Vec::new(),
        };
        if at.is_none() {
            standing.extend(self.place_lines(&row, &current).await?);
        }
        standing.extend(stored.iter().flat_map(fence_conditions));
        let result = stored.map_or_else(Vec::new, |stored| stored.result);
        Ok(v1::GetNodeResponse {
            standing,
            summary: Some(summary),
            result,
            intervals: intervals
                .into_iter()
                .map(|interval| v1::Interval {
                    verdict: interval.verdict,
                    from_ms: interval.from.millis(),
                    to_ms: interval.to.map(UnixTime::millis),
                    statement_digest: interval
                        .digest
                        .map_or_else(Vec::new, |digest| digest.as_bytes().to_vec()),
                    reason: interval.reason,
                })
                .collect(),
            enrolment: Some(row.enrolment.clone()),
            ak: self.whose_word(&row, current.as_deref()),
            // Every accepted statement is under a signed head before it is answered.
            receipts: row.statements,
        })
    }

    /// What of its place somebody has to look at.
    async fn place_lines(
        &self,
        row: &NodeRow,
        current: &Current,
    ) -> Result<Vec<v1::StandingLine>, Status> {
        let listed = current.as_ref().and_then(|policy| policy.listed(&row.ek));
        let place = self.store.place_get(&row.ek).await.map_err(store_failed)?;
        let found = place
            .zip(listed)
            .map(|(place, node)| of_node(&place, node, clock::now()));
        Ok(found.unwrap_or_default().into_iter().map(line).collect())
    }

    fn standing_lines(
        &self,
        row: &NodeRow,
        current: &Current,
        node: &str,
    ) -> Vec<v1::StandingLine> {
        let listed = current.as_ref().and_then(|policy| policy.listed(&row.ek));
        let retired = current.as_ref().and_then(|policy| {
            let inventory = &policy.verified().model.inventory;
            inventory.retired(&row.ek)
        });
        let held = self.standing.held(&row.ek);
        let glass = row.fence.break_glass.as_ref();
        let newest = row.newest.as_ref();
        why(&Facts {
            node,
            listed: listed.is_some(),
            guest: row.enrolment.guest.is_some(),
            retired: retired.as_deref(),
            verdict: row.verdict,
            reason: &row.reason,
            statements: row.statements,
            lease_until: row.lease_until,
            lease_ended: &row.lease_ended,
            held: held.as_deref(),
            break_glass: glass.map(|(manifest, until)| (manifest.as_str(), *until)),
            epochs: newest
                .zip(listed)
                .map(|(newest, node)| (newest.epoch, node.epoch)),
            now: clock::now(),
        })
    }

    /// A statement with all that `bailiwick verify` needs.
    pub(super) async fn statement(
        &self,
        name: &str,
        digest: &[u8],
    ) -> Result<v1::GetStatementResponse, Status> {
        let (row, _) = self.find(name).await?;
        let newest = row.newest.as_ref().map(|newest| newest.digest.as_slice());
        let digest = match maybe_digest(digest)? {
            Some(digest) => Some(digest),
            None => newest.and_then(Sha256Digest::from_slice),
        };
        let unknown = || Status::not_found("statement-unknown: no such statement of this node");
        let digest = digest.ok_or_else(unknown)?;
        let found = self.store.statement_get(&row.ek, &digest).await;
        let statement = found.map_err(store_failed)?.ok_or_else(unknown)?;
        let receipt = self.store.receipt(&statement).await.map_err(store_failed)?;
        let mut stored = statement.stored;
        stored.receipt = Some(receipt);
        if let Some(manifest) = statement.manifest_digest {
            let policy = self.store.policy_get(&manifest).await;
            let bundle = policy.map_err(store_failed)?;
            stored.policy = bundle
                .map(|policy| v1::PolicyBundle::decode(policy.bundle.as_slice()))
                .transpose()
                .map_err(|_malformed| Status::internal("the stored policy does not decode"))?;
        }
        self.signed_by_whom(&mut stored).await?;
        stored.logs = self.kept_logs(&row.ek, &stored).await?;
        stored.keys = self.newest_keys().await?;
        Ok(v1::GetStatementResponse {
            statement: Some(stored),
        })
    }

    /// The logs that a statement names by digest, what it cites of GPUs, and what a part beside it
    /// goes on from.
    pub(super) async fn kept_logs(
        &self,
        ek: &Sha256Digest,
        stored: &v1::StoredStatement,
    ) -> Result<Vec<v1::Log>, Status> {
        let statement = stored.evidence.as_ref().map(|evidence| &evidence.statement);
        let statement = statement.and_then(|bytes| ParsedStatement::parse(bytes).ok());
        let named = statement.as_ref().map(ParsedStatement::named);
        let mut named = named.unwrap_or_default();
        let brought = stored.evidence.iter().flat_map(|evidence| &evidence.logs);
        for part in brought {
            if let Some(before) = Sha256Digest::from_slice(&part.follows) {
                named.insert(part.name.clone(), before);
            }
        }
        let mut logs = Vec::new();
        for digest in named.values() {
            let kept = self.store.log_parts(ek, digest).await;
            logs.extend(kept.map_err(store_failed)?);
        }
        Ok(logs)
    }

    /// What the newest policy says of the collector's keys, for whoever looks at a receipt: the
    /// checkpoint in it may bear a key that came after the statement.
    async fn newest_keys(&self) -> Result<Option<v1::PolicyBundle>, Status> {
        let Some(policy) = self.director.current() else {
            return Ok(None);
        };
        let broken = |_malformed| Status::internal("a stored manifest does not decode");
        let mut bundle = v1::PolicyBundle::decode(policy.bundle().as_slice()).map_err(broken)?;
        bundle.files.retain(|file| file.path == "collector.toml");
        let changes = self.store.manifest_list(Kind::Approvers).await;
        let changes = changes.map_err(store_failed)?;
        let changes = changes
            .iter()
            .map(|row| v1::PolicyBundle::decode(row.bundle.as_slice()));
        bundle.before = changes.collect::<Result<_, _>>().map_err(broken)?;
        Ok(Some(bundle))
    }

    /// What an auditor needs to follow the policy's signatures to approvers of their own, as it
    /// stood when the statement was appraised.
    async fn signed_by_whom(&self, stored: &mut v1::StoredStatement) -> Result<(), Status> {
        let Some(policy) = &stored.policy else {
            return Ok(());
        };
        let received = UnixTime(stored.received_ms);
        let broken = |_malformed| Status::internal("a stored manifest does not decode");
        let then = |kind| async move {
            let rows = self.store.manifest_list(kind).await.map_err(store_failed)?;
            let then = rows.into_iter().filter(|row| row.applied <= received);
            then.map(|row| v1::PolicyBundle::decode(row.bundle.as_slice()).map_err(broken))
                .collect::<Result<Vec<_>, Status>>()
        };
        stored.approvers = then(Kind::Approvers).await?;
        let carries = policy
            .files
            .iter()
            .any(|file| Kind::World.holds(&file.path));
        if !carries {
            stored.world = then(Kind::World).await?.pop();
        }
        Ok(())
    }
}
