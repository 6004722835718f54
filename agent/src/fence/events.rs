//! What the kernel reports, in words.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    os::fd::AsFd,
};

use aya::maps::{MapData, RingBuf};
use bailiwick_attestation::proto::v1::FenceEvent;
use bailiwick_ebpf_common::{
    Jurisdiction,
    abi::{Event, counter, direction, hook, rule_name},
    device::DeviceEvent,
};
use bailiwick_policy::world::Codes;

use super::{admit, devices::denial, load::Maps, place::Hierarchy};
use crate::{clock, sys::bpf};

/// Most events taken at once: more than the ring holds.
const BATCH: usize = 8192;

/// Most paths remembered. An id is never given to another cgroup, so that none grows old.
const PATHS: usize = 1024;

/// Policies whose names are remembered: events of the last one may still be in the ring.
const NAMES: usize = 2;

/// What the numbers of one policy's events mean.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) generation: u64,
    /// By subject number; `None` for a host service.
    pub(super) studies: Vec<Option<String>>,
    pub(super) codes: Codes,
}

/// The reading end of the ring buffer.
pub(super) struct Events {
    ring: RingBuf<MapData>,
    names: VecDeque<Names>,
    paths: HashMap<u64, String>,
    /// The kernel's count of events that found no room, when it was last told.
    lost: u64,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Events");
        shown.field("names", &self.names).field("lost", &self.lost);
        shown.finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>, maps: &Maps) -> Self {
        Self {
            ring,
            names: VecDeque::new(),
            paths: HashMap::new(),
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

    /// Events since the last call, and how many found the ring full.
    pub(super) fn drain(&mut self, maps: &Maps, hierarchy: &Hierarchy) -> (Vec<FenceEvent>, u64) {
        let now = (clock::now().millis(), clock::boot_time_ns());
        let mut raw = Vec::new();
        while raw.len() < BATCH
            && let Some(item) = self.ring.next()
        {
            // Records of another length are not ours, and nothing writes them.
            raw.extend(Event::from_bytes(&item));
        }
        let events = raw
            .iter()
            .map(|event| {
                let path = self.path_of(hierarchy, event.cgroup);
                in_words(event, &self.names, path, now)
            })
            .collect();
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
            let study = study(event.generation, event.subject, &self.names);
            let age_ms = boot_ns.saturating_sub(event.boot_ns) / 1_000_000;
            events.push(FenceEvent {
                study: study.unwrap_or_default(),
                cgroup: self.path_of(hierarchy, event.cgroup),
                wall_time_ms: wall_ms.saturating_sub(age_ms),
                ..denial(event)
            });
        }
        events
    }

    fn path_of(&mut self, hierarchy: &Hierarchy, id: u64) -> String {
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
pub(super) fn hold_back(events: &mut [FenceEvent], held_back: &BTreeMap<u64, String>) {
    for event in events {
        if event.study.is_empty()
            && let Some(study) = held_back.get(&event.cgroup_id)
        {
            study.clone_into(&mut event.study);
            admit::RULE.clone_into(&mut event.rule);
        }
    }
}

fn lost(maps: &Maps) -> Option<u64> {
    bpf::sum_per_cpu(maps.counters.as_fd(), counter::EVENTS_LOST).ok()
}

/// The study of a number that a policy of this generation gave.
fn study(generation: u64, subject: u32, names: &VecDeque<Names>) -> Option<String> {
    let names = names.iter().find(|names| names.generation == generation)?;
    names.studies.get(usize::try_from(subject).ok()?)?.clone()
}

fn in_words(
    event: &Event,
    names: &VecDeque<Names>,
    cgroup: String,
    (wall_ms, boot_ns): (u64, u64),
) -> FenceEvent {
    let study = study(event.generation, event.subject, names);
    let names = names
        .iter()
        .find(|names| names.generation == event.generation);
    let age_ms = boot_ns.saturating_sub(event.boot_ns) / 1_000_000;
    let jurisdiction = (event.jurisdiction != 0)
        .then(|| names.map(|names| names.codes.name(Jurisdiction(event.jurisdiction))))
        .flatten();
    let way = match event.direction {
        direction::EGRESS => "egress",
        _ => "ingress",
    };
    FenceEvent {
        boot_time_ns: event.boot_ns,
        wall_time_ms: wall_ms.saturating_sub(age_ms),
        study: study.unwrap_or_default(),
        cgroup_id: event.cgroup,
        cgroup,
        direction: way.to_owned(),
        source: address(event.source),
        destination: address(event.destination),
        protocol: event.protocol.into(),
        source_port: event.source_port.into(),
        destination_port: event.destination_port.into(),
        jurisdiction: jurisdiction.unwrap_or_default().to_owned(),
        rule: rule_name(event.rule).to_owned(),
        verdict: if event.audit == 1 { "audit" } else { "deny" }.to_owned(),
        hook: hook::name(event.hook).to_owned(),
        count: event.count,
        ..FenceEvent::default()
    }
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
        hold_back(&mut events, &[(7, "cardio".to_owned())].into());
        let said = events.map(|event| (event.study, event.rule));
        let said: Vec<(&str, &str)> = said.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let want = [
            ("cardio", "policy-expired"),
            ("", "no-subject"),
            ("neuro", "no-subject"),
        ];
        assert_eq!(said, want);
    }

    #[test]
    fn numbers_become_words_of_the_policy_that_judged() {
        let names = VecDeque::from([
            Names {
                generation: 2,
                studies: vec![Some("cardio".to_owned()), None],
                codes: Codes::default(),
            },
            Names {
                generation: 1,
                studies: vec![Some("neuro".to_owned())],
                codes: Codes::default(),
            },
        ]);
        let event = Event {
            boot_ns: 7_000_000_000,
            generation: 2,
            cgroup: 9,
            subject: 0,
            direction: direction::EGRESS,
            hook: hook::SKB_EGRESS,
            rule: 1,
            count: 3,
            source: std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets(),
            destination: std::net::Ipv6Addr::LOCALHOST.octets(),
            ..Event::default()
        };
        let say = |event: &Event| in_words(event, &names, "/a".to_owned(), (50_000, 9_000_000_000));
        let said = say(&event);
        assert_eq!(said.study, "cardio");
        assert_eq!(said.wall_time_ms, 48_000);
        assert_eq!(
            (said.direction.as_str(), said.hook.as_str()),
            ("egress", "cgroup_skb/egress")
        );
        assert_eq!((said.source.len(), said.destination.len()), (4, 16));
        assert_eq!(
            (said.rule.as_str(), said.verdict.as_str()),
            ("no-policy", "deny")
        );
        let cases = [
            (
                "older policy",
                Event {
                    generation: 1,
                    ..event
                },
                "neuro",
            ),
            (
                "forgotten policy",
                Event {
                    generation: 0,
                    ..event
                },
                "",
            ),
            (
                "host service",
                Event {
                    subject: 1,
                    ..event
                },
                "",
            ),
            (
                "no subject",
                Event {
                    subject: u32::MAX,
                    ..event
                },
                "",
            ),
        ];
        for (name, event, study) in cases {
            assert_eq!(say(&event).study, study, "{name}");
        }
        let unread = say(&Event {
            source: [0; 16],
            audit: 1,
            rule: 200,
            direction: 2,
            hook: hook::SKB_INGRESS,
            ..event
        });
        assert!(unread.source.is_empty());
        assert_eq!(
            (unread.verdict.as_str(), unread.rule.as_str()),
            ("audit", "unknown")
        );
        assert_eq!(unread.hook, "cgroup_skb/ingress");
    }
}
