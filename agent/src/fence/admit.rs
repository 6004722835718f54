//! Which of the cgroups that selectors meet count.
//!
//! Past the `not_after` of its policy a node starts no new study: what its kernel knew before goes
//! on, what comes later stays nobody's. The list is read from the table in the kernel itself, which
//! outlives this process and not the boot.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
};

use bailiwick_ebpf_common::{Plain, PolicyImage};

use super::{FenceError, image};
use crate::sys::{bpf, ids};

/// A cgroup that a selector meets, and whose it would be.
pub(super) type Met = (u64, u32);

/// Cgroups that would be a study's.
pub(super) type HeldBack = BTreeMap<u64, Back>;

/// Whose a cgroup would be, and why it is not: the rule by which its packets are denied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Back {
    pub(super) study: String,
    pub(super) rule: &'static str,
}

/// The policy in force has ended.
pub(super) const EXPIRED: &str = "policy-expired";
/// The study takes confidential GPUs, and those of this node have not proven themselves.
pub(super) const UNPROVEN: &str = "gpus-not-proven";

/// What counts, and what is held back. `why` says of a study why it may not start now, if so; what
/// of it is established goes on. Host services are no studies.
pub(super) fn choose(
    met: Vec<Met>,
    established: &BTreeSet<u64>,
    studies: &[Option<String>],
    why: impl Fn(&str) -> Option<&'static str>,
) -> (Vec<Met>, HeldBack) {
    let mut held_back = HeldBack::new();
    let study = |subject: u32| {
        let at = usize::try_from(subject).ok()?;
        studies.get(at)?.clone()
    };
    let count = met.into_iter().filter(|(cgroup, subject)| {
        let Some(study) = study(*subject) else {
            return true;
        };
        if established.contains(cgroup) {
            return true;
        }
        let Some(rule) = why(&study) else {
            return true;
        };
        held_back.insert(*cgroup, Back { study, rule });
        false
    });
    let count = count.collect();
    (count, held_back)
}

/// The cgroups of the table in force, whoever put it there.
pub(super) fn in_kernel(outer: &OwnedFd) -> Result<BTreeSet<u64>, FenceError> {
    let Some(id) = image::in_force(outer, "POLICY")? else {
        return Ok(BTreeSet::new());
    };
    let open = ids::map(id).map_err(FenceError::kernel("open an inner map of", "POLICY"))?;
    let Some(map) = open else {
        return Ok(BTreeSet::new());
    };
    let mut table = PolicyImage::zeroed();
    bpf::lookup(map.as_fd(), 0, table.bytes_mut())
        .map_err(FenceError::kernel("read an inner map of", "POLICY"))?;
    let slots = table.cgroups.iter().map(|slot| slot.cgroup);
    Ok(slots.filter(|cgroup| *cgroup != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_goes_on_and_what_comes_later_is_nobodys() {
        let studies = [Some("cardio".to_owned()), None, Some("neuro".to_owned())];
        type Row<'a> = (
            &'a str,
            &'a [Met],
            &'a [u64],
            &'a [Met],
            &'a [(u64, &'a str)],
        );
        let rows: &[Row<'_>] = &[
            ("ran before", &[(7, 0)], &[7], &[(7, 0)], &[]),
            ("new", &[(8, 0)], &[7], &[], &[(8, "cardio")]),
            (
                "a second one of a study that runs",
                &[(7, 0), (8, 0)],
                &[7],
                &[(7, 0)],
                &[(8, "cardio")],
            ),
            ("a new host service", &[(9, 1)], &[], &[(9, 1)], &[]),
            (
                "after a reboot",
                &[(7, 0), (9, 1), (11, 2)],
                &[],
                &[(9, 1)],
                &[(7, "cardio"), (11, "neuro")],
            ),
            ("gone", &[], &[7], &[], &[]),
        ];
        for (name, met, established, want, held) in rows {
            let established = established.iter().copied().collect();
            let (count, held_back) =
                choose(met.to_vec(), &established, &studies, |_| Some(EXPIRED));
            assert_eq!(count, *want, "{name}");
            let back = |study: &str| Back {
                study: study.to_owned(),
                rule: EXPIRED,
            };
            let held: HeldBack = held.iter().map(|(id, study)| (*id, back(study))).collect();
            assert_eq!(held_back, held, "{name}");
        }
    }

    #[test]
    fn a_study_with_a_reason_waits_and_the_others_start() {
        let studies = [Some("cardio".to_owned()), Some("neuro".to_owned())];
        let why = |study: &str| (study == "neuro").then_some(UNPROVEN);
        let (count, held) = choose(vec![(7, 0), (8, 1), (9, 1)], &[9].into(), &studies, why);
        assert_eq!(count, [(7, 0), (9, 1)]);
        let back = Back {
            study: "neuro".to_owned(),
            rule: UNPROVEN,
        };
        assert_eq!(held, [(8, back)].into());
    }
}
