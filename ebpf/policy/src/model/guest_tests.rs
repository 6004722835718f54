//! What an inventory may say of guests without a TPM, and which two of them it may not list.

use bailiwick_attestation::cvm::{Facts, GuestIdentity, Launch, LaunchKey, LaunchSigner};
use bailiwick_attestation::evidence::guest_id;
use bailiwick_attestation::{NodeId, Sha256Digest};

use super::inventory::{Inventory, parse};
use super::{ADDRESSES_LIMIT, DEVICES_LIMIT, NODES_LIMIT};

const SNP: &str = "SNP-0123456789abcdef";
const TDX: &str = "TDX-0123456789abcdef0123456789abcdef";

fn name(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A node, a guest by measurement on two chips, one by signer on one of them, and one of TDX.
fn whole() -> String {
    let (m, key, family, image) = (
        "a".repeat(96),
        "b".repeat(96),
        "c".repeat(32),
        "d".repeat(32),
    );
    let (data, config) = ("e".repeat(64), "f".repeat(96));
    let ek = "1".repeat(64);
    format!(
        r#"[[node]]
name = "gpu-01"
ek = "{ek}"
chassis_serial = "ABC123"
devices = ["GPU-1", "{SNP}"]
jurisdiction = "DE"
addresses = ["10.9.1.0/24"]

[[guest]]
name = "vm-01"
chips = ["SNP-fedcba9876543210", "{SNP}"]
measurement = "{m}"
host_data = "{data}"
chassis_serial = "VM-1"
devices = ["GPU-3", "GPU-2"]
place = "row 3"
jurisdiction = "DE"
addresses = ["10.9.3.0/24", "10.9.2.0/24"]
epoch = 3

[[guest]]
name = "vm-02"
chips = ["{SNP}"]
id_key = "{key}"
family_id = "{family}"
image_id = "{image}"
host_data = "{}"
jurisdiction = "FR"

[[guest]]
name = "vm-03"
chips = ["{TDX}"]
measurement = "{m}"
host_data = "{config}"
jurisdiction = "DE"

[[retired]]
name = "vm-00"
ek = "{}"
at = "2026-11-21T16:00:00Z"
reason = "moved"
"#,
        "0".repeat(64),
        guest_id(&name("vm-00")),
    )
}

fn read(text: &str) -> Result<Inventory, String> {
    parse("inventory.toml", text.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn a_guest_is_a_node_by_its_launch_and_its_chips() {
    let inventory = read(&whole()).unwrap();
    let names: Vec<&str> = inventory.nodes.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["gpu-01", "vm-01", "vm-02", "vm-03"]);
    let id = guest_id(&name("vm-01"));
    let node = inventory.by_ek(&id).unwrap();
    assert_eq!(inventory.by_name(&name("vm-01")), Some(node));
    assert_eq!(inventory.by_device("GPU-2"), Some(node));
    assert_eq!(
        node.guest,
        Some(GuestIdentity {
            chips: vec![SNP.to_owned(), "SNP-fedcba9876543210".to_owned()],
            launch: Launch {
                measurement: Some("a".repeat(96)),
                signer: None,
                host_data: Some("e".repeat(64)),
            },
        }),
        "chips are sorted"
    );
    let devices = ["GPU-2", "GPU-3", SNP, "SNP-fedcba9876543210"];
    assert_eq!(node.devices, devices, "its chips are devices of its own");
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.9.2.0/24", "10.9.3.0/24"]);
    assert_eq!(node.chassis_serial.as_deref(), Some("VM-1"));
    assert_eq!((node.place.as_deref(), node.epoch), (Some("row 3"), 3));
    let no_tpm = (&node.ak, node.tpm, node.geotags_since, node.replaces);
    assert_eq!(no_tpm, (&None, None, None, None));
    assert_eq!(node.confirmed, None);

    let signed = inventory.by_name(&name("vm-02")).unwrap();
    assert_eq!(
        signed.guest.as_ref().unwrap().launch,
        Launch {
            measurement: None,
            signer: Some(LaunchKey {
                id_key: "b".repeat(96),
                family: "c".repeat(32),
                image: "d".repeat(32),
            }),
            host_data: Some("0".repeat(64)),
        }
    );
    let tdx = inventory.by_name(&name("vm-03")).unwrap();
    let host_data = tdx.guest.as_ref().unwrap().launch.host_data.as_deref();
    assert_eq!(host_data, Some("f".repeat(96).as_str()), "MRCONFIGID");
    assert_eq!(inventory.by_name(&name("gpu-01")).unwrap().guest, None);
}

/// What was retired under a name is not what approvers would list under it again.
#[test]
fn a_guest_is_in_service_or_out_of_it() {
    let inventory = read(&whole()).unwrap();
    let retired = inventory.retired(&guest_id(&name("vm-00")));
    assert_eq!(retired.as_deref(), Some("vm-00 was retired: moved"));
    assert_eq!(inventory.retired(&guest_id(&name("vm-01"))), None);
    let again = whole().replace("\"vm-03\"", "\"vm-00\"");
    let id = guest_id(&name("vm-00"));
    assert_eq!(
        read(&again).unwrap_err(),
        format!(
            "inventory.toml:39: retired.ek: \"{id}\" is out of service, and what a guest is known by"
        )
    );
}

#[test]
fn each_guest_is_checked_and_held_against_the_others() {
    let (m, key) = ("a".repeat(96), "b".repeat(96));
    let (family, image) = ("c".repeat(32), "d".repeat(32));
    let ids = format!("id_key = \"{key}\"\nfamily_id = \"{family}\"\nimage_id = \"{image}\"\n");
    let measured = format!("measurement = \"{m}\"\n");
    let vm_02 = "name = \"vm-02\"\n";
    let with = |more: &str| format!("{vm_02}{more}\n");
    let not = |digits: usize, text: &str| {
        format!("{text:?} must be {digits} lower-case hexadecimal digits")
    };
    let zeros = "0".repeat(96);
    let guest = |node: &str| guest_id(&name(node)).to_string();
    let id = guest("vm-01");
    let rows: &[(&str, &str, &str, String)] = &[
        // By itself.
        (
            "no chips",
            &format!("chips = [\"{TDX}\"]\n"),
            "",
            "inventory.toml:30: guest: missing field `chips`".to_owned(),
        ),
        (
            "none of the chips",
            &format!("[\"{TDX}\"]"),
            "[]",
            "inventory.toml:32: guest.chips: names no chip: a guest may run on those it names, and \
             on no other"
                .to_owned(),
        ),
        (
            "a GPU for a chip",
            TDX,
            "GPU-9",
            "inventory.toml:32: guest.chips: \"GPU-9\" is no chip: SNP-… or TDX-…".to_owned(),
        ),
        (
            "a chip in small letters",
            TDX,
            "tdx-0123456789abcdef0123456789abcdef",
            "inventory.toml:32: guest.chips: \"tdx-0123456789abcdef0123456789abcdef\" is no chip: \
             TDX- and 32 lower-case hexadecimal digits"
                .to_owned(),
        ),
        (
            "a chip one digit short",
            "SNP-fedcba9876543210",
            "SNP-fedcba987654321",
            "inventory.toml:11: guest.chips: \"SNP-fedcba987654321\" is no chip: SNP- and 128 or 16 \
             lower-case hexadecimal digits"
                .to_owned(),
        ),
        (
            "a chip twice",
            "SNP-fedcba9876543210",
            SNP,
            format!("inventory.toml:11: guest.chips: {SNP:?} stands here twice"),
        ),
        (
            "chips of two makers",
            "SNP-fedcba9876543210",
            TDX,
            format!("inventory.toml:11: guest.chips: {SNP:?} is of another maker than {TDX:?}"),
        ),
        (
            "a chip among the devices",
            "GPU-3",
            SNP,
            format!("inventory.toml:15: guest.devices: {SNP:?} is a chip, and stands in chips"),
        ),
        (
            "nothing is launched",
            &measured,
            "",
            "inventory.toml:10: guest.name: \"vm-01\" does not say what is launched: name \
             measurement, or id_key with family_id and image_id"
                .to_owned(),
        ),
        (
            "the host's word for a launch, of TDX",
            &format!("chips = [\"{TDX}\"]\n{measured}"),
            &format!("chips = [\"{TDX}\"]\n"),
            "inventory.toml:31: guest.name: \"vm-03\" does not say what is launched: name \
             measurement"
                .to_owned(),
        ),
        (
            "a measurement in capitals",
            &m,
            &"A".repeat(96),
            format!(
                "inventory.toml:12: guest.measurement: {}",
                not(96, &"A".repeat(96))
            ),
        ),
        (
            "a measurement one byte short",
            &m,
            &"a".repeat(94),
            format!(
                "inventory.toml:12: guest.measurement: {}",
                not(96, &"a".repeat(94))
            ),
        ),
        (
            "a measurement one byte long",
            &m,
            &"a".repeat(98),
            format!(
                "inventory.toml:12: guest.measurement: {}",
                not(96, &"a".repeat(98))
            ),
        ),
        (
            "HOST_DATA of TDX's length",
            &"e".repeat(64),
            &"e".repeat(96),
            format!(
                "inventory.toml:13: guest.host_data: {}",
                not(64, &"e".repeat(96))
            ),
        ),
        (
            "MRCONFIGID of SNP's length",
            &"f".repeat(96),
            &"f".repeat(64),
            format!(
                "inventory.toml:34: guest.host_data: {}",
                not(96, &"f".repeat(64))
            ),
        ),
        (
            "an id_key alone",
            &ids,
            &format!("id_key = \"{key}\"\n"),
            "inventory.toml:24: guest.id_key: says nothing without family_id and image_id"
                .to_owned(),
        ),
        (
            "a family and an image alone",
            &format!("id_key = \"{key}\"\n"),
            "",
            "inventory.toml:24: guest.family_id: says nothing without id_key".to_owned(),
        ),
        (
            "no image, beside a measurement",
            &format!("image_id = \"{image}\"\n"),
            &measured,
            "inventory.toml:24: guest.id_key: says nothing without image_id".to_owned(),
        ),
        (
            "an id_key that nobody has",
            &key,
            &zeros,
            "inventory.toml:24: guest.id_key: is what a report says of a launch that nobody signed"
                .to_owned(),
        ),
        (
            "an id_key that is none",
            &key,
            "b",
            format!("inventory.toml:24: guest.id_key: {}", not(96, "b")),
        ),
        (
            "a family that is none",
            &family,
            "family",
            format!("inventory.toml:25: guest.family_id: {}", not(32, "family")),
        ),
        (
            "an image that is none",
            &image,
            &"d".repeat(33),
            format!(
                "inventory.toml:26: guest.image_id: {}",
                not(32, &"d".repeat(33))
            ),
        ),
        (
            "a signer of TDX",
            &format!("chips = [\"{TDX}\"]\n"),
            &format!("chips = [\"{TDX}\"]\n{ids}"),
            "inventory.toml:33: guest.id_key: is of SNP alone: no other processor checks a \
             signature before a launch"
                .to_owned(),
        ),
        (
            "an epoch no row can hold",
            "epoch = 3",
            "epoch = 9223372036854775808",
            "inventory.toml:19: guest.epoch: ".to_owned(),
        ),
        (
            "no jurisdiction",
            "jurisdiction = \"FR\"\n",
            "",
            "inventory.toml:21: guest: missing field `jurisdiction`".to_owned(),
        ),
        (
            "an unknown jurisdiction",
            "\"FR\"",
            "\"XQ\"",
            "inventory.toml:28: guest.jurisdiction: \"XQ\" is not a jurisdiction known here"
                .to_owned(),
        ),
        (
            "a name that is none",
            "\"vm-02\"",
            "\"vm 02\"",
            "inventory.toml:22: guest.name: \"vm 02\" ".to_owned(),
        ),
        // What is a TPM's.
        (
            "an EK",
            vm_02,
            &with(&format!("ek = \"{id}\"")),
            "inventory.toml:23: guest.ek: unknown field `ek`".to_owned(),
        ),
        (
            "an AK",
            vm_02,
            &with("ak = \"000b\""),
            "inventory.toml:23: guest.ak: unknown field `ak`".to_owned(),
        ),
        (
            "a kind of TPM",
            vm_02,
            &with("tpm = \"chip\""),
            "inventory.toml:23: guest.tpm: unknown field `tpm`".to_owned(),
        ),
        (
            "geotags",
            vm_02,
            &with("geotags_since = \"2026-11-21T16:00:00Z\""),
            "inventory.toml:23: guest.geotags_since: unknown field `geotags_since`".to_owned(),
        ),
        (
            "another's place",
            vm_02,
            &with(&format!("replaces = \"{id}\"")),
            "inventory.toml:23: guest.replaces: unknown field `replaces`".to_owned(),
        ),
        (
            "a confirmation",
            vm_02,
            &with("confirmed = { by = \"a\", at = \"b\", signature = \"c\" }"),
            "inventory.toml:23: guest.confirmed: unknown field `confirmed`".to_owned(),
        ),
        // Against the others.
        (
            "the name of a node",
            "\"vm-02\"",
            "\"gpu-01\"",
            "inventory.toml:22: guest.name: node \"gpu-01\" is named twice".to_owned(),
        ),
        (
            "the name of a guest",
            "\"vm-02\"",
            "\"vm-01\"",
            "inventory.toml:22: guest.name: node \"vm-01\" is named twice".to_owned(),
        ),
        (
            "a device of a node",
            "GPU-3",
            "GPU-1",
            "inventory.toml:15: guest.devices: device \"GPU-1\" is named twice".to_owned(),
        ),
        (
            "a node's chassis",
            "VM-1",
            "ABC123",
            "inventory.toml:14: guest.chassis_serial: chassis serial \"ABC123\" is named twice"
                .to_owned(),
        ),
        (
            "addresses of a node",
            "10.9.3.0/24",
            "10.9.1.0/25",
            "inventory.toml:18: guest.addresses: 10.9.1.0/25 overlaps 10.9.1.0/24 of node \"gpu-01\""
                .to_owned(),
        ),
        (
            "a node whose EK stands for a guest",
            &"1".repeat(64),
            &id,
            format!(
                "inventory.toml:10: guest.name: \"vm-01\" is known by {id}, which is the EK of a node"
            ),
        ),
        (
            "a node that replaces a guest in service",
            "chassis_serial = \"ABC123\"",
            &format!("replaces = \"{id}\""),
            format!(
                "inventory.toml:4: node.replaces: {id:?} is out of service, and what a guest is \
                 known by"
            ),
        ),
        (
            "a retired guest in service",
            &guest("vm-00"),
            &id,
            format!(
                "inventory.toml:39: retired.ek: {id:?} is out of service, and what a guest is known \
                 by"
            ),
        ),
    ];
    let whole = whole();
    for (name, from, to, want) in rows {
        assert!(whole.contains(from), "{name}: {from:?} is not there");
        let got = read(&whole.replacen(from, to, 1)).map(drop).unwrap_err();
        assert!(got.starts_with(want.as_str()), "{name}: {got}");
    }
}

/// A chip's maker decides nothing by being in another case or place: each list has an end.
#[test]
fn an_inventory_lists_no_more_guests_chips_and_ranges_than_it_may() {
    let entry = |name: &str, chips: &[String], more: &str| {
        let m = "a".repeat(96);
        format!(
            "[[guest]]\nname = \"{name}\"\nchips = {chips:?}\nmeasurement = \"{m}\"\n\
             jurisdiction = \"DE\"\n{more}\n"
        )
    };
    let chips: Vec<String> = (0..=DEVICES_LIMIT)
        .map(|n| format!("SNP-{n:016x}"))
        .collect();
    let most = entry("vm", &chips[..DEVICES_LIMIT], "");
    assert_eq!(read(&most).unwrap().nodes[0].devices.len(), DEVICES_LIMIT);
    let many = read(&entry("vm", &chips, "")).unwrap_err();
    assert_eq!(
        many,
        format!("inventory.toml:3: guest.chips: more than {DEVICES_LIMIT} entries")
    );
    let list = |of: &dyn Fn(usize) -> String, limit| (0..=limit).map(of).collect::<Vec<String>>();
    let ranges = list(&|n| format!("10.9.{n}.0/24"), ADDRESSES_LIMIT);
    let gpus = list(&|n| format!("GPU-{n}"), DEVICES_LIMIT);
    for (key, all) in [("addresses", ranges), ("devices", gpus)] {
        let many = read(&entry("vm", &chips[..1], &format!("{key} = {all:?}"))).unwrap_err();
        assert_eq!(
            many,
            format!("inventory.toml:6: guest.{key}: more than 64 entries")
        );
    }
    // Nodes and guests are counted together.
    let node =
        |n: usize| format!("[[node]]\nname=\"n{n}\"\nek=\"{n:064x}\"\njurisdiction=\"DE\"\n");
    let nodes: String = (1..NODES_LIMIT).map(node).collect();
    let guests = |of: usize| -> String {
        (0..of)
            .map(|n| entry(&format!("vm{n}"), &chips[n..=n], ""))
            .collect()
    };
    assert_eq!(
        read(&format!("{nodes}{}", guests(1))).unwrap().nodes.len(),
        NODES_LIMIT
    );
    let many = read(&format!("{nodes}{}", guests(2))).unwrap_err();
    assert!(
        many.ends_with(": guest.name: more than 100000 nodes"),
        "{many}"
    );
}

/// Every launch that three measurements, signers and host data can name, `None` among them.
fn launches() -> Vec<Launch> {
    let text = |digit: char, count: usize| digit.to_string().repeat(count);
    let measurements = [None, Some(text('1', 96)), Some(text('2', 96))];
    let signer = |id_key: char, image: char| LaunchKey {
        id_key: text(id_key, 96),
        family: text('3', 32),
        image: text(image, 32),
    };
    let signers = [
        None,
        Some(signer('4', '6')),
        Some(signer('4', '7')),
        Some(signer('5', '6')),
    ];
    let data = [None, Some(text('8', 64)), Some(text('9', 64))];
    let mut all = Vec::new();
    for measurement in &measurements {
        for signer in signers
            .iter()
            .filter(|it| it.is_some() || measurement.is_some())
        {
            for host_data in &data {
                all.push(Launch {
                    measurement: measurement.clone(),
                    signer: signer.clone(),
                    host_data: host_data.clone(),
                });
            }
        }
    }
    all
}

/// Every report that these launches can be told apart by, and one that none of them names.
fn reports(chip: &str) -> Vec<Facts> {
    let all = launches();
    let mut measurements: Vec<_> = all.iter().filter_map(|it| it.measurement.clone()).collect();
    measurements.push("0".repeat(96));
    measurements.sort();
    measurements.dedup();
    let mut data: Vec<_> = all.iter().filter_map(|it| it.host_data.clone()).collect();
    data.push("0".repeat(64));
    data.sort();
    data.dedup();
    let mut signers: Vec<Option<LaunchKey>> = Vec::new();
    for launch in &all {
        if !signers.contains(&launch.signer) {
            signers.push(launch.signer.clone());
        }
    }
    let mut reports = Vec::new();
    for measurement in &measurements {
        for host_data in &data {
            for signer in &signers {
                reports.push(Facts {
                    technology: "sev-snp",
                    version: 3,
                    chip: Some(chip.to_owned()),
                    product: None,
                    tcb: Vec::new(),
                    tcb_status: None,
                    vmpl: Some(0),
                    debug: false,
                    measurement: measurement.clone(),
                    host_data: host_data.clone(),
                    policy: String::new(),
                    registers: Vec::new(),
                    signer: signer.as_ref().map(|key| LaunchSigner {
                        id_key: key.id_key.clone(),
                        family: key.family.clone(),
                        image: key.image.clone(),
                        svn: 1,
                    }),
                    instance: None,
                });
            }
        }
    }
    reports
}

fn entry(name: &str, chips: &[&str], launch: &Launch) -> String {
    let mut out =
        format!("[[guest]]\nname = \"{name}\"\nchips = {chips:?}\njurisdiction = \"DE\"\n");
    let mut line = |key: &str, value: Option<&String>| {
        if let Some(value) = value {
            out.push_str(&format!("{key} = \"{value}\"\n"));
        }
    };
    let signer = launch.signer.as_ref();
    line("measurement", launch.measurement.as_ref());
    line("id_key", signer.map(|key| &key.id_key));
    line("family_id", signer.map(|key| &key.family));
    line("image_id", signer.map(|key| &key.image));
    line("host_data", launch.host_data.as_ref());
    out
}

const ONE: &str = "SNP-1111111111111111";
const TWO: &str = "SNP-2222222222222222";
const THREE: &str = "SNP-3333333333333333";

/// Refused are exactly those two of which one report could be, by the rule that judges reports.
#[test]
fn two_guests_are_listed_if_no_report_can_be_of_both() {
    let (launches, reports) = (launches(), reports(ONE));
    let identity = |launch: &Launch| GuestIdentity {
        chips: vec![ONE.to_owned()],
        launch: launch.clone(),
    };
    let mut listed = [0_usize; 2];
    for first in &launches {
        for second in &launches {
            let (a, b) = (identity(first), identity(second));
            let both = |report: &Facts| a.other(report).is_none() && b.other(report).is_none();
            let both = reports.iter().any(both);
            for (chips, shared) in [
                ([&[ONE][..], &[ONE][..]], true),
                ([&[ONE, TWO], &[ONE, THREE]], true),
                ([&[ONE], &[TWO]], false),
            ] {
                let text = entry("vm-01", chips[0], first) + &entry("vm-02", chips[1], second);
                let refused = read(&text).is_err();
                assert_eq!(refused, both && shared, "{first:?} {second:?} {chips:?}");
            }
            listed[usize::from(both)] += 1;
        }
    }
    assert!(listed.iter().all(|count| *count > 100), "{listed:?}");
}

#[test]
fn a_guest_that_could_be_another_one_is_refused_under_both_names() {
    let m = |digit: char| Some(digit.to_string().repeat(96));
    let data = |digit: char| Some(digit.to_string().repeat(64));
    let key = |image: char| {
        Some(LaunchKey {
            id_key: "4".repeat(96),
            family: "3".repeat(32),
            image: image.to_string().repeat(32),
        })
    };
    let launch = |measurement, signer, host_data| Launch {
        measurement,
        signer,
        host_data,
    };
    // Without host data, it may be any; measured by one and signed by the other, it may be both.
    let rows: &[(&str, Launch, Launch, bool)] = &[
        (
            "the same launch",
            launch(m('1'), None, None),
            launch(m('1'), None, None),
            false,
        ),
        (
            "other measurements",
            launch(m('1'), None, None),
            launch(m('2'), None, None),
            true,
        ),
        (
            "one of them with host data",
            launch(m('1'), None, None),
            launch(m('1'), None, data('8')),
            false,
        ),
        (
            "the same host data",
            launch(m('1'), None, data('8')),
            launch(m('1'), None, data('8')),
            false,
        ),
        (
            "other host data",
            launch(m('1'), None, data('8')),
            launch(m('1'), None, data('9')),
            true,
        ),
        (
            "one by measurement, one by signer",
            launch(m('1'), None, None),
            launch(None, key('6'), None),
            false,
        ),
        (
            "one by measurement, one by signer, other host data",
            launch(m('1'), None, data('8')),
            launch(None, key('6'), data('9')),
            true,
        ),
        (
            "one by measurement, one by both, of another measurement",
            launch(m('1'), None, None),
            launch(m('2'), key('6'), None),
            true,
        ),
        (
            "one by measurement, one by both",
            launch(m('1'), None, None),
            launch(m('1'), key('6'), None),
            false,
        ),
        (
            "other images of one signer",
            launch(None, key('6'), None),
            launch(None, key('7'), None),
            true,
        ),
        (
            "other images of one signer, one measurement",
            launch(m('1'), key('6'), None),
            launch(m('1'), key('7'), None),
            true,
        ),
    ];
    for (name, first, second, apart) in rows {
        let text = entry("vm-01", &[TWO, ONE], first) + &entry("vm-02", &[ONE], second);
        let line = text
            .lines()
            .position(|line| line.contains("vm-02"))
            .unwrap()
            + 1;
        let want = (!apart).then(|| {
            format!(
                "inventory.toml:{line}: guest.name: \"vm-02\" is told from \"vm-01\" by nothing on \
                 {ONE}: one report would be of both; name another measurement or host_data"
            )
        });
        assert_eq!(read(&text).err(), want, "{name}");
        let turned = entry("vm-02", &[ONE], second) + &entry("vm-01", &[TWO, ONE], first);
        assert_eq!(read(&turned).is_ok(), *apart, "{name}, turned");
    }
    // A third between two that are apart: neither of them is refused, and it is.
    let apart = entry("vm-01", &[ONE], &launch(m('1'), None, data('8')))
        + &entry("vm-02", &[ONE], &launch(m('1'), None, data('9')));
    assert!(read(&apart).is_ok());
    let between = apart + &entry("vm-03", &[ONE], &launch(m('1'), None, None));
    let said = read(&between).unwrap_err();
    assert!(said.contains("\"vm-03\" is told from \"vm-0"), "{said}");
}

/// As many as approvers may list, on as many chips as they may have: no two are compared in vain.
#[test]
fn many_guests_of_one_chip_are_told_apart_in_a_moment() {
    let chips: Vec<String> = (0..8).map(|n| format!("SNP-{n:016x}")).collect();
    let chips: Vec<&str> = chips.iter().map(String::as_str).collect();
    let all: String = (0..20_000)
        .map(|n| {
            let launch = Launch {
                measurement: Some(format!("{n:096x}")),
                ..Launch::default()
            };
            entry(&format!("vm{n}"), &chips, &launch)
        })
        .collect();
    let started = std::time::Instant::now();
    assert_eq!(read(&all).unwrap().nodes.len(), 20_000);
    let taken = started.elapsed();
    assert!(taken.as_secs() < 60, "{taken:?}");
}

#[test]
fn what_stands_for_a_guest_is_its_name() {
    let inventory = read(&whole()).unwrap();
    let moved = whole().replace(SNP, "SNP-0000000000000001");
    let moved = read(&moved.replace(&"a".repeat(96), &"9".repeat(96))).unwrap();
    for guest in ["vm-01", "vm-02", "vm-03"] {
        let ek = |inventory: &Inventory| inventory.by_name(&name(guest)).unwrap().ek;
        assert_eq!(ek(&inventory), ek(&moved), "{guest}");
        assert_ne!(ek(&inventory), Sha256Digest([0; 32]));
    }
}
