//! The lease, own addresses, audit.

use super::*;

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
