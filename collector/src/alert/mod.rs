//! Tells on-call people: what should be firing, what is, and what the receivers have been told.
//!
//! [`engine`] compares wanted with actual and holds every decision; this file is the timer around
//! it. State lies in the store, so that a restart neither forgets an alert nor tells it anew.

pub mod devices;
pub mod engine;
pub mod own_clock;
pub mod place;
pub mod send;

use std::sync::Arc;
use std::time::Duration;

use bailiwick_attestation::UnixTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cas::Cas;
use crate::clock;
use crate::config;
use crate::direct::{Direction, LeaseKeys};
use crate::record::{AlertChange, AlertRow, Store, StoreError, Verdict};
use crate::standing::Standing;
use engine::{Rules, Subject};
use send::Sender;

/// Everything the loop needs.
#[derive(Debug)]
pub struct Alerts {
    /// Where state and alerts are kept.
    pub store: Store,
    /// What approvers signed.
    pub policy: watch::Receiver<Direction>,
    /// What is held back.
    pub standing: Standing,
    /// Keys this collector may sign leases with.
    pub lease_keys: Arc<LeaseKeys>,
    /// CAs it may show and issue certificates under.
    pub cas: Arc<Cas>,
    /// By how many milliseconds this collector's clock is behind the latest time it remembers.
    pub clock: watch::Receiver<Option<u64>>,
    /// What the operator configured.
    pub config: config::Alert,
    /// When this process began to listen: its own absence is not the nodes' silence.
    pub started: UnixTime,
}

impl Alerts {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StoreError> {
        let sender = Sender::new(&self.config);
        let mut tick = tokio::time::interval(Duration::from_secs(self.config.evaluate_seconds));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            if let Err(error) = self.evaluate(clock::now()).await {
                if matches!(error, StoreError::Stopped) {
                    return Err(error);
                }
                error!(%error, "alerts could not be evaluated");
            }
            self.notify(&sender, clock::now()).await?;
        }
    }

    /// Compares what should be with what is, once.
    pub async fn evaluate(&self, now: UnixTime) -> Result<(), StoreError> {
        let subjects = self.subjects(now).await?;
        let mut wanted = engine::wanted(&subjects, &Rules::new(&self.config), now);
        let policy = self.policy.borrow().policy.clone();
        let owner = |device: &str| {
            let node = policy.as_ref()?.device_owner(device)?;
            Some(node.name.as_str())
        };
        let retired = |subject: &Subject| {
            let policy = policy.as_ref();
            policy.is_some_and(|policy| policy.retired(&subject.row.ek).is_some())
        };
        let shown = self.store.gpus_at_many(devices::since(now)).await?;
        wanted.extend(devices::wanted(&subjects, &shown, owner, retired));
        let deployment = policy.as_ref().map(|policy| policy.deployment().as_str());
        let places = self.store.place_list().await?;
        let listed = |ek: &_| policy.as_ref().and_then(|policy| policy.listed(ek));
        let rules = Rules::new(&self.config);
        wanted.extend(place::wanted(&subjects, &places, listed, &rules, now));
        wanted.extend(engine::brakes(&self.standing.brakes(), deployment));
        wanted.extend(own_clock::wanted(*self.clock.borrow(), deployment));
        wanted.extend(policy.as_ref().and_then(|policy| {
            let listed = policy.collector_keys();
            let missing = [
                ("lease key", self.lease_keys.active(listed, now).is_some()),
                ("log key", self.store.signers().believed(listed, now)),
                ("CA", self.cas.issuing(Some(listed), now).is_some()),
            ];
            let missing = missing.iter().filter(|(_, good)| !good);
            let missing: Vec<&str> = missing.map(|(what, _)| *what).collect();
            engine::key_not_listed(&missing, policy.version(), policy.deployment().as_str())
        }));
        wanted.extend(policy.as_ref().and_then(|policy| {
            let verified = policy.verified();
            let profile = &verified.model.profile.world;
            let deployment = policy.deployment().as_str();
            engine::world_old(profile, verified.world_built(), deployment, now)
        }));
        let open = self.store.alert_list_open().await?;
        let changes = engine::changes(wanted, &open, now);
        for change in &changes {
            match change {
                AlertChange::Raise(alert, _) => {
                    warn!(alert = %alert.name, node = %alert.node, summary = %alert.summary, "alert");
                }
                AlertChange::Resolve(id, _) => info!(id, "alert is over"),
                AlertChange::Update(..) | AlertChange::Notified(..) => {}
            }
        }
        self.store.alerts_change(changes).await
    }

    /// Nodes as the engine looks at them; whoever went silent becomes stale on the way.
    async fn subjects(&self, now: UnixTime) -> Result<Vec<Subject>, StoreError> {
        let policy = self.policy.borrow().policy.clone();
        let mut subjects = Vec::new();
        for mut row in self.store.node_list().await? {
            let listed = policy.as_ref().and_then(|policy| policy.listed(&row.ek));
            let limit = policy.as_ref().map(|policy| policy.max_silence_ms(&row.ek));
            if let (Some(_), Some(limit)) = (&listed, limit)
                && row.verdict != Verdict::Stale
                && let Some(reason) = engine::silence(&row, limit, self.started, now)
            {
                self.store.stale_begin(row.ek, now, reason.clone()).await?;
                (row.verdict, row.reason, row.since) = (Verdict::Stale, reason, now);
            }
            subjects.push(Subject {
                name: crate::direct::node_name(policy.as_deref(), &row.ek),
                enrolled: listed.is_some(),
                jurisdiction: listed.map(|node| node.jurisdiction.to_string()),
                deployment: policy
                    .as_ref()
                    .map(|policy| policy.deployment().to_string()),
                held: self.standing.held(&row.ek).is_some(),
                row,
            });
        }
        Ok(subjects)
    }

    /// Tells the receivers what they have not been told for a while.
    async fn notify(&self, sender: &Sender, now: UnixTime) -> Result<(), StoreError> {
        let open = match self.store.alert_list_open().await {
            Ok(open) => open,
            Err(error) => {
                error!(%error, "alerts could not be read");
                return Ok(());
            }
        };
        let resend_ms = self.config.resend_seconds * 1000;
        let due: Vec<&AlertRow> = open
            .iter()
            .filter(|row| engine::due(row, resend_ms, now))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        match sender.post(&due, now).await {
            Ok(()) => {
                let told = due
                    .iter()
                    .map(|row| AlertChange::Notified(row.id, now, row.resolved.is_some()))
                    .collect();
                self.store.alerts_change(told).await
            }
            Err(error) => {
                error!(%error, alerts = due.len(), "receivers could not be told; trying again");
                // Past its end a resolved alert has ended at every receiver by itself.
                let ended = due
                    .iter()
                    .filter(|row| row.resolved.is_some_and(|at| now.since(at) > 4 * resend_ms))
                    .map(|row| AlertChange::Notified(row.id, now, true))
                    .collect();
                self.store.alerts_change(ended).await
            }
        }
    }
}
