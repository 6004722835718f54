//! The same packets to the kernel's programs and to `judge` on the host: one function in two
//! places has to answer the same.
//!
//! The programs are run by `BPF_PROG_TEST_RUN` from a process in the study's cgroup, on the
//! namespace's `wire`.

use std::net::{Ipv4Addr, Ipv6Addr};

use bailiwick_agent::fence_service::{Enforcer, Peer};
use bailiwick_ebpf_common::verdict::keeps_up;
use bailiwick_ebpf_common::{
    Action, Address, Flow, Line, Loopback, PolicyImage, Question, Verdict, Whose, WorldImage, judge,
};
use bailiwick_policy::{
    image::{compile, subjects},
    world::World,
};

use crate::{
    bundle::signed,
    net::{Actor, Net},
    scene::Scene,
};

const WORLD: &str = "192.0.2.0/24,DE\n198.51.100.0/24,US\n198.51.100.128/25,X-LAB\n\
                     203.0.113.0/24,FR\n2001:db8:1::/48,DE\n2001:db8:2::/48,US\n\
                     2001:db8:1:8000::/49,FR\n";

const HOST_FENCE: &str = "\
[[service]]\nname = \"dns\"\naddress = \"203.0.113.53/32\"\nprotocol = \"udp\"\nports = \"53\"\n\
[[service]]\nname = \"web\"\naddress = \"203.0.113.0/26\"\nprotocol = \"tcp\"\nports = \"443-444\"\n\
[[service]]\nname = \"echo\"\naddress = \"203.0.113.9/32\"\nprotocol = \"icmp\"\n\
[[service]]\nname = \"all\"\naddress = \"2001:db8:2:9::/64\"\nprotocol = \"any\"\n";

/// The one address of `neuro` elsewhere that a node has signed for.
const SIGNED_FOR: u32 = 0x0a09_0209;

fn study(scene: &Scene, name: &str, peers: &str, attested: bool) -> String {
    format!(
        "name = \"{name}\"\nmode = \"enforce\"\n[select]\ncgroups = [{:?}]\n\
         [allow]\njurisdictions = [\"DE\", \"X-LAB\"]\n\
         prefixes = [\"10.8.0.0/16\", \"2001:db8:2:8::/64\"]\n\
         services = [\"dns\", \"web\", \"echo\", \"all\"]\n\
         [deny]\nprefixes = [\"10.8.1.0/24\", \"192.0.2.128/25\", \"2001:db8:1:1::/64\"]\n\
         [peers]\naddresses = [\"{peers}\"]\nattested = {attested}\n[unattested]\nservices = [\"web\"]\n",
        scene.path(&format!("studies/{name}"))
    )
}

const V4: [&str; 18] = [
    "192.0.2.7",
    "192.0.2.127",
    "192.0.2.128",
    "198.51.100.7",
    "198.51.100.200",
    "203.0.113.9",
    "203.0.113.53",
    "203.0.113.63",
    "203.0.113.64",
    "10.8.0.255",
    "10.8.1.0",
    "10.8.2.0",
    "10.9.1.9",
    "10.9.2.9",
    "10.9.2.9",
    "10.9.2.10",
    "224.0.0.1",
    "255.255.255.255",
];
const V6: [&str; 14] = [
    "2001:db8:1::7",
    "2001:db8:1:1::7",
    "2001:db8:1:8000::7",
    "2001:db8:2::7",
    "2001:db8:2:8::7",
    "2001:db8:2:9::7",
    "2002:c000:0207::1",
    "2002:0a09:0209::1",
    "64:ff9b::c000:207",
    "2001:0:1:2:3:4:3fff:fdf8",
    "::ffff:192.0.2.7",
    "fe80::1",
    "ff02::1:ff00:1",
    "::",
];

/// A generator, so that a failure comes back with the same packets.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(count).unwrap()).unwrap()
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[7]
    }

    /// Once in `count`.
    fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn packet(&mut self) -> Vec<u8> {
        let port = |random: &mut Self| random.one(&[0_u16, 53, 80, 443, 444, 445, 40_000, 65_535]);
        let mut upper = [port(self).to_be_bytes(), port(self).to_be_bytes()].concat();
        upper.extend([0; 8]);
        upper.extend([0x50, self.one(&[0x02, 0x12, 0x10, 0]), 0, 0, 0, 0, 0, 0]);
        let protocol = self.one(&[1, 6, 6, 17, 17, 47, 50, 58, 132]);
        if protocol == 58 || protocol == 1 {
            upper[0] = self.one(&[0, 3, 8, 128, 133, 135, 136, 137]);
        }
        let mut packet = if self.once_in(2) {
            self.v4(protocol, &upper)
        } else {
            self.v6(protocol, &upper)
        };
        if self.once_in(8) {
            let keep = self.below(packet.len() + 1);
            packet.truncate(keep);
        }
        if self.once_in(8) && !packet.is_empty() {
            let at = self.below(packet.len());
            packet[at] = self.byte();
        }
        packet
    }

    fn v4(&mut self, protocol: u8, upper: &[u8]) -> Vec<u8> {
        let options: &[u8] = self.one(&[
            &[],
            &[],
            &[],
            &[1, 1, 1, 0],
            &[131, 3, 4, 0],
            &[7, 7, 4, 0, 0, 0, 137, 0],
        ]);
        let words = 5 + u8::try_from(options.len() / 4).unwrap();
        let fragment = self.one(&[0, 0, 0, 0x2000, 0x4000, 0x0001, 0x2003]);
        let mut packet = vec![0x40 | words, 0, 0, 60, 0, 0];
        packet.extend(u16::to_be_bytes(fragment));
        packet.extend([64, protocol, 0, 0]);
        for _ in 0..2 {
            packet.extend(self.one(&V4).parse::<Ipv4Addr>().unwrap().octets());
        }
        packet.extend(options);
        packet.extend(upper);
        packet
    }

    fn v6(&mut self, protocol: u8, upper: &[u8]) -> Vec<u8> {
        let mut kinds: Vec<u8> = Vec::new();
        while self.once_in(3) && kinds.len() < 12 {
            kinds.push(self.one(&[0, 60, 60, 44, 51, 43, 135]));
        }
        if self.once_in(20) {
            kinds = vec![60; 8 + self.below(2)];
        }
        kinds.push(protocol);
        let mut packet = vec![0x60, 0, 0, 0, 0, 80, kinds[0], self.one(&[1, 64, 255, 255])];
        for _ in 0..2 {
            packet.extend(self.one(&V6).parse::<Ipv6Addr>().unwrap().octets());
        }
        for pair in kinds.windows(2) {
            let fragment = self.one(&[0_u16, 1, 8, 9]).to_be_bytes();
            let (length, bytes) = match pair[0] {
                44 => (0, 8),
                51 => (self.one(&[1, 4]), 0),
                _ => (self.one(&[0, 0, 1]), 0),
            };
            let bytes = match pair[0] {
                44 => bytes,
                51 => 8 + 4 * usize::from(length),
                _ => 8 + 8 * usize::from(length),
            };
            let mut header = vec![0; bytes];
            header[..4].copy_from_slice(&[pair[1], length, fragment[0], fragment[1]]);
            packet.extend(header);
        }
        packet.extend(upper);
        packet
    }
}

struct Host {
    world: Box<WorldImage>,
    policy: Box<PolicyImage>,
}

impl Host {
    fn verdict(&self, packet: &[u8], subject: u32, attested: bool, ingress: bool) -> Verdict {
        match Flow::parse(packet) {
            Err(fault) => Verdict::deny(fault.rule()),
            Ok(flow) => {
                let far = if ingress {
                    flow.source
                } else {
                    flow.destination
                };
                let peer = far.canonical() == Address::from_v4(SIGNED_FOR);
                self.judge(&flow, subject, attested, peer, ingress)
            }
        }
    }

    fn judge(
        &self,
        flow: &Flow,
        subject: u32,
        attested: bool,
        peer: bool,
        ingress: bool,
    ) -> Verdict {
        judge(&Question {
            world: Some(&self.world),
            policy: &self.policy,
            line: Line::FIRST,
            whose: Whose::subject(subject),
            translated: false,
            attested,
            peer,
            ingress,
            essential: keeps_up(&self.policy, flow, ingress),
            loopback: Loopback::NO,
            flow,
            zero: 0,
        })
    }
}

#[test]
fn kernel_and_host_judge_alike() {
    let scene = Scene::new("differ");
    let net = Net::new("differ", &["10.9.1.1/32"], &["192.0.2.7/32"]);
    let mut fence = scene.open();
    let cardio = study(&scene, "cardio", "10.9.1.0/24", false);
    let neuro = study(&scene, "neuro", "10.9.2.0/24", true);
    let files = [
        ("studies/cardio.toml", cardio.as_str()),
        ("studies/neuro.toml", neuro.as_str()),
        ("host-fence.toml", HOST_FENCE),
        ("world.csv", WORLD),
    ];
    std::fs::create_dir_all(scene.cgroup("studies/neuro")).unwrap();
    let bundle = signed(&scene.folder(), 1, &files);
    fence.apply_policy(&bundle).unwrap();
    let peers = [
        ("neuro", SIGNED_FOR, u64::MAX),
        ("neuro", SIGNED_FOR + 1, 1),
    ];
    let peers = peers.map(|(study, address, end_boot_ns)| Peer {
        study: study.to_owned(),
        address: Ipv4Addr::from_bits(address).into(),
        end_boot_ns,
    });
    fence.set_peers(peers.to_vec()).unwrap();
    let map = World::compile(&bundle.world, &bundle.model.sites).unwrap();
    let host = Host {
        policy: compile(&bundle.model, &map.codes, 1, &bundle.manifest.digest).unwrap(),
        world: map.image(1),
    };
    let number = |name: &str| {
        let all = subjects(&bundle.model);
        let at = all
            .iter()
            .position(|subject| subject.name() == name)
            .unwrap();
        u32::try_from(at).unwrap()
    };

    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut rules = std::collections::BTreeMap::new();
    for (study, attested) in [("cardio", true), ("neuro", true), ("cardio", false)] {
        fence
            .set_lease_end(if attested { u64::MAX } else { 0 })
            .unwrap();
        let mut actor = Actor::new(&scene.cgroup(&format!("studies/{study}")), &net.inside);
        for (direction, ingress) in [("egress", false), ("ingress", true)] {
            let pin = scene.pin(&format!("programs/{direction}"));
            assert_eq!(actor.tell(&format!("open {}", pin.display())), "open");
            for _ in 0..700 {
                let packet = random.packet();
                if packet.is_empty() {
                    continue; // the kernel makes no such packet
                }
                let want = host.verdict(&packet, number(study), attested, ingress);
                let passes = actor.tell(&format!("judge {}", hex::encode(&packet)));
                assert_eq!(
                    passes == "1",
                    want.action == Action::Allow,
                    "{study} {direction}: kernel {passes}, host {want:?}: {}",
                    hex::encode(&packet)
                );
                *rules
                    .entry((want.rule.name(), want.action == Action::Allow))
                    .or_insert(0) += 1;
            }
        }
    }
    // What the packets were made for has been met, on both sides of each rule.
    for rule in [
        "prefix",
        "service",
        "jurisdiction",
        "peer",
        "neighbour-discovery",
    ] {
        assert!(rules.contains_key(&(rule, true)), "{rule}: {rules:?}");
    }
    let refusing = [
        "prefix",
        "jurisdiction",
        "other-study",
        "fragment",
        "no-lease",
        "malformed",
        "peer-lost",
    ];
    for rule in refusing.into_iter().chain(["source-route"]) {
        assert!(rules.contains_key(&(rule, false)), "{rule}: {rules:?}");
    }
}
