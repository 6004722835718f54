#![no_main]
// A list cut anywhere between two entries: what is read on from the cut meets the same value as the
// whole, after as many entries.
use bailiwick_attestation::crypto::HashAlgorithm;
use bailiwick_attestation::ima::{Form, List, Position, replay};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    const BANK: HashAlgorithm = HashAlgorithm::Sha256;
    let Some((cut, data)) = data.split_first() else {
        return;
    };
    let Ok(list) = List::parse(data) else {
        return;
    };
    let Some(value) = replay(&list, BANK) else {
        return;
    };
    let whole = Position::find(&list, BANK, value.value.as_slice());
    let mut entries = list.entries();
    for _ in 0..=usize::from(*cut) % list.len() {
        entries.next();
    }
    let rest = entries.rest();
    let first = &data[..data.len() - rest.len().min(data.len())];
    let (Form::Binary, Ok(first)) = (list.form(), List::parse(first)) else {
        return;
    };
    // Cut short, the same layout may be read otherwise: only where it is not, they are one list.
    let Some(value_there) = replay(&first, BANK) else {
        return;
    };
    let Some(there) = Position::find(&first, BANK, value_there.value.as_slice()) else {
        return;
    };
    let skipped: Vec<_> = first.entries().skip(there.at()).collect();
    assert!(skipped.iter().all(|entry| entry.pcr != 10));
    let more = [&skipped_bytes(&first, there.at()), rest].concat();
    let Ok(more) = List::following(&there, &more) else {
        return;
    };
    let on = there.advance(&more, value.value.as_slice());
    assert_eq!(on.map(|on| on.at()), whole.map(|whole| whole.at()));
});

/// What the list holds after so many entries.
fn skipped_bytes(list: &List<'_>, at: usize) -> Vec<u8> {
    let mut entries = list.entries();
    for _ in 0..at {
        entries.next();
    }
    entries.rest().to_vec()
}
