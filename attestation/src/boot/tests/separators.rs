//! What ends firmware's own measurements: where it has to stand, and what it says.

use super::super::{EventLog, EventType, examine};
use super::{
    Record, SHA256, SHA384, codes, header, honest, record, refusals, separator, variable, written,
};

const POLICY: EventType = EventType::EFI_VARIABLE_DRIVER_CONFIG;

/// Refusals and warnings of a guest's log.
fn of_guest(records: &[Record]) -> (Vec<&'static str>, Vec<&'static str>) {
    let mut log = header(1, &[SHA384]);
    for record in records {
        let mut record = record.clone();
        record.banks = vec![SHA384];
        log.extend(written(&record));
    }
    let log = EventLog::parse(&log).unwrap();
    let content = examine(&log, SHA384, &[]);
    (codes(&content.refusals), codes(&content.warnings))
}

#[test]
fn the_register_of_the_policy_has_one_wherever_the_policy_can_stand() {
    // A TPM's: with the policy or without.
    for kept in [true, false] {
        let mut records = honest();
        records.retain(|one| {
            one.register != 7 || (kept && one.kind != EventType::SEPARATOR) || one.data == b"seal"
        });
        if !kept {
            let mut sealed = record(7, EventType::EFI_VARIABLE_AUTHORITY, b"seal");
            sealed.measured = b"seal".to_vec();
            records.push(sealed);
        }
        assert!(refusals(&records).contains(&"no-separator"), "{kept}");
    }
    // A guest's: where the policy stands in it.
    let policy = |register: u32| record(register, POLICY, &variable("SecureBoot", &[1]));
    let tables = record(1, EventType::EFI_HANDOFF_TABLES2, b"tables");
    let grub = record(3, EventType::IPL, b"grub");
    let ends = separator(1);
    type Row<'a> = (&'a str, Vec<&'a Record>, bool, bool);
    let (own, elsewhere) = (policy(1), policy(3));
    let rows: Vec<Row<'_>> = vec![
        ("ended", vec![&own, &ends, &grub], false, false),
        ("not ended", vec![&own, &grub], true, false),
        ("no policy", vec![&tables, &grub], false, true),
        ("a policy elsewhere", vec![&tables, &elsewhere], false, true),
    ];
    for (name, records, refused, warned) in rows {
        let records: Vec<Record> = records.into_iter().cloned().collect();
        let (refusals, warnings) = of_guest(&records);
        let told = |codes: &[&str]| codes.contains(&"no-separator");
        assert_eq!(told(&refusals), refused, "{name}: {refusals:?}");
        assert_eq!(told(&warnings), warned, "{name}: {warnings:?}");
    }
}

#[test]
fn an_error_is_one_by_what_was_measured_and_by_what_stands_there() {
    let of = |measured: &[u8], data: &[u8]| {
        let mut one = separator(4);
        (one.measured, one.data) = (measured.to_vec(), data.to_vec());
        let mut records = honest();
        records.retain(|one| one.register != 4);
        records.push(one);
        refusals(&records)
    };
    let error = [1, 0, 0, 0];
    type Row<'a> = (&'a str, &'a [u8], &'a [u8], &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        ("none", &[0; 4], &[0; 4], &[]),
        ("none, in ones", &[0xff; 4], &[0xff; 4], &[]),
        ("both", &error, &error, &["separator-error"]),
        (
            "measured, with more words beside it",
            &error,
            b"no memory",
            &["separator-error", "digest-not-of-data"],
        ),
        (
            "in the data alone",
            &[0; 4],
            &error,
            &["separator-error", "digest-not-of-data"],
        ),
        (
            "hidden behind a good one's data",
            &error,
            &[0; 4],
            &["separator-error", "digest-not-of-data"],
        ),
        (
            "of another digest",
            &[0xff; 4],
            &[0; 4],
            &["digest-not-of-data"],
        ),
    ];
    for (name, measured, data, want) in rows {
        let (mut found, mut want) = (of(measured, data), want.to_vec());
        found.sort_unstable();
        want.sort_unstable();
        assert_eq!(found, want, "{name}");
    }
}

#[test]
fn a_partition_table_is_the_one_that_was_measured() {
    let mut records = honest();
    records.push(record(5, EventType::EFI_GPT_EVENT, b"a table"));
    let log = super::agile(&records);
    let content = examine(&EventLog::parse(&log).unwrap(), SHA256, &[]);
    let wrong = |codes: &[&str]| codes.contains(&"digest-not-of-data");
    assert!(!wrong(&codes(&content.refusals)));
    records.last_mut().unwrap().data = b"another".to_vec();
    assert!(wrong(&refusals(&records)));
}
