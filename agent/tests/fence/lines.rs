//! The lines on network devices and at socket options: what gets past the first line is counted
//! where it would arrive.

use std::fs;

use bailiwick_agent::{
    config::Devices,
    fence::{Fence, Recorder},
    fence_service::Enforcer,
};

use crate::{
    bundle::signed,
    net::{Actor, Net, enter, ip},
    raw::MARKER,
    scene::Scene,
};

const WORLD: &str = "192.0.2.0/24,DE\n198.51.100.0/24,US\n2001:db8:1::/48,DE\n\
                     2001:db8:2::/48,US\n";
const HERE: [&str; 2] = ["10.9.1.1/32", "2001:db8:9::1/128"];
const THERE: [&str; 2] = ["192.0.2.7/32", "198.51.100.7/32"];

/// Allowed, and not.
const DE: [u8; 4] = [192, 0, 2, 7];
const US: [u8; 4] = [198, 51, 100, 7];

/// One study, which may reach DE and 10.8.0.0/16; the wire out is the uplink.
struct Stage {
    net: Net,
    fence: Fence,
    /// Last: its file system cannot be unmounted while the fence holds it.
    scene: Scene,
}

impl Stage {
    /// From here on this thread lives in the namespace of the uplink.
    fn new(test: &str, ports: &[&str]) -> Self {
        let mut scene = Scene::new(test);
        fs::create_dir_all(scene.cgroup("other")).unwrap();
        fs::create_dir_all(scene.cgroup("lldpd")).unwrap();
        let net = Net::new(test, &HERE, &THERE);
        enter(&net.inside);
        let named = |names: &[&str]| Devices::Named(names.iter().map(|n| (*n).into()).collect());
        scene.section.uplinks = Some(named(&["wire"]));
        scene.section.ports = Some(named(ports));
        let fence = Fence::open(&scene.section, Recorder::default()).unwrap();
        let mut stage = Self { scene, net, fence };
        stage.apply(1);
        stage
    }

    fn apply(&mut self, version: u64) {
        let study = format!(
            "name = \"cardio\"\nmode = \"enforce\"\n[select]\ncgroups = [{:?}]\n\
             [allow]\njurisdictions = [\"DE\"]\nprefixes = [\"10.8.0.0/16\"]\n",
            self.scene.path("studies/cardio")
        );
        let host_fence = format!(
            "ethertypes = [\"0x88cc\"]\n[[host]]\nname = \"lldpd\"\ncgroups = [{:?}]\n\
             allow.prefixes = [\"10.8.0.0/16\"]\n",
            self.scene.path("lldpd")
        );
        let files = [
            ("studies/cardio.toml", study.as_str()),
            ("host-fence.toml", host_fence.as_str()),
            ("world.csv", WORLD),
        ];
        let bundle = signed(&self.scene.folder(), version, &files);
        self.fence.apply_policy(&bundle).unwrap();
        self.fence.set_lease_end(u64::MAX).unwrap();
    }

    fn actor(&self, cgroup: &str, namespace: &str) -> Actor {
        Actor::new(&self.scene.cgroup(cgroup), namespace)
    }

    /// Counts what arrives on the far side of the uplink.
    fn receiver(&self) -> Actor {
        let mut world = self.actor("..", &self.net.world);
        assert_eq!(world.tell("sniff wire"), "counting");
        world
    }
}

fn ethernet(head: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(head.iter().flat_map(|word| word.to_be_bytes()));
    frame.extend(packet);
    frame
}

/// UDP with the marker, and options of IPv4 between.
fn v4(to: [u8; 4], options: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let length = u8::try_from(20 + options.len() + 8 + MARKER.len()).unwrap();
    let mut packet = vec![0x40 | words, 0, 0, length, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend([10, 9, 1, 1]);
    packet.extend(to);
    packet.extend(options);
    packet.extend([0x13, 0x88, 0x13, 0x88, 0, 17, 0, 0]);
    packet.extend(MARKER);
    packet
}

fn v6(to: u16, next: u8, headers: &[u8]) -> Vec<u8> {
    let length = u8::try_from(headers.len() + 8 + MARKER.len()).unwrap();
    let mut packet = vec![0x60, 0, 0, 0, 0, length, next, 64];
    let address = |block: u16, host: u8| {
        let mut address = vec![0x20, 0x01, 0x0d, 0xb8];
        address.extend(block.to_be_bytes());
        address.extend([0; 9]);
        address.push(host);
        address
    };
    packet.extend(address(9, 1));
    packet.extend(address(to, 7));
    packet.extend(headers);
    packet.extend([0x13, 0x88, 0x13, 0x88, 0, 17, 0, 0]);
    packet.extend(MARKER);
    packet
}

#[test]
fn frames_built_by_hand_are_judged_by_what_they_carry() {
    let stage = Stage::new("frames", &[]);
    let mut world = stage.receiver();
    let mut study = stage.actor("studies/cardio", &stage.net.inside);
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], MARKER, &[0; 11]].concat();
    // The ethertype the socket claims, the frame, and how many of three arrive.
    let rows: &[(&str, u16, Vec<u8>, u64)] = &[
        ("allowed", 0x0800, ethernet(&[0x0800], &v4(DE, &[])), 3),
        ("denied", 0x0800, ethernet(&[0x0800], &v4(US, &[])), 0),
        (
            "allowed, IPv6",
            0x86dd,
            ethernet(&[0x86dd], &v6(1, 17, &[])),
            3,
        ),
        (
            "denied, IPv6",
            0x86dd,
            ethernet(&[0x86dd], &v6(2, 17, &[])),
            0,
        ),
        (
            "denied, by a socket that claims IPv6",
            0x86dd,
            ethernet(&[0x0800], &v4(US, &[])),
            0,
        ),
        (
            "denied, by a socket that claims ARP",
            0x0806,
            ethernet(&[0x0800], &v4(US, &[])),
            0,
        ),
        (
            "denied, by a socket that claims nothing known",
            0x88b5,
            ethernet(&[0x0800], &v4(US, &[])),
            0,
        ),
        (
            "allowed, by a socket that claims nothing known",
            0x88b5,
            ethernet(&[0x0800], &v4(DE, &[])),
            3,
        ),
        (
            "IPv4 under the ethertype of IPv6",
            0x0800,
            ethernet(&[0x86dd], &v4(DE, &[])),
            0,
        ),
        (
            "denied in a VLAN",
            0x8100,
            ethernet(&[0x8100, 7, 0x0800], &v4(US, &[])),
            0,
        ),
        (
            "allowed in a VLAN",
            0x8100,
            ethernet(&[0x8100, 7, 0x0800], &v4(DE, &[])),
            3,
        ),
        (
            "denied in two",
            0x88a8,
            ethernet(&[0x88a8, 7, 0x8100, 8, 0x0800], &v4(US, &[])),
            0,
        ),
        (
            "allowed in two",
            0x88a8,
            ethernet(&[0x88a8, 7, 0x8100, 8, 0x0800], &v4(DE, &[])),
            3,
        ),
        (
            "allowed in three",
            0x88a8,
            ethernet(&[0x88a8, 7, 0x8100, 8, 0x8100, 9, 0x0800], &v4(DE, &[])),
            0,
        ),
        (
            "MPLS",
            0x8847,
            ethernet(&[0x8847, 0x0001, 0x01ff], &v4(DE, &[])),
            0,
        ),
        (
            "PPPoE",
            0x8864,
            ethernet(&[0x8864, 0x1100, 1, 50, 0x0021], &v4(DE, &[])),
            0,
        ),
        (
            "LLC and SNAP",
            0x0004,
            ethernet(&[60, 0xaaaa, 0x0300, 0x0000, 0x0800], &v4(DE, &[])),
            0,
        ),
        ("no IP at all", 0x88b5, ethernet(&[0x88b5], MARKER), 0),
        ("ARP by hand", 0x0806, ethernet(&[0x0806], &arp), 0),
        (
            "loose source route",
            0x0800,
            ethernet(&[0x0800], &v4(DE, &[131, 7, 4, 198, 51, 100, 7, 0])),
            0,
        ),
        (
            "strict source route",
            0x0800,
            ethernet(&[0x0800], &v4(DE, &[137, 7, 4, 198, 51, 100, 7, 0])),
            0,
        ),
        (
            "routing header",
            0x86dd,
            ethernet(&[0x86dd], &v6(1, 43, &[17, 0, 4, 0, 0, 0, 0, 0])),
            0,
        ),
        (
            "destination options, allowed",
            0x86dd,
            ethernet(&[0x86dd], &v6(1, 60, &[17, 0, 1, 4, 0, 0, 0, 0])),
            3,
        ),
        (
            "destination options, denied",
            0x86dd,
            ethernet(&[0x86dd], &v6(2, 60, &[17, 0, 1, 4, 0, 0, 0, 0])),
            0,
        ),
    ];
    for (name, protocol, frame, want) in rows {
        let said = study.tell(&format!("frame wire {protocol} {}", hex::encode(frame)));
        assert_eq!(world.counted(), *want, "{name}: {said}");
    }
    // Nobody's process, and one outside of the root: unknown never means unfenced.
    let frame = hex::encode(ethernet(&[0x0800], &v4(DE, &[])));
    for cgroup in ["other", ".."] {
        let mut stranger = stage.actor(cgroup, &stage.net.inside);
        stranger.tell(&format!("frame wire 2048 {frame}"));
        assert_eq!(world.counted(), 0, "{cgroup}");
    }
}

#[test]
fn an_ethertype_that_the_host_fence_names_leaves_for_host_services_alone() {
    let stage = Stage::new("lldp", &[]);
    let mut world = stage.receiver();
    let body = [MARKER, &[0; 46][..]].concat();
    // Who sends, the frame, and how many of three arrive.
    let rows: &[(&str, &str, Vec<u8>, u64)] = &[
        ("a host service", "lldpd", ethernet(&[0x88cc], &body), 3),
        (
            "a host service, in a VLAN",
            "lldpd",
            ethernet(&[0x8100, 7, 0x88cc], &body),
            3,
        ),
        (
            "a host service, what is not named",
            "lldpd",
            ethernet(&[0x88b5], &body),
            0,
        ),
        (
            "a host service, behind three tags",
            "lldpd",
            ethernet(&[0x88a8, 7, 0x8100, 8, 0x8100, 9, 0x88cc], &body),
            0,
        ),
        (
            "a host service, where IPv4 is said to be it",
            "lldpd",
            ethernet(&[0x0800], &body),
            0,
        ),
        ("a study", "studies/cardio", ethernet(&[0x88cc], &body), 0),
        ("nobody", "other", ethernet(&[0x88cc], &body), 0),
    ];
    for (name, from, frame, want) in rows {
        let mut actor = stage.actor(from, &stage.net.inside);
        actor.tell(&format!("frame wire {} {}", 0x88cc, hex::encode(frame)));
        assert_eq!(world.counted(), *want, "{name}");
    }
}

#[test]
fn nobody_sends_past_the_second_line() {
    let mut stage = Stage::new("options", &[]);
    for cgroup in ["studies/cardio", "other", ""] {
        let mut actor = stage.actor(cgroup, &stage.net.inside);
        // PACKET_QDISC_BYPASS, and its neighbour PACKET_VNET_HDR's successor PACKET_LOSS.
        assert_eq!(actor.tell("option 20 4"), "PermissionDenied", "{cgroup:?}");
        assert_eq!(actor.tell("option 14 4"), "set", "{cgroup:?}");
        assert_eq!(
            actor.tell("option 0 16"),
            "set",
            "{cgroup:?}: a short value"
        );
        assert_eq!(actor.tell("option 0 9000"), "set", "{cgroup:?}: a long one");
    }
    let mut outside = stage.actor("..", &stage.net.inside);
    assert_eq!(outside.tell("option 20 4"), "set", "outside of the root");
    let (events, _) = stage.fence.drain_events();
    let said = events
        .iter()
        .find(|event| event.hook == "cgroup/setsockopt");
    assert_eq!(said.unwrap().rule, "socket-option");
}

#[test]
fn a_tunnel_carries_nothing_where_the_study_may_not_go() {
    let stage = Stage::new("tunnel", &[]);
    let mut world = stage.receiver();
    let mut study = stage.actor("studies/cardio", &stage.net.inside);
    let rows = [
        ("allowed outside", "192.0.2.7", 3),
        ("denied outside", "198.51.100.7", 0),
    ];
    for (number, (name, remote, want)) in (1..).zip(rows) {
        let (device, inner) = (format!("vx{number}"), format!("10.8.{number}.1"));
        let inside = &stage.net.inside;
        let id = number.to_string();
        ip(&[
            "-n", inside, "link", "add", &device, "type", "vxlan", "id", &id, "remote", remote,
            "dstport", "4789", "local", "10.9.1.1", "dev", "wire",
        ]);
        ip(&[
            "-n",
            inside,
            "address",
            "add",
            &format!("{inner}/24"),
            "dev",
            &device,
        ]);
        ip(&["-n", inside, "link", "set", &device, "up"]);
        let far = format!("10.8.{number}.2");
        ip(&[
            "-n",
            inside,
            "neighbour",
            "add",
            &far,
            "lladdr",
            "02:00:00:00:00:09",
            "dev",
            &device,
        ]);
        let said = study.send(&format!("{inner}:0"), &format!("{far}:5000"));
        assert_eq!(world.counted(), want, "{name}: {said}");
    }
}

/// A namespace behind a port of the host, whose packets the host forwards.
fn workload(stage: &Stage, name: &str, number: u8) -> String {
    let space = format!("{}-{name}", stage.net.inside);
    let inside = &stage.net.inside;
    ip(&["netns", "add", &space]);
    ip(&[
        "-n", inside, "link", "add", name, "type", "veth", "peer", "name", "wire", "netns", &space,
    ]);
    let (here, there) = (
        format!("10.9.1.{number}/32"),
        format!("10.9.1.{}", number + 1),
    );
    ip(&["-n", inside, "link", "set", name, "up"]);
    ip(&[
        "-n",
        inside,
        "route",
        "add",
        &format!("{there}/32"),
        "dev",
        name,
    ]);
    ip(&[
        "-n",
        &space,
        "address",
        "add",
        &format!("{there}/32"),
        "dev",
        "wire",
    ]);
    ip(&["-n", &space, "link", "set", "wire", "up"]);
    ip(&["-n", &space, "link", "set", "lo", "up"]);
    ip(&["-n", &space, "route", "add", "default", "dev", "wire"]);
    // Nobody resolves an address that is nobody's.
    ip(&["-n", inside, "address", "add", &here, "dev", name]);
    for far in ["192.0.2.7", "198.51.100.7"] {
        let host = mac(inside, name);
        ip(&[
            "-n",
            &space,
            "neighbour",
            "add",
            far,
            "lladdr",
            &host,
            "dev",
            "wire",
        ]);
    }
    space
}

fn mac(space: &str, device: &str) -> String {
    let out = std::process::Command::new("ip")
        .args(["-n", space, "-o", "link", "show", device])
        .output()
        .unwrap();
    let line = String::from_utf8(out.stdout).unwrap();
    let mut words = line
        .split_whitespace()
        .skip_while(|word| *word != "link/ether");
    words.nth(1).unwrap().to_owned()
}

struct Space(String);

impl Drop for Space {
    fn drop(&mut self) {
        let delete = ["netns", "delete", &self.0];
        drop(std::process::Command::new("ip").args(delete).output());
    }
}

#[test]
fn what_is_forwarded_belongs_to_a_study_or_to_nobody() {
    let mut stage = Stage::new("forward", &["port1"]);
    forwarding(&stage.net.inside);
    let mut world = stage.receiver();
    let first = Space(workload(&stage, "port1", 10));
    let second = Space(workload(&stage, "port2", 20));
    let rows: &[(&str, &str, &Space, &str, &str, u64)] = &[
        (
            "a study behind its port, allowed",
            "studies/cardio",
            &first,
            "10.9.1.11",
            "192.0.2.7:5000",
            3,
        ),
        (
            "a study behind its port, denied",
            "studies/cardio",
            &first,
            "10.9.1.11",
            "198.51.100.7:5000",
            0,
        ),
        (
            "a study behind no port",
            "studies/cardio",
            &second,
            "10.9.1.21",
            "192.0.2.7:5000",
            0,
        ),
        (
            "nobody's, behind no port",
            "..",
            &second,
            "10.9.1.21",
            "192.0.2.7:5000",
            0,
        ),
    ];
    for (name, cgroup, space, from, to, want) in rows {
        let mut actor = stage.actor(cgroup, &space.0);
        // The port's owner is found by its processes.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
        let mut said = String::new();
        let mut counted = 0;
        while std::time::Instant::now() < end && counted == 0 {
            stage.fence.reconcile().unwrap();
            said = actor.send(&format!("{from}:0"), to);
            counted = world.counted();
            if *want == 0 && said == "sent" {
                break;
            }
        }
        assert_eq!(counted, *want, "{name}: {said}");
    }
    // Behind a port that is a study's by its processes, but not by its sockets' first line.
    let mut stranger = stage.actor("..", &first.0);
    stage.fence.reconcile().unwrap();
    let said = stranger.send("10.9.1.11:0", "198.51.100.7:5000");
    assert_eq!((world.counted(), said.as_str()), (0, "sent"));
    let (events, _) = stage.fence.drain_events();
    let rules: std::collections::BTreeSet<(&str, &str)> = events
        .iter()
        .map(|event| (event.hook.as_str(), event.rule.as_str()))
        .collect();
    assert!(rules.contains(&("tcx/egress", "forwarded")), "{rules:?}");
    let lines = stage.fence.state().lines;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| line.position == 0));
}

fn forwarding(space: &str) {
    let out = std::process::Command::new("ip")
        .args(["netns", "exec", space, "sh", "-c"])
        .arg("echo 1 > /proc/sys/net/ipv4/ip_forward && for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}
