#![no_main]
// Measurements of any number and length against RIMs that are endorsed.
use std::sync::LazyLock;

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::gpu::Anchors;
use bailiwick_attestation::gpu::rim::{Checked, Edition, Slot, Target, check, compare, unfit};
use bailiwick_attestation::x509::Certificate;

static RIMS: LazyLock<[Checked; 2]> = LazyLock::new(|| {
    let root = Certificate::parse(include_bytes!("../seeds/gpu_rim/root.der"));
    let anchors = Anchors::of(&[root.expect("a certificate")]);
    let at = UnixTime::from_secs(1_767_225_600);
    [
        check(include_bytes!("../seeds/gpu_rim/driver.xml"), &anchors, at),
        check(include_bytes!("../seeds/gpu_rim/vbios.xml"), &anchors, at),
    ]
});

bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Some(([kind, nvdec, which], blocks)) = data.split_first_chunk() else {
        return;
    };
    let [driver, vbios] = &*RIMS;
    let endorsed = [driver, vbios].map(|one| one.endorsed().expect("a good RIM"));
    let device = Target {
        product: "GH100",
        edition: if kind & 1 == 0 {
            Edition::Gpu
        } else {
            Edition::Switch
        },
        driver_version: (kind & 2 == 0).then_some("550.90.07"),
        vbios_version: if kind & 4 == 0 {
            "96.00.9F.00.01"
        } else {
            "96.00.9f.00.01"
        },
        nvdec: (kind & 8 == 0).then_some(*nvdec),
    };
    let blocks: Vec<&[u8]> = blocks.chunks(48).collect();
    let block = |number: u8| blocks.get(usize::from(number).wrapping_sub(1)).copied();
    let (drivers, vbioses) = match which % 4 {
        0 => (&endorsed[..1], &endorsed[1..]),
        1 => (&endorsed[..1], &endorsed[..0]),
        2 => (&endorsed[..0], &endorsed[1..]),
        _ => (&endorsed[..], &endorsed[..]),
    };
    let found = compare(&device, block, drivers, vbioses);
    let golden = |place: Option<usize>, slot: &[_]| {
        place.map_or(0, |place| {
            let rim: &bailiwick_attestation::gpu::rim::Endorsed<'_> = &slot[place];
            rim.rim().golden.len()
        })
    };
    assert_eq!(
        found.compared() + found.skipped.len(),
        golden(found.driver, drivers) + golden(found.vbios, vbioses)
    );
    for mismatch in &found.mismatched {
        assert!(
            mismatch
                .expected
                .iter()
                .all(|one| mismatch.found.as_deref() != Some(one))
        );
    }
    for slot in [Slot::Driver, Slot::Vbios] {
        assert!(unfit(endorsed[0], slot, &[]).is_some());
    }
    let fits = unfit(endorsed[1], Slot::Vbios, &[device]).is_none();
    assert_eq!(fits, device.edition == Edition::Gpu);
});
