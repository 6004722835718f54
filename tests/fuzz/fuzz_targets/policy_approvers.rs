#![no_main]
use bailiwick_policy::approvers::Thresholds;
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    Thresholds::parse("approvers.toml", data).ok();
});
