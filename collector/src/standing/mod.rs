//! Who has standing now, who is told of whom, and what is held back.
//!
//! Decisions are in [`brake`], [`relay`] and [`why`]; this file holds what they look at. The
//! kernel of each node ends its lease by itself: nothing here has to reach a machine that fails.

pub mod brake;
pub mod relay;
pub mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bailiwick_attestation::profile::Brake;
use bailiwick_attestation::proto::v1::PeerEntries;
use bailiwick_attestation::{Sha256Digest, UnixTime};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

pub use brake::{Brakes, Cause, Change, Decision, NotHeld, Phase};
pub use relay::Entries;

use crate::clock;
use crate::direct::Direction;
use crate::record::{Store, StoreError};

/// How often ends of leases are looked for.
const TICK: Duration = Duration::from_secs(1);

/// Shared by all streams; clones share it.
#[derive(Clone, Debug)]
pub struct Standing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: Mutex<Table>,
    /// Counts up whenever somebody may have to be told of other peers.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    /// When each node's lease ends, by this clock.
    leases: BTreeMap<Sha256Digest, UnixTime>,
    entries: BTreeMap<Sha256Digest, Entries>,
    brakes: Brakes,
    /// Whose entries counted when they were last looked at.
    counting: BTreeSet<Sha256Digest>,
}

impl Table {
    /// In standing, or held back from losing it before its peers.
    fn counts(&self, node: &Sha256Digest, now: UnixTime) -> bool {
        let lease = self.leases.get(node);
        lease.is_some_and(|until| now < *until) || self.brakes.holds(node).is_some()
    }

    fn all_counting(&self, now: UnixTime) -> BTreeSet<Sha256Digest> {
        let known = self.entries.keys();
        known
            .filter(|node| self.counts(node, now))
            .copied()
            .collect()
    }

    /// Nodes that have standing, or had it until they were counted as a loss.
    fn fleet(&self, now: UnixTime) -> usize {
        let standing = self.leases.iter().filter(|(_, until)| now < **until);
        let mut fleet: BTreeSet<&Sha256Digest> = standing.map(|(node, _)| node).collect();
        let causes = self.brakes.causes().values();
        fleet.extend(causes.flat_map(|cause| cause.losses.keys()));
        fleet.len()
    }
}

impl Standing {
    /// As kept.
    pub async fn open(store: &Store) -> Result<Self, StoreError> {
        let brakes = Brakes::of(store.brake_list().await?);
        let nodes = store.node_list().await?;
        let leases = nodes
            .into_iter()
            .filter_map(|row| Some((row.ek, row.lease_until?)));
        Ok(Self::with(Table {
            leases: leases.collect(),
            brakes,
            ..Table::default()
        }))
    }

    fn with(table: Table) -> Self {
        let (changed, _) = watch::channel(0);
        Self(Arc::new(Inner {
            table: Mutex::new(table),
            changed,
        }))
    }

    /// Wakes whenever somebody may have to be told of other peers.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// A node was granted a lease. What changed has to be kept.
    #[must_use]
    pub fn granted(&self, node: Sha256Digest, until: UnixTime) -> Vec<Change> {
        let mut table = self.table();
        table.leases.insert(node, until);
        table.brakes.restored(&node);
        table.brakes.take_changes()
    }

    /// A node was refused for a cause: whether its lease is ended early and its peers drop it, or
    /// that is held back; and what has to be kept. A node that had no standing loses none.
    #[must_use]
    pub fn refused(
        &self,
        node: Sha256Digest,
        cause: &str,
        rule: &Brake,
        now: UnixTime,
    ) -> (Decision, Vec<Change>) {
        let mut table = self.table();
        let stands = table.leases.get(&node).is_some_and(|until| now < *until);
        let counted = table
            .brakes
            .causes()
            .values()
            .any(|cause| cause.losses.contains_key(&node));
        let decision = if stands || counted {
            let fleet = table.fleet(now);
            table.brakes.loss(node, cause, rule, fleet, now)
        } else {
            Decision::Act
        };
        if decision == Decision::Act {
            table.leases.remove(&node);
        }
        (decision, table.brakes.take_changes())
    }

    /// A person took a node back: it has no standing before its peers from now on, whatever is
    /// held. What changed has to be kept.
    #[must_use]
    pub fn withdrawn(&self, node: &Sha256Digest) -> Vec<Change> {
        let mut table = self.table();
        table.leases.remove(node);
        table.brakes.restored(node);
        let changes = table.brakes.take_changes();
        drop(table);
        self.bump();
        changes
    }

    /// What a node signed for its own addresses, checked; replaces what it signed before.
    pub fn entries(&self, node: Sha256Digest, entries: Entries) {
        let mut table = self.table();
        table.entries.insert(node, entries);
        drop(table);
        self.bump();
    }

    /// What a node is told of its peers.
    #[must_use]
    pub fn told(&self, node: &Sha256Digest, now: UnixTime) -> PeerEntries {
        let table = self.table();
        relay::relay(&table.entries, node, |other| table.counts(other, now))
    }

    /// A person lets go of a cause; what changed has to be kept.
    pub fn confirm(
        &self,
        cause: &str,
        by: &str,
        reason: &str,
        now: UnixTime,
    ) -> Result<Vec<Change>, NotHeld> {
        let mut table = self.table();
        table.brakes.confirm(cause, by, reason, now)?;
        Ok(table.brakes.take_changes())
    }

    /// As they are now.
    #[must_use]
    pub fn brakes(&self) -> Brakes {
        self.table().brakes.clone()
    }

    /// The held cause for which a node lost standing.
    #[must_use]
    pub fn held(&self, node: &Sha256Digest) -> Option<String> {
        self.table().brakes.holds(node).map(str::to_owned)
    }

    /// Looks for leases that ended and causes that are over; says what has to be kept.
    #[must_use]
    pub fn tick(&self, rule: &Brake, now: UnixTime) -> Vec<Change> {
        let mut table = self.table();
        table.brakes.forget(rule, now);
        let counting = table.all_counting(now);
        let changed = counting != table.counting;
        table.counting = counting;
        let changes = table.brakes.take_changes();
        drop(table);
        if changed {
            self.bump();
        }
        changes
    }

    /// Runs until `stop`.
    pub async fn run(
        self,
        store: Store,
        policy: watch::Receiver<Direction>,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held = BTreeSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            let rule = policy.borrow().policy.as_ref().map(|policy| policy.brake());
            let changes = self.tick(&rule.unwrap_or_default(), clock::now());
            match store.brakes_change(changes).await {
                Err(stopped @ StoreError::Stopped) => return Err(stopped),
                Err(error) => error!(%error, "the brake's state could not be kept"),
                Ok(()) => {}
            }
            let brakes = self.brakes();
            let now: BTreeSet<String> = brakes.held().into_iter().map(str::to_owned).collect();
            for cause in now.difference(&held) {
                warn!(
                    cause,
                    "held: too many nodes lost standing for it; a person has to look"
                );
            }
            held = now;
        }
    }

    fn bump(&self) {
        self.0
            .changed
            .send_modify(|version| *version = version.wrapping_add(1));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it holds the lock, and the tables are whole between statements.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::StudyId;
    use bailiwick_attestation::proto::v1::PeerEntry;

    use super::*;

    const RULE: Brake = Brake {
        share_percent: 5,
        window_seconds: 600,
        min_nodes: 5,
    };
    const NOW: UnixTime = UnixTime(1_000_000);
    const LATER: UnixTime = UnixTime(1_300_000);

    fn node(n: u8) -> Sha256Digest {
        Sha256Digest([n; 32])
    }

    /// A hundred nodes in standing, each with an address of one study.
    fn fleet() -> Standing {
        let standing = Standing::with(Table::default());
        for n in 0..100 {
            drop(standing.granted(node(n), LATER));
            let entry = PeerEntry {
                body: vec![n],
                ..PeerEntry::default()
            };
            let study = StudyId::new("cardio").unwrap();
            standing.entries(node(n), [(study, entry)].into());
        }
        standing
    }

    fn told(standing: &Standing, now: UnixTime) -> usize {
        standing.told(&node(0), now).entries.len()
    }

    #[test]
    fn peers_drop_a_node_that_lost_standing_or_let_its_lease_run_out() {
        let standing = fleet();
        assert_eq!(told(&standing, NOW), 99);
        let (decision, _) = standing.refused(node(7), "c", &RULE, NOW);
        assert_eq!((decision, told(&standing, NOW)), (Decision::Act, 98));
        drop(standing.granted(node(7), LATER));
        assert_eq!(told(&standing, NOW), 99, "restored");
        assert_eq!(told(&standing, UnixTime(LATER.0 - 1)), 99);
        assert_eq!(told(&standing, LATER), 0, "nobody renewed");

        let mut watch = standing.watch();
        drop(standing.tick(&RULE, NOW));
        watch.mark_unchanged();
        drop(standing.tick(&RULE, UnixTime(LATER.0 - 1)));
        assert!(!watch.has_changed().unwrap(), "nothing to tell");
        drop(standing.tick(&RULE, LATER));
        assert!(watch.has_changed().unwrap(), "everybody is told");
    }

    #[test]
    fn while_a_cause_is_held_no_peer_is_dropped_for_it() {
        let standing = fleet();
        let mut acted = 0;
        for n in 1..100 {
            let (decision, _) = standing.refused(node(n), "tpm.pcr.4 pcr-value", &RULE, NOW);
            acted += usize::from(decision == Decision::Act);
        }
        assert_eq!(acted, 5);
        // The first five were dropped before anybody could know, and are back.
        assert_eq!(told(&standing, NOW), 99);
        assert_eq!(
            told(&standing, LATER),
            99,
            "the end of their leases is the kernel's"
        );
        let cause = standing.held(&node(50));
        assert_eq!(cause.as_deref(), Some("tpm.pcr.4 pcr-value"));
        let changes = standing
            .confirm("tpm.pcr.4 pcr-value", "alice", "seen", NOW)
            .unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!(standing.held(&node(50)), None);
        let (decision, _) = standing.refused(node(50), "tpm.pcr.4 pcr-value", &RULE, NOW);
        assert_eq!((decision, told(&standing, LATER)), (Decision::Act, 0));
    }

    #[test]
    fn a_node_taken_back_is_dropped_at_once_even_where_its_cause_is_held() {
        let standing = fleet();
        let mut watch = standing.watch();
        watch.mark_unchanged();
        assert!(standing.withdrawn(&node(7)).is_empty(), "it was no loss");
        assert!(watch.has_changed().unwrap(), "everybody is told");
        assert_eq!(told(&standing, NOW), 98);
        for n in 10..20 {
            drop(standing.refused(node(n), "c", &RULE, NOW));
        }
        assert_eq!(told(&standing, NOW), 98, "held");
        let changes = standing.withdrawn(&node(15));
        assert_eq!(changes, [Change::Restored(node(15))], "no loss of a cause");
        assert_eq!(told(&standing, NOW), 97);
        assert_eq!(standing.held(&node(15)), None);
        assert_eq!(standing.held(&node(16)).as_deref(), Some("c"));
    }

    #[test]
    fn who_had_no_standing_loses_none() {
        let standing = Standing::with(Table::default());
        for n in 0..100 {
            let (decision, changes) = standing.refused(node(n), "c", &RULE, NOW);
            assert_eq!((decision, changes.len()), (Decision::Act, 0));
        }
        for n in 0..20 {
            drop(standing.granted(node(n), NOW));
            let (decision, _) = standing.refused(node(n), "c", &RULE, NOW);
            assert_eq!(decision, Decision::Act, "its lease had run out");
        }
    }

    #[test]
    fn a_lease_goes_with_its_loss_and_stays_where_that_is_held() {
        let standing = fleet();
        let has = |n| standing.table().leases.contains_key(&node(n));
        for n in 0..10 {
            let (decision, _) = standing.refused(node(n), "c", &RULE, NOW);
            assert_eq!(has(n), decision == Decision::Hold, "{n}");
        }
        assert!(!has(0) && has(9));
    }
}
