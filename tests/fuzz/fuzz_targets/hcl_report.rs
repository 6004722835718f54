#![no_main]
use bailiwick_attestation::cvm::hcl::{Hardware, HclReport, MAX_HCL_BYTES, MAX_RUNTIME_BYTES};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Ok(report) = HclReport::parse(data) else {
        return;
    };
    assert!(data.len() <= MAX_HCL_BYTES && report.runtime.len() <= MAX_RUNTIME_BYTES);
    if let Hardware::SevSnp(bytes) = report.hardware {
        assert_eq!(data.get(32..1216), Some(bytes));
    }
    // The text stands in what came, and nothing but zeros behind it.
    let front = data
        .get(1236..)
        .is_some_and(|text| text.starts_with(report.runtime));
    let behind = data
        .get(1240..)
        .is_some_and(|text| text.starts_with(report.runtime));
    assert!(front || behind);
    if let Ok(runtime) = report.runtime() {
        let bits = runtime.ak.rsa_bits().unwrap_or_default();
        assert!((2048..=4096).contains(&bits));
    }
});
