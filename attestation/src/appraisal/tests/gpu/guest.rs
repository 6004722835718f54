//! GPUs of a guest without a TPM: their reports are for its key, and age by its kernel's word.

use super::super::guest::Guest;
use super::*;

/// A guest with two GPUs that were asked for its key.
fn guest() -> Guest {
    let mut guest = Guest::with("");
    let mut node = Node::new();
    node.ask_for(ASKED, &Said::hopper(), &guest.enrolled.name());
    node.trust(true);
    node.cite();
    let processors = guest.case.endorsements.processors.clone();
    guest.case.endorsements = node.case.endorsements;
    guest.case.endorsements.processors = processors;
    guest.case.logs = node.case.logs;
    guest.case.statement.gpu = node.case.statement.gpu;
    guest.case.statement.wall_time_ms = AT.millis();
    guest.case.now = AT;
    let profile = &mut guest.case.profile;
    *profile = profile.replace("[tpm]\n", &format!("{GPU}[tpm]\n"));
    guest
}

#[test]
fn a_report_ages_by_the_guests_kernel_within_one_boot_of_one_key() {
    let mut first = guest();
    let result = first.appraise();
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
    assert!(result.shows("gpu.hardware"));
    // It answers this very challenge: nobody's clock is asked.
    let fresh = Some((Value::Number(0), Provenance::HardwareSigned));
    assert_eq!(claim(&result, "gpu.age_seconds"), fresh);
    first.next();
    let anchored = first.case.previous.unwrap();
    assert_eq!(anchored.gpu.unwrap().clock_ms, 1000);

    const SECOND: u64 = 1_000_000_000;
    let by_kernel = |age| Some((Value::Number(age), Provenance::SelfReported));
    let old = || vec![("gpu-report-old".to_owned(), Finding::Refused)];
    let unknown = || vec![("gpu-unanchored".to_owned(), Finding::Unchecked)];
    type Row = (
        &'static str,
        u64,
        fn(&mut Guest),
        Vec<(String, Finding)>,
        Option<(Value, Provenance)>,
    );
    let rows: Vec<Row> = vec![
        ("at once", SECOND, |_| {}, vec![], by_kernel(0)),
        ("an hour", 3601 * SECOND, |_| {}, vec![], by_kernel(3600)),
        (
            "the last second",
            5401 * SECOND,
            |_| {},
            vec![],
            by_kernel(5400),
        ),
        ("too old", 5402 * SECOND, |_| {}, old(), by_kernel(5401)),
        (
            "a clock that went back",
            SECOND - 1_000_000,
            |_| {},
            unknown(),
            None,
        ),
        (
            "of another boot",
            3601 * SECOND,
            |g| g.case.previous().boot.id = [2; 16],
            unknown(),
            None,
        ),
        (
            "shown under another key",
            3601 * SECOND,
            |g| g.case.previous().ak = Sha256Digest([1; 32]),
            unknown(),
            None,
        ),
        (
            "never shown",
            3601 * SECOND,
            |g| g.case.previous().gpu = None,
            unknown(),
            None,
        ),
    ];
    for (name, boot_time_ns, edit, want, age) in rows {
        let mut next = guest();
        next.case.freshness = Freshness::Challenged(Nonce::new([9; 32]));
        next.case.statement.sequence = 6;
        next.case.statement.previous = Some(anchored.digest.0.to_vec());
        next.case.statement.boot_time_ns = boot_time_ns;
        // The reports that the first one showed.
        next.case.logs.clone_from(&first.case.logs);
        next.case
            .statement
            .gpu
            .clone_from(&first.case.statement.gpu);
        let made = &first.case.endorsements;
        next.case.endorsements = made.clone();
        next.case.previous = Some(anchored);
        edit(&mut next);
        let result = next.appraise();
        let found = (codes(&result), claim(&result, "gpu.age_seconds"));
        assert_eq!(found, (want, age), "{name}");
        let told = result.deviations().find(|it| it.code == "gpu-report-old");
        if let Some(told) = told {
            assert_eq!(told.provenance, Some(Provenance::SelfReported));
            assert!(told.found.contains("kernel's clock"), "{}", told.found);
        }
    }
}

/// Reports that GPUs made for a TPM's key, or for another guest's, are not this one's.
#[test]
fn a_report_for_another_key_is_not_of_this_guest() {
    let mut other = guest();
    other.enrolled.key = Sha256Digest([0x62; 32]);
    other.case.statement.guest_key = vec![0x62; 32];
    other.case.previous = None;
    other.case.statement.sequence = 0;
    other.case.statement.previous = None;
    let result = other.appraise();
    assert_eq!(result.status, Status::Contraindicated);
    assert!(!codes(&result).is_empty());
    assert!(!result.shows("gpu.hardware"));
}
