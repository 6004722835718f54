//! One program on one side of one device: attached before all others, and kept there.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use super::{
    clsact,
    device::{Device, Role},
};
use crate::{
    fence::{
        FenceError,
        changed::{self, Changed, Where, Who},
        pins::{Kind, Pins},
    },
    netlink::Netlink,
    sys::{
        bpf::{self, ProgramInfo},
        tcx::{self, Side},
    },
};

/// What stands on devices of one role.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) role: Role,
    /// In statements and events.
    pub(super) hook: &'static str,
    /// Of the program's pin; the links' begin with it.
    pub(super) pin: &'static str,
    pub(super) program: ProgramInfo,
    pub(super) code: OwnedFd,
}

impl Role {
    pub(super) const ALL: [Self; 2] = [Self::Uplink, Self::Port];

    pub(super) const fn side(self) -> Side {
        match self {
            Self::Uplink => Side::Egress,
            Self::Port => Side::Ingress,
        }
    }

    /// Name of the filter where there is no tcx, by which it is known again.
    pub(super) const fn filter(self) -> &'static str {
        match self {
            Self::Uplink => "bailiwick_uplink",
            Self::Port => "bailiwick_port",
        }
    }
}

/// How it is attached.
#[derive(Debug)]
pub(super) enum Way {
    /// By a link.
    Tcx {
        link: OwnedFd,
        /// The link's.
        id: u32,
    },
    /// By a filter.
    Clsact,
}

/// As the kernel has it now.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Found {
    /// 0: not attached.
    pub(super) program: u32,
    /// 0: by a filter.
    pub(super) link: u32,
    /// Programs that run before it.
    pub(super) ahead: Vec<u32>,
    /// Of the chain; 0: not counted.
    pub(super) revision: u64,
}

impl Judge {
    fn kernel(&self, what: &'static str) -> impl FnOnce(io::Error) -> FenceError {
        FenceError::kernel(what, self.hook)
    }

    pub(super) fn pin_of(&self, device: u32) -> String {
        format!("{}_{device}", self.pin)
    }

    /// Reads it back.
    pub(super) fn find(
        &self,
        way: &Way,
        device: u32,
        netlink: &mut Netlink,
    ) -> Result<Found, FenceError> {
        let side = self.role.side();
        match way {
            Way::Tcx { link, id } => {
                let info = tcx::link_info(link.as_fd()).map_err(self.kernel("look at"))?;
                let chain = tcx::chain(device, side).map_err(self.kernel("list programs of"))?;
                let place = chain.programs.iter().position(|(_, link)| link == id);
                let Some(place) = place.filter(|_| info.device == device) else {
                    return Ok(Found::default());
                };
                let ahead = chain.programs.iter().take(place);
                Ok(Found {
                    program: info.program,
                    link: *id,
                    ahead: ahead.map(|(program, _)| *program).collect(),
                    revision: chain.revision,
                })
            }
            Way::Clsact => {
                let chain = clsact::chain(netlink, device, side, self.role.filter())
                    .map_err(self.kernel("list filters of"))?;
                let Some(place) = chain.iter().position(|filter| filter.ours) else {
                    return Ok(Found::default());
                };
                let ahead = chain.iter().take(place);
                Ok(Found {
                    program: chain.get(place).map_or(0, |filter| filter.program),
                    link: 0,
                    ahead: ahead.map(|filter| filter.program).collect(),
                    revision: 0,
                })
            }
        }
    }

    /// Attaches first in the chain, by a link if the kernel has them.
    pub(super) fn attach(
        &self,
        device: u32,
        pins: &Pins,
        tcx: &mut bool,
        netlink: &mut Netlink,
    ) -> Result<Way, FenceError> {
        if *tcx {
            match tcx::link_first(self.code.as_fd(), device, self.role.side()) {
                Ok(link) => return self.keep(link, device, pins),
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                    return self.take_over(device, pins);
                }
                // Before 6.6 no such place is known.
                Err(err) if err.raw_os_error() == Some(libc::EINVAL) => *tcx = false,
                Err(err) => return Err(self.kernel("attach")(err)),
            }
        }
        let (side, name) = (self.role.side(), self.role.filter());
        clsact::attach(netlink, device, side, self.code.as_fd(), name)
            .map_err(self.kernel("attach a filter for"))?;
        Ok(Way::Clsact)
    }

    /// The same, and says whose filters had to go for it.
    pub(super) fn displace(
        &self,
        device: &Device,
        pins: &Pins,
        tcx: &mut bool,
        netlink: &mut Netlink,
        changed: &mut Changed,
    ) -> Result<Way, FenceError> {
        let (index, side, name) = (device.index, self.role.side(), self.role.filter());
        let kernel = || self.kernel("list filters of");
        let before = clsact::chain(netlink, index, side, name).map_err(kernel())?;
        // Before they are unloaded, perhaps.
        let held = before
            .into_iter()
            .filter(|filter| filter.first && !filter.ours);
        let held: Vec<_> = held
            .map(|filter| match filter.program {
                0 => (filter.kind.clone(), Who::default(), filter),
                id => {
                    let (said, who) = changed::program(id);
                    (format!("program {said}"), who, filter)
                }
            })
            .collect();
        let way = self.attach(index, pins, tcx, netlink)?;
        if held.is_empty() || !matches!(way, Way::Clsact) {
            return Ok(way);
        }
        let after = clsact::chain(netlink, index, side, name).map_err(kernel())?;
        for (said, who, filter) in held {
            if !after.contains(&filter) {
                let what = format!("found its place taken by a filter, which is removed: {said}");
                changed.note(Where::Line(self.hook, &device.name), &what, &who);
            }
        }
        Ok(way)
    }

    /// The program is in the chain by a link whose pin somebody has removed.
    fn take_over(&self, device: u32, pins: &Pins) -> Result<Way, FenceError> {
        let chain =
            tcx::chain(device, self.role.side()).map_err(self.kernel("list programs of"))?;
        let found = chain
            .programs
            .iter()
            .find(|(program, _)| *program == self.program.id);
        let id = found.map_or(0, |(_, link)| *link);
        let link = tcx::link(id).map_err(self.kernel("open the link of"))?;
        let link = link.ok_or(FenceError::Missing("link that its chain names"))?;
        self.keep(link, device, pins)
    }

    fn keep(&self, link: OwnedFd, device: u32, pins: &Pins) -> Result<Way, FenceError> {
        let info = tcx::link_info(link.as_fd()).map_err(self.kernel("look at"))?;
        pins.replace(Kind::Link, &self.pin_of(device), &link)?;
        Ok(Way::Tcx { link, id: info.id })
    }

    /// Gives what is attached this judge's program; no packet is judged by nothing.
    pub(super) fn update(
        &self,
        way: &Way,
        device: u32,
        netlink: &mut Netlink,
    ) -> Result<(), FenceError> {
        let (side, name) = (self.role.side(), self.role.filter());
        match way {
            Way::Tcx { link, .. } => {
                let found = tcx::link_info(link.as_fd()).map_err(self.kernel("look at"))?;
                let old =
                    tcx::program(found.program).map_err(self.kernel("open the program of"))?;
                bpf::update_link(
                    link.as_fd(),
                    self.code.as_fd(),
                    old.as_ref().map(AsFd::as_fd),
                )
                .map_err(self.kernel("update"))
            }
            Way::Clsact => clsact::attach(netlink, device, side, self.code.as_fd(), name)
                .map_err(self.kernel("update the filter of")),
        }
    }

    /// Moves to the head of the chain. A program cannot stand in one chain twice: meanwhile
    /// something that drops every frame stands first.
    pub(super) fn take_head(
        &self,
        way: Way,
        device: u32,
        pins: &Pins,
        netlink: &mut Netlink,
    ) -> Result<Way, FenceError> {
        let side = self.role.side();
        match way {
            Way::Tcx { link, .. } => {
                let guard = tcx::load_drop().map_err(self.kernel("load the guard of"))?;
                let guard = tcx::link_first(guard.as_fd(), device, side)
                    .map_err(self.kernel("attach the guard of"))?;
                tcx::detach(link.as_fd()).map_err(self.kernel("detach"))?;
                let attached = tcx::link_first(self.code.as_fd(), device, side)
                    .map_err(self.kernel("attach"))
                    .and_then(|link| self.keep(link, device, pins));
                if attached.is_err() {
                    // Closed until the next attempt, which finds nothing of ours and attaches.
                    pins.replace(Kind::Link, &self.pin_of(device), &guard)?;
                }
                attached
            }
            Way::Clsact => {
                let name = self.role.filter();
                clsact::take_head(netlink, device, side, self.code.as_fd(), name)
                    .map_err(self.kernel("move the filter of"))?;
                Ok(Way::Clsact)
            }
        }
    }
}

/// What puts something right again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Repair {
    Attach,
    Program,
    Head,
    Pin,
}

/// The first thing that is not as it should be.
///
/// With who it was, as far as the kernel tells: asked before anything is done about it, for what is
/// replaced may be unloaded.
pub(super) fn amiss(
    judge: &Judge,
    found: &Found,
    pins: &Pins,
    index: u32,
) -> Option<(String, Who, Repair)> {
    let pinned = found.link == 0 || pins.holds(Kind::Link, &judge.pin_of(index));
    let (what, repair) = judged(found, judge.program.id, pinned)?;
    let others: Vec<_> = match repair {
        Repair::Program => vec![changed::program(found.program)],
        Repair::Head => found.ahead.iter().map(|id| changed::program(*id)).collect(),
        Repair::Attach | Repair::Pin => Vec::new(),
    };
    let mut said = what.to_owned();
    for (at, (other, _)) in others.iter().enumerate() {
        said.push_str(if at == 0 { " " } else { "; " });
        said.push_str(other);
    }
    let who = others.into_iter().next();
    Some((said, who.map(|(_, who)| who).unwrap_or_default(), repair))
}

pub(super) fn judged(found: &Found, ours: u32, pinned: bool) -> Option<(&'static str, Repair)> {
    if found.program == 0 {
        return Some(("was detached", Repair::Attach));
    }
    if found.program != ours {
        return Some(("ran program", Repair::Program));
    }
    if !found.ahead.is_empty() {
        return Some(("was not first: program", Repair::Head));
    }
    (!pinned).then_some(("was unpinned", Repair::Pin))
}
