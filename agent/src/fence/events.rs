//! What the kernel has counted, in words.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    os::fd::AsFd,
    time::Duration,
};

use bailiwick_attestation::{
    events::MAX_FLOWS,
    proto::v1::{FenceEvent, FlowsCounted, flows_counted::Flow},
};
use bailiwick_ebpf_common::{
    Jurisdiction,
    abi::{counter, direction, hook, rule_name},
    device::DeviceEvent,
    tally::{NO_UID, action},
};
use bailiwick_policy::world::Codes;
use tracing::warn;

use super::{
    admit,
    devices::denial,
    load::Maps,
    place::Hierarchy,
    process::executable,
    taken::{self, Counted},
    tally::{Budget, Told},
};
use crate::{clock, sys::bpf};

/// Most paths remembered. An id is never given to another cgroup, so that none grows old.
const PATHS: usize = 1024;

/// Policies whose names are remembered: what was counted under the last ones may not be told yet.
const NAMES: usize = 16;

/// Where nothing passes, that is told so seldom, in reports of [`Events::every`].
const QUIET: u32 = 10;

/// What the numbers of one policy's events mean.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) generation: u64,
    /// By subject number; `None` for a host service.
    pub(super) studies: Vec<Option<String>>,
    pub(super) codes: Codes,
}

impl Names {
    /// Empty where it is none: a host service, the kernel, nobody.
    fn study(&self, subject: u32) -> &str {
        let subject = usize::try_from(subject).unwrap_or(usize::MAX);
        let study = self.studies.get(subject).and_then(Option::as_deref);
        study.unwrap_or_default()
    }
}

/// How often what passed is told, and how much of it one by one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counting {
    pub(super) every: Duration,
    /// One in so many packets; 0: none.
    pub(super) sample: u32,
}

/// Whoever reads what programs count.
#[derive(Debug)]
pub(super) struct Events {
    names: VecDeque<Names>,
    paths: HashMap<u64, String>,
    budget: Budget,
    counting: Counting,
    /// The kernel's count of denials that found no table, when it was last told.
    lost: u64,
}

impl Events {
    pub(super) fn new(maps: &Maps, counting: Counting) -> Self {
        Self {
            names: VecDeque::new(),
            paths: HashMap::new(),
            budget: Budget::default(),
            counting,
            lost: lost(maps).unwrap_or(0),
        }
    }

    /// From now on events may bear this generation.
    pub(super) fn learn(&mut self, names: Names) {
        self.names
            .retain(|known| known.generation != names.generation);
        self.names.push_front(names);
        self.names.truncate(NAMES);
    }

    /// Events since the last call, and denials that nothing tells of but the counters.
    pub(super) fn drain(&mut self, maps: &Maps, hierarchy: &Hierarchy) -> (Vec<FenceEvent>, u64) {
        let mut events = Vec::new();
        match taken::denied(maps) {
            Ok(denied) => {
                let now = (clock::now().millis(), clock::boot_time_ns());
                for told in self.budget.fold(denied.flows, denied.others, now.1) {
                    let path = self.path_of(hierarchy, told.key.cgroup);
                    events.push(in_words(
                        &told,
                        &self.names,
                        path,
                        self.counting.sample,
                        now,
                    ));
                }
            }
            Err(why) => warn!(%why, "denials stay in the kernel"),
        }
        match self.due(maps) {
            Ok(None) => {}
            Ok(Some(counted)) => {
                let now = (clock::now().millis(), clock::boot_time_ns());
                events.extend(flows_in_words(&counted, &self.names, now));
            }
            Err(why) => warn!(%why, "what passed stays in the kernel"),
        }
        let total = lost(maps).unwrap_or(self.lost);
        let newly = total.saturating_sub(self.lost);
        self.lost = total;
        (events, newly)
    }

    /// Denials of devices, in the words of all events.
    pub(super) fn of_devices(
        &mut self,
        denied: &[DeviceEvent],
        hierarchy: &Hierarchy,
    ) -> Vec<FenceEvent> {
        let (wall_ms, boot_ns) = (clock::now().millis(), clock::boot_time_ns());
        let mut events = Vec::with_capacity(denied.len());
        for event in denied {
            let mut names = self.names.iter();
            let names = names.find(|names| names.generation == event.generation);
            let study = names.map_or("", |names| names.study(event.subject));
            let age_ms = boot_ns.saturating_sub(event.boot_ns) / 1_000_000;
            events.push(FenceEvent {
                study: study.to_owned(),
                cgroup: self.path_of(hierarchy, event.cgroup),
                wall_time_ms: wall_ms.saturating_sub(age_ms),
                uid: (event.uid != NO_UID).then_some(event.uid),
                pid: (event.pid != 0).then_some(event.pid),
                command: command(&event.comm),
                executable: executable(event.pid, event.boot_ns),
                ..denial(event)
            });
        }
        events
    }

    /// What passed, when it is time to tell.
    fn due(&self, maps: &Maps) -> Result<Option<Counted>, super::FenceError> {
        let Some((since, some)) = taken::passing(maps)? else {
            return Ok(None);
        };
        let age = Duration::from_nanos(clock::boot_time_ns().saturating_sub(since));
        let every = self.counting.every;
        if age < if some { every } else { every * QUIET } {
            return Ok(None);
        }
        taken::passed(maps)
    }

    fn path_of(&mut self, hierarchy: &Hierarchy, id: u64) -> String {
        if id == 0 {
            return String::new();
        }
        if let Some(path) = self.paths.get(&id) {
            return path.clone();
        }
        // A cgroup that is gone has no path any more; its id stands in the event.
        let path = hierarchy.path_of(id).unwrap_or_default();
        if self.paths.len() >= PATHS {
            self.paths.clear();
        }
        self.paths.insert(id, path.clone());
        path
    }
}

/// Names the reason, and the study, where a cgroup is nobody's only because a policy has expired.
pub(super) fn hold_back(events: &mut [FenceEvent], held_back: &admit::HeldBack) {
    for event in events {
        if event.study.is_empty()
            && let Some(back) = held_back.get(&event.cgroup_id)
        {
            back.study.clone_into(&mut event.study);
            back.rule.clone_into(&mut event.rule);
        }
    }
}

fn lost(maps: &Maps) -> Option<u64> {
    bpf::sum_per_cpu(maps.counters.as_fd(), counter::EVENTS_LOST).ok()
}

fn in_words(
    told: &Told,
    names: &VecDeque<Names>,
    cgroup: String,
    sample: u32,
    (wall_ms, boot_ns): (u64, u64),
) -> FenceEvent {
    let Told { key, tally, others } = told;
    let names = names
        .iter()
        .find(|names| names.generation == key.generation());
    let study = names.map(|names| names.study(key.subject()));
    let age_ms = boot_ns.saturating_sub(tally.first_ns) / 1_000_000;
    let jurisdiction = (key.jurisdiction != 0)
        .then(|| names.map(|names| names.codes.name(Jurisdiction(key.jurisdiction))))
        .flatten();
    let pid = (tally.pid != 0).then_some(tally.pid);
    let (far, near) = ((key.far, key.port), (tally.near, tally.near_port));
    let [(source, source_port), (destination, destination_port)] =
        if key.direction == direction::INGRESS {
            [far, near]
        } else {
            [near, far]
        };
    FenceEvent {
        boot_time_ns: tally.first_ns,
        wall_time_ms: wall_ms.saturating_sub(age_ms),
        study: study.unwrap_or_default().to_owned(),
        cgroup_id: key.cgroup,
        cgroup,
        direction: way(key.direction).to_owned(),
        source: address(source),
        destination: address(destination),
        protocol: key.protocol.into(),
        source_port: source_port.into(),
        destination_port: destination_port.into(),
        jurisdiction: jurisdiction.unwrap_or_default().to_owned(),
        rule: rule_name(key.rule).to_owned(),
        verdict: match key.action {
            action::SAMPLED => "allow",
            action::AUDITED => "audit",
            _ => "deny",
        }
        .to_owned(),
        hook: hook::name(key.hook).to_owned(),
        count: tally.count,
        bytes: tally.bytes,
        until_boot_ns: tally.last_ns,
        sampled: if key.action == action::SAMPLED {
            sample.max(1)
        } else {
            0
        },
        others: *others,
        uid: (key.uid != NO_UID).then_some(key.uid),
        pid,
        command: command(&tally.command),
        executable: pid.map_or_else(String::new, |pid| executable(pid, tally.first_ns)),
        ..FenceEvent::default()
    }
}

/// One event, or more where there is much to tell.
fn flows_in_words(
    counted: &Counted,
    names: &VecDeque<Names>,
    (wall_ms, boot_ns): (u64, u64),
) -> Vec<FenceEvent> {
    let wall = |at_ns: u64| wall_ms.saturating_sub(boot_ns.saturating_sub(at_ns) / 1_000_000);
    let mut others = counted.others;
    // Of two policies' numbers for one study the names are the same.
    let mut sums: BTreeMap<[&str; 3], (u64, u64)> = BTreeMap::new();
    for (key, passed) in &counted.flows {
        let generation = key.who >> 32;
        let [.., a, b, c, d] = key.who.to_be_bytes();
        let subject = u32::from_be_bytes([a, b, c, d]);
        let Some(names) = names.iter().find(|names| names.generation == generation) else {
            others.packets = others.packets.saturating_add(passed.packets);
            others.bytes = others.bytes.saturating_add(passed.bytes);
            continue;
        };
        let study = names.study(subject);
        let place = names.codes.name(Jurisdiction(key.jurisdiction));
        let (packets, bytes) = sums.entry([study, place, way(key.direction)]).or_default();
        *packets = packets.saturating_add(passed.packets);
        *bytes = bytes.saturating_add(passed.bytes);
    }
    let flows: Vec<Flow> = sums
        .into_iter()
        .map(
            |([study, jurisdiction, direction], (packets, bytes))| Flow {
                study: study.to_owned(),
                jurisdiction: jurisdiction.to_owned(),
                direction: direction.to_owned(),
                packets,
                bytes,
            },
        )
        .collect();
    let mut parts: Vec<FlowsCounted> = flows
        .chunks(MAX_FLOWS)
        .map(|flows| FlowsCounted {
            flows: flows.to_vec(),
            more: true,
            ..FlowsCounted::default()
        })
        .collect();
    if parts.is_empty() {
        parts.push(FlowsCounted::default());
    }
    if let Some(last) = parts.last_mut() {
        last.more = false;
        last.other_packets = others.packets;
        last.other_bytes = others.bytes;
    }
    let (from_ms, to_ms) = (wall(counted.since_ns), wall(counted.until_ns));
    parts
        .into_iter()
        .map(|part| FenceEvent {
            boot_time_ns: counted.until_ns,
            wall_time_ms: to_ms,
            flows: Some(FlowsCounted {
                from_boot_ns: counted.since_ns,
                to_boot_ns: counted.until_ns,
                from_ms,
                to_ms,
                ..part
            }),
            ..FenceEvent::default()
        })
        .collect()
}

const fn way(number: u8) -> &'static str {
    match number {
        direction::EGRESS => "egress",
        _ => "ingress",
    }
}

/// The kernel's name of a task, which the task chooses: bounded by its length, and not always text.
fn command(bytes: &[u8; 16]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    let name = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// 4 bytes for an IPv4 address, 16 for others, none where the header was not read.
fn address(bytes: [u8; 16]) -> Vec<u8> {
    match std::net::Ipv6Addr::from(bytes).to_ipv4_mapped() {
        Some(v4) => v4.octets().to_vec(),
        None if bytes == [0; 16] => Vec::new(),
        None => bytes.to_vec(),
    }
}

#[cfg(test)]
mod tests {
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
}
