use core::net::Ipv6Addr;
use std::vec::Vec;

use super::*;

fn v4(options: &[u8], fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let mut packet = std::vec![0x40 | words, 0, 0, 0, 0, 0];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 198, 51, 100, 7]);
    packet.extend(options);
    packet.extend(payload);
    packet
}

fn v6(next: u8, hop_limit: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = std::vec![0x60, 0, 0, 0, 0, 0, next, hop_limit];
    packet.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend("fe80::2".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(rest);
    packet
}

const SYN: [u8; 20] = [
    0x30, 0x39, 0x01, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0,
];

#[test]
fn ports_are_found_behind_options_and_extensions() {
    let mut hop_by_hop = std::vec![6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    hop_by_hop.extend(SYN);
    let mut authenticated = std::vec![6, 4, 0, 0];
    authenticated.extend([0; 20]);
    authenticated.extend(SYN);
    let cases: &[(&str, Vec<u8>)] = &[
        ("plain v4", v4(&[], 0, 6, &SYN)),
        ("first fragment", v4(&[], 0x2000, 6, &SYN)),
        ("padding options", v4(&[1, 1, 1, 0], 0, 6, &SYN)),
        ("plain v6", v6(6, 64, &SYN)),
        ("hop-by-hop options", v6(0, 64, &hop_by_hop)),
        ("authentication header", v6(51, 64, &authenticated)),
    ];
    for (name, packet) in cases {
        let flow = Flow::parse(packet.as_slice()).unwrap();
        assert!(flow.has_ports() && flow.opens(), "{name}");
        assert_eq!(
            (flow.source_port(), flow.destination_port()),
            (12345, 443),
            "{name}"
        );
    }
}

#[test]
fn later_fragments_have_no_ports() {
    let mut middle = std::vec![17, 0, 0, 8, 0, 0, 0, 1];
    middle.extend([0xff; 16]);
    for (name, packet) in [
        ("v4", v4(&[], 1, 17, &[0xff; 8])),
        ("v6", v6(44, 64, &middle)),
    ] {
        let flow = Flow::parse(packet.as_slice()).unwrap();
        assert!(!flow.has_ports(), "{name}");
        assert_eq!(flow.protocol, 17, "{name}");
    }
    let mut whole = std::vec![17, 0, 0, 0, 0, 0, 0, 1];
    whole.extend([0x30, 0x39, 0, 53]);
    let atomic = Flow::parse(v6(44, 64, &whole).as_slice()).unwrap();
    assert!(atomic.has_ports());
    assert_eq!(atomic.destination_port(), 53);
}

#[test]
fn what_cannot_be_trusted_is_refused() {
    let mut many = Vec::new();
    for _ in 0..9 {
        many.extend([60, 0, 0, 0, 0, 0, 0, 0]);
    }
    let short = v4(&[], 0, 6, &SYN);
    let cases: &[(&str, Vec<u8>, Malformed)] = &[
        ("empty", Vec::new(), Malformed::Header),
        ("version 5", std::vec![0x50; 40], Malformed::Header),
        ("header of 16 bytes", std::vec![0x44; 40], Malformed::Header),
        (
            "one byte short",
            short.get(..19).unwrap().to_vec(),
            Malformed::Header,
        ),
        (
            "options cut off",
            v4(&[1, 1, 1, 1], 0, 6, &[])[..22].to_vec(),
            Malformed::Header,
        ),
        (
            "loose source route",
            v4(&[131, 7, 4, 1], 0, 6, &SYN),
            Malformed::SourceRoute,
        ),
        (
            "strict source route",
            v4(&[1, 137, 7, 4], 0, 6, &SYN),
            Malformed::SourceRoute,
        ),
        (
            "v6 one byte short",
            v6(6, 64, &[])[..39].to_vec(),
            Malformed::Header,
        ),
        (
            "v6 routing header",
            v6(43, 64, &[6, 0, 4, 0]),
            Malformed::SourceRoute,
        ),
        (
            "v6 extension cut off",
            v6(0, 64, &[6, 0]),
            Malformed::Header,
        ),
        ("nine extensions", v6(60, 64, &many), Malformed::Extensions),
    ];
    for (name, packet, want) in cases {
        assert_eq!(Flow::parse(packet.as_slice()), Err(*want), "{name}");
    }
}

#[test]
fn neighbour_discovery_stays_on_the_link() {
    let solicitation = [135, 0, 0, 0];
    let yes = Flow::parse(v6(58, 255, &solicitation).as_slice()).unwrap();
    assert!(yes.is_neighbour_discovery(false) && yes.is_neighbour_discovery(true));
    let mut away = v6(58, 255, &solicitation);
    away[24] = 0x20;
    for (name, packet) in [
        ("a router passed it on", v6(58, 254, &solicitation)),
        ("echo", v6(58, 255, &[128, 0, 0, 0])),
        ("redirect", v6(58, 255, &[137, 0, 0, 0])),
        ("another protocol", v6(17, 255, &solicitation)),
        ("a global destination", away),
    ] {
        let flow = Flow::parse(packet.as_slice()).unwrap();
        for ingress in [false, true] {
            assert!(!flow.is_neighbour_discovery(ingress), "{name}");
        }
    }
}

#[test]
fn what_goes_out_as_neighbour_discovery_has_no_room_for_a_payload() {
    let message = |kind: u8, length: usize| {
        let mut bytes = std::vec![0; length];
        bytes[0] = kind;
        bytes
    };
    for (name, kind, length, out, inward) in [
        ("a solicitation", 135, 32, true, true),
        ("with an address of InfiniBand", 135, 48, true, true),
        ("with a byte more", 135, 49, false, true),
        ("with a packet's worth", 136, 1400, false, true),
        ("of a router, asked for", 133, 16, true, true),
        ("of a router, given", 134, 16, false, true),
    ] {
        let packet = v6(58, 255, &message(kind, length));
        let flow = Flow::parse(packet.as_slice()).unwrap();
        assert_eq!(flow.is_neighbour_discovery(false), out, "{name}, out");
        assert_eq!(flow.is_neighbour_discovery(true), inward, "{name}, in");
    }
}

#[test]
fn a_kernel_tells_one_neighbour_where_it_is_and_nothing_else() {
    // To 2001:…, from an address of the link.
    let message = |hops: u8, kind: u8, length: usize| {
        let mut bytes = std::vec![0; length];
        bytes[0] = kind;
        let mut packet = v6(58, hops, &bytes);
        packet[24] = 0x20;
        packet
    };
    let mut group = message(255, 136, 32);
    group[24] = 0xff;
    group[25] = 0x05;
    for (name, packet, out) in [
        ("an answer", message(255, 136, 32), true),
        ("a question", message(255, 135, 32), true),
        ("with an address of InfiniBand", message(255, 136, 48), true),
        ("with a byte more", message(255, 136, 49), false),
        ("a hop away", message(254, 136, 32), false),
        ("of a router, given", message(255, 134, 32), false),
        ("of a router, asked for", message(255, 133, 32), false),
        ("an echo", message(255, 128, 32), false),
        ("to a group of the site", group, false),
    ] {
        let flow = Flow::parse(packet.as_slice()).unwrap();
        assert_eq!(flow.tells_a_neighbour(false), out, "{name}");
        assert!(!flow.tells_a_neighbour(true), "{name}, in");
        let essential = flow.essential(false) & essential::NEIGHBOUR_DISCOVERY;
        assert_eq!(essential != 0, out, "{name}, named by the host fence");
        assert!(!flow.is_neighbour_discovery(false), "{name}, a study's");
    }
}

#[test]
fn a_segment_without_syn_or_with_ack_answers() {
    for (flags, opens) in [
        (0x02, true),
        (0x12, false),
        (0x10, false),
        (0x04, false),
        (0, true),
    ] {
        let mut segment = SYN;
        segment[13] = flags;
        let flow = Flow::parse(v4(&[], 0, 6, &segment).as_slice()).unwrap();
        assert_eq!(flow.opens(), opens, "{flags:#x}");
    }
}

#[test]
fn what_keeps_a_host_up_is_told_from_what_only_looks_like_it() {
    let (errors, groups, resets) = (
        essential::ICMP_ERRORS,
        essential::GROUPS,
        essential::TCP_RESETS,
    );
    let reset = |flags: u8| {
        let mut segment = SYN;
        segment[13] = flags;
        Flow::parse(v4(&[], 0, 6, &segment).as_slice()).unwrap()
    };
    let four = |kind: u8, hops: u8, number: u8| {
        let mut packet = v4(&[], 0, number, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        packet[8] = hops;
        Flow::parse(packet.as_slice()).unwrap()
    };
    let six = |kind: u8, hops: u8, number: u8| {
        let packet = v6(number, hops, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        Flow::parse(packet.as_slice()).unwrap()
    };
    for (name, flow, want) in [
        ("a reset", reset(0x04), resets),
        ("a reset that answers", reset(0x14), resets),
        ("an answer", reset(0x10), 0),
        ("a membership report", four(0x16, 1, protocol::IGMP), groups),
        ("one that was routed", four(0x16, 2, protocol::IGMP), 0),
        ("one in IPv6", six(0x16, 1, protocol::IGMP), 0),
        ("unreachable", four(3, 64, protocol::ICMP), errors),
        ("an echo", four(8, 64, protocol::ICMP), 0),
        ("too big", six(2, 64, protocol::ICMPV6), errors),
        ("an echo, IPv6", six(128, 64, protocol::ICMPV6), 0),
        ("a listener's report", six(143, 1, protocol::ICMPV6), groups),
        (
            "one that was routed, IPv6",
            six(143, 2, protocol::ICMPV6),
            0,
        ),
    ] {
        assert_eq!(flow.essential(true), want, "{name}");
    }
}
