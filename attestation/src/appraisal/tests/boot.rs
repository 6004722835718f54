//! Boot logs and measurement lists held against what the TPM signed for.

use super::*;
use crate::boot::{EventLog, EventType, Facts};
use crate::crypto::{Digest, HashAlgorithm};
use crate::profile::{Provenance, Value};

const SHA256: HashAlgorithm = HashAlgorithm::Sha256;
const LINE: &str = "root=/dev/vda ro quiet lockdown=integrity";

/// One event: register, kind, what is measured, what stands beside it.
pub(super) type Event = (u32, EventType, Vec<u8>, Vec<u8>);

pub(super) fn event(register: u32, kind: EventType, data: &[u8]) -> Event {
    (register, kind, data.to_vec(), data.to_vec())
}

pub(super) fn variable(kind: EventType, name: &str, value: &[u8]) -> Event {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let data = [
        &crate::boot::UefiVariable::GLOBAL[..],
        &u64::try_from(units.len() / 2).unwrap().to_le_bytes(),
        &u64::try_from(value.len()).unwrap().to_le_bytes(),
        &units,
        value,
    ];
    event(7, kind, &data.concat())
}

pub(super) fn measured_of(register: u32, kind: EventType, measured: &[u8], data: &[u8]) -> Event {
    (register, kind, measured.to_vec(), data.to_vec())
}

/// Firmware, shim, GRUB, a kernel and its EFI stub, a unified image: one of everything.
pub(super) fn booted() -> Vec<Event> {
    let policy = EventType::EFI_VARIABLE_DRIVER_CONFIG;
    let wide = |text: &str| -> Vec<u8> {
        text.encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect()
    };
    let mut events = vec![
        event(0, EventType::S_CRTM_VERSION, &wide("2.17")),
        variable(policy, "SecureBoot", &[1]),
        variable(policy, "PK", b"platform"),
        variable(policy, "KEK", b"exchange"),
        variable(policy, "db", b"good"),
        variable(policy, "dbx", b"bad"),
    ];
    events.extend((0..8).map(|register| event(register, EventType::SEPARATOR, &[0; 4])));
    events.extend([
        variable(EventType::EFI_VARIABLE_AUTHORITY, "db", b"certificate"),
        variable(
            EventType::EFI_VARIABLE_AUTHORITY,
            "SbatLevel",
            b"sbat,1,2024",
        ),
        measured_of(
            4,
            EventType::EFI_BOOT_SERVICES_APPLICATION,
            b"shim",
            b"path",
        ),
        measured_of(
            4,
            EventType::EFI_BOOT_SERVICES_APPLICATION,
            b"kernel",
            b"path",
        ),
        measured_of(14, EventType::IPL, b"keys", b"MokList\0"),
        measured_of(0, EventType::EFI_PLATFORM_FIRMWARE_BLOB2, b"dxe", b"FV1"),
        measured_of(
            8,
            EventType::IPL,
            b"insmod ext2",
            b"grub_cmd: insmod ext2\0",
        ),
        measured_of(
            8,
            EventType::IPL,
            format!("linux {LINE}").as_bytes(),
            format!("grub_cmd: linux {LINE}\0").as_bytes(),
        ),
        measured_of(
            8,
            EventType::IPL,
            LINE.as_bytes(),
            format!("kernel_cmdline: {LINE}\0").as_bytes(),
        ),
        measured_of(9, EventType::IPL, b"kernel", b"(hd0)/vmlinuz\0"),
        measured_of(9, EventType::IPL, b"ramdisk", b"(hd0)/initrd\0"),
        measured_of(
            9,
            EventType::EVENT_TAG,
            b"initrd",
            &[&0x8f3b_22ec_u32.to_le_bytes()[..], b"\x06\0\0\0Linux\0"].concat(),
        ),
        measured_of(11, EventType::IPL, b".linux\0", b".linux\0"),
        measured_of(11, EventType::IPL, b"image", b".linux\0"),
    ]);
    events
}

fn old(register: u32, kind: EventType, digest: &[u8], data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [
        &register.to_le_bytes()[..],
        &kind.0.to_le_bytes(),
        digest,
        &len.to_le_bytes(),
        data,
    ]
    .concat()
}

pub(super) fn log(events: &[Event]) -> Vec<u8> {
    let header = [
        &b"Spec ID Event03\0\0\0\0\0\0\x02\x00\x02"[..],
        &1_u32.to_le_bytes(),
        &SHA256.tpm_id().to_le_bytes(),
        &32_u16.to_le_bytes(),
        &[0],
    ];
    let mut log = old(0, EventType::NO_ACTION, &[0; 20], &header.concat());
    for (register, kind, measured, data) in events {
        let digest = SHA256.digest(&[measured]).unwrap();
        log.extend(register.to_le_bytes());
        log.extend(kind.0.to_le_bytes());
        log.extend(1_u32.to_le_bytes());
        log.extend(SHA256.tpm_id().to_le_bytes());
        log.extend(digest.as_slice());
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(data);
    }
    log
}

pub(super) fn extend(value: &mut [u8; 32], digest: &[u8]) {
    let extended = SHA256.digest(&[&value[..], digest]).unwrap();
    value.copy_from_slice(extended.as_slice());
}

/// An ima-ng entry: template hash in the list, template data.
pub(super) fn entry(name: &str, content: u8) -> Vec<u8> {
    entry_of(name, &[content; 32])
}

pub(super) fn entry_of(name: &str, content: &[u8]) -> Vec<u8> {
    let digest = [b"sha256:\0".as_slice(), content].concat();
    let field = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap();
        [&len.to_le_bytes()[..], bytes].concat()
    };
    [field(&digest), field(&[name.as_bytes(), &[0]].concat())].concat()
}

pub(super) fn list(entries: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (data, violation) in entries {
        let hash = HashAlgorithm::Sha1.digest(&[data]).unwrap();
        list.extend(10_u32.to_le_bytes());
        match violation {
            true => list.extend([0; 20]),
            false => list.extend(hash.as_slice()),
        }
        let template = template(data);
        list.extend(u32::try_from(template.len()).unwrap().to_le_bytes());
        list.extend(template);
        list.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        list.extend(data);
    }
    list
}

/// The kernel's template of as many fields.
fn template(data: &[u8]) -> &'static [u8] {
    let (mut fields, mut rest) = (0, data);
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap();
        rest = tail.get(len..).unwrap_or_default();
        fields += 1;
    }
    match fields {
        3 => b"ima-sig",
        _ => b"ima-ng",
    }
}

/// What the kernel makes of the registers it finds, and what ran since.
pub(super) fn entries(registers: &[[u8; 32]]) -> Vec<(Vec<u8>, bool)> {
    let found: Vec<&[u8]> = registers
        .iter()
        .take(10)
        .map(<[u8; 32]>::as_slice)
        .collect();
    let aggregate = SHA256.digest(&found).unwrap();
    vec![
        (entry_of("boot_aggregate", aggregate.as_slice()), false),
        (entry("/usr/bin/agent", 2), false),
        (entry("/usr/bin/tool", 3), false),
    ]
}

pub(super) fn ima_pcr(entries: &[(Vec<u8>, bool)]) -> [u8; 32] {
    let mut value = [0; 32];
    for (data, violation) in entries {
        match violation {
            true => extend(&mut value, &[0xff; 32]),
            false => extend(&mut value, SHA256.digest(&[data]).unwrap().as_slice()),
        }
    }
    value
}

pub(super) fn hex_of(bytes: &[u8]) -> String {
    SHA256
        .digest(&[bytes])
        .as_ref()
        .map(Digest::to_string)
        .unwrap()
}

/// A node whose registers hold what was booted, whose log says so, and whose profile asks.
pub(super) struct Booted {
    pub(super) case: Case,
    pub(super) events: Vec<Event>,
    pub(super) entries: Vec<(Vec<u8>, bool)>,
}

impl Booted {
    pub(super) fn new() -> Self {
        let mut case = Case::ordinary();
        // What stands in PCR 7 is for the log to explain.
        case.profile = case
            .profile
            .lines()
            .filter(|line| !line.starts_with("\"7\"") && *line != "[tpm.values]")
            .map(|line| format!("{line}\n"))
            .collect();
        case.profile.push_str("[boot]\n[ima]\n");
        let events = booted();
        for (register, _, measured, _) in &events {
            let digest = SHA256.digest(&[measured]).unwrap();
            let register = usize::try_from(*register).unwrap();
            extend(&mut case.tpm.pcrs[register], digest.as_slice());
        }
        let entries = entries(&case.tpm.pcrs);
        case.tpm.pcrs[10] = ima_pcr(&entries);
        Self {
            case,
            events,
            entries,
        }
    }

    /// One measurement that no log has, before the kernel starts.
    fn unexplained(&mut self, register: usize) {
        extend(&mut self.case.tpm.pcrs[register], &[1; 32]);
        self.entries = entries(&self.case.tpm.pcrs);
        self.case.tpm.pcrs[10] = ima_pcr(&self.entries);
    }

    pub(super) fn result(&mut self) -> AttestationResult {
        let logs = [("boot", log(&self.events)), ("ima", list(&self.entries))];
        let logs = logs.map(|(name, content)| v1::Log {
            name: name.to_owned(),
            content,
            ..v1::Log::default()
        });
        self.case.logs = logs.to_vec();
        self.case.appraise()
    }

    pub(super) fn codes(&mut self) -> Vec<(String, String)> {
        found(&self.result())
    }
}

pub(super) fn found(result: &AttestationResult) -> Vec<(String, String)> {
    let one = |deviation: &Deviation| (deviation.claim.clone(), deviation.code.clone());
    result.deviations().map(one).collect()
}

pub(super) fn want(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    let one = |(claim, code): &(&str, &str)| ((*claim).to_owned(), (*code).to_owned());
    rows.iter().map(one).collect()
}

#[test]
fn what_was_booted_is_measured_where_its_log_replays() {
    let mut node = Booted::new();
    let result = node.result();
    assert_eq!(found(&result), []);
    assert_eq!(result.status, Status::Affirming);
    let rows = [
        ("host", "boot.secure_boot", Value::Flag(true)),
        (
            "host",
            "boot.firmware_version",
            Value::Text("2.17".to_owned()),
        ),
        ("host", "boot.pk", Value::Text(hex_of(b"platform"))),
        ("host", "boot.kek", Value::Text(hex_of(b"exchange"))),
        ("host", "boot.db", Value::Text(hex_of(b"good"))),
        ("host", "boot.dbx", Value::Text(hex_of(b"bad"))),
        (
            "host",
            "boot.sbat_level",
            Value::Text("sbat,1,2024".to_owned()),
        ),
        (
            "host",
            "boot.applications",
            Value::Text(format!("{},{}", hex_of(b"shim"), hex_of(b"kernel"))),
        ),
        ("host", "boot.mok_list", Value::Text(hex_of(b"keys"))),
        ("host", "boot.command_line", Value::Text(LINE.to_owned())),
        (
            "host",
            "boot.files",
            Value::Text(
                [&b"kernel"[..], b"ramdisk", b"initrd"]
                    .map(hex_of)
                    .join(","),
            ),
        ),
        (
            "host",
            "boot.firmware_blobs",
            Value::Text(format!(
                "{},{}",
                hex_of(b"2\0.\x001\x007\0\0\0"),
                hex_of(b"dxe")
            )),
        ),
        (
            "host",
            "boot.grub_commands",
            Value::Text(hex_of(format!("insmod ext2\nlinux {LINE}\n").as_bytes())),
        ),
        ("host", "boot.section.linux", Value::Text(hex_of(b"image"))),
        ("tpm", "ima.entries", Value::Number(3)),
        ("tpm", "ima.violations", Value::Number(0)),
        ("tpm", "ima.kernels", Value::Number(1)),
        ("tpm", "ima.boot_aggregate", Value::Flag(true)),
    ];
    for (submod, name, value) in rows {
        let claim = result.submods[submod].claims.get(name);
        let claim = claim.unwrap_or_else(|| panic!("{name}"));
        assert_eq!(
            (&claim.value, claim.provenance),
            (&value, Provenance::Measured),
            "{name}"
        );
    }
    // GRUB measured files there, too: which of them the kernel loaded, the log says and no digest.
    let initrd = &result.submods["host"].claims["boot.initrd"];
    let want = (Value::Text(hex_of(b"initrd")), Provenance::SelfReported);
    assert_eq!((initrd.value.clone(), initrd.provenance), want);
}

/// More of one kind than is listed, and nothing of the kind is told.
#[test]
fn a_list_that_is_cut_is_no_claim() {
    let image = EventType::EFI_BOOT_SERVICES_APPLICATION;
    let images = |count: u8| {
        let mut node = Booted::new();
        for number in 0..count {
            let event = measured_of(4, image, &[0xff, number], b"path");
            let digest = SHA256.digest(&[&event.2]).unwrap();
            extend(&mut node.case.tpm.pcrs[4], digest.as_slice());
            node.events.push(event);
        }
        node.entries = entries(&node.case.tpm.pcrs);
        node.case.tpm.pcrs[10] = ima_pcr(&node.entries);
        let result = node.result();
        let claims = &result.submods["host"].claims;
        ["applications", "grub_commands", "section.linux"]
            .map(|name| claims.contains_key(&format!("boot.{name}")))
    };
    // Two are there already.
    assert_eq!(images(126), [true; 3]);
    assert_eq!(images(127), [false; 3]);
}

/// A line of a stub hangs on what the registers of GRUB and of files hold, too.
#[test]
fn what_hangs_on_a_register_that_is_not_quoted_is_a_word() {
    let wide: Vec<u8> = "ro\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let stub = |edit: fn(&mut Booted)| {
        let mut node = Booted::new();
        node.events.retain(|event| !matches!(event.0, 8 | 9));
        let options = 0x8f3b_22ed_u32.to_le_bytes();
        node.events.extend([
            event(12, EventType::IPL, &wide),
            measured_of(9, EventType::EVENT_TAG, &wide, &options),
        ]);
        for register in [8, 9, 12] {
            node.case.tpm.pcrs[register] = [0; 32];
        }
        for (register, _, measured, _) in &node.events {
            if matches!(register, 9 | 12) {
                let digest = SHA256.digest(&[measured]).unwrap();
                let register = usize::try_from(*register).unwrap();
                extend(&mut node.case.tpm.pcrs[register], digest.as_slice());
            }
        }
        node.entries = entries(&node.case.tpm.pcrs);
        node.case.tpm.pcrs[10] = ima_pcr(&node.entries);
        edit(&mut node);
        let result = node.result();
        let claims = &result.submods["host"].claims;
        ["command_line", "load_options"].map(|name| {
            let claim = claims.get(&format!("boot.{name}"));
            claim.map(|claim| claim.provenance)
        })
    };
    let (measured, said) = (Some(Provenance::Measured), Some(Provenance::SelfReported));
    assert_eq!(stub(|_| {}), [measured; 2]);
    assert_eq!(stub(|node| node.case.tpm.quotes[8] = false), [said; 2]);
    assert_eq!(stub(|node| node.case.tpm.quotes[9] = false), [said, None]);
}

#[test]
fn files_of_grub_are_told_all_or_not_at_all() {
    for (count, told) in [(0, true), (1, true), (32, true), (33, false), (60, false)] {
        let read = |number: u8| measured_of(9, EventType::IPL, &[number], b"(hd0)/file\0");
        let events: Vec<Event> = (0..count).map(read).collect();
        let bytes = log(&events);
        let facts = Facts::of(&EventLog::parse(&bytes).unwrap(), SHA256);
        let files = facts.files.map(|files| files.len());
        assert_eq!(files, told.then_some(count.into()), "{count}");
    }
}

/// Each register that firmware and boot loaders fill, with one measurement more than the log has.
#[test]
fn a_register_that_the_log_does_not_explain_is_named() {
    for register in [0_usize, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14] {
        let mut node = Booted::new();
        node.unexplained(register);
        let claim = format!("boot.log.pcr.{register}");
        assert_eq!(
            node.codes(),
            want(&[(&claim, "boot-log-replay")]),
            "{register}"
        );
    }
    // Nothing of a register that no log explains is measured.
    let mut node = Booted::new();
    extend(&mut node.case.tpm.pcrs[7], &[1; 32]);
    let result = node.result();
    let claims = &result.submods["host"].claims;
    assert!(!claims.contains_key("boot.secure_boot") && !claims.contains_key("boot.db"));
    assert!(claims.contains_key("boot.applications"));
    // Registers that belong to whoever comes later are not the log's to explain.
    for register in [12, 13, 15, 16, 23] {
        let mut node = Booted::new();
        extend(&mut node.case.tpm.pcrs[register], &[1; 32]);
        assert_eq!(node.codes(), [], "{register}");
    }
    // Nor are those of the kernel's list and of the fence, though firmware extended them before.
    for (register, profile) in [(10, ""), (12, "[fence]\npcr = 12\n")] {
        let mut node = Booted::new();
        node.events
            .push(event(register, EventType::IPL, b"by firmware"));
        let asks = format!("[boot]\n{profile}");
        node.case.profile = node.case.profile.replace("[boot]\n[ima]\n", &asks);
        let codes = node.codes();
        let told = codes.iter().any(|(_, code)| code == "boot-log-replay");
        assert!(!told, "{register}: {codes:?}");
    }
    // An event left out of the log, for each register; and all of one register left out.
    for left_out in [4_u32, 7, 8, 14] {
        let mut node = Booted::new();
        node.events.retain(|event| event.0 != left_out);
        let claim = format!("boot.log.pcr.{left_out}");
        assert_eq!(
            node.codes(),
            want(&[(&claim, "boot-log-replay")]),
            "{left_out}"
        );
    }
}

/// A record of systemd's own log.
fn later(register: u8, measured: &str, text: &str) -> String {
    format!(
        "\x1e{{\"pcr\":{register},\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{}\"}}],\
         \"content_type\":\"systemd\",\"content\":{{\"string\":\"{text}\",\
         \"eventType\":\"phase\"}}}}\n",
        hex_of(measured.as_bytes())
    )
}

#[test]
fn what_user_space_measured_explains_registers_behind_the_firmwares_log() {
    let with = |log: &str, extends: &[(usize, &str)]| {
        let mut node = Booted::new();
        for (register, word) in extends {
            let digest = SHA256.digest(&[word.as_bytes()]).unwrap();
            extend(&mut node.case.tpm.pcrs[*register], digest.as_slice());
        }
        node.result();
        node.case.logs.push(v1::Log {
            name: "userspace".to_owned(),
            content: log.as_bytes().to_vec(),
            ..v1::Log::default()
        });
        let result = node.case.appraise();
        let claims = &result.submods["host"].claims;
        let phases = claims.get("boot.phases").map(|claim| claim.value.clone());
        (found(&result), phases)
    };
    let machine = "machine-id:1";
    let log = [
        later(11, "enter-initrd", "enter-initrd"),
        later(15, machine, machine),
        later(11, "own-phase", "own-phase"),
    ]
    .concat();
    let told = |text: &str| Some(Value::Text(text.to_owned()));
    let all = [(11, "enter-initrd"), (15, machine), (11, "own-phase")];
    assert_eq!(with(&log, &all), (vec![], told("enter-initrd:own-phase")));
    // It may run ahead of the quote.
    assert_eq!(with(&log, &all[..1]), (vec![], told("enter-initrd")));
    assert_eq!(with(&log, &[]), (vec![], None));
    let replay = want(&[("boot.log.pcr.11", "boot-log-replay")]);
    assert_eq!(with(&log, &[(11, "own-phase")]), (replay.clone(), None));
    assert_eq!(with("", &[(11, "own-phase")]), (replay, None));
    // What nobody logged in a register that is anybody's is not the log's to explain.
    assert_eq!(with(&log, &[(15, "else")]), (vec![], None));
    let broken = want(&[("boot.userspace_log", "userspace-log-malformed")]);
    assert_eq!(with("x", &[]), (broken, None));
    let lie = later(11, "enter-initrd", "ready");
    assert_eq!(with(&lie, &all[..1]), (vec![], told("")));
}

#[test]
fn systemd_extends_the_register_of_unified_images_in_its_order() {
    let phase = |node: &mut Booted, word: &str| {
        let digest = SHA256.digest(&[word.as_bytes()]).unwrap();
        extend(&mut node.case.tpm.pcrs[11], digest.as_slice());
    };
    let mut node = Booted::new();
    for word in ["enter-initrd", "leave-initrd", "sysinit", "ready"] {
        phase(&mut node, word);
        assert_eq!(node.codes(), [], "{word}");
    }
    phase(&mut node, "sysinit");
    assert_eq!(
        node.codes(),
        want(&[("boot.log.pcr.11", "boot-log-replay")])
    );
}

#[test]
fn a_log_that_contradicts_itself_makes_no_claim() {
    let mut node = Booted::new();
    // Secure Boot on in the data, and off in what was measured.
    node.events[1].3 = node.events[1].3.iter().map(|byte| byte & 0xfe).collect();
    let result = node.result();
    assert!(found(&result).contains(&("boot.log".to_owned(), "digest-not-of-data".to_owned())));
    assert!(
        !result.submods["host"]
            .claims
            .keys()
            .any(|name| name.starts_with("boot.") && name != "boot.secure-boot")
    );
    assert_eq!(result.status, Status::Contraindicated);
}

/// Data that nobody measured makes no fact, though the register replays.
#[test]
fn what_stands_beside_a_digest_is_no_fact() {
    let mut node = Booted::new();
    for event in &mut node.events {
        if event.0 == 8 {
            event.3 = b"kernel_cmdline: root=/dev/vda lockdown=none".to_vec();
        }
    }
    let result = node.result();
    assert_eq!(found(&result), []);
    assert!(
        !result.submods["host"]
            .claims
            .contains_key("boot.command_line")
    );
    node.case
        .require("boot.command_line", "is = \"x\"\nprovenance = \"measured\"");
    assert_eq!(
        node.codes(),
        want(&[("boot.command_line", "claim-missing")])
    );
}

#[test]
fn a_log_that_is_missing_or_broken_is_said() {
    let with = |logs: Vec<(&str, Vec<u8>)>| {
        let mut node = Booted::new();
        node.result();
        node.case.logs = logs
            .into_iter()
            .map(|(name, content)| v1::Log {
                name: name.to_owned(),
                content,
                ..v1::Log::default()
            })
            .collect();
        let result = node.case.appraise();
        (found(&result), result.status)
    };
    let node = Booted::new();
    let good = || (("boot", log(&node.events)), ("ima", list(&node.entries)));
    let (boot, ima) = good();
    assert_eq!(
        with(vec![ima.clone()]),
        (want(&[("boot.log", "boot-log-missing")]), Status::None)
    );
    assert_eq!(
        with(vec![boot.clone()]),
        (want(&[("ima.list", "ima-list-missing")]), Status::None)
    );
    let cut = |log: &(&'static str, Vec<u8>)| (log.0, log.1[..log.1.len() - 1].to_vec());
    assert_eq!(
        with(vec![cut(&boot), ima.clone()]),
        (
            want(&[("boot.log", "boot-log-malformed")]),
            Status::Contraindicated
        )
    );
    assert_eq!(
        with(vec![boot, cut(&ima)]),
        (
            want(&[("ima.list", "ima-list-malformed")]),
            Status::Contraindicated
        )
    );
    // A statement that makes the same claim by itself is not believed for it, and of a log that is
    // missing nobody knows what it would have said.
    let mut silent = Booted::new();
    silent.case.profile = silent.case.profile.replace("[boot]\n[ima]\n", "");
    silent.case.statement.claims.push(v1::Claim {
        name: "boot.secure_boot".to_owned(),
        source: "a node".to_owned(),
        value: Some(v1::claim::Value::Flag(true)),
    });
    silent.case.require(
        "boot.secure_boot",
        "is = true\nprovenance = \"self-reported\"",
    );
    let result = silent.case.appraise();
    assert_eq!(
        found(&result),
        want(&[
            ("boot.secure_boot", "claim-unavailable"),
            ("boot.log", "boot-log-missing")
        ])
    );
}

#[test]
fn a_log_that_was_kept_counts_as_if_it_had_come_along() {
    let mut node = Booted::new();
    let logs: Vec<(&str, std::sync::Arc<[u8]>)> = vec![
        ("boot", log(&node.events).into()),
        ("ima", list(&node.entries).into()),
    ];
    for (name, content) in &logs {
        node.case.statement.logs.push(v1::LogDigest {
            name: (*name).to_owned(),
            sha256: Sha256Digest::of(&[content]).0.to_vec(),
            bytes: u64::try_from(content.len()).unwrap(),
        });
    }
    let mut verified = node.case.verify().unwrap();
    let lacks: Vec<&str> = verified.lacks().into_iter().map(|(name, _)| name).collect();
    assert_eq!(lacks, ["boot", "ima"]);
    let other: std::sync::Arc<[u8]> = b"something else".as_slice().into();
    verified.keep("boot", &other);
    verified.keep("else", &logs[0].1);
    assert_eq!(verified.lacks().len(), 2);
    for (name, content) in &logs {
        verified.keep(name, content);
    }
    assert_eq!(verified.lacks(), []);
    let result = node.case.appraise_verified(&verified);
    assert_eq!(found(&result), []);
    assert_eq!(result.status, Status::Affirming);
}

#[test]
fn firmware_that_leaves_events_out_is_excused_by_register_and_believed_less() {
    let mut node = Booted::new();
    node.unexplained(0);
    node.case.profile = node
        .case
        .profile
        .replace("[boot]\n", "[boot]\nunreplayable = [0]\n");
    let result = node.result();
    assert_eq!(found(&result), []);
    let claims = &result.submods["host"].claims;
    assert_eq!(
        claims["boot.firmware_version"].provenance,
        Provenance::SelfReported
    );
    assert_eq!(claims["boot.secure_boot"].provenance, Provenance::Measured);
}

#[test]
fn alternatives_are_good_in_their_time_and_the_nearest_is_told() {
    let at =
        |text: &str| format!("claim = \"boot.command_line\"\nprovenance = \"measured\"\n{text}");
    let row = |is: &str, more: &str| format!("[[require.any]]\nis = \"{is}\"\n{more}\n");
    let old = "root=/dev/vda ro quiet";
    let rows = [
        ("no end", row(LINE, ""), None),
        (
            "not over yet",
            row(LINE, "not_after = \"2027-01-16T00:00:00Z\""),
            None,
        ),
        (
            "over",
            row(LINE, "not_after = \"2027-01-15T08:00:00Z\""),
            Some("claim-ended"),
        ),
        (
            "to come",
            row(LINE, "not_before = \"2027-01-15T08:00:01Z\""),
            Some("claim-early"),
        ),
        (
            "taken back",
            row(LINE, "revoked = \"2027-01-01T00:00:00Z\""),
            Some("claim-revoked"),
        ),
        ("old and new", row(old, "") + &row(LINE, ""), None),
        (
            "taken back, and good by another release",
            row(LINE, "revoked = \"2027-01-01T00:00:00Z\"") + &row(LINE, "name = \"R18\""),
            None,
        ),
        ("another", row(old, "name = \"R17\""), Some("claim-value")),
    ];
    for (name, alternatives, want) in rows {
        let mut node = Booted::new();
        node.case.profile.push_str("[[require]]\n");
        node.case.profile.push_str(&at(&alternatives));
        let result = node.result();
        let code = result
            .deviations()
            .next()
            .map(|deviation| deviation.code.clone());
        assert_eq!(code.as_deref(), want, "{name}");
        if want == Some("claim-value") {
            let said = &result.deviations().next().unwrap().found;
            assert!(
                said.contains("nearest known R17") && said.contains("lockdown=integrity"),
                "{said}"
            );
        }
    }
}
