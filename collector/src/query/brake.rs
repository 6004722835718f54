//! The brake, shown to operators and let go of by one.

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::ActKind;
use tonic::Status;
use tracing::warn;

use super::Query;
use crate::auth::OperatorPeer;
use crate::clock;
use crate::direct::node_name;
use crate::ingest::store_failed;
use crate::record::NewAct;
use crate::standing::{NotHeld, Phase};

/// Longest reason a person may give.
const REASON: usize = 400;
/// Longest subject of an act; ASCII, as claims and codes are.
const SUBJECT: usize = 190;

impl Query {
    pub(super) fn brake(&self) -> v1::ShowBrakeResponse {
        let current = self.director.current();
        let rule = current.as_ref().map(|policy| policy.brake());
        let rule = rule.unwrap_or_default();
        let brakes = self.standing.brakes();
        let causes = brakes.causes().iter().map(|(name, cause)| {
            let (phase, since_ms, by, reason) = match &cause.phase {
                Phase::Counting => ("counting", 0, "", ""),
                Phase::Held(at) => ("held", at.millis(), "", ""),
                Phase::Confirmed { at, by, reason } => {
                    ("confirmed", at.millis(), by.as_str(), reason.as_str())
                }
            };
            let nodes = cause.losses.keys();
            v1::BrakeCause {
                cause: name.clone(),
                phase: phase.to_owned(),
                since_ms,
                by: by.to_owned(),
                reason: reason.to_owned(),
                nodes: nodes.map(|ek| node_name(current.as_deref(), ek)).collect(),
            }
        });
        v1::ShowBrakeResponse {
            causes: causes.collect(),
            share_percent: rule.share_percent,
            window_seconds: rule.window_seconds,
            min_nodes: rule.min_nodes,
        }
    }

    pub(super) async fn let_go(
        &self,
        operator: &OperatorPeer,
        request: &v1::ConfirmBrakeRequest,
    ) -> Result<(), Status> {
        let v1::ConfirmBrakeRequest { cause, reason } = request;
        let sound = reason.trim() == reason && !reason.chars().any(char::is_control);
        if reason.is_empty() || reason.len() > REASON || !sound {
            return Err(Status::invalid_argument(
                "reason-malformed: 1 to 400 bytes, no control characters, no space at its ends",
            ));
        }
        let (by, now) = (operator.name.as_str(), clock::now());
        let not_held =
            |error: NotHeld| Status::failed_precondition(format!("brake-not-held: {error}"));
        if !self.standing.brakes().held().contains(cause.as_str()) {
            return Err(not_held(NotHeld(cause.chars().take(80).collect())));
        }
        // In the log before it takes effect: who, and why.
        let act = NewAct {
            kind: ActKind::Brake,
            subject: cause.chars().take(SUBJECT).collect(),
            ek: None,
            actor: by.to_owned(),
            body: format!("cause {cause}\nby {by}\nreason {reason}\n").into_bytes(),
            now,
        };
        self.store.act_insert(act).await.map_err(store_failed)?;
        let changes = self
            .standing
            .confirm(cause, by, reason, now)
            .map_err(not_held)?;
        self.store
            .brakes_change(changes)
            .await
            .map_err(store_failed)?;
        warn!(cause, by, reason, "the brake is let go of");
        Ok(())
    }
}
