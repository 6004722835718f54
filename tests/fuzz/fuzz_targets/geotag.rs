#![no_main]
// What a TPM holds and certified. A record and a text that are read have one spelling.
use bailiwick_attestation::geotag::{Geotag, Record};
use bailiwick_attestation::tpm::NvPublic;
use bailiwick_policy::ssh::SshSignature;

bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(record) = Record::parse(data) {
        if data.len() <= bailiwick_attestation::geotag::RECORD_LIMIT {
            assert_eq!(record.to_bytes().as_deref(), Some(data));
        }
        SshSignature::parse_blob(record.signature).ok();
        if let Ok(tag) = Geotag::parse(record.text) {
            assert_eq!(tag.text().as_bytes(), record.text);
        }
    }
    if let Ok(tag) = Geotag::parse(data) {
        assert_eq!(tag.text().as_bytes(), data);
    }
    if let Ok(public) = NvPublic::parse(data) {
        assert!(public.name().is_none_or(|name| name.len() > 2));
    }
});
