//! What the kernel counted, told in words.

use bailiwick_ebpf_common::tally::{Passed, PassedKey, Tally, TallyKey};

use super::*;

#[test]
fn a_study_that_may_not_start_is_told_from_a_stranger() {
    let event = |study: &str, cgroup_id| FenceEvent {
        study: study.to_owned(),
        cgroup_id,
        rule: "no-subject".to_owned(),
        ..FenceEvent::default()
    };
    let mut events = [event("", 7), event("", 8), event("neuro", 7)];
    let back = admit::Back {
        study: "cardio".to_owned(),
        rule: admit::EXPIRED,
    };
    hold_back(&mut events, &[(7, back)].into());
    let said = events.map(|event| (event.study, event.rule));
    let said: Vec<(&str, &str)> = said.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let want = [
        ("cardio", "policy-expired"),
        ("", "no-subject"),
        ("neuro", "no-subject"),
    ];
    assert_eq!(said, want);
}

fn names() -> VecDeque<Names> {
    VecDeque::from([
        Names {
            generation: 2,
            studies: vec![Some("cardio".to_owned()), None],
            codes: Codes::default(),
        },
        Names {
            generation: 1,
            studies: vec![Some("neuro".to_owned()), Some("cardio".to_owned())],
            codes: Codes::default(),
        },
    ])
}

fn told() -> Told {
    let key = TallyKey {
        who: 2 << 32,
        cgroup: 9,
        far: std::net::Ipv6Addr::LOCALHOST.octets(),
        uid: 1000,
        jurisdiction: 4,
        port: 443,
        protocol: 6,
        hook: hook::SKB_EGRESS,
        rule: 1,
        direction: direction::EGRESS,
        ..TallyKey::default()
    };
    let tally = Tally {
        count: 3,
        bytes: 180,
        first_ns: 7_000_000_000,
        last_ns: 8_000_000_000,
        near: std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets(),
        near_port: 50_000,
        command: *b"curl\0garbage....",
        ..Tally::default()
    };
    Told {
        key,
        tally,
        others: false,
    }
}

fn say(told: &Told) -> FenceEvent {
    let now = (50_000, 9_000_000_000);
    in_words(told, &names(), "/a".to_owned(), 100, now)
}

#[test]
fn numbers_become_words_of_the_policy_that_judged() {
    let want = FenceEvent {
        boot_time_ns: 7_000_000_000,
        wall_time_ms: 48_000,
        study: "cardio".to_owned(),
        cgroup_id: 9,
        cgroup: "/a".to_owned(),
        direction: "egress".to_owned(),
        source: vec![127, 0, 0, 1],
        destination: std::net::Ipv6Addr::LOCALHOST.octets().to_vec(),
        protocol: 6,
        source_port: 50_000,
        destination_port: 443,
        jurisdiction: "loopback".to_owned(),
        rule: "no-policy".to_owned(),
        verdict: "deny".to_owned(),
        hook: "cgroup_skb/egress".to_owned(),
        count: 3,
        bytes: 180,
        until_boot_ns: 8_000_000_000,
        uid: Some(1000),
        command: "curl".to_owned(),
        ..FenceEvent::default()
    };
    assert_eq!(say(&told()), want);
    let together = Told {
        others: true,
        ..told()
    };
    assert_eq!(
        say(&together),
        FenceEvent {
            others: true,
            ..want
        }
    );
    let cases = [
        ("older policy", 1 << 32, "neuro"),
        ("forgotten policy", 0, ""),
        ("host service", 2 << 32 | 1, ""),
        ("no subject", 2 << 32 | u64::from(u32::MAX), ""),
    ];
    for (name, who, study) in cases {
        let mut told = told();
        told.key.who = who;
        assert_eq!(say(&told).study, study, "{name}");
    }
}

#[test]
fn what_is_not_known_is_not_said() {
    let mut unread = told();
    unread.tally.near = [0; 16];
    unread.key.uid = NO_UID;
    unread.key.jurisdiction = 0;
    unread.key.rule = 200;
    unread.key.hook = hook::SKB_INGRESS;
    unread.key.direction = direction::INGRESS;
    unread.key.action = action::AUDITED;
    let said = say(&unread);
    assert!(said.destination.is_empty(), "the near end");
    assert_eq!(said.source_port, 443, "the far end sends");
    assert_eq!((said.uid, said.jurisdiction.as_str()), (None, ""));
    assert_eq!(
        (said.verdict.as_str(), said.rule.as_str()),
        ("audit", "unknown")
    );
    assert_eq!(said.hook, "cgroup_skb/ingress");
}

#[test]
fn a_process_is_named_with_its_program() {
    let mut own = told();
    own.tally.pid = std::process::id();
    own.tally.first_ns = clock::boot_time_ns();
    let said = say(&own);
    assert_eq!(said.pid, Some(std::process::id()));
    let program = std::env::current_exe().unwrap();
    assert_eq!(said.executable, program.display().to_string());
}

#[test]
fn a_sample_says_of_how_many_it_is_one() {
    let mut passed = told();
    passed.key.action = action::SAMPLED;
    let said = say(&passed);
    assert_eq!((said.verdict.as_str(), said.sampled), ("allow", 100));
}

fn key(who: u64, jurisdiction: u16, direction: u8) -> PassedKey {
    PassedKey {
        who,
        jurisdiction,
        direction,
        ..PassedKey::default()
    }
}

fn passed(packets: u64) -> Passed {
    Passed {
        packets,
        bytes: 100 * packets,
    }
}

#[test]
fn what_passed_is_told_by_study_and_place_with_nothing_left_out() {
    let counted = Counted {
        since_ns: 1_000_000_000,
        until_ns: 9_000_000_000,
        flows: vec![
            (key(1 << 32 | 1, 4, 1), passed(5)),
            (key(2 << 32, 4, 1), passed(7)),
            (key(2 << 32, 4, 2), passed(1)),
            (key(2 << 32, 0, 1), passed(2)),
            (key(2 << 32 | 1, 4, 1), passed(3)),
            (key(7 << 32, 4, 1), passed(11)),
        ],
        others: passed(13),
    };
    let told = flows_in_words(&counted, &names(), (50_000, 10_000_000_000));
    let flow = |study: &str, jurisdiction: &str, direction: &str, packets| Flow {
        study: study.to_owned(),
        jurisdiction: jurisdiction.to_owned(),
        direction: direction.to_owned(),
        packets,
        bytes: 100 * packets,
    };
    let want = FlowsCounted {
        from_boot_ns: 1_000_000_000,
        to_boot_ns: 9_000_000_000,
        from_ms: 41_000,
        to_ms: 49_000,
        flows: vec![
            flow("", "loopback", "egress", 3),
            flow("cardio", "loopback", "egress", 12),
            flow("cardio", "loopback", "ingress", 1),
            flow("cardio", "unknown", "egress", 2),
        ],
        other_packets: 24,
        other_bytes: 2400,
        more: false,
    };
    let want = FenceEvent {
        boot_time_ns: 9_000_000_000,
        wall_time_ms: 49_000,
        flows: Some(want),
        ..FenceEvent::default()
    };
    assert_eq!(told, [want]);
}

#[test]
fn many_flows_are_told_in_parts_and_none_in_one() {
    let studies = (0..400).map(|n| Some(format!("study-{n}"))).collect();
    let names = VecDeque::from([Names {
        generation: 2,
        studies,
        codes: Codes::default(),
    }]);
    let flows = (0..300).map(|n| (key(2 << 32 | n, 4, 1), passed(1)));
    let mut counted = Counted {
        since_ns: 0,
        until_ns: 5,
        flows: flows.collect(),
        others: passed(4),
    };
    let told = flows_in_words(&counted, &names, (1, 5));
    let parts: Vec<FlowsCounted> = told.into_iter().filter_map(|part| part.flows).collect();
    let shape: Vec<_> = parts
        .iter()
        .map(|part| (part.flows.len(), part.more, part.other_packets))
        .collect();
    assert_eq!(shape, [(128, true, 0), (128, true, 0), (44, false, 4)]);
    counted.flows.clear();
    counted.others = passed(0);
    let told = flows_in_words(&counted, &names, (1, 5));
    assert_eq!(told.len(), 1, "nothing passed, and that is told");
}
