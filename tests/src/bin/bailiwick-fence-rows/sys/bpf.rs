//! `bpf(2)`, as root uses it against the fence.

use std::ffi::{CString, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use super::{address_of, ifindex, owned};

/// One command of `bpf(2)`.
fn bpf(command: c_int, attributes: &[u8]) -> io::Result<c_int> {
    // SAFETY: the kernel reads `attributes.len()` bytes there; what they point to outlives the call
    // in each of the callers below.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            attributes.len(),
        )
    };
    match c_int::try_from(done) {
        Ok(done) if done >= 0 => Ok(done),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `BPF_OBJ_GET`
pub(crate) fn open_pin(path: &std::path::Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attributes = address_of(path.as_ptr()).to_vec();
    attributes.extend([0; 8]);
    let fd = bpf(7, &attributes)?;
    owned(fd)
}

/// `BPF_LINK_DETACH`
pub(crate) fn detach_link(link: impl AsFd) -> io::Result<()> {
    let fd = link.as_fd().as_raw_fd().to_ne_bytes();
    bpf(34, &fd).map(drop)
}

/// The map in the first place of a map of maps.
pub(crate) fn inner_map(outer: impl AsFd) -> io::Result<OwnedFd> {
    const LOOKUP: c_int = 1;
    const GET_FD_BY_ID: c_int = 14;
    let mut id = [0_u8; 4];
    bpf(LOOKUP, &element(&outer, &[0; 4], id.as_mut_ptr()))?;
    let mut attributes = id.to_vec();
    attributes.extend([0; 8]);
    owned(bpf(GET_FD_BY_ID, &attributes)?)
}

/// Puts a map in the first place of a map of maps.
pub(crate) fn set_inner_map(outer: impl AsFd, inner: impl AsFd) -> io::Result<()> {
    let mut fd = inner.as_fd().as_raw_fd().to_ne_bytes();
    update_first(outer, &mut fd)
}

/// Writes the first element of an array.
pub(crate) fn update_first(map: impl AsFd, value: &mut [u8]) -> io::Result<()> {
    const UPDATE: c_int = 2;
    bpf(UPDATE, &element(&map, &[0; 4], value.as_mut_ptr())).map(drop)
}

/// Map, key, value and no flags; both outlive the call they are for.
fn element(map: &impl AsFd, key: &[u8; 4], value: *mut u8) -> Vec<u8> {
    let mut attributes = map.as_fd().as_raw_fd().to_ne_bytes().to_vec();
    attributes.extend([0; 4]);
    attributes.extend(address_of(key.as_ptr()));
    attributes.extend(address_of(value));
    attributes.extend([0; 8]);
    attributes
}

/// A program for the way out of a cgroup that lets everything pass.
pub(crate) fn pass_all() -> io::Result<OwnedFd> {
    const CGROUP_SKB: u32 = 8;
    const EGRESS: u32 = 1;
    program(CGROUP_SKB, EGRESS, 1)
}

/// A program of two instructions: it returns a number.
fn program(kind: u32, attach: u32, number: i32) -> io::Result<OwnedFd> {
    // r0 = number; exit
    let mut code = vec![0xb7, 0, 0, 0];
    code.extend(number.to_ne_bytes());
    code.extend([0x95, 0, 0, 0, 0, 0, 0, 0]);
    let licence = c"GPL";
    let mut attributes = Vec::new();
    attributes.extend(kind.to_ne_bytes());
    attributes.extend(2_u32.to_ne_bytes());
    attributes.extend(address_of(code.as_ptr()));
    attributes.extend(address_of(licence.as_ptr()));
    // log_level, log_size, log_buf, kern_version, prog_flags, prog_name, prog_ifindex
    attributes.extend([0; 4 + 4 + 8 + 4 + 4 + 16 + 4]);
    attributes.extend(attach.to_ne_bytes());
    owned(bpf(5, &attributes)?)
}

/// `BPF_PROG_ATTACH` on the way out of a cgroup, as it was done before there were links.
pub(crate) fn attach_legacy(program: impl AsFd, cgroup: impl AsFd, flags: u32) -> io::Result<()> {
    const EGRESS: u32 = 1;
    let mut attributes = Vec::new();
    attributes.extend(cgroup.as_fd().as_raw_fd().to_ne_bytes());
    attributes.extend(program.as_fd().as_raw_fd().to_ne_bytes());
    attributes.extend(EGRESS.to_ne_bytes());
    attributes.extend(flags.to_ne_bytes());
    attributes.extend([0; 4]);
    bpf(8, &attributes).map(drop)
}

/// A classifier that returns one number.
pub(crate) fn answer_always(number: i32) -> io::Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    program(SCHED_CLS, 0, number)
}

/// Puts a classifier before all others on the way out of a device; it stays as long as the link.
pub(crate) fn attach_first(program: impl AsFd, device: &str) -> io::Result<OwnedFd> {
    const TCX_EGRESS: u32 = 47;
    const BEFORE: u32 = 8;
    let mut attributes = Vec::new();
    attributes.extend(program.as_fd().as_raw_fd().to_ne_bytes());
    attributes.extend(ifindex(device)?.to_ne_bytes());
    attributes.extend(TCX_EGRESS.to_ne_bytes());
    attributes.extend(BEFORE.to_ne_bytes());
    attributes.extend([0; 16]);
    owned(bpf(28, &attributes)?)
}
