//! Reports: which are read, and what is wrong with their neighbours.

use super::made::{FWID, NONCE, Said, hopper, p384, sign};
use crate::gpu::{
    Checked, Entry, FwidState, Mode, OpaqueRefused, Report, ReportRefused, unpack_report,
};

fn code(bytes: &[u8]) -> Option<&'static str> {
    Report::parse(bytes).err().map(|error| error.code())
}

fn text(bytes: &[u8]) -> String {
    match Report::parse(bytes) {
        Ok(_) => "read".to_owned(),
        Err(
            ReportRefused::Framing(error) | ReportRefused::Opaque(OpaqueRefused::Framing(error)),
        ) => error.to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_report_is_read_whole() {
    let bytes = Said::hopper().signed(&p384());
    let report = Report::parse(&bytes).unwrap();
    assert_eq!(report.nonce, &NONCE);
    assert_eq!(report.responder_nonce, &[0x5e; 32]);
    assert_eq!((report.blocks.len(), report.slot), (64, 0));
    assert_eq!(report.block(36), Some(&[36; 48][..]));
    assert_eq!((report.block(0), report.block(65)), (None, None));
    assert_eq!(report.trailing_zeros, 0);
    let said = &report.opaque;
    assert_eq!(said.driver_version.as_deref(), Some("550.90.07"));
    assert_eq!(said.vbios_version.as_deref(), Some("96.00.9F.00.01"));
    assert_eq!((said.gpu_info, said.board_id), (Some(0x180), Some(0x3b1)));
    assert_eq!(said.chip_sku.as_deref(), Some("882"));
    assert_eq!(said.project_sku_mod.as_deref(), Some(""));
    assert_eq!((said.nvdec, said.fwid), (Some(0x55), Some(FWID)));
    assert_eq!(said.extend_counts.as_deref(), Some(&[1; 64][..]));
    assert_eq!(said.mode(), Some(Mode::SinglePass));
    assert_eq!((said.version, said.entries.len()), (0, 14));
    assert_eq!((&said.unknown, &said.unread), (&vec![], &vec![]));
}

#[test]
fn malformed_reports_say_where() {
    let good = Said::hopper().unsigned();
    let signed = |bytes: Vec<u8>| [bytes, vec![7; 96]].concat();
    let set = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        signed(bytes)
    };
    // Where the first block begins, and what follows the last.
    let (first, after) = (45, 45 + 64 * 55);
    let opaque_len = u16::try_from(good.len() - after - 34).unwrap();
    let short = |len: usize| signed(good.clone())[..len].to_vec();
    let largest = |more: usize| {
        let with = |value: Vec<u8>| signed(Said::hopper().with(200, &value).unsigned());
        let least = with(Vec::new()).len();
        with(vec![7; 0x2000 - least + more])
    };
    let rest = u32::try_from(good.len() + 96 - first)
        .unwrap()
        .to_le_bytes();
    for (name, bytes, want) in [
        ("as made", signed(good.clone()), "read"),
        ("as long as reports can be", largest(0), "read"),
        (
            "a byte longer",
            largest(1),
            "report.report at offset 0: 8193 exceeds the limit of 8192",
        ),
        (
            "a record to the last byte",
            set(42, &rest[..3]),
            "report.response.MeasurementRecordLength at offset 42: is not that of its blocks",
        ),
        (
            "empty",
            Vec::new(),
            "report.request.SPDMVersion at offset 0: needs 1 bytes, 0 left",
        ),
        (
            "another version",
            set(0, &[0x21]),
            "report.request.SPDMVersion at offset 0: found 0x21, wanted 0x11",
        ),
        (
            "another request",
            set(1, &[0xe1]),
            "report.request.RequestResponseCode at offset 1: found 0xe1, wanted 0xe0",
        ),
        (
            "no signature asked for",
            set(2, &[0]),
            "report.request.Param1 at offset 2: asks for no signature",
        ),
        (
            "one block asked for",
            set(3, &[1]),
            "report.request.Param2 at offset 3: found 0x1, wanted 0xff",
        ),
        (
            "another response version",
            set(37, &[0x10]),
            "report.response.SPDMVersion at offset 37: found 0x10, wanted 0x11",
        ),
        (
            "an error in response",
            set(38, &[0x7f]),
            "report.response.RequestResponseCode at offset 38: found 0x7f, wanted 0x60",
        ),
        (
            "no block",
            set(41, &[0]),
            "report.response.NumberOfBlocks at offset 41: is zero: nothing was measured",
        ),
        (
            "a block too few",
            set(41, &[63]),
            "report.response.MeasurementRecordLength at offset 42: is not that of its blocks",
        ),
        (
            "a block too many",
            set(41, &[65]),
            "report.block.MeasurementSpecification at offset 3566: found 0x5e, wanted 0x1",
        ),
        (
            "a longer record",
            set(42, &[0xff, 0xff, 0xff]),
            "report.response.MeasurementRecord at offset 45: needs 16777215 bytes, 4072 left",
        ),
        (
            "a record of other length",
            set(42, &[0xc1]),
            "report.response.MeasurementRecordLength at offset 42: is not that of its blocks",
        ),
        (
            "block zero",
            set(first, &[0]),
            "report.block.Index at offset 45: is zero or stands twice",
        ),
        (
            "a block twice",
            set(first, &[2]),
            "report.block.Index at offset 100: is zero or stands twice",
        ),
        (
            "another specification",
            set(first + 1, &[2]),
            "report.block.MeasurementSpecification at offset 46: found 0x2, wanted 0x1",
        ),
        (
            "a block of other size",
            set(first + 2, &[52]),
            "report.block.MeasurementSize at offset 47: is not that of the value and its header",
        ),
        (
            "a value of other size",
            set(first + 5, &[47]),
            "report.block.MeasurementSize at offset 47: is not that of the value and its header",
        ),
        (
            "opaque data too long",
            set(after + 32, &[0xff, 0xff]),
            "report.response.OpaqueData at offset 3599: needs 65535 bytes, 518 left",
        ),
        (
            "opaque data too short",
            set(after + 32, &(opaque_len - 1).to_le_bytes()),
            "opaque data.value at offset 4020: needs 1 bytes, 0 left",
        ),
        (
            "signature cut short",
            short(good.len() + 95),
            "report.response.Signature.s at offset 4069: needs 48 bytes, 47 left",
        ),
        (
            "three zeros after it",
            [signed(good.clone()), vec![0; 3]].concat(),
            "read",
        ),
        (
            "four zeros after it",
            [signed(good.clone()), vec![0; 4]].concat(),
            "report.end at offset 4117: 4 bytes too many",
        ),
        (
            "something after it",
            [signed(good.clone()), vec![0, 1]].concat(),
            "report.end at offset 4117: 2 bytes too many",
        ),
        (
            "longer than any report",
            vec![0x11; 0x2001],
            "report.report at offset 0: 8193 exceeds the limit of 8192",
        ),
    ] {
        assert_eq!(text(&bytes), want, "{name}");
    }
    for len in 0..signed(good.clone()).len() {
        assert_eq!(code(&short(len)), Some("report-framing"), "cut after {len}");
    }
}

#[test]
fn other_versions_of_spdm_are_told_from_bad_reports() {
    let good = Said::hopper().signed(&p384());
    let with = |front: &[u8]| [front, &good[front.len()..]].concat();
    for (name, bytes, want) in [
        (
            "SPDM 1.2 transcript",
            [&[0x10, 0x84, 0, 0][..], &good].concat(),
            Some("unsupported-spdm-version"),
        ),
        (
            "SPDM 1.2 alone",
            with(&[0x12, 0xe0]),
            Some("unsupported-spdm-version"),
        ),
        (
            "SPDM 1.3 alone",
            with(&[0x13, 0xe0]),
            Some("unsupported-spdm-version"),
        ),
        (
            "SPDM 1.0 alone",
            with(&[0x10, 0xe0]),
            Some("report-framing"),
        ),
        (
            "something else",
            with(&[0x12, 0xe1]),
            Some("report-framing"),
        ),
        ("as made", good.clone(), None),
    ] {
        assert_eq!(code(&bytes), want, "{name}");
    }
}

#[test]
fn opaque_data_are_typed_and_unknown_ones_kept() {
    let read = |said: &Said| {
        let bytes = said.signed(&p384());
        Report::parse(&bytes).map(|report| {
            let opaque = &report.opaque;
            (
                opaque.unknown.clone(),
                opaque.unread.clone(),
                opaque.mode(),
                opaque.vbios_version.clone(),
            )
        })
    };
    let version = Some("96.00.9F.00.01".to_owned());
    let good = |said: &Said| read(said).unwrap();
    let plain = Said::hopper();
    let spt = Some(Mode::SinglePass);
    for (name, said, want) in [
        (
            "unknown type",
            plain.clone().with(200, &[1]),
            (vec![200], vec![], spt, version.clone()),
        ),
        (
            "empty unknown type",
            plain.clone().with(200, &[]),
            (vec![200], vec![], spt, version.clone()),
        ),
        (
            "board id of other size",
            plain.clone().with(14, &[1]),
            (vec![], vec![14], spt, version.clone()),
        ),
        (
            "features win",
            plain.clone().with(36, &[1, 0]),
            (vec![], vec![], Some(Mode::MultiPass), version.clone()),
        ),
        (
            "features alone",
            plain.clone().without(&[21]).with(36, &[2, 0]),
            (vec![], vec![], Some(Mode::ProtectedPcie), version.clone()),
        ),
        (
            "features unknown",
            plain.clone().with(36, &[3, 0]),
            (vec![], vec![], None, version.clone()),
        ),
        (
            "protected",
            plain.clone().with(21, &[0xaa]),
            (vec![], vec![], Some(Mode::ProtectedPcie), version.clone()),
        ),
        (
            "neither",
            plain.clone().without(&[21]),
            (vec![], vec![], None, version.clone()),
        ),
        (
            "version as text",
            plain.clone().with(6, b"96.10.55.00.0a\0"),
            (vec![], vec![], spt, Some("96.10.55.00.0A".to_owned())),
        ),
        (
            "no version",
            plain.clone().without(&[6]),
            (vec![], vec![], spt, None),
        ),
        (
            "known and not understood",
            plain.clone().with(33, &[7, 7]),
            (vec![], vec![], spt, version.clone()),
        ),
    ] {
        assert_eq!(good(&said), want, "{name}");
    }
    for (name, said, want) in [
        (
            "NVDEC neither on nor off",
            plain.clone().with(11, &[0]),
            "opaque-value",
        ),
        (
            "NVDEC of two bytes",
            plain.clone().with(11, &[0x55, 0x55]),
            "opaque-value",
        ),
        (
            "protected neither on nor off",
            plain.clone().with(21, &[1]),
            "opaque-value",
        ),
        (
            "FWID of SHA-256",
            plain.clone().with(20, &[1; 32]),
            "opaque-value",
        ),
        (
            "driver version that is no text",
            plain.clone().with(3, &[0xff]),
            "opaque-value",
        ),
        (
            "empty driver version",
            plain.clone().with(3, &[0]),
            "opaque-value",
        ),
        (
            "a zero inside the version",
            plain.clone().with(3, b"550\0.90"),
            "opaque-value",
        ),
        ("version 1", plain.clone().with(34, &[1, 0]), "read"),
        (
            "version 2",
            plain.clone().with(34, &[2, 0]),
            "unknown-opaque-version",
        ),
        (
            "version of one byte",
            plain.clone().with(34, &[1]),
            "opaque-value",
        ),
        (
            "features of one byte",
            plain.clone().with(36, &[1]),
            "opaque-value",
        ),
    ] {
        let found = read(&said).err().map_or("read", |error| error.code());
        assert_eq!(found, want, "{name}");
    }
    for kind in [14, 200, 20] {
        let mut twice = plain.clone().with(200, &[5]);
        let value = twice
            .opaque
            .iter()
            .find(|(own, _)| *own == kind)
            .unwrap()
            .1
            .clone();
        twice.opaque.push((kind, value));
        assert_eq!(
            read(&twice).unwrap_err().code(),
            "duplicate-opaque-type",
            "{kind}"
        );
    }
    let kept = plain.clone().with(200, &[1, 2, 3]).signed(&p384());
    let kept = Report::parse(&kept).unwrap();
    let entry = Entry {
        kind: 200,
        value: &[1, 2, 3],
    };
    assert_eq!(kept.opaque.entries.last(), Some(&entry));
    let both = plain.with(36, &[2, 0]).signed(&p384());
    assert!(Report::parse(&both).unwrap().opaque.mode_is_contradicted());
}

#[test]
fn no_byte_of_a_signed_report_can_be_changed() {
    let made = hopper(&Said::hopper());
    let anchors = made.chain.anchors();
    assert_eq!(made.wrong(), Vec::<&str>::new());
    let key = made.chain.certificates[0].key().unwrap();
    let mut parsed_and_bad = 0;
    for at in 0..made.report.len() {
        let mut report = made.report.clone();
        report[at] ^= 1 << (at % 8);
        if let Ok(report) = Report::parse(&report) {
            assert!(report.verify(key).is_err(), "byte {at}");
            parsed_and_bad += 1;
        }
    }
    assert_eq!(made.judged(&anchors).signature, Checked::Good);
    // Most of a report has no structure: only the signature tells.
    assert!(parsed_and_bad > made.report.len() / 2);
}

#[test]
fn a_signature_is_by_this_key_over_all_of_it() {
    let key = p384();
    let said = Said::hopper();
    let made = hopper(&said);
    let by_other = Report::parse(&made.report).unwrap();
    let public = crate::crypto::PublicKey::from_spki_der(
        &rcgen::PublicKeyData::subject_public_key_info(&key),
    )
    .unwrap();
    assert!(by_other.verify(&public).is_err());
    let own = said.signed(&key);
    let own = Report::parse(&own).unwrap();
    assert_eq!(own.verify(&public), Ok(()));
    let p256 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let p256 = rcgen::PublicKeyData::subject_public_key_info(&p256);
    let p256 = crate::crypto::PublicKey::from_spki_der(&p256).unwrap();
    assert_eq!(own.verify(&p256).unwrap_err().code(), "signature-scheme");
    // Zeros behind the signature are not part of what is signed.
    let trailing = [said.signed(&key), vec![0; 2]].concat();
    let trailing = Report::parse(&trailing).unwrap();
    assert_eq!(trailing.trailing_zeros, 2);
    assert_eq!(trailing.verify(&public), Ok(()));
    // A signature over the response alone, as a reader of the specification might expect.
    let bytes = said.unsigned();
    let signature = sign(bytes[37..].to_vec(), &key).split_off(bytes.len() - 37);
    let response_only = [bytes, signature].concat();
    assert!(
        Report::parse(&response_only)
            .unwrap()
            .verify(&public)
            .is_err()
    );
}

#[test]
fn a_report_is_bytes_or_hex() {
    let bytes = Said::hopper().signed(&p384());
    let hex = hex::encode(&bytes);
    let lines = format!("{}\n{}\n", &hex[..64], &hex[64..].to_uppercase());
    for (name, file) in [
        ("bytes", &bytes[..]),
        ("hex", hex.as_bytes()),
        ("lines", lines.as_bytes()),
    ] {
        assert_eq!(unpack_report(file).unwrap(), bytes, "{name}");
    }
    assert_eq!(unpack_report(b"").unwrap(), b"".as_slice());
    assert!(unpack_report(b"11e").is_err());
    assert!(unpack_report(&[b'0'; 0x6001]).is_err());
}

#[test]
fn the_firmware_may_go_unreported() {
    let made = hopper(&Said::hopper().without(&[20]));
    let judged = made.judged(&made.chain.anchors());
    assert_eq!(
        (judged.fwid, judged.refused.len()),
        (FwidState::NotReported, 0)
    );
}
