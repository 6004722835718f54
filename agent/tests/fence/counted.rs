//! What is told, against what was sent: counted by the sender.

use std::time::{Duration, Instant};

use bailiwick_agent::fence_service::Enforcer;
use bailiwick_attestation::proto::v1::{FenceEvent, FlowsCounted};

use crate::traffic::Stage;

/// A datagram of nine bytes with its headers.
const LENGTH: u64 = 20 + 8 + 9;

const STUDY: &str = "studies/cardio";

fn denied(events: &[FenceEvent]) -> impl Iterator<Item = &FenceEvent> + Clone {
    events.iter().filter(|event| event.verdict == "deny")
}

fn sum<'a>(events: impl Iterator<Item = &'a FenceEvent>) -> (u64, u64) {
    events.fold((0, 0), |(count, bytes), event| {
        (count + event.count, bytes + event.bytes)
    })
}

/// Everything told until the end, and how often there was something.
fn take(stage: &mut Stage, until: Instant) -> (Vec<FenceEvent>, u64) {
    let (mut all, mut times) = (Vec::new(), 0);
    loop {
        let over = Instant::now() >= until;
        let (events, lost) = stage.fence.drain_events();
        assert_eq!(lost, 0);
        times += u64::from(!events.is_empty());
        all.extend(events);
        if over {
            return (all, times);
        }
    }
}

#[test]
fn a_flood_is_told_exactly_and_in_few_lines() {
    let mut stage = Stage::with("flood", |_| {});
    let mut world = stage.world();
    world.count_at("0.0.0.0:5000");
    let mut actors = [stage.inside(STUDY), stage.inside(STUDY)];
    drop(stage.fence.drain_events());
    let before = stage.fence.state().counters;
    for actor in &mut actors {
        actor.begin("flood 10.9.1.1:0 198.51.100.7:5000 3000");
    }
    // Tables are taken away under the flood, as often as that goes.
    let (mut events, times) = take(&mut stage, Instant::now() + Duration::from_millis(2500));
    let sent: u64 = actors
        .iter_mut()
        .map(|actor| actor.answer().parse::<u64>().unwrap())
        .sum();
    events.extend(stage.fence.drain_events().0);
    assert!(times > 5, "taken {times} times");
    assert!(sent > 20_000, "{sent}");
    let flood = || denied(&events).filter(|event| event.rule == "jurisdiction");
    assert_eq!(sum(flood()), (sent, sent * LENGTH));
    assert!(flood().all(|event| event.study == "cardio"));
    let alone = flood().filter(|event| !event.others).count();
    assert!(alone <= 64 + 2 * 4, "{alone} lines for {sent} packets");
    let counters = stage.fence.state().counters;
    assert_eq!(counters["egress.denied"] - before["egress.denied"], sent);
    let rule = "rule.jurisdiction";
    assert_eq!(counters[rule] - before[rule], sent);
    assert_eq!(world.counted(), 0);
}

#[test]
fn a_full_table_counts_on_and_loses_nothing() {
    let mut stage = Stage::with("full", |_| {});
    let mut cardio = stage.inside(STUDY);
    drop(stage.fence.drain_events());
    // More flows than a table has entries.
    let mut sent = 0;
    for to in ["198.51.100.7", "198.51.100.8"] {
        let tries = cardio.tell(&format!("scan 10.9.1.1:0 {to} 4000"));
        sent += tries.parse::<u64>().unwrap();
    }
    assert_eq!(sent, 8000);
    let (events, lost) = stage.fence.drain_events();
    assert_eq!(lost, 0);
    assert_eq!(sum(denied(&events)), (sent, sent * LENGTH));
    let alone = denied(&events).filter(|event| !event.others);
    assert_eq!(sum(alone.clone()), (64, 64 * LENGTH));
    assert!(alone.clone().all(|event| event.destination.len() == 4));
    // One line for each rule: port 53 has its own.
    let others: Vec<_> = denied(&events).filter(|event| event.others).collect();
    assert!(others.len() <= 3, "{others:?}");
    for event in others {
        assert_eq!((event.study.as_str(), event.uid), ("cardio", None));
        assert!(event.destination.is_empty() && event.cgroup.is_empty());
    }
    // The next table is empty.
    cardio.send("10.9.1.1:0", "198.51.100.7:5000");
    let (events, _) = stage.fence.drain_events();
    assert_eq!(denied(&events).count(), 1, "{events:?}");
}

#[test]
fn audit_counts_what_would_have_been_denied() {
    let mut stage = Stage::with("count-audit", |_| {});
    stage.apply(2, "audit", "DE");
    let mut world = stage.world();
    world.count_at("0.0.0.0:5000");
    let mut cardio = stage.inside(STUDY);
    drop(stage.fence.drain_events());
    let sent: u64 = cardio
        .tell("flood 10.9.1.1:0 198.51.100.7:5000 200")
        .parse()
        .unwrap();
    let (events, _) = stage.fence.drain_events();
    let audited = || events.iter().filter(|event| event.verdict == "audit");
    assert_eq!(sum(audited()), (sent, sent * LENGTH));
    assert!(audited().all(|event| event.jurisdiction == "US"));
    assert_eq!(denied(&events).count(), 0, "{events:?}");
    assert!(world.counted() > 0);
}

#[test]
fn what_was_counted_waits_for_the_next_process() {
    let mut stage = Stage::with("count-restart", |_| {});
    let mut cardio = stage.inside(STUDY);
    drop(stage.fence.drain_events());
    cardio.send("10.9.1.1:0", "198.51.100.7:5000");
    let Stage { scene, fence, net } = stage;
    drop(fence);
    // Nobody is there; the first of three datagrams answers with an error, which ends the attempt.
    cardio.send("10.9.1.1:0", "198.51.100.7:5000");
    let mut fence = scene.open();
    let (events, lost) = fence.drain_events();
    assert_eq!((sum(denied(&events)).0, lost), (2, 0));
    drop(net);
}

fn counted(stage: &mut Stage) -> FlowsCounted {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        let (events, _) = stage.fence.drain_events();
        if let Some(flows) = events.into_iter().find_map(|event| event.flows) {
            return flows;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("nothing was counted");
}

#[test]
fn what_passes_is_counted_by_study_and_place() {
    let mut stage = Stage::with("count", |section| section.count_s = 1);
    let mut cardio = stage.inside(STUDY);
    let mut neuro = stage.inside("studies/neuro");
    // By jurisdiction, and by a prefix in a place of its own; on the wire nobody answers.
    for (study, from, to) in [
        ("cardio", "10.9.1.1:0", "192.0.2.7"),
        ("cardio", "10.9.1.1:0", "10.8.0.1"),
        ("neuro", "10.9.2.1:0", "192.0.2.7"),
        ("cardio", "10.9.1.1:0", "198.51.100.7"),
    ] {
        let actor = if study == "cardio" {
            &mut cardio
        } else {
            &mut neuro
        };
        assert_eq!(actor.tell(&format!("scan {from} {to} 50")), "50", "{to}");
    }
    let mut sums = std::collections::BTreeMap::new();
    let (mut from, mut other) = (None, 0);
    for _ in 0..2 {
        let flows = counted(&mut stage);
        if let Some(before) = from {
            assert_eq!(flows.from_boot_ns, before, "no time is left out");
        }
        from = Some(flows.to_boot_ns);
        other += flows.other_packets;
        for flow in flows.flows {
            let key = (flow.study, flow.jurisdiction, flow.direction);
            let (packets, bytes) = sums.entry(key).or_insert((0, 0));
            *packets += flow.packets;
            *bytes += flow.bytes;
        }
        cardio.send("10.9.1.1:0", "192.0.2.7:5000");
        std::thread::sleep(Duration::from_millis(1100));
    }
    let of = |study: &str, place: &str| {
        let key = (study.to_owned(), place.to_owned(), "egress".to_owned());
        sums.get(&key).copied()
    };
    assert_eq!(of("cardio", "DE"), Some((53, 53 * LENGTH)), "{sums:?}");
    assert_eq!(
        of("cardio", "reserved"),
        Some((50, 50 * LENGTH)),
        "{sums:?}"
    );
    assert_eq!(of("neuro", "DE"), Some((50, 50 * LENGTH)));
    assert_eq!(of("cardio", "US"), None, "it was denied");
    assert_eq!(other, 0);
}

#[test]
fn samples_tell_where_to_what_passed_went() {
    let mut stage = Stage::with("sample", |section| section.sample = 1);
    let mut cardio = stage.inside(STUDY);
    drop(stage.fence.drain_events());
    cardio.tell("scan 10.9.1.1:0 192.0.2.7 20");
    let (events, _) = stage.fence.drain_events();
    let told = events.iter().filter(|event| event.verdict == "allow");
    assert_eq!(
        sum(told.clone()),
        (20, 20 * LENGTH),
        "every one, where one in one is asked"
    );
    for event in told {
        assert_eq!((event.sampled, event.study.as_str()), (1, "cardio"));
        assert_eq!(event.destination, [192, 0, 2, 7]);
        assert_eq!(
            (event.jurisdiction.as_str(), event.rule.as_str()),
            ("DE", "jurisdiction")
        );
        assert_eq!(event.uid, Some(0), "the socket's user");
    }
    assert_eq!(denied(&events).count(), 0);
}
