#![no_main]
// A response about the certificates that stand in it, each its own issuer.
use bailiwick_attestation::{UnixTime, gpu::Response};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(response) = Response::parse(data) {
        let certificates = response.certificates();
        let pairs: Vec<_> = certificates.iter().zip(certificates).collect();
        response.check(&pairs, UnixTime::from_secs(1_767_225_600));
    }
});
