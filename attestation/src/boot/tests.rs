//! Logs made in the test, record by record, and every way of lying in one.

use super::{EventLog, EventType, Finding, Format, Quirk, compare, examine};
use crate::crypto::HashAlgorithm;
use crate::tpm::PcrValues;

mod facts;
mod platforms;
mod separators;
mod userspace;

const SHA1: HashAlgorithm = HashAlgorithm::Sha1;
const SHA256: HashAlgorithm = HashAlgorithm::Sha256;
const SHA384: HashAlgorithm = HashAlgorithm::Sha384;
const GLOBAL: [u8; 16] = super::UefiVariable::GLOBAL;

/// A record before it is written.
#[derive(Clone)]
struct Record {
    register: u32,
    kind: EventType,
    /// What its digests are of.
    measured: Vec<u8>,
    data: Vec<u8>,
    /// Banks it carries.
    banks: Vec<HashAlgorithm>,
}

fn record(register: u32, kind: EventType, data: &[u8]) -> Record {
    Record {
        register,
        kind,
        measured: data.to_vec(),
        data: data.to_vec(),
        banks: vec![SHA1, SHA256],
    }
}

fn separator(register: u32) -> Record {
    record(register, EventType::SEPARATOR, &[0; 4])
}

fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let count = u64::try_from(units.len() / 2).unwrap();
    let len = u64::try_from(value.len()).unwrap();
    [
        &GLOBAL,
        &count.to_le_bytes()[..],
        &len.to_le_bytes(),
        &units,
        value,
    ]
    .concat()
}

fn policy(name: &str, value: &[u8]) -> Record {
    let kind = EventType::EFI_VARIABLE_DRIVER_CONFIG;
    record(7, kind, &variable(name, value))
}

fn authority(name: &str) -> Record {
    let kind = EventType::EFI_VARIABLE_AUTHORITY;
    record(7, kind, &variable(name, b"certificate"))
}

/// What honest firmware writes.
fn honest() -> Vec<Record> {
    let mut records = vec![
        record(0, EventType::S_CRTM_VERSION, b"v\x001\0"),
        policy("SecureBoot", &[1]),
        policy("PK", b"platform"),
        policy("KEK", b"exchange"),
        policy("db", b"good"),
        policy("dbx", b""),
        separator(7),
        authority("db"),
    ];
    records.extend((0..7).map(separator));
    records.push(record(
        5,
        EventType::EFI_ACTION,
        b"Exit Boot Services Invocation",
    ));
    records
}

fn old(register: u32, kind: EventType, digest: [u8; 20], data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [
        &register.to_le_bytes()[..],
        &kind.0.to_le_bytes(),
        &digest,
        &len.to_le_bytes(),
        data,
    ]
    .concat()
}

fn header(register: u32, banks: &[HashAlgorithm]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\x00\x02".to_vec();
    data.extend(u32::try_from(banks.len()).unwrap().to_le_bytes());
    for bank in banks {
        data.extend(bank.tpm_id().to_le_bytes());
        data.extend(u16::try_from(bank.digest_len()).unwrap().to_le_bytes());
    }
    data.push(0);
    old(register, EventType::NO_ACTION, [0; 20], &data)
}

/// A header that declares banks of algorithms nobody knows.
fn unknown_banks(count: u16) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\x00\x02".to_vec();
    data.extend(u32::from(count).to_le_bytes());
    for id in 0..count {
        data.extend((0x7000 + id).to_le_bytes());
        data.extend(64_u16.to_le_bytes());
    }
    data.push(0);
    old(0, EventType::NO_ACTION, [0; 20], &data)
}

fn agile(records: &[Record]) -> Vec<u8> {
    let mut log = header(0, &[SHA1, SHA256]);
    log.extend(records.iter().flat_map(written));
    log
}

fn written(record: &Record) -> Vec<u8> {
    let mut out = record.register.to_le_bytes().to_vec();
    out.extend(record.kind.0.to_le_bytes());
    out.extend(u32::try_from(record.banks.len()).unwrap().to_le_bytes());
    for bank in &record.banks {
        out.extend(bank.tpm_id().to_le_bytes());
        match record.kind {
            EventType::NO_ACTION => out.extend(vec![0; bank.digest_len()]),
            _ => out.extend(bank.digest(&[&record.measured]).unwrap().as_slice()),
        }
    }
    out.extend(u32::try_from(record.data.len()).unwrap().to_le_bytes());
    out.extend(&record.data);
    out
}

fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.code).collect()
}

fn refusals(records: &[Record]) -> Vec<&'static str> {
    let log = agile(records);
    let log = EventLog::parse(&log).unwrap();
    codes(&examine(&log, SHA256, &[]).refusals)
}

#[test]
fn an_honest_log_is_believed() {
    let bytes = agile(&honest());
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!(log.format(), Format::CryptoAgile);
    assert_eq!(log.events().len(), honest().len() + 1);
    assert_eq!(log.choose(None), Ok(SHA256));
    let content = examine(&log, SHA256, &[]);
    assert_eq!(content.refusals, []);
    assert_eq!(content.warnings, []);
    assert_eq!(content.secure_boot, Some(true));
    let content = examine(&log, SHA1, &[]);
    assert_eq!(codes(&content.warnings), ["sha1-bank"]);
}

#[test]
fn what_data_says_is_believed_if_it_was_measured() {
    type Edit = fn(&mut Vec<Record>);
    let forged: fn(&mut Vec<Record>) = |log| {
        log.extend([policy("SecureBoot", &[1]), separator(7)]);
    };
    let rows: &[(&str, Edit, &[&str])] = &[
        (
            "Secure Boot switched on in the data",
            |log| log[1].measured = variable("SecureBoot", &[0]),
            &["digest-not-of-data"],
        ),
        (
            "the policy retyped, and another behind it",
            |log| {
                log[1].kind = EventType::UNUSED;
                log.insert(6, policy("SecureBoot", &[1]));
            },
            &["unexpected-event"],
        ),
        (
            "the policy retyped to an action",
            |log| log[1].kind = EventType::EFI_ACTION,
            &["unexpected-event"],
        ),
        (
            "the policy retyped to an authority",
            |log| log[1].kind = EventType::EFI_VARIABLE_AUTHORITY,
            &["unexpected-event"],
        ),
        (
            "a kind nobody knows",
            |log| log[1].kind = EventType(0x8000_00ff),
            &["unexpected-event"],
        ),
        (
            "an authority before the separator, of other data",
            |log| {
                let mut early = authority("db");
                early.measured = b"other".to_vec();
                log.insert(5, early);
            },
            &["digest-not-of-data"],
        ),
        (
            "an authority before the separator that is no variable",
            |log| log.insert(5, record(7, EventType::EFI_VARIABLE_AUTHORITY, &[0; 4])),
            &["digest-not-of-data"],
        ),
        (
            "the policy measured twice",
            |log| log.insert(5, policy("SecureBoot", &[1])),
            &["policy-twice"],
        ),
        (
            "a second policy and separator",
            forged,
            &["duplicate-separator"],
        ),
        ("no separator", |log| drop(log.remove(6)), &["no-separator"]),
        (
            "a separator retyped",
            |log| log[6].kind = EventType::EFI_ACTION,
            &["no-separator", "unexpected-event"],
        ),
        (
            "a separator of other bytes",
            |log| log[6] = record(7, EventType::SEPARATOR, &[0, 0, 0, 2]),
            &["separator-data"],
        ),
        (
            "a separator that tells an error",
            |log| log[6] = record(7, EventType::SEPARATOR, &[1, 0, 0, 0]),
            &["separator-error"],
        ),
        (
            "an action of other words",
            |log| log.last_mut().unwrap().data = b"Exit Boot Services".to_vec(),
            &["digest-not-of-data"],
        ),
        (
            "a firmware version of other words",
            |log| log[0].data = b"v\x002\0".to_vec(),
            &["digest-not-of-data"],
        ),
        (
            "what only a guest's register holds beside the policy",
            |log| log.insert(6, record(7, EventType::IPL, b"grub")),
            &["unexpected-event"],
        ),
        (
            "a policy variable that is none",
            |log| log[2] = record(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, b"short"),
            &["malformed"],
        ),
        (
            "another's variable of that name",
            |log| {
                let mut data = variable("SecureBoot", &[1]);
                data[0] ^= 1;
                log[1] = record(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, &data);
            },
            &["unexpected-event"],
        ),
    ];
    for (name, edit, want) in rows {
        let mut log = honest();
        edit(&mut log);
        assert_eq!(refusals(&log), *want, "{name}");
        let bytes = agile(&log);
        let content = examine(&EventLog::parse(&bytes).unwrap(), SHA256, &[]);
        let told = content.secure_boot.is_some();
        assert!(!told || *want == ["duplicate-separator"], "{name}");
    }
}

#[test]
fn honest_oddities_are_no_lies() {
    type Edit = fn(&mut Vec<Record>);
    let rows: &[(&str, Edit, &[&str], Option<bool>)] = &[
        (
            "off",
            |log| log[1] = policy("SecureBoot", &[0]),
            &[],
            Some(false),
        ),
        (
            "without data",
            |log| log[1] = policy("SecureBoot", &[]),
            &[],
            None,
        ),
        ("not measured", |log| drop(log.remove(1)), &[], None),
        (
            "a loader's authority of other data",
            |log| log[7].measured = b"the entry alone".to_vec(),
            &[],
            Some(true),
        ),
        (
            "an action with its NUL",
            |log| log.last_mut().unwrap().data.push(0),
            &[],
            Some(true),
        ),
        (
            "an action in the policy's register",
            |log| {
                log.insert(
                    6,
                    record(7, EventType::EFI_ACTION, b"DMA Protection Disabled"),
                )
            },
            &[],
            Some(true),
        ),
        (
            "a boot variable by its value",
            |log| {
                let mut boot = record(1, EventType::EFI_VARIABLE_BOOT, &variable("Boot0", b"x"));
                boot.measured = b"x".to_vec();
                log.push(boot);
            },
            &[],
            Some(true),
        ),
        (
            "a driver's variable by its value",
            |log| {
                let kind = EventType::EFI_VARIABLE_DRIVER_CONFIG;
                let mut config = record(1, kind, &variable("Setup", b"x"));
                config.measured = b"x".to_vec();
                log.push(config);
            },
            &[],
            Some(true),
        ),
        (
            "a boot variable by neither",
            |log| {
                let mut boot = record(1, EventType::EFI_VARIABLE_BOOT, &variable("Boot0", b"x"));
                boot.measured = b"y".to_vec();
                log.push(boot);
            },
            &["variable-digest"],
            Some(true),
        ),
        (
            "no separator where nothing hangs on it",
            |log| log.retain(|record| record.register != 4 && record.register != 0),
            &[],
            Some(true),
        ),
        (
            "firmware without its separator",
            |log| drop(log.remove(8)),
            &["no-separator"],
            Some(true),
        ),
        (
            "the same policy again, after the separator",
            |log| log.push(policy("SecureBoot", &[1])),
            &["policy-changed"],
            Some(true),
        ),
        (
            "another policy, after the separator",
            |log| log.push(policy("SecureBoot", &[0])),
            &["policy-changed"],
            None,
        ),
    ];
    for (name, edit, warnings, secure_boot) in rows {
        let mut records = honest();
        edit(&mut records);
        let bytes = agile(&records);
        let content = examine(&EventLog::parse(&bytes).unwrap(), SHA256, &[]);
        assert_eq!(content.refusals, [], "{name}");
        assert_eq!(codes(&content.warnings), *warnings, "{name}");
        assert_eq!(content.secure_boot, *secure_boot, "{name}");
    }
}

#[test]
fn registers_hold_what_the_events_say_and_nothing_is_skipped() {
    let bytes = agile(&[record(0, EventType::POST_CODE, b"a"), separator(0)]);
    let log = EventLog::parse(&bytes).unwrap();
    let [a, b] = [&b"a"[..], &[0; 4]].map(|data| SHA256.digest(&[data]).unwrap());
    let first = SHA256.digest(&[&[0; 32], a.as_slice()]).unwrap();
    let second = SHA256.digest(&[first.as_slice(), b.as_slice()]).unwrap();
    assert_eq!(log.replay(SHA256).values.get(&0), Some(&second));

    let mut records = honest();
    records[0].banks = vec![SHA1];
    let bytes = agile(&records);
    let log = EventLog::parse(&bytes).unwrap();
    let replay = log.replay(SHA256);
    assert!(replay.unknown.contains(&0) && !replay.values.contains_key(&0));
    assert_eq!(log.choose(None), Ok(SHA1));
    assert_eq!(
        log.choose(Some(SHA256)).unwrap_err().code(),
        "bank-incomplete"
    );
    assert_eq!(log.choose(Some(SHA384)).unwrap_err().code(), "bank-absent");
    records[1].banks = vec![SHA256];
    let bytes = agile(&records);
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!(log.choose(None).unwrap_err().code(), "no-complete-bank");
}

#[test]
fn the_first_register_starts_where_the_tpm_was_started() {
    let said = |locality: u8| {
        let data = [&b"StartupLocality\0"[..], &[locality]].concat();
        record(0, EventType::NO_ACTION, &data)
    };
    let value = |records: &[Record]| {
        let bytes = agile(records);
        let log = EventLog::parse(&bytes).unwrap();
        let value = log.replay(SHA256).values.remove(&0).unwrap();
        (value, codes(&examine(&log, SHA256, &[]).refusals))
    };
    let plain = value(&[separator(0)]);
    let three = value(&[said(3), separator(0)]);
    let late = value(&[separator(0), said(3)]);
    let twice = value(&[said(3), said(4), separator(0)]);
    let mut start = [0; 32];
    start[31] = 3;
    let digest = SHA256.digest(&[&[0; 4]]).unwrap();
    assert_eq!(
        three.0,
        SHA256.digest(&[&start, digest.as_slice()]).unwrap()
    );
    assert_eq!(three.1, [""; 0]);
    assert_eq!((late.0, late.1), (plain.0, vec!["startup-locality-late"]));
    assert_eq!((twice.0, twice.1), (three.0, vec!["startup-locality-late"]));
    assert_eq!(value(&[said(2), separator(0)]).1, ["startup-locality"]);

    // No other register does.
    let bytes = agile(&[said(3), separator(4)]);
    let log = EventLog::parse(&bytes).unwrap();
    let zero = SHA256.digest(&[&[0; 32], digest.as_slice()]);
    assert_eq!(log.replay(SHA256).values.remove(&4), zero);
}

#[test]
fn a_log_is_held_against_every_bank_and_register_given() {
    let none = super::UserspaceLog::default();
    let bytes = agile(&honest());
    let log = EventLog::parse(&bytes).unwrap();
    let mut values = PcrValues::new();
    for bank in [SHA1, SHA256] {
        for (register, value) in log.replay(bank).values {
            values.insert(bank, register, value.as_slice()).unwrap();
        }
    }
    values.insert(SHA256, 23, &[0; 32]).unwrap();
    let compared = compare(&log, &none, &values);
    assert!(compared.mismatched.is_empty());
    assert_eq!(compared.compared, 16);

    let mut other = PcrValues::new();
    other.insert(SHA1, 4, &[9; 20]).unwrap();
    other.insert(SHA256, 5, &[9; 32]).unwrap();
    // The log has no such bank: nobody can say that it matches.
    other.insert(SHA384, 7, &[9; 48]).unwrap();
    let compared = compare(&log, &none, &other);
    assert_eq!(
        compared.mismatched.into_iter().collect::<Vec<_>>(),
        [4, 5, 7]
    );
}

#[test]
fn malformed_logs_say_where() {
    let good = agile(&honest());
    let after = header(0, &[SHA1, SHA256]).len();
    let rows: &[(&str, Vec<u8>, &str)] = &[
        ("nothing", vec![], "the log is empty"),
        (
            "one byte short",
            good[..good.len() - 1].to_vec(),
            "TCG_PCR_EVENT2.event at offset",
        ),
        (
            "bytes after the last record",
            [&good[..], b"junk"].concat(),
            "TCG_PCR_EVENT2.eventType at offset",
        ),
        (
            "a register there is not",
            agile(&[separator(24)]),
            "TCG_PCR_EVENT2.pcrIndex at offset 69",
        ),
        (
            "more digests than banks",
            [&good[..after], &[0; 4], &[4, 0, 0, 0], &[3, 0, 0, 0]].concat(),
            "TCG_PCR_EVENT2.digests.count at offset 77: 3 exceeds the limit of 2",
        ),
        (
            "a digest of a bank not declared",
            [
                &good[..after],
                &[0; 4],
                &[4, 0, 0, 0],
                &[1, 0, 0, 0],
                &[12, 0],
            ]
            .concat(),
            "TCG_PCR_EVENT2.digests.hashAlg at offset 81: 0xc is not a value",
        ),
        (
            "two digests of one bank",
            agile(&[Record {
                banks: vec![SHA1, SHA1],
                ..separator(0)
            }]),
            "two digests of one bank",
        ),
        (
            "4 GiB - 1 of data",
            [
                &good[..after],
                &[0; 4],
                &[4, 0, 0, 0],
                &[0; 4],
                &[0xff; 4],
                &[7],
            ]
            .concat(),
            "TCG_PCR_EVENT2.event at offset 85: needs 4294967295 bytes, 1 left",
        ),
        (
            "no bank",
            header(0, &[]),
            "numberOfAlgorithms at offset 24: no bank",
        ),
        (
            "a bank twice",
            header(0, &[SHA1, SHA1]),
            "digestSizes.algorithmId at offset 32: a bank declared twice",
        ),
        (
            "a bank of another size",
            {
                let mut bytes = header(0, &[SHA1, SHA256]);
                bytes[32 + 34] = 31;
                bytes
            },
            "digestSizes.digestSize at offset 34: 0x1f",
        ),
        (
            "a bank more than are read",
            unknown_banks(17),
            "numberOfAlgorithms at offset 24: 17 exceeds the limit of 16",
        ),
        (
            "an event of a guest's log in a register only a TPM has",
            {
                let mut bytes = header(1, &[SHA384]);
                let mut first = separator(1);
                let mut beyond = record(5, EventType::NO_ACTION, b"x");
                for record in [&mut first, &mut beyond] {
                    record.banks = vec![SHA384];
                    bytes.extend(written(record));
                }
                bytes
            },
            "TCG_PCR_EVENT2.pcrIndex at offset",
        ),
    ];
    assert!(EventLog::parse(&unknown_banks(16)).is_ok());
    for (name, bytes, want) in rows {
        let error = EventLog::parse(bytes).unwrap_err();
        let source = std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        assert!(source.contains(want), "{name}: {source}");
    }
    for len in after..good.len() {
        let cut = &good[..len];
        let whole = EventLog::parse(cut).is_ok_and(|log| {
            let last = log.events().last().unwrap();
            // Cut between two records, or inside the zeroes that the next one begins with.
            len - last.offset < 200
        });
        assert!(whole || EventLog::parse(cut).is_err(), "{len}");
    }
}

#[test]
fn a_table_is_filled_up_with_one_byte() {
    let good = agile(&honest());
    let read = EventLog::parse(&good).unwrap();
    for filler in [0x00, 0xff] {
        let padded = [&good[..], &[filler; 100]].concat();
        let log = EventLog::parse(&padded).unwrap();
        assert_eq!(log.events().len(), read.events().len());
    }
    let mixed = [&good[..], &[0xff; 8], &[0x00; 8]].concat();
    assert!(EventLog::parse(&mixed).is_err());
}

#[test]
fn what_is_never_extended_may_be_odd() {
    let mut none = record(u32::MAX, EventType::NO_ACTION, b"tail");
    none.banks.clear();
    let mut log = agile(&honest());
    log.extend(written(&none));
    let mut digest = written(&record(0, EventType::NO_ACTION, b"x"));
    digest[14] = 1;
    log.extend(digest);
    let log = EventLog::parse(&log).unwrap();
    let content = examine(&log, SHA256, &[]);
    assert_eq!(content.refusals, []);
    let want = ["no-action-register", "no-action-digest"];
    assert_eq!(codes(&content.warnings), want);
}

#[test]
fn logs_of_one_digest_are_sha1_whatever_the_tpm() {
    let digest: [u8; 20] = SHA1
        .digest(&[&[0; 4]])
        .unwrap()
        .as_slice()
        .try_into()
        .unwrap();
    let bytes = old(4, EventType::SEPARATOR, digest, &[0; 4]);
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!(log.format(), Format::Sha1);
    assert_eq!(log.choose(None), Ok(SHA1));
    assert_eq!(log.choose(Some(SHA256)).unwrap_err().code(), "bank-absent");
    assert_eq!(log.replay(SHA1).values.len(), 1);
}

#[test]
fn a_guests_log_has_four_registers_and_its_own_defect() {
    let records = |extra: &[Record]| {
        let mut log = header(1, &[SHA384]);
        let mut all = vec![record(
            1,
            EventType::EFI_VARIABLE_DRIVER_CONFIG,
            &variable("SecureBoot", &[1]),
        )];
        all.extend([separator(1), record(3, EventType::IPL, b"grub")]);
        all.extend_from_slice(extra);
        for mut record in all {
            record.banks = vec![SHA384];
            log.extend(written(&record));
        }
        log
    };
    let bytes = records(&[]);
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!(log.format(), Format::Ccel);
    let content = examine(&log, SHA384, &[]);
    assert_eq!(
        (content.refusals, content.secure_boot),
        (vec![], Some(true))
    );

    let bytes = records(&[separator(1)]);
    let log = EventLog::parse(&bytes).unwrap();
    let content = examine(&log, SHA384, &[]);
    assert_eq!(codes(&content.refusals), ["duplicate-separator"]);
    assert!(
        content.refusals[0]
            .detail
            .contains("ovmf-duplicate-separator")
    );
    let content = examine(&log, SHA384, &[Quirk::OvmfDuplicateSeparator]);
    assert_eq!(codes(&content.refusals), [""; 0]);
    assert_eq!(codes(&content.warnings), ["duplicate-separator"]);

    // What a TPM has in PCR 1 stands beside the policy here; nothing else does.
    for (kind, want) in [
        (EventType::EFI_HANDOFF_TABLES2, &[][..]),
        (EventType::POST_CODE, &["unexpected-event"]),
    ] {
        let bytes = records(&[record(1, kind, b"tables")]);
        let log = EventLog::parse(&bytes).unwrap();
        assert_eq!(codes(&examine(&log, SHA384, &[]).refusals), want, "{kind}");
    }

    // A register that only a TPM has makes it a TPM's log.
    let bytes = records(&[separator(7)]);
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!(log.format(), Format::CryptoAgile);
}
