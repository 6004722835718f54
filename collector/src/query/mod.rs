//! What operators ask, over TLS with an operator's certificate.

mod brake;
mod enrolments;
mod events;
mod evidence;
mod flows;
mod keys;
mod nodes;
mod plan;
mod policy;

pub use keys::KeysHeld;

use std::sync::Arc;

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::ActKind;
use bailiwick_attestation::{NodeId, Sha256Digest, UnixTime};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use crate::auth::{OperatorPeer, Peer};
use crate::clock;
use crate::direct::{Current, Director, node_name};
use crate::endorsements::Endorsed;
use crate::enroll::EkTrust;
use crate::ingest::{Closed, Streams, store_failed};
use crate::keys::Keys;
use crate::proto::query_service_server::QueryService;
use crate::record::{EntryFilter, NewAct, NodeRow, Store};
use crate::standing::Standing;

/// Events in one answer, unless asked for fewer.
const EVENTS: u32 = 10_000;
/// Events where nobody said how many.
const EVENTS_DEFAULT: u32 = 100;

/// The service.
#[derive(Clone, Debug)]
pub struct Query {
    /// Where it is kept.
    pub store: Store,
    /// The policy in force.
    pub director: Arc<Director>,
    /// Who is connected.
    pub streams: Streams,
    /// Whose certificates of TPMs and devices count.
    pub trust: Arc<EkTrust>,
    /// What device makers and services vouch for.
    pub endorsements: Arc<Endorsed>,
    /// Who has standing, and what is held back.
    pub standing: Standing,
    /// Keys of what nodes sealed.
    pub keys: Keys,
    /// The collector's own keys.
    pub held: KeysHeld,
}

fn operator<T>(request: &Request<T>) -> Result<OperatorPeer, Status> {
    match request.extensions().get::<Peer>() {
        Some(Peer::Operator(peer)) => Ok(peer.clone()),
        _ => Err(Status::unauthenticated(
            "certificate-required: connect with an operator's certificate",
        )),
    }
}

impl Query {
    /// The TPM a name stands for: the inventory's name, or `ek-` and at least 8 digits.
    async fn find(&self, name: &str) -> Result<(NodeRow, Current), Status> {
        let current = self.director.current();
        let unknown = || Status::not_found(format!("node-unknown: nobody enrolled as {name:?}"));
        let listed = current.as_ref().and_then(|policy| {
            let name = NodeId::new(name).ok()?;
            policy.named(&name).map(|node| node.ek)
        });
        if let Some(ek) = listed {
            let row = self.store.node_get(&ek).await.map_err(store_failed)?;
            return Ok((row.ok_or_else(unknown)?, current));
        }
        let prefix = name.strip_prefix("ek-").filter(|prefix| prefix.len() >= 8);
        let rows = self.store.node_list().await.map_err(store_failed)?;
        let mut found = rows.iter().filter(|row| match prefix {
            Some(prefix) => row.ek.to_string().starts_with(prefix),
            None => row.claimed_name == name,
        });
        match (found.next(), found.next()) {
            (Some(row), None) => {
                let row = self.store.node_get(&row.ek).await.map_err(store_failed)?;
                Ok((row.ok_or_else(unknown)?, current))
            }
            (Some(_), Some(_)) => Err(Status::invalid_argument(format!(
                "node-ambiguous: {name:?} stands for several TPMs; use more digits of ek-…"
            ))),
            (None, _) => Err(unknown()),
        }
    }
}

#[tonic::async_trait]
impl QueryService for Query {
    type ShowPolicyStream = ReceiverStream<Result<v1::PolicyChunk, Status>>;
    type ListEvidenceStream = ReceiverStream<Result<v1::RecordedEvidence, Status>>;
    type PlanProfileStream = ReceiverStream<Result<v1::PlannedNode, Status>>;

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        operator(&request)?;
        let at = request.into_inner().at_ms.map(UnixTime);
        let current = self.director.current();
        let mut nodes = Vec::new();
        for row in self.store.node_list().await.map_err(store_failed)? {
            if let Some(summary) = self.summary(&row, &current, at).await? {
                nodes.push(summary);
            }
        }
        if at.is_none() {
            nodes.extend(self.never_enrolled(current.as_deref(), &nodes));
        }
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn get_node(
        &self,
        request: Request<v1::GetNodeRequest>,
    ) -> Result<Response<v1::GetNodeResponse>, Status> {
        operator(&request)?;
        let request = request.into_inner();
        self.node(&request.node, request.at_ms.map(UnixTime))
            .await
            .map(Response::new)
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let operator = operator(&request)?;
        let request = request.into_inner();
        let ek = match request.node.as_str() {
            "" => None,
            name => Some(self.find(name).await?.0.ek),
        };
        let to = match request.to_ms {
            0 => clock::now(),
            to => UnixTime(to),
        };
        let limit = match request.limit {
            0 => EVENTS_DEFAULT,
            limit => limit.min(EVENTS),
        };
        let filter = EntryFilter {
            ek: ek.as_ref(),
            study: &request.study,
            kind: if request.all_kinds { "" } else { "event" },
            from: UnixTime(request.from_ms),
            to,
            limit,
        };
        let rows = self.store.entry_list(&filter).await.map_err(store_failed)?;
        let current = self.director.current();
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let mut event = v1::StoredEvent {
                node: crate::direct::node_name(current.as_deref(), &row.ek),
                received_ms: row.received.millis(),
                proven: row.proven,
                ..v1::StoredEvent::default()
            };
            if request.private {
                self.open_private(&row, &mut event).await?;
            }
            event.entry = row.entry;
            events.push(event);
        }
        if request.private {
            let opened = events.iter().filter(|event| event.private.is_some());
            info!(by = %operator.name, study = request.study, node = request.node,
                opened = opened.count(), "private halves read");
        }
        Ok(Response::new(v1::ListEventsResponse { events }))
    }

    async fn get_entry(
        &self,
        request: Request<v1::GetEntryRequest>,
    ) -> Result<Response<v1::GetStatementResponse>, Status> {
        let operator = operator(&request)?;
        let request = request.into_inner();
        let answer = self.entry_proved(&request).await?;
        if request.private {
            info!(by = %operator.name, node = request.node, epoch = request.epoch,
                index = request.index, "private half shown");
        }
        Ok(Response::new(answer))
    }

    async fn list_flows(
        &self,
        request: Request<v1::ListFlowsRequest>,
    ) -> Result<Response<v1::ListFlowsResponse>, Status> {
        operator(&request)?;
        self.flows(&request.into_inner()).await.map(Response::new)
    }

    async fn list_destinations(
        &self,
        request: Request<v1::ListDestinationsRequest>,
    ) -> Result<Response<v1::ListDestinationsResponse>, Status> {
        let operator = operator(&request)?;
        let request = request.into_inner();
        let answer = self.destinations(&request).await?;
        info!(by = %operator.name, study = request.study, node = request.node,
            told = answer.destinations.len(), "destinations read");
        Ok(Response::new(answer))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        operator(&request)?;
        self.keys_listed(&request.into_inner().study)
            .await
            .map(Response::new)
    }

    async fn list_collector_keys(
        &self,
        request: Request<v1::ListCollectorKeysRequest>,
    ) -> Result<Response<v1::ListCollectorKeysResponse>, Status> {
        operator(&request)?;
        Ok(Response::new(self.collector_keys()))
    }

    async fn list_alerts(
        &self,
        request: Request<v1::ListAlertsRequest>,
    ) -> Result<Response<v1::ListAlertsResponse>, Status> {
        operator(&request)?;
        let rows = self.store.alert_list(request.into_inner().all).await;
        let alerts = rows
            .map_err(store_failed)?
            .into_iter()
            .map(|row| v1::Alert {
                name: row.alert.name,
                node: row.alert.node,
                severity: row.alert.severity,
                summary: row.alert.summary,
                since_ms: row.since.millis(),
                resolved_ms: row.resolved.map(UnixTime::millis),
            })
            .collect();
        Ok(Response::new(v1::ListAlertsResponse { alerts }))
    }

    async fn get_statement(
        &self,
        request: Request<v1::GetStatementRequest>,
    ) -> Result<Response<v1::GetStatementResponse>, Status> {
        operator(&request)?;
        let request = request.into_inner();
        self.statement(&request.node, &request.digest)
            .await
            .map(Response::new)
    }

    async fn list_evidence(
        &self,
        request: Request<v1::ListEvidenceRequest>,
    ) -> Result<Response<Self::ListEvidenceStream>, Status> {
        operator(&request)?;
        self.evidence(request.into_inner()).await.map(Response::new)
    }

    async fn plan_profile(
        &self,
        request: Request<v1::PlanProfileRequest>,
    ) -> Result<Response<Self::PlanProfileStream>, Status> {
        operator(&request)?;
        self.plan(request.get_ref()).map(Response::new)
    }

    async fn apply_policy(
        &self,
        request: Request<Streaming<v1::PolicyChunk>>,
    ) -> Result<Response<v1::ApplyPolicyResponse>, Status> {
        let operator = operator(&request)?;
        self.apply(&operator, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn show_policy(
        &self,
        request: Request<v1::ShowPolicyRequest>,
    ) -> Result<Response<Self::ShowPolicyStream>, Status> {
        operator(&request)?;
        self.show(&request.into_inner().kind).map(Response::new)
    }

    async fn policy_status(
        &self,
        request: Request<v1::PolicyStatusRequest>,
    ) -> Result<Response<v1::PolicyStatusResponse>, Status> {
        operator(&request)?;
        self.policy_status_now().await.map(Response::new)
    }

    async fn challenge(
        &self,
        request: Request<v1::ChallengeRequest>,
    ) -> Result<Response<v1::ChallengeResponse>, Status> {
        operator(&request)?;
        let (row, _) = self.find(&request.into_inner().node).await?;
        let connected = self.streams.challenge(&row.ek);
        Ok(Response::new(v1::ChallengeResponse { connected }))
    }

    async fn revoke_node(
        &self,
        request: Request<v1::RevokeNodeRequest>,
    ) -> Result<Response<v1::RevokeNodeResponse>, Status> {
        let operator = operator(&request)?;
        let (row, current) = self.find(&request.into_inner().node).await?;
        let body = format!("ek {}\ncertificate {}\n", row.ek, row.certificate);
        self.store
            .node_revoke(NewAct {
                kind: ActKind::Revocation,
                subject: node_name(current.as_deref(), &row.ek),
                ek: Some(row.ek),
                actor: operator.name.to_string(),
                body: body.into_bytes(),
                now: clock::now(),
            })
            .await
            .map_err(store_failed)?;
        // After the row: a stream that opens in between is refused by it.
        self.streams.close(&row.ek, Closed::Revoked);
        let changes = self.standing.withdrawn(&row.ek);
        let kept = self.store.brakes_change(changes).await;
        kept.map_err(store_failed)?;
        info!(ek = %row.ek, by = %operator.name, "certificate revoked");
        Ok(Response::new(v1::RevokeNodeResponse {}))
    }

    async fn list_enrolments(
        &self,
        request: Request<v1::ListEnrolmentsRequest>,
    ) -> Result<Response<v1::ListEnrolmentsResponse>, Status> {
        operator(&request)?;
        self.enrolments().await.map(Response::new)
    }

    async fn relay_activation(
        &self,
        request: Request<v1::RelayActivationRequest>,
    ) -> Result<Response<v1::ActivationAnswer>, Status> {
        let operator = operator(&request)?;
        self.relay(&operator, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_acts(
        &self,
        request: Request<v1::ListActsRequest>,
    ) -> Result<Response<v1::ListActsResponse>, Status> {
        operator(&request)?;
        self.acts(request.into_inner()).await.map(Response::new)
    }

    async fn show_brake(
        &self,
        request: Request<v1::ShowBrakeRequest>,
    ) -> Result<Response<v1::ShowBrakeResponse>, Status> {
        operator(&request)?;
        Ok(Response::new(self.brake()))
    }

    async fn confirm_brake(
        &self,
        request: Request<v1::ConfirmBrakeRequest>,
    ) -> Result<Response<v1::ConfirmBrakeResponse>, Status> {
        let operator = operator(&request)?;
        self.let_go(&operator, &request.into_inner()).await?;
        Ok(Response::new(v1::ConfirmBrakeResponse {}))
    }
}

/// A digest of the wire; empty stands for none.
fn maybe_digest(bytes: &[u8]) -> Result<Option<Sha256Digest>, Status> {
    match bytes {
        [] => Ok(None),
        bytes => Sha256Digest::from_slice(bytes)
            .map(Some)
            .ok_or_else(|| Status::invalid_argument("digest: must have 32 bytes, or none")),
    }
}
