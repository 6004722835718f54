#![no_main]
use bailiwick_attestation::tlog::Checkpoint;
bailiwick_fuzz::fuzz_target!(|text: &str| {
    Checkpoint::from_text(text).ok();
});
