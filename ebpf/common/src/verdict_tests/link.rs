//! The loopback device, and what stays on a link.

use super::*;

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
