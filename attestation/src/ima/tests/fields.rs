//! Byte orders, fields that may be empty, and who finds which field.

use super::super::{ByteOrder, Form, List, Template, replay};
use super::{SHA1, SHA256, at, binary, data, file};
use crate::crypto::HashAlgorithm;

/// One entry of a kernel whose numbers have their highest byte first.
fn highest_first(template: &str, fields: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
    let field = |field: &&[u8]| {
        let len = u32::try_from(field.len()).unwrap();
        [&len.to_be_bytes()[..], field].concat()
    };
    let data: Vec<u8> = fields.iter().flat_map(field).collect();
    let hash = SHA1.digest(&[&data]).unwrap();
    let bytes = [
        &10_u32.to_be_bytes()[..],
        hash.as_slice(),
        &u32::try_from(template.len()).unwrap().to_be_bytes(),
        template.as_bytes(),
        &u32::try_from(data.len()).unwrap().to_be_bytes(),
        &data,
    ];
    (bytes.concat(), data)
}

#[test]
fn the_byte_order_is_the_kernels_and_is_hashed() {
    let digest = [&b"sha256:\0"[..], &[7; 32]].concat();
    let owner = 1000_u32.to_be_bytes();
    let mode = 0o100_644_u16.to_be_bytes();
    let fields: &[&[u8]] = &[&digest, b"/a\0", &owner, &mode];
    let (bytes, data) = highest_first("d-ng|n-ng|iuid|imode", fields);
    let list = List::parse(&bytes).unwrap();
    assert_eq!((list.form(), list.order()), (Form::Binary, ByteOrder::Big));
    let entry = at(&list, 0);
    assert!(entry.is_consistent());
    assert_eq!((entry.pcr, entry.owner()), (10, Some(1000)));
    assert_eq!(entry.file_name(), Some(&b"/a"[..]));
    let hash = SHA256.digest(&[&data]).unwrap();
    let want = SHA256.digest(&[&[0; 32], hash.as_slice()]);
    assert_eq!(replay(&list, SHA256).map(|replayed| replayed.value), want);
    // Text shows no byte order; its hash does.
    let text = format!(
        "10 {} d-ng|n-ng|iuid|imode sha256:{} /a 1000 33188\n",
        SHA1.digest(&[&data]).unwrap(),
        "07".repeat(32)
    );
    let ascii = List::parse(text.as_bytes()).unwrap();
    assert_eq!((ascii.order(), &ascii.bytes), (ByteOrder::Big, &list.bytes));
    let other = text.replace("/a", "/b");
    let other = List::parse(other.as_bytes()).unwrap();
    assert_eq!(other.order(), ByteOrder::Little, "fits neither");
    assert!(!at(&other, 0).is_consistent());
    let (mut short, _) = highest_first("ima-ng", &[&digest, b"/a\0"]);
    short.pop();
    assert!(List::parse(&short).is_err());
}

#[test]
fn what_has_no_file_behind_it_has_empty_fields() {
    let digest = [&b"sha256:\0"[..], &[7; 32]].concat();
    let name = b"boot_aggregate\0";
    let sha = "07".repeat(32);
    let rows: &[(&str, usize)] = &[("evm-sig", 7), ("ima-modsig", 3), ("ima-sigv2", 1)];
    for (template, empty) in rows {
        let tag = if *template == "ima-sigv2" { "ima:" } else { "" };
        let tagged = [tag.as_bytes(), &digest].concat();
        let mut fields: Vec<&[u8]> = vec![&tagged, name];
        fields.extend(vec![&[][..]; *empty]);
        let data = data(&fields);
        let hash = SHA1.digest(&[&data]).unwrap();
        let bytes = binary(10, hash.as_slice(), template, &data);
        let list = List::parse(&bytes).unwrap();
        let entry = at(&list, 0);
        assert!(entry.is_consistent(), "{template}");
        assert_eq!(entry.file_digest().unwrap().algorithm, "sha256");
        assert_eq!((entry.signature(), entry.owner()), (None, None));
        assert_eq!(entry.appended_signature(), None);
        let line = format!("10 {hash} {template} {tag}sha256:{sha} boot_aggregate");
        // As the kernel writes it, and as a tool leaves it that cuts blanks off.
        for blanks in [" ".repeat(*empty), String::new()] {
            let text = format!("{line}{blanks}\n");
            let ascii = List::parse(text.as_bytes()).unwrap();
            assert_eq!(ascii.bytes, list.bytes, "{template}");
        }
        let long = format!("{line}{}\n", " ".repeat(empty + 1));
        assert!(List::parse(long.as_bytes()).is_err(), "{template}");
    }
}

#[test]
fn fields_are_found_by_their_kind() {
    let digest = [&b"sha256:\0"[..], &[7; 32]].concat();
    let without = [&b"sha512:\0"[..], &[8; 64]].concat();
    let modsig = data(&[&digest, b"/a.ko\0", &[3, 2], &without, &[0x30]]);
    let owned = data(&[
        &digest,
        b"/bin/a\0",
        &[5, 2],
        b"security.ima\0",
        &[33, 0, 0, 0],
        &[4],
        &7_u32.to_le_bytes(),
        &8_u32.to_le_bytes(),
        &[0xed, 0x81],
    ]);
    let buffer = data(&[&digest, b"kexec-cmdline\0", b"ro quiet"]);
    let bytes = [
        binary(10, &[1; 20], "ima-modsig", &modsig),
        binary(10, &[1; 20], "evm-sig", &owned),
        binary(10, &[1; 20], "ima-buf", &buffer),
    ]
    .concat();
    let list = List::parse(&bytes).unwrap();
    let signed = at(&list, 0);
    let (appended, message) = signed.appended_signature().unwrap();
    assert_eq!(
        (appended.algorithm, appended.digest),
        ("sha512", &[8; 64][..])
    );
    assert_eq!(
        (message, signed.signature()),
        (&[0x30][..], Some(&[3, 2][..]))
    );
    assert_eq!(signed.file_digest().unwrap().digest, [7; 32]);
    let owned = at(&list, 1);
    assert_eq!((owned.owner(), owned.group()), (Some(7), Some(8)));
    assert_eq!(
        (owned.signature(), owned.buffer()),
        (Some(&[5, 2][..]), None)
    );
    assert_eq!(at(&list, 2).buffer(), Some(&b"ro quiet"[..]));
    assert!(owned.template.is_known());
    assert!(!Template::from_name("d-ng|n-ng").unwrap().is_known());
}

#[test]
fn names_are_bytes_and_old_ones_have_blanks() {
    let name = b"/tmp/caf\xe9\0";
    let digest = [&b"sha256:\0"[..], &[7; 32]].concat();
    let data = data(&[&digest, name]);
    let hash = SHA1.digest(&[&data]).unwrap();
    let head = format!("10 {hash} ima-ng sha256:{} ", "07".repeat(32));
    let text = [head.as_bytes(), b"/tmp/caf\xe9\n"].concat();
    let list = List::parse(&text).unwrap();
    assert!(at(&list, 0).is_consistent());
    assert_eq!(at(&list, 0).file_name(), Some(&b"/tmp/caf\xe9"[..]));
    let hashed = [&[9; 20][..], b"/my file", &[0; 248]].concat();
    let hash = SHA1.digest(&[&hashed]).unwrap();
    let text = format!("10 {hash} ima {} /my file\n", "09".repeat(20));
    let list = List::parse(text.as_bytes()).unwrap();
    assert!(at(&list, 0).is_consistent());
    assert_eq!(at(&list, 0).file_name(), Some(&b"/my file"[..]));
}

#[test]
fn a_list_of_a_hash_the_kernel_lacks_has_sha1_and_zeroes() {
    let data = file("/a");
    let sha1 = SHA1.digest(&[&data]).unwrap();
    let padded = |len: usize| {
        let mut hash = sha1.as_slice().to_vec();
        hash.resize(len, 0);
        hash
    };
    for len in [32, 48, 64] {
        let bytes = binary(10, &padded(len), "ima-ng", &data);
        let list = List::parse(&bytes).unwrap();
        assert!(at(&list, 0).is_consistent(), "{len}");
        let mut other = padded(len);
        other[len - 1] = 1;
        let bytes = binary(10, &other, "ima-ng", &data);
        assert!(
            !at(&List::parse(&bytes).unwrap(), 0).is_consistent(),
            "{len}"
        );
    }
    let sm3 = HashAlgorithm::Sm3_256.digest(&[&data]).unwrap();
    let bytes = binary(10, sm3.as_slice(), "ima-ng", &data);
    assert!(at(&List::parse(&bytes).unwrap(), 0).is_consistent());
}
