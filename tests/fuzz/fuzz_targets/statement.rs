#![no_main]
use bailiwick_attestation::evidence::ParsedStatement;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ParsedStatement::parse(data).ok();
});
