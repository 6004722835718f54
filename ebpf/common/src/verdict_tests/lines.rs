//! Whose a packet is, and what the host fence says of it.

use super::*;

/// The policy of the other tests; its last intervals are the owners', from here on they are others.
const FREE: usize = 100;

fn put(policy: &mut PolicyImage, at: usize, rows: &[([u8; 4], Slice, u32)]) -> Slice {
    for (slot, (start, services, owner)) in policy.intervals[at..].iter_mut().zip(rows) {
        let start = Address::from_v4(u32::from_be_bytes(*start));
        *slot = crate::policy::Interval {
            hi: start.hi,
            lo: start.lo,
            services: *services,
            owner: *owner,
            ..crate::policy::Interval::default()
        };
    }
    Slice {
        first: u32::try_from(at).unwrap(),
        count: u32::try_from(rows.len()).unwrap(),
    }
}

#[test]
fn whose_it_is_decides_first() {
    let (world, policy) = (world(), policy());
    let there = flow([1, 0, 0, 1], 6, 443);
    let (allow, deny) = (Action::Allow, Action::Deny);
    for (name, whose, action, rule) in [
        ("a study", Whose::subject(ME), allow, Rule::Jurisdiction),
        ("nobody", Whose::NOBODY, deny, Rule::NoSubject),
        ("forwarded", Whose::UNMARKED, deny, Rule::Forwarded),
        ("the kernel", Whose::KERNEL, deny, Rule::Kernel),
        ("the kernel, named", Whose::SERVED, allow, Rule::Kernel),
    ] {
        for line in [Line::FIRST, Line::THRESHOLD, Line::SECOND, Line::EARLY] {
            let question = Question {
                whose,
                line,
                ..ask(&world, &policy, &there)
            };
            let verdict = judge(&question);
            assert_eq!((verdict.action, verdict.rule), (action, rule), "{name}");
        }
        let subject = (whose == Whose::subject(ME)).then_some(ME);
        assert_eq!(whose.as_subject(), subject, "{name}");
    }
}

#[test]
fn what_keeps_the_host_up_is_the_hosts_by_name() {
    let (world, mut policy) = (world(), policy());
    policy.header.essentials = essential::ICMP_ERRORS;
    let error = Flow {
        upper: 3 << 24,
        ..flow([9, 9, 9, 9], protocol::ICMP, 0)
    };
    let echo = Flow {
        upper: 8 << 24,
        ..error
    };
    // A later part of something, which says of itself that it is an error.
    let part = Flow {
        fragment: 8,
        ..error
    };
    let reset = Flow {
        flags: 0x04,
        ..flow([9, 9, 9, 9], protocol::TCP, 80)
    };
    let (allow, deny) = (Action::Allow, Action::Deny);
    for (name, whose, flow, action, rule) in [
        ("the kernel", Whose::KERNEL, &error, allow, Rule::Essential),
        (
            "a host service",
            Whose::subject(HOST),
            &error,
            allow,
            Rule::Essential,
        ),
        (
            "a study",
            Whose::subject(ME),
            &error,
            deny,
            Rule::Jurisdiction,
        ),
        ("forwarded", Whose::UNMARKED, &error, deny, Rule::Forwarded),
        ("nobody", Whose::NOBODY, &error, deny, Rule::NoSubject),
        ("no error", Whose::KERNEL, &echo, deny, Rule::Kernel),
        ("a later part", Whose::KERNEL, &part, deny, Rule::Kernel),
        ("not named", Whose::KERNEL, &reset, deny, Rule::Kernel),
    ] {
        let question = Question {
            whose,
            essential: keeps_up(&policy, flow, false),
            ..ask(&world, &policy, flow)
        };
        let verdict = judge(&question);
        assert_eq!((verdict.action, verdict.rule), (action, rule), "{name}");
    }
    policy.header.essentials = 0;
    assert!(!keeps_up(&policy, &error, false));
}

#[test]
fn the_kernels_own_is_for_a_named_target_and_its_study() {
    let mut policy = policy();
    let https = Slice { first: 0, count: 1 };
    let none = Slice::default();
    policy.header.kernel = put(
        &mut policy,
        FREE,
        &[
            ([4, 0, 0, 1], https, ME + 1),
            ([4, 0, 0, 2], https, 0),
            ([4, 0, 0, 3], none, 0),
        ],
    );
    for (name, to, port, whose) in [
        ("a study's", [4, 0, 0, 1], 443, Whose::subject(ME)),
        ("the host's", [4, 0, 0, 2], 443, Whose::SERVED),
        ("the next port", [4, 0, 0, 1], 444, Whose::KERNEL),
        ("the next address", [4, 0, 0, 3], 443, Whose::KERNEL),
        ("the one before", [4, 0, 0, 0], 443, Whose::KERNEL),
    ] {
        let out = flow(to, 6, port);
        assert_eq!(served(&policy, &out, false), whose, "{name}");
        let back = Flow {
            source: out.destination,
            destination: out.source,
            upper: out.upper.rotate_left(16),
            ..out
        };
        assert_eq!(served(&policy, &back, true), whose, "{name}, coming in");
        assert_eq!(
            served(&policy, &back, false),
            Whose::KERNEL,
            "{name}, turned"
        );
    }
}

#[test]
fn planes_and_service_addresses_have_an_owner() {
    let (world, mut policy) = (world(), policy());
    let none = Slice::default();
    policy.header.owners = put(
        &mut policy,
        FREE,
        &[
            ([1, 0, 0, 0], none, owned::MANAGEMENT + 1),
            ([1, 0, 1, 0], none, 0),
            ([5, 0, 0, 0], none, owned::TRANSLATED + 1),
            ([5, 0, 1, 0], none, 0),
        ],
    );
    let (allow, deny) = (Action::Allow, Action::Deny);
    let (plane, beside) = (flow([1, 0, 0, 9], 6, 80), flow([1, 0, 1, 0], 6, 80));
    for (name, subject, member, flow, action, rule) in [
        ("a study", ME, 0, &plane, deny, Rule::Management),
        (
            "a study beside it",
            ME,
            0,
            &beside,
            allow,
            Rule::Jurisdiction,
        ),
        (
            "a study that claims it",
            ME,
            1,
            &plane,
            deny,
            Rule::Management,
        ),
        ("a host service", HOST, 0, &plane, deny, Rule::Management),
        (
            "one named for it",
            HOST,
            1,
            &plane,
            allow,
            Rule::Jurisdiction,
        ),
        ("another value", HOST, 2, &plane, deny, Rule::Management),
    ] {
        for number in [0, 2] {
            policy.subjects[number].management = member;
        }
        let question = Question {
            whose: Whose::subject(subject),
            ..ask(&world, &policy, flow)
        };
        let verdict = judge(&question);
        assert_eq!((verdict.action, verdict.rule), (action, rule), "{name}");
    }
    let service = flow([5, 0, 0, 9], 6, 80);
    for (name, translated, line, attested, action, rule) in [
        (
            "judged again",
            true,
            Line::FIRST,
            true,
            allow,
            Rule::Translated,
        ),
        (
            "at the port",
            true,
            Line::THRESHOLD,
            true,
            allow,
            Rule::Translated,
        ),
        (
            "as it leaves",
            true,
            Line::SECOND,
            true,
            deny,
            Rule::Jurisdiction,
        ),
        (
            "not judged again",
            false,
            Line::FIRST,
            true,
            deny,
            Rule::Jurisdiction,
        ),
        (
            "without a lease",
            true,
            Line::FIRST,
            false,
            deny,
            Rule::NoLease,
        ),
        ("neither", false, Line::FIRST, false, deny, Rule::NoLease),
    ] {
        let question = Question {
            translated,
            line,
            attested,
            ..ask(&world, &policy, &service)
        };
        let verdict = judge(&question);
        assert_eq!((verdict.action, verdict.rule), (action, rule), "{name}");
    }
}

#[test]
fn a_studys_dns_is_answered_by_a_named_port_alone() {
    let (world, mut policy) = (world(), policy());
    // 3.0.0.1: TCP 853; 3.0.0.2 stays "anything".
    policy.services[0].first_port = 853;
    policy.services[0].last_port = 853;
    let (allow, deny) = (Action::Allow, Action::Deny);
    for (name, subject, to, protocol, port, action, rule) in [
        ("named", ME, [3, 0, 0, 1], 6, 853, allow, Rule::Service),
        (
            "another port of DNS",
            ME,
            [3, 0, 0, 1],
            6,
            53,
            deny,
            Rule::Resolver,
        ),
        ("anything", ME, [3, 0, 0, 2], 17, 53, deny, Rule::Resolver),
        (
            "anything, no DNS",
            ME,
            [3, 0, 0, 2],
            17,
            54,
            allow,
            Rule::Service,
        ),
        (
            "an allowed place",
            ME,
            [1, 0, 0, 1],
            17,
            53,
            deny,
            Rule::Resolver,
        ),
        (
            "an allowed prefix",
            ME,
            [2, 0, 0, 1],
            17,
            53,
            deny,
            Rule::Resolver,
        ),
        (
            "a denied prefix",
            ME,
            [2, 1, 0, 1],
            17,
            53,
            deny,
            Rule::Prefix,
        ),
        (
            "beside DNS",
            ME,
            [1, 0, 0, 1],
            17,
            52,
            allow,
            Rule::Jurisdiction,
        ),
        (
            "its number elsewhere",
            ME,
            [1, 0, 0, 1],
            47,
            53,
            allow,
            Rule::Jurisdiction,
        ),
        (
            "an own address",
            ME,
            [10, 9, 1, 9],
            17,
            53,
            allow,
            Rule::Peer,
        ),
        (
            "a host service",
            HOST,
            [2, 0, 0, 1],
            17,
            53,
            allow,
            Rule::Prefix,
        ),
        (
            "a host service, anything",
            HOST,
            [3, 0, 0, 2],
            17,
            53,
            allow,
            Rule::Service,
        ),
    ] {
        let flow = flow(to, protocol, port);
        let question = Question {
            whose: Whose::subject(subject),
            ..ask(&world, &policy, &flow)
        };
        let verdict = judge(&question);
        assert_eq!((verdict.action, verdict.rule), (action, rule), "{name}");
    }
}
