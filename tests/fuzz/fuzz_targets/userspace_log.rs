#![no_main]
use bailiwick_attestation::boot::UserspaceLog;
use bailiwick_attestation::crypto::{Digest, HashAlgorithm};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Ok(log) = UserspaceLog::parse(data) else {
        return;
    };
    let bank = HashAlgorithm::Sha256;
    let zero = Digest::from_slice(&[0; 32]).unwrap();
    assert_eq!(log.leads(bank, 11, &zero, &zero), Some(0));
    assert!(log.phases(bank, usize::MAX).len() <= log.of(11).count());
    assert!(log.events.iter().all(|event| event.register < 24));
});
