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
mod tests;
