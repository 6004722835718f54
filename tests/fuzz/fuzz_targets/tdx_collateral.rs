#![no_main]
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::cvm::tdx::{Collateral, endorse};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(collateral) = Collateral::parse(data) {
        // Nobody but Intel has the root's key.
        assert!(endorse(&collateral, UnixTime::from_secs(1_768_003_200)).is_err());
    }
});
