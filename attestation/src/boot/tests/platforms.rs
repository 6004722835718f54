//! What other makers' firmware writes: every bank there is, starts by the processor, guests.

use super::super::{EventLog, EventType, Format, examine};
use super::{
    Record, SHA1, SHA256, SHA384, agile, codes, header, honest, policy, record, refusals,
    separator, variable, written,
};
use crate::crypto::{Digest, HashAlgorithm};

const SHA512: HashAlgorithm = HashAlgorithm::Sha512;
const SM3: HashAlgorithm = HashAlgorithm::Sm3_256;
const SHA3: HashAlgorithm = HashAlgorithm::Sha3_256;

/// A log of these banks.
fn of_banks(banks: &[HashAlgorithm], records: &[Record]) -> Vec<u8> {
    let mut log = header(0, banks);
    for record in records {
        let mut record = record.clone();
        record.banks = banks.to_vec();
        log.extend(written(&record));
    }
    log
}

#[test]
fn every_bank_is_replayed_and_the_strongest_common_one_chosen() {
    let rows: &[(&[HashAlgorithm], HashAlgorithm)] = &[
        (&[SHA1], SHA1),
        (&[SHA256], SHA256),
        (&[SHA384], SHA384),
        (&[SHA512], SHA512),
        (&[SM3], SM3),
        (&[SHA1, SHA256, SHA384, SM3], SHA384),
        (&[SHA1, SM3], SM3),
        // Of one length, what every tool has.
        (&[SHA256, SM3], SHA256),
        (&[SM3, SHA256], SHA256),
        (&[SHA256, SHA3], SHA256),
    ];
    for (banks, best) in rows {
        let bytes = of_banks(banks, &honest());
        let log = EventLog::parse(&bytes).unwrap();
        assert_eq!(log.format(), Format::CryptoAgile, "{banks:?}");
        assert_eq!(log.choose(None), Ok(*best), "{banks:?}");
        for bank in *banks {
            let replay = log.replay(*bank);
            assert!(replay.unknown.is_empty(), "{bank}");
            let zero = vec![0; bank.digest_len()];
            let digest = bank.digest(&[&[0; 4]]).unwrap();
            let want = bank.digest(&[&zero, digest.as_slice()]).unwrap();
            assert_eq!(replay.values[&2], want, "{bank}");
            let content = examine(&log, *bank, &[]);
            assert_eq!(content.secure_boot, Some(true), "{bank}");
        }
    }
}

fn pcr0(records: &[Record]) -> Digest {
    let bytes = agile(records);
    let log = EventLog::parse(&bytes).unwrap();
    log.replay(SHA256).values.remove(&0).unwrap()
}

#[test]
fn what_the_processor_measured_itself_starts_from_its_locality() {
    let start = |locality: u8| {
        let mut start = [0; 32];
        start[31] = locality;
        start
    };
    let extended = |start: &[u8], data: &[u8]| {
        let digest = SHA256.digest(&[data]).unwrap();
        SHA256.digest(&[start, digest.as_slice()]).unwrap()
    };
    let hcrtm = || record(0, EventType::EFI_HCRTM_EVENT, b"HCRTM");
    let said = |locality: u8| {
        let data = [&b"StartupLocality\0"[..], &[locality]].concat();
        record(0, EventType::NO_ACTION, &data)
    };
    assert_eq!(pcr0(&[hcrtm()]), extended(&start(4), b"HCRTM"));
    // What the log says goes before what follows from its events.
    assert_eq!(pcr0(&[said(3), hcrtm()]), extended(&start(3), b"HCRTM"));
    let later = extended(extended(&start(0), &[0; 4]).as_slice(), b"HCRTM");
    assert_eq!(pcr0(&[separator(0), hcrtm()]), later);
    let mut elsewhere = hcrtm();
    elsewhere.register = 1;
    let plain = extended(&start(0), &[0; 4]);
    assert_eq!(pcr0(&[elsewhere, separator(0)]), plain);
}

#[test]
fn an_error_is_told_by_what_was_measured() {
    let mut failed = separator(4);
    failed.measured = vec![1, 0, 0, 0];
    failed.data = b"0x1234: no boot device".to_vec();
    assert!(refusals(&[failed.clone()]).contains(&"separator-error"));
    failed.data = vec![0; 4];
    assert!(refusals(&[failed]).contains(&"separator-error"));
    assert_eq!(refusals(&[separator(4)]), [""; 0]);
}

#[test]
fn a_version_may_be_hashed_without_what_ends_it() {
    let rows: &[(&str, &[u8], &[u8], bool)] = &[
        ("whole", b"1\0.\0\0\0", b"1\0.\0\0\0", true),
        ("without its two zero bytes", b"1\0.\0", b"1\0.\0\0\0", true),
        ("without its one", b"1.0", b"1.0\0", true),
        ("without three", b"1\0.", b"1\0.\0\0\0", false),
        ("without its last letter", b"1.", b"1.0", false),
        ("nothing of nothing", b"", b"", true),
    ];
    for (name, measured, data, good) in rows {
        let mut version = record(0, EventType::S_CRTM_VERSION, data);
        version.measured = measured.to_vec();
        let refused = refusals(&[version, separator(0)]);
        assert_eq!(refused.is_empty(), *good, "{name}: {refused:?}");
    }
}

#[test]
fn a_guest_without_secure_boot_needs_no_separator() {
    let log = |records: &[Record], first: u32| {
        let mut log = header(first, &[SHA384]);
        for record in records {
            let mut record = record.clone();
            record.banks = vec![SHA384];
            log.extend(written(&record));
        }
        log
    };
    let shim = [
        record(1, EventType::EFI_HANDOFF_TABLES2, b"td_hob"),
        record(2, EventType::EFI_PLATFORM_FIRMWARE_BLOB2, b"payload"),
    ];
    for first in [0, 1] {
        let bytes = log(&shim, first);
        let log = EventLog::parse(&bytes).unwrap();
        assert_eq!(log.format(), Format::Ccel);
        let content = examine(&log, SHA384, &[]);
        assert_eq!((content.refusals, content.secure_boot), (vec![], None));
        assert_eq!(codes(&content.warnings), ["no-separator"; 2]);
    }
    let mut policy = policy("SecureBoot", &[1]);
    policy.register = 1;
    let bytes = log(&[policy], 0);
    let content = examine(&EventLog::parse(&bytes).unwrap(), SHA384, &[]);
    assert_eq!(codes(&content.refusals), ["no-separator"]);
    assert_eq!(content.secure_boot, None);
    // PCR 0 is firmware's, and no guest's register can be called so.
    let bytes = log(&[separator(0), separator(1)], 0);
    let tpm = EventLog::parse(&bytes).unwrap();
    assert_eq!(tpm.format(), Format::CryptoAgile);
}

#[test]
fn devices_are_policy_and_authority_too() {
    let data = variable("devdb", b"certificate");
    let (policy, authority) = (
        EventType::EFI_SPDM_DEVICE_POLICY,
        EventType::EFI_SPDM_DEVICE_AUTHORITY,
    );
    for kind in [policy, authority] {
        let mut log = honest();
        log.insert(5, record(7, kind, &data));
        assert_eq!(refusals(&log), [""; 0], "{kind}");
        let mut forged = log.clone();
        forged[5].measured = b"other".to_vec();
        assert_eq!(refusals(&forged), ["digest-not-of-data"], "{kind}");
    }
    let mut blob = honest();
    blob.insert(5, record(7, EventType::EFI_SPDM_FIRMWARE_BLOB, &data));
    assert_eq!(refusals(&blob), ["unexpected-event"]);
    blob[5].register = 2;
    assert_eq!(refusals(&blob), [""; 0]);
}

#[test]
fn kinds_have_the_names_of_their_specifications() {
    let rows: &[(u32, Option<&str>)] = &[
        (0, Some("EV_PREBOOT_CERT")),
        (0x13, Some("EV_POST_CODE2")),
        (0x14, None),
        (0x401, Some("EVTYPE_PCRMAPPING")),
        (0x41a, Some("EVTYPE_BOOT_POL_HASH")),
        (0x8000_000b, Some("EV_EFI_HANDOFF_TABLES2")),
        (0x8000_000d, Some("EV_EFI_GPT_EVENT2")),
        (0x8000_0010, Some("EV_EFI_HCRTM_EVENT")),
        (0x8000_00e0, Some("EV_EFI_VARIABLE_AUTHORITY")),
        (0x8000_00e4, Some("EV_EFI_SPDM_DEVICE_AUTHORITY")),
        (0x8000_00e5, None),
    ];
    for (number, name) in rows {
        assert_eq!(EventType(*number).name(), *name, "{number:#x}");
    }
    assert_eq!(EventType(0x14).to_string(), "event type 0x14");
}
