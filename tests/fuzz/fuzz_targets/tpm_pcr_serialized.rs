#![no_main]
use bailiwick_attestation::tpm::PcrValues;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    PcrValues::parse_serialized(data).ok();
});
