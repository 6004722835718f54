#![no_main]
// Whatever form a file has: what was signed is shown, nothing else is.
use std::sync::LazyLock;

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::gpu::{Anchors, rim::check};
use bailiwick_attestation::x509::Certificate;

static ANCHORS: LazyLock<Anchors> = LazyLock::new(|| {
    let root = Certificate::parse(include_bytes!("../seeds/gpu_rim/root.der"));
    Anchors::of(&[root.expect("a certificate")])
});

bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let checked = check(data, &ANCHORS, UnixTime::from_secs(1_767_225_600));
    assert_eq!(checked.content().is_some(), checked.signature == Some(true));
    if checked.refusals.is_empty() {
        let rim = checked.endorsed().expect("nothing is wrong with it").rim();
        assert!(!rim.golden.is_empty());
        assert!(rim.golden.is_sorted_by(|a, b| a.index < b.index));
    }
});
