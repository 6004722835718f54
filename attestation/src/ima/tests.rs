//! Lists made in the test, in both forms, and every way of spoiling one.

use super::{Aggregate, Entry, Extended, Form, List, Template, boot_aggregate, match_pcr, replay};
use crate::crypto::{Digest, HashAlgorithm};

mod fields;
mod known;

const SHA1: HashAlgorithm = HashAlgorithm::Sha1;
const SHA256: HashAlgorithm = HashAlgorithm::Sha256;

/// Template data: each field with its length.
fn data(fields: &[&[u8]]) -> Vec<u8> {
    let field = |field: &&[u8]| {
        let len = u32::try_from(field.len()).unwrap();
        [&len.to_le_bytes()[..], field].concat()
    };
    fields.iter().flat_map(field).collect()
}

fn file(name: &str) -> Vec<u8> {
    let digest = [&b"sha256:\0"[..], &[7; 32]].concat();
    data(&[&digest, &[name.as_bytes(), &[0]].concat()])
}

fn binary(pcr: u32, hash: &[u8], template: &str, data: &[u8]) -> Vec<u8> {
    let name = u32::try_from(template.len()).unwrap();
    let len = u32::try_from(data.len()).unwrap();
    [
        &pcr.to_le_bytes()[..],
        hash,
        &name.to_le_bytes(),
        template.as_bytes(),
        &len.to_le_bytes(),
        data,
    ]
    .concat()
}

fn at<'l>(list: &'l List<'_>, index: usize) -> Entry<'l> {
    list.entries().nth(index).unwrap()
}

fn honest(bank: HashAlgorithm, names: &[&str]) -> Vec<u8> {
    let entry = |name: &&str| {
        let data = file(name);
        binary(
            10,
            bank.digest(&[&data]).unwrap().as_slice(),
            "ima-ng",
            &data,
        )
    };
    names.iter().flat_map(entry).collect()
}

#[test]
fn both_forms_hold_the_same() {
    let text = format!(
        "10 {} ima-ng sha256:{} boot_aggregate\n10 {} ima-ng sha256:{} /usr/bin/env\n",
        SHA1.digest(&[&file("boot_aggregate")]).unwrap(),
        "07".repeat(32),
        SHA1.digest(&[&file("/usr/bin/env")]).unwrap(),
        "07".repeat(32),
    );
    let bytes = honest(SHA1, &["boot_aggregate", "/usr/bin/env"]);
    let (ascii, binary) = (
        List::parse(text.as_bytes()).unwrap(),
        List::parse(&bytes).unwrap(),
    );
    assert_eq!((ascii.form(), binary.form()), (Form::Ascii, Form::Binary));
    assert_eq!(ascii.bytes, binary.bytes);
    assert_eq!((ascii.len(), binary.len()), (2, 2));
    for entry in binary.entries() {
        assert!(entry.is_consistent() && !entry.is_violation());
        let digest = entry.file_digest().unwrap();
        assert_eq!((digest.algorithm, digest.digest), ("sha256", &[7; 32][..]));
    }
    let name = at(&binary, 1).file_name();
    assert_eq!(name, Some(&b"/usr/bin/env"[..]));
}

#[test]
fn a_line_is_no_longer_than_an_entry_can_be() {
    let line = |name: usize| {
        let (hash, digest) = ("11".repeat(20), "22".repeat(20));
        format!("10 {hash} ima {digest} {}\n", "n".repeat(name))
    };
    let longest = line(255).repeat(2);
    let list = List::parse(longest.as_bytes()).unwrap();
    assert_eq!((list.len(), list.entries().count()), (2, 2));
    let longer = format!("{}{}{}", line(1), line(256), line(1));
    let error = List::parse(longer.as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2, template_data: is longer than an entry can be"
    );
}

#[test]
fn every_template_is_read_in_both_forms() {
    let sha = "11".repeat(32);
    let digest = [&b"sha256:\0"[..], &[0x11; 32]].concat();
    let typed = [&b"verity:sha256:\0"[..], &[0x11; 32]].concat();
    let rows: &[(&str, String, Vec<u8>)] = &[
        (
            "ima-ngv2",
            format!("verity:sha256:{sha} /a"),
            data(&[&typed, b"/a\0"]),
        ),
        (
            "ima-sig",
            format!("sha256:{sha} /a 0302"),
            data(&[&digest, b"/a\0", &[3, 2]]),
        ),
        (
            "ima-sig",
            format!("sha256:{sha} /a "),
            data(&[&digest, b"/a\0", &[]]),
        ),
        (
            "ima-buf",
            format!("sha256:{sha} kexec-cmdline 726f"),
            data(&[&digest, b"kexec-cmdline\0", b"ro"]),
        ),
        (
            "ima-modsig",
            format!("sha256:{sha} /a  sha256:{sha} 30"),
            data(&[&digest, b"/a\0", &[], &digest, &[0x30]]),
        ),
        (
            "evm-sig",
            format!("sha256:{sha} /a 05 security.ima 01 02 1000 0 33261"),
            data(&[
                &digest,
                b"/a\0",
                &[5],
                b"security.ima\0",
                &[1],
                &[2],
                &1000_u32.to_le_bytes(),
                &[0; 4],
                &33261_u16.to_le_bytes(),
            ]),
        ),
        (
            "d-ng|n-ng",
            format!("sha256:{sha} /a"),
            data(&[&digest, b"/a\0"]),
        ),
    ];
    for (template, fields, data) in rows {
        let hash = SHA1.digest(&[data]).unwrap();
        let text = format!("10 {hash} {template} {fields}\n");
        let ascii = List::parse(text.as_bytes()).unwrap();
        let bytes = binary(10, hash.as_slice(), template, data);
        let list = List::parse(&bytes).unwrap();
        assert_eq!(ascii.bytes, list.bytes, "{template}");
        let entry = at(&list, 0);
        assert!(entry.is_consistent(), "{template}");
        assert_eq!(entry.template.name(), *template);
        assert_eq!(entry.file_digest().unwrap().digest, &[0x11; 32]);
    }
    assert_eq!(Template::from_name("ima-next"), None);
    assert_eq!(Template::from_name("d-ng|nonsense"), None);
}

#[test]
fn the_oldest_template_hashes_a_name_of_fixed_size() {
    let hashed = [&[9; 20][..], b"/init", &[0; 251]].concat();
    let hash = SHA1.digest(&[&hashed]).unwrap();
    let text = format!("10 {hash} ima {} /init\n", "09".repeat(20));
    let ascii = List::parse(text.as_bytes()).unwrap();
    let bytes = [
        &10_u32.to_le_bytes()[..],
        hash.as_slice(),
        &3_u32.to_le_bytes(),
        b"ima",
        &[9; 20],
        &5_u32.to_le_bytes(),
        b"/init",
    ]
    .concat();
    let list = List::parse(&bytes).unwrap();
    assert_eq!(ascii.bytes, list.bytes);
    let entry = at(&list, 0);
    assert!(entry.is_consistent());
    assert_eq!(entry.file_name(), Some(&b"/init"[..]));
    assert_eq!(entry.file_digest().unwrap().digest, &[9; 20]);
}

#[test]
fn the_hash_in_the_list_is_computed_again() {
    for bank in [SHA1, SHA256, HashAlgorithm::Sha384, HashAlgorithm::Sha512] {
        let bytes = honest(bank, &["boot_aggregate", "/a"]);
        let list = List::parse(&bytes).unwrap();
        assert!(list.entries().all(|entry| entry.is_consistent()), "{bank}");
        let mut changed = bytes.clone();
        changed[4] ^= 1;
        let list = List::parse(&changed).unwrap();
        assert!(!at(&list, 0).is_consistent(), "{bank}");
    }
    let mut bytes = honest(SHA1, &["/a"]);
    *bytes.last_mut().unwrap() = b'b';
    assert!(List::parse(&bytes).is_err(), "a name without its end");
}

#[test]
fn the_register_holds_what_the_entries_say() {
    let (first, second) = (file("boot_aggregate"), file("/a"));
    let violation = binary(10, &[0; 20], "ima-ng", &second);
    let other = binary(
        11,
        SHA1.digest(&[&first]).unwrap().as_slice(),
        "ima-ng",
        &first,
    );
    let bytes = [
        honest(SHA1, &["boot_aggregate"]),
        other.repeat(3),
        violation,
    ]
    .concat();
    let list = List::parse(&bytes).unwrap();
    assert_eq!(list.violations(), 1);
    for bank in [SHA1, SHA256] {
        let len = bank.digest_len();
        let native = bank.digest(&[&first]).unwrap();
        let one = bank.digest(&[&vec![0; len], native.as_slice()]).unwrap();
        let two = bank.digest(&[one.as_slice(), &vec![0xff; len]]).unwrap();
        let replayed = replay(&list, bank).unwrap();
        assert_eq!((replayed.value, replayed.elsewhere), (two.clone(), 3));
        let at = |value: &Digest| match_pcr(&list, bank, value.as_slice());
        assert_eq!(at(&one).map(|matched| matched.at), Some(1));
        assert_eq!(at(&two).map(|matched| matched.at), Some(5));
        assert_eq!(at(&native), None);
    }
    assert_eq!(match_pcr(&list, SHA256, &[0; 32]), None, "before the list");
}

#[test]
fn what_old_kernels_extended_is_found_and_named() {
    let bytes = honest(SHA1, &["boot_aggregate"]);
    let list = List::parse(&bytes).unwrap();
    let sha1 = SHA1.digest(&[&file("boot_aggregate")]).unwrap();
    let padded = [sha1.as_slice(), &[0; 12]].concat();
    let value = SHA256.digest(&[&[0; 32], &padded]).unwrap();
    let matched = match_pcr(&list, SHA256, value.as_slice()).unwrap();
    assert_eq!((matched.at, matched.extended), (1, Extended::PaddedSha1));
    // A violation was twenty bytes of ones, and zeroes.
    let broken = [bytes.clone(), binary(10, &[0; 20], "ima-ng", &file("/a"))].concat();
    let broken = List::parse(&broken).unwrap();
    let ones = [[0xff; 20].as_slice(), &[0; 12]].concat();
    let after = SHA256.digest(&[value.as_slice(), &ones]).unwrap();
    let matched = match_pcr(&broken, SHA256, after.as_slice()).unwrap();
    assert_eq!((matched.at, matched.extended), (2, Extended::PaddedSha1));
    let mixed = SHA256.digest(&[value.as_slice(), &[0xff; 32]]).unwrap();
    assert_eq!(match_pcr(&broken, SHA256, mixed.as_slice()), None);
    let native = replay(&list, SHA256).unwrap().value;
    let matched = match_pcr(&list, SHA256, native.as_slice()).unwrap();
    assert_eq!(matched.extended, Extended::Native);
}

#[test]
fn malformed_lists_say_where() {
    let good = honest(SHA1, &["boot_aggregate", "/a"]);
    let of = |template: &str, data: &[u8]| binary(10, &[1; 20], template, data);
    let line = |text: &str| text.as_bytes().to_vec();
    let zero = "00".repeat(20);
    let rows: &[(&str, Vec<u8>, &str)] = &[
        ("nothing", vec![], "the list is empty"),
        (
            "one byte short",
            good[..good.len() - 1].to_vec(),
            "entry 2: malformed: ima_measurements.template_data at offset",
        ),
        (
            "a register there is not",
            binary(24, &[1; 20], "ima-ng", &file("/a")),
            "entry 1: malformed: ima_measurements.pcr at offset 0: 0x18",
        ),
        (
            "a template nobody knows",
            of("ima-xx", &file("/a")),
            "ima_measurements.template_name at offset 24",
        ),
        (
            "a name of 4 GiB - 1",
            [&10_u32.to_le_bytes()[..], &[1; 20], &[0xff; 4]].concat(),
            "template_name_len at offset 24: 4294967295 exceeds the limit of 255",
        ),
        (
            "data of 4 GiB - 1",
            [
                &10_u32.to_le_bytes()[..],
                &[1; 20],
                &6_u32.to_le_bytes(),
                b"ima-ng",
                &[0xff; 4],
            ]
            .concat(),
            "template_data_len at offset 34: 4294967295 exceeds the limit of 1048576",
        ),
        (
            "a field longer than the data",
            of("ima-ng", &[9, 0, 0, 0, 1]),
            "template_data.field_data at offset 42: needs 9 bytes, 1 left",
        ),
        (
            "more fields than the template",
            of("ima-ng", &[file("/a"), data(&[b"x"])].concat()),
            "template_data.end at offset",
        ),
        (
            "a digest without its algorithm",
            of("ima-ng", &data(&[&[7; 32], b"/a\0"])),
            "no digest with its algorithm",
        ),
        (
            "text of no list",
            line("hello world\n"),
            "line 1, pcr: is no number",
        ),
        (
            "too few fields",
            line(&format!("10 {zero} ima-ng sha1:{zero}\n")),
            "line 1, template_data: is absent",
        ),
        (
            "too many fields",
            line(&format!("10 {zero} ima-ng sha1:{zero} /a b\n")),
            "line 1, template_data: has more fields",
        ),
        (
            "a hash of odd length",
            line("10 00ff ima-ng sha1:00 /a\n"),
            "line 1, template_hash",
        ),
        (
            "the oldest template with a longer digest",
            line(&format!("10 {zero} ima {zero}00 /init\n")),
            "line 1, template_data.d: is not the hex of 20 bytes",
        ),
        (
            "a line after an empty one",
            line(&format!("10 {zero} ima-ng sha1:{zero} a\n\n10 x\n")),
            "line 3, line: follows an empty one",
        ),
        ("only a line feed", line("\n\n\n\n"), "the list is empty"),
        (
            "what is no text",
            [&b"10 \xff"[..], b"\n"].concat(),
            "line 1, template_hash: is not the hex of a hash",
        ),
        (
            "a name that is no text",
            [format!("10 {zero} ").as_bytes(), b"ima-\xff\n"].concat(),
            "line 1, template_name: a template",
        ),
        (
            "hashes of two lengths",
            line(&format!(
                "10 {zero} ima-ng :00 a\n10 {zero}{} ima-ng :00 a\n",
                "00".repeat(12)
            )),
            "line 2, template_hash: is of another length",
        ),
        (
            "a file without a name",
            line(&format!("10 {zero} ima-sig sha1:{zero}\n")),
            "line 1, template_data: is absent",
        ),
        (
            "an owner of three bytes",
            of("d-ng|n-ng|iuid", &data(&[b"a:\0b", b"/a\0", &[0; 3]])),
            "not four bytes",
        ),
        (
            "a mode of four bytes",
            of("d-ng|n-ng|imode", &data(&[b"a:\0b", b"/a\0", &[0; 4]])),
            "not two bytes",
        ),
        (
            "a digest field without a byte",
            of("ima-ng", &data(&[b"", b"/a\0"])),
            "no digest with its algorithm",
        ),
        (
            "sixteen fields",
            of(&["n-ng"; 16].join("|"), &[]),
            "a template with fields of no known kind",
        ),
    ];
    for (name, bytes, want) in rows {
        let error = List::parse(bytes).unwrap_err();
        let text = std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), |fault| format!("{error}: {fault}"));
        assert!(text.contains(want), "{name}: {text}");
    }
    let entry = good.len() / 2;
    for len in 1..good.len() {
        let whole = List::parse(&good[..len]).is_ok();
        // The first entry is longer than the second by the length of its name.
        let first = honest(SHA1, &["boot_aggregate"]).len();
        assert_eq!(whole, len == first, "{len} of {entry}");
    }
}

#[test]
fn without_all_registers_under_it_an_aggregate_is_another_or_nobody_knows() {
    use Aggregate::{Other, Same, SameFirmware, Unchecked};
    let bank = HashAlgorithm::Sha256;
    let value = bank.digest(&[b"a register"]).unwrap();
    let under = |count| bank.digest(&vec![value.as_slice(); count]).unwrap();
    let rows = [
        ("of eight", under(8), 0..8, Some(SameFirmware)),
        ("of eight of ten", under(8), 0..10, Some(SameFirmware)),
        ("of ten", under(10), 0..10, Some(Same)),
        ("of nine", under(9), 0..10, Some(Other)),
        ("of ten, the last unknown", under(10), 0..9, Some(Unchecked)),
        ("of others, two unknown", under(9), 0..8, Some(Unchecked)),
        ("of others, one unknown", under(11), 0..9, Some(Unchecked)),
        (
            "of others, the first unknown",
            under(9),
            1..10,
            Some(Unchecked),
        ),
        ("nothing known", under(8), 0..0, Some(Unchecked)),
    ];
    for (name, digest, known, want) in rows {
        let text = format!(
            "10 {} ima-ng sha256:{digest} boot_aggregate\n",
            "00".repeat(20)
        );
        let list = List::parse(text.as_bytes()).unwrap();
        let register = |index: u8| known.contains(&index).then_some(&value);
        let found = boot_aggregate(&at(&list, 0), bank, register);
        assert_eq!(found, want, "{name}");
    }
}
