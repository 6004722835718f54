#![no_main]
// Reports behind a length of four bytes, then chains, as they travel beside a statement.
use bailiwick_attestation::appraisal::read_gpus;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let Some((reports, chains)) = rest.split_at_checked(length) else {
        return;
    };
    if let Ok(names) = read_gpus(reports, chains) {
        assert!(names.len() <= 64);
        assert!(names.iter().all(|name| name.len() == 20));
    }
});
