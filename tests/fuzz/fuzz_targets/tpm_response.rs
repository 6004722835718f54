#![no_main]
use bailiwick_attestation::{
    crypto::HashAlgorithm,
    tpm::{
        context_load_response, nv_certify_response, nv_read_public_response, pcr_event_response,
        pcr_read_response,
    },
};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    pcr_event_response(data).ok();
    context_load_response(data).ok();
    nv_read_public_response(data).ok();
    nv_certify_response(data).ok();
    pcr_read_response(data, HashAlgorithm::Sha256, 13).ok();
});
