//! Root booted another kernel than it shall, or the same with other words, and tells of a good boot: by
//! another log over the same digests, by what it had GRUB run, by what it extends once it runs.

use super::booted::{Booted, Event, entry_of, event, extend, hex_of, ima_pcr, list, measured_of};
use super::*;
use crate::boot::EventType;
use crate::crypto::HashAlgorithm;
use crate::profile::Provenance;

const SHA256: HashAlgorithm = HashAlgorithm::Sha256;
const GOOD: &str = "/vmlinuz ro lockdown=integrity module.sig_enforce=1 \
    sysctl.kernel.kexec_load_disabled=1 ima_policy=tcb";
const EVIL: &str = "/vmlinuz ro";

/// What GRUB ran, and what stands beside it in the log.
fn ran(measured: &str, label: &str) -> Event {
    let data = format!("{label}{measured}\0");
    measured_of(8, EventType::IPL, measured.as_bytes(), data.as_bytes())
}

fn command(text: &str) -> Event {
    ran(text, "grub_cmd: ")
}

fn line(text: &str) -> Event {
    ran(text, "kernel_cmdline: ")
}

fn wide(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]);
    units.flat_map(u16::to_le_bytes).collect()
}

fn stubs(text: &str) -> Event {
    event(12, EventType::IPL, &wide(text))
}

fn loads(text: &str) -> Event {
    let tag = 0x8f3b_22ed_u32.to_le_bytes();
    measured_of(9, EventType::EVENT_TAG, &wide(text), &tag)
}

/// A node that booted `before`, whose root extended `after`, and that the strict part is asked of.
/// Everything in both is in the log, `before` first.
fn booted(before: Vec<Event>, after: Vec<Event>) -> Booted {
    let mut node = Booted::new();
    node.events.retain(|event| !matches!(event.0, 8 | 9 | 11));
    node.events.extend(before);
    for register in [8, 9, 11, 12] {
        node.case.tpm.pcrs[register] = [0; 32];
    }
    let write = |node: &mut Booted, event: &Event| {
        let digest = SHA256.digest(&[&event.2]).unwrap();
        let register = usize::try_from(event.0).unwrap();
        extend(&mut node.case.tpm.pcrs[register], digest.as_slice());
    };
    let own = |event: &&Event| matches!(event.0, 8 | 9 | 11 | 12);
    for event in node.events.clone().iter().filter(own) {
        write(&mut node, event);
    }
    node.kernel_starts();
    for event in &after {
        write(&mut node, event);
    }
    node.events.extend(after);
    let listed = [2_u8, 3].map(|byte| format!("{} known\n", hex::encode([byte; 32])));
    let listed = format!("[ima]\nfiles = \"\"\"\n{}\"\"\"\n", listed.concat());
    node.case.profile = node.case.profile.replace("[ima]\n", &listed);
    let kernel = format!("{},{}", hex_of(b"shim"), hex_of(b"kernel"));
    let kernel = format!("is = \"{kernel}\"\nprovenance = \"measured\"");
    node.case.require("boot.applications", &kernel);
    let agent = hex::encode([2_u8; 32]);
    let set = format!("[strict]\nset = \"root-cannot-lie-1\"\nagent = [\"{agent}\"]\n");
    node.case.profile.push_str(&set);
    node
}

fn codes(node: &mut Booted) -> Vec<String> {
    let result = node.result();
    result.deviations().map(|one| one.code.clone()).collect()
}

/// What GRUB does to start a kernel.
fn grub(text: &str) -> Vec<Event> {
    vec![command(&format!("linux {text}")), line(text)]
}

#[test]
fn an_honest_boot_holds() {
    assert_eq!(codes(&mut booted(grub(GOOD), vec![])), [""; 0]);
    let stub = vec![stubs(GOOD), loads(GOOD)];
    assert_eq!(codes(&mut booted(stub, vec![])), [""; 0]);
}

#[test]
fn no_command_of_grubs_passes_for_the_line_of_the_kernel() {
    let load = |text: &str| format!("linux {text}");
    type Row<'a> = (&'a str, Vec<Event>, &'a [&'a str]);
    let rows: Vec<Row<'_>> = vec![
        (
            "the line was run as a command, and the kernel's is said to have been one",
            vec![command(&load(EVIL)), command(EVIL), line(GOOD)],
            &["strict-command-line"],
        ),
        (
            "and a kernel that is not there was loaded with it",
            [grub(EVIL), vec![command(&load(GOOD)), line(GOOD)]].concat(),
            &["strict-command-line"],
        ),
        (
            "the command that loaded the kernel is said to be something else",
            vec![
                ran(&load(EVIL), "module_cmdline: "),
                command(EVIL),
                command(&load(GOOD)),
                line(GOOD),
            ],
            &["strict-command-line"],
        ),
        (
            "and its text is not shown",
            vec![
                measured_of(
                    8,
                    EventType::IPL,
                    load(EVIL).as_bytes(),
                    b"grub_cmd: set x=1\0",
                ),
                measured_of(8, EventType::IPL, EVIL.as_bytes(), b"grub_cmd: set y=1\0"),
                command(&load(GOOD)),
                line(GOOD),
            ],
            &["strict-command-line"],
        ),
        (
            "another program was started after it",
            [grub(GOOD), vec![command("chainloader /evil.efi")]].concat(),
            &["strict-command-line"],
        ),
    ];
    for (name, before, want) in rows {
        assert_eq!(codes(&mut booted(before, vec![])), want, "{name}");
    }
}

/// What is extended later shows in the list's first entry, which is over what the kernel found.
#[test]
fn what_root_writes_into_registers_is_no_boot() {
    const LATE: [&str; 5] = [
        "boot-aggregate",
        "file-unknown",
        "strict-boot-aggregate",
        "strict-command-line",
        "strict-unknown",
    ];
    let without = |name: &str| {
        let all = LATE.iter().filter(|code| **code != name);
        all.map(|code| (*code).to_owned()).collect::<Vec<_>>()
    };
    type Row<'a> = (&'a str, Vec<Event>, Vec<Event>, Vec<String>);
    let rows: Vec<Row<'_>> = vec![
        (
            "GRUB's line, of a kernel that GRUB did not start",
            vec![],
            grub(GOOD),
            without("strict-command-line"),
        ),
        (
            "GRUB's line, beside the real one",
            grub(EVIL),
            grub(GOOD),
            without(""),
        ),
        (
            "a stub's, that was given none",
            vec![],
            vec![stubs(GOOD)],
            vec!["strict-command-line".to_owned()],
        ),
        (
            "and what the kernel was started with, too",
            vec![],
            vec![stubs(GOOD), loads(GOOD)],
            without("strict-command-line"),
        ),
        (
            "and that after what it was",
            vec![loads("")],
            vec![stubs(GOOD), loads(GOOD)],
            without(""),
        ),
    ];
    for (name, before, after, mut want) in rows {
        let mut found = codes(&mut booted(before, after));
        found.sort();
        want.sort();
        assert_eq!(found, want, "{name}");
    }
}

/// The kernel's word about the registers has to be there, and to be about all of them.
#[test]
fn the_kernels_word_about_registers_is_asked() {
    type Edit = fn(&mut Booted);
    let under = |node: &Booted, count: usize| {
        let all: Vec<&[u8]> = node
            .case
            .tpm
            .pcrs
            .iter()
            .take(count)
            .map(|one| &one[..])
            .collect();
        SHA256.digest(&all).unwrap().as_slice().to_vec()
    };
    let first = |node: &mut Booted, digest: &[u8]| {
        node.entries[0].0 = super::booted::entry_of("boot_aggregate", digest);
        node.case.tpm.pcrs[10] = ima_pcr(&node.entries);
    };
    let mut old = booted(grub(GOOD), vec![]);
    let digest = under(&old, 8);
    first(&mut old, &digest);
    assert_eq!(
        codes(&mut old),
        ["strict-boot-aggregate"],
        "of an older kernel"
    );
    let mut zero = booted(grub(GOOD), vec![]);
    first(&mut zero, &[0; 32]);
    let found = codes(&mut zero);
    assert!(
        found.contains(&"strict-boot-aggregate".to_owned()),
        "{found:?}"
    );
    let rows: [(&str, Edit); 1] = [("no list", |node| node.entries.clear())];
    for (name, edit) in rows {
        let mut node = booted(grub(GOOD), vec![]);
        edit(&mut node);
        node.case.tpm.pcrs[10] = ima_pcr(&node.entries);
        let found = codes(&mut node);
        assert!(
            found.contains(&"strict-boot-aggregate".to_owned()),
            "{name}: {found:?}"
        );
    }
    // Of another bank it could not be checked, and nothing is refused for that.
    let mut other = booted(grub(GOOD), vec![]);
    let sha1 = [b"sha1:\0".as_slice(), &[7; 20]].concat();
    let field = |bytes: &[u8]| {
        [
            &u32::try_from(bytes.len()).unwrap().to_le_bytes()[..],
            bytes,
        ]
        .concat()
    };
    other.entries[0].0 = [field(&sha1), field(b"boot_aggregate\0")].concat();
    other.case.tpm.pcrs[10] = ima_pcr(&other.entries);
    let result = other.result();
    let told: Vec<_> = result
        .deviations()
        .filter(|one| one.code == "strict-boot-aggregate")
        .collect();
    assert!(matches!(told[..], [one] if one.finding == Finding::Unchecked));
    assert_eq!(
        result.submods["fence"].claims["fence.word"].provenance,
        Provenance::SelfReported
    );
}

/// An entry of another register stands in no value of the kernel's, and any file may have any name.
#[test]
fn no_other_entry_passes_for_the_kernels_first() {
    let mut late = booted(vec![], grub(GOOD));
    let honest = codes(&mut late);
    assert!(
        honest.contains(&"strict-boot-aggregate".to_owned()),
        "{honest:?}"
    );
    let all: Vec<&[u8]> = late
        .case
        .tpm
        .pcrs
        .iter()
        .take(10)
        .map(|one| &one[..])
        .collect();
    let now = SHA256.digest(&all).unwrap();
    let forged = (entry_of("boot_aggregate", now.as_slice()), false);
    let mut ahead = list(&[forged]);
    ahead[0] = 11;
    let content = &mut late.case.logs[1].content;
    *content = [ahead.as_slice(), content].concat();
    let result = late.case.appraise();
    let told: Vec<String> = result.deviations().map(|one| one.code.clone()).collect();
    assert_eq!(told, honest);
    // A program of that name, hashed with something that the profile's bank says nothing of.
    let field = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap();
        [&len.to_le_bytes()[..], bytes].concat()
    };
    for digest in [
        [b"sha512:\0".as_slice(), &[7; 64]].concat(),
        [b"sha256:\0".as_slice(), &[0; 32]].concat(),
    ] {
        let mut node = booted(grub(GOOD), vec![]);
        let entry = [field(&digest), field(b"boot_aggregate\0")].concat();
        node.entries.push((entry, false));
        node.case.tpm.pcrs[10] = ima_pcr(&node.entries);
        assert_eq!(codes(&mut node), ["file-unknown", "strict-unknown"]);
    }
}
