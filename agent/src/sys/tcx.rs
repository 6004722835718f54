//! bpf(2) on network devices: programs in a device's chain.
//!
//! Layouts: `union bpf_attr` and `struct bpf_link_info` of `include/uapi/linux/bpf.h`, as of Linux
//! 6.6, where tcx appeared. Before it the kernel answers `EINVAL` to [`link_first`].

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use super::bpf;

const PROG_GET_FD_BY_ID: i32 = 13;
const PROG_QUERY: i32 = 16;
const LINK_CREATE: i32 = 28;
const LINK_GET_FD_BY_ID: i32 = 30;
const LINK_DETACH: i32 = 34;

/// `BPF_PROG_TYPE_SCHED_CLS`
const PROG_TYPE_SCHED_CLS: u32 = 3;
/// `BPF_F_BEFORE`: with nothing named, before all others.
const BEFORE: u32 = 1 << 3;
/// Most programs of one chain; the kernel has 64 at most (`BPF_MPROG_MAX`).
const CHAIN: usize = 64;

/// Which way through a device.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Side {
    /// `BPF_TCX_INGRESS`: what the host takes in there.
    Ingress,
    /// `BPF_TCX_EGRESS`: what the host sends there.
    Egress,
}

impl Side {
    /// The kernel's number.
    const fn number(self) -> u32 {
        match self {
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }
}

/// `struct bpf_link_info` of a link to a device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct LinkInfo {
    kind: u32,
    pub(crate) id: u32,
    pub(crate) program: u32,
    padding: u32,
    /// 0 once it is detached, and when the device is gone.
    pub(crate) device: u32,
    attach: u32,
}

impl LinkInfo {
    /// Whether it is on this side.
    pub(crate) fn is_on(&self, side: Side) -> bool {
        self.attach == side.number()
    }
}

/// The programs of one side of a device, in the order in which they run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Chain {
    /// Counts the changes of the chain.
    pub(crate) revision: u64,
    /// Program and link; link 0: attached without one.
    pub(crate) programs: Vec<(u32, u32)>,
}

#[repr(C)]
struct Create {
    program_fd: u32,
    device: u32,
    attach: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// A classifier of two instructions that drops every frame.
pub(crate) fn load_drop() -> io::Result<OwnedFd> {
    // `TCX_DROP`, `TC_ACT_SHOT`.
    bpf::load_constant(PROG_TYPE_SCHED_CLS, 0, 2, *b"fence_guard\0\0\0\0\0")
}

/// Attaches before everything else that is attached there. One program stands in a chain once.
pub(crate) fn link_first(program: BorrowedFd<'_>, device: u32, side: Side) -> io::Result<OwnedFd> {
    let mut attr = Create {
        program_fd: bpf::raw(program),
        device,
        attach: side.number(),
        flags: BEFORE,
        relative: 0,
        padding: 0,
        expected_revision: 0,
    };
    // SAFETY: the structure is the command's, without pointers.
    let fd = unsafe { bpf::call(LINK_CREATE, &mut attr) }?;
    // SAFETY: LINK_CREATE returns a new descriptor.
    Ok(unsafe { bpf::owned(fd) })
}

/// Takes a link off its device; the link itself stays until nobody holds it.
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = bpf::raw(link);
    // SAFETY: the structure is one descriptor.
    unsafe { bpf::call(LINK_DETACH, &mut attr) }.map(drop)
}

/// What the kernel says about a link to a device.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    // SAFETY: integers only, a prefix of `struct bpf_link_info`; no pointers for a tcx link.
    unsafe { bpf::info_by_fd(link, &mut info) }?;
    Ok(info)
}

/// What runs on one side of a device.
pub(crate) fn chain(device: u32, side: Side) -> io::Result<Chain> {
    let (mut programs, mut links) = ([0_u32; CHAIN], [0_u32; CHAIN]);
    let mut attr = bpf::Query {
        target: device,
        attach: side.number(),
        program_ids: bpf::address(programs.as_mut_ptr()),
        count: u32::try_from(CHAIN).unwrap_or(0),
        link_ids: bpf::address(links.as_mut_ptr()),
        ..bpf::Query::default()
    };
    // SAFETY: the structure is as long as the kernel writes, and both pointers are to `count`
    // integers.
    match unsafe { bpf::call(PROG_QUERY, &mut attr) } {
        // Nothing was ever attached there.
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Chain::default()),
        Err(err) => return Err(err),
        Ok(_) => {}
    }
    let count = usize::try_from(attr.count).unwrap_or(CHAIN);
    Ok(Chain {
        revision: attr.revision,
        programs: programs.into_iter().zip(links).take(count).collect(),
    })
}

/// Opens a program that something keeps alive; `None` if there is none of this id any more.
pub(crate) fn program(id: u32) -> io::Result<Option<OwnedFd>> {
    by_id(PROG_GET_FD_BY_ID, id)
}

/// The same for a link.
pub(crate) fn link(id: u32) -> io::Result<Option<OwnedFd>> {
    by_id(LINK_GET_FD_BY_ID, id)
}

fn by_id(command: i32, id: u32) -> io::Result<Option<OwnedFd>> {
    let mut attr = ById {
        id,
        ..ById::default()
    };
    // SAFETY: the structure is the command's, without pointers.
    match unsafe { bpf::call(command, &mut attr) } {
        // SAFETY: both commands return a new descriptor.
        Ok(fd) => Ok(Some(unsafe { bpf::owned(fd) })),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}
