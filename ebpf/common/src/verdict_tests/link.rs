//! The loopback device, and what stays on a link.

use super::*;

#[test]
fn on_the_loopback_device_sockets_decide() {
    let (world, policy) = (world(), policy());
    let own = flow([127, 0, 0, 1], 6, 443);
    let service = flow([3, 0, 0, 1], 6, 443);
    let jurisdiction = flow([1, 0, 0, 1], 6, 443);
    for (name, loopback, flow, action) in [
        ("same study", Loopback::SAME, &own, Action::Allow),
        (
            "another study",
            Loopback::OTHER_STUDY,
            &service,
            Action::Deny,
        ),
        ("nobody listens", Loopback::NOBODY, &own, Action::Allow),
        ("no sender found", Loopback::UNCLEAR, &service, Action::Deny),
        (
            "a number that is none",
            Loopback::from_number(6),
            &service,
            Action::Deny,
        ),
        ("the host's, not named", Loopback::HOST, &own, Action::Deny),
        (
            "the host's, a named service",
            Loopback::HOST,
            &service,
            Action::Allow,
        ),
        (
            "the host's, an allowed place",
            Loopback::HOST,
            &jurisdiction,
            Action::Deny,
        ),
    ] {
        let question = Question {
            loopback,
            ..ask(&world, &policy, flow)
        };
        let verdict = judge(&question);
        assert_eq!(verdict.action, action, "{name}");
        let of_another = loopback == Loopback::OTHER_STUDY;
        assert_eq!(verdict.rule == Rule::OtherStudy, of_another, "{name}");
    }
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
            Loopback::NO,
            true,
            allow,
            Rule::Neighbour,
        ),
        (
            "without a lease",
            &solicitation,
            Loopback::NO,
            false,
            allow,
            Rule::Neighbour,
        ),
        (
            "from a router",
            &routed,
            Loopback::NO,
            true,
            deny,
            Rule::Jurisdiction,
        ),
        (
            "to the host itself",
            &solicitation,
            Loopback::HOST,
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
