#![no_main]
use bailiwick_attestation::cvm::snp::Report;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(report) = Report::parse(data) {
        assert_eq!(data.len(), 1184);
        assert_eq!(data.get(0x90..0xc0), Some(&report.measurement[..]));
        assert_eq!(data.get(0x180..0x188), Some(&report.reported_tcb.0[..]));
    }
});
