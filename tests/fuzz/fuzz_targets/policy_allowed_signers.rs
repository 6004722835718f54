#![no_main]
use bailiwick_policy::approvers::Approvers;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    Approvers::parse("allowed_signers", data, 1).ok();
});
