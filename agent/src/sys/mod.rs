//! System calls that no crate in use has a safe face for; the agent's only `unsafe` code.
//!
//! [`bpf`] is what aya lacks of bpf(2): inner maps filled from bytes, freezing, pins that are
//! replaced, links updated in place; [`hash`] is its hash maps, [`ids`] opens maps by id. [`tcx`] is
//! what runs on network devices. [`handle`] finds a cgroup by its id, [`packet`] sends a frame and hears some,
//! [`nvml`] asks what its wrapper has no function for, [`nscq`] asks switches, [`cuda`] has a GPU compute, [`time`] how good the clock
//! is, [`lsm`] which security modules are in force, [`sev_guest`] asks the processor of a confidential guest.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::Command,
};

use rustix::thread::CapabilitySet;
use tokio::io::{Interest, unix::AsyncFd};

pub(crate) mod bpf;
mod btf;
pub(crate) mod cuda;
pub(crate) mod handle;
pub(crate) mod hash;
pub(crate) mod ids;
pub(crate) mod lsm;
pub(crate) mod nscq;
pub(crate) mod nvml;
pub(crate) mod packet;
pub(crate) mod sev_guest;
pub(crate) mod tcx;
pub(crate) mod time;

/// A descriptor whose readiness can be awaited.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` has one descriptor, which stays open until it is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(Into::into)
}

/// Lets a program find nothing of ours open but its own input and output. TPM libraries open sockets
/// and devices without saying so, and a vendor's library must not be handed the connection that the
/// node's keys are loaded on. Nor may it listen to wires: under `NoNewPrivileges=` what is given up
/// here stays given up.
pub(crate) fn hand_nothing_on(command: &mut Command) {
    let close = || {
        // SAFETY: takes three numbers, and touches no memory.
        let done = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut left = rustix::thread::capabilities(None)?;
        for set in [
            &mut left.effective,
            &mut left.permitted,
            &mut left.inheritable,
        ] {
            set.remove(CapabilitySet::NET_RAW);
        }
        rustix::thread::set_capabilities(None, left)?;
        Ok(())
    };
    // SAFETY: between fork and exec three system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(close) };
}

/// Keeps the allocator small, before a second thread exists.
///
/// glibc raises the size above which a block is mapped, and unmapped when freed, to the largest
/// block it ever saw freed: after the first world map everything up to 32 MiB would stay on the
/// heap. An arena per thread buys a daemon of few threads nothing.
pub fn keep_memory_small() {
    for (what, value) in [
        (libc::M_MMAP_THRESHOLD, 128 * 1024),
        (libc::M_TRIM_THRESHOLD, 128 * 1024),
        (libc::M_ARENA_MAX, 1),
    ] {
        // SAFETY: takes no pointer; the allocator locks what it changes.
        let _taken = unsafe { libc::mallopt(what, value) };
    }
}

/// Gives freed memory back to the kernel: a policy's tables take tens of megabytes while they are
/// compiled, and the allocator would keep the pages for a next time that comes once a month.
pub(crate) fn give_back_memory() {
    // SAFETY: takes no pointer; the allocator locks what it looks at.
    let _gave_some = unsafe { libc::malloc_trim(0) };
}
