use super::*;

/// The serialized form of tpm2-tools, one bank.
fn serialized(bank: HashAlgorithm, bitmap: u32, digests: &[Vec<u8>]) -> Vec<u8> {
    let mut out = 1u32.to_le_bytes().to_vec();
    for place in 0..16 {
        let id = if place == 0 { bank.tpm_id() } else { 0 };
        out.extend(id.to_le_bytes());
        out.push(if place == 0 { 3 } else { 0 });
        let bits = if place == 0 { bitmap } else { 0 };
        out.extend(bits.to_le_bytes());
        out.push(0);
    }
    let lists: Vec<&[Vec<u8>]> = digests.chunks(8).collect();
    out.extend(u32::try_from(lists.len()).unwrap().to_le_bytes());
    for list in lists {
        out.extend(u32::try_from(list.len()).unwrap().to_le_bytes());
        for place in 0..8 {
            let digest = list.get(place).cloned().unwrap_or_default();
            out.extend(u16::try_from(digest.len()).unwrap().to_le_bytes());
            let mut buffer = digest;
            buffer.resize(64, 0);
            out.extend(buffer);
        }
    }
    out
}

#[test]
fn values_are_read_from_every_form_alike() {
    let (a, b) = ("aa".repeat(32), "BB".repeat(32));
    let json = format!(r#"{{"sha256": {{"0": "{a}", "7": "{b}"}}}}"#);
    let yaml = format!("  sha256:\n    0 : 0x{a}\n    7 : 0x{b}\n");
    let dashed = format!("---\npcrs:\n  sha256:\n    0: {a} # firmware\n    7: {b}\n");
    let binary = serialized(
        HashAlgorithm::Sha256,
        0x81,
        &[vec![0xaa; 32], vec![0xbb; 32]],
    );
    let mut want = PcrValues::new();
    want.insert(HashAlgorithm::Sha256, 0, &[0xaa; 32]).unwrap();
    want.insert(HashAlgorithm::Sha256, 7, &[0xbb; 32]).unwrap();
    for (form, bytes) in [
        ("JSON", json.as_bytes()),
        ("YAML", yaml.as_bytes()),
        ("YAML with frills", dashed.as_bytes()),
        ("serialized", &binary),
    ] {
        assert_eq!(PcrValues::parse_file(bytes).unwrap(), want, "{form}");
    }
}

#[test]
fn files_that_say_two_things_or_none_are_refused() {
    let a = "aa".repeat(32);
    let json = |inner: &str| format!(r#"{{"sha256": {{{inner}}}}}"#);
    let cases = [
        (
            "an index twice",
            json(&format!(r#""0": "{a}", "0": "{a}""#)),
        ),
        (
            "an index with a zero in front",
            json(&format!(r#""00": "{a}""#)),
        ),
        ("an index that no TPM has", json(&format!(r#""32": "{a}""#))),
        ("a digest of another length", json(r#""0": "aa""#)),
        ("no hex", json(r#""0": "zz""#)),
        ("no such bank", r#"{"md5": {}}"#.to_owned()),
        ("broken JSON", "{".to_owned()),
        ("another shape", r#"{"sha256": []}"#.to_owned()),
        (
            "a bank twice",
            format!(r#"{{"sha256": {{"0": "{a}"}}, "SHA256": {{"0": "{a}"}}}}"#),
        ),
        ("a value before any bank", format!("0: 0x{a}")),
        (
            "an index twice in YAML",
            format!("sha256:\n0: 0x{a}\n0: 0x{a}\n"),
        ),
        ("prose", "these are the values".to_owned()),
        ("nothing", String::new()),
    ];
    for (case, text) in cases {
        assert!(PcrValues::parse_file(text.as_bytes()).is_err(), "{case}");
    }
}

#[test]
fn the_serialized_form_is_read_to_its_last_byte() {
    let digests: Vec<Vec<u8>> = (0..12).map(|n| vec![n; 32]).collect();
    let good = serialized(HashAlgorithm::Sha256, 0x0fff, &digests);
    let values = PcrValues::parse_serialized(&good).unwrap();
    assert_eq!(values.iter().count(), 12);
    assert_eq!(
        values.get(HashAlgorithm::Sha256, 11).unwrap().as_slice(),
        [11; 32]
    );
    assert_eq!(
        PcrSelection::of(HashAlgorithm::Sha256, &[0, 11])
            .registers()
            .count(),
        2
    );

    let patched = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let fewer = serialized(HashAlgorithm::Sha256, 0x0fff, &digests[..11]);
    let cases: &[(&str, &[u8], &str)] = &[
        (
            "one short",
            &good[..good.len() - 1],
            "pcrs.pcr_values.digests.buffer",
        ),
        (
            "one long",
            &[&good[..], &[0]].concat(),
            "end at offset 1200: 1 bytes too many",
        ),
        (
            "seventeen banks",
            &patched(0, &[17]),
            "17 exceeds the limit of 16",
        ),
        (
            "4 GiB - 1 banks",
            &patched(0, &[0xff; 4]),
            "4294967295 exceeds the limit of 16",
        ),
        (
            "4 GiB - 1 lists",
            &patched(132, &[0xff; 4]),
            "4294967295 exceeds the limit of 64",
        ),
        (
            "nine in a list",
            &patched(136, &[9]),
            "9 exceeds the limit of 8",
        ),
        (
            "a digest past its place",
            &patched(140, &[65]),
            "65 exceeds the limit of 64",
        ),
        (
            "no such bank",
            &patched(4, &[0x77]),
            "0x77 is not a value this field may hold",
        ),
        (
            "five bytes of bitmap",
            &patched(6, &[5]),
            "5 exceeds the limit of 4",
        ),
        (
            "fewer than selected",
            &fewer,
            "holds more or fewer values than selected",
        ),
        (
            "more than selected",
            &patched(7, &[0xfe]),
            "holds more or fewer values than selected",
        ),
    ];
    for (case, bytes, want) in cases {
        let refused = PcrValues::parse_serialized(bytes).unwrap_err();
        assert!(
            chain(&refused).contains(want),
            "{case}: {}",
            chain(&refused)
        );
    }
}

#[test]
fn a_register_has_one_value_of_its_banks_length() {
    let mut values = PcrValues::new();
    values.insert(HashAlgorithm::Sha384, 31, &[1; 48]).unwrap();
    for (case, index, value, want) in [
        ("twice", 31, &[1; 48][..], "sha384 PCR 31: given twice"),
        (
            "too long",
            1,
            &[1; 49],
            "sha384 PCR 1: 49 bytes where the bank has 48",
        ),
        (
            "too short",
            1,
            &[1; 32],
            "sha384 PCR 1: 32 bytes where the bank has 48",
        ),
        (
            "past the end",
            32,
            &[1; 48],
            "sha384 PCR 32: indices end at 31",
        ),
        (
            "far past the end",
            256,
            &[1; 48],
            "sha384 PCR 256: indices end at 31",
        ),
    ] {
        let refused = values
            .insert(HashAlgorithm::Sha384, index, value)
            .unwrap_err();
        assert_eq!(refused.to_string(), want, "{case}");
    }
}

#[test]
fn selections_marshal_to_what_was_read() {
    let bytes = [
        0, 0, 0, 2, 0x00, 0x0c, 3, 0x81, 0, 0, 0x00, 0x0b, 3, 0, 0, 0x80,
    ];
    let selection = PcrSelection::parse(&bytes).unwrap();
    assert_eq!(selection.marshal(), bytes);
    let registers: Vec<(HashAlgorithm, u8)> = selection.registers().collect();
    assert_eq!(
        registers,
        [
            (HashAlgorithm::Sha384, 0),
            (HashAlgorithm::Sha384, 7),
            (HashAlgorithm::Sha256, 23)
        ]
    );
    let wide = PcrSelection::of(HashAlgorithm::Sha256, &[31, 40]);
    assert_eq!(wide.marshal(), [0, 0, 0, 1, 0x00, 0x0b, 4, 0, 0, 0, 0x80]);
    assert_eq!(PcrSelection::parse(&wide.marshal()).unwrap(), wide);
    let one = [0x00, 0x0b, 4, 1, 0, 0, 0];
    let sixteen = [&[0, 0, 0, 16][..], &one.repeat(16)].concat();
    assert_eq!(PcrSelection::parse(&sixteen).unwrap().banks().count(), 16);
    assert!(PcrSelection::parse(&bytes[..15]).is_err());
    assert!(PcrSelection::parse(&[&bytes[..], &[0]].concat()).is_err());
}
