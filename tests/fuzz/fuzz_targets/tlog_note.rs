#![no_main]
use bailiwick_attestation::tlog::SignedNote;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    SignedNote::parse(data).ok();
});
