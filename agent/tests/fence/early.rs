//! What a process is told when it connects: at once, and as the verdict function says.

use std::net::{IpAddr, SocketAddr};

use bailiwick_agent::fence_service::Enforcer;
use bailiwick_ebpf_common::{Action, Address, Line, Loopback};

use crate::{
    host::{Host, State},
    semantics::{FOUR, Kernel, SIX},
    table::{self, From},
};

/// Ports that mean something to the table's policy, and one that does not.
const PORTS: [u16; 7] = [53, 80, 443, 445, 853, 2049, 8443];

/// The first packet of such a connection, from a port that is not known yet.
fn packet(to: SocketAddr, protocol: u8) -> Vec<u8> {
    let mut packet = match to.ip() {
        IpAddr::V4(far) => {
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0];
            header.extend([0; 4]);
            header.extend(far.octets());
            header
        }
        IpAddr::V6(far) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 20, protocol, 64];
            header.extend([0; 16]);
            header.extend(far.octets());
            header
        }
    };
    packet.extend([0, 0]);
    packet.extend(to.port().to_be_bytes());
    packet.extend([0; 16]);
    packet
}

/// Plain addresses, and those of IPv4 as they stand in IPv6.
fn addresses() -> Vec<IpAddr> {
    let four = FOUR.map(|text| text.parse::<std::net::Ipv4Addr>().unwrap());
    let mapped = four.map(|four| IpAddr::from(four.to_ipv6_mapped()));
    let nat64 = four.map(|four| {
        IpAddr::from(std::net::Ipv6Addr::from_bits(
            (0x0064_ff9b << 96) | u128::from(four.to_bits()),
        ))
    });
    let six = SIX.map(|text| text.parse().unwrap());
    let all = four.map(IpAddr::from).into_iter().chain(mapped);
    all.chain(nat64).chain(six).collect()
}

#[test]
fn who_connects_is_told_at_once_what_the_verdict_is() {
    let mut kernel = Kernel::new("early");
    let host = Host::new("");
    drop(kernel.fence.drain_events());
    let before = kernel.fence.state().counters["early.denied"];
    let signed: Address = Address::from_v4(
        table::SIGNED_FOR
            .parse::<std::net::Ipv4Addr>()
            .unwrap()
            .to_bits(),
    );
    let (mut denied, mut passed) = (0_u64, 0_u64);
    for lease in [true, false] {
        let end = if lease { u64::MAX } else { 0 };
        kernel.fence.set_lease_end(end).unwrap();
        for name in ["cardio", "neuro", "trial", "sshd"] {
            let (actor, _) = kernel.actors.get_mut(name).unwrap();
            for address in addresses() {
                let far = match address {
                    IpAddr::V4(four) => Address::from_v4(four.to_bits()),
                    IpAddr::V6(six) => Address::from_bytes(six.octets()).canonical(),
                };
                for (port, (kind, protocol)) in PORTS
                    .into_iter()
                    .zip([("tcp", 6), ("udp", 17)].into_iter().cycle())
                {
                    let to = SocketAddr::new(address, port);
                    let state = State {
                        from: From::Named(name),
                        ingress: false,
                        lease,
                        signed: far == signed,
                        line: Line::EARLY,
                        translated: false,
                        loopback: Loopback::NO,
                    };
                    let want = host.verdict(&packet(to, protocol), state);
                    let said = actor.tell(&format!("early {kind} {to}"));
                    let refused = want.action == Action::Deny;
                    assert_eq!(
                        said == "EPERM",
                        refused,
                        "{name} to {to} by {kind}, lease {lease}: {said}, {want:?}"
                    );
                    if refused {
                        denied += 1;
                    } else {
                        passed += 1;
                    }
                }
            }
        }
    }
    assert!(denied > 500 && passed > 100, "{denied} {passed}");
    let after = kernel.fence.state().counters["early.denied"];
    assert_eq!(after - before, denied, "each is counted, none twice");
}

#[test]
fn a_denial_of_a_connection_names_the_process_and_goes_by_every_door() {
    let mut kernel = Kernel::new("early-told");
    kernel.fence.set_lease_end(u64::MAX).unwrap();
    drop(kernel.fence.drain_events());
    let doors = [
        (
            "cardio",
            "tcp",
            "198.51.100.7:443",
            "cardio",
            "jurisdiction",
        ),
        (
            "cardio",
            "mptcp",
            "198.51.100.8:443",
            "cardio",
            "jurisdiction",
        ),
        (
            "cardio",
            "udp",
            "198.51.100.9:443",
            "cardio",
            "jurisdiction",
        ),
        (
            "cardio",
            "tcp",
            "[::ffff:10.9.3.9]:1",
            "cardio",
            "other-study",
        ),
        ("stranger", "tcp", "192.0.2.7:443", "", "no-subject"),
    ];
    for (name, kind, to, study, rule) in doors {
        let (actor, _) = kernel.actors.get_mut(name).unwrap();
        assert_eq!(
            actor.tell(&format!("early {kind} {to}")),
            "EPERM",
            "{kind} {to}"
        );
        let (events, lost) = kernel.fence.drain_events();
        let event = events.iter().find(|event| event.verdict == "deny").unwrap();
        assert_eq!((events.len(), lost), (1, 0), "{kind} {to}: {events:?}");
        let hook = if to.starts_with('[') {
            "cgroup/connect6"
        } else {
            "cgroup/connect4"
        };
        assert_eq!(
            (
                event.study.as_str(),
                event.rule.as_str(),
                event.hook.as_str()
            ),
            (study, rule, hook),
            "{kind} {to}"
        );
        let program = std::env::current_exe().unwrap();
        assert_eq!(event.executable, program.display().to_string());
        assert!(event.pid.is_some() && event.uid == Some(0), "{event:?}");
    }
    // In audit mode nobody is refused, and the packets tell of it.
    let (actor, _) = kernel.actors.get_mut("trial").unwrap();
    assert_eq!(actor.tell("early tcp 203.0.113.7:80"), "passed");
}
