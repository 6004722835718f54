#![no_main]
use bailiwick_policy::content::Erasure;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(read) = Erasure::parse("erasure.toml", data) {
        assert!(read.buckets.is_none_or(|buckets| !buckets.is_empty()));
    }
});
