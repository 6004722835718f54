//! Devices held against reference values.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::made::{AT, Resource, Signer, Tag};
use crate::gpu::rim::{
    Checked, Comparison, Edition, Endorsed, Slot, Target, check, compare, unfit,
};

static SIGNER: LazyLock<Signer> = LazyLock::new(Signer::new);

fn endorsed(tags: &[Tag]) -> Vec<Checked> {
    let anchors = SIGNER.anchors();
    tags.iter()
        .map(|tag| check(SIGNER.rim(tag).as_bytes(), &anchors, AT))
        .collect()
}

/// A GPU whose measurements named are their own number, 48 times, all others zero.
#[derive(Clone)]
struct Gpu {
    blocks: BTreeMap<u8, Vec<u8>>,
    product: &'static str,
    edition: Edition,
    driver: Option<&'static str>,
    vbios: &'static str,
    nvdec: Option<u8>,
}

fn gpu(nonzero: &[u8]) -> Gpu {
    let value = |index: u8| match nonzero.contains(&index) {
        true => vec![index; 48],
        false => vec![0; 48],
    };
    Gpu {
        blocks: (0..64).map(|index| (index + 1, value(index))).collect(),
        product: "GH100",
        edition: Edition::Gpu,
        driver: Some("550.90.07"),
        vbios: "96.00.9F.00.01",
        nvdec: Some(0xaa),
    }
}

impl Gpu {
    fn target(&self) -> Target<'_> {
        Target {
            product: self.product,
            edition: self.edition,
            driver_version: self.driver,
            vbios_version: self.vbios,
            nvdec: self.nvdec,
        }
    }

    fn compare(&self, drivers: &[Tag], vbioses: &[Tag]) -> Comparison {
        let [drivers, vbioses] = [drivers, vbioses].map(endorsed);
        let block = |number| self.blocks.get(&number).map(Vec::as_slice);
        compare(&self.target(), block, &take(&drivers), &take(&vbioses))
    }
}

fn take(all: &[Checked]) -> Vec<Endorsed<'_>> {
    all.iter().map(|one| one.endorsed().unwrap()).collect()
}

fn mismatched(found: &Comparison) -> Vec<u8> {
    found.mismatched.iter().map(|one| one.index).collect()
}

#[test]
fn what_is_golden_is_compared_and_the_rest_is_told() {
    let driver = [Tag::driver(&[7, 21, 35])];
    let vbios = [Tag::vbios(&[1, 9])];
    let good = gpu(&[1, 7, 9, 21, 35]).compare(&driver, &vbios);
    assert!(good.good());
    assert_eq!(good.matched, [1, 7, 9, 21, 35]);
    assert_eq!(good.compared(), 5);
    assert_eq!((good.driver, good.vbios), (Some(0), Some(0)));
    assert_eq!(good.uncovered_nonzero, [0; 0]);
    assert_eq!(good.missing(Edition::Gpu), []);

    let uncovered = gpu(&[1, 7, 9, 21, 35, 41]).compare(&driver, &vbios);
    assert!(uncovered.good(), "a warning is for whoever asks");
    assert_eq!(uncovered.uncovered_nonzero, [41]);

    let mut changed = gpu(&[1, 7, 9, 21, 35]);
    changed.blocks.insert(10, vec![8; 48]);
    changed.blocks.remove(&22);
    let bad = changed.compare(&driver, &vbios);
    assert!(!bad.good());
    assert_eq!((mismatched(&bad), bad.compared()), (vec![9, 21], 5));
    let [vbios_part, driver_part] = bad.mismatched.as_slice() else {
        panic!("two");
    };
    assert_eq!(vbios_part.slot, Slot::Vbios);
    assert_eq!(vbios_part.expected, [[9; 48]]);
    assert_eq!(vbios_part.found, Some(vec![8; 48]));
    assert_eq!(vbios_part.name, "Measurement_9");
    assert_eq!(
        (driver_part.slot, &driver_part.found),
        (Slot::Driver, &None)
    );
}

#[test]
fn a_value_is_all_of_its_bytes() {
    let vbios = [Tag::vbios(&[1])];
    for (case, value, good) in [
        ("equal", vec![1; 48], true),
        ("a byte short", vec![1; 47], false),
        ("a byte long", vec![1; 49], false),
        ("empty", vec![], false),
        ("last bit", [vec![1; 47], vec![0]].concat(), false),
    ] {
        let mut device = gpu(&[]);
        device.blocks.insert(2, value);
        assert_eq!(device.compare(&[], &vbios).good(), good, "{case}");
    }
    let mut several = Tag::vbios(&[]);
    several.resources.push(Resource {
        index: 12,
        active: true,
        values: vec![[0; 48], [5; 48]],
    });
    for (case, value, good) in [
        ("zero, which is named", 0, true),
        ("the second", 5, true),
        ("none of them", 6, false),
    ] {
        let mut device = gpu(&[]);
        device.blocks.insert(13, vec![value; 48]);
        let found = device.compare(&[], std::slice::from_ref(&several));
        assert_eq!(found.good(), good, "{case}");
    }
}

#[test]
fn the_video_decoder_counts_unless_the_report_says_it_is_off() {
    let driver = [Tag::driver(&[7, 35])];
    for (case, nvdec, skipped, bad) in [
        ("off", Some(0x55), vec![35], vec![]),
        ("on", Some(0xaa), vec![], vec![35]),
        ("anything else", Some(0x54), vec![], vec![35]),
        ("not said", None, vec![], vec![35]),
    ] {
        let device = Gpu { nvdec, ..gpu(&[7]) };
        let found = device.compare(&driver, &[]);
        assert_eq!(
            (&found.skipped, mismatched(&found)),
            (&skipped, bad),
            "{case}"
        );
        assert_eq!(found.missing(Edition::Gpu), [Slot::Vbios], "{case}");
    }
}

#[test]
fn two_rims_never_claim_one_measurement() {
    let device = gpu(&[1, 5, 7]);
    let found = device.compare(&[Tag::driver(&[5, 7])], &[Tag::vbios(&[1, 5])]);
    assert_eq!(found.conflict, [5]);
    assert!(!found.good(), "though both are met");
    assert_eq!(mismatched(&found), [0; 0]);
}

#[test]
fn of_several_issues_one_counts_whole() {
    let issue = |values: [(u8, u8); 2]| {
        let mut tag = Tag::vbios(&[]);
        tag.resources = values
            .map(|(index, value)| Resource {
                index,
                active: true,
                values: vec![[value; 48]],
            })
            .into();
        tag
    };
    let mut device = gpu(&[]);
    device.blocks.insert(2, vec![1; 48]);
    device.blocks.insert(10, vec![2; 48]);
    let first = issue([(1, 1), (9, 1)]);
    let second = issue([(1, 2), (9, 2)]);
    let third = issue([(1, 1), (9, 2)]);
    let other = Tag {
        version: "96.00.9F.00.02",
        ..third.clone()
    };
    for (case, vbioses, place, bad) in [
        (
            "the one that is met",
            vec![first.clone(), third.clone()],
            Some(1),
            vec![],
        ),
        (
            "never half of each",
            vec![first.clone(), second],
            Some(0),
            vec![9],
        ),
        (
            "of another version, never",
            vec![other.clone(), first],
            Some(1),
            vec![9],
        ),
        ("none fits", vec![other], None, vec![]),
    ] {
        let found = device.compare(&[], &vbioses);
        assert_eq!((found.vbios, mismatched(&found)), (place, bad), "{case}");
    }
}

#[test]
fn a_rim_is_for_a_chip_a_kind_and_a_version() {
    let switch = Tag {
        product: "LS10",
        edition: "SWITCH",
        version: "96.10.55.00.01",
        ..Tag::vbios(&[1])
    };
    let nvswitch = Gpu {
        product: "LS10",
        edition: Edition::Switch,
        driver: None,
        vbios: "96.10.55.00.01",
        ..gpu(&[1])
    };
    let of = |product, edition, version| Tag {
        product,
        edition,
        version,
        ..Tag::vbios(&[1])
    };
    let gpu = gpu(&[]);
    let vbios = Tag::vbios(&[1]);
    let driver = Tag::driver(&[7]);
    for (case, tag, slot, want) in [
        ("VBIOS", vbios.clone(), Slot::Vbios, None),
        ("driver", driver.clone(), Slot::Driver, None),
        ("switch", switch.clone(), Slot::Vbios, None),
        (
            "small letters",
            of("GH100", "GPU", "96.00.9f.00.01"),
            Slot::Vbios,
            None,
        ),
        (
            "driver as VBIOS",
            driver,
            Slot::Vbios,
            Some("rim-version-mismatch"),
        ),
        (
            "VBIOS as driver",
            vbios,
            Slot::Driver,
            Some("rim-version-mismatch"),
        ),
        (
            "switch as driver",
            switch.clone(),
            Slot::Driver,
            Some("rim-version-mismatch"),
        ),
        (
            "another version",
            of("GH100", "GPU", "96.00.9F.00.02"),
            Slot::Vbios,
            Some("rim-version-mismatch"),
        ),
        (
            "a version that goes on",
            of("GH100", "GPU", "96.00.9F.00.011"),
            Slot::Vbios,
            Some("rim-version-mismatch"),
        ),
        (
            "another chip",
            of("GB100", "GPU", "96.00.9F.00.01"),
            Slot::Vbios,
            Some("rim-product-mismatch"),
        ),
        (
            "another kind",
            of("GH100", "SWITCH", "96.00.9F.00.01"),
            Slot::Vbios,
            Some("rim-product-mismatch"),
        ),
        (
            "a chip in small letters",
            of("gh100", "GPU", "96.00.9F.00.01"),
            Slot::Vbios,
            Some("rim-product-mismatch"),
        ),
    ] {
        let all = endorsed(std::slice::from_ref(&tag));
        let rim = all[0].endorsed().unwrap();
        let found = unfit(rim, slot, &[gpu.target(), nvswitch.target()]);
        assert_eq!(found.map(|why| why.code()), want, "{case}");
    }
    let found = nvswitch.compare(&[], &[switch, Tag::vbios(&[1])]);
    assert!(found.good());
    assert_eq!((found.vbios, found.matched.as_slice()), (Some(0), &[1][..]));
    assert_eq!(found.missing(Edition::Switch), [], "a switch has no driver");
}
