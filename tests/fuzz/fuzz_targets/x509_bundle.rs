#![no_main]
use bailiwick_attestation::x509::Bundle;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    Bundle::parse(data).ok();
});
