//! Devices: which numbers are governed on this host, who has which unit, who holds what.
//!
//! The kernel judges every open by itself. What it cannot do is done here: follow drivers that come
//! and go, find out whether a unit is free again, and say (or stop) who holds what they may not.
//!
//! | module | holds |
//! |---|---|
//! | `numbers` | drivers and GPUs of this host, from /proc and /sys |
//! | `scan` | every descriptor of every process |
//! | `owners` | when a unit changes hands, as a decision |
//! | `stop` | freezing and killing by cgroup |
//! | `words` | denials and holders, in words |

mod numbers;
mod owners;
mod scan;
mod stop;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use bailiwick_attestation::proto::v1::FenceEvent;
use bailiwick_ebpf_common::{
    Plain, PolicyImage,
    device::{
        self, Device, DeviceEvent, DeviceSubject, HostDevices, Opener, Owner, PARTS, Reason,
        Settled, class, state,
    },
    policy::kind,
};
use bailiwick_policy::{
    image::{DeviceNames, HostNumbers, Unmet, owner_id, set_devices},
    model::devices::OnFailure,
};
use tracing::{error, info, warn};

pub(crate) use self::scan::{cgroup as cgroup_of, processes};
pub(super) use self::words::denial;
use self::{
    owners::{Act, Holders, Unit},
    scan::Scan,
    stop::Stopped,
};
use super::{FenceError, image::Image, place::Hierarchy, place::Root};
use crate::{
    clock,
    sys::{bpf, hash},
};

/// A look is taken so often while a study has a unit, and so often while none has.
const EVERY: Duration = Duration::from_secs(2);
const EVERY_IDLE: Duration = Duration::from_secs(30);
/// A look may take one part in so many of the time.
const SHARE: u32 = 20;
/// Most denials taken at once: more than the ring holds.
const BATCH: usize = 4096;

/// The maps this works on.
#[derive(Debug)]
pub(super) struct DeviceMaps {
    /// The table of governed numbers, behind one more map.
    pub(super) table: OwnedFd,
    pub(super) owners: OwnedFd,
    pub(super) opened: OwnedFd,
}

/// Governs the devices of this host.
pub(super) struct Devices {
    /// Root of /proc and /sys, as far as they tell of drivers.
    drivers: PathBuf,
    /// Nobody has a unit that nobody has opened for so long.
    idle_ns: u64,
    maps: DeviceMaps,
    ring: RingBuf<MapData>,
    host: HostNumbers,
    /// All GPUs of this node have proven themselves, as the lease in force says.
    proven: bool,
    table: Box<HostDevices>,
    image: Option<Image>,
    scan: Scan,
    next_scan_ns: u64,
    /// Units that are closed, and since when.
    closed: BTreeMap<u32, u64>,
    /// What the last look found, judged.
    held: BTreeMap<Device, BTreeMap<Holding, u32>>,
    stopped: Stopped,
    /// Acts that are told as events.
    acts: Vec<FenceEvent>,
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Devices");
        shown.field("host", &self.host).field("held", &self.held);
        shown.finish_non_exhaustive()
    }
}

/// Who holds a device, and what would be said if they opened it now.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Holding {
    /// Number of the subject.
    subject: Option<u32>,
    reason: &'static str,
}

/// The policy in force, as far as devices go.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) image: &'a PolicyImage,
    pub(super) names: &'a [DeviceNames],
    /// Cgroup and subject, ascending.
    pub(super) cgroups: &'a [(u64, u32)],
    pub(super) lease_end_ns: u64,
}

/// Where cgroups are.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) hierarchy: &'a Hierarchy,
    pub(super) root: &'a Root,
}

impl Devices {
    /// Reads what this host has, and tells the kernel.
    pub(super) fn open(
        maps: DeviceMaps,
        ring: RingBuf<MapData>,
        drivers: &Path,
        idle: Duration,
    ) -> Result<Self, FenceError> {
        let host = numbers::read(drivers);
        let mut devices = Self {
            drivers: drivers.to_owned(),
            idle_ns: u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX),
            maps,
            ring,
            table: host.table(),
            host,
            proven: false,
            image: None,
            scan: Scan::default(),
            next_scan_ns: 0,
            closed: BTreeMap::new(),
            held: BTreeMap::new(),
            stopped: Stopped::default(),
            acts: Vec::new(),
        };
        devices.enforce()?;
        Ok(devices)
    }

    /// Puts the numbers of this host into an image. Says, and returns, what is not there.
    pub(super) fn fill(&self, image: &mut PolicyImage, names: &[DeviceNames]) -> Vec<Unmet> {
        let names: Vec<DeviceNames> = names.iter().map(|one| one.under(self.proven)).collect();
        let unmet = set_devices(image, &names, &self.host);
        for Unmet {
            subject,
            name,
            place,
            no_room,
        } in &unmet
        {
            if *no_room {
                error!(%subject, device = %name, %place, "no room for this device: it is denied");
            } else {
                warn!(%subject, device = %name, %place, "this host has no such device");
            }
        }
        unmet
    }

    /// All GPUs of this node have proven themselves.
    pub(super) const fn proven(&self) -> bool {
        self.proven
    }

    /// Takes what the lease says of it. True: the image of the policy has to be filled anew.
    pub(super) fn prove(&mut self, proven: bool) -> bool {
        let changed = std::mem::replace(&mut self.proven, proven) != proven;
        if changed {
            // Whoever holds one is looked for at once.
            self.next_scan_ns = 0;
        }
        changed
    }

    /// Looks whether drivers came or went. True: the image of the policy has to be filled anew.
    pub(super) fn follow(&mut self) -> Result<bool, FenceError> {
        let found = numbers::read(&self.drivers);
        if found == self.host {
            return Ok(false);
        }
        let before = std::mem::replace(&mut self.host, found);
        self.table = self.host.table();
        if let Err(err) = self.enforce() {
            self.host = before;
            self.table = self.host.table();
            return Err(err);
        }
        info!(gpus = self.host.gpus.len(), "drivers have changed");
        Ok(true)
    }

    fn enforce(&mut self) -> Result<(), FenceError> {
        let image = Image::new("DEVICES", self.table.bytes())?;
        image.enforce(&self.maps.table, "DEVICES")?;
        self.image = Some(image);
        Ok(())
    }

    /// Id and digest of the table in force, held against the kernel's.
    pub(super) const fn table(&self) -> (&OwnedFd, Option<&Image>) {
        (&self.maps.table, self.image.as_ref())
    }

    /// Looks who holds what, when it is time, and does what follows.
    pub(super) fn tend(
        &mut self,
        rules: Option<Rules<'_>>,
        place: Place<'_>,
    ) -> Result<(), FenceError> {
        self.stopped.thaw();
        let now = clock::boot_time_ns();
        if now < self.next_scan_ns {
            return Ok(());
        }
        let owners = self.owners()?;
        if owners.is_empty() && !self.host.any() {
            // No driver of ours: there is nothing to hold.
            self.held.clear();
            self.scan = Scan::default();
            self.wait(now, EVERY_IDLE);
            return Ok(());
        }
        let table = &self.table;
        let wanted = |device| {
            let class = device::classify(Some(table), device);
            class != class::NONE && class != class::UNKNOWN
        };
        self.scan = scan::scan(Path::new("/proc"), now, wanted);
        let soon = if owners.is_empty() { EVERY_IDLE } else { EVERY };
        self.wait(now, soon.max(self.scan.took.saturating_mul(SHARE)));
        match rules {
            Some(rules) => self.judge(rules, place, &owners),
            // Whose a process is nobody says; what is held stays as it is.
            None => {
                let anybody = |holders: &Vec<scan::Holder>| {
                    let holding = Holding {
                        subject: None,
                        reason: Reason::NoPolicy.name(),
                    };
                    [(holding, count(holders.len()))].into()
                };
                let found = self.scan.holdings.iter();
                self.held = found.map(|(at, all)| (*at, anybody(all))).collect();
                Ok(())
            }
        }
    }

    fn wait(&mut self, now: u64, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.next_scan_ns = now.saturating_add(time);
    }

    fn owners(&self) -> Result<BTreeMap<u32, Owner>, FenceError> {
        let entries = hash::entries::<4, 16>(self.maps.owners.as_fd())
            .map_err(FenceError::kernel("read", "DEVICE_OWNERS"))?;
        let entry = |([a, b, c, d], value): ([u8; 4], [u8; 16])| {
            let mut owner = Owner::default();
            owner.bytes_mut().copy_from_slice(&value);
            (u32::from_ne_bytes([a, b, c, d]), owner)
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    fn opened(&self) -> Result<BTreeMap<u32, u64>, FenceError> {
        let entries = hash::entries::<4, 8>(self.maps.opened.as_fd())
            .map_err(FenceError::kernel("read", "DEVICE_OPENED"))?;
        let entry = |(unit, at)| (u32::from_ne_bytes(unit), u64::from_ne_bytes(at));
        Ok(entries.into_iter().map(entry).collect())
    }

    /// Judges every holder as if it opened the device now; gives units back; stops whom the policy
    /// says.
    fn judge(
        &mut self,
        rules: Rules<'_>,
        place: Place<'_>,
        owners: &BTreeMap<u32, Owner>,
    ) -> Result<(), FenceError> {
        let mut subjects = Subjects::new(rules, place);
        let mut held: BTreeMap<Device, BTreeMap<Holding, u32>> = BTreeMap::new();
        let mut holders: BTreeMap<u32, Holders> = BTreeMap::new();
        let mut stop: BTreeSet<(PathBuf, u32, Device)> = BTreeSet::new();
        for (device, all) in &self.scan.holdings {
            let class = device::classify(Some(&self.table), *device);
            for holder in all {
                let subject = subjects.of(&holder.cgroup);
                let opener = opener(rules, subject, *device, self.scan.began_ns);
                let answer = device::judge(class, &opener);
                let unit = opener
                    .granted
                    .map_or_else(|| self.unit_of(*device), |it| it.unit);
                let reason = match device::settle(answer.owner, owners.get(&unit)) {
                    Settled::Deny(reason)
                        if answer.reason == Reason::Granted && answer.unit != 0 =>
                    {
                        reason
                    }
                    _ => answer.reason,
                };
                if unit != 0 {
                    let of_unit = holders.entry(unit).or_default();
                    match (answer.reason, opener.kind) {
                        (Reason::Granted, kind::STUDY) => {
                            of_unit.studies.insert(answer.owner);
                        }
                        (Reason::Granted, _) => {}
                        _ => of_unit.others = true,
                    }
                }
                let holding = Holding {
                    subject,
                    reason: reason.name(),
                };
                let processes = held.entry(*device).or_default().entry(holding).or_default();
                *processes = processes.saturating_add(1);
                let stops = subject
                    .and_then(|subject| rules.names.get(usize::try_from(subject).ok()?))
                    .is_some_and(|names| {
                        names.study && names.devices.on_failure == OnFailure::Stop
                    });
                if stops
                    && !matches!(reason, Reason::Granted | Reason::ChangingHands)
                    && let Some(subject) = subject
                    && let Some(folder) = subjects.selected(&holder.cgroup, subject)
                {
                    stop.insert((folder, subject, *device));
                }
            }
        }
        self.held = held;
        // What a stranger may have been given is told, and holds nothing up: a unit is free when
        // no study has a descriptor.
        let studies_seen = !self.scan.cut
            && self.scan.unseen.iter().all(|cgroup| {
                let subject = subjects.of(cgroup).and_then(|it| rules.image.subject(it));
                subject.is_none_or(|subject| subject.kind != kind::STUDY)
            });
        self.change_hands(owners, &holders, studies_seen)?;
        for (folder, subject, device) in stop {
            self.stop(&folder, subject, device, rules);
        }
        Ok(())
    }

    /// The unit of a device that its holder was not granted: it is in use all the same.
    fn unit_of(&self, device: Device) -> u32 {
        let gpus = self.host.gpus.iter();
        let mut of_device = gpus.filter(|gpu| {
            gpu.display.contains(&device) || (device.major == 195 && device.minor == gpu.minor)
        });
        of_device
            .next()
            .map_or(0, |gpu| gpu.minor.saturating_add(1))
    }

    fn change_hands(
        &mut self,
        owners: &BTreeMap<u32, Owner>,
        holders: &BTreeMap<u32, Holders>,
        complete: bool,
    ) -> Result<(), FenceError> {
        let opened = self.opened()?;
        let began = self.scan.began_ns;
        self.closed.retain(|unit, _| owners.contains_key(unit));
        for unit in owners.keys().chain(holders.keys()).collect::<BTreeSet<_>>() {
            let owner = owners.get(unit).copied();
            let closed_ns = match owner {
                Some(owner) if owner.state != state::HELD => {
                    *self.closed.entry(*unit).or_insert(began)
                }
                _ => 0,
            };
            let known = Unit {
                owner,
                opened_ns: opened.get(unit).copied().unwrap_or(0),
                closed_ns,
                holders: holders.get(unit).cloned().unwrap_or_default(),
            };
            match owners::decide(&known, began, complete, self.idle_ns) {
                Act::Keep => {}
                Act::Close(id) => {
                    self.put(*unit, id, state::CLOSED)?;
                    self.closed.insert(*unit, clock::boot_time_ns());
                }
                Act::Reopen(id) => self.put(*unit, id, state::HELD)?,
                Act::Take(id) => self.put(*unit, id, state::HELD)?,
                Act::Free => {
                    hash::delete(self.maps.owners.as_fd(), &unit.to_ne_bytes())
                        .map_err(FenceError::kernel("write", "DEVICE_OWNERS"))?;
                    info!(unit, "a device is free again");
                }
            }
        }
        if !self.closed.is_empty() {
            // A unit is closed to everybody: no longer than it takes.
            self.next_scan_ns = began.saturating_add(owners::SETTLED_NS);
        }
        Ok(())
    }

    fn put(&self, unit: u32, id: u64, state: u64) -> Result<(), FenceError> {
        let owner = Owner { id, state };
        hash::put(self.maps.owners.as_fd(), &unit.to_ne_bytes(), owner.bytes())
            .map_err(FenceError::kernel("write", "DEVICE_OWNERS"))
    }

    fn stop(&mut self, folder: &Path, subject: u32, device: Device, rules: Rules<'_>) {
        let named = usize::try_from(subject)
            .ok()
            .and_then(|at| rules.names.get(at));
        let study = named.map_or("", |names| names.subject.as_str());
        let device = words::device(device::classify(Some(&self.table), device), device);
        match self.stopped.stop(folder) {
            Ok(()) => {
                error!(study, %device, cgroup = %folder.display(), "stopped: it holds a device it may not")
            }
            Err(err) => {
                error!(study, %device, cgroup = %folder.display(), %err, "cannot be stopped")
            }
        }
        self.acts.push(words::stopped(study, device));
        // Soon again: what was stopped gives back what it held.
        self.next_scan_ns = 0;
    }
}

/// As the kernel finds it for a process of this subject.
fn opener(rules: Rules<'_>, subject: Option<u32>, device: Device, now: u64) -> Opener {
    let image = rules.image;
    let of_image = subject.and_then(|number| {
        let subject = image.subject(number)?;
        Some((number, subject, image.devices.subject(number)?))
    });
    match of_image {
        None => Opener {
            policy: true,
            kind: kind::NONE,
            attested: false,
            subject: DeviceSubject::default(),
            granted: None,
        },
        Some((number, subject, of_devices)) => Opener {
            policy: true,
            kind: subject.kind,
            attested: subject.attested(rules.lease_end_ns, now),
            subject: *of_devices,
            granted: image.devices.granted(number, device),
        },
    }
}

/// Whose a cgroup is, found as the kernel finds it.
struct Subjects<'a> {
    rules: Rules<'a>,
    place: Place<'a>,
    known: BTreeMap<String, Option<u32>>,
}

impl<'a> Subjects<'a> {
    const fn new(rules: Rules<'a>, place: Place<'a>) -> Self {
        Self {
            rules,
            place,
            known: BTreeMap::new(),
        }
    }

    fn of(&mut self, cgroup: &str) -> Option<u32> {
        if let Some(known) = self.known.get(cgroup) {
            return *known;
        }
        let found = subject_of(self.rules.image, self.place, cgroup);
        self.known.insert(cgroup.to_owned(), found);
        found
    }

    /// Folder of the outermost cgroup on the way to this one that a selector of the subject meets.
    fn selected(&self, cgroup: &str, subject: u32) -> Option<PathBuf> {
        let below = Path::new(cgroup).strip_prefix(&self.place.root.path).ok()?;
        let mut folder = self.place.hierarchy.folder(&self.place.root.path);
        for component in below.components() {
            folder.push(component);
            if self.rules.cgroups.contains(&(inode(&folder), subject)) {
                return Some(folder);
            }
        }
        None
    }
}

/// The subject of a cgroup, by the walk that the kernel takes.
pub(super) fn subject_of(image: &PolicyImage, place: Place<'_>, cgroup: &str) -> Option<u32> {
    let below = Path::new(cgroup).strip_prefix(&place.root.path).ok()?;
    let mut folder = place.root.folder.clone();
    let mut ids = vec![place.root.id];
    for component in below.components() {
        folder.push(component);
        ids.push(inode(&folder));
    }
    image.resolve(|level| {
        let at = usize::try_from(level).unwrap_or(usize::MAX);
        ids.get(at).copied().unwrap_or(0)
    })
}

fn inode(folder: &Path) -> u64 {
    std::fs::symlink_metadata(folder).map_or(0, |found| found.ino())
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The study that an owner's id means; `parts` where several share.
fn owner_name(id: u64, names: &[DeviceNames]) -> String {
    if id == PARTS {
        return "parts".to_owned();
    }
    let mut studies = names.iter().filter(|names| names.study);
    match studies.find(|names| owner_id(&names.subject) == id) {
        Some(names) => names.subject.clone(),
        // A study that the policy in force does not have.
        None => format!("{id:016x}"),
    }
}

impl Devices {
    /// Denials since the last call, and what was done here.
    pub(super) fn drain(&mut self) -> (Vec<DeviceEvent>, Vec<FenceEvent>) {
        let mut events = Vec::new();
        while events.len() < BATCH
            && let Some(item) = self.ring.next()
        {
            // Records of another length are not ours, and nothing writes them.
            events.extend(DeviceEvent::from_bytes(&item));
        }
        (events, std::mem::take(&mut self.acts))
    }

    /// Counts of denials in the kernel.
    pub(super) fn counters(counters: &OwnedFd) -> impl Iterator<Item = (String, u64)> {
        use bailiwick_ebpf_common::abi::counter;
        [
            ("devices.denied", counter::DEVICES_DENIED),
            ("sockets.denied", counter::SOCKETS_DENIED),
            ("kernel.denied", counter::KERNEL_DENIED),
        ]
        .into_iter()
        .filter_map(|(name, index)| {
            let sum = bpf::sum_per_cpu(counters.as_fd(), index).ok()?;
            Some((name.to_owned(), sum))
        })
    }
}
