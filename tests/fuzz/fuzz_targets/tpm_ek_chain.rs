#![no_main]
// The same bytes as leaf, intermediates and roots: loops and dead ends included.
use bailiwick_attestation::{UnixTime, tpm::EkChain, x509::Bundle};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let all = Bundle::parse(data).unwrap_or_default().certificates;
    EkChain::verify(data, &all, &all, UnixTime::from_secs(1_800_000_000)).ok();
});
