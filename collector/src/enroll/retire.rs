//! Retirement: what approvers took out of service has no certificate and no stream.
//!
//! A reconciler: on every change of policy and once at the start it compares what is retired with
//! what is still let in. The enrolment and evidence ports refuse a retired TPM by themselves; this
//! ends what was open before, the lease in force with it, and records that it happened.

use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::tlog::ActKind;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::clock;
use crate::direct::{Direction, Policy};
use crate::ingest::{Closed, Streams, error_chain};
use crate::record::{NewAct, NodeRow, Store, StoreError};
use crate::standing::Standing;

/// What retires.
#[derive(Debug)]
pub struct Retiring {
    /// The policy in force.
    pub policy: watch::Receiver<Direction>,
    /// Where nodes are kept.
    pub store: Store,
    /// Who is connected.
    pub streams: Streams,
    /// Who has standing.
    pub standing: Standing,
}

/// TPMs that are out of service by the inventory and not by the record.
#[must_use]
pub fn to_retire(rows: &[NodeRow], retired: impl Fn(&Sha256Digest) -> bool) -> Vec<&NodeRow> {
    rows.iter()
        .filter(|row| row.revoked.is_none() && retired(&row.ek))
        .collect()
}

impl Retiring {
    /// Runs until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let current = self.policy.borrow_and_update().policy.clone();
            if let Some(policy) = current
                && let Err(error) = self.reconcile(&policy).await
            {
                error!(error = %error_chain(&error), "retired TPMs could not be looked up");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.policy.changed() => if changed.is_err() {
                    return;
                }
            }
        }
    }

    async fn reconcile(&self, policy: &Policy) -> Result<(), StoreError> {
        let rows = self.store.node_list().await?;
        for row in to_retire(&rows, |ek| policy.retired(ek).is_some()) {
            let reason = policy.retired(&row.ek).unwrap_or_default();
            let subject = match row.listed_name.as_str() {
                "" => crate::direct::pending_name(&row.ek),
                name => name.to_owned(),
            };
            let body = format!(
                "ek {}\nmanifest {}\nreason {reason}\n",
                row.ek,
                policy.manifest_digest()
            );
            self.store
                .node_revoke(NewAct {
                    kind: ActKind::Retirement,
                    subject,
                    ek: Some(row.ek),
                    actor: "approvers".to_owned(),
                    body: body.into_bytes(),
                    now: clock::now(),
                })
                .await?;
            // After the row: a stream that opens in between is refused by it.
            self.streams.close(&row.ek, Closed::Retired);
            let changes = self.standing.withdrawn(&row.ek);
            self.store.brakes_change(changes).await?;
            info!(ek = %row.ek, reason, "retired");
        }
        Ok(())
    }
}
