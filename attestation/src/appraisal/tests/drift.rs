//! What parts two pieces of evidence, and in which words.

use super::*;
use crate::profile::{Provenance, Value};

fn shown(rows: &[(&str, Value, Provenance)]) -> Shown {
    let claim = |(name, value, provenance): &(&str, Value, Provenance)| {
        let claim = AppraisedClaim {
            value: value.clone(),
            provenance: *provenance,
        };
        ((*name).to_owned(), claim)
    };
    Shown {
        claims: rows.iter().map(claim).collect(),
        fence: Some(13),
        ..Shown::default()
    }
}

/// One claim, before and after; whether it changes on every machine; how it is told.
#[test]
fn each_change_has_a_name_and_words() {
    use Provenance::{HardwareSigned, Measured, SelfReported};
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let number = |n| Some(Value::Number(n));
    let one = text(&"ab".repeat(32));
    let two = text(&"cd".repeat(32));
    let both = text(&format!("{},{}", "ab".repeat(32), "cd".repeat(32)));
    type Row<'a> = (
        &'a str,
        Option<Value>,
        Option<Value>,
        Provenance,
        Option<(bool, &'a str)>,
    );
    let rows: Vec<Row<'_>> = vec![
        ("boot.initrd", one.clone(), one.clone(), Measured, None),
        (
            "boot.initrd",
            one.clone(),
            two.clone(),
            Measured,
            Some((false, "initrd is another")),
        ),
        (
            "boot.applications",
            one.clone(),
            both.clone(),
            Measured,
            Some((false, "boot loaders or kernel 0 gone, 1 new")),
        ),
        (
            "boot.command_line",
            text("ro quiet a"),
            text("ro b a"),
            Measured,
            Some((false, "command line with \"b\", without \"quiet\"")),
        ),
        (
            "boot.command_line",
            text("ro a"),
            text("ro a b"),
            Measured,
            Some((false, "command line with \"b\"")),
        ),
        (
            "boot.command_line",
            text("ro a b"),
            text("ro a"),
            Measured,
            Some((false, "command line without \"b\"")),
        ),
        (
            "boot.command_line",
            text("ro a"),
            text("a ro"),
            Measured,
            Some((false, "command line in another order")),
        ),
        (
            "kernel.release",
            text("6.1.0-44"),
            text("6.1.0-45"),
            SelfReported,
            Some((false, "kernel \"6.1.0-45\", was \"6.1.0-44\"")),
        ),
        (
            "boot.secure_boot",
            Some(Value::Flag(true)),
            Some(Value::Flag(false)),
            Measured,
            Some((false, "Secure Boot false, was true")),
        ),
        (
            "boot.dbx",
            one.clone(),
            None,
            Measured,
            Some((false, "boot.dbx is not shown any more")),
        ),
        (
            "boot.dbx",
            None,
            one.clone(),
            Measured,
            Some((false, "boot.dbx was not shown before")),
        ),
        (
            "tpm.pcr.sha256.4",
            one.clone(),
            two.clone(),
            HardwareSigned,
            Some((false, "register 4 is another")),
        ),
        (
            "tpm.pcr.sha256.10",
            one.clone(),
            two.clone(),
            HardwareSigned,
            Some((true, "register 10 is another")),
        ),
        (
            "tpm.pcr.sha256.11",
            one.clone(),
            two.clone(),
            HardwareSigned,
            Some((true, "register 11 is another")),
        ),
        (
            "tpm.pcr.sha256.13",
            one.clone(),
            two.clone(),
            HardwareSigned,
            Some((true, "register 13 is another")),
        ),
        (
            "tpm.pcr.sha256.16",
            one.clone(),
            two,
            HardwareSigned,
            Some((true, "register 16 is another")),
        ),
        (
            "tpm.pcr.sha256.15",
            one.clone(),
            both,
            HardwareSigned,
            Some((false, "register 15 0 gone, 1 new")),
        ),
        (
            "ima.entries",
            number(3),
            number(4),
            Measured,
            Some((true, "ima.entries 4, was 3")),
        ),
        (
            "ima.violations",
            number(0),
            number(1),
            Measured,
            Some((false, "ima.violations 1, was 0")),
        ),
        (
            "kernel.taint",
            number(0),
            number(4096),
            SelfReported,
            Some((false, "kernel taint 4096, was 0")),
        ),
        (
            "host.load",
            number(3),
            number(4),
            SelfReported,
            Some((true, "host.load 4, was 3")),
        ),
    ];
    for (at, (name, before, after, provenance, want)) in rows.into_iter().enumerate() {
        let side = |value: Option<Value>| {
            let rows: Vec<_> = value
                .into_iter()
                .map(|value| (name, value, provenance))
                .collect();
            shown(&rows)
        };
        let found = drift(&side(before), &side(after));
        let told = found
            .first()
            .map(|one| (one.running, format!("{} {}", one.subject(), one.how())));
        let want = want.map(|(running, words)| (running, words.to_owned()));
        assert_eq!(told, want, "{at}: {name}");
    }
}
