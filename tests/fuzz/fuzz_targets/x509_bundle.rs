#![no_main]
use bailiwick_attestation::x509::Bundle;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    Bundle::parse(data).ok();
});
