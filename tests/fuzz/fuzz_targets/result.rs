#![no_main]
use bailiwick_attestation::appraisal::AttestationResult;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    AttestationResult::read_json(data).ok();
});
