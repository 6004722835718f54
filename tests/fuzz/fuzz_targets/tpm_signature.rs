#![no_main]
use bailiwick_attestation::tpm::Signature;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    Signature::parse(data).ok();
});
