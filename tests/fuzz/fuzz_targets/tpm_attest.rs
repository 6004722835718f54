#![no_main]
use bailiwick_attestation::tpm::Attest;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    Attest::parse_either(data).ok();
});
