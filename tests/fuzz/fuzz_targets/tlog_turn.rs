#![no_main]
// What is read back is written the same, and a turn turns.
use bailiwick_attestation::tlog::Turn;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(turn) = Turn::parse(data) {
        assert_ne!(turn.from, turn.to);
        assert_eq!(turn.to_bytes(), data);
    }
});
