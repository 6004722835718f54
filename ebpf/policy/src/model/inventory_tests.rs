//! What an inventory may say of devices, addresses, epochs, confirmation and retirement.

use bailiwick_attestation::{NodeId, Sha256Digest, UnixTime};

use super::inventory::parse;

const WHOLE: &str = r#"[[node]]
name = "gpu-01"
ek = "1111111111111111111111111111111111111111111111111111111111111111"
ak = "000b1111111111111111111111111111111111111111111111111111111111111111"
chassis_serial = "ABC123"
devices = ["GPU-2", "GPU-1"]
jurisdiction = "DE"
addresses = ["10.9.1.128/25", "10.9.1.0/25"]
epoch = 2
replaces = "3333333333333333333333333333333333333333333333333333333333333333"
[node.confirmed]
by = "alice@example.org"
at = "2026-11-21T16:00:00Z"
signature = "armored"

[[node]]
name = "gpu-02"
ek = "2222222222222222222222222222222222222222222222222222222222222222"
devices = ["GPU-3"]
jurisdiction = "DE"
addresses = ["10.9.2.0/24"]

[[retired]]
name = "gpu-03"
ek = "4444444444444444444444444444444444444444444444444444444444444444"
at = "2026-11-21T16:00:00Z"
reason = "sold"
"#;

#[test]
fn an_inventory_says_what_belongs_to_a_node_and_what_is_gone() {
    let inventory = parse("inventory.toml", WHOLE.as_bytes()).unwrap();
    let node = inventory.by_name(&NodeId::new("gpu-01").unwrap()).unwrap();
    assert_eq!(node.devices, ["GPU-1", "GPU-2"], "sorted");
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.9.1.0/25", "10.9.1.128/25"], "sorted");
    assert_eq!(node.epoch, 2);
    assert_eq!(node.replaces, Some(Sha256Digest([0x33; 32])));
    let confirmed = node.confirmed.as_ref().unwrap();
    assert_eq!(confirmed.at, UnixTime(1_795_276_800_000));
    assert_eq!(confirmed.by, "alice@example.org");
    let other = inventory.by_ek(&Sha256Digest([0x22; 32])).unwrap();
    assert_eq!((other.epoch, other.replaces), (0, None));
    assert_eq!(other.confirmed, None);
    assert_eq!(inventory.by_device("GPU-3"), Some(other));
    assert_eq!(inventory.by_device("GPU-4"), None);
}

/// Guests share a chip, with each other and with its host.
#[test]
fn a_processor_may_be_several_nodes() {
    for chip in [
        format!("SNP-{}", "07".repeat(64)),
        "SNP-0123456789abcdef".to_owned(),
        "TDX-0123456789abcdef0123456789abcdef".to_owned(),
    ] {
        let text = WHOLE.replace("GPU-3", &chip).replace("GPU-2", &chip);
        let inventory = parse("inventory.toml", text.as_bytes()).unwrap();
        let own = inventory
            .nodes
            .iter()
            .filter(|it| it.devices.contains(&chip));
        assert_eq!(own.count(), 2, "{chip}");
    }
}

#[test]
fn a_tpm_is_in_service_or_out_of_it() {
    let inventory = parse("inventory.toml", WHOLE.as_bytes()).unwrap();
    let cases: &[(&str, u8, Option<&str>)] = &[
        ("in service", 0x11, None),
        ("unknown", 0x55, None),
        ("retired", 0x44, Some("gpu-03 was retired: sold")),
        (
            "replaced",
            0x33,
            Some(
                "replaced as gpu-01 by the TPM with EK \
                 1111111111111111111111111111111111111111111111111111111111111111",
            ),
        ),
    ];
    for (name, byte, want) in cases {
        let got = inventory.retired(&Sha256Digest([*byte; 32]));
        assert_eq!(got.as_deref(), *want, "{name}");
    }
}

#[test]
fn each_entry_is_checked_and_held_against_the_others() {
    let ek = |digit: char| digit.to_string().repeat(64);
    let rows: &[(&str, &str, &str, &str)] = &[
        (
            "one device at two nodes",
            "GPU-3",
            "GPU-1",
            "inventory.toml:19: node.devices: device \"GPU-1\" is named twice",
        ),
        (
            "one device twice at a node",
            "\"GPU-2\", \"GPU-1\"",
            "\"GPU-1\", \"GPU-1\"",
            "inventory.toml:6: node.devices: \"GPU-1\" stands here twice",
        ),
        (
            "a device that is a line of its own",
            "GPU-3",
            "GPU-3\\nplace moon",
            "inventory.toml:19: node.devices: \"GPU-3\\nplace moon\" must have 1 to 200 bytes and no control characters",
        ),
        (
            "a chip in capitals",
            "GPU-3",
            "PDI-48B02D0000000001",
            "inventory.toml:19: node.devices: \"PDI-48B02D0000000001\" is no identifier of a chip: PDI- and 16 lower-case hexadecimal digits",
        ),
        (
            "a chip with a letter too far",
            "GPU-3",
            "PDI-48b02g0000000001",
            "inventory.toml:19: node.devices: \"PDI-48b02g0000000001\" is no identifier of a chip: PDI- and 16 lower-case hexadecimal digits",
        ),
        (
            "a chip one digit long",
            "GPU-3",
            "PDI-48b02d00000000001",
            "inventory.toml:19: node.devices: \"PDI-48b02d00000000001\" is no identifier of a chip: PDI- and 16 lower-case hexadecimal digits",
        ),
        (
            "a chip one digit short",
            "GPU-3",
            "pdi-48b02d000000001",
            "inventory.toml:19: node.devices: \"pdi-48b02d000000001\" is no identifier of a chip: PDI- and 16 lower-case hexadecimal digits",
        ),
        (
            "a processor in capitals",
            "GPU-3",
            "TDX-0123456789ABCDEF0123456789abcdef",
            "inventory.toml:19: node.devices: \"TDX-0123456789ABCDEF0123456789abcdef\" is no chip: TDX- and 32 lower-case hexadecimal digits",
        ),
        (
            "a processor by half of its name",
            "GPU-3",
            "snp-0123456789abcdef",
            "inventory.toml:19: node.devices: \"snp-0123456789abcdef\" is no chip: SNP- and 128 or 16 lower-case hexadecimal digits",
        ),
        (
            "a processor one digit short",
            "GPU-3",
            "SNP-0123456789abcde",
            "inventory.toml:19: node.devices: \"SNP-0123456789abcde\" is no chip: SNP- and 128 or 16 lower-case hexadecimal digits",
        ),
        (
            "a processor twice at a node",
            "\"GPU-3\"",
            "\"SNP-0123456789abcdef\", \"SNP-0123456789abcdef\"",
            "inventory.toml:19: node.devices: \"SNP-0123456789abcdef\" stands here twice",
        ),
        (
            "addresses of two nodes",
            "10.9.2.0/24",
            "10.9.1.200/32",
            "inventory.toml:21: node.addresses: 10.9.1.200/32 overlaps 10.9.1.128/25 of node \"gpu-01\"",
        ),
        (
            "addresses around another node's",
            "10.9.2.0/24",
            "10.9.0.0/16",
            "inventory.toml:8: node.addresses: 10.9.1.0/25 overlaps 10.9.0.0/16 of node \"gpu-02\"",
        ),
        (
            "bits behind the length",
            "10.9.2.0/24",
            "10.9.2.1/24",
            "inventory.toml:21: node.addresses: 10.9.2.1/24 has bits set behind its length: 10.9.2.0/24 or 10.9.2.1/32",
        ),
        (
            "an epoch no row can hold",
            "epoch = 2",
            "epoch = 9223372036854775808",
            "inventory.toml:9: node.epoch: ",
        ),
        (
            "a TPM that is neither",
            "epoch = 2",
            "tpm = \"firmware\"",
            "inventory.toml:9: node.tpm: \"firmware\" is neither chip nor virtual",
        ),
        (
            "replaces a node in service",
            &ek('3'),
            &ek('2'),
            "inventory.toml:10: node.replaces: \"2222222222222222222222222222222222222222222222222222222222222222\" is out of service, and the EK of a node",
        ),
        (
            "retires a node in service",
            &ek('4'),
            &ek('2'),
            "inventory.toml:25: retired.ek: \"2222222222222222222222222222222222222222222222222222222222222222\" is out of service, and the EK of a node",
        ),
        (
            "confirms nothing",
            "ak = \"000b1111111111111111111111111111111111111111111111111111111111111111\"\n",
            "",
            "inventory.toml:11: node.confirmed.by: confirms no AK: the entry names none",
        ),
        (
            "confirmed in local time",
            "2026-11-21T16:00:00Z\"\nsignature",
            "2026-11-21T17:00:00+01:00\"\nsignature",
            "inventory.toml:13: node.confirmed.at: is no time: 2027-01-01T00:00:00Z",
        ),
        (
            "confirmed by nobody",
            "alice@example.org",
            "",
            "inventory.toml:12: node.confirmed.by: \"\" must have 1 to 200 bytes and no control characters",
        ),
        (
            "retired without a reason",
            "\"sold\"",
            "\"\"",
            "inventory.toml:27: retired.reason: \"\" must have 1 to 200 bytes and no control characters",
        ),
    ];
    for (name, from, to, want) in rows {
        assert!(WHOLE.contains(from), "{name}: {from:?} is not there");
        let text = WHOLE.replacen(from, to, 1);
        let got = parse("inventory.toml", text.as_bytes())
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(got.starts_with(want), "{name}: {got}");
    }
    for chip in ["PDI-48b02d0000000001", "PDI-abcdef0123456789"] {
        let text = WHOLE.replacen("GPU-3", chip, 1);
        let inventory = parse("inventory.toml", text.as_bytes()).unwrap();
        let node = inventory.by_device(chip).unwrap();
        assert_eq!(node.devices, [chip]);
    }
    let twice = format!("{WHOLE}{}", &WHOLE[WHOLE.find("[[retired]]").unwrap()..]);
    let got = parse("inventory.toml", twice.as_bytes()).unwrap_err();
    assert!(got.fault.starts_with("retired EK "), "{got}");
}
