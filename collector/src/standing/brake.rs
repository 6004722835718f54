//! The brake: when more than the policy's share of nodes lose standing for one cause, it is the
//! cause that is looked at first, not the nodes.
//!
//! While a cause is held, the collector pushes no early end of a lease for it and leaves no node
//! out of its peers' lists; verdicts, records and alerts go on, and leases run out by themselves.
//! A person lets go of it. Pure: losses, time and numbers are arguments.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bailiwick_attestation::profile::Brake;
use bailiwick_attestation::{Sha256Digest, UnixTime};

/// Most causes remembered: a cause is a claim of the profile, with a few kinds of finding.
const CAUSES: usize = 512;

/// Every cause for which nodes have lost standing lately, or that is held.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Brakes {
    causes: BTreeMap<String, Cause>,
    changes: Vec<Change>,
}

/// What has to be kept, so that a restart goes on where this process stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// A node lost standing for a cause.
    Lost(String, Sha256Digest, UnixTime),
    /// A node has it again.
    Restored(Sha256Digest),
    /// A cause is held, or a person let go of it.
    Phase(String, Phase),
    /// A cause is over.
    Over(String),
}

/// One cause.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cause {
    /// Counted, held, or let go.
    pub phase: Phase,
    /// Which nodes lost standing for it, and when.
    pub losses: BTreeMap<Sha256Digest, UnixTime>,
}

/// Where a cause stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Too few to hold.
    Counting,
    /// Held since then.
    Held(UnixTime),
    /// A person let go of it: what is lost for it is lost, until a window passes without a loss.
    Confirmed {
        /// When.
        at: UnixTime,
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
}

/// What a loss means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// The network acts on it.
    Act,
    /// It is held back.
    Hold,
}

/// Nothing to let go of.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no cause {0:?} is held")]
pub struct NotHeld(pub String);

impl Brakes {
    /// As kept.
    #[must_use]
    pub const fn of(causes: BTreeMap<String, Cause>) -> Self {
        Self {
            causes,
            changes: Vec::new(),
        }
    }

    /// Changes since the last call, oldest first.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// A node was refused for a cause. `fleet` counts the nodes that have standing to lose.
    pub fn loss(
        &mut self,
        node: Sha256Digest,
        cause: &str,
        rule: &Brake,
        fleet: usize,
        now: UnixTime,
    ) -> Decision {
        self.forget(rule, now);
        if self.causes.len() >= CAUSES && !self.causes.contains_key(cause) {
            // Of hundreds of causes at once none is the fleet's.
            return Decision::Act;
        }
        let entry = self
            .causes
            .entry(cause.to_owned())
            .or_insert_with(|| Cause {
                phase: Phase::Counting,
                losses: BTreeMap::new(),
            });
        if let Entry::Vacant(vacant) = entry.losses.entry(node) {
            vacant.insert(now);
            let lost = Change::Lost(cause.to_owned(), node, now);
            self.changes.push(lost);
        }
        if entry.phase == Phase::Counting && too_many(entry.losses.len(), fleet, rule) {
            entry.phase = Phase::Held(now);
            let held = Change::Phase(cause.to_owned(), Phase::Held(now));
            self.changes.push(held);
        }
        match entry.phase {
            Phase::Held(_) => Decision::Hold,
            Phase::Counting | Phase::Confirmed { .. } => Decision::Act,
        }
    }

    /// A node has standing again: it is no loss any more.
    pub fn restored(&mut self, node: &Sha256Digest) {
        let mut causes = self.causes.values_mut();
        if causes.any(|cause| cause.losses.contains_key(node)) {
            self.changes.push(Change::Restored(*node));
        }
        for cause in self.causes.values_mut() {
            cause.losses.remove(node);
        }
        // What is held stays so: a person looks at it.
        self.retain(|cause| !cause.losses.is_empty() || cause.phase != Phase::Counting);
    }

    fn retain(&mut self, keep: impl Fn(&mut Cause) -> bool) {
        let changes = &mut self.changes;
        self.causes.retain(|name, cause| {
            let keep = keep(cause);
            if !keep {
                changes.push(Change::Over(name.clone()));
            }
            keep
        });
    }

    /// A person lets go of a cause.
    pub fn confirm(
        &mut self,
        cause: &str,
        by: &str,
        reason: &str,
        now: UnixTime,
    ) -> Result<(), NotHeld> {
        let held = self.causes.get_mut(cause);
        let Some(held) = held.filter(|cause| matches!(cause.phase, Phase::Held(_))) else {
            return Err(NotHeld(cause.chars().take(80).collect()));
        };
        held.phase = Phase::Confirmed {
            at: now,
            by: by.to_owned(),
            reason: reason.to_owned(),
        };
        let phase = Change::Phase(cause.to_owned(), held.phase.clone());
        self.changes.push(phase);
        Ok(())
    }

    /// Drops what is over: losses that left the window, unless their cause is held, and what was
    /// let go of once a window passes without a loss.
    pub fn forget(&mut self, rule: &Brake, now: UnixTime) {
        let window_ms = u64::from(rule.window_seconds).saturating_mul(1000);
        let fresh = |at: &UnixTime| now.since(*at) < window_ms;
        self.retain(|cause| match &cause.phase {
            Phase::Held(_) => true,
            Phase::Counting => {
                cause.losses.retain(|_, at| fresh(at));
                !cause.losses.is_empty()
            }
            Phase::Confirmed { at, .. } => fresh(at) || cause.losses.values().any(fresh),
        });
    }

    /// Causes that are held.
    #[must_use]
    pub fn held(&self) -> BTreeSet<&str> {
        let causes = self.causes.iter();
        let held = causes.filter(|(_, cause)| matches!(cause.phase, Phase::Held(_)));
        held.map(|(name, _)| name.as_str()).collect()
    }

    /// The held cause for which this node lost standing, if there is one.
    #[must_use]
    pub fn holds(&self, node: &Sha256Digest) -> Option<&str> {
        let mut causes = self.causes.iter();
        causes
            .find(|(_, cause)| {
                matches!(cause.phase, Phase::Held(_)) && cause.losses.contains_key(node)
            })
            .map(|(name, _)| name.as_str())
    }

    /// Every cause there is.
    #[must_use]
    pub const fn causes(&self) -> &BTreeMap<String, Cause> {
        &self.causes
    }
}

/// More than the share, and not fewer than a handful.
fn too_many(lost: usize, fleet: usize, rule: &Brake) -> bool {
    let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let (lost, fleet) = (wide(lost), wide(fleet));
    let share = u64::from(rule.share_percent);
    lost >= u64::from(rule.min_nodes) && lost.saturating_mul(100) > fleet.saturating_mul(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Brake = Brake {
        share_percent: 5,
        window_seconds: 600,
        min_nodes: 5,
    };

    fn node(n: u8) -> Sha256Digest {
        Sha256Digest([n; 32])
    }

    fn minutes(n: u64) -> UnixTime {
        UnixTime(1_000_000 + n * 60_000)
    }

    fn lose(
        brakes: &mut Brakes,
        nodes: std::ops::Range<u8>,
        cause: &str,
        at: u64,
    ) -> Vec<Decision> {
        nodes
            .map(|n| brakes.loss(node(n), cause, &RULE, 100, minutes(at)))
            .collect()
    }

    #[test]
    fn a_hundred_nodes_failing_for_one_cause_are_held_and_another_cause_is_not() {
        let mut brakes = Brakes::default();
        let decisions = lose(&mut brakes, 0..100, "tpm.pcr.4 pcr-value", 0);
        let acted = decisions.iter().filter(|d| **d == Decision::Act).count();
        assert_eq!(acted, 5, "the share, and no more");
        assert_eq!(decisions[5..], [Decision::Hold; 95]);
        assert_eq!(brakes.held(), ["tpm.pcr.4 pcr-value"].into());
        assert_eq!(brakes.holds(&node(99)), Some("tpm.pcr.4 pcr-value"));
        assert_eq!(
            lose(&mut brakes, 200..205, "fence.mode claim-value", 0),
            [Decision::Act; 5]
        );
        assert_eq!(brakes.holds(&node(200)), None);
        assert_eq!(brakes.held().len(), 1);
    }

    #[test]
    fn the_share_the_window_and_the_handful_decide() {
        // Fleet, how many fail, how many minutes apart, whether the last is held.
        type Row = (&'static str, usize, u8, u64, bool);
        let rows: &[Row] = &[
            ("five of a hundred", 100, 5, 0, false),
            ("six of a hundred", 100, 6, 0, true),
            ("four of ten: a handful", 10, 4, 0, false),
            ("five of ten", 10, 5, 0, true),
            ("five of no fleet", 0, 5, 0, true),
            ("six within ten minutes", 100, 6, 1, true),
            ("six over more than ten minutes", 100, 6, 2, false),
        ];
        for (name, fleet, fail, apart, want) in rows {
            let mut brakes = Brakes::default();
            let mut last = Decision::Act;
            for n in 0..*fail {
                let at = minutes(u64::from(n) * apart);
                last = brakes.loss(node(n), "c", &RULE, *fleet, at);
            }
            assert_eq!(last == Decision::Hold, *want, "{name}");
        }
        let mut brakes = Brakes::default();
        for at in 0..50 {
            assert_eq!(
                lose(&mut brakes, 0..1, "c", at),
                [Decision::Act],
                "one node, often"
            );
        }
    }

    #[test]
    fn of_hundreds_of_causes_those_known_are_counted_on() {
        let mut brakes = Brakes::default();
        for n in 0..CAUSES {
            lose(&mut brakes, 0..1, &format!("c{n}"), 0);
        }
        assert_eq!(lose(&mut brakes, 1..10, "one more", 0), [Decision::Act; 9]);
        assert_eq!(brakes.held().len(), 0);
        lose(&mut brakes, 1..10, "c7", 0);
        assert_eq!(brakes.held(), ["c7"].into());
    }

    #[test]
    fn what_is_held_stays_so_until_a_person_lets_go_of_it() {
        let mut brakes = Brakes::default();
        lose(&mut brakes, 0..10, "c", 0);
        assert_eq!(
            lose(&mut brakes, 0..1, "c", 5000),
            [Decision::Hold],
            "days later"
        );
        assert_eq!(
            brakes.confirm("d", "eve", "?", minutes(5000)),
            Err(NotHeld("d".to_owned()))
        );
        brakes
            .confirm("c", "alice", "a bad rollout", minutes(5000))
            .unwrap();
        assert!(brakes.held().is_empty());
        assert_eq!(lose(&mut brakes, 0..100, "c", 5001), [Decision::Act; 100]);
        assert!(
            brakes
                .confirm("c", "alice", "again", minutes(5001))
                .is_err()
        );
        // Quiet for a window: the next time it is counted anew.
        brakes.forget(&RULE, minutes(5010));
        assert_eq!(brakes.causes().len(), 1, "not quiet for long enough");
        brakes.forget(&RULE, minutes(5011));
        assert!(brakes.causes().is_empty());
        assert_eq!(lose(&mut brakes, 0..6, "c", 5011)[5], Decision::Hold);
    }

    #[test]
    fn what_is_kept_says_the_same_again() {
        let mut brakes = Brakes::default();
        lose(&mut brakes, 0..6, "c", 0);
        lose(&mut brakes, 0..6, "c", 1);
        lose(&mut brakes, 7..8, "d", 1);
        let changes = brakes.take_changes();
        let lost = changes
            .iter()
            .filter(|change| matches!(change, Change::Lost(..)));
        assert_eq!(
            (changes.len(), lost.count()),
            (8, 7),
            "each once: {changes:?}"
        );
        brakes.restored(&node(7));
        brakes.restored(&node(9));
        let over = [Change::Restored(node(7)), Change::Over("d".to_owned())];
        assert_eq!(brakes.take_changes(), over);
        let mut again = Brakes::of(brakes.causes().clone());
        assert_eq!(again, brakes);
        assert_eq!(
            lose(&mut again, 30..31, "c", 2),
            [Decision::Hold],
            "after a restart"
        );
    }

    #[test]
    fn a_node_that_is_restored_is_no_loss() {
        let mut brakes = Brakes::default();
        lose(&mut brakes, 0..5, "c", 0);
        for n in 0..5 {
            brakes.restored(&node(n));
        }
        assert!(brakes.causes().is_empty());
        assert_eq!(lose(&mut brakes, 5..10, "c", 1), [Decision::Act; 5]);
        lose(&mut brakes, 10..11, "c", 1);
        brakes.restored(&node(10));
        assert_eq!(brakes.holds(&node(10)), None);
        assert_eq!(brakes.held(), ["c"].into(), "still to be looked at");
    }
}
