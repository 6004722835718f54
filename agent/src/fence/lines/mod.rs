//! The lines that stand on network devices: the second on every uplink, the threshold on every
//! workload's port.
//!
//! Devices come and go: on the kernel's word and on a timer what there is is compared with what is
//! wanted. What somebody changed is put back, and said ([`Lines::read_back`]).
//!
//! | module | holds |
//! |---|---|
//! | `device` | devices, and what each is to the fence |
//! | `stand` | one program on one side of one device, first in its chain |
//! | `clsact` | the same where there is no tcx |
//! | `owner` | whose workload is behind a port |
//! | `tables` | what the programs are told of devices: `LINKS`, `PORTS` |
//! | `said` | what stands and what does not, in words |

mod clsact;
mod device;
mod owner;
mod said;
mod stand;
mod tables;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use bailiwick_ebpf_common::{PolicyImage, abi::hook};
use tracing::{info, warn};

use self::{
    device::Device,
    stand::{Judge, Repair, Way, amiss},
    tables::{port_key, write_link},
};
pub(super) use self::{device::Role, said::absent};
use super::{
    FenceError,
    changed::{Changed, Where},
    hook::{Source, same},
    load::Maps,
    pins::{Kind, Pins},
    place::{Hierarchy, Root},
};
use crate::{
    config::{Devices, FenceSection},
    netlink::{Changes, Netlink},
    sys::{bpf, hash, packet, tcx},
};

/// Between looks at who lives behind the ports, when nothing has changed.
const LOOK: Duration = Duration::from_secs(10);
/// The same while a port is nobody's.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whose port: index of the device and generation of the policy, as `PORTS` has them.
pub(super) type Owners = BTreeMap<[u8; 8], u32>;

/// A program on a device.
#[derive(Debug)]
struct Standing {
    device: Device,
    way: Way,
}

/// What stands on devices, and what should.
#[derive(Debug)]
pub(super) struct Lines {
    uplinks: Devices,
    ports: Devices,
    netlink: Netlink,
    changes: Option<Changes>,
    /// The kernel has tcx, as far as is known.
    tcx: bool,
    judges: Vec<Judge>,
    standing: BTreeMap<(Role, u32), Standing>,
    owners: BTreeMap<u32, u32>,
    /// What `PORTS` holds, as far as this process has written it.
    written: Option<Owners>,
    /// When owners were looked for, and under which policy.
    looked: Option<(Instant, u64)>,
}

/// What an uplink's or a port's line is called, by whom: pin, program in the object, hook.
pub(super) const PROGRAMS: [(Role, &str, &str, u8); 2] = [
    (Role::Uplink, "uplink", "fence_uplink", hook::TCX_EGRESS),
    (Role::Port, "port", "fence_port", hook::TCX_INGRESS),
];

/// The hook's name, in statements and the log.
pub(super) fn hook(role: Role) -> &'static str {
    let program = PROGRAMS.into_iter().find(|(of, ..)| *of == role);
    program.map_or("", |(.., number)| hook::name(number))
}

/// Whether anything is to stand on any device.
pub(super) fn wanted(section: &FenceSection) -> bool {
    let none = Devices::Named(BTreeSet::new());
    section.uplinks() != none || section.ports() != none
}

impl Lines {
    /// Takes over what is attached, in this thread's network namespace. Nothing is attached yet
    /// that was not: [`Lines::reconcile`] does that.
    pub(super) fn open(
        section: &FenceSection,
        pins: &Pins,
        programs: Vec<(Role, OwnedFd)>,
        source: &Source,
        maps: &Maps,
    ) -> Result<Self, FenceError> {
        let kernel = |what| FenceError::kernel(what, "rtnetlink");
        let changes = Changes::new()
            .inspect_err(|error| warn!(%error, "network devices are polled, not watched"))
            .ok();
        let mut lines = Self {
            uplinks: section.uplinks(),
            ports: section.ports(),
            netlink: Netlink::new().map_err(kernel("open"))?,
            changes,
            tcx: true,
            judges: Vec::new(),
            standing: BTreeMap::new(),
            owners: BTreeMap::new(),
            written: None,
            looked: None,
        };
        let devices = device::list(&mut lines.netlink).map_err(kernel("ask"))?;
        for (role, code) in programs {
            let judge = lines.adopt(role, code, pins, source, &devices)?;
            lines.judges.push(judge);
        }
        for standing in lines.standing.values() {
            write_link(maps, &standing.device)?;
        }
        Ok(lines)
    }

    /// The program that was there, if it is the same, and its links.
    fn adopt(
        &mut self,
        role: Role,
        code: OwnedFd,
        pins: &Pins,
        source: &Source,
        devices: &[Device],
    ) -> Result<Judge, FenceError> {
        let (_, pin, program, number) = PROGRAMS
            .into_iter()
            .find(|(of, ..)| *of == role)
            .ok_or(FenceError::Missing("line"))?;
        let kernel = |what| FenceError::kernel(what, program);
        let wanted = bpf::program_info(code.as_fd()).map_err(kernel("look at"))?;
        let mut judge = Judge {
            role,
            hook: hook::name(number),
            pin,
            program: wanted,
            code,
        };
        let mut kept = false;
        let pinned = pins.find(Kind::Program, pin)?;
        for (pinned, staged) in pinned.into_iter().zip([false, true]) {
            let Some(pinned) = pinned else { continue };
            let info = bpf::program_info(pinned.as_fd()).map_err(kernel("look at"))?;
            if !kept && same(&info, &judge.program, source) {
                if staged {
                    pins.commit(Kind::Program, pin)?;
                }
                (judge.program, judge.code, kept) = (info, pinned, true);
            }
        }
        if !kept {
            pins.stage(Kind::Program, pin, &judge.code)?;
        }
        let prefix = format!("{pin}_");
        for name in pins.names(Kind::Link, &prefix)? {
            let number = name.strip_prefix(&prefix).unwrap_or_default();
            let number = number.strip_suffix("_next").unwrap_or(number);
            let device = number
                .parse()
                .ok()
                .and_then(|number: u32| devices.iter().find(|device| device.index == number));
            self.adopt_link(&judge, &name, device, pins)?;
        }
        match kept {
            true => pins.unstage(Kind::Program, pin)?,
            false => pins.commit(Kind::Program, pin)?,
        }
        Ok(judge)
    }

    /// A link of a process before this one: brought up to date where its device still is and
    /// still wants it, let go otherwise.
    fn adopt_link(
        &mut self,
        judge: &Judge,
        name: &str,
        device: Option<&Device>,
        pins: &Pins,
    ) -> Result<(), FenceError> {
        let kernel = |what| FenceError::kernel(what, judge.hook);
        let [link, _] = pins.find(Kind::Link, name)?;
        let (Some(link), Some(device)) = (link, device) else {
            return pins.remove(Kind::Link, name);
        };
        let info = tcx::link_info(link.as_fd()).map_err(kernel("look at"))?;
        let wanted = device.role(&self.uplinks, &self.ports) == Some(judge.role);
        let key = (judge.role, device.index);
        let alive = info.device == device.index && info.is_on(judge.role.side());
        if !wanted || !alive || self.standing.contains_key(&key) {
            return pins.remove(Kind::Link, name);
        }
        let way = Way::Tcx { link, id: info.id };
        if info.program != judge.program.id {
            judge.update(&way, device.index, &mut self.netlink)?;
            info!(hook = judge.hook, device = device.name, "updated");
        }
        if name.ends_with("_next") {
            pins.commit(Kind::Link, &judge.pin_of(device.index))?;
        }
        let device = device.clone();
        self.standing.insert(key, Standing { device, way });
        Ok(())
    }

    /// One of the two stands somewhere.
    pub(super) fn has(&self, wanted: Role) -> bool {
        self.standing.keys().any(|(role, _)| *role == wanted)
    }

    /// Readable when devices have changed.
    pub(super) fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.changes.as_ref().map(AsFd::as_fd)
    }

    /// Makes what stands what is wanted. Goes on after a failure, and tells the first.
    pub(super) fn reconcile(
        &mut self,
        pins: &Pins,
        maps: &Maps,
        changed: &mut Changed,
    ) -> Result<(), FenceError> {
        if self.changes.as_ref().is_some_and(Changes::drain) {
            self.looked = None;
        }
        let devices = device::list(&mut self.netlink)
            .map_err(FenceError::kernel("ask for devices by", "rtnetlink"))?;
        let mut first = Ok(());
        let mut keep = |outcome: Result<(), FenceError>| {
            if first.is_ok() {
                first = outcome;
            }
        };
        let judges = std::mem::take(&mut self.judges);
        for judge in &judges {
            let mut wanted = BTreeSet::new();
            for device in &devices {
                if device.role(&self.uplinks, &self.ports) == Some(judge.role) {
                    wanted.insert(device.index);
                    keep(self.stand(judge, device, (pins, maps), changed));
                }
            }
            let gone: Vec<u32> = self
                .standing
                .keys()
                .filter(|(role, index)| *role == judge.role && !wanted.contains(index))
                .map(|(_, index)| *index)
                .collect();
            for index in gone {
                keep(self.leave(judge, index, pins, maps));
            }
        }
        self.judges = judges;
        keep(self.mend_links(maps, changed));
        first
    }

    /// One device.
    fn stand(
        &mut self,
        judge: &Judge,
        device: &Device,
        (pins, maps): (&Pins, &Maps),
        changed: &mut Changed,
    ) -> Result<(), FenceError> {
        let key = (judge.role, device.index);
        let Some(standing) = self.standing.remove(&key) else {
            return self.arrive(judge, device, (pins, maps), changed);
        };
        let found = judge.find(&standing.way, device.index, &mut self.netlink)?;
        let Some((what, who, repair)) = amiss(judge, &found, pins, device.index) else {
            let way = standing.way;
            let device = device.clone();
            self.standing.insert(key, Standing { device, way });
            return Ok(());
        };
        changed.note(Where::Line(judge.hook, &device.name), &what, &who);
        let index = device.index;
        let way = match (repair, standing.way) {
            (Repair::Attach, _) => {
                let Self { tcx, netlink, .. } = self;
                judge.displace(device, pins, tcx, netlink, changed)?
            }
            (Repair::Program, way) => {
                judge.update(&way, index, &mut self.netlink)?;
                way
            }
            (Repair::Head, way) => judge.take_head(way, index, pins, &mut self.netlink)?,
            (Repair::Pin, Way::Tcx { link, id }) => {
                pins.replace(Kind::Link, &judge.pin_of(index), &link)?;
                Way::Tcx { link, id }
            }
            (Repair::Pin, way) => way,
        };
        let device = device.clone();
        self.standing.insert(key, Standing { device, way });
        Ok(())
    }

    /// A device that was not there, or whose program could not be attached.
    fn arrive(
        &mut self,
        judge: &Judge,
        device: &Device,
        (pins, maps): (&Pins, &Maps),
        changed: &mut Changed,
    ) -> Result<(), FenceError> {
        write_link(maps, device)?;
        let Self { tcx, netlink, .. } = self;
        let way = judge.displace(device, pins, tcx, netlink, changed)?;
        info!(hook = judge.hook, device = device.name, "attached");
        let key = (judge.role, device.index);
        let device = device.clone();
        self.standing.insert(key, Standing { device, way });
        self.looked = None;
        Ok(())
    }

    /// A device that is gone, or is not what it was.
    fn leave(
        &mut self,
        judge: &Judge,
        index: u32,
        pins: &Pins,
        maps: &Maps,
    ) -> Result<(), FenceError> {
        let Some(standing) = self.standing.remove(&(judge.role, index)) else {
            return Ok(());
        };
        info!(hook = judge.hook, device = standing.device.name, "gone");
        pins.remove(Kind::Link, &judge.pin_of(index))?;
        if matches!(standing.way, Way::Clsact) {
            clsact::detach(&mut self.netlink, index, judge.role.side())
                .map_err(FenceError::kernel("detach", judge.hook))?;
        }
        // The other role's program may stand there by now.
        if !self.standing.keys().any(|(_, other)| *other == index) {
            hash::delete(maps.links.as_fd(), &index.to_ne_bytes())
                .map_err(FenceError::kernel("write", "LINKS"))?;
        }
        Ok(())
    }

    /// Whose ports are whose under a policy that may not be in force yet; looks when there is
    /// reason to.
    pub(super) fn owners(&mut self, policy: &PolicyImage, place: (&Hierarchy, &Root)) -> Owners {
        let generation = policy.header.generation;
        let ports = || {
            let standing = self.standing.iter();
            standing.filter_map(|((role, _), standing)| {
                (*role == Role::Port).then_some(&standing.device)
            })
        };
        let patience = match ports().all(|port| self.owners.contains_key(&port.index)) {
            true => LOOK,
            false => LOOK_AGAIN,
        };
        let fresh = self
            .looked
            .is_some_and(|(when, of)| of == generation && when.elapsed() < patience);
        if !fresh {
            self.owners = owner::of_ports(ports(), place, policy, &mut self.netlink);
            self.looked = Some((Instant::now(), generation));
        }
        self.owners
            .iter()
            .map(|(index, subject)| (port_key(*index, generation), *subject))
            .collect()
    }

    /// Forgets who lives behind the ports: cgroups or policy have changed.
    pub(super) fn look_again(&mut self) {
        self.looked = None;
    }

    /// A frame of an ethertype that nobody may send has to be refused on every uplink that is up.
    pub(super) fn probe(&self) -> Vec<(u32, String)> {
        let standing = self.standing.iter();
        let uplinks =
            standing.filter(|((role, _), standing)| *role == Role::Uplink && standing.device.up);
        uplinks
            .map(|((_, index), standing)| (*index, standing.device.name.clone()))
            .collect()
    }
}

/// Takes away filters that outlive their pins, from every device of this namespace.
pub(super) fn remove_filters() -> Result<(), FenceError> {
    let kernel = |what| FenceError::kernel(what, "rtnetlink");
    let mut netlink = Netlink::new().map_err(kernel("open"))?;
    for device in device::list(&mut netlink).map_err(kernel("ask"))? {
        for role in Role::ALL {
            let chain = clsact::chain(&mut netlink, device.index, role.side(), role.filter());
            if chain.is_ok_and(|chain| chain.iter().any(|filter| filter.ours)) {
                clsact::detach(&mut netlink, device.index, role.side())
                    .map_err(FenceError::kernel("detach", role.filter()))?;
            }
        }
    }
    Ok(())
}

/// Sends a frame that must be refused by a device: of an ethertype for local experiments
/// (IEEE 802, 0x88b5), or, without a link header, of no IP version.
pub(super) fn probe(index: u32) -> io::Result<bool> {
    let mut frame = [0xff; 60];
    if let Some((_, rest)) = frame.split_first_chunk_mut::<12>()
        && let Some(ethertype) = rest.first_chunk_mut()
    {
        *ethertype = [0x88, 0xb5];
    }
    match packet::send(index, &frame) {
        Ok(()) => Ok(false),
        Err(err) if err.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
        Err(err) => Err(err),
    }
}
