#![no_main]
// What is read back is written the same.
use bailiwick_attestation::tlog::LogEntry;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(entry) = LogEntry::parse(data) {
        assert_eq!(entry.to_bytes(), data);
    }
});
