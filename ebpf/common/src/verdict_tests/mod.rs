mod lines;
mod link;
mod states;

use std::boxed::Box;

use super::*;
use crate::Plain;
use crate::packet::protocol;
use crate::policy::{
    ANY_PROTOCOL, ATTESTED, ICMP_PROTOCOL, Service, Slice, UNATTESTED, decision, essential,
};
use crate::world::{LEAF_BASE, WORLD_MAGIC};

const DE: u16 = 56;
const ME: u32 = 0;
const OTHER: u32 = 1;
const HOST: u32 = 2;

/// 1.0.0.0/16 is DE, the rest unknown. 10.9.1.0/24 is ours, 10.9.2.0/24 another study's.
fn world() -> Box<WorldImage> {
    let mut world = WorldImage::zeroed();
    world.header.magic = WORLD_MAGIC;
    world.v4_root.fill(LEAF_BASE);
    world.v6_root.fill(LEAF_BASE);
    world.v4_root[0x0100] = LEAF_BASE + DE;
    world.v4_root[0x0101] = LEAF_BASE + crate::world::OWN_BASE;
    world
}

/// With a lease: DE; 2.0.0.0/8 allowed, 2.1.0.0/16 denied; 3.0.0.1 TCP 443 and 3.0.0.2 anything.
/// Without: 3.0.0.1 TCP 443.
fn policy() -> Box<PolicyImage> {
    let mut image = PolicyImage::zeroed();
    image.services[0] = Service {
        protocol: 6,
        first_port: 443,
        last_port: 443,
        reserved: 0,
    };
    image.services[1] = Service {
        protocol: ANY_PROTOCOL,
        first_port: 0,
        last_port: u16::MAX,
        reserved: 0,
    };
    image.services[2] = Service {
        protocol: ICMP_PROTOCOL,
        first_port: 0,
        last_port: u16::MAX,
        reserved: 0,
    };
    let mut next = 0;
    let mut put = |starts: &[(u32, u8, Slice, u32)]| {
        let first = next;
        for (start, decision, services, owner) in starts {
            let at = Address::from_v4(*start);
            image.intervals[usize::try_from(next).unwrap()] = crate::policy::Interval {
                hi: at.hi,
                lo: at.lo,
                services: *services,
                owner: *owner,
                decision: *decision,
                reserved: [0; 3],
            };
            next += 1;
        }
        Slice {
            first,
            count: next - first,
        }
    };
    let none = Slice::default();
    let https = Slice { first: 0, count: 1 };
    let attested = put(&[
        (0x0200_0000, decision::ALLOW, none, 0),
        (0x0201_0000, decision::DENY, none, 0),
        (0x0202_0000, decision::ALLOW, none, 0),
        (0x0203_0000, 99, none, 0),
        (0x0300_0001, decision::NONE, https, 0),
        (0x0300_0002, decision::NONE, Slice { first: 1, count: 1 }, 0),
        (0x0300_0003, decision::NONE, Slice { first: 2, count: 1 }, 0),
        (0x0300_0004, decision::NONE, none, 0),
    ]);
    let unattested = put(&[
        (0x0300_0001, decision::NONE, https, 0),
        (0x0300_0002, decision::NONE, none, 0),
    ]);
    image.header.owners = put(&[
        (0x0a09_0100, 0, none, ME + 1),
        (0x0a09_0200, 0, none, OTHER + 1),
        (0x0a09_0300, 0, none, 0),
    ]);
    for number in [0, 1, 2] {
        let subject = &mut image.subjects[number];
        subject.kind = if number == 2 { kind::HOST } else { kind::STUDY };
        subject.rules[ATTESTED].intervals = attested;
        subject.rules[ATTESTED].jurisdictions[0] = 1 << DE;
        subject.rules[ATTESTED].jurisdictions[6] = 1 << (400 - 384);
        subject.rules[UNATTESTED].intervals = unattested;
    }
    image
}

fn flow(to: [u8; 4], protocol: u8, port: u16) -> Flow {
    Flow {
        source: Address::from_v4(0x0a09_0101),
        destination: Address::from_v4(u32::from_be_bytes(to)),
        upper: (40_000 << 16) | u32::from(port),
        fragment: 0,
        protocol,
        hop_limit: 64,
        flags: 0x02,
        long: 0,
    }
}

fn ask<'a>(world: &'a WorldImage, policy: &'a PolicyImage, flow: &'a Flow) -> Question<'a> {
    Question {
        world: Some(world),
        policy,
        line: Line::FIRST,
        whose: Whose::subject(ME),
        translated: false,
        attested: true,
        peer: false,
        ingress: false,
        essential: false,
        loopback: Loopback::NO,
        flow,
        zero: 0,
    }
}

#[test]
fn one_row_per_rule() {
    let (world, policy) = (world(), policy());
    type Row = (&'static str, [u8; 4], u8, u16, Action, Rule);
    let rows: &[Row] = &[
        (
            "allowed jurisdiction",
            [1, 0, 0, 1],
            17,
            123,
            Action::Allow,
            Rule::Jurisdiction,
        ),
        (
            "unknown place",
            [1, 2, 0, 1],
            17,
            123,
            Action::Deny,
            Rule::Jurisdiction,
        ),
        (
            "own code",
            [1, 1, 0, 1],
            17,
            123,
            Action::Allow,
            Rule::Jurisdiction,
        ),
        (
            "allowed prefix",
            [2, 0, 0, 1],
            17,
            123,
            Action::Allow,
            Rule::Prefix,
        ),
        (
            "denied within allowed",
            [2, 1, 0, 1],
            17,
            123,
            Action::Deny,
            Rule::Prefix,
        ),
        (
            "behind the denied",
            [2, 2, 0, 1],
            17,
            123,
            Action::Allow,
            Rule::Prefix,
        ),
        (
            "a decision nobody knows",
            [2, 3, 0, 1],
            17,
            123,
            Action::Deny,
            Rule::Prefix,
        ),
        (
            "service",
            [3, 0, 0, 1],
            6,
            443,
            Action::Allow,
            Rule::Service,
        ),
        (
            "service, next port",
            [3, 0, 0, 1],
            6,
            444,
            Action::Deny,
            Rule::Jurisdiction,
        ),
        (
            "service, port before",
            [3, 0, 0, 1],
            6,
            442,
            Action::Deny,
            Rule::Jurisdiction,
        ),
        (
            "service, other protocol",
            [3, 0, 0, 1],
            17,
            443,
            Action::Deny,
            Rule::Jurisdiction,
        ),
        (
            "any protocol",
            [3, 0, 0, 2],
            47,
            0,
            Action::Allow,
            Rule::Service,
        ),
        ("icmp", [3, 0, 0, 3], 1, 0, Action::Allow, Rule::Service),
        (
            "not icmp",
            [3, 0, 0, 3],
            17,
            123,
            Action::Deny,
            Rule::Jurisdiction,
        ),
        (
            "own address",
            [10, 9, 1, 9],
            17,
            123,
            Action::Allow,
            Rule::Peer,
        ),
        (
            "another study's",
            [10, 9, 2, 9],
            17,
            123,
            Action::Deny,
            Rule::OtherStudy,
        ),
        (
            "nobody's",
            [10, 9, 3, 9],
            17,
            123,
            Action::Deny,
            Rule::Jurisdiction,
        ),
    ];
    for (name, to, protocol, port, action, rule) in rows {
        let flow = flow(*to, *protocol, *port);
        let verdict = judge(&ask(&world, &policy, &flow));
        assert_eq!((verdict.action, verdict.rule), (*action, *rule), "{name}");
    }
}

#[test]
fn what_is_missing_is_denied() {
    let (world, mut policy) = (world(), policy());
    let allowed = flow([1, 0, 0, 1], 17, 123);
    for (name, whose) in [
        ("no subject", Whose::NOBODY),
        ("free slot", Whose::subject(9)),
        ("out of range", Whose::subject(512)),
    ] {
        let question = Question {
            whose,
            ..ask(&world, &policy, &allowed)
        };
        assert_eq!(judge(&question), Verdict::deny(Rule::NoSubject), "{name}");
    }
    let question = Question {
        world: None,
        ..ask(&world, &policy, &allowed)
    };
    assert_eq!(judge(&question).action, Action::Deny, "no world map");
    let own = flow([1, 1, 0, 1], 17, 123);
    policy.header.own_table = 1;
    assert_eq!(
        judge(&ask(&world, &policy, &own)).action,
        Action::Deny,
        "codes of another map"
    );
    assert_eq!(
        judge(&ask(&world, &policy, &allowed)).action,
        Action::Allow,
        "ISO codes are fixed"
    );
}

#[test]
fn later_fragments_pass_only_where_no_port_decides() {
    let (world, policy) = (world(), policy());
    for (name, to, action, rule) in [
        ("service", [3, 0, 0, 1], Action::Deny, Rule::Fragment),
        (
            "jurisdiction",
            [1, 0, 0, 1],
            Action::Allow,
            Rule::Jurisdiction,
        ),
        ("prefix", [2, 0, 0, 1], Action::Allow, Rule::Prefix),
    ] {
        let flow = Flow {
            fragment: 3,
            ..flow(to, 6, 443)
        };
        let verdict = judge(&ask(&world, &policy, &flow));
        assert_eq!((verdict.action, verdict.rule), (action, rule), "{name}");
    }
}

#[test]
fn on_the_way_in_the_source_is_judged() {
    let (world, policy) = (world(), policy());
    let out = flow([3, 0, 0, 1], 6, 443);
    let back = Flow {
        source: out.destination,
        destination: out.source,
        upper: out.upper.rotate_left(16),
        ..out
    };
    let question = Question {
        ingress: true,
        ..ask(&world, &policy, &back)
    };
    assert_eq!(judge(&question).rule, Rule::Service);
    let question = Question {
        ingress: true,
        ..ask(&world, &policy, &out)
    };
    assert_eq!(
        judge(&question).rule,
        Rule::Peer,
        "the source is the study's own address"
    );
}

#[test]
fn the_inner_address_is_judged() {
    let (world, policy) = (world(), policy());
    for (name, hi, lo, action) in [
        (
            "6to4 into an allowed place",
            0x2002_0100_0001_0000,
            1,
            Action::Allow,
        ),
        (
            "6to4 into a denied prefix",
            0x2002_0201_0001_0000,
            1,
            Action::Deny,
        ),
        (
            "6to4 into another study",
            0x2002_0a09_0209_0000,
            1,
            Action::Deny,
        ),
        (
            "NAT64 into another study",
            0x0064_ff9b_0000_0000,
            0x0a09_0209,
            Action::Deny,
        ),
    ] {
        let flow = Flow {
            destination: Address { hi, lo },
            ..flow([0; 4], 17, 123)
        };
        assert_eq!(judge(&ask(&world, &policy, &flow)).action, action, "{name}");
    }
}

#[test]
fn host_services_have_no_peers_and_meet_studies_by_their_rules() {
    let (world, policy) = (world(), policy());
    let to_study = flow([10, 9, 2, 9], 17, 123);
    let question = Question {
        whose: Whose::subject(HOST),
        ..ask(&world, &policy, &to_study)
    };
    let verdict = judge(&question);
    assert_eq!(
        (verdict.action, verdict.rule),
        (Action::Deny, Rule::Jurisdiction)
    );
}
