#![no_main]
use bailiwick_attestation::tpm::Attest;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    Attest::parse_either(data).ok();
});
