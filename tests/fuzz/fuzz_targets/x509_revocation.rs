#![no_main]
use bailiwick_attestation::x509::RevocationList;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if RevocationList::parse(data).is_ok() {
        // A list that is cut or goes on is another.
        assert!(RevocationList::parse(&data[..data.len() - 1]).is_err());
        assert!(RevocationList::parse(&[data, &[0]].concat()).is_err());
    }
});
