use std::boxed::Box;

use super::*;
use crate::Plain;
use crate::policy::{ATTESTED, Service, UNATTESTED};
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
        line: Line::First,
        whose: Whose::Subject(ME),
        translated: false,
        attested: true,
        peer: false,
        ingress: false,
        essential: false,
        loopback: Loopback::No,
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
fn a_lease_that_ended_leaves_what_the_policy_names() {
    let (world, policy) = (world(), policy());
    for (name, to, port, action, rule) in [
        (
            "management",
            [3, 0, 0, 1],
            443,
            Action::Allow,
            Rule::Service,
        ),
        (
            "its neighbour",
            [3, 0, 0, 1],
            80,
            Action::Deny,
            Rule::NoLease,
        ),
        (
            "the jurisdiction",
            [1, 0, 0, 1],
            443,
            Action::Deny,
            Rule::NoLease,
        ),
        (
            "own address",
            [10, 9, 1, 9],
            443,
            Action::Deny,
            Rule::NoLease,
        ),
        (
            "another study's",
            [10, 9, 2, 9],
            443,
            Action::Deny,
            Rule::OtherStudy,
        ),
    ] {
        let flow = flow(to, 6, port);
        let question = Question {
            attested: false,
            ..ask(&world, &policy, &flow)
        };
        let verdict = judge(&question);
        assert_eq!((verdict.action, verdict.rule), (action, rule), "{name}");
    }
}

#[test]
fn an_own_address_counts_as_the_study_says() {
    let (world, mut policy) = (world(), policy());
    // An address of the study that lies where it may go, and one that a service reaches.
    policy.intervals[10] = crate::policy::Interval {
        hi: 0,
        lo: Address::from_v4(0x0100_0900).lo,
        owner: ME + 1,
        ..crate::policy::Interval::default()
    };
    policy.header.owners = Slice {
        first: 10,
        count: 4,
    };
    let (allow, deny) = (Action::Allow, Action::Deny);
    let own = [10, 9, 1, 9];
    type Row = (&'static str, u8, bool, bool, [u8; 4], Action, Rule);
    let rows: &[Row] = &[
        (
            "declared",
            peering::DECLARED,
            true,
            false,
            own,
            allow,
            Rule::Peer,
        ),
        (
            "declared, no lease",
            peering::DECLARED,
            false,
            false,
            own,
            deny,
            Rule::NoLease,
        ),
        (
            "an entry stands",
            peering::ATTESTED,
            true,
            true,
            own,
            allow,
            Rule::Peer,
        ),
        (
            "none stands",
            peering::ATTESTED,
            true,
            false,
            own,
            deny,
            Rule::PeerLost,
        ),
        (
            "stands, no lease",
            peering::ATTESTED,
            false,
            true,
            own,
            deny,
            Rule::NoLease,
        ),
        (
            "neither",
            peering::ATTESTED,
            false,
            false,
            own,
            deny,
            Rule::PeerLost,
        ),
        (
            "a value nobody knows",
            99,
            true,
            false,
            own,
            deny,
            Rule::PeerLost,
        ),
        (
            "in an allowed place, stands",
            peering::ATTESTED,
            true,
            true,
            [1, 0, 9, 1],
            allow,
            Rule::Peer,
        ),
        (
            "in an allowed place, none",
            peering::ATTESTED,
            true,
            false,
            [1, 0, 9, 1],
            deny,
            Rule::PeerLost,
        ),
        (
            "beside it",
            peering::ATTESTED,
            true,
            false,
            [1, 0, 8, 255],
            allow,
            Rule::Jurisdiction,
        ),
        (
            "another study's",
            peering::ATTESTED,
            true,
            true,
            [10, 9, 2, 9],
            deny,
            Rule::OtherStudy,
        ),
        (
            "nobody's",
            peering::ATTESTED,
            true,
            true,
            [10, 9, 3, 9],
            deny,
            Rule::Jurisdiction,
        ),
    ];
    for (name, peers, attested, peer, to, action, rule) in rows {
        policy.subjects[0].peers = *peers;
        let flow = flow(*to, 17, 123);
        let question = Question {
            attested: *attested,
            peer: *peer,
            ..ask(&world, &policy, &flow)
        };
        let verdict = judge(&question);
        assert_eq!((verdict.action, verdict.rule), (*action, *rule), "{name}");
    }
    let there = flow([10, 9, 1, 9], 17, 123);
    let from_there = Flow {
        source: there.destination,
        destination: there.source,
        ..there
    };
    for (peer, action) in [(true, allow), (false, deny)] {
        let question = Question {
            peer,
            ingress: true,
            ..ask(&world, &policy, &from_there)
        };
        assert_eq!(judge(&question).action, action, "on the way in, {peer}");
    }
    policy.subjects[0].mode = mode::AUDIT;
    let verdict = judge(&ask(&world, &policy, &there));
    assert_eq!(
        (verdict.action, verdict.rule),
        (Action::Audit, Rule::PeerLost)
    );
}

#[test]
fn a_lease_or_what_stands_in_for_it() {
    let mut image = PolicyImage::zeroed();
    let subject = &mut image.subjects[0];
    for (name, lease, glass, now, want) in [
        ("neither", 0, 0, 0, false),
        ("a lease", 100, 0, 99, true),
        ("at its end", 100, 0, 100, false),
        ("after it, break-glass", 100, 200, 150, true),
        ("at the end of both", 100, 200, 200, false),
        ("the lease lasts longer", 300, 200, 250, true),
        ("for ever", u64::MAX, 0, 1 << 62, true),
    ] {
        subject.break_glass_boot_ns = glass;
        assert_eq!(subject.attested(lease, now), want, "{name}");
    }
}

#[test]
fn audit_speaks_of_the_study_s_own_rules_only() {
    let (world, mut policy) = (world(), policy());
    policy.subjects[0].mode = mode::AUDIT;
    let away = flow([9, 9, 9, 9], 17, 123);
    let audited = judge(&ask(&world, &policy, &away));
    assert_eq!(
        (audited.action, audited.rule),
        (Action::Audit, Rule::Jurisdiction)
    );
    let without = Question {
        attested: false,
        ..ask(&world, &policy, &away)
    };
    assert_eq!(judge(&without).action, Action::Deny);
    let other = flow([10, 9, 2, 9], 17, 123);
    assert_eq!(judge(&ask(&world, &policy, &other)).action, Action::Deny);
    policy.subjects[0].mode = 77;
    assert_eq!(
        judge(&ask(&world, &policy, &away)).action,
        Action::Deny,
        "unknown mode enforces"
    );
}

#[test]
fn what_is_missing_is_denied() {
    let (world, mut policy) = (world(), policy());
    let allowed = flow([1, 0, 0, 1], 17, 123);
    for (name, whose) in [
        ("no subject", Whose::Nobody),
        ("free slot", Whose::Subject(9)),
        ("out of range", Whose::Subject(512)),
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
fn on_the_loopback_device_sockets_decide() {
    let (world, policy) = (world(), policy());
    let own = flow([127, 0, 0, 1], 6, 443);
    let service = flow([3, 0, 0, 1], 6, 443);
    let jurisdiction = flow([1, 0, 0, 1], 6, 443);
    for (name, loopback, flow, action) in [
        ("same study", Loopback::Same, &own, Action::Allow),
        (
            "another study",
            Loopback::OtherStudy,
            &service,
            Action::Deny,
        ),
        ("nobody listens", Loopback::Nobody, &own, Action::Allow),
        ("no sender found", Loopback::Unclear, &service, Action::Deny),
        ("the host's, not named", Loopback::Host, &own, Action::Deny),
        (
            "the host's, a named service",
            Loopback::Host,
            &service,
            Action::Allow,
        ),
        (
            "the host's, an allowed place",
            Loopback::Host,
            &jurisdiction,
            Action::Deny,
        ),
    ] {
        let question = Question {
            loopback,
            ..ask(&world, &policy, flow)
        };
        assert_eq!(judge(&question).action, action, "{name}");
    }
}

#[test]
fn host_services_have_no_peers_and_meet_studies_by_their_rules() {
    let (world, policy) = (world(), policy());
    let to_study = flow([10, 9, 2, 9], 17, 123);
    let question = Question {
        whose: Whose::Subject(HOST),
        ..ask(&world, &policy, &to_study)
    };
    let verdict = judge(&question);
    assert_eq!(
        (verdict.action, verdict.rule),
        (Action::Deny, Rule::Jurisdiction)
    );
}

#[test]
fn neighbour_discovery_passes_on_the_link_alone() {
    let (world, policy) = (world(), policy());
    let on_link = |lo| Address {
        hi: 0xfe80 << 48,
        lo,
    };
    let solicitation = Flow {
        source: on_link(1),
        destination: on_link(2),
        upper: 135 << 24,
        hop_limit: 255,
        ..flow([0; 4], protocol::ICMPV6, 0)
    };
    let routed = Flow {
        hop_limit: 254,
        ..solicitation
    };
    let (allow, deny) = (Action::Allow, Action::Deny);
    for (name, flow, loopback, attested, action, rule) in [
        (
            "attested",
            &solicitation,
            Loopback::No,
            true,
            allow,
            Rule::Neighbour,
        ),
        (
            "without a lease",
            &solicitation,
            Loopback::No,
            false,
            allow,
            Rule::Neighbour,
        ),
        (
            "from a router",
            &routed,
            Loopback::No,
            true,
            deny,
            Rule::Jurisdiction,
        ),
        (
            "to the host itself",
            &solicitation,
            Loopback::Host,
            true,
            deny,
            Rule::Loopback,
        ),
    ] {
        let question = Question {
            attested,
            loopback,
            ..ask(&world, &policy, flow)
        };
        let verdict = judge(&question);
        assert_eq!((verdict.action, verdict.rule), (action, rule), "{name}");
    }
}
