//! Everything together: devices, reference values, and what fits whom.

use super::made::{AT, NONCE, Said, device_of, five_keys, hopper};
use crate::gpu::rim::tests::made::{Signer, Tag};
use crate::gpu::rim::{self, Slot};
use crate::gpu::{Anchors, Answer, Asked, DeviceRefused, Evidence, appraise};
use crate::ids::UnixTime;

/// A GPU whose measurement with each number from 0 is that number, 48 times, as the RIMs made
/// here want it.
fn measured() -> Said {
    let mut said = Said::hopper();
    said.blocks = (0..64).map(|index| (index + 1, vec![index; 48])).collect();
    said
}

fn judged<'a>(
    evidence: &'a [Evidence<'a>],
    anchors: &'a Anchors,
    rims: &'a [(Slot, rim::Checked)],
) -> Answer<'a> {
    appraise(&Asked {
        devices: evidence,
        anchors,
        nonce: Some(NONCE),
        ocsp: &[],
        crls: &[],
        rims,
        at: AT,
        memory: None,
    })
}

#[test]
fn measurements_are_held_against_what_fits_the_device() {
    let signer = Signer::new();
    let stranger = Signer::new();
    let check = |by: &Signer, tag: &Tag, at: UnixTime| {
        rim::check(by.rim(tag).as_bytes(), &signer.anchors(), at)
    };
    let (driver, vbios) = (Tag::driver(&[7, 21, 35]), Tag::vbios(&[0, 1, 2]));
    let of_switch = Tag {
        product: "LS10",
        edition: "SWITCH",
        ..vbios.clone()
    };
    let next = Tag {
        version: "550.144.03",
        ..driver.clone()
    };
    let good = |tag: &Tag| check(&signer, tag, AT);
    let made = hopper(&measured());
    let anchors = made.chain.anchors();
    let evidence = [made.evidence()];
    let (d, v) = (Slot::Driver, Slot::Vbios);
    let late = UnixTime::from_secs(1_798_761_601);
    // Name, RIMs, how many match, which do not, which are not compared, why a RIM fits nobody.
    for (name, rims, matched, mismatched, skipped, unfit) in [
        ("none", vec![], 0, vec![], vec![], vec![]),
        (
            "both",
            vec![(d, good(&driver)), (v, good(&vbios))],
            5,
            vec![],
            vec![35],
            vec![],
        ),
        (
            "driver",
            vec![(d, good(&driver))],
            2,
            vec![],
            vec![35],
            vec![],
        ),
        (
            "another value",
            vec![(v, {
                let mut tag = vbios.clone();
                tag.resources[1].values = vec![[9; 48]];
                good(&tag)
            })],
            2,
            vec![1],
            vec![],
            vec![],
        ),
        (
            "of another driver",
            vec![(d, good(&next))],
            0,
            vec![],
            vec![],
            vec!["rim-version-mismatch"],
        ),
        (
            "in the other's place",
            vec![(v, good(&driver))],
            0,
            vec![],
            vec![],
            vec!["rim-version-mismatch"],
        ),
        (
            "of a switch",
            vec![(v, good(&of_switch))],
            0,
            vec![],
            vec![],
            vec!["rim-product-mismatch"],
        ),
        (
            "by a stranger",
            vec![(d, check(&stranger, &driver, AT))],
            0,
            vec![],
            vec![],
            vec![],
        ),
        (
            "by a signer who expired",
            vec![(d, check(&signer, &driver, late))],
            2,
            vec![],
            vec![35],
            vec![],
        ),
    ] {
        let answer = judged(&evidence, &anchors, &rims);
        let compared = answer.comparisons[0].clone().unwrap();
        assert_eq!(compared.matched.len(), matched, "{name}");
        let found: Vec<u8> = compared.mismatched.iter().map(|one| one.index).collect();
        assert_eq!(found, mismatched, "{name}");
        assert_eq!(compared.skipped, skipped, "{name}");
        let codes: Vec<&str> = answer.unfit.iter().map(|(_, why)| why.code()).collect();
        assert_eq!(codes, unfit, "{name}");
    }
    // The video decoder counts when it is on.
    let on = hopper(&measured().with(11, &[0xaa]));
    let anchors = on.chain.anchors();
    let evidence = [on.evidence()];
    let rims = [(d, good(&driver))];
    let answer = judged(&evidence, &anchors, &rims);
    let compared = answer.comparisons[0].clone().unwrap();
    assert_eq!(
        (compared.matched, compared.skipped),
        (vec![7, 21, 35], vec![])
    );
}

#[test]
fn reference_values_are_for_some_device_and_nothing_hides_the_rest() {
    let signer = Signer::new();
    let vbios = rim::check(
        signer.rim(&Tag::vbios(&[0, 1])).as_bytes(),
        &signer.anchors(),
        AT,
    );
    let keys = five_keys();
    let switch = Said::switch([9; 8], &[[1; 8]; 8]);
    let (gpu, switch) = (
        hopper(&measured()),
        device_of(keys, "LS_10", [9; 8], &switch),
    );
    let both: Vec<_> = [&gpu, &switch]
        .iter()
        .map(|made| made.chain.certificates[4].clone())
        .collect();
    let anchors = Anchors::of(&both);
    let rims = [(Slot::Vbios, vbios)];
    let broken = Evidence {
        report: &gpu.report[1..],
        ..gpu.evidence()
    };
    let devices = [switch.evidence(), gpu.evidence(), broken];
    let answer = judged(&devices, &anchors, &rims);
    assert_eq!(answer.unfit, []);
    let matched: Vec<Option<usize>> = answer
        .comparisons
        .iter()
        .map(|one| one.as_ref().map(|one| one.matched.len()))
        .collect();
    assert_eq!(matched, [Some(0), Some(2), None]);
    let codes: Vec<Vec<&str>> = answer
        .devices
        .iter()
        .map(|device| device.refused.iter().map(DeviceRefused::code).collect())
        .collect();
    assert_eq!(codes, [vec![], vec![], vec!["report-framing"]]);
    assert!(
        !answer.topology_refused.is_empty(),
        "one GPU is there twice"
    );
    // Where no report can be read, no RIM is said to be for something else.
    let only = [broken];
    let answer = judged(&only, &anchors, &rims);
    assert_eq!((answer.unfit.len(), answer.comparisons), (0, vec![None]));
}
