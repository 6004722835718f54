#![no_main]
use bailiwick_attestation::tpm::PcrSelection;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    PcrSelection::parse(data).ok();
});
