//! bpf(2) objects by the ids the kernel gives them.

use std::{io, os::fd::OwnedFd};

use super::bpf;

const MAP_GET_FD_BY_ID: i32 = 14;

/// `BPF_MAP_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Opens a map that something keeps alive; `None` if there is none of this id any more.
pub(crate) fn map(id: u32) -> io::Result<Option<OwnedFd>> {
    let mut attr = ById {
        id,
        ..ById::default()
    };
    // SAFETY: the structure is the command's, without pointers.
    match unsafe { bpf::call(MAP_GET_FD_BY_ID, &mut attr) } {
        // SAFETY: MAP_GET_FD_BY_ID returns a new descriptor.
        Ok(fd) => Ok(Some(unsafe { bpf::owned(fd) })),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}
