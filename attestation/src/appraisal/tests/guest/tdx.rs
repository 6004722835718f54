//! A TDX guest without a TPM: its quote signs the statement, and its own registers stand behind the log
//! of its boot.

use super::super::booted::{Event, measured_of, variable};
use super::*;
use crate::{
    boot::EventType,
    crypto::{Digest, HashAlgorithm},
    cvm::tdx::{
        Collateral,
        tests::made::{AT, Plan, made as tdx_made},
    },
    profile::{Provenance, Value},
};

const SHA384: HashAlgorithm = HashAlgorithm::Sha384;
/// Where the body of a quote has what the test chooses.
const RTMRS: usize = 328;
const REPORT_DATA: usize = 520;
const TD_ID: usize = 649;
/// An image as it is hashed, which is no line of text.
const SHIM: &[u8] = b"MZ\x90\0shim";
/// A table of partitions.
const DISK: &[u8] = b"EFI PART\0\0\x01\0";
const PATH: &[u8] = b"\x04\x04path";

/// A guest's boot: what firmware, shim, GRUB and the kernel's stub measure.
fn booted(secure: u8) -> Vec<Event> {
    let policy = EventType::EFI_VARIABLE_DRIVER_CONFIG;
    let image = EventType::EFI_BOOT_SERVICES_APPLICATION;
    let in_first = |mut event: Event| {
        event.0 = 1;
        event
    };
    let text = |text: &str| {
        let data = format!("grub_cmd: {text}\0");
        measured_of(3, EventType::IPL, text.as_bytes(), data.as_bytes())
    };
    let mut events = vec![
        measured_of(1, EventType::EFI_HANDOFF_TABLES2, b"hob", b"\x09TdxTable\0"),
        in_first(variable(policy, "SecureBoot", &[secure])),
        in_first(variable(policy, "PK", b"platform")),
        in_first(variable(policy, "KEK", b"exchange")),
        in_first(variable(policy, "db", b"good")),
        in_first(variable(policy, "dbx", b"bad")),
        measured_of(1, EventType::SEPARATOR, &[0; 4], &[0; 4]),
        measured_of(1, EventType::PLATFORM_CONFIG_FLAGS, b"acpi", b"ACPI DATA"),
    ];
    events.extend([
        measured_of(2, EventType::SEPARATOR, &[0; 4], &[0; 4]),
        measured_of(2, EventType::EFI_GPT_EVENT, DISK, DISK),
        measured_of(2, image, SHIM, PATH),
        measured_of(2, image, b"kernel", PATH),
        text("linux /vmlinuz ro"),
        text("/vmlinuz ro"),
        measured_of(3, EventType::IPL, b"vmlinuz", b"/vmlinuz\0"),
    ]);
    events
}

fn ccel(events: &[Event]) -> Vec<u8> {
    let header = [&b"Spec ID Event03\0\0\0\0\0\0\x02\x00\x02\x01\0\0\0\x0c\0\x30\0\0"[..]].concat();
    let mut log = 1_u32.to_le_bytes().to_vec();
    log.extend(EventType::NO_ACTION.0.to_le_bytes());
    log.extend([0; 20]);
    log.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    log.extend(header);
    for (register, kind, measured, data) in events {
        log.extend(register.to_le_bytes());
        log.extend(kind.0.to_le_bytes());
        log.extend(1_u32.to_le_bytes());
        log.extend(SHA384.tpm_id().to_le_bytes());
        log.extend(SHA384.digest(&[measured]).unwrap().as_slice());
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(data);
    }
    // As the table is padded.
    log.extend([0xff; 64]);
    log
}

fn registers(events: &[Event]) -> [Digest; 4] {
    let zero = Digest::from_slice(&[0; 48]).unwrap();
    let mut all = [zero.clone(), zero.clone(), zero.clone(), zero];
    for (register, _, measured, _) in events {
        let digest = SHA384.digest(&[measured]).unwrap();
        let held = &mut all[usize::try_from(register - 1).unwrap()];
        *held = SHA384
            .digest(&[held.as_slice(), digest.as_slice()])
            .unwrap();
    }
    all
}

/// Such a guest, each part of which a row may spoil.
struct Td {
    case: Case,
    /// What its registers hold.
    held: [Digest; 4],
    /// What its log says they were extended with.
    events: Vec<Event>,
    td_attributes: [u8; 8],
    /// Its maker's root is known to be one.
    hardware: bool,
    /// Of the quote's body, and what it has for `TD_ID`; of the enrolment, too.
    kind: u16,
    td_id: [u8; 32],
    instance: Option<[u8; 32]>,
}

impl Td {
    fn new(events: Vec<Event>) -> Self {
        let mut case = Case::ordinary();
        case.profile = format!("{PROFILE}[cvm]\nrevocation = false\n[boot]\n");
        case.statement = statement(0, None);
        case.statement.wall_time_ms = AT.0;
        case.statement.guest_key = KEY.0.to_vec();
        case.previous = None;
        case.now = AT;
        case.ak_word = AkWord::Processor;
        case.ek = crate::evidence::guest_id(&NodeId::new("gpu-01").unwrap());
        Self {
            case,
            held: registers(&events),
            events,
            td_attributes: [0; 8],
            hardware: true,
            kind: 3,
            td_id: [0; 32],
            instance: None,
        }
    }

    fn require(mut self, claim: &str, rest: &str) -> Self {
        let rest = format!("{rest}\nprovenance = \"measured\"");
        self.case.require(claim, &rest);
        self
    }

    fn appraise(&mut self) -> AttestationResult {
        let log = ccel(&self.events);
        self.appraise_with(log)
    }

    fn appraise_with(&mut self, log: Vec<u8>) -> AttestationResult {
        self.case.logs = vec![v1::Log {
            name: "boot".to_owned(),
            content: log,
            ..v1::Log::default()
        }];
        let statement = encode(&self.case.statement);
        let binding = Binding::new(&self.case.freshness, &statement);
        let mut over = vec![(REPORT_DATA, TeeReportSigner::carrier(&binding).to_vec())];
        let held = self.held.iter().map(|held| held.as_slice().to_vec());
        over.extend((RTMRS..).step_by(48).zip(held));
        if self.kind == 4 {
            over.push((TD_ID, self.td_id.to_vec()));
        }
        let made = tdx_made(&Plan {
            kind: self.kind,
            td_attributes: self.td_attributes,
            body_over: over,
            ..Plan::v5()
        });
        let root = if self.hardware {
            made.root.as_str()
        } else {
            ""
        };
        let mut processors = crate::cvm::Endorsements::default().where_hardware_is(&[], root);
        let collateral = made.collateral.publish().to_string();
        let collateral = Collateral::parse(collateral.as_bytes()).unwrap();
        assert!(processors.add_collateral(FILE, collateral));
        self.case.endorsements.processors = processors;
        let mut evidence = self.case.tpm.evidence(&statement, &self.case.freshness);
        evidence.pcrs.clear();
        evidence.logs.clone_from(&self.case.logs);
        evidence.signer = Some(v1::evidence::Signer::TeeReport(v1::TeeReport {
            kind: "tdx".to_owned(),
            report: made.quote,
        }));
        let enrolled = GuestSigner {
            key: KEY,
            instance: self.instance,
        };
        let verified =
            VerifiedEvidence::verify(&evidence, &enrolled, &self.case.freshness).unwrap();
        let listed = GuestIdentity {
            chips: vec![format!("TDX-{}", "09".repeat(16))],
            launch: Launch {
                measurement: Some("22".repeat(48)),
                ..Launch::default()
            },
        };
        self.case
            .appraise_of(&verified, (&enrolled).into(), Some(&listed))
    }
}

fn claim(result: &AttestationResult, name: &str) -> Option<(Value, Provenance)> {
    let all = result.submods.values().flat_map(|submod| &submod.claims);
    let mut named = all.filter(|(own, _)| *own == name);
    named
        .next()
        .map(|(_, claim)| (claim.value.clone(), claim.provenance))
}

fn images() -> String {
    let all = [SHIM, b"kernel"].map(|image| SHA384.digest(&[image]).unwrap().to_string());
    all.join(",")
}

#[test]
fn what_a_td_booted_is_measured_by_its_own_registers() {
    let mut td = Td::new(booted(1))
        .require("boot.secure_boot", "is = true")
        .require("boot.applications", &format!("is = \"{}\"", images()));
    let result = td.appraise();
    assert_eq!(codes(&result), [""; 0]);
    assert_eq!(result.status, Status::Affirming);
    let measured = |value| Some((value, Provenance::Measured));
    assert_eq!(
        claim(&result, "boot.secure_boot"),
        measured(Value::Flag(true))
    );
    assert_eq!(
        claim(&result, "boot.applications"),
        measured(Value::Text(images()))
    );
    let key = SHA256.digest(&[b"bad"]).unwrap().to_string();
    assert_eq!(claim(&result, "boot.dbx"), measured(Value::Text(key)));
    // In which order a boot loader measured what, shows; what of it is what, the log says.
    let line = Value::Text("/vmlinuz ro".to_owned());
    let said = Some((line, Provenance::SelfReported));
    assert_eq!(claim(&result, "boot.command_line"), said);
    for name in ["boot.files", "boot.grub_commands", "boot.firmware_blobs"] {
        let by = claim(&result, name).map(|(_, by)| by);
        assert_eq!(by, Some(Provenance::SelfReported), "{name}");
    }
    // What user space extends is in no log.
    td.held[3] = SHA384.digest(&[b"later"]).unwrap();
    assert_eq!(codes(&td.appraise()), [""; 0]);
}

const SHA256: HashAlgorithm = HashAlgorithm::Sha256;

#[test]
fn each_way_to_tell_of_another_boot_is_refused_or_no_measurement() {
    type Spoil = fn(&mut Td);
    let rows: &[(&str, Spoil, &[&str])] = &[
        (
            "firmware was told otherwise",
            |td| td.events[1] = booted(0).remove(1),
            &["boot-log-replay", "claim-missing"],
        ),
        (
            "Secure Boot was off",
            |td| {
                td.events = booted(0);
                td.held = registers(&td.events);
            },
            &["claim-value"],
        ),
        (
            "an image is left out",
            |td| drop(td.events.remove(11)),
            &["boot-log-replay"],
        ),
        (
            "what GRUB ran is left out",
            |td| drop(td.events.remove(12)),
            &["boot-log-replay"],
        ),
        (
            "the policy is hidden, and another was a boot option's value",
            |td| {
                let policy = booted(1).remove(1);
                td.events = booted(0);
                td.events.push((
                    1,
                    EventType::EFI_VARIABLE_BOOT,
                    policy.2,
                    b"option".to_vec(),
                ));
                td.held = registers(&td.events);
                td.events[1].1 = EventType::PLATFORM_CONFIG_FLAGS;
                let last = td.events.last_mut().unwrap();
                last.1 = EventType::EFI_VARIABLE_DRIVER_CONFIG;
                last.3 = last.2.clone();
            },
            &["claim-missing"],
        ),
        (
            "and the separator, too, with another after it",
            |td| {
                let policy = booted(1).remove(1);
                td.events = booted(0);
                for value in [policy.2.as_slice(), &[0; 4]] {
                    let value = value.to_vec();
                    td.events
                        .push((1, EventType::EFI_VARIABLE_BOOT, value, b"option".to_vec()));
                }
                td.held = registers(&td.events);
                for hidden in [1, 6] {
                    td.events[hidden].1 = EventType::PLATFORM_CONFIG_FLAGS;
                }
                let last = td.events.len() - 1;
                td.events[last - 1].1 = EventType::EFI_VARIABLE_DRIVER_CONFIG;
                td.events[last].1 = EventType::SEPARATOR;
                for index in [last - 1, last] {
                    td.events[index].3 = td.events[index].2.clone();
                }
            },
            &["claim-missing"],
        ),
        (
            "its host measured a policy before the firmware's",
            |td| {
                let policy = booted(1).remove(1);
                td.events = booted(0);
                td.events.insert(0, policy);
                td.held = registers(&td.events);
                td.events[2].1 = EventType::PLATFORM_CONFIG_FLAGS;
            },
            &["claim-missing"],
        ),
        (
            "a key that nobody knows signed the quote",
            |td| td.hardware = false,
            &["cvm-root", "claim-provenance"],
        ),
        (
            "its host may read it",
            |td| td.td_attributes[0] = 1,
            &["cvm-debug"],
        ),
    ];
    for (name, spoil, want) in rows {
        let mut td = Td::new(booted(1)).require("boot.secure_boot", "is = true");
        spoil(&mut td);
        let result = td.appraise();
        let mut found = codes(&result);
        found.sort_unstable();
        let mut want = want.to_vec();
        want.sort_unstable();
        assert_eq!(found, want, "{name}");
        assert_eq!(result.status, Status::Contraindicated, "{name}");
    }
}

/// Images that are said to be something else are told all the same.
#[test]
fn no_image_of_a_td_is_hidden() {
    for kind in [
        EventType::EFI_GPT_EVENT,
        EventType::EVENT_TAG,
        EventType::EFI_ACTION,
    ] {
        let mut td = Td::new(booted(1)).require("boot.applications", "is = \"x\"");
        td.events[10].1 = kind;
        let result = td.appraise();
        // A table of partitions and words of firmware have to be what was measured.
        match claim(&result, "boot.applications") {
            Some((found, by)) => {
                assert_eq!((found, by), (Value::Text(images()), Provenance::Measured));
            }
            None => assert!(codes(&result).contains(&"digest-not-of-data"), "{kind}"),
        }
    }
    // The image itself for its data: it is hashed as what is measured of it.
    let mut td = Td::new(booted(1)).require("boot.applications", &format!("is = \"{}\"", images()));
    td.events[10].1 = EventType::EFI_GPT_EVENT;
    td.events[10].3 = SHIM.to_vec();
    assert_eq!(codes(&td.appraise()), [""; 0]);
}

/// A register is the log's to explain from its own zeroes on, and what is not the firmware's alone only
/// where the log has something of it.
#[test]
fn a_register_of_a_td_that_the_log_does_not_explain_is_named() {
    for (index, want) in [(0, true), (1, true), (2, true), (3, false)] {
        let mut td = Td::new(booted(1));
        td.held[index] = SHA384.digest(&[b"other"]).unwrap();
        let result = td.appraise();
        let named: Vec<&str> = result.deviations().map(|one| one.claim.as_str()).collect();
        let named_so = format!("boot.log.rtmr.{index}");
        assert_eq!(
            named,
            if want {
                vec![named_so.as_str()]
            } else {
                vec![]
            }
        );
        // Nothing of that register is a claim, and all of the others is.
        for (own, name) in [
            (0, "secure_boot"),
            (0, "firmware_blobs"),
            (1, "applications"),
            (2, "files"),
        ] {
            let there = claim(&result, &format!("boot.{name}")).is_some();
            assert_eq!(there, own != index, "{index}: {name}");
        }
    }
    let without = |register: u32| {
        let events = booted(1).into_iter().filter(|event| event.0 != register);
        Td::new(events.collect())
    };
    for register in [1, 2, 3] {
        assert_eq!(codes(&without(register).appraise()), [""; 0], "{register}");
        let mut td = without(register);
        let index = usize::try_from(register - 1).unwrap();
        td.held[index] = SHA384.digest(&[b"other"]).unwrap();
        let want: &[&str] = if register == 3 {
            &[]
        } else {
            &["boot-log-replay"]
        };
        assert_eq!(codes(&td.appraise()), want, "{register}");
    }
}

/// Registers of a TPM stand behind no guest's log, nor a guest's behind a TPM's.
#[test]
fn a_log_is_held_against_its_own_kind_of_registers() {
    let mut td = Td::new(booted(1));
    let tpms = super::super::booted::log(&super::super::booted::booted());
    assert_eq!(codes(&td.appraise_with(tpms)), ["registers-unsigned"]);
    let mut snp = Guest::with("");
    snp.case.profile.push_str("[boot]\n");
    let content = ccel(&booted(1));
    let log = |content: &[u8]| v1::Log {
        name: "boot".to_owned(),
        content: content.to_vec(),
        ..v1::Log::default()
    };
    snp.case.logs = vec![log(&content)];
    let result = snp.appraise();
    assert_eq!(codes(&result), ["registers-unsigned"]);
    let said = Some((Value::Flag(true), Provenance::SelfReported));
    assert_eq!(claim(&result, "boot.secure_boot"), said);
    let mut node = super::super::booted::Booted::new();
    node.result();
    node.case.logs[0] = log(&content);
    assert_eq!(codes(&node.case.appraise()), ["boot-log-of-guest"]);
}

#[test]
fn what_was_taken_back_is_found_in_a_tds_log() {
    // Of a separator no claim is made.
    for (what, claim, by) in [
        (&b"vmlinuz"[..], "boot.files", Provenance::SelfReported),
        (&[0; 4], "boot.log.rtmr.0", Provenance::Measured),
    ] {
        let digest = SHA384.digest(&[what]).unwrap();
        let mut td = Td::new(booted(1));
        let revoked = format!("[[revoked]]\ndigest = \"{digest}\"\nreason = \"CVE-1\"\n");
        td.case.profile.push_str(&revoked);
        let result = td.appraise();
        let told = result.deviations().next().unwrap();
        assert_eq!(
            (told.claim.as_str(), told.code.as_str()),
            (claim, "revoked")
        );
        assert_eq!(told.provenance, Some(by), "{claim}");
    }
}

/// Where its host has the launch reported, one of two of a measurement does not speak for the other.
#[test]
fn a_td_speaks_for_its_own_launch() {
    type Row<'a> = (&'a str, u16, [u8; 32], Option<[u8; 32]>, &'a [&'a str]);
    let (own, other) = ([0x1d; 32], [0x1e; 32]);
    let rows: &[Row<'_>] = &[
        ("the one that enrolled", 4, own, Some(own), &[]),
        ("another", 4, other, Some(own), &["guest-instance"]),
        ("not told, as when it enrolled", 4, [0; 32], None, &[]),
        (
            "not told any more",
            4,
            [0; 32],
            Some(own),
            &["guest-instance"],
        ),
        ("told now", 4, own, None, &["guest-instance"]),
        ("of an older body", 3, own, None, &[]),
    ];
    for (name, kind, td_id, instance, want) in rows {
        let mut td = Td::new(booted(1));
        (td.kind, td.td_id, td.instance) = (*kind, *td_id, *instance);
        let result = td.appraise();
        assert_eq!(codes(&result), *want, "{name}");
        for told in result.deviations() {
            assert!(told.expected.contains("TD_ID"), "{name}: {}", told.expected);
        }
    }
    // What it enrolled with is read alike.
    let made = tdx_made(&Plan {
        kind: 4,
        ..Plan::v5()
    });
    let instance = crate::cvm::instance("tdx", &made.quote).unwrap();
    assert_eq!(instance, Some([0x55; 32]));
}
