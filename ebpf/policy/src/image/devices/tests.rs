use bailiwick_ebpf_common::device::{Granted, classify};

use super::*;
use crate::image::compile;
use crate::image::tests::{MANIFEST, model, world};
use crate::model::devices::OnFailure;

const UUID: &str = "GPU-5a3c1b2d-0f4e-4c6d-8b7a-001122334455";

/// Two GPUs, the second divided into an instance of two, and two RDMA devices.
fn host() -> HostNumbers {
    let part = |instance, compute, capability| HostPart {
        gpu: 1,
        instance,
        compute,
        capability,
    };
    HostNumbers {
        gpus: vec![
            HostGpu {
                minor: 0,
                uuid: Some(UUID.to_owned()),
                display: vec![device(226, 128)],
            },
            HostGpu {
                minor: 1,
                ..HostGpu::default()
            },
        ],
        parts: vec![
            part(1, None, 12),
            part(1, Some(0), 13),
            part(1, Some(1), 14),
            part(2, None, 21),
        ],
        ..HostNumbers::conventional()
    }
}

fn device(major: u32, minor: u32) -> Device {
    Device { major, minor }
}

fn compiled(devices: &str, host_fence: &str, host: &HostNumbers) -> (Box<PolicyImage>, Vec<Unmet>) {
    let study = format!(
        "name = \"cardio\"\nmode = \"enforce\"\nselect.cgroups = [\"/studies/cardio\"]\n\
         allow.prefixes = [\"192.0.2.0/24\"]\n[devices]\n{devices}"
    );
    let model = model(&[&study], host_fence);
    let world = world(&model);
    let mut image = compile(&model, &world.codes, 1, &MANIFEST).unwrap();
    let unmet = set_devices(&mut image, &device_names(&model), host);
    assert_eq!(image.header.digest, digest(&image).0);
    (image, unmet)
}

#[test]
fn a_name_grants_the_numbers_it_has_on_this_host() {
    let whole = |unit| Some(Granted { unit, sharing: 0 });
    let parted = |unit| Some(Granted { unit, sharing: 1 });
    let cap = |minor| CAPABILITY_UNITS + minor;
    type Row<'a> = (&'a str, &'a [(Device, Option<Granted>)], &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        ("", &[(device(195, 0), None), (device(195, 255), None)], &[]),
        (
            "gpus = [\"0\"]",
            &[
                (device(195, 0), whole(1)),
                (device(226, 128), whole(1)),
                (device(226, 129), None),
                (device(195, 1), None),
                (device(195, 255), whole(0)),
                (device(195, 254), None),
                (device(511, 0), None),
            ],
            &[],
        ),
        (
            &format!("gpus = [\"{UUID}\"]"),
            &[(device(195, 0), whole(1)), (device(195, 1), None)],
            &[],
        ),
        (
            "gpus = [\"GPU-00000000-0f4e-4c6d-8b7a-001122334455\"]",
            &[(device(195, 0), None), (device(195, 255), None)],
            &["GPU-00000000-0f4e-4c6d-8b7a-001122334455"],
        ),
        (
            "gpus = [\"all\"]",
            &[
                (device(195, 0), whole(1)),
                (device(195, 1), whole(2)),
                (device(195, 2), None),
            ],
            &[],
        ),
        ("gpus = [\"2\"]", &[(device(195, 2), None)], &["2"]),
        (
            "mig = [\"1/1\"]",
            &[
                (device(195, 1), parted(2)),
                (device(195, 0), None),
                (device(510, 12), whole(cap(12))),
                (device(510, 13), whole(cap(13))),
                (device(510, 14), whole(cap(14))),
                (device(510, 21), None),
                (device(195, 255), whole(0)),
            ],
            &[],
        ),
        (
            "mig = [\"1/1/0\"]",
            &[
                (device(195, 1), parted(2)),
                (device(510, 12), parted(cap(12))),
                (device(510, 13), whole(cap(13))),
                (device(510, 14), None),
            ],
            &[],
        ),
        (
            "mig = [\"1/1/9\", \"0/1\"]",
            &[(device(195, 1), None), (device(510, 12), None)],
            &["1/1/9", "0/1"],
        ),
        (
            "nodes = [\"nvidia-uvm\", \"uverbs1\", \"umad\", \"rdma_cm\", \"vfio/7\"]",
            &[
                (device(511, 0), whole(0)),
                (device(511, 1), None),
                (device(231, 193), whole(0)),
                (device(231, 192), None),
                (device(231, 0), whole(0)),
                (device(231, 63), whole(0)),
                (device(231, 64), None),
                (device(MISC, 121), whole(0)),
                (device(MISC, 120), None),
                (device(506, 7), whole(0)),
                (device(506, 8), None),
                (device(MISC, 196), whole(0)),
                (device(195, 255), None),
            ],
            &[],
        ),
        (
            "nodes = [\"uverbs32\", \"umad64\", \"nvidia-nvswitch256\"]",
            &[(device(231, 224), None), (device(231, 64), None)],
            &["uverbs32", "umad64", "nvidia-nvswitch256"],
        ),
    ];
    for (devices, cases, want) in rows {
        let (image, unmet) = compiled(devices, "", &host());
        for (device, want) in *cases {
            let found = image.devices.granted(0, *device);
            assert_eq!(found, *want, "{devices}: {device:?}");
        }
        let unmet: Vec<&str> = unmet.iter().map(|unmet| unmet.name.as_str()).collect();
        assert_eq!(unmet, *want, "{devices}");
    }
}

#[test]
fn a_host_without_drivers_grants_nothing_and_says_so() {
    let all = "gpus = [\"all\"]\nnodes = [\"nvidiactl\", \"nvidia-uvm\", \"uverbs\", \"rdma_cm\", \
               \"vfio\", \"iommu\"]";
    let (image, unmet) = compiled(all, "", &HostNumbers::default());
    assert_eq!(image.devices.subjects[0].grants.count, 0);
    assert_eq!(unmet.len(), 7);
    assert!(unmet.iter().all(|unmet| !unmet.no_room));
    let place = unmet.first().unwrap().place.to_string();
    assert!(
        place.contains("studies/0.toml") && place.contains('6'),
        "{place}"
    );
}

#[test]
fn a_table_that_is_full_grants_no_more_and_says_so() {
    let mut host = host();
    let most = u32::try_from(GRANTS).unwrap();
    host.gpus = (0..most)
        .map(|minor| HostGpu {
            minor,
            ..HostGpu::default()
        })
        .collect();
    let (image, unmet) = compiled("gpus = [\"all\"]\nnodes = [\"nvidia-uvm\"]", "", &host);
    assert_eq!(image.devices.granted(0, device(195, 0)), None);
    assert!(image.devices.granted(0, device(511, 0)).is_some());
    let names: Vec<_> = unmet
        .iter()
        .map(|it| (it.name.as_str(), it.no_room))
        .collect();
    assert_eq!(names, [("all", true)]);
}

#[test]
fn host_services_and_flags_have_their_own_entries() {
    let fence = "[[host]]\nname = \"dcgm\"\ncgroups = [\"/system.slice/dcgm.service\"]\n\
                 [host.devices]\ngpus = [\"all\"]\nraw_sockets = true\n";
    let (image, _) = compiled("unattested = true", fence, &host());
    let [study, service, none, ..] = &image.devices.subjects;
    assert_eq!((study.flags, study.grants.count), (flag::UNATTESTED, 0));
    assert_eq!(service.flags, flag::RAW_SOCKETS);
    assert!(image.devices.granted(1, device(195, 1)).is_some());
    assert!(image.devices.granted(0, device(195, 1)).is_none());
    assert_eq!(*none, DeviceSubject::default());
    assert_ne!(study.id, service.id);
    // As long as studies keep their names, they keep what they hold.
    assert_eq!(study.id, owner_id("cardio"));
    assert_eq!(
        owner_id("cardio"),
        0x3417_0346_1fc0_c9aa,
        "part of what nodes keep"
    );
}

#[test]
fn what_a_subject_may_ask_of_the_kernel_is_a_flag() {
    for (line, want) in [
        ("", 0),
        ("raw_sockets = true\n", flag::RAW_SOCKETS),
        ("vsock = true\n", flag::VSOCK),
        ("bpf = true\n", flag::BPF),
        ("vsock = true\nbpf = true\n", flag::VSOCK | flag::BPF),
    ] {
        let fence = format!(
            "[[host]]\nname = \"dcgm\"\ncgroups = [\"/system.slice/dcgm.service\"]\n\
             [host.devices]\n{line}"
        );
        let (image, _) = compiled(line, &fence, &host());
        let [study, service, ..] = &image.devices.subjects;
        assert_eq!((study.flags, service.flags), (want, want), "{line}");
    }
}

#[test]
fn without_proof_a_study_of_confidential_gpus_opens_nothing_and_ends_as_it_said() {
    let some = "gpus = [\"all\"]\nnodes = [\"uverbs\"]\nraw_sockets = true\n";
    let names = |more: &str| {
        let study = format!(
            "name = \"cardio\"\nmode = \"enforce\"\nselect.cgroups = [\"/studies/cardio\"]\n\
             allow.prefixes = [\"192.0.2.0/24\"]\n[devices]\n{some}{more}"
        );
        device_names(&model(&[&study], "")).swap_remove(0)
    };
    for on_failure in [OnFailure::Deny, OnFailure::Stop] {
        let word = format!("on_failure = \"{}\"\n", on_failure.as_str());
        let open = names(&word);
        assert_eq!((open.under(true), open.under(false)), (open.clone(), open));
        let confidential = names(&format!("confidential = true\n{word}"));
        assert_eq!(confidential.under(true), confidential, "{on_failure:?}");
        let want = DeviceNames {
            subject: "cardio".to_owned(),
            study: true,
            devices: Devices {
                confidential: true,
                on_failure,
                ..Devices::default()
            },
        };
        assert_eq!(confidential.under(false), want, "{on_failure:?}");
    }
}

#[test]
fn governed_is_what_opens_a_gpu_or_a_way_past_the_packets() {
    let mut host = host();
    let extra = [
        ("nvidia-new-thing", 400),
        ("infiniband_mad", 401),
        ("hidraw", 245),
    ];
    host.majors
        .extend(extra.map(|(name, major)| (name.to_owned(), major)));
    let table = host.table();
    let rows: &[(&str, Device, u8)] = &[
        ("GPU", device(195, 0), class::GPU),
        ("a GPU past the last", device(195, 256), class::GPU),
        ("control", device(195, 255), class::GPU_CONTROL),
        ("mode setting", device(195, 254), class::GPU_CONTROL),
        ("unified memory", device(511, 1), class::GPU_MEMORY),
        ("capability", device(510, 3), class::GPU_CAPABILITY),
        ("channel", device(509, 3), class::GPU_FABRIC),
        ("switch", device(508, 255), class::GPU_FABRIC),
        ("link", device(507, 0), class::GPU_FABRIC),
        ("of the driver, and new", device(400, 0), class::GPU_CONTROL),
        ("display driver", device(226, 128), class::GPU),
        ("another card's display driver", device(226, 0), class::NONE),
        ("uverbs", device(231, 192), class::RDMA),
        ("mad beyond", device(401, 0), class::RDMA),
        ("rdma_cm", device(MISC, 121), class::RDMA),
        ("group", device(506, 1), class::VFIO),
        ("container", device(MISC, 196), class::VFIO),
        ("iommu", device(MISC, 120), class::VFIO),
        ("known, and not ours", device(245, 0), class::NONE),
        ("not known", device(246, 0), class::UNKNOWN),
        ("null", device(1, 3), class::NONE),
    ];
    for (name, device, want) in rows {
        assert_eq!(classify(Some(&table), *device), *want, "{name}");
    }
    let bare = HostNumbers::default().table();
    for (name, device, want) in [
        ("GPU", device(195, 0), class::GPU),
        ("uverbs", device(231, 192), class::RDMA),
        ("container", device(MISC, 196), class::VFIO),
        ("a driver", device(511, 0), class::UNKNOWN),
    ] {
        assert_eq!(classify(Some(&bare), device), want, "{name}, no drivers");
    }
}
