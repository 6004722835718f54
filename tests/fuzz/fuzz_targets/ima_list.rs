#![no_main]
use bailiwick_attestation::crypto::HashAlgorithm;
use bailiwick_attestation::ima::{List, match_pcr, replay};
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(list) = List::parse(data) else {
        return;
    };
    assert_eq!(list.entries().count(), list.len());
    for entry in list.entries() {
        entry.is_consistent();
        entry.file_name();
        entry.file_digest();
        entry.signature();
        entry.appended_signature();
        entry.buffer();
        entry.owner();
        entry.group();
    }
    let value = replay(&list, HashAlgorithm::Sha256).unwrap().value;
    let measured = list.entries().any(|entry| entry.pcr == 10);
    let matched = match_pcr(&list, HashAlgorithm::Sha256, value.as_slice());
    assert_eq!(matched.is_some(), measured);
});
