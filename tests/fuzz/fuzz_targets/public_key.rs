#![no_main]
use bailiwick_attestation::crypto::PublicKey;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    PublicKey::from_spki_der(data).ok();
});
