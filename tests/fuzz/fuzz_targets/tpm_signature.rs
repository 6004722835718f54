#![no_main]
use bailiwick_attestation::tpm::Signature;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    Signature::parse(data).ok();
});
