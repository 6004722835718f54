#![no_main]
use bailiwick_attestation::tpm::PcrSelection;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    PcrSelection::parse(data).ok();
});
