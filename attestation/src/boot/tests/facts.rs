//! What was booted: told where it was measured, and not where it only stands beside a digest.

use super::super::{EventLog, EventType, Facts};
use super::{Record, SHA256, agile, record, variable};

fn of(records: &[Record]) -> Facts {
    let bytes = agile(records);
    Facts::of(&EventLog::parse(&bytes).unwrap(), SHA256)
}

fn measured(register: u32, kind: EventType, measured: &[u8], data: &[u8]) -> Record {
    let mut record = record(register, kind, data);
    record.measured = measured.to_vec();
    record
}

fn option(description: &str) -> Vec<u8> {
    let text = description.encode_utf16().chain([0]);
    let text: Vec<u8> = text.flat_map(u16::to_le_bytes).collect();
    [&[1, 0, 0, 0, 4, 0][..], &text, &[0x7f, 0xff, 4, 0]].concat()
}

#[test]
fn a_firmware_version_is_text_or_a_guid() {
    let kind = EventType::S_CRTM_VERSION;
    let guid = [
        0x1e, 0xfb, 0x6b, 0x54, 0x0c, 0x1d, 0x55, 0x40, 0xa4, 0xad, 0x4e, 0xf4, 0xbf, 0x17, 0xb8,
        0x3a,
    ];
    type Row<'a> = (&'a str, &'a [u8], &'a [u8], Option<&'a str>);
    let rows: &[Row<'_>] = &[
        ("two bytes", b"v\x001\0\0\0", b"v\x001\0\0\0", Some("v1")),
        (
            "one byte",
            b"loader 7 (x)\0",
            b"loader 7 (x)\0",
            Some("loader 7 (x)"),
        ),
        ("an even number of them", b"v1.0", b"v1.0", Some("v1.0")),
        (
            "hashed without its end",
            b"v\x001\0",
            b"v\x001\0\0\0",
            Some("v1"),
        ),
        (
            "GUID",
            &guid,
            &guid,
            Some("546bfb1e-1d0c-4055-a4ad-4ef4bf17b83a"),
        ),
        (
            "eight letters",
            b"A\0B\0C\0D\0E\0F\0G\0H\0",
            b"A\0B\0C\0D\0E\0F\0G\0H\0",
            Some("ABCDEFGH"),
        ),
        ("none", b"\0\0", b"\0\0", Some("")),
        ("not what was measured", b"v\x001\0", b"v\x002\0", None),
    ];
    for (name, hashed, data, want) in rows {
        let facts = of(&[measured(0, kind, hashed, data)]);
        assert_eq!(facts.firmware_version.as_deref(), *want, "{name}");
    }
    let elsewhere = of(&[measured(1, kind, b"v1", b"v1")]);
    assert_eq!(elsewhere.firmware_version, None);
}

#[test]
fn boot_options_are_told_if_they_were_measured() {
    let order = variable("BootOrder", &[1, 0, 0x0a, 0]);
    let entry = variable("Boot0001", &option("debian"));
    for kind in [EventType::EFI_VARIABLE_BOOT, EventType::EFI_VARIABLE_BOOT2] {
        let facts = of(&[record(1, kind, &order), record(1, kind, &entry)]);
        assert_eq!(facts.boot_order.unwrap(), ["0001", "000A"]);
        assert_eq!(facts.boot_options["0001"], "debian");
    }
    let kind = EventType::EFI_VARIABLE_BOOT;
    let value = measured(1, kind, &[1, 0, 0x0a, 0], &order);
    assert_eq!(of(&[value]).boot_order.unwrap(), ["0001", "000A"]);
    for (name, lies) in [
        ("other data", measured(1, kind, b"else", &order)),
        ("other register", record(5, kind, &order)),
        (
            "other kind",
            record(1, EventType::EFI_VARIABLE_AUTHORITY, &order),
        ),
        ("no variable", record(1, kind, b"BootOrder")),
    ] {
        assert_eq!(of(&[lies]).boot_order, None, "{name}");
    }
    let other = variable("BootCurrent", &[1, 0]);
    assert!(of(&[record(1, kind, &other)]).boot_options.is_empty());
}

#[test]
fn what_grub_ran_is_told_if_it_was_measured() {
    let line = |text: &[u8], data: &[u8]| measured(8, EventType::IPL, text, data);
    let good = [
        line(b"insmod gzio", b"grub_cmd: insmod gzio\0"),
        line(b"set root=hd0\0", b"grub_cmd: set root=hd0"),
        line(b"grub_cmd: boot", b"grub_cmd: boot"),
        line(b"initrd /initrd", b"grub_cmd: initrd /other\0"),
        line(b"module text", b"module_cmdline: text"),
    ];
    let facts = of(&good);
    assert_eq!(facts.commands, ["insmod gzio", "set root=hd0", "boot"]);
    let files = of(&[
        measured(9, EventType::IPL, b"a file", b"/boot/vmlinuz\0"),
        measured(
            9,
            EventType::EVENT_TAG,
            b"initrd",
            &0x8f3b_22ec_u32.to_le_bytes(),
        ),
    ]);
    assert_eq!(files.files.unwrap(), [SHA256.digest(&[b"a file"]).unwrap()]);
    assert_eq!(files.initrd, [SHA256.digest(&[b"initrd"]).unwrap()]);
    let many: Vec<Record> = (0..129).map(|_| line(b"x", b"grub_cmd: x")).collect();
    assert!(of(&many).cut && !of(&many[..128]).cut);
}

#[test]
fn parts_are_told_by_their_digests() {
    let (blob, blob2) = (
        EventType::EFI_PLATFORM_FIRMWARE_BLOB,
        EventType::EFI_PLATFORM_FIRMWARE_BLOB2,
    );
    let facts = of(&[
        measured(0, blob, b"pei", &[0; 16]),
        measured(0, blob2, b"dxe", b"\x03FV1"),
        measured(1, blob, b"elsewhere", &[0; 16]),
        measured(13, EventType::IPL, b"sysext", b"x"),
    ]);
    let digest = |bytes: &[u8]| SHA256.digest(&[bytes]).unwrap();
    assert_eq!(facts.firmware_blobs, [digest(b"pei"), digest(b"dxe")]);
    assert_eq!(facts.extensions, [digest(b"sysext")]);
}

#[test]
fn reference_manifests_are_named_and_nothing_more() {
    let guid = [
        0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 3, 0x2b, 0x8c,
    ];
    let event = |signature: &[u8]| {
        let data = [signature, &[7, 0, 0, 0], &guid].concat();
        record(0, EventType::NO_ACTION, &data)
    };
    let signatures: [&[u8]; 3] = [
        b"SP800-155 Event\0",
        b"SP800-155 Event2",
        b"SP800-155 Event3",
    ];
    let facts = of(&signatures.map(event));
    assert_eq!(facts.manifests, ["8be4df61-93ca-11d2-aa0d-00e098032b8c"; 3]);
    let short = record(0, EventType::NO_ACTION, b"SP800-155 Event\0\x07\0\0\0");
    let other = event(b"SP800-155 Event9");
    let extended = record(0, EventType::ACTION, &event(signatures[0]).data);
    assert!(of(&[short, other, extended]).manifests.is_empty());
}
