#![no_main]
use bailiwick_attestation::tlog::Checkpoint;
libfuzzer_sys::fuzz_target!(|text: &str| {
    Checkpoint::from_text(text).ok();
});
