#![no_main]
use bailiwick_policy::approvers::Thresholds;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    Thresholds::parse("approvers.toml", data).ok();
});
