#![no_main]
use bailiwick_attestation::tlog::NoteVerifier;
bailiwick_fuzz::fuzz_target!(|text: &str| {
    NoteVerifier::parse(text).ok();
});
