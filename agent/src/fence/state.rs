//! The fence as the kernel has it now, read back each time: what root changed shows.

use std::{
    collections::{BTreeSet, HashMap},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use bailiwick_attestation::{
    Sha256Digest,
    proto::v1::{
        FenceState,
        fence_state::{Link, MapState, Mode, UnfencedPath},
    },
};
use bailiwick_ebpf_common::abi::{Config, RULE_NAMES, counter};

use super::{
    Fence, FenceError,
    devices::{self, Devices, Place},
    hook::Hook,
    image::{self, Image},
    lines::{self, Role},
    peers,
    pins::Kind,
    tables::Leased,
    watch::Watch,
};
use crate::{clock, fence_service::Enforcer as _, sys::bpf};

/// Ways past the hooks, and the device that opens each.
const DEVICES: [(&str, &str); 4] = [
    ("/dev/infiniband", "RDMA: /dev/infiniband"),
    ("/dev/vfio", "devices passed through: /dev/vfio"),
    ("/dev/vsock", "vsock: /dev/vsock"),
    (
        "/dev/net/tun",
        "frames written to a tap or tun device: /dev/net/tun",
    ),
];

/// Most elements of a list in a statement.
const PARTS: usize = 256;

/// Open as long as nothing stands on the uplinks.
const WITHOUT_UPLINKS: [&str; 2] = [
    "frames of AF_PACKET sockets",
    "forwarded traffic, which has no socket on this host",
];

/// Open on every host, and to studies only where no BPF LSM is asked.
const ALWAYS: [&str; 1] = ["frames of AF_XDP sockets"];

impl Fence {
    /// Reads everything back.
    pub(super) fn read_back(&mut self) -> FenceState {
        let mut faults = Vec::new();
        let mut links = Vec::new();
        let mut attached = true;
        if !self.root.stands() {
            attached = false;
            faults.push(format!("cgroup {} is gone", self.root.path.display()));
        }
        for hook in &self.hooks {
            match self.link(hook, &mut faults) {
                Ok(Some(link)) => links.push(link),
                Ok(None) => attached = false,
                Err(err) => {
                    attached = false;
                    faults.push(say(err));
                }
            }
        }
        let mut maps = vec![map("CONFIG", &self.maps.config, Some(self.config_digest()))];
        let policy = self.policy.as_ref();
        let world = self.inner(
            "WORLD",
            &self.maps.world,
            policy.map(|p| &p.world),
            &mut faults,
        );
        let rules = self.inner(
            "POLICY",
            &self.maps.policy,
            policy.map(|p| &p.rules),
            &mut faults,
        );
        let (table, ours) = self.devices.table();
        let table = self.inner("DEVICES", table, ours, &mut faults);
        let none = Vec::new();
        let names = policy.map_or(&none, |policy| &policy.devices);
        let (devices, all_seen) = self.devices.held(names);
        let (unfenced, unfenced_unseen) = self.unfenced();
        let denying = rules.is_none();
        maps.extend(world);
        maps.extend(rules);
        maps.extend(table);
        maps.push(map("LEASE", &self.maps.lease, None));
        faults.extend(self.unfit());
        faults.extend(self.trouble.clone());
        faults.extend(self.lsm_trouble.clone());
        faults.extend(self.lines_trouble.clone());
        faults.extend(self.peers_trouble.clone());
        let generation = policy.map(|policy| policy.image.header.generation);
        let peers_live = generation.map_or(0, |generation| {
            peers::live(&self.maps.peers, generation, clock::boot_time_ns()).unwrap_or_else(|err| {
                faults.push(say(err));
                0
            })
        });
        let lines = match &mut self.lines {
            Some(lines) => lines.read_back(&mut faults),
            None => Vec::new(),
        };
        let mode = match (attached, denying) {
            (false, _) => Mode::Absent,
            (true, true) => Mode::DefaultDeny,
            (true, false) => Mode::Enforcing,
        };
        FenceState {
            mode: mode.into(),
            root: self.root.path.display().to_string(),
            whole_host: self.root.whole_host,
            links,
            maps,
            lease_end_boot_ns: Leased::read(&self.maps).map_or_else(
                |err| {
                    faults.push(say(err));
                    0
                },
                |lease| lease.end_boot_ns,
            ),
            counters: self.counters(),
            fault: (!faults.is_empty()).then(|| faults.join("; ")),
            unfenced_paths: self.unfenced_paths(),
            peers_live,
            log_fault: self.recorder.fault(),
            object_digest: self.object.0.to_vec(),
            unfenced,
            unfenced_unseen,
            devices_unseen: !all_seen || devices.len() > PARTS,
            devices: devices.into_iter().take(PARTS).collect(),
            devices_unmet: policy.map_or_else(Vec::new, |policy| {
                policy.unmet.iter().take(PARTS).cloned().collect()
            }),
            selectors_unmet: policy.map_or_else(Vec::new, |policy| {
                let selected = policy.selectors.iter().filter(|selected| !selected.met);
                let unmet = selected.map(|it| format!("{}: {}", it.name, it.selector));
                unmet.take(PARTS).collect()
            }),
            lines_absent: lines::absent(self.lines.as_ref(), &lines),
            lines,
            line_changes: self.changed.kept(),
            world: policy.map(|policy| policy.origin.said(clock::now())),
            ..FenceState::default()
        }
    }

    fn link(&self, hook: &Hook, faults: &mut Vec<String>) -> Result<Option<Link>, FenceError> {
        let name = hook.names.hook;
        let info = hook.read_back()?;
        if info.cgroup != self.root.id {
            faults.push(match info.cgroup {
                0 => format!("{name} is detached"),
                other => format!("{name} is attached to cgroup {other}"),
            });
            return Ok(None);
        }
        if info.id != hook.id || info.attach != hook.names.attach.number() {
            faults.push(format!("{name} is another link"));
        }
        let mut tag = hook.program.tag.to_vec();
        if info.program != hook.program.id {
            faults.push(format!("{name} runs program {}, not ours", info.program));
            tag.clear();
        }
        if !self.pins.holds(Kind::Link, hook.names.pin) {
            faults.push(format!("{name} is not pinned any more"));
        }
        if !self.root.stands() {
            return Ok(None);
        }
        let attached = bpf::attached(self.root.as_fd(), hook.names.attach)
            .map_err(FenceError::kernel("list programs of", hook.names.pin))?;
        // The kernel lists all that answers any question of this kind.
        let of_ours = |id: u32| {
            let mut ours = self.hooks.iter();
            ours.any(|one| one.names.attach == hook.names.attach && one.program.id == id)
        };
        let others: Vec<String> = attached
            .iter()
            .filter(|id| **id != info.program && !of_ours(**id))
            .map(u32::to_string)
            .collect();
        if !others.is_empty() {
            // They cannot open what ours closes; who put them there is worth a question.
            faults.push(format!("{name} has other programs: {}", others.join(", ")));
        }
        Ok(Some(Link {
            hook: name.to_owned(),
            link_id: info.id,
            program_id: info.program,
            program_tag: tag,
            target: self.root.path.display().to_string(),
        }))
    }

    /// The inner map in force, held against the one put there.
    fn inner(
        &self,
        name: &'static str,
        outer: &OwnedFd,
        ours: Option<&Image>,
        faults: &mut Vec<String>,
    ) -> Option<MapState> {
        let found = image::in_force(outer, name).unwrap_or_else(|err| {
            faults.push(say(err));
            None
        });
        if found != ours.map(|image| image.id) {
            faults.push(match (found, ours) {
                (Some(id), _) => {
                    format!("{name} holds map {id}, which this process did not put there")
                }
                (None, _) => format!("{name} is empty"),
            });
        }
        let map_id = found?;
        let ours = ours.filter(|image| image.id == map_id);
        Some(MapState {
            name: name.to_owned(),
            map_id,
            digest: ours.map_or_else(Vec::new, |image| image.digest.0.to_vec()),
        })
    }

    fn config_digest(&self) -> Sha256Digest {
        let mut config = [0; size_of::<Config>()];
        match bpf::lookup(self.maps.config.as_fd(), 0, &mut config) {
            Ok(()) => Sha256Digest::of(&[&config]),
            Err(_) => Sha256Digest::of(&[]),
        }
    }

    fn counters(&self) -> HashMap<String, u64> {
        let plain = counter::NAMES.iter().zip(0_u32..);
        let plain = plain.map(|(name, index)| ((*name).to_owned(), index));
        let rules = RULE_NAMES.iter().map(|(rule, name)| {
            let index = counter::RULES.saturating_add(rule.number().into());
            (format!("rule.{name}"), index)
        });
        let of_kernel = plain.chain(rules).filter_map(|(name, index)| {
            let sum = bpf::sum_per_cpu(self.maps.counters.as_fd(), index).ok()?;
            Some((name, sum))
        });
        let early = bpf::sum_per_cpu(self.maps.counters.as_fd(), counter::EARLY_DENIED)
            .ok()
            .map(|sum| ("early.denied".to_owned(), sum));
        let selectors = self.policy.iter().flat_map(|policy| &policy.selectors);
        let unmet = selectors.filter(|selected| !selected.met).count();
        of_kernel
            .chain(Devices::counters(&self.maps.counters))
            .chain(early)
            .chain([
                ("links.mended".to_owned(), self.changed.links),
                ("tables.mended".to_owned(), self.changed.tables),
                (
                    "cgroups.held-back".to_owned(),
                    number(self.policy.as_ref().map_or(0, |p| p.held_back.len())),
                ),
                // Where cgroups that appear are found by polling alone.
                (
                    "cgroups.polled".to_owned(),
                    number(self.watch.as_ref().map_or(1, Watch::polled)),
                ),
                // A study that is not running, or a name that is not spelt as the cgroup is.
                (
                    "selectors.unmatched".to_owned(),
                    u64::try_from(unmet).unwrap_or(u64::MAX),
                ),
            ])
            .collect()
    }

    /// Ways past the hooks as the last look found them, and whether it could not see them all.
    fn unfenced(&self) -> (Vec<UnfencedPath>, bool) {
        let holds = |cgroups: &[String]| {
            let names = cgroups.iter().map(|cgroup| self.subject_of(cgroup));
            let names: BTreeSet<String> = names.collect();
            names.into_iter().collect()
        };
        let ways = self.inventory.ways.iter().map(|way| UnfencedPath {
            kind: way.kind.to_owned(),
            name: way.name.clone(),
            held_by: holds(&way.holders),
        });
        (ways.collect(), self.inventory.partial)
    }

    /// The study or host service that a cgroup is of; empty for neither.
    fn subject_of(&self, cgroup: &str) -> String {
        let Some(policy) = &self.policy else {
            return String::new();
        };
        let place = Place {
            hierarchy: &self.hierarchy,
            root: &self.root,
        };
        let subject = devices::subject_of(&policy.image, place, cgroup);
        let named = subject.and_then(|it| policy.devices.get(usize::try_from(it).ok()?));
        named.map_or_else(String::new, |named| named.subject.clone())
    }

    fn unfenced_paths(&self) -> Vec<String> {
        let outside = (!self.root.whole_host).then(|| {
            format!(
                "subtree only: whatever runs outside {}",
                self.root.path.display()
            )
        });
        let second = self
            .lines
            .as_ref()
            .is_some_and(|lines| lines.has(Role::Uplink));
        let kernel = self
            .lsm_absent
            .as_ref()
            .map(|why| format!("vsock, bpf(2) and modules: {why}"));
        let without = WITHOUT_UPLINKS.into_iter().filter(|_| !second);
        let devices = DEVICES
            .iter()
            .filter(|(device, _)| Path::new(device).exists())
            .map(|(_, way)| (*way).to_owned());
        outside
            .into_iter()
            .chain(ALWAYS.map(str::to_owned))
            .chain(kernel)
            .chain(without.map(str::to_owned))
            .chain(devices)
            .collect()
    }
}

fn map(name: &str, fd: &OwnedFd, digest: Option<Sha256Digest>) -> MapState {
    MapState {
        name: name.to_owned(),
        map_id: bpf::map_info(fd.as_fd()).map_or(0, |info| info.id),
        digest: digest.map_or_else(Vec::new, |digest| digest.0.to_vec()),
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn say(err: FenceError) -> String {
    format!("{:#}", anyhow::Error::from(err))
}
