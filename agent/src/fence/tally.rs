//! What the kernel has counted, made ready to be told: bounded, and exact.
//!
//! Whoever floods chooses how many flows there are. Of each subject's flows some are told one by
//! one, those with most packets first; the rest is told in one line for each rule and hook, with
//! nothing left out of the sum.

use std::collections::BTreeMap;

use bailiwick_ebpf_common::tally::{Tally, TallyKey, action};

/// Flows of one subject that are told one by one, as long as few came before.
const BURST: u64 = 64;
/// What is added to that in a second, up to [`BURST`].
const PER_SECOND: u64 = 2;
/// Subjects whose budget is remembered: more than one policy has.
const SUBJECTS: usize = 2048;

const SECOND_NS: u64 = 1_000_000_000;

/// One line to be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Told {
    pub(super) key: TallyKey,
    pub(super) tally: Tally,
    /// Stands for flows that are not told one by one.
    pub(super) others: bool,
}

/// How many lines each subject may still fill.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// By [`TallyKey::who`]: lines left, and when that was so (boot time, ns).
    left: BTreeMap<u64, (u64, u64)>,
}

impl Budget {
    /// Takes what was counted one by one, and what the kernel had to count together already.
    pub(super) fn fold(
        &mut self,
        flows: Vec<(TallyKey, Tally)>,
        together: Vec<(TallyKey, Tally)>,
        now: u64,
    ) -> Vec<Told> {
        let mut by_subject: BTreeMap<u64, Vec<(TallyKey, Tally)>> = BTreeMap::new();
        for (key, tally) in flows {
            by_subject.entry(key.who).or_default().push((key, tally));
        }
        let mut told = Vec::new();
        let mut others: BTreeMap<TallyKey, Tally> = BTreeMap::new();
        for (who, mut flows) in by_subject {
            // What passed comes last: a sample crowds out no denial. Ties by key, so that the same
            // packets are told in the same way.
            flows.sort_by(|(a, x), (b, y)| {
                let passed = |key: &TallyKey| key.action == action::SAMPLED;
                (passed(a).cmp(&passed(b)))
                    .then_with(|| y.count.cmp(&x.count))
                    .then_with(|| a.cmp(b))
            });
            let room = self.room(who, now);
            let (alone, rest) = flows
                .split_at_checked(usize::try_from(room).unwrap_or(usize::MAX))
                .unwrap_or((&flows, &[]));
            self.spend(who, alone.len(), now);
            told.extend(alone.iter().map(|(key, tally)| Told {
                key: *key,
                tally: *tally,
                others: false,
            }));
            for (key, tally) in rest {
                add(&mut others, key, tally);
            }
        }
        for (key, tally) in &together {
            add(&mut others, key, tally);
        }
        told.extend(others.into_iter().map(|(key, tally)| Told {
            key,
            tally,
            others: true,
        }));
        told.sort_by_key(|told| told.tally.first_ns);
        told
    }

    fn room(&self, who: u64, now: u64) -> u64 {
        match self.left.get(&who) {
            None => BURST,
            Some((left, at)) => {
                let since = now.saturating_sub(*at) / SECOND_NS;
                left.saturating_add(since.saturating_mul(PER_SECOND))
                    .min(BURST)
            }
        }
    }

    fn spend(&mut self, who: u64, lines: usize, now: u64) {
        let left = self.room(who, now);
        let left = left.saturating_sub(u64::try_from(lines).unwrap_or(u64::MAX));
        if self.left.len() >= SUBJECTS && !self.left.contains_key(&who) {
            // Of policies long gone, mostly. Whoever floods gains one burst.
            self.left.clear();
        }
        self.left.insert(who, (left, now));
    }
}

/// Exact in packets and bytes; of the times the first and the last. Nobody's process.
fn add(others: &mut BTreeMap<TallyKey, Tally>, key: &TallyKey, tally: &Tally) {
    let sum = others.entry(key.others()).or_insert_with(|| Tally {
        first_ns: tally.first_ns,
        ..Tally::default()
    });
    sum.count = sum.count.saturating_add(tally.count);
    sum.bytes = sum.bytes.saturating_add(tally.bytes);
    sum.first_ns = sum.first_ns.min(tally.first_ns);
    sum.last_ns = sum.last_ns.max(tally.last_ns);
}

#[cfg(test)]
mod tests {
    use bailiwick_ebpf_common::tally::NO_UID;

    use super::*;

    fn flow(who: u64, port: u16, count: u64) -> (TallyKey, Tally) {
        let key = TallyKey {
            who,
            far: [9; 16],
            port,
            uid: 1000,
            rule: 9,
            ..TallyKey::default()
        };
        let tally = Tally {
            count,
            bytes: 100 * count,
            first_ns: u64::from(port),
            last_ns: u64::from(port) + 5,
            pid: 77,
            ..Tally::default()
        };
        (key, tally)
    }

    fn sums(told: &[Told]) -> (u64, u64) {
        told.iter().fold((0, 0), |(count, bytes), told| {
            (count + told.tally.count, bytes + told.tally.bytes)
        })
    }

    #[test]
    fn a_few_flows_are_told_one_by_one() {
        let told = Budget::default().fold(vec![flow(1, 80, 3), flow(1, 443, 5)], Vec::new(), 0);
        let ports: Vec<u16> = told.iter().map(|told| told.key.port).collect();
        assert_eq!(ports, [80, 443], "as they came");
        assert!(told.iter().all(|told| !told.others));
        assert_eq!(sums(&told), (8, 800));
    }

    #[test]
    fn a_flood_of_flows_is_told_in_few_lines_that_leave_nothing_out() {
        let flows: Vec<_> = (1..=4000).map(|port| flow(1, port, port.into())).collect();
        let all: u64 = (1..=4000).sum();
        let mut budget = Budget::default();
        let told = budget.fold(flows.clone(), Vec::new(), 0);
        assert_eq!(told.len(), 65);
        assert_eq!(sums(&told), (all, 100 * all));
        let others = told.iter().find(|told| told.others).unwrap();
        assert_eq!(others.key.uid, NO_UID);
        assert_eq!((others.key.far, others.tally.pid), ([0; 16], 0));
        assert_eq!((others.tally.first_ns, others.tally.last_ns), (1, 3941));
        let busiest = told.iter().filter(|told| !told.others);
        assert!(busiest.clone().all(|told| told.tally.count > 3936));

        let again = budget.fold(flows.clone(), Vec::new(), SECOND_NS);
        assert_eq!(again.len(), 3, "two lines a second, and the others");
        assert_eq!(sums(&again), (all, 100 * all));
        let rested = budget.fold(flows, Vec::new(), 60 * SECOND_NS);
        assert_eq!(rested.len(), 65, "a minute later");
    }

    #[test]
    fn one_subjects_flood_hides_nobody_else() {
        let mut flows: Vec<_> = (1..=4000).map(|port| flow(1, port, 9)).collect();
        flows.push(flow(2, 80, 1));
        let told = Budget::default().fold(flows, Vec::new(), 0);
        let quiet = told.iter().find(|told| told.key.who == 2).unwrap();
        assert_eq!((quiet.key.port, quiet.others), (80, false));
    }

    #[test]
    fn samples_of_what_passed_crowd_out_no_denial() {
        let mut flows: Vec<_> = (1..=100)
            .map(|port| {
                let (key, tally) = flow(1, port, 1_000_000);
                let action = action::SAMPLED;
                (TallyKey { action, ..key }, tally)
            })
            .collect();
        flows.push(flow(1, 443, 1));
        let told = Budget::default().fold(flows, Vec::new(), 0);
        let denied = told.iter().find(|told| told.key.action == action::DENIED);
        assert_eq!(
            denied.map(|told| (told.key.port, told.others)),
            Some((443, false))
        );
    }

    #[test]
    fn what_the_kernel_counted_together_joins_the_others() {
        let kernel = |who, count| {
            let (key, tally) = flow(who, 7, count);
            (key.others(), tally)
        };
        let many: Vec<_> = (1..=100).map(|port| flow(1, port, 10)).collect();
        let told = Budget::default().fold(many, vec![kernel(1, 500), kernel(3, 4)], 0);
        assert_eq!(sums(&told), (1504, 150_400));
        let of = |who| told.iter().find(|told| told.others && told.key.who == who);
        assert_eq!(of(1).unwrap().tally.count, 860);
        assert_eq!(of(3).unwrap().tally.count, 4);
    }

    #[test]
    fn budgets_are_remembered_for_so_many_subjects() {
        let mut budget = Budget::default();
        for who in 0..5000 {
            budget.fold(vec![flow(who, 1, 1)], Vec::new(), 0);
        }
        assert!(budget.left.len() <= SUBJECTS);
    }
}
