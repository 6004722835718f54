#![no_main]
// What is read back is written the same.
use bailiwick_attestation::tlog::ActEntry;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(act) = ActEntry::parse(data) {
        assert_eq!(act.to_bytes(), data);
    }
});
