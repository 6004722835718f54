//! One program, attached to the fence root by a link that outlives this process.

use std::os::fd::{AsFd, OwnedFd};

use bailiwick_ebpf_common::abi::hook;
use tracing::{info, warn};

use super::{
    FenceError,
    changed::{self, Who},
    pins::{Kind, Pins},
    place::Root,
};
use crate::sys::bpf::{self, Attach, LinkInfo, ProgramInfo};

/// What one hook is called, by whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// Of the pins.
    pub(super) pin: &'static str,
    /// In the object.
    pub(super) program: &'static str,
    /// In statements and events.
    pub(super) hook: &'static str,
    pub(super) attach: Attach,
    /// It judges packets: until it is loaded, something that drops them all stands in.
    pub(super) judges: bool,
}

/// Where freshly loaded programs come from.
#[derive(Debug)]
pub(super) struct Source {
    /// The programs found attached are from the same object.
    pub(super) known: bool,
    /// Ids of the pinned maps.
    pub(super) maps: Vec<u32>,
}

/// A link, and the program it is meant to run.
#[derive(Debug)]
pub(super) struct Hook {
    pub(super) names: Names,
    pub(super) link: OwnedFd,
    /// Id of the link when it was adopted.
    pub(super) id: u32,
    pub(super) program: ProgramInfo,
    /// Kept open, to be attached again if root detaches it.
    code: OwnedFd,
}

impl Hook {
    /// In the order they are attached: the way out first, what sees no packets last.
    pub(super) const NAMES: [Names; 7] = [
        Names {
            pin: "egress",
            program: "fence_egress",
            hook: hook::name(hook::SKB_EGRESS),
            attach: Attach::Egress,
            judges: true,
        },
        Names {
            pin: "ingress",
            program: "fence_ingress",
            hook: hook::name(hook::SKB_INGRESS),
            attach: Attach::Ingress,
            judges: true,
        },
        Names {
            pin: "connect4",
            program: "fence_connect4",
            hook: hook::name(hook::CONNECT4),
            attach: Attach::Connect4,
            judges: false,
        },
        Names {
            pin: "connect6",
            program: "fence_connect6",
            hook: hook::name(hook::CONNECT6),
            attach: Attach::Connect6,
            judges: false,
        },
        Names {
            pin: "setsockopt",
            program: "fence_setsockopt",
            hook: hook::name(hook::SETSOCKOPT),
            attach: Attach::SetSockOpt,
            judges: false,
        },
        Names {
            pin: "device",
            program: "fence_device",
            hook: hook::name(hook::DEVICE),
            attach: Attach::Device,
            judges: false,
        },
        Names {
            pin: "sock_create",
            program: "fence_socket",
            hook: hook::name(hook::SOCK_CREATE),
            attach: Attach::SockCreate,
            judges: false,
        },
    ];

    /// Something is attached already, by a process before this one.
    pub(super) fn stands(names: Names, pins: &Pins, root: &Root) -> Result<bool, FenceError> {
        Ok(live_link(names, pins, root)?.is_some())
    }

    /// Attaches a program that drops everything, unless something is attached already: the full
    /// programs take the verifier most of a second, and nothing is to pass meanwhile.
    pub(super) fn close(names: Names, pins: &Pins, root: &Root) -> Result<(), FenceError> {
        if live_link(names, pins, root)?.is_some() {
            return Ok(());
        }
        let program =
            bpf::load_deny(names.attach).map_err(FenceError::kernel("load", "fence_closed"))?;
        pins.replace(Kind::Program, names.pin, &program)?;
        attach(names, pins, root, &program)?;
        info!(hook = names.hook, "closed");
        Ok(())
    }

    /// Takes over the pinned link, giving it `program` where it runs another, or makes one.
    pub(super) fn adopt(
        names: Names,
        pins: &Pins,
        root: &Root,
        program: OwnedFd,
        source: &Source,
    ) -> Result<Self, FenceError> {
        let wanted = bpf::program_info(program.as_fd())
            .map_err(FenceError::kernel("look at", names.program))?;
        let (link, program, wanted) = match live_link(names, pins, root)? {
            Some((link, found)) => {
                let fresh = (program, wanted, source);
                let (program, wanted) = bring_up_to_date(names, pins, (&link, found), fresh)?;
                (link, program, wanted)
            }
            None => {
                pins.replace(Kind::Program, names.pin, &program)?;
                let link = attach(names, pins, root, &program)?;
                info!(hook = names.hook, program = wanted.id, "attached");
                (link, program, wanted)
            }
        };
        let id = id(&link, names)?;
        Ok(Self {
            names,
            link,
            id,
            program: wanted,
            code: program,
        })
    }

    /// Attaches again what was detached, gives a link its program back, and pins again what was
    /// unpinned, as long as the root stands. Says what was amiss. Pins are looked at only where
    /// they may have been touched: finding a pin takes longer than all else together.
    pub(super) fn mend(
        &mut self,
        pins: &Pins,
        root: &Root,
        touched: bool,
    ) -> Result<Option<(String, Who)>, FenceError> {
        let names = self.names;
        let nobody = |what: &str| Some((what.to_owned(), Who::default()));
        let found = self.read_back()?;
        if found.cgroup == 0 {
            if !root.stands() {
                return Ok(None);
            }
            self.link = attach(names, pins, root, &self.code)?;
            self.id = id(&self.link, names)?;
            return Ok(nobody("was detached"));
        }
        if found.program != self.program.id {
            // Before it is unloaded, perhaps.
            let (other, who) = changed::program(found.program);
            bpf::update_link(self.link.as_fd(), self.code.as_fd(), None)
                .map_err(FenceError::kernel("update", names.pin))?;
            return Ok(Some((format!("ran program {other}"), who)));
        }
        if touched && self.pinned(pins)? != Some(self.id) {
            let what = match pins.holds(Kind::Link, names.pin) {
                true => "its pin led to another link",
                false => "was unpinned",
            };
            pins.replace(Kind::Link, names.pin, &self.link)?;
            return Ok(nobody(what));
        }
        Ok(None)
    }

    /// Id of the link that is pinned under its name.
    fn pinned(&self, pins: &Pins) -> Result<Option<u32>, FenceError> {
        match pins.find(Kind::Link, self.names.pin)? {
            [Some(link), _] => id(&link, self.names).map(Some),
            [None, _] => Ok(None),
        }
    }

    /// As the kernel has it now.
    pub(super) fn read_back(&self) -> Result<LinkInfo, FenceError> {
        bpf::link_info(self.link.as_fd()).map_err(FenceError::kernel("look at", self.names.pin))
    }
}

fn attach(
    names: Names,
    pins: &Pins,
    root: &Root,
    program: &OwnedFd,
) -> Result<OwnedFd, FenceError> {
    let link = bpf::link(program.as_fd(), root.as_fd(), names.attach)
        .map_err(FenceError::kernel("attach", names.program))?;
    pins.replace(Kind::Link, names.pin, &link)?;
    Ok(link)
}

fn id(link: &OwnedFd, names: Names) -> Result<u32, FenceError> {
    let info = bpf::link_info(link.as_fd()).map_err(FenceError::kernel("look at", names.pin))?;
    Ok(info.id)
}

/// The pinned link that is attached to the root, under its final name.
fn live_link(
    names: Names,
    pins: &Pins,
    root: &Root,
) -> Result<Option<(OwnedFd, LinkInfo)>, FenceError> {
    let [current, next] = pins.find(Kind::Link, names.pin)?;
    let mut live = None;
    for (link, staged) in [(current, false), (next, true)] {
        let Some(link) = link else { continue };
        let info =
            bpf::link_info(link.as_fd()).map_err(FenceError::kernel("look at", names.pin))?;
        if info.cgroup == 0 {
            // Detached by root, or the cgroup is gone: nothing to take over.
            continue;
        }
        if info.cgroup != root.id || info.attach != names.attach.number() {
            return Err(FenceError::OtherRoot {
                name: names.pin,
                id: info.cgroup,
            });
        }
        if live.is_none() {
            if staged {
                pins.commit(Kind::Link, names.pin)?;
            }
            live = Some((link, info));
        }
    }
    pins.unstage(Kind::Link, names.pin)?;
    Ok(live)
}

/// Replaces the link's program, unless it is the same on the same maps.
fn bring_up_to_date(
    names: Names,
    pins: &Pins,
    (link, found): (&OwnedFd, LinkInfo),
    (program, wanted, source): (OwnedFd, ProgramInfo, &Source),
) -> Result<(OwnedFd, ProgramInfo), FenceError> {
    let mut running = None;
    for (pinned, staged) in pins
        .find(Kind::Program, names.pin)?
        .into_iter()
        .zip([false, true])
    {
        let Some(pinned) = pinned else { continue };
        let info = bpf::program_info(pinned.as_fd())
            .map_err(FenceError::kernel("look at", names.program))?;
        if info.id == found.program {
            running = Some((pinned, info, staged));
        }
    }
    if let Some((_, info, true)) = &running {
        // The last process died between the update and the end of the renaming.
        info!(program = info.id, "finishing an update that was cut off");
        pins.commit(Kind::Program, names.pin)?;
    }
    let old = match running {
        Some((old, info, _)) if same(&info, &wanted, source) => {
            pins.unstage(Kind::Program, names.pin)?;
            info!(hook = names.hook, program = info.id, "still attached");
            return Ok((old, info));
        }
        Some((old, ..)) => Some(old),
        None => {
            warn!(
                hook = names.hook,
                program = found.program,
                "the link ran a program that is not pinned; it is replaced"
            );
            None
        }
    };
    pins.stage(Kind::Program, names.pin, &program)?;
    bpf::update_link(link.as_fd(), program.as_fd(), old.as_ref().map(AsFd::as_fd))
        .map_err(FenceError::kernel("update", names.pin))?;
    pins.commit(Kind::Program, names.pin)?;
    info!(
        hook = names.hook,
        old = found.program,
        new = wanted.id,
        "updated"
    );
    Ok((program, wanted))
}

/// Whether two programs come from one object and use the same pinned maps. The kernel's tag covers
/// the instructions, and not the constants beside them.
pub(super) fn same(a: &ProgramInfo, b: &ProgramInfo, source: &Source) -> bool {
    let pinned = |info: &ProgramInfo| {
        let mut maps = info.maps.clone();
        maps.retain(|id| source.maps.contains(id));
        maps.sort_unstable();
        maps
    };
    source.known && a.tag == b.tag && pinned(a) == pinned(b)
}
