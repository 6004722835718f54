#![no_main]
use bailiwick_attestation::cvm::snp::{MAX_TABLE, Table};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(table) = Table::parse(data) {
        assert!(data.len() <= MAX_TABLE);
        assert!(table.certificates.len() + table.others <= 16);
        // A certificate is a part of what came.
        for one in &table.certificates {
            let der = one.as_der();
            assert!(data.windows(der.len()).any(|part| part == der));
        }
    }
});
