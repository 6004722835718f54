use std::sync::Arc;

use bailiwick_attestation::Sha256Digest;

use super::*;
use crate::bundle::{WorldKind, WorldSource};
use crate::image::compile;
use crate::model::Files;
use crate::world::World;

const CARDIO: &[u8] = br#"name = "cardio"
mode = "enforce"
select.cgroups = ["/studies/cardio"]
[allow]
jurisdictions = ["DE", "FR"]
prefixes = ["203.0.113.0/24",
  "203.0.113.192/26"]
services = ["ntp"]
[deny]
prefixes = ["203.0.113.128/25"]
[peers]
addresses = ["10.9.1.0/24"]
[unattested]
services = ["management"]
"#;

const NEURO: &[u8] = br#"name = "neuro"
mode = "audit"
select.cgroups = ["/studies/neuro"]
allow.jurisdictions = ["US"]
peers.addresses = ["10.9.2.0/24"]
"#;

const HOST_FENCE: &[u8] = br#"[[service]]
name = "management"
address = "10.9.0.1/32"
protocol = "tcp"
ports = "8443"
[[service]]
name = "ntp"
address = "192.0.2.3/32"
protocol = "udp"
[[host]]
name = "sshd"
cgroups = ["/system.slice/ssh.service"]
allow.prefixes = ["10.250.0.0/24"]
[management]
addresses = ["10.250.0.0/24"]
[[kernel]]
name = "nfs"
address = "198.51.100.9/32"
protocol = "tcp"
ports = "2049"
study = "cardio"
[[kernel]]
name = "wireguard"
address = "192.0.2.99/32"
protocol = "udp"
"#;

fn ask(rows: &[(&str, &str, Protocol, u16, bool, &str)]) {
    let model = Model::parse(&Files {
        studies: &[
            ("studies/cardio.toml", CARDIO),
            ("studies/neuro.toml", NEURO),
        ],
        host_fence: HOST_FENCE,
        sites: b"",
        inventory: b"",
        collector: b"",
        profile: b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\n\
                   tpm={bank=\"sha256\",require=[0]}\n",
        guest_profile: None,
    })
    .unwrap();
    let text = b"198.51.100.0/24,DE\n192.0.2.0/24,US\n";
    let source = WorldSource {
        kind: WorldKind::Csv,
        bytes: Arc::new(text.to_vec()),
    };
    let world = World::compile(&source, &model.sites).unwrap();
    let policy = compile(&model, &world.codes, 1, &Sha256Digest([7; 32])).unwrap();
    let explainer = Explainer {
        model: &model,
        world: &world.image(1),
        policy: &policy,
    };
    for &(subject, to, protocol, port, attested, want) in rows {
        let query = Query {
            subject,
            address: to.parse().unwrap(),
            protocol,
            port,
            direction: Direction::Egress,
            attested,
            peer: true,
        };
        let got = explainer.explain(&query);
        let got = got.map_or_else(|err| err.to_string(), |answer| answer.to_string());
        assert_eq!(got, want);
    }
}

#[test]
fn a_device_is_explained_by_the_verdict_on_devices() {
    let study = "name = \"a\"\nmode = \"enforce\"\nselect.cgroups = [\"/a\"]\n[devices]\n\
                 gpus = [\"0\"]\nnodes = [\"nvidia-uvm\", \"uverbs0\", \"vfio/12\"]\n";
    let other = "name = \"b\"\nmode = \"enforce\"\nselect.cgroups = [\"/b\"]\n[devices]\n\
                 gpus = [\"GPU-00000000-1111-2222-3333-444444444444\"]\nunattested = true\n";
    let model = Model::parse(&Files {
        studies: &[
            ("studies/a.toml", study.as_bytes()),
            ("studies/b.toml", other.as_bytes()),
        ],
        host_fence: b"",
        sites: b"",
        inventory: b"",
        collector: b"",
        profile: b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\n\
                   tpm={bank=\"sha256\",require=[0]}\n",
        guest_profile: None,
    })
    .unwrap();
    let source = WorldSource {
        kind: WorldKind::Csv,
        bytes: Arc::new(Vec::new()),
    };
    let world = World::compile(&source, &model.sites).unwrap();
    let policy = compile(&model, &world.codes, 1, &Sha256Digest([7; 32])).unwrap();
    let explainer = Explainer {
        model: &model,
        world: &world.image(1),
        policy: &policy,
    };
    let rows = [
        ("a", "/dev/nvidia0", true, "device-granted", "another study"),
        ("a", "/dev/nvidia0", false, "no-lease", "unattested"),
        ("a", "/dev/nvidia1", true, "device-not-granted", "no line"),
        ("a", "/dev/nvidiactl", true, "device-granted", "names"),
        ("a", "/dev/nvidia-uvm", true, "device-granted", "names"),
        (
            "a",
            "/dev/nvidia-uvm-tools",
            true,
            "device-not-granted",
            "no line",
        ),
        (
            "a",
            "/dev/infiniband/uverbs0",
            true,
            "device-granted",
            "names",
        ),
        (
            "a",
            "/dev/infiniband/uverbs1",
            true,
            "device-not-granted",
            "no line",
        ),
        (
            "a",
            "/dev/infiniband/rdma_cm",
            true,
            "device-not-granted",
            "no line",
        ),
        ("a", "/dev/vfio/12", true, "device-granted", "names"),
        ("a", "/dev/vfio/13", true, "device-not-granted", "no line"),
        ("a", "/dev/null", true, "left-alone", "governed"),
        ("a", "/etc/passwd", true, "left-alone", "governed"),
        (
            "b",
            "/dev/nvidia0",
            true,
            "device-not-granted",
            "only the host",
        ),
    ];
    for (subject, path, attested, rule, because) in rows {
        let query = DeviceQuery {
            subject,
            path,
            attested,
        };
        let told = explainer.explain_device(&query).unwrap();
        assert_eq!(told.rule, rule, "{subject} {path}");
        assert!(told.because.contains(because), "{path}: {}", told.because);
        let opens = matches!(rule, "device-granted" | "left-alone");
        assert_eq!(told.action == Action::Allow, opens, "{path}");
    }
    let nobody = DeviceQuery {
        subject: "c",
        path: "/dev/nvidia0",
        attested: true,
    };
    assert!(explainer.explain_device(&nobody).is_err());
}

#[test]
fn a_family_without_data_is_named_as_the_reason() {
    ask(&[(
        "cardio",
        "2001:db8:9::1",
        Protocol::Tcp,
        443,
        true,
        "denied (jurisdiction): neither the world map nor sites.toml has a range of IPv6, so that \
         2001:db8:9::1 lies nowhere; no line of cardio allows the address or a service there\n  \
         decided by studies/cardio.toml:1: name\n  \
         to change it: allow 2001:db8:9::1/128 as a prefix in studies/cardio.toml, or say in \
         sites.toml where it lies and allow that",
    )]);
}

#[test]
fn what_is_allowed_names_its_line() {
    ask(&[
        (
            "cardio",
            "198.51.100.7",
            Protocol::Tcp,
            443,
            true,
            "allowed (jurisdiction): 198.51.100.7 lies in DE, which is allowed\n  \
             decided by studies/cardio.toml:5: allow.jurisdictions",
        ),
        (
            "cardio",
            "::ffff:203.0.113.200",
            Protocol::Tcp,
            443,
            true,
            "allowed (prefix): 203.0.113.200 is in 203.0.113.192/26, which is allowed\n  \
             decided by studies/cardio.toml:7: allow.prefixes",
        ),
        (
            "cardio",
            "192.0.2.3",
            Protocol::Udp,
            123,
            true,
            "allowed (service): this is the service ntp, which is allowed\n  \
             decided by studies/cardio.toml:8: allow.services",
        ),
        (
            "cardio",
            "10.9.0.1",
            Protocol::Tcp,
            8443,
            false,
            "allowed (service): this is the service management, which is allowed\n  \
             decided by studies/cardio.toml:14: unattested.services",
        ),
        (
            "cardio",
            "10.9.1.9",
            Protocol::Icmp,
            0,
            true,
            "allowed (peer): 10.9.1.9 is one of the study's own addresses\n  \
             decided by studies/cardio.toml:12: peers.addresses",
        ),
    ]);
}

#[test]
fn what_is_denied_tells_what_to_change() {
    ask(&[
        (
            "cardio",
            "192.0.2.9",
            Protocol::Tcp,
            443,
            true,
            "denied (jurisdiction): 192.0.2.9 lies in US; no line of cardio allows the place, the \
             address or a service there\n  decided by studies/cardio.toml:1: name\n  \
             to change it: allow US as a jurisdiction in studies/cardio.toml, or 192.0.2.9/32 as a prefix",
        ),
        (
            "cardio",
            "9.9.9.9",
            Protocol::Tcp,
            443,
            true,
            "denied (jurisdiction): 9.9.9.9 lies in unknown; no line of cardio allows the place, the \
             address or a service there\n  decided by studies/cardio.toml:1: name\n  \
             to change it: allow 9.9.9.9/32 as a prefix in studies/cardio.toml, or say in sites.toml \
             where it lies and allow that",
        ),
        (
            "cardio",
            "203.0.113.130",
            Protocol::Tcp,
            443,
            true,
            "denied (prefix): 203.0.113.130 is in 203.0.113.128/25, which is denied\n  \
             decided by studies/cardio.toml:10: deny.prefixes\n  \
             to change it: allow a longer prefix in studies/cardio.toml, such as 203.0.113.130/32",
        ),
        (
            "cardio",
            "10.9.2.1",
            Protocol::Tcp,
            443,
            true,
            "denied (other-study): 10.9.2.1 is in 10.9.2.0/24, of study neuro\n  \
             decided by studies/neuro.toml:5: peers.addresses\n  \
             to change it: an address is one study's or nobody's, and studies do not reach each \
             other; take it out of that study's peers.addresses",
        ),
        (
            "cardio",
            "198.51.100.7",
            Protocol::Tcp,
            443,
            false,
            "denied (no-lease): the node has no lease, and [unattested] of cardio does not allow it \
             (198.51.100.7 lies in DE); with a lease it would pass\n  \
             decided by studies/cardio.toml:1: name\n  \
             to change it: bring the node back to standing (`bailiwick node why NODE` tells what it \
             lacks), or allow 198.51.100.7/32 in [unattested] of studies/cardio.toml",
        ),
        (
            "neuro",
            "198.51.100.7",
            Protocol::Tcp,
            443,
            true,
            "audited (jurisdiction): 198.51.100.7 lies in DE; no line of neuro allows the place, the \
             address or a service there; it passes and is reported, for the study is in audit \
             mode\n  decided by studies/neuro.toml:1: name\n  \
             to change it: allow DE as a jurisdiction in studies/neuro.toml, or 198.51.100.7/32 as a prefix",
        ),
        (
            "oncology",
            "198.51.100.7",
            Protocol::Tcp,
            443,
            true,
            "\"oncology\" is no study and no host service of this policy, which has cardio, neuro, sshd",
        ),
    ]);
}

#[test]
fn what_is_no_studys_own_rule_is_told_too() {
    ask(&[
        (
            "cardio",
            "198.51.100.7",
            Protocol::Udp,
            53,
            true,
            "denied (resolver): this is DNS, and 198.51.100.7 is no resolver that cardio may ask: a \
             resolver passes on what it is asked, wherever it stands\n  \
             decided by studies/cardio.toml:1: name\n  \
             to change it: name a [[service]] for 198.51.100.7/32 with its port in host-fence.toml, \
             and the service in studies/cardio.toml",
        ),
        (
            "cardio",
            "10.250.0.1",
            Protocol::Tcp,
            443,
            true,
            "denied (management): 10.250.0.1 is of the management plane, and no study reaches it\n  \
             decided by host-fence.toml:15: management.addresses\n  \
             to change it: the management plane is for host services; take the address out of \
             management.addresses in host-fence.toml if it is not of it",
        ),
        (
            "sshd",
            "10.250.0.1",
            Protocol::Tcp,
            443,
            true,
            "denied (management): 10.250.0.1 is of the management plane, and this host service is \
             not named for it\n  decided by host-fence.toml:15: management.addresses\n  \
             to change it: say `management = true` of this host service in host-fence.toml",
        ),
        (
            "kernel",
            "198.51.100.9",
            Protocol::Tcp,
            2049,
            true,
            "allowed (jurisdiction): the kernel serves study cardio there: 198.51.100.9 lies in DE, \
             which is allowed\n  decided by studies/cardio.toml:5: allow.jurisdictions",
        ),
        (
            "kernel",
            "192.0.2.99",
            Protocol::Udp,
            51_820,
            true,
            "allowed (kernel): the host fence names 192.0.2.99 as a target of the kernel's\n  \
             decided by host-fence.toml:23: kernel.name",
        ),
        (
            "kernel",
            "192.0.2.98",
            Protocol::Udp,
            51_820,
            true,
            "denied (kernel): no [[kernel]] entry of host-fence.toml names 192.0.2.98 and this \
             port\n  to change it: name the target in a [[kernel]] entry of host-fence.toml, with \
             the study it serves",
        ),
    ]);
}
