//! What systemd measured: read, replayed behind the firmware's log, and spoiled.

use super::super::{EventLog, EventType, UserspaceLog, compare};
use super::{SHA1, SHA256, agile, record, separator};
use crate::crypto::{Digest, HashAlgorithm};
use crate::tpm::PcrValues;

/// A record as systemd writes it.
fn line(pcr: u8, measured: &str, kind: &str, text: &str) -> String {
    let digest = |bank: HashAlgorithm| bank.digest(&[measured.as_bytes()]).unwrap();
    format!(
        "\x1e{{\"pcr\":{pcr},\"digests\":[{{\"hashAlg\":\"sha1\",\"digest\":\"{}\"}},\
         {{\"hashAlg\":\"sha256\",\"digest\":\"{}\"}}],\"content_type\":\"systemd\",\
         \"content\":{{\"string\":\"{text}\",\"bootId\":\"0f\",\"timestamp\":7,\
         \"eventType\":\"{kind}\"}}}}\n",
        digest(SHA1),
        digest(SHA256)
    )
}

fn phase(word: &str) -> String {
    line(11, word, "phase", word)
}

fn boot() -> String {
    let machine = "machine-id:0123";
    let lines = [
        phase("enter-initrd"),
        line(15, machine, "machine-id", machine),
        phase("leave-initrd"),
        line(15, "secret", "volume-key", "cryptsetup:root"),
    ];
    lines.concat()
}

fn after(start: &Digest, words: &[&str]) -> Digest {
    words.iter().fold(start.clone(), |value, word| {
        let digest = SHA256.digest(&[word.as_bytes()]).unwrap();
        SHA256
            .digest(&[value.as_slice(), digest.as_slice()])
            .unwrap()
    })
}

#[test]
fn the_registers_hold_both_logs() {
    let bytes = agile(&[separator(0), record(11, EventType::IPL, b".linux\0")]);
    let log = EventLog::parse(&bytes).unwrap();
    let text = boot();
    let later = UserspaceLog::parse(text.as_bytes()).unwrap();
    assert_eq!(later.events.len(), 4);
    assert_eq!(later.events[1].kind.as_deref(), Some("machine-id"));
    let before = log.replay(SHA256);
    let mut replay = before.clone();
    later.extend(&mut replay);
    let zero = Digest::from_slice(&[0; 32]).unwrap();
    let ready = after(&before.values[&11], &["enter-initrd", "leave-initrd"]);
    assert_eq!(replay.values[&11], ready);
    assert_eq!(
        replay.values[&15],
        after(&zero, &["machine-id:0123", "secret"])
    );
    assert_eq!(replay.values[&0], before.values[&0]);
    let mut values = PcrValues::new();
    values.insert(SHA256, 11, ready.as_slice()).unwrap();
    assert!(compare(&log, &later, &values).mismatched.is_empty());
    let none = UserspaceLog::default();
    assert!(compare(&log, &none, &values).mismatched.contains(&11));
    // A bank that an event does not carry is known no more.
    let mut other = log.replay(HashAlgorithm::Sha384);
    later.extend(&mut other);
    assert!(other.unknown.contains(&11) && other.unknown.contains(&15));
}

#[test]
fn phases_are_those_that_were_measured_up_to_the_quote() {
    let text = boot() + &line(11, "x", "phase", "ready") + &line(11, "login", "login", "login");
    let later = UserspaceLog::parse(text.as_bytes()).unwrap();
    let zero = Digest::from_slice(&[0; 32]).unwrap();
    let leads = |words: &[&str]| later.leads(SHA256, 11, &zero, &after(&zero, words));
    assert_eq!(leads(&[]), Some(0));
    assert_eq!(leads(&["enter-initrd"]), Some(1));
    assert_eq!(leads(&["enter-initrd", "leave-initrd", "x"]), Some(3));
    assert_eq!(leads(&["leave-initrd"]), None);
    assert_eq!(leads(&["enter-initrd", "leave-initrd", "ready"]), None);
    assert_eq!(
        later.leads(HashAlgorithm::Sha384, 11, &zero, &after(&zero, &["x"])),
        None
    );
    assert_eq!(later.phases(SHA256, 1), ["enter-initrd"]);
    // Words that are not what was measured are no phase, nor is what is called otherwise.
    assert_eq!(later.phases(SHA256, 9), ["enter-initrd", "leave-initrd"]);
}

#[test]
fn malformed_logs_say_which_record() {
    let good = phase("ready");
    let with = |from: &str, to: &str| good.replacen(from, to, 1);
    let rows: &[(&str, String, &str)] = &[
        (
            "text before",
            format!("x{good}"),
            "does not begin with a record",
        ),
        ("no JSON", "\x1enone\n".to_owned(), "record 1, record"),
        (
            "two in one",
            format!("{good}{}", with("\n", "{}\n")),
            "record 2, record",
        ),
        (
            "one cut short inside",
            format!("{}{good}", &good[..40]),
            "record 1, record: has no end",
        ),
        ("no register", with("\"pcr\":11,", ""), "record 1, pcr"),
        (
            "a register there is not",
            with(":11,", ":24,"),
            "record 1, pcr",
        ),
        (
            "two places",
            with("\"pcr\":11", "\"pcr\":11,\"nv_index\":1"),
            "record 1, pcr",
        ),
        (
            "a register twice",
            with("\"pcr\":11", "\"pcr\":11,\"pcr\":12"),
            "record 1, record",
        ),
        (
            "no digests",
            with("digests", "digest"),
            "missing field `digests`",
        ),
        (
            "a digest of another length",
            with("sha256", "sha384"),
            "not as long as a sha384",
        ),
        ("a bank twice", with("sha1", "sha256"), "record 1, digests"),
        (
            "no hexadecimal",
            with("digest\":\"", "digest\":\"x"),
            "is not hexadecimal",
        ),
        (
            "too long",
            format!("\x1e{}\n", " ".repeat(16 * 1024)),
            "exceed the limit",
        ),
        (
            "too many",
            "\x1e{\"pcr\":1,\"digests\":[]}\n".repeat(4097),
            "4097 records exceed",
        ),
        (
            "too many bytes",
            " ".repeat((1 << 20) + 1),
            "bytes exceed the limit",
        ),
    ];
    for (name, text, want) in rows {
        let error = UserspaceLog::parse(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(want), "{name}: {error}");
    }
    let events = |text: &str| UserspaceLog::parse(text.as_bytes()).unwrap().events.len();
    assert_eq!((events(""), events("\n"), events(&good)), (0, 0, 1));
    // As long as one may be, and a byte longer.
    let of_length = |length: usize| {
        let text = good.trim_start_matches('\x1e').trim_end();
        format!("\x1e{text}{}\n", " ".repeat(length - text.len() - 1))
    };
    assert_eq!(events(&of_length(16 * 1024)), 1);
    assert!(UserspaceLog::parse(of_length(16 * 1024 + 1).as_bytes()).is_err());
    // The last one was still being written.
    assert_eq!(events(&format!("{good}{}", &good[..good.len() - 1])), 1);
    // What went into an NV index is no register's; a bank nobody knows is left out.
    assert_eq!(events(&with("\"pcr\":11", "\"nv_index\":12345678")), 0);
    assert_eq!(events(&with("sha1", "sha1024")), 1);
    let foreign = with("\"content_type\":\"systemd\"", "\"content_type\":\"other\"");
    let foreign = UserspaceLog::parse(foreign.as_bytes()).unwrap();
    assert_eq!(foreign.events[0].text, None);
}
