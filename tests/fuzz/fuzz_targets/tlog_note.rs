#![no_main]
use bailiwick_attestation::tlog::SignedNote;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    SignedNote::parse(data).ok();
});
