#![no_main]
use bailiwick_attestation::events::Entry;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(entry) = Entry::parse(data) {
        // What may be printed in a table says one thing on one line.
        assert!(!entry.kind().is_empty());
    }
});
