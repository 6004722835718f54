#![no_main]
use bailiwick_attestation::{
    crypto::HashAlgorithm,
    tpm::{pcr_event_response, pcr_read_response},
};
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pcr_event_response(data).ok();
    pcr_read_response(data, HashAlgorithm::Sha256, 13).ok();
});
