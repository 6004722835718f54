#![no_main]
use bailiwick_attestation::tlog::NoteVerifier;
libfuzzer_sys::fuzz_target!(|text: &str| {
    NoteVerifier::parse(text).ok();
});
