#![no_main]
use bailiwick_attestation::tpm::Name;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    Name::parse(data).ok();
});
