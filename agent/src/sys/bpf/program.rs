//! Programs, and the links that attach them to cgroups.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use super::{address, call, info_by_fd, owned, raw, small};

const PROG_LOAD: i32 = 5;
const PROG_QUERY: i32 = 16;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
#[cfg(test)]
const LINK_DETACH: i32 = 34;
/// `BPF_PROG_TYPE_CGROUP_SKB`
const PROG_TYPE_CGROUP_SKB: u32 = 8;
/// `BPF_F_REPLACE`: only if the program replaced is the one named.
const REPLACE: u32 = 1 << 2;
/// Most programs or maps listed; more is more than this agent ever makes.
const LIST: usize = 64;

/// Where a program is attached to a cgroup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Attach {
    /// `BPF_CGROUP_INET_INGRESS`
    Ingress,
    /// `BPF_CGROUP_INET_EGRESS`
    Egress,
    /// `BPF_CGROUP_INET4_CONNECT`
    Connect4,
    /// `BPF_CGROUP_INET6_CONNECT`
    Connect6,
    /// `BPF_CGROUP_SETSOCKOPT`
    SetSockOpt,
    /// `BPF_CGROUP_DEVICE`
    Device,
    /// `BPF_CGROUP_INET_SOCK_CREATE`
    SockCreate,
    /// `BPF_LSM_CGROUP`: which question of the kernel's it answers is the program's.
    Lsm,
}

impl Attach {
    /// The kernel's number.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Ingress => 0,
            Self::Egress => 1,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::SetSockOpt => 22,
            Self::Device => 6,
            Self::SockCreate => 2,
            Self::Lsm => 43,
        }
    }
}

/// A program as the kernel knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ProgramInfo {
    pub(crate) id: u32,
    /// SHA-1 over its instructions, truncated; maps do not enter it.
    pub(crate) tag: [u8; 8],
    /// Maps it uses.
    pub(crate) maps: Vec<u32>,
    /// As whoever loaded it called it.
    pub(crate) name: String,
    /// Who that was.
    pub(crate) uid: u32,
}

/// `struct bpf_link_info` of a cgroup link.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct LinkInfo {
    kind: u32,
    pub(crate) id: u32,
    pub(crate) program: u32,
    padding: u32,
    /// 0 once it is detached, and when the cgroup is gone.
    pub(crate) cgroup: u64,
    pub(crate) attach: u32,
    tail: u32,
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach: u32,
}

#[repr(C)]
struct LinkCreate {
    program_fd: u32,
    target_fd: u32,
    attach: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

/// What is attached to a cgroup or a device: as long as the newest kernel writes.
#[derive(Default)]
#[repr(C)]
pub(in crate::sys) struct Query {
    /// Descriptor of the cgroup, or number of the device.
    pub(in crate::sys) target: u32,
    pub(in crate::sys) attach: u32,
    pub(in crate::sys) flags: u32,
    pub(in crate::sys) attach_flags: u32,
    pub(in crate::sys) program_ids: u64,
    pub(in crate::sys) count: u32,
    pub(in crate::sys) padding: u32,
    pub(in crate::sys) program_attach_flags: u64,
    pub(in crate::sys) link_ids: u64,
    pub(in crate::sys) link_attach_flags: u64,
    /// Newer kernels write here, however short the structure they were given.
    pub(in crate::sys) revision: u64,
}

#[derive(Default)]
#[repr(C)]
struct RawProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// A `cgroup_skb` program of two instructions that drops every packet: what can stand in the kernel
/// before anything has been read, parsed or verified.
pub(crate) fn load_deny(attach: Attach) -> io::Result<OwnedFd> {
    load_constant(
        PROG_TYPE_CGROUP_SKB,
        attach.number(),
        0,
        *b"fence_closed\0\0\0\0",
    )
}

/// A program of two instructions that always answers the same.
pub(crate) fn load_constant(
    kind: u32,
    expected_attach: u32,
    answer: u8,
    name: [u8; 16],
) -> io::Result<OwnedFd> {
    // `r0 = answer; exit`: opcode, registers, offset, immediate.
    let code: [u64; 2] = [
        u64::from_ne_bytes([0xb7, 0, 0, 0, answer, 0, 0, 0]),
        u64::from_ne_bytes([0x95, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let license = c"Dual MIT/GPL";
    let mut attr = ProgLoad {
        kind,
        instructions: 2,
        code: address(code.as_ptr()),
        license: address(license.as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        expected_attach,
    };
    // SAFETY: code and licence outlive the call, the code is as long as it says.
    let fd = unsafe { call(PROG_LOAD, &mut attr) }?;
    // SAFETY: PROG_LOAD returns a new descriptor.
    Ok(unsafe { owned(fd) })
}

/// Attaches beside whatever is attached: links never take another's place.
pub(crate) fn link(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach: Attach,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        program_fd: raw(program),
        target_fd: raw(cgroup),
        attach: attach.number(),
        flags: 0,
    };
    // SAFETY: the structure is the command's, without pointers.
    let fd = unsafe { call(LINK_CREATE, &mut attr) }?;
    // SAFETY: LINK_CREATE returns a new descriptor.
    Ok(unsafe { owned(fd) })
}

/// Replaces a link's program; no packet is judged by nothing. With `old`, only if it is that one.
pub(crate) fn update_link(
    link: BorrowedFd<'_>,
    new: BorrowedFd<'_>,
    old: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: raw(link),
        new_program_fd: raw(new),
        flags: old.map_or(0, |_| REPLACE),
        old_program_fd: old.map_or(0, raw),
    };
    // SAFETY: the structure is the command's, without pointers.
    unsafe { call(LINK_UPDATE, &mut attr) }.map(drop)
}

/// What root can do to a link.
#[cfg(test)]
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = raw(link);
    // SAFETY: the structure is one descriptor.
    unsafe { call(LINK_DETACH, &mut attr) }.map(drop)
}

/// What the kernel says about a link to a cgroup.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    // SAFETY: integers only, a prefix of `struct bpf_link_info`; no pointers for a cgroup link.
    unsafe { info_by_fd(link, &mut info) }?;
    Ok(info)
}

/// What the kernel says about a program.
pub(crate) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut maps = [0_u32; LIST];
    let mut info = RawProgramInfo {
        map_count: small(LIST)?,
        map_ids: address(maps.as_mut_ptr()),
        ..RawProgramInfo::default()
    };
    // SAFETY: a prefix of `struct bpf_prog_info`; its one pointer is to `map_count` integers.
    unsafe { info_by_fd(program, &mut info) }?;
    let count = usize::try_from(info.map_count).unwrap_or(LIST);
    Ok(ProgramInfo {
        id: info.id,
        tag: info.tag,
        maps: maps.into_iter().take(count).collect(),
        name: info.name.escape_ascii().to_string().replace("\\x00", ""),
        uid: info.uid,
    })
}

/// Ids of the programs attached to this very cgroup, not to those above it. Of [`Attach::Lsm`] those
/// of every question.
pub(crate) fn attached(cgroup: BorrowedFd<'_>, attach: Attach) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; LIST];
    // Of several questions the kernel answers only who asks for each program's flags, too.
    let mut flags = [0_u32; LIST];
    let mut attr = Query {
        target: raw(cgroup),
        attach: attach.number(),
        program_ids: address(ids.as_mut_ptr()),
        count: small(LIST)?,
        program_attach_flags: match attach {
            Attach::Lsm => address(flags.as_mut_ptr()),
            _ => 0,
        },
        ..Query::default()
    };
    // SAFETY: the structure is as long as the newest kernel writes, and its pointers are to `count`
    // integers each.
    unsafe { call(PROG_QUERY, &mut attr) }?;
    let count = usize::try_from(attr.count).unwrap_or(LIST);
    Ok(ids.into_iter().take(count).collect())
}
