//! What an inventory may say of guests without a TPM.

mod apart;

use bailiwick_attestation::cvm::{GuestIdentity, Launch, LaunchKey};
use bailiwick_attestation::evidence::guest_id;
use bailiwick_attestation::{NodeId, Sha256Digest};

use super::inventory::{Inventory, parse};
use super::{ADDRESSES_LIMIT, DEVICES_LIMIT, Files, Model, NODES_LIMIT};

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
                next_measurement: None,
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
            next_measurement: None,
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
            "a next measurement that is the first",
            &measured,
            &format!("{measured}next_{measured}"),
            "inventory.toml:13: guest.next_measurement: is measurement itself".to_owned(),
        ),
        (
            "a next measurement in capitals",
            &measured,
            &format!("{measured}next_measurement = \"{}\"\n", "B".repeat(96)),
            format!(
                "inventory.toml:13: guest.next_measurement: {}",
                not(96, &"B".repeat(96))
            ),
        ),
        (
            "a next measurement after none",
            &format!("id_key = \"{key}\"\n"),
            &format!("next_{measured}id_key = \"{key}\"\n"),
            "inventory.toml:24: guest.next_measurement: says nothing without measurement, whose \
             place it is to take"
                .to_owned(),
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

/// A policy that lists one guest and a node, under these profiles.
fn with_profiles(profile: &str, guests: Option<&str>) -> Result<Model, String> {
    let m = "a".repeat(96);
    let inventory = format!(
        "[[guest]]\nname = \"vm-01\"\nchips = [{SNP:?}]\nmeasurement = \"{m}\"\njurisdiction = \"DE\"\n\
         [[node]]\nname = \"gpu-01\"\nek = \"{}\"\njurisdiction = \"DE\"\n",
        "1".repeat(64)
    );
    let model = Model::parse(&Files {
        studies: &[],
        host_fence: b"",
        sites: b"",
        inventory: inventory.as_bytes(),
        collector: b"",
        profile: profile.as_bytes(),
        guest_profile: guests.map(str::as_bytes),
    });
    model.map_err(|error| error.to_string())
}

const HOSTS: &str = "name = \"hosts\"\nlease_seconds = 60\nmax_silence_seconds = 60\n\
                     [tpm]\nbank = \"sha256\"\nrequire = [7]\n";
const GUESTS: &str = "name = \"guests\"\nlease_seconds = 30\nmax_silence_seconds = 60\n\
                      [tpm]\nbank = \"sha256\"\nrequire = []\n[cvm]\n";

#[test]
fn a_guest_has_the_profile_of_guests_where_there_is_one() {
    let model = with_profiles(HOSTS, Some(GUESTS)).unwrap();
    let of = |model: &Model, node: &str| {
        let node = model.inventory.by_name(&name(node));
        model.profile_of(node).name.clone()
    };
    assert_eq!(
        (of(&model, "vm-01"), of(&model, "gpu-01")),
        ("guests".into(), "hosts".into())
    );
    assert_eq!(of(&model, "nobody"), "hosts");
    assert_eq!(model.warnings, []);

    let model = with_profiles(HOSTS, None).unwrap();
    assert_eq!(of(&model, "vm-01"), "hosts");
    let warned: Vec<String> = model.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(warned[0].starts_with("profile.toml:1: tpm.require: asks for registers, and vm-01"));
    let asking = GUESTS.replace("[]", "[7]");
    let model = with_profiles(HOSTS, Some(&asking)).unwrap();
    let warned = model.warnings[0].to_string();
    assert!(
        warned.starts_with("guest-profile.toml:1: tpm.require: "),
        "{warned}"
    );
}

#[test]
fn what_concerns_every_node_stands_in_one_profile() {
    for (key, more) in [
        ("world", "[world]\nmax_age_days = 3\n"),
        ("brake", "[brake]\nshare_percent = 9\n"),
    ] {
        let fault = with_profiles(HOSTS, Some(&format!("{GUESTS}{more}"))).unwrap_err();
        let want =
            format!("guest-profile.toml:1: {key}: concerns every node: it stands in profile.toml");
        assert_eq!(fault, want);
        with_profiles(&format!("{HOSTS}{more}"), Some(GUESTS)).unwrap();
    }
    let fault = with_profiles(HOSTS, Some("")).unwrap_err();
    assert!(fault.starts_with("guest-profile.toml:"), "{fault}");
}
