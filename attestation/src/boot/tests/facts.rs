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

/// What GRUB measures a text with.
fn text(text: &[u8], data: &[u8]) -> Record {
    measured(8, EventType::IPL, text, data)
}

#[test]
fn what_grub_ran_is_told_if_all_of_it_was_measured() {
    let good = [
        text(b"insmod gzio", b"grub_cmd: insmod gzio\0"),
        text(b"set root=hd0\0", b"grub_cmd: set root=hd0"),
        text(b"grub_cmd: boot", b"grub_cmd: boot"),
        text(b"module text", b"module_cmdline: module text"),
    ];
    let facts = of(&good);
    let commands = ["insmod gzio", "set root=hd0", "boot", "module text"];
    assert_eq!(facts.commands, commands);
    let mut hides = good.to_vec();
    hides.push(text(b"initrd /initrd", b"grub_cmd: initrd /other\0"));
    assert_eq!(of(&hides).commands, [""; 0]);
    let many: Vec<Record> = (0..129)
        .map(|_| text(b"set x", b"grub_cmd: set x"))
        .collect();
    assert!(of(&many).cut && !of(&many[..128]).cut);
    // It is told that there are too many, and which kernel was started all the same.
    let mut many = many;
    many.push(text(b"linux /k ro", b"grub_cmd: linux /k ro\0"));
    many.push(text(b"/k ro", b"kernel_cmdline: /k ro\0"));
    assert_eq!(of(&many).command_line.unwrap().text, "/k ro");
}

/// A digest of the register of files is told, whatever it is said to be.
#[test]
fn files_are_all_that_their_register_holds() {
    let digest = |bytes: &[u8]| SHA256.digest(&[bytes]).unwrap();
    let file = measured(9, EventType::IPL, b"a file", b"/boot/vmlinuz\0");
    let tag =
        |tag: u32, content: &[u8]| measured(9, EventType::EVENT_TAG, content, &tag.to_le_bytes());
    let (initrd, options) = (0x8f3b_22ec, 0x8f3b_22ed);
    let stub = of(&[tag(options, b"options"), tag(initrd, b"initrd")]);
    assert_eq!(stub.files.unwrap(), []);
    assert_eq!(
        (stub.initrd, stub.load_options),
        (vec![digest(b"initrd")], Some(digest(b"options")))
    );
    assert!(!stub.boot_files_by_label);
    let both = of(&[file.clone(), tag(initrd, b"initrd")]);
    assert_eq!(both.files.unwrap(), [digest(b"a file"), digest(b"initrd")]);
    assert!(both.boot_files_by_label);
    // The file that GRUB read, said to be what the kernel's stub loaded.
    let retyped = of(&[tag(initrd, b"a file"), text(b"boot", b"grub_cmd: boot")]);
    assert!(retyped.boot_files_by_label);
    // The stub loads one ramdisk, after its options.
    for log in [
        vec![tag(initrd, b"i"), tag(options, b"o")],
        vec![tag(options, b"o"), tag(initrd, b"i"), tag(initrd, b"i")],
        vec![tag(options, b"o"), tag(options, b"o")],
    ] {
        let facts = of(&log);
        assert!(facts.boot_files_by_label);
        assert_eq!(facts.files.unwrap().len(), log.len());
    }
    let other = of(&[tag(7, b"a file")]);
    assert_eq!(other.files.unwrap(), [digest(b"a file")]);
}

/// Images and drivers are all that their registers hold, by whatever kind an event goes.
#[test]
fn no_image_is_hidden_by_another_name() {
    let digest = |bytes: &[u8]| SHA256.digest(&[bytes]).unwrap();
    let path = b"\x04\x04path";
    let image = EventType::EFI_BOOT_SERVICES_APPLICATION;
    let kinds = [
        image,
        EventType::EVENT_TAG,
        EventType::IPL,
        EventType::COMPACT_HASH,
        EventType::EFI_GPT_EVENT,
        EventType(0x8000_7777),
    ];
    for kind in kinds {
        let facts = of(&[
            measured(4, image, b"shim", path),
            measured(4, kind, b"evil", path),
        ]);
        assert_eq!(
            facts.applications,
            [digest(b"shim"), digest(b"evil")],
            "{kind}"
        );
        let facts = of(&[measured(2, kind, b"driver", path)]);
        assert_eq!(facts.drivers, [digest(b"driver")], "{kind}");
        let facts = of(&[measured(13, kind, b"sysext", path)]);
        assert_eq!(facts.extensions, [digest(b"sysext")], "{kind}");
        let facts = of(&[measured(0, kind, b"part", path)]);
        assert_eq!(facts.firmware_blobs, [digest(b"part")], "{kind}");
    }
    // What an image would be measured by never is a line of text, and no four bytes.
    let own = [
        record(
            4,
            EventType::EFI_ACTION,
            b"Calling EFI Application from Boot Option",
        ),
        record(
            4,
            EventType::EFI_ACTION,
            b"Returning from EFI Application\0",
        ),
        measured(4, EventType::EFI_ACTION, b"Exit", b"Exit\0"),
        record(4, EventType::SEPARATOR, &[0; 4]),
        record(4, EventType::SEPARATOR, &[0xff; 4]),
        measured(
            4,
            EventType::EFI_ACTION,
            b"MZ and more",
            b"Calling EFI Application",
        ),
        measured(4, EventType::SEPARATOR, b"MZ", &[0; 4]),
    ];
    assert_eq!(
        of(&own).applications,
        [digest(b"MZ and more"), digest(b"MZ")]
    );
}

/// What comes after the separator, anybody may have measured.
#[test]
fn firmware_speaks_before_its_separator() {
    let version = |text: &[u8]| record(0, EventType::S_CRTM_VERSION, text);
    let separator = |register| record(register, EventType::SEPARATOR, &[0; 4]);
    let own = of(&[version(b"1\0"), separator(0)]);
    assert_eq!(
        (own.firmware_version.as_deref(), own.late.version),
        (Some("1"), false)
    );
    let late = of(&[separator(0), version(b"2\0")]);
    assert_eq!(
        (late.firmware_version.as_deref(), late.late.version),
        (Some("2"), true)
    );
    // One of two is none, and could be a part of the firmware; as a part each is told.
    let two = of(&[version(b"1\0\0"), version(b"2\0\0"), separator(0)]);
    assert_eq!((two.firmware_version, two.firmware_blobs.len()), (None, 2));
    let order = record(
        1,
        EventType::EFI_VARIABLE_BOOT,
        &variable("BootOrder", &[1, 0]),
    );
    let own = of(&[order.clone(), separator(1)]);
    assert!(own.boot_order.is_some() && !own.late.order);
    let late = of(&[separator(1), order]);
    assert!(late.boot_order.is_some() && late.late.order);
    // Nor what goes by another kind there, which is somebody's who let an image pass.
    let data = variable("db", b"certificate");
    let late = [
        separator(7),
        record(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, &data),
        record(
            7,
            EventType::EFI_SPDM_DEVICE_POLICY,
            &variable("devdb", b"x"),
        ),
    ];
    let facts = of(&late);
    assert_eq!(facts.keys.len(), 0);
    assert_eq!(facts.authorities.len(), 2);
}

/// Where there is more than is told one by one, that is said.
#[test]
fn what_is_cut_is_said() {
    let image = EventType::EFI_BOOT_SERVICES_APPLICATION;
    for register in [0, 2, 4, 7, 13] {
        let one = measured(register, image, b"part", b"\xffpart");
        let many = vec![one; 129];
        assert!(of(&many).cut && !of(&many[1..]).cut, "{register}");
    }
    let tag = 0x8f3b_22ec_u32.to_le_bytes();
    let many = vec![measured(9, EventType::EVENT_TAG, b"initrd", &tag); 129];
    assert!(of(&many).cut && !of(&many[1..]).cut);
    let section = |number: usize| {
        let name = format!(".s{number}\0").into_bytes();
        let content = measured(11, EventType::IPL, b"content", &name);
        [record(11, EventType::IPL, &name), content]
    };
    let many: Vec<Record> = (0..129).flat_map(section).collect();
    let (all, most) = (of(&many), of(&many[..256]));
    assert_eq!((all.cut, all.sections.len()), (true, 128));
    assert_eq!((most.cut, most.sections.len()), (false, 128));
}

/// What a TDX guest's registers hold together is told apart as far as words go.
#[test]
fn a_guests_boot_is_told() {
    let sha384 = crate::crypto::HashAlgorithm::Sha384;
    let digest = |bytes: &[u8]| sha384.digest(&[bytes]).unwrap();
    let list = |name: &[u8]| measured(3, EventType::IPL, name, name);
    let image = EventType::EFI_BOOT_SERVICES_APPLICATION;
    let policy = EventType::EFI_VARIABLE_DRIVER_CONFIG;
    let mut records = vec![
        measured(1, EventType::EFI_HANDOFF_TABLES2, b"hob", b"\x09TdxTable\0"),
        record(1, policy, &variable("PK", b"platform")),
        record(1, policy, &variable("db", b"good")),
        record(1, EventType::SEPARATOR, &[0; 4]),
        record(
            1,
            EventType::EFI_VARIABLE_BOOT,
            &variable("BootOrder", &[1, 0]),
        ),
        record(
            1,
            EventType::EFI_VARIABLE_AUTHORITY,
            &variable("db", b"certificate"),
        ),
        record(2, EventType::EFI_GPT_EVENT, b"EFI PART\0\0\x01\0"),
        measured(2, image, b"MZ\x90", b"\x04path"),
        list(b"MokList\0"),
        record(3, EventType::IPL, &wide("ro quiet\0")),
        record(3, EventType::IPL, b".linux\0"),
        measured(3, EventType::IPL, b"image", b".linux\0"),
        measured(3, EventType::IPL, b"a file", b"/boot/file\0"),
    ];
    let of = |records: &[Record]| {
        let mut log = super::header(1, &[sha384]);
        for record in records {
            let mut record = record.clone();
            record.banks = vec![sha384];
            log.extend(super::written(&record));
        }
        Facts::of(&EventLog::parse(&log).unwrap(), sha384)
    };
    let facts = of(&records);
    assert!(facts.keys.keys().eq(&["db", "pk"]));
    assert_eq!(facts.boot_order.unwrap(), ["0001"]);
    assert_eq!(
        (facts.authorities.len(), facts.firmware_blobs.len()),
        (1, 1)
    );
    assert_eq!(facts.applications, [digest(b"MZ\x90")]);
    assert_eq!(facts.mok["mok_list"], digest(b"MokList\0"));
    assert_eq!(facts.sections["linux"], digest(b"image"));
    assert_eq!(facts.files.unwrap(), [digest(b"a file")]);
    let line = facts.command_line.unwrap();
    assert_eq!(
        (line.text.as_str(), line.by_grub, line.aggregated),
        ("ro quiet", false, false)
    );
    let grub = |text: &str, label: &str| {
        let data = format!("{label}{text}\0");
        measured(3, EventType::IPL, text.as_bytes(), data.as_bytes())
    };
    records.retain(|record| !is_wide_line(record));
    records.extend([
        grub("linux /k ro", "grub_cmd: "),
        grub("/k ro", "kernel_cmdline: "),
    ]);
    let line = of(&records).command_line.unwrap();
    assert_eq!(
        (line.text.as_str(), line.by_grub, line.aggregated),
        ("/k ro", true, false)
    );
    // What stands among the policy could be one of it.
    records.insert(2, measured(1, EventType::EFI_HANDOFF_TABLES2, b"x", b"x"));
    assert!(of(&records).keys.keys().eq(&["db"]));
}

fn is_wide_line(record: &Record) -> bool {
    record.register == 3 && record.data == wide("ro quiet\0")
}

#[test]
fn lists_of_shim_are_known_by_their_names_if_nothing_else_is_there() {
    let list = |name: &[u8]| measured(14, EventType::IPL, name, name);
    let all = [
        list(b"MokList\0"),
        list(b"MokListX\0"),
        list(b"MokListTrusted\0"),
    ];
    let facts = of(&all);
    assert_eq!((facts.mok.len(), facts.mok_by_label), (3, false));
    // In another order a list may go by another's name.
    let swapped = [all[1].clone(), all[0].clone()];
    assert!(of(&swapped).mok_by_label && !of(&all[1..]).mok_by_label);
    for more in [list(b"MokListX\0"), list(b"MokPolicy\0"), list(b"\xff")] {
        let mut log = all.to_vec();
        log.push(more);
        let facts = of(&log);
        assert_eq!((facts.mok.len(), facts.mok_by_label), (3, true));
    }
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn a_line_of_a_stub_is_bound_by_what_the_kernel_was_started_with() {
    let line = record(12, EventType::IPL, &wide("ro quiet\0"));
    let other = record(12, EventType::IPL, &wide("ro\0"));
    let credential = measured(12, EventType::IPL, b"0707", &wide("Credentials initrd\0"));
    let loads = |text: &str| {
        let tag = 0x8f3b_22ed_u32.to_le_bytes();
        measured(9, EventType::EVENT_TAG, &wide(text), &tag)
    };
    let initrd = measured(
        9,
        EventType::EVENT_TAG,
        b"i",
        &0x8f3b_22ec_u32.to_le_bytes(),
    );
    type Row<'a> = (&'a str, Vec<Record>, Option<bool>);
    let rows: Vec<Row<'_>> = vec![
        (
            "the kernel measured it, too",
            vec![line.clone(), loads("ro quiet\0"), initrd.clone()],
            Some(true),
        ),
        (
            "and without its end",
            vec![line.clone(), loads("ro quiet")],
            Some(true),
        ),
        (
            "twice, by menu and stub",
            vec![line.clone(), line.clone(), loads("ro quiet\0")],
            Some(true),
        ),
        (
            "beside something else",
            vec![line.clone(), credential, loads("ro quiet\0")],
            Some(true),
        ),
        (
            "the kernel measured nothing",
            vec![line.clone()],
            Some(false),
        ),
        (
            "the kernel was started with another",
            vec![line.clone(), loads("ro\0")],
            Some(false),
        ),
        (
            "after something that came first",
            vec![line.clone(), initrd, loads("ro quiet\0")],
            Some(false),
        ),
        (
            "and then another",
            vec![line.clone(), other, loads("ro quiet\0")],
            None,
        ),
        (
            "GRUB ran, too",
            vec![
                line.clone(),
                loads("ro quiet\0"),
                text(b"boot", b"grub_cmd: boot"),
            ],
            None,
        ),
        (
            "GRUB hides something",
            vec![
                line.clone(),
                loads("ro quiet\0"),
                text(b"x", b"grub_cmd: y"),
            ],
            None,
        ),
        (
            "nobody measured it",
            vec![measured(12, EventType::IPL, b"x", &wide("ro quiet\0"))],
            None,
        ),
    ];
    for (name, log, want) in rows {
        let found = of(&log).command_line;
        assert_eq!(found.as_ref().map(|line| line.aggregated), want, "{name}");
        assert!(found.is_none_or(|line| line.text == "ro quiet" && !line.by_grub));
    }
    let grub = [
        text(b"linux /k ro", b"grub_cmd: linux /k ro\0"),
        text(b"/k ro", b"kernel_cmdline: /k ro\0"),
    ];
    let found = of(&grub).command_line.unwrap();
    assert_eq!(
        (found.text.as_str(), found.by_grub, found.aggregated),
        ("/k ro", true, true)
    );
}

/// Once user space measures, root may name sections that no image has.
#[test]
fn an_image_has_the_sections_before_the_first_phase() {
    let section = |name: &[u8]| {
        [
            record(11, EventType::IPL, name),
            measured(11, EventType::IPL, b"content", name),
        ]
    };
    let phase = record(11, EventType::IPL, b"enter-initrd");
    let image = section(b".linux\0");
    let late = section(b".cmdline\0");
    let log = [&image[..], &[phase], &late].concat();
    let facts = of(&log);
    assert_eq!(facts.sections.keys().collect::<Vec<_>>(), ["linux"]);
    let log = [&image[..], &late].concat();
    assert_eq!(of(&log).sections.len(), 2);
    // The image's own is said to be something else, and another put behind.
    let mut hides = [&image[..], &late, &section(b".cmdline\0")].concat();
    for index in [2, 3] {
        hides[index].data = b"x".to_vec();
    }
    assert_eq!(of(&hides).sections.len(), 1);
    // Names that nobody measured, and what is no section's.
    let other = measured(11, EventType::IPL, b"other", b".linux\0");
    let log = [&[other.clone(), other][..], &image].concat();
    assert_eq!(of(&log).sections.len(), 0);
    let log = [&section(b"linux\0")[..], &image].concat();
    assert_eq!(of(&log).sections.len(), 0);
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
