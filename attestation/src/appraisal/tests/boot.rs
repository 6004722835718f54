//! Boot logs and measurement lists held against what the TPM signed for.

use super::booted::{
    Booted, Event, LINE, event, extend, found, hex_of, list, log, measured_of, want,
};
use super::*;
use crate::boot::{EventLog, EventType, Facts};
use crate::crypto::HashAlgorithm;
use crate::profile::{Provenance, Value};

const SHA256: HashAlgorithm = HashAlgorithm::Sha256;

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
        node.kernel_starts();
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
        node.kernel_starts();
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
