#![no_main]
use bailiwick_attestation::x509::Certificate;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    Certificate::parse_padded(data).ok();
});
