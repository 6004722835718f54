//! `io_uring`: the calls a filter of system calls looks for are never made.

use std::os::fd::AsRawFd as _;
use std::thread;

use anyhow::{Context as _, Result};
use io_uring::{IoUring, opcode, squeue, types};

use super::Shot;
use super::socket::{bound, patience};
use crate::actor::Tried;
use crate::sys;
use crate::wire::MARK;

pub(super) fn both(shot: &Shot) -> Result<Tried> {
    let mut ring = IoUring::new(8).context("set up a ring")?;
    let address = shot.target();
    let length = libc::socklen_t::try_from(address.len()).context("an address is short")?;
    let mut tried = Tried::default();
    let mut sockets = Vec::new();
    for _ in 0..shot.count {
        let datagrams = bound(shot, libc::SOCK_DGRAM, 0)?;
        let size = u32::try_from(MARK.len()).context("a mark is short")?;
        let send = opcode::Send::new(types::Fd(datagrams.as_raw_fd()), MARK.as_ptr(), size)
            .dest_addr(address.as_ptr().cast())
            .dest_addr_len(length)
            .build();
        tried.once(sys::by_ring(&mut ring, &send)?);
        let stream = bound(shot, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        let at = address.as_ptr().cast();
        let connect = opcode::Connect::new(types::Fd(stream.as_raw_fd()), at, length).build();
        // It waits for the answer that may never come.
        let linked = connect.flags(squeue::Flags::IO_LINK).user_data(sys::MEANT);
        let time = types::Timespec::new().nsec(50_000_000);
        let limit = opcode::LinkTimeout::new(&time).build();
        tried.once(sys::by_ring_within(&mut ring, &linked, &limit)?);
        sockets.push((datagrams, stream));
    }
    thread::sleep(patience());
    Ok(tried)
}
