#![no_main]
use bailiwick_policy::manifest::Manifest;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    Manifest::parse(data).ok();
});
