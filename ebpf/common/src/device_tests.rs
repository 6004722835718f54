use super::*;
use crate::Plain;

const NODE: Device = Device {
    major: 195,
    minor: 0,
};

fn device(major: u32, minor: u32) -> Device {
    Device { major, minor }
}

fn host() -> std::boxed::Box<HostDevices> {
    let mut host = HostDevices::zeroed();
    host.magic = HOST_MAGIC;
    host.count = 3;
    host.governed[0] = governed(195, 254, 255, class::GPU_CONTROL);
    host.governed[1] = governed(195, 0, 253, class::GPU);
    host.governed[2] = governed(MISC, 120, 120, class::RDMA);
    // Beyond the count: counts for nothing.
    host.governed[3] = governed(1, 0, 9, class::VFIO);
    host.majors[250 / 64] |= 1 << (250 % 64);
    host.misc[120 / 64] |= 1 << (120 % 64);
    host.misc[259 / 64] |= 1 << (259 % 64);
    host
}

#[test]
fn a_number_has_one_class() {
    let host = host();
    let rows: &[(&str, Device, u8, u8)] = &[
        // Name, device; class with the host's table and without.
        ("first GPU", NODE, class::GPU, class::GPU),
        ("last GPU", device(195, 253), class::GPU, class::GPU),
        (
            "nvidiactl",
            device(195, 255),
            class::GPU_CONTROL,
            class::GPU,
        ),
        (
            "beyond nvidiactl",
            device(195, 256),
            class::NONE,
            class::GPU,
        ),
        ("/dev/null", device(1, 3), class::NONE, class::NONE),
        ("a disk of SCSI", device(21, 0), class::NONE, class::NONE),
        ("rdma_cm", device(MISC, 120), class::RDMA, class::NONE),
        (
            "another of MISC",
            device(MISC, 259),
            class::NONE,
            class::NONE,
        ),
        (
            "MISC, unknown",
            device(MISC, 121),
            class::UNKNOWN,
            class::NONE,
        ),
        (
            "MISC, far",
            device(MISC, 9_999),
            class::UNKNOWN,
            class::NONE,
        ),
        (
            "VFIO's container",
            device(MISC, 196),
            class::UNKNOWN,
            class::VFIO,
        ),
        ("known driver", device(250, 7), class::NONE, class::NONE),
        ("new driver", device(249, 7), class::UNKNOWN, class::NONE),
        (
            "below the dynamic",
            device(233, 0),
            class::NONE,
            class::NONE,
        ),
        (
            "lowest dynamic",
            device(234, 0),
            class::UNKNOWN,
            class::NONE,
        ),
        (
            "above the dynamic",
            device(255, 0),
            class::NONE,
            class::NONE,
        ),
        ("extended", device(511, 0), class::UNKNOWN, class::NONE),
        (
            "no such major",
            device(4_000_000, 0),
            class::UNKNOWN,
            class::NONE,
        ),
        ("uverbs", device(231, 192), class::NONE, class::RDMA),
    ];
    for (name, device, with, without) in rows {
        assert_eq!(classify(Some(&host), *device), *with, "{name}");
        assert_eq!(classify(None, *device), *without, "{name}, no table");
    }
}

fn table() -> std::boxed::Box<crate::PolicyImage> {
    let mut image = crate::PolicyImage::zeroed();
    let grant = |first, last, unit, sharing| Grant {
        major: 195,
        first,
        last,
        unit,
        sharing,
        ..Grant::default()
    };
    image.devices.grants[0] = grant(0, 0, 1, sharing::WHOLE);
    image.devices.grants[1] = grant(255, 255, 0, sharing::WHOLE);
    image.devices.grants[2] = grant(0, 253, 1, sharing::PART);
    image.devices.subjects[0].grants = Slice { first: 0, count: 2 };
    image.devices.subjects[1].grants = Slice { first: 2, count: 1 };
    image.devices.subjects[2].grants = Slice {
        first: u32::MAX,
        count: 2,
    };
    image
}

#[test]
fn a_subject_has_its_own_grants() {
    let image = table();
    let whole = |unit| Some(Granted { unit, sharing: 0 });
    let part = |unit| Some(Granted { unit, sharing: 1 });
    let rows: &[(&str, u32, Device, Option<Granted>)] = &[
        ("its GPU", 0, NODE, whole(1)),
        ("what all share", 0, device(195, 255), whole(0)),
        ("another GPU", 0, device(195, 1), None),
        ("another driver", 0, device(194, 0), None),
        ("a range counts on", 1, device(195, 7), part(8)),
        ("its end", 1, device(195, 253), part(254)),
        ("past its end", 1, device(195, 254), None),
        ("a slice beyond the table", 2, NODE, None),
        ("no grants", 3, NODE, None),
        ("no such subject", 512, NODE, None),
        ("nobody", u32::MAX, NODE, None),
    ];
    for (name, subject, device, want) in rows {
        assert_eq!(image.devices.granted(*subject, *device), *want, "{name}");
    }
}

const STUDY: Opener = Opener {
    policy: true,
    kind: kind::STUDY,
    attested: true,
    subject: DeviceSubject {
        id: 77,
        grants: Slice { first: 0, count: 1 },
        flags: 0,
        reserved: 0,
    },
    granted: Some(Granted {
        unit: 1,
        sharing: sharing::WHOLE,
    }),
};

fn with_flags(opener: Opener, flags: u32) -> Opener {
    Opener {
        subject: DeviceSubject {
            flags,
            ..opener.subject
        },
        ..opener
    }
}

#[test]
fn what_is_governed_takes_a_grant_and_a_lease() {
    let host_service = Opener {
        kind: kind::HOST,
        attested: false,
        ..STUDY
    };
    let nobody = Opener {
        kind: kind::NONE,
        ..STUDY
    };
    let no_policy = Opener {
        policy: false,
        kind: kind::NONE,
        ..STUDY
    };
    let no_grant = |opener| Opener {
        granted: None,
        ..opener
    };
    let no_lease = Opener {
        attested: false,
        ..STUDY
    };
    let part = Opener {
        granted: Some(Granted {
            unit: 1,
            sharing: sharing::PART,
        }),
        ..STUDY
    };
    let shared = Opener {
        granted: Some(Granted {
            unit: 0,
            sharing: sharing::WHOLE,
        }),
        ..STUDY
    };
    let taken = |owner| (Reason::Granted, 1, owner);
    let plain = |reason| (reason, 0, 0);
    type Row<'a> = (&'a str, u8, Opener, (Reason, u32, u64));
    let rows: &[Row<'_>] = &[
        ("granted", class::GPU, STUDY, taken(77)),
        ("a part", class::GPU, part, taken(PARTS)),
        (
            "what all share",
            class::GPU_MEMORY,
            shared,
            (Reason::Granted, 0, 77),
        ),
        (
            "not granted",
            class::GPU,
            no_grant(STUDY),
            plain(Reason::NotGranted),
        ),
        ("no lease", class::GPU, no_lease, plain(Reason::NoLease)),
        (
            "no lease, no grant",
            class::GPU,
            no_grant(no_lease),
            plain(Reason::NotGranted),
        ),
        (
            "granted without a lease",
            class::GPU,
            with_flags(no_lease, flag::UNATTESTED),
            taken(77),
        ),
        (
            "raw sockets are no lease",
            class::GPU,
            with_flags(no_lease, flag::RAW_SOCKETS),
            plain(Reason::NoLease),
        ),
        (
            "a host service takes nothing",
            class::GPU,
            host_service,
            plain(Reason::Granted),
        ),
        (
            "host, not granted",
            class::RDMA,
            no_grant(host_service),
            plain(Reason::NotGranted),
        ),
        ("nobody", class::GPU, nobody, plain(Reason::NoSubject)),
        (
            "a kind of subject that is none",
            class::GPU,
            Opener { kind: 9, ..STUDY },
            plain(Reason::NoSubject),
        ),
        ("no policy", class::GPU, no_policy, plain(Reason::NoPolicy)),
        (
            "not governed",
            class::NONE,
            no_grant(STUDY),
            plain(Reason::LeftAlone),
        ),
        (
            "not governed, nobody",
            class::NONE,
            nobody,
            plain(Reason::LeftAlone),
        ),
        (
            "new driver",
            class::UNKNOWN,
            STUDY,
            plain(Reason::UnknownDriver),
        ),
        (
            "new driver, host",
            class::UNKNOWN,
            host_service,
            plain(Reason::LeftAlone),
        ),
        (
            "new driver, nobody",
            class::UNKNOWN,
            nobody,
            plain(Reason::LeftAlone),
        ),
        ("a class that is none", 200, STUDY, taken(77)),
        (
            "a class that is none, nobody",
            200,
            nobody,
            plain(Reason::NoSubject),
        ),
    ];
    for (name, class, opener, want) in rows {
        let Answer {
            reason,
            unit,
            owner,
        } = judge(*class, opener);
        assert_eq!((reason, unit, owner), *want, "{name}");
    }
}

#[test]
fn a_unit_has_one_owner() {
    let held = |id, state| Some(Owner { id, state });
    let rows: &[(&str, Option<Owner>, Settled)] = &[
        ("free", None, Settled::Take),
        ("its own", held(77, state::HELD), Settled::Open),
        (
            "another's",
            held(78, state::HELD),
            Settled::Deny(Reason::Held),
        ),
        (
            "parts of it are others'",
            held(PARTS, state::HELD),
            Settled::Deny(Reason::Held),
        ),
        (
            "its own, closed",
            held(77, state::CLOSED),
            Settled::Deny(Reason::ChangingHands),
        ),
        (
            "its own, in a state that is none",
            held(77, 9),
            Settled::Deny(Reason::ChangingHands),
        ),
        (
            "another's, closed",
            held(78, state::CLOSED),
            Settled::Deny(Reason::Held),
        ),
        (
            "nobody's",
            held(0, state::HELD),
            Settled::Deny(Reason::Held),
        ),
    ];
    for (name, owner, want) in rows {
        assert_eq!(settle(77, owner.as_ref()), *want, "{name}");
    }
    // Two studies with parts of one GPU.
    assert_eq!(settle(PARTS, held(PARTS, 0).as_ref()), Settled::Open);
}

#[test]
fn raw_sockets_take_a_line_in_the_policy() {
    const STREAM: u32 = 1;
    const PACKET: u32 = 10;
    let allowed = with_flags(STUDY, flag::RAW_SOCKETS);
    let rows: &[(&str, u32, Opener, Reason)] = &[
        ("stream", STREAM, STUDY, Reason::LeftAlone),
        (
            "stream, no policy",
            STREAM,
            Opener {
                policy: false,
                ..STUDY
            },
            Reason::LeftAlone,
        ),
        ("another type", PACKET, STUDY, Reason::LeftAlone),
        ("raw", SOCK_RAW, STUDY, Reason::NotGranted),
        (
            "raw, other flag",
            SOCK_RAW,
            with_flags(STUDY, flag::UNATTESTED),
            Reason::NotGranted,
        ),
        ("raw, allowed", SOCK_RAW, allowed, Reason::Granted),
        (
            "raw, host",
            SOCK_RAW,
            Opener {
                kind: kind::HOST,
                ..allowed
            },
            Reason::Granted,
        ),
        (
            "raw, nobody",
            SOCK_RAW,
            Opener {
                kind: kind::NONE,
                ..allowed
            },
            Reason::NoSubject,
        ),
        (
            "raw, no policy",
            SOCK_RAW,
            Opener {
                policy: false,
                ..allowed
            },
            Reason::NoPolicy,
        ),
    ];
    for (name, socket_type, opener, want) in rows {
        assert_eq!(judge_socket(*socket_type, opener), *want, "{name}");
    }
}

#[test]
fn names_are_told_apart() {
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..=9 {
        let name = Reason::name_of(number);
        assert_ne!(name, "unknown", "{number}");
        assert!(seen.insert(name), "{name}");
    }
    assert_eq!(Reason::name_of(10), "unknown");
    assert_eq!(class::name(class::RAW_SOCKET), "raw-socket");
    assert_eq!(class::name(200), "unknown");
}

#[test]
fn an_event_has_one_length() {
    let event = DeviceEvent {
        pid: 7,
        ..DeviceEvent::default()
    };
    assert_eq!(DeviceEvent::from_bytes(event.bytes()), Some(event));
    assert_eq!(DeviceEvent::from_bytes(&event.bytes()[1..]), None);
    assert_eq!(DeviceEvent::from_bytes(&[0; 81]), None);
}
