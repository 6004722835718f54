#![no_main]
use bailiwick_policy::manifest::Manifest;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    Manifest::parse(data).ok();
});
