//! What was booted, by the names that profiles have for it, and what each is worth at best.
//!
//! A register that replays shows its digests. Which of them is what, shows by the register, or by
//! content that hashes to the digest; where neither does, it is the word of whoever handed the log
//! over.

use crate::{
    boot::{Facts, Format},
    crypto::{Digest, HashAlgorithm},
    profile::{Provenance, Value},
};

/// One claim to be.
pub(super) struct Row {
    /// The register it stands in, as the log numbers it.
    pub(super) register: u8,
    /// Others that it hangs on, by what stands there or that nothing does.
    pub(super) besides: &'static [u8],
    /// The name without `boot.`.
    pub(super) name: String,
    pub(super) value: Value,
    /// What it is if all of them replay.
    pub(super) best: Provenance,
}

/// PCR, those it hangs on besides, name, value, what it is at best.
type Line<'n> = (u8, &'static [u8], &'n str, Option<Value>, Provenance);

/// What of a guest's log does not hang on comments: the policy of Secure Boot, which stands in a row before
/// the first separator, and images, of which all are told.
const GUESTS_OWN: [&str; 6] = ["secure_boot", "pk", "kek", "db", "dbx", "applications"];

/// All that a log shows.
pub(super) fn rows(facts: &Facts, secure_boot: Option<bool>, format: Format) -> Vec<Row> {
    let said = |only_said: bool| match only_said {
        true => Provenance::SelfReported,
        false => Provenance::Measured,
    };
    let told = said(false);
    let all = |digests: &[Digest]| {
        let all: Vec<String> = digests.iter().map(Digest::to_string).collect();
        (!all.is_empty() && !facts.cut).then(|| Value::Text(all.join(",")))
    };
    let words = |words: &Option<String>| words.clone().map(Value::Text);
    let order = facts.boot_order.as_ref().map(|order| order.join(","));
    let options = facts.load_options.as_ref().map(Digest::to_string);
    let version = &facts.firmware_version;
    // Whether GRUB measured files, what it ran shows.
    let files = said(facts.boot_files_by_label);
    // PCRs, after PFP 1.06, §3.3.4.
    let mut rows: Vec<Line<'_>> = vec![
        (
            0,
            &[],
            "firmware_version",
            words(version),
            said(facts.late.version),
        ),
        (0, &[], "firmware_blobs", all(&facts.firmware_blobs), told),
        (1, &[], "order", words(&order), said(facts.late.order)),
        (2, &[], "drivers", all(&facts.drivers), told),
        (4, &[], "applications", all(&facts.applications), told),
        (7, &[], "secure_boot", secure_boot.map(Value::Flag), told),
        (7, &[], "authorities", all(&facts.authorities), told),
        (7, &[], "sbat_level", words(&facts.sbat_level), told),
        (8, &[], "grub_commands", commands(facts), told),
        (9, &[], "files", facts.files.as_deref().and_then(all), told),
        (9, &[8], "initrd", all(&facts.initrd), files),
        (9, &[8], "load_options", words(&options), files),
        (13, &[], "extensions", all(&facts.extensions), told),
    ];
    let text = |digest: &Digest| Some(Value::Text(digest.to_string()));
    let keys = facts.keys.iter();
    rows.extend(keys.map(|(name, digest)| (7, &[][..], *name, text(digest), told)));
    let mok = said(facts.mok_by_label);
    let lists = facts.mok.iter();
    rows.extend(lists.map(|(name, digest)| (14, &[][..], *name, text(digest), mok)));
    if let Some(line) = &facts.command_line {
        let value = Some(Value::Text(line.text.clone()));
        let best = said(!line.aggregated);
        // By systemd-stub, where GRUB ran nothing and the kernel measured the same.
        let (register, besides): (_, &[u8]) = match line.by_grub {
            true => (8, &[]),
            false => (12, &[8, 9]),
        };
        rows.push((register, besides, "command_line", value, best));
    }
    let mut named: Vec<_> = rows
        .into_iter()
        .map(|(register, besides, name, value, best)| {
            (register, besides, name.to_owned(), value, best)
        })
        .collect();
    if !facts.cut {
        let sections = facts.sections.iter();
        named.extend(sections.map(|(name, digest)| {
            let name = format!("section.{name}");
            (11, &[][..], name, text(digest), told)
        }));
    }
    let ccel = format == Format::Ccel;
    let row = |(register, besides, name, value, best): (u8, _, String, Option<Value>, _)| {
        let own = !ccel || GUESTS_OWN.contains(&name.as_str());
        Some(Row {
            register: match ccel {
                true => in_guest(register),
                false => register,
            },
            besides: match ccel {
                true => &[],
                false => besides,
            },
            best: said(!own).min(best),
            name,
            value: value?,
        })
    };
    named.into_iter().filter_map(row).collect()
}

/// The register of a guest's log that holds what a PCR does: UEFI 2.10, §38.4.1.
const fn in_guest(register: u8) -> u8 {
    match register {
        0 | 1 | 7 => 1,
        2..=6 => 2,
        _ => 3,
    }
}

/// A menu runs some dozens of commands, more than anybody would write into a profile: SHA-256 of
/// them all, a line each.
fn commands(facts: &Facts) -> Option<Value> {
    let lines: String = facts
        .commands
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    let digest = HashAlgorithm::Sha256.digest(&[lines.as_bytes()])?;
    (!facts.commands.is_empty() && !facts.cut).then(|| Value::Text(digest.to_string()))
}
