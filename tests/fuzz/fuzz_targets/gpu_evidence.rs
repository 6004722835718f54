#![no_main]
use bailiwick_attestation::gpu::{Report, parse_evidence};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    for one in parse_evidence(data).unwrap_or_default() {
        Report::parse(&one.report).ok();
    }
});
