#![no_main]
use std::hint::black_box;

use bailiwick_attestation::crypto::HashAlgorithm;
use bailiwick_attestation::ima::{List, match_pcr, replay};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Ok(list) = List::parse(data) else {
        return;
    };
    assert_eq!(list.entries().count(), list.len());
    for entry in list.entries() {
        black_box(entry.is_consistent());
        black_box(entry.file_name());
        black_box(entry.file_digest());
        black_box(entry.signature());
        black_box(entry.appended_signature());
        black_box(entry.buffer());
        black_box(entry.owner());
        black_box(entry.group());
    }
    let value = replay(&list, HashAlgorithm::Sha256).unwrap().value;
    let measured = list.entries().any(|entry| entry.pcr == 10);
    let matched = match_pcr(&list, HashAlgorithm::Sha256, value.as_slice());
    assert_eq!(matched.is_some(), measured);
});
