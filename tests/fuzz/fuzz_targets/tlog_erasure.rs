#![no_main]
// What is read back is written the same.
use bailiwick_attestation::tlog::ErasureCertificate;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(certificate) = ErasureCertificate::parse(data) {
        assert_eq!(certificate.to_bytes(), data);
    }
});
