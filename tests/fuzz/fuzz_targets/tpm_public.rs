#![no_main]
use bailiwick_attestation::tpm::{AkPublic, Public};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    Public::parse_either(data).map(AkPublic::new).ok();
});
