#![no_main]
use bailiwick_attestation::{crypto::HashAlgorithm, fence_log};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let bank = HashAlgorithm::Sha256;
    let mut value = fence_log::zero(bank).unwrap();
    let mut whole = Vec::new();
    for (bytes, entry) in fence_log::entries(data).map_while(Result::ok) {
        assert_eq!(entry.encode().unwrap(), bytes);
        whole.extend(bytes);
        value = fence_log::extend(bank, &value, bytes).unwrap();
    }
    assert!(data.starts_with(&whole));
    if data.len() <= fence_log::MAX_LOG {
        fence_log::replay(data, bank, &value).unwrap();
    }
});
