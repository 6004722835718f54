#![no_main]
use bailiwick_attestation::evidence::ParsedStatement;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    ParsedStatement::parse(data).ok();
});
