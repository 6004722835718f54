//! The hash from cgroup to subject, filled so that the kernel's few probes always suffice.

use std::collections::BTreeMap;

use bailiwick_ebpf_common::policy::{CGROUP_SLOTS, CgroupSlot, PROBES, PolicyImage};

/// Cgroups that cannot be put into the image; the one in force stays.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CgroupsRefused {
    /// More than half of the slots.
    #[error("{found} cgroups are selected; there is room for {limit}")]
    TooMany {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// No seed spreads them well enough.
    #[error("{0} cgroups do not spread over the table; select parents instead of children")]
    Crowded(usize),
    /// Zero is the mark of a free slot.
    #[error("cgroup 0 does not exist (subject {0})")]
    Zero(u32),
    /// No subject has this number.
    #[error("cgroup {cgroup} is for subject {subject}, and there are {subjects}")]
    NoSuchSubject {
        /// The cgroup's id.
        cgroup: u64,
        /// The number asked for.
        subject: u32,
        /// How many subjects the image has.
        subjects: u32,
    },
    /// Two subjects cannot both decide.
    #[error("cgroup {cgroup} is selected by subjects {first} and {second}")]
    TwoSubjects {
        /// The cgroup's id.
        cgroup: u64,
        /// One number.
        first: u32,
        /// The other.
        second: u32,
    },
}

/// Seeds tried before the cgroups count as crowded: some milliseconds.
const SEEDS: u64 = 1024;

/// Replaces the cgroups of an image by these (id, subject number), in any order, and renews its
/// digest. The same cgroups give the same image.
pub fn set_cgroups(image: &mut PolicyImage, cgroups: &[(u64, u32)]) -> Result<(), CgroupsRefused> {
    let mut sorted: BTreeMap<u64, u32> = BTreeMap::new();
    for &(cgroup, subject) in cgroups {
        if cgroup == 0 {
            return Err(CgroupsRefused::Zero(subject));
        }
        let subjects = image.header.subjects;
        if subject >= subjects {
            return Err(CgroupsRefused::NoSuchSubject {
                cgroup,
                subject,
                subjects,
            });
        }
        if let Some(first) = sorted.insert(cgroup, subject)
            && first != subject
        {
            let second = subject;
            return Err(CgroupsRefused::TwoSubjects {
                cgroup,
                first,
                second,
            });
        }
    }
    let limit = CGROUP_SLOTS / 2;
    if sorted.len() > limit {
        let found = sorted.len();
        return Err(CgroupsRefused::TooMany { found, limit });
    }
    // The golden ratio spreads ids that follow one another, as cgroups' do; multiples of it are
    // as good as any other odd number.
    let seeds = (0..SEEDS).map(|n| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n.wrapping_mul(2) | 1));
    let found = seeds
        .into_iter()
        .find_map(|seed| Some((seed, spread(seed, &sorted)?)));
    let Some((seed, slots)) = found else {
        return Err(CgroupsRefused::Crowded(sorted.len()));
    };
    image.header.seed = seed;
    for (slot, filled) in image.cgroups.iter_mut().zip(slots) {
        *slot = filled;
    }
    image.header.digest = super::digest(image).0;
    Ok(())
}

/// The slots, if every cgroup finds a free one among its own few.
fn spread(seed: u64, cgroups: &BTreeMap<u64, u32>) -> Option<Vec<CgroupSlot>> {
    let mut slots = vec![CgroupSlot::default(); CGROUP_SLOTS];
    for (&cgroup, &subject) in cgroups {
        let mut own = (0..PROBES).map(|probe| PolicyImage::slot_of(seed, cgroup, probe));
        let free = own.find(|at| slots.get(*at).is_some_and(|slot| slot.cgroup == 0))?;
        *slots.get_mut(free)? = CgroupSlot {
            cgroup,
            subject,
            reserved: 0,
        };
    }
    Some(slots)
}
