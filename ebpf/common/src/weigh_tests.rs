use super::*;
use crate::Plain;
use crate::policy::Service;

const TCP: u8 = 6;
const UDP: u8 = 17;

#[test]
fn one_is_enough_and_both_are_not_too_many() {
    for (a, b, want) in [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)] {
        assert_eq!(either(a, b), want, "{a} or {b}");
    }
    for (a, b, want) in [(0, 0, 1), (0, 1, 1), (1, 0, 0), (65_535, 65_535, 1)] {
        assert_eq!(at_most(a, b), want, "{a} at most {b}");
    }
}

/// A rule as (protocol, first port, last port).
type Rule = (u16, u16, u16);

const EVERY: (u16, u16) = (0, u16::MAX);

fn ask(rules: &[Rule], count: u32, carried: Carried) -> u32 {
    let mut image = PolicyImage::zeroed();
    for (slot, (protocol, first_port, last_port)) in image.services.iter_mut().skip(3).zip(rules) {
        *slot = Service {
            protocol: *protocol,
            first_port: *first_port,
            last_port: *last_port,
            reserved: 0,
        };
    }
    services(&image, Slice { first: 3, count }, carried)
}

fn to(protocol: u8, port: u16) -> Carried {
    Carried {
        protocol,
        has_ports: true,
        by_port: false,
        port,
    }
}

/// A later fragment, or a protocol without ports.
fn without_ports(protocol: u8) -> Carried {
    Carried {
        has_ports: false,
        ..to(protocol, 0)
    }
}

fn dns(protocol: u8) -> Carried {
    Carried {
        by_port: true,
        ..to(protocol, 53)
    }
}

#[test]
fn a_rule_is_for_its_protocol_and_its_ports() {
    let (tcp, udp) = (u16::from(TCP), u16::from(UDP));
    let (icmp, icmp6) = (u16::from(protocol::ICMP), u16::from(protocol::ICMPV6));
    let whole = |protocol: u16| (protocol, EVERY.0, EVERY.1);
    let rows: &[(&str, Rule, Carried, u32)] = &[
        ("its port", (tcp, 443, 443), to(TCP, 443), weighed::SERVICE),
        (
            "first of a range",
            (tcp, 10, 20),
            to(TCP, 10),
            weighed::SERVICE,
        ),
        (
            "last of a range",
            (tcp, 10, 20),
            to(TCP, 20),
            weighed::SERVICE,
        ),
        ("before it", (tcp, 10, 20), to(TCP, 9), weighed::NOTHING),
        ("after it", (tcp, 10, 20), to(TCP, 21), weighed::NOTHING),
        (
            "the lower half of all",
            (tcp, 0, 20),
            to(TCP, 21),
            weighed::NOTHING,
        ),
        (
            "the upper half of all",
            (tcp, 20, u16::MAX),
            to(TCP, 19),
            weighed::NOTHING,
        ),
        (
            "another protocol",
            (udp, 443, 443),
            to(TCP, 443),
            weighed::NOTHING,
        ),
        (
            "any protocol",
            (ANY_PROTOCOL, 443, 443),
            to(TCP, 443),
            weighed::SERVICE,
        ),
        ("every port", whole(tcp), to(TCP, 1), weighed::SERVICE),
        (
            "every port of another",
            whole(udp),
            to(TCP, 1),
            weighed::NOTHING,
        ),
        (
            "every port asks for none",
            whole(tcp),
            without_ports(TCP),
            weighed::SERVICE,
        ),
        (
            "a port that is not seen",
            (tcp, 443, 443),
            without_ports(TCP),
            weighed::UNANSWERED,
        ),
        (
            "nor of another protocol",
            (udp, 443, 443),
            without_ports(TCP),
            weighed::NOTHING,
        ),
        (
            "a resolver by its port",
            (udp, 53, 53),
            dns(UDP),
            weighed::SERVICE,
        ),
        (
            "a resolver by a range",
            (udp, 1, 100),
            dns(UDP),
            weighed::SERVICE,
        ),
        (
            "a resolver by every port",
            whole(udp),
            dns(UDP),
            weighed::NOTHING,
        ),
        (
            "ICMP",
            whole(ICMP_PROTOCOL),
            without_ports(protocol::ICMP),
            weighed::SERVICE,
        ),
        (
            "ICMPv6",
            whole(ICMP_PROTOCOL),
            without_ports(protocol::ICMPV6),
            weighed::SERVICE,
        ),
        (
            "ICMP is no TCP",
            whole(ICMP_PROTOCOL),
            to(TCP, 1),
            weighed::NOTHING,
        ),
        (
            "TCP is no ICMP",
            whole(tcp),
            without_ports(protocol::ICMP),
            weighed::NOTHING,
        ),
        (
            "ICMP by its number",
            whole(icmp),
            without_ports(protocol::ICMP),
            weighed::SERVICE,
        ),
        (
            "not of the other family",
            whole(icmp6),
            without_ports(protocol::ICMP),
            weighed::NOTHING,
        ),
    ];
    for (name, rule, carried, want) in rows {
        assert_eq!(ask(&[*rule], 1, *carried), *want, "{name}");
    }
}

#[test]
fn one_rule_of_several_is_enough() {
    let tcp = u16::from(TCP);
    let (https, high, other) = ((tcp, 443, 443), (tcp, 400, 500), (tcp, 22, 22));
    let rows: &[(&str, &[Rule], u32, u32)] = &[
        ("one", &[https], 1, weighed::SERVICE),
        ("two that both hold", &[https, high], 2, weighed::SERVICE),
        ("the second", &[other, https], 2, weighed::SERVICE),
        ("the first", &[https, other], 2, weighed::SERVICE),
        ("behind the end", &[other, https], 1, weighed::NOTHING),
        ("none", &[https], 0, weighed::NOTHING),
    ];
    for (name, rules, count, want) in rows {
        assert_eq!(ask(rules, *count, to(TCP, 443)), *want, "{name}");
    }
}

#[test]
fn no_more_rules_are_asked_than_an_interval_holds() {
    let tcp = u16::from(TCP);
    let most = usize::try_from(SERVICES_PER_INTERVAL).unwrap();
    let mut rules = std::vec![(tcp, 22, 22); most + 1];
    let count = SERVICES_PER_INTERVAL + 1;
    rules[most] = (tcp, 443, 443);
    assert_eq!(ask(&rules, count, to(TCP, 443)), weighed::NOTHING);
    rules.swap(most, most - 1);
    assert_eq!(ask(&rules, count, to(TCP, 443)), weighed::SERVICE);
}

#[test]
fn two_fragments_for_two_rules_stay_unanswered() {
    let tcp = u16::from(TCP);
    let rules = [(tcp, 443, 443), (tcp, 22, 22)];
    assert_eq!(ask(&rules, 2, without_ports(TCP)), weighed::UNANSWERED);
}
