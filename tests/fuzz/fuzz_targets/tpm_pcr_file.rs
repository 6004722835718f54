#![no_main]
use bailiwick_attestation::tpm::PcrValues;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    PcrValues::parse_file(data).ok();
});
