#![no_main]
use bailiwick_attestation::crypto::PublicKey;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    PublicKey::from_spki_der(data).ok();
});
