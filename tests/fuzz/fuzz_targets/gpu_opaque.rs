#![no_main]
// The smallest report around the data: whatever they are, only they can be at fault.
use bailiwick_attestation::gpu::{Report, ReportRefused};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Ok(len) = u16::try_from(data.len()) else {
        return;
    };
    let mut bytes = vec![0x11, 0xe0, 1, 0xff];
    bytes.extend([0; 33]);
    bytes.extend([0x11, 0x60, 0, 0, 1, 7, 0, 0, 1, 1, 3, 0, 1, 0, 0]);
    bytes.extend([0; 32]);
    bytes.extend(len.to_le_bytes());
    bytes.extend(data);
    bytes.extend([0; 96]);
    match Report::parse(&bytes) {
        Ok(report) => {
            let entries = &report.opaque.entries;
            let framed: usize = entries.iter().map(|one| one.value.len() + 4).sum();
            assert_eq!(framed, data.len());
        }
        Err(ReportRefused::Opaque(_)) => {}
        Err(other) => assert!(bytes.len() > 0x2000, "{other}"),
    }
});
