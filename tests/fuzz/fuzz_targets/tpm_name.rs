#![no_main]
use bailiwick_attestation::tpm::Name;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    Name::parse(data).ok();
});
