use bailiwick_attestation::{NodeId, Sha256Digest};

use super::*;

const CARDIO: &str = r#"name = "cardio"
mode = "enforce"

[select]
cgroups = ["/studies/cardio", "/kubepods.slice/*cardio*"]

[allow]
jurisdictions = ["DE", "FR", "X-OWN"]
prefixes = ["203.0.113.0/24", "2001:db8::/32"]
services = ["ntp"]

[deny]
prefixes = ["203.0.113.128/25"]

[peers]
addresses = ["10.9.1.0/24"]

[unattested]
services = ["management"]
"#;

const NEURO: &str = r#"name = "neuro"
mode = "audit"
select.cgroups = ["/studies/neuro"]
peers.addresses = ["10.9.2.0/24"]
allow.jurisdictions = ["US"]
"#;

const HOST_FENCE: &str = r#"[[service]]
name = "management"
address = "10.9.0.1/32"
protocol = "tcp"
ports = "8443"

[[service]]
name = "ntp"
address = "10.9.0.2/32"
protocol = "udp"
ports = "120-123"

[[host]]
name = "sshd"
cgroups = ["/system.slice/ssh.service"]
[host.allow]
prefixes = ["10.0.0.0/8"]
"#;

const SITES: &str = "[[site]]\nprefix = \"10.9.0.0/16\"\njurisdiction = \"X-OWN\"\n";

const INVENTORY: &str = r#"[[node]]
name = "gpu-02"
ek = "2222222222222222222222222222222222222222222222222222222222222222"
jurisdiction = "DE"

[[node]]
name = "gpu-01"
ek = "1111111111111111111111111111111111111111111111111111111111111111"
ak = "000b1111111111111111111111111111111111111111111111111111111111111111"
chassis_serial = "ABC123"
place = "FRA1 / row 3 / rack 12"
jurisdiction = "DE"
"#;

const COLLECTOR: &str = r#"[[lease_key]]
id = "lease-2026"
ed25519 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
[[log]]
origin = "log.example/bailiwick/eu/2026"
vkey = "log.example/bailiwick/eu/2026+0badf00d+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
"#;

const PROFILE: &str = r#"name = "demo-1"
lease_seconds = 300
max_silence_seconds = 180
[tpm]
bank = "sha256"
require = [0]
"#;

/// The files above, one of them with `from` replaced by `to`.
fn parse(file: &str, from: &str, to: &str) -> Result<Model, FileError> {
    let text = |name: &str, text: &str| {
        if name != file {
            return text.to_owned();
        }
        assert!(text.contains(from), "{name} holds no {from:?}");
        text.replacen(from, to, 1)
    };
    let (cardio, neuro) = (text("cardio", CARDIO), text("neuro", NEURO));
    Model::parse(&Files {
        studies: &[
            ("studies/neuro.toml", neuro.as_bytes()),
            ("studies/cardio.toml", cardio.as_bytes()),
        ],
        host_fence: text("host", HOST_FENCE).as_bytes(),
        sites: text("sites", SITES).as_bytes(),
        inventory: text("inventory", INVENTORY).as_bytes(),
        collector: text("collector", COLLECTOR).as_bytes(),
        profile: PROFILE.as_bytes(),
        guest_profile: None,
    })
}

#[test]
fn a_policy_is_read_whole() {
    let model = parse("", "", "").unwrap();
    let names: Vec<&str> = model.studies.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        names,
        ["cardio", "neuro"],
        "sorted, whatever the order of files"
    );
    let cardio = &model.studies[0];
    assert_eq!(cardio.mode, Mode::Enforce);
    assert_eq!(
        cardio.select[1].value.to_string(),
        "/kubepods.slice/*cardio*"
    );
    let deny = &cardio.deny[0];
    assert_eq!(
        deny.place.to_string(),
        "studies/cardio.toml:13: deny.prefixes"
    );
    assert_eq!(cardio.unattested.services[0].value, "management");
    assert_eq!(model.studies[1].mode, Mode::Audit);
    assert_eq!(model.services["ntp"].ports, Some(120..=123));
    assert_eq!(
        model.hosts[0].allow.prefixes[0].value.to_string(),
        "10.0.0.0/8"
    );
    assert_eq!(model.sites[0].jurisdiction.as_str(), "X-OWN");
    let node = model
        .inventory
        .by_name(&NodeId::new("gpu-01").unwrap())
        .unwrap();
    assert_eq!(model.inventory.by_ek(&Sha256Digest([0x11; 32])), Some(node));
    assert_eq!(model.inventory.by_ek(&Sha256Digest([0x33; 32])), None);
    assert_eq!(node.ak.as_ref().map(Vec::len), Some(34));
    assert_eq!(model.collector.lease_keys[0].ed25519, [0; 32]);
    assert_eq!(
        model.collector.logs[0].origin,
        "log.example/bailiwick/eu/2026"
    );
    assert_eq!(model.warnings, []);
}

#[test]
fn each_file_is_checked_by_itself() {
    let rows: &[(&str, &str, &str, &str)] = &[
        // studies
        (
            "cardio",
            "\"DE\"",
            "\"Germany\"",
            "studies/cardio.toml:8: allow.jurisdictions: \"Germany\" must be two upper-case letters, or X- and up to 29 of A-Z, 0-9, '-'",
        ),
        (
            "cardio",
            "\"enforce\"",
            "\"off\"",
            "studies/cardio.toml:2: mode: \"off\" is no mode: enforce or audit",
        ),
        (
            "cardio",
            "mode = \"enforce\"\n",
            "",
            "studies/cardio.toml:1: missing field `mode`",
        ),
        (
            "cardio",
            "name = \"cardio\"",
            "name = \"Cardio\"",
            "studies/cardio.toml:1: name: \"Cardio\" may hold only a-z, 0-9, '-' and '.'",
        ),
        (
            "cardio",
            "[allow]",
            "[alow]",
            "studies/cardio.toml:7: alow: unknown field `alow`, expected one of `name`, `mode`, `select`, `allow`, `deny`, `peers`, `unattested`, `devices`",
        ),
        (
            "cardio",
            "[allow]",
            "[devices]\ngpus = [\"x\"]\n[allow]",
            "studies/cardio.toml:8: devices.gpus: \"x\" is no GPU: a number from 0 to 253, GPU- and a UUID in lower case, or all",
        ),
        (
            "cardio",
            "[allow]",
            "[devices]\ngpus = [\"0\", \"all\"]\n[allow]",
            "studies/cardio.toml:8: devices.gpus: \"all\" stands beside other GPUs",
        ),
        (
            "cardio",
            "[allow]",
            "[devices]\ngpus = [\"0\"]\nmig = [\"0/1\"]\n[allow]",
            "studies/cardio.toml:9: devices.mig: 0/1 is a part of GPU 0, which is named whole in studies/cardio.toml:8: devices.gpus",
        ),
        (
            "cardio",
            "[allow]",
            "[devices]\nmig = [\"0\"]\n[allow]",
            "studies/cardio.toml:8: devices.mig: \"0\" is no part of a GPU: GPU/INSTANCE or GPU/INSTANCE/COMPUTE, for example 0/1/0",
        ),
        (
            "cardio",
            "[allow]",
            "[devices]\nnodes = [\"uverbs0\", \"uverbs0\"]\n[allow]",
            "studies/cardio.toml:8: devices.nodes: \"uverbs0\" stands here twice",
        ),
        (
            "cardio",
            "[allow]",
            "[devices]\non_failure = \"kill\"\n[allow]",
            "studies/cardio.toml:8: devices.on_failure: \"kill\" is nothing that can be done: deny or stop",
        ),
        (
            "cardio",
            "[\"/studies/cardio\", \"/kubepods.slice/*cardio*\"]",
            "[]",
            "studies/cardio.toml:4: select: selects nothing: name at least one cgroup, slice or unit",
        ),
        (
            "cardio",
            "\"/studies/cardio\"",
            "\"studies/cardio\"",
            "studies/cardio.toml:5: select.cgroups: \"studies/cardio\" is no path below the cgroup mount: begins with no '/'",
        ),
        (
            "cardio",
            "203.0.113.0/24",
            "203.0.113.7/24",
            "studies/cardio.toml:9: allow.prefixes: 203.0.113.7/24 has bits set behind its length: 203.0.113.0/24 or 203.0.113.7/32",
        ),
        (
            "cardio",
            "203.0.113.0/24",
            "203.0.113.0/33",
            "studies/cardio.toml:9: allow.prefixes: \"203.0.113.0/33\" is no prefix: ADDRESS/LENGTH, for example 203.0.113.0/24",
        ),
        (
            "cardio",
            "203.0.113.0/24",
            "203.0.113.1",
            "studies/cardio.toml:9: allow.prefixes: \"203.0.113.1\" is no prefix: ADDRESS/LENGTH, for example 203.0.113.0/24",
        ),
        (
            "cardio",
            "2001:db8::/32",
            "2001:db8::1/32",
            "studies/cardio.toml:9: allow.prefixes: 2001:db8::1/32 has bits set behind its length: 2001:db8::/32 or 2001:db8::1/128",
        ),
        (
            "cardio",
            "2001:db8::/32",
            "::ffff:0:0/96",
            "studies/cardio.toml:9: allow.prefixes: ::ffff:0:0/96 is IPv4-mapped: such addresses are judged by the IPv4 address inside, write that one's prefix",
        ),
        (
            "cardio",
            "2001:db8::/32",
            "2002:c633:6400::/40",
            "studies/cardio.toml:9: allow.prefixes: 2002:c633:6400::/40 is 6to4: such addresses are judged by the IPv4 address inside, write that one's prefix",
        ),
        (
            "cardio",
            "\"DE\", \"FR\"",
            "\"DE\", \"DE\"",
            "studies/cardio.toml:8: allow.jurisdictions: \"DE\" stands here twice",
        ),
        // host fence
        (
            "host",
            "8443",
            "0",
            "host-fence.toml:5: service.ports: \"0\" is no port or range: \"53\" or \"8000-8999\", 1 to 65535",
        ),
        (
            "host",
            "8443",
            "65536",
            "host-fence.toml:5: service.ports: \"65536\" is no port or range: \"53\" or \"8000-8999\", 1 to 65535",
        ),
        (
            "host",
            "8443",
            "+22",
            "host-fence.toml:5: service.ports: \"+22\" is no port or range: \"53\" or \"8000-8999\", 1 to 65535",
        ),
        (
            "host",
            "120-123",
            "123-120",
            "host-fence.toml:11: service.ports: \"123-120\" is no port or range: \"53\" or \"8000-8999\", 1 to 65535",
        ),
        (
            "host",
            "\"tcp\"",
            "\"icmp\"",
            "host-fence.toml:5: service.ports: protocol icmp has no ports",
        ),
        (
            "host",
            "\"tcp\"",
            "\"sctp\"",
            "host-fence.toml:4: service.protocol: \"sctp\" is no protocol: tcp, udp, icmp or any",
        ),
        (
            "host",
            "10.9.0.1/32",
            "10.9.0.1",
            "host-fence.toml:3: service.address: \"10.9.0.1\" is no prefix: ADDRESS/LENGTH, for example 203.0.113.0/24",
        ),
        (
            "host",
            "\"ntp\"",
            "\"management\"",
            "host-fence.toml:8: service.name: service \"management\" is named twice",
        ),
        (
            "host",
            "[\"/system.slice/ssh.service\"]",
            "[]",
            "host-fence.toml:14: host.name: selects nothing: name at least one cgroup, slice or unit",
        ),
        // sites
        (
            "sites",
            "10.9.0.0/16",
            "10.9.0.0/8",
            "sites.toml:2: site.prefix: 10.9.0.0/8 has bits set behind its length: 10.0.0.0/8 or 10.9.0.0/32",
        ),
        (
            "sites",
            "X-OWN",
            "own",
            "sites.toml:3: site.jurisdiction: \"own\" must be two upper-case letters, or X- and up to 29 of A-Z, 0-9, '-'",
        ),
        (
            "sites",
            "jurisdiction = \"X-OWN\"\n",
            "jurisdiction = \"X-OWN\"\n[[site]]\nprefix = \"10.9.0.0/16\"\njurisdiction = \"DE\"\n",
            "sites.toml:5: site.prefix: 10.9.0.0/16 is named twice",
        ),
        // inventory
        (
            "inventory",
            "gpu-02",
            "gpu-01",
            "inventory.toml:7: node.name: node \"gpu-01\" is named twice",
        ),
        (
            "inventory",
            "2222222222222222222222222222222222222222222222222222222222222222",
            "1111111111111111111111111111111111111111111111111111111111111111",
            "inventory.toml:8: node.ek: EK \"1111111111111111111111111111111111111111111111111111111111111111\" is named twice",
        ),
        (
            "inventory",
            "ek = \"22",
            "ek = \"2",
            "inventory.toml:3: node.ek: \"222222222222222222222222222222222222222222222222222222222222222\" must be 64 lower-case hexadecimal digits",
        ),
        (
            "inventory",
            "000b",
            "000d",
            "inventory.toml:9: node.ak: \"000d1111111111111111111111111111111111111111111111111111111111111111\" is no name of a key: 68 or 100 lower-case hexadecimal digits, beginning with 000b or 000c",
        ),
        (
            "inventory",
            "jurisdiction = \"DE\"\n\n",
            "jurisdiction = \"DE\"\nchassis_serial = \"ABC123\"\n\n",
            "inventory.toml:11: node.chassis_serial: chassis serial \"ABC123\" is named twice",
        ),
        (
            "inventory",
            "\"ABC123\"",
            "\"\"",
            "inventory.toml:10: node.chassis_serial: \"\" must have 1 to 200 bytes and no control characters",
        ),
        (
            "inventory",
            "jurisdiction = \"DE\"\n\n",
            "\n",
            "inventory.toml:1: node: missing field `jurisdiction`",
        ),
        // collector
        (
            "collector",
            "AAA=",
            "AAAA",
            "collector.toml:3: lease_key.ed25519: is no Ed25519 public key: 32 bytes in base64",
        ),
        (
            "collector",
            "+0badf00d",
            "+0badf00",
            "collector.toml:6: log.vkey: is no verifier key of log.example/bailiwick/eu/2026: NAME+HASH+BASE64 of that name",
        ),
        (
            "collector",
            "origin = \"log",
            "origin = \"lag",
            "collector.toml:6: log.vkey: is no verifier key of lag.example/bailiwick/eu/2026: NAME+HASH+BASE64 of that name",
        ),
        (
            "collector",
            "lease-2026",
            "lease 2026",
            "collector.toml:2: lease_key.id: \"lease 2026\" may hold only a-z, 0-9, '-' and '.'",
        ),
    ];
    for (file, from, to, want) in rows {
        let got = parse(file, from, to).expect_err(want);
        assert_eq!(got.to_string(), *want);
    }
}

#[test]
fn files_are_checked_against_one_another() {
    let rows: &[(&str, &str, &str, &str)] = &[
        (
            "cardio",
            "\"ntp\"",
            "\"dns\"",
            "studies/cardio.toml:10: allow.services: \"dns\" is no service of host-fence.toml",
        ),
        (
            "cardio",
            "\"management\"",
            "\"manager\"",
            "studies/cardio.toml:19: unattested.services: \"manager\" is no service of host-fence.toml",
        ),
        (
            "host",
            "prefixes = [\"10.0.0.0/8\"]",
            "services = [\"dns\"]",
            "host-fence.toml:17: host.allow.services: \"dns\" is no service of host-fence.toml",
        ),
        (
            "neuro",
            "\"neuro\"",
            "\"cardio\"",
            "studies/cardio.toml:1: name: \"cardio\" is also the name in studies/neuro.toml:1: name",
        ),
        (
            "host",
            "\"sshd\"",
            "\"cardio\"",
            "host-fence.toml:14: host.name: \"cardio\" is also the name in studies/cardio.toml:1: name",
        ),
        (
            "neuro",
            "/studies/neuro",
            "/studies/cardio",
            "studies/cardio.toml:5: select.cgroups: /studies/cardio overlaps /studies/cardio of study neuro (studies/neuro.toml:3: select.cgroups)",
        ),
        (
            "neuro",
            "/studies/neuro",
            "/studies/cardio/gpu",
            "studies/cardio.toml:5: select.cgroups: /studies/cardio overlaps /studies/cardio/gpu of study neuro (studies/neuro.toml:3: select.cgroups)",
        ),
        (
            "neuro",
            "/studies/neuro",
            "/kubepods.slice/neuro*",
            "studies/cardio.toml:5: select.cgroups: /kubepods.slice/*cardio* overlaps /kubepods.slice/neuro* of study neuro (studies/neuro.toml:3: select.cgroups)",
        ),
        (
            "host",
            "/system.slice/ssh.service",
            "/studies/cardio/ssh",
            "host-fence.toml:15: host.cgroups: /studies/cardio/ssh lies inside /studies/cardio of study cardio (studies/cardio.toml:5: select.cgroups), which decides first",
        ),
        (
            "host",
            "prefixes = [\"10.0.0.0/8\"]",
            "\n[[host]]\nname = \"b\"\ncgroups = [\"/system.slice/*\"]\n",
            "host-fence.toml:20: host.cgroups: /system.slice/* overlaps /system.slice/ssh.service of host service sshd (host-fence.toml:15: host.cgroups)",
        ),
        (
            "neuro",
            "10.9.2.0/24",
            "10.9.1.0/25",
            "studies/neuro.toml:4: peers.addresses: 10.9.1.0/25 overlaps 10.9.1.0/24 of study cardio (studies/cardio.toml:16: peers.addresses)",
        ),
        (
            "neuro",
            "10.9.2.0/24",
            "10.0.0.0/8",
            "studies/cardio.toml:16: peers.addresses: 10.9.1.0/24 overlaps 10.0.0.0/8 of study neuro (studies/neuro.toml:4: peers.addresses)",
        ),
    ];
    for (file, from, to, want) in rows {
        let got = parse(file, from, to).expect_err(want);
        assert_eq!(got.to_string(), *want);
    }
}

#[test]
fn what_lies_beside_is_accepted() {
    let rows = [
        ("neuro", "/studies/neuro", "/studies/cardio-2"),
        ("neuro", "10.9.2.0/24", "10.9.0.0/24"),
        // Hosts may nest: the deepest decides. A host service may hold studies: they decide first.
        ("host", "/system.slice/ssh.service", "/studies"),
        (
            "host",
            "prefixes = [\"10.0.0.0/8\"]",
            "\n[[host]]\nname = \"b\"\ncgroups = [\"/system.slice\"]\nallow.prefixes = [\"10.0.0.0/8\"]\n",
        ),
        // One study may name an address twice over.
        (
            "cardio",
            "\"10.9.1.0/24\"",
            "\"10.9.1.0/24\", \"10.9.1.0/25\"",
        ),
        ("sites", "10.9.0.0/16", "0.0.0.0/0"),
        ("cardio", "2001:db8::/32", "::/0"),
    ];
    for (file, from, to) in rows {
        if let Err(err) = parse(file, from, to) {
            panic!("{to}: {err}");
        }
    }
}

#[test]
fn a_study_without_a_gate_is_refused_and_a_host_service_is_a_warning() {
    let gates = "peers.addresses = [\"10.9.2.0/24\"]\nallow.jurisdictions = [\"US\"]\n";
    let refused = parse("neuro", gates, "").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "studies/neuro.toml:1: name: study neuro allows nothing: name a jurisdiction, prefix or \
         service in [allow] or [unattested], addresses in [peers], or a device"
    );
    for gate in [
        "peers.addresses = [\"10.9.2.0/24\"]\n",
        "allow.jurisdictions = [\"US\"]\n",
        "unattested.jurisdictions = [\"US\"]\n",
        "devices.raw_sockets = true\n",
    ] {
        let model = parse("neuro", gates, gate).unwrap();
        assert_eq!(model.warnings, [], "{gate}");
    }
    let model = parse("host", "[host.allow]\nprefixes = [\"10.0.0.0/8\"]\n", "");
    let warnings: Vec<String> = model
        .unwrap()
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    let says = "host-fence.toml:14: host.name: host service sshd allows nothing: everything it sends is denied";
    assert_eq!(warnings, [says]);
}

#[test]
fn sizes_are_bounded() {
    let prefixes: Vec<String> = (0..=PREFIXES_LIMIT)
        .map(|i| format!("\"10.{}.{}.0/24\"", i >> 8, i & 255))
        .collect();
    let got = parse("cardio", "\"203.0.113.0/24\"", &prefixes.join(", ")).unwrap_err();
    assert_eq!(got.fault, "more than 4096 entries");
    let cgroups: Vec<String> = (0..=SELECTORS_LIMIT)
        .map(|i| format!("\"/x/{i}\""))
        .collect();
    let got = parse("cardio", "\"/studies/cardio\"", &cgroups.join(", ")).unwrap_err();
    assert_eq!(got.fault, "more than 64 entries");
    let padding = format!("#{}\n", " ".repeat(STUDY_FILE_LIMIT));
    let got = parse("cardio", "name", &format!("{padding}name")).unwrap_err();
    assert!(got.fault.contains("exceed the limit of 524288"), "{got}");
}

#[test]
fn a_file_cut_or_spoilt_anywhere_is_read_or_refused() {
    for (file, text) in [
        ("cardio", CARDIO),
        ("host", HOST_FENCE),
        ("collector", COLLECTOR),
    ] {
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            if let Err(err) = parse(file, text, &text[..at]) {
                assert!(err.line >= 1 && !err.fault.is_empty(), "{err:?}");
            }
            for other in ["\"", "[", "=", "\n", "\u{e9}", "0"] {
                let spoilt = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                if let Err(err) = parse(file, text, &spoilt) {
                    assert!(err.line >= 1 && !err.fault.is_empty(), "{err:?}");
                }
            }
        }
    }
}
