#![no_main]
// What is read is what stands there, and the file form changes nothing.
use bailiwick_attestation::gpu::{Report, unpack_report};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(bytes) = unpack_report(data)
        && let Ok(report) = Report::parse(&bytes)
    {
        assert_eq!(bytes.get(4..36), Some(&report.nonce[..]));
        let values: usize = report
            .blocks
            .iter()
            .map(|block| block.value.len() + 7)
            .sum();
        let entries: usize = report
            .opaque
            .entries
            .iter()
            .map(|one| one.value.len() + 4)
            .sum();
        let framed = 45 + values + 32 + 2 + entries + 96 + report.trailing_zeros;
        assert_eq!(bytes.len(), framed);
    }
});
