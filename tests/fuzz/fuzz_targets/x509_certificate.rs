#![no_main]
use bailiwick_attestation::x509::Certificate;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    Certificate::parse_padded(data).ok();
});
