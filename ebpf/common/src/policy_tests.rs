use std::boxed::Box;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::Plain;

fn image(starts: &[u64]) -> Box<PolicyImage> {
    let mut image = PolicyImage::zeroed();
    for (slot, start) in image.intervals.iter_mut().skip(7).zip(starts) {
        slot.lo = *start;
        slot.owner = u32::try_from(*start).unwrap();
    }
    image
}

#[test]
fn the_last_interval_that_begins_before_is_found() {
    let image = image(&[10, 20, 30]);
    let slice = Slice { first: 7, count: 3 };
    for (address, want) in [
        (9, None),
        (10, Some(10)),
        (19, Some(10)),
        (20, Some(20)),
        (29, Some(20)),
        (30, Some(30)),
        (u64::MAX, Some(30)),
    ] {
        let found = image.find(slice, Address { hi: 0, lo: address });
        assert_eq!(found.map(|interval| interval.lo), want, "{address}");
    }
    let beyond = Address { hi: 1, lo: 0 };
    assert_eq!(
        image.find(slice, beyond).map(|interval| interval.lo),
        Some(30)
    );
    let none = Slice { first: 7, count: 0 };
    assert!(image.find(none, Address { hi: 0, lo: 10 }).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn searching_is_scanning(mut starts in prop::collection::vec(0u64..5000, 1..300), at in 0u64..5000) {
        starts.sort_unstable();
        starts.dedup();
        let image = image(&starts);
        let slice = Slice { first: 7, count: u32::try_from(starts.len()).unwrap() };
        let want = starts.iter().rev().find(|start| **start <= at).copied();
        let found = image.find(slice, Address { hi: 0, lo: at }).map(|interval| interval.lo);
        prop_assert_eq!(found, want);
    }
}

fn named(subjects: &[(u64, u8)]) -> Box<PolicyImage> {
    let mut image = PolicyImage::zeroed();
    image.header.seed = 0x9e37_79b9_7f4a_7c15;
    for (number, (cgroup, kind)) in subjects.iter().enumerate() {
        image.subjects[number].kind = *kind;
        let free = (0..PROBES)
            .map(|probe| PolicyImage::slot_of(image.header.seed, *cgroup, probe))
            .find(|slot| image.cgroups[*slot].cgroup == 0)
            .unwrap();
        image.cgroups[free] = CgroupSlot {
            cgroup: *cgroup,
            subject: u32::try_from(number).unwrap(),
            reserved: 0,
        };
    }
    image
}

#[test]
fn the_first_study_decides_else_the_deepest_host_service() {
    let image = named(&[
        (100, kind::STUDY),
        (200, kind::STUDY),
        (300, kind::HOST),
        (400, kind::HOST),
    ]);
    let cases: &[(&str, &[u64], Option<u32>)] = &[
        ("nobody's", &[1, 2, 3], None),
        ("a study", &[1, 100], Some(0)),
        ("deep inside a study", &[1, 100, 7, 8, 9], Some(0)),
        ("a study inside a study", &[1, 100, 200], Some(0)),
        ("a study inside a host service", &[1, 300, 200], Some(1)),
        ("a host service inside a study", &[1, 100, 300], Some(0)),
        ("host services nested", &[1, 300, 400, 5], Some(3)),
        ("above the root", &[], None),
    ];
    for (name, path, want) in cases {
        let path: Vec<u64> = path.to_vec();
        let ancestor = |level: u32| {
            path.get(usize::try_from(level).unwrap())
                .copied()
                .unwrap_or(0)
        };
        assert_eq!(image.resolve(ancestor), *want, "{name}");
    }
    let deep = |level: u32| {
        if level == DEPTH {
            100
        } else {
            1000 + u64::from(level)
        }
    };
    assert_eq!(
        image.resolve(deep),
        None,
        "below the depth that is searched"
    );
}

#[test]
fn the_bitmap_never_answers_for_the_unknown() {
    let all = RuleSet {
        jurisdictions: [u64::MAX; 8],
        intervals: Slice::default(),
    };
    for (jurisdiction, want) in [
        (0, false),
        (1, true),
        (511, true),
        (512, false),
        (u16::MAX, false),
    ] {
        assert_eq!(all.allows(jurisdiction), want, "{jurisdiction}");
    }
    let mut one = RuleSet {
        jurisdictions: [0; 8],
        intervals: Slice::default(),
    };
    one.jurisdictions[1] = 1;
    for (jurisdiction, want) in [(63, false), (64, true), (65, false), (0, false)] {
        assert_eq!(one.allows(jurisdiction), want, "{jurisdiction}");
    }
}

#[test]
fn a_tag_is_of_one_policy_and_one_subject() {
    let mut image = PolicyImage::zeroed();
    image.header.generation = (7 << 32) | 3;
    assert_eq!(image.tag(5), (3 << 32) | 5);
    for (generation, subject) in [(3, 6), (4, 5), (5, 3)] {
        assert_ne!(
            tag(generation, subject),
            image.tag(5),
            "{generation} {subject}"
        );
    }
}

#[test]
fn a_frames_ethertype_leaves_where_the_host_fence_names_it() {
    let mut image = PolicyImage::zeroed();
    assert!(!image.header.names_ethertype(0x88cc), "none is named");
    image.header.ethertypes = [0x88cc, 0x8809, 0, 0, 0, 0, 0, 0x88f7];
    for (ethertype, named) in [
        (0x88cc, true),
        (0x8809, true),
        (0x88f7, true),
        (0x88cd, false),
        (0x8863, false),
        // What ends the list is no ethertype.
        (0, false),
    ] {
        let found = image.header.names_ethertype(ethertype);
        assert_eq!(found, named, "{ethertype:#x}");
    }
}
