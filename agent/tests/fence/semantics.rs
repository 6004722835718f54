//! What the README of `ebpf/policy` says row by row, and packets nobody thought of: the loaded
//! programs and the verdict function on the host have to answer alike.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use bailiwick_agent::{
    fence::Fence,
    fence_service::{Enforcer, Peer},
};
use bailiwick_attestation::proto::v1::FenceEvent;
use bailiwick_ebpf_common::{Action, Address, Flow, Line, Loopback};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};

use crate::{
    bundle::signed,
    host::{Host, State},
    net::{Actor, Net},
    scene::Scene,
    table::{self, From},
};

const NAMES: [&str; 6] = ["cardio", "neuro", "trial", "sshd", "bmc", "stranger"];

/// A fence with the table's policy, and a process in each of its cgroups.
pub(crate) struct Kernel {
    pub(crate) fence: Fence,
    /// Cgroup's name to the process in it, and which way its program goes.
    pub(crate) actors: BTreeMap<&'static str, (Actor, Option<bool>)>,
    scene: Scene,
    _net: Net,
}

impl Kernel {
    pub(crate) fn new(test: &str) -> Self {
        let scene = Scene::new(test);
        let net = Net::new(test, &["10.9.1.1/32"], &["192.0.2.7/32"]);
        let mut fence = scene.open();
        for name in NAMES {
            fs::create_dir_all(scene.cgroup(name)).unwrap();
        }
        let root = scene.path("");
        let mut files = table::files(root.trim_end_matches('/'));
        files.push(("world.csv", table::WORLD.to_owned()));
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(path, text)| (*path, text.as_str()))
            .collect();
        fence
            .apply_policy(&signed(&scene.folder(), 1, &files))
            .unwrap();
        fence
            .set_peers(vec![Peer {
                study: "neuro".to_owned(),
                address: table::SIGNED_FOR.parse().unwrap(),
                end_boot_ns: u64::MAX,
            }])
            .unwrap();
        let actors = NAMES.map(|name| {
            let actor = Actor::new(&scene.cgroup(name), &net.inside);
            (name, (actor, None))
        });
        Self {
            fence,
            actors: actors.into(),
            scene,
            _net: net,
        }
    }

    /// Whether the program lets it pass; what it says of it is in events and counters.
    fn passes(&mut self, from: From, bytes: &[u8], ingress: bool, lease: bool) -> bool {
        let end = if lease { u64::MAX } else { 0 };
        self.fence.set_lease_end(end).unwrap();
        let name = match from {
            From::Named(name) => name,
            _ => "stranger",
        };
        let (actor, open) = self.actors.get_mut(name).unwrap();
        if *open != Some(ingress) {
            let way = if ingress { "ingress" } else { "egress" };
            let pin = self.scene.pin(&format!("programs/{way}"));
            assert_eq!(actor.tell(&format!("open {}", pin.display())), "open");
            *open = Some(ingress);
        }
        match actor
            .tell(&format!("judge {}", hex::encode(bytes)))
            .as_str()
        {
            "1" => true,
            "0" => false,
            other => panic!("the program did not run: {other}"),
        }
    }

    fn counters(&mut self) -> BTreeMap<String, u64> {
        let counters = self.fence.state().counters.into_iter();
        counters
            .filter(|(name, _)| name.starts_with("rule."))
            .collect()
    }
}

/// The kernel runs no program on a packet without a whole header: no socket sends such.
fn has_header(bytes: &[u8]) -> bool {
    let least = match bytes.first().map(|first| first >> 4) {
        Some(6) => 40,
        _ => 20,
    };
    bytes.len() >= least
}

/// Whether a run of the first line's program can be in this state.
fn runs(state: &State) -> bool {
    let subject = matches!(state.from, From::Named(_) | From::Nobody);
    subject && state.line == Line::FIRST && state.loopback == Loopback::NO && !state.translated
}

#[test]
fn the_programs_answer_as_the_readme_says() {
    let mut kernel = Kernel::new("semantics");
    let documented: BTreeMap<&str, &str> = table::documented().into_iter().collect();
    drop(kernel.fence.drain_events());
    let mut owed: Vec<(&str, Vec<u8>, State, String, &str)> = Vec::new();
    let mut ran = 0;
    for row in table::rows().into_iter().filter(|row| runs(&row.state)) {
        let want = documented[row.name];
        let (action, rule) = want.split_once(": ").unwrap();
        let bytes = row.packet.bytes(row.state.ingress);
        if !has_header(&bytes) {
            continue;
        }
        let before = kernel.counters();
        let passes = kernel.passes(row.state.from, &bytes, row.state.ingress, row.state.lease);
        assert_eq!(passes, action != "denied", "{}: {want}", row.name);
        let mut told = before.clone();
        if action != "allowed" {
            *told.get_mut(&format!("rule.{rule}")).unwrap() += 1;
            owed.push((row.name, bytes, row.state, action.to_owned(), rule));
        }
        assert_eq!(
            kernel.counters(),
            told,
            "{}: the rule that is counted",
            row.name
        );
        ran += 1;
    }
    assert!(ran >= 80, "{ran} rows ran");

    // Every denial is an event; those of one flow are one.
    let mut events: Vec<FenceEvent> = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    while !owed.is_empty() && Instant::now() < end {
        let (more, lost) = kernel.fence.drain_events();
        assert_eq!(lost, 0);
        events.extend(more);
        owed.retain(|(_, bytes, state, action, rule)| {
            !events
                .iter()
                .any(|event| tells(event, bytes, *state, action, rule))
        });
        std::thread::sleep(Duration::from_millis(20));
    }
    let owed: Vec<&str> = owed.into_iter().map(|(name, ..)| name).collect();
    assert!(owed.is_empty(), "no event tells of {owed:?}: {events:?}");
}

/// Whether the event is of this packet.
fn tells(event: &FenceEvent, bytes: &[u8], state: State, action: &str, rule: &str) -> bool {
    let study = match state.from {
        From::Named(name) if !["sshd", "bmc"].contains(&name) => name,
        _ => "",
    };
    let way = if state.ingress { "ingress" } else { "egress" };
    let flow = Flow::parse(bytes);
    let octets = |address: Address| match address.v4() {
        Some(v4) => v4.to_be_bytes().to_vec(),
        None => address.to_bytes().to_vec(),
    };
    // Events of one far end are held together, wherever the near end is.
    let (told, far) = match flow {
        Ok(flow) if state.ingress => (&event.source, octets(flow.source)),
        Ok(flow) => (&event.destination, octets(flow.destination)),
        // What cannot be read has no addresses.
        Err(_) => (&event.destination, Vec::new()),
    };
    event.rule == rule
        && event.direction == way
        && event.study == study
        && event.verdict == if action == "denied" { "deny" } else { "audit" }
        && *told == far
}

/// Addresses that mean something to the table's policy.
pub(crate) const FOUR: [&str; 24] = [
    "192.0.2.7",
    "192.0.2.128",
    "198.51.100.7",
    "198.51.100.200",
    "203.0.113.7",
    "203.0.113.9",
    "203.0.113.10",
    "203.0.113.53",
    "203.0.113.64",
    "10.8.0.1",
    "10.8.1.0",
    "10.8.1.9",
    "10.8.1.127",
    "10.8.1.128",
    "10.8.2.0",
    "10.9.1.9",
    "10.9.2.9",
    "10.9.2.10",
    "10.9.3.9",
    "10.250.0.1",
    "10.96.0.10",
    "224.0.0.1",
    "239.1.1.1",
    "255.255.255.255",
];
pub(crate) const SIX: [&str; 9] = [
    "2001:db8:1::7",
    "2001:db8:2::7",
    "2001:db8:3::7",
    "fe80::1",
    "ff02::1:ff00:1",
    "ff02::1:2",
    "ff05::1",
    "::",
    "::1",
];

fn four() -> impl Strategy<Value = Ipv4Addr> {
    let named = select(&FOUR[..]).prop_map(|text| text.parse().unwrap());
    prop_oneof![4 => named, 1 => any::<u32>().prop_map(Ipv4Addr::from_bits)]
}

/// Also what carries an address of IPv4, in each of the four ways.
fn six() -> impl Strategy<Value = Ipv6Addr> {
    let named = select(&SIX[..]).prop_map(|text| text.parse().unwrap());
    let embedded = (four(), 0..5_u8, any::<u64>()).prop_map(|(inner, kind, rest)| {
        let four = u128::from(inner.to_bits());
        let rest = u128::from(rest);
        Ipv6Addr::from_bits(match kind {
            0 => 0xffff_0000_0000 | four,
            1 => (0x2002 << 112) | (four << 80) | rest,
            2 => (0x2001_0000 << 96) | (rest << 32) | u128::from(!inner.to_bits()),
            3 => (0x0064_ff9b << 96) | four,
            // One bit beside NAT64.
            _ => (0x0064_ff9b << 96) | (1 << 32) | four,
        })
    });
    prop_oneof![2 => named, 4 => embedded, 1 => any::<u128>().prop_map(Ipv6Addr::from_bits)]
}

fn upper() -> impl Strategy<Value = Vec<u8>> {
    let port = || {
        prop_oneof![
            4 => select(&[0_u16, 53, 67, 68, 80, 123, 443, 444, 445, 546, 547, 853, 8443][..]),
            1 => any::<u16>(),
        ]
    };
    let ports = (port(), port(), any::<u8>()).prop_map(|(near, far, flags)| {
        let mut upper = [near.to_be_bytes(), far.to_be_bytes()].concat();
        upper.extend([0; 8]);
        upper.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
        upper
    });
    let kind = prop_oneof![
        3 => select(&[0_u8, 3, 8, 11, 12, 1, 2, 4, 128, 130, 133, 134, 135, 136, 137, 143][..]),
        1 => any::<u8>(),
    ];
    let icmp = kind.prop_map(|kind| [vec![kind], vec![0; 19]].concat());
    prop_oneof![4 => ports, 2 => icmp, 1 => vec(any::<u8>(), 0..24)]
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![
        8 => select(&[6_u8, 6, 17, 17, 1, 58, 2, 33, 47, 50, 132, 136, 4, 41][..]),
        1 => any::<u8>(),
    ]
}

fn hops() -> impl Strategy<Value = u8> {
    prop_oneof![3 => select(&[1_u8, 64, 254, 255][..]), 1 => any::<u8>()]
}

fn version_4() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![131, 3, 4, 0]),
        1 => Just(vec![1, 1, 137, 3]),
        1 => Just(vec![148, 4, 0, 0]),
        1 => (1..10_usize).prop_flat_map(|words| vec(any::<u8>(), words * 4)),
    ];
    let fragment = prop_oneof![
        4 => select(&[0_u16, 0x4000, 0x2000, 0x2001, 0x0003, 0x1fff][..]),
        1 => any::<u16>(),
    ];
    // Words that the header claims beyond those it has.
    let claims = prop_oneof![8 => Just(0_i8), 1 => -5..6_i8];
    let parts = (
        four(),
        four(),
        protocol(),
        hops(),
        option,
        fragment,
        claims,
        upper(),
    );
    parts.prop_map(
        |(from, to, protocol, hops, options, fragment, claims, upper)| {
            let words = 5 + i8::try_from(options.len() / 4).unwrap() + claims;
            let words = u8::try_from(words.clamp(0, 15)).unwrap();
            let mut packet = vec![0x40 | words, 0, 0, 60, 0, 0];
            packet.extend(fragment.to_be_bytes());
            packet.extend([hops, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(options);
            packet.extend(upper);
            packet
        },
    )
}

/// Kind, length byte, bytes 2 and 3, and whether it is as long as it says.
type Extension = (u8, u8, u16, bool);

fn extension() -> impl Strategy<Value = Extension> {
    let kind = prop_oneof![
        9 => select(&[0_u8, 60, 60, 44, 51, 135, 139, 140][..]),
        1 => Just(43_u8),
    ];
    let length = prop_oneof![6 => 0..3_u8, 1 => any::<u8>()];
    let bytes = select(&[0_u16, 1, 8, 9, 0xfff8, 7][..]);
    (kind, length, bytes, proptest::bool::weighted(0.9))
}

fn version_6() -> impl Strategy<Value = Vec<u8>> {
    let chain = prop_oneof![
        3 => Just(Vec::new()),
        3 => vec(extension(), 1..4),
        // Round the bound of the walk.
        1 => vec(extension(), 7..11),
        1 => (7..10_usize).prop_map(|count| vec![(60, 0, 0, true); count]),
    ];
    let parts = (six(), six(), protocol(), hops(), chain, upper());
    parts.prop_map(|(from, to, protocol, hops, chain, upper)| {
        let mut kinds: Vec<u8> = chain.iter().map(|(kind, ..)| *kind).collect();
        kinds.push(protocol);
        let mut packet = vec![0x60, 0, 0, 0, 0, 80, kinds[0], hops];
        packet.extend(from.octets());
        packet.extend(to.octets());
        for ((kind, length, bytes, whole), next) in chain.iter().zip(&kinds[1..]) {
            let says = match kind {
                44 => 8,
                51 => 8 + 4 * usize::from(*length),
                _ => 8 + 8 * usize::from(*length),
            };
            let mut header = vec![0; if *whole { says.min(64) } else { 8 }];
            header[..2].copy_from_slice(&[*next, *length]);
            header[2..4].copy_from_slice(&bytes.to_be_bytes());
            packet.extend(header);
        }
        packet.extend(upper);
        packet
    })
}

/// Neighbour discovery and its neighbours: kinds, hop limits and addresses beside it.
fn on_link() -> impl Strategy<Value = Vec<u8>> {
    let from = select(&["fe80::1", "2001:db8:1::7", "::"][..]);
    let to = select(&["fe80::2", "ff02::1:ff00:1", "ff05::1", "2001:db8:2::7"][..]);
    let hops = select(&[255_u8, 255, 254, 1][..]);
    (from, to, 130..138_u8, hops).prop_map(|(from, to, kind, hops)| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, hops];
        for text in [from, to] {
            packet.extend(text.parse::<Ipv6Addr>().unwrap().octets());
        }
        packet.extend([kind; 1]);
        packet.extend([0; 23]);
        packet
    })
}

/// TCP to and from a service, whole and in parts.
fn in_parts() -> impl Strategy<Value = Vec<u8>> {
    let fragment = select(&[0_u16, 0x2000, 0x2001, 3][..]);
    let ends = select(&[("10.9.1.1", "203.0.113.7"), ("203.0.113.7", "10.9.1.1")][..]);
    let port = select(&[442_u16, 443, 444, 445][..]);
    (ends, fragment, port).prop_map(|((from, to), fragment, port)| {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, 6, 0, 0]);
        for text in [from, to] {
            packet.extend(text.parse::<Ipv4Addr>().unwrap().octets());
        }
        packet.extend(port.to_be_bytes());
        packet.extend(port.to_be_bytes());
        packet.extend([0; 16]);
        packet
    })
}

/// A packet, whole, cut or with one byte changed.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let whole = prop_oneof![3 => version_4(), 3 => version_6(), 1 => on_link(), 1 => in_parts()];
    let amiss = prop_oneof![
        6 => Just((1.0, None)),
        1 => (0.0..1.0_f64).prop_map(|keep| (keep, None)),
        1 => any::<(prop::sample::Index, u8)>().prop_map(|change| (1.0, Some(change))),
    ];
    (whole, amiss).prop_map(|(mut packet, (keep, change))| {
        if let Some((at, byte)) = change {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        if keep < 1.0 {
            let many = (1..packet.len()).filter(|n| {
                let share = f64::from(u32::try_from(*n).unwrap());
                share < keep * f64::from(u32::try_from(packet.len()).unwrap())
            });
            let keep = many.count().max(1);
            packet.truncate(keep);
        }
        packet
    })
}

#[test]
fn the_programs_and_the_host_agree_on_packets_nobody_thought_of() {
    let kernel = RefCell::new(Kernel::new("generated"));
    let host = Host::new(kernel.borrow().scene.path("").trim_end_matches('/'));
    let met = RefCell::new(BTreeMap::new());
    let mut runner = TestRunner::new(Config {
        cases: 4000,
        max_shrink_iters: 2000,
        max_global_rejects: 4000,
        failure_persistence: None,
        ..Config::default()
    });
    let cases = (
        packet(),
        select(&NAMES[..]),
        any::<bool>(),
        proptest::bool::weighted(0.8),
    );
    let outcome = runner.run(&cases, |(bytes, name, ingress, lease)| {
        prop_assume!(has_header(&bytes));
        let from = if name == "stranger" {
            From::Nobody
        } else {
            From::Named(name)
        };
        let far = Flow::parse(bytes.as_slice()).map(|flow| {
            let far = if ingress {
                flow.source
            } else {
                flow.destination
            };
            far.canonical()
        });
        let signed_for: IpAddr = table::SIGNED_FOR.parse().unwrap();
        let signed = far.is_ok_and(|far| {
            name == "neuro" && far.v4().map(|v4| IpAddr::V4(v4.into())) == Some(signed_for)
        });
        let want = host.verdict(
            &bytes,
            State {
                from,
                ingress,
                lease,
                signed,
                line: Line::FIRST,
                translated: false,
                loopback: Loopback::NO,
            },
        );
        let passes = kernel.borrow_mut().passes(from, &bytes, ingress, lease);
        prop_assert_eq!(
            passes,
            want.action != Action::Deny,
            "{:?}: {}",
            want,
            hex::encode(&bytes)
        );
        let key = table::spelled(want.action, want.rule);
        *met.borrow_mut().entry(key).or_insert(0_u32) += 1;
        Ok(())
    });
    outcome.unwrap();
    // What the generator is for has been met, on both sides of each rule.
    let met = met.into_inner();
    for verdict in [
        "allowed: prefix",
        "allowed: service",
        "allowed: jurisdiction",
        "allowed: peer",
        "allowed: neighbour-discovery",
        "allowed: essential",
        "audited: jurisdiction",
        "denied: prefix",
        "denied: jurisdiction",
        "denied: other-study",
        "denied: fragment",
        "denied: no-lease",
        "denied: no-subject",
        "denied: malformed",
        "denied: source-route",
        "denied: management",
        "denied: resolver",
    ] {
        assert!(
            met.contains_key(verdict),
            "{verdict} was never met: {met:?}"
        );
    }
}
