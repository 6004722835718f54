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
    let said = say(&told());
    assert_eq!(said.study, "cardio");
    assert_eq!(
        (said.wall_time_ms, said.until_boot_ns),
        (48_000, 8_000_000_000)
    );
    assert_eq!(
        (said.direction.as_str(), said.hook.as_str()),
        ("egress", "cgroup_skb/egress")
    );
    assert_eq!((said.source.len(), said.destination.len()), (4, 16));
    assert_eq!((said.source_port, said.destination_port), (50_000, 443));
    assert_eq!(
        (said.rule.as_str(), said.verdict.as_str()),
        ("no-policy", "deny")
    );
    assert_eq!((said.count, said.bytes, said.sampled), (3, 180, 0));
    assert_eq!((said.uid, said.pid), (Some(1000), None));
    assert_eq!(
        (said.command.as_str(), said.executable.as_str()),
        ("curl", "")
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
    unread.key.rule = 200;
    unread.key.hook = hook::SKB_INGRESS;
    unread.key.direction = direction::INGRESS;
    unread.key.action = action::AUDITED;
    let said = say(&unread);
    assert!(said.destination.is_empty(), "the near end");
    assert_eq!(said.source_port, 443, "the far end sends");
    assert_eq!(said.uid, None);
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
    let told = flows_in_words(&counted, &names(), (50_000, 9_000_000_000));
    let [event] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(event.wall_time_ms, 50_000);
    let flows = event.flows.clone().unwrap();
    assert_eq!(
        (flows.from_ms, flows.to_ms, flows.more),
        (42_000, 50_000, false)
    );
    let rows: Vec<(&str, &str, &str, u64)> = flows
        .flows
        .iter()
        .map(|flow| {
            let Flow {
                study,
                jurisdiction,
                direction,
                ..
            } = flow;
            (
                study.as_str(),
                jurisdiction.as_str(),
                direction.as_str(),
                flow.packets,
            )
        })
        .collect();
    let want = [
        ("", "loopback", "egress", 3),
        ("cardio", "loopback", "egress", 12),
        ("cardio", "loopback", "ingress", 1),
        ("cardio", "unknown", "egress", 2),
    ];
    assert_eq!(rows, want);
    assert_eq!((flows.other_packets, flows.other_bytes), (24, 2400));
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
