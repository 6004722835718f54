#![no_main]
use bailiwick_attestation::appraisal::AttestationResult;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    AttestationResult::read_json(data).ok();
});
