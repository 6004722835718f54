//! Protocols that are neither TCP nor UDP.

use std::thread;

use anyhow::{Context as _, Result};

use super::socket::{bound, patience};
use super::{Shot, step};
use crate::actor::Tried;
use crate::sys;
use crate::wire::MARK;

const IPPROTO_SCTP: i32 = 132;
const SCTP_SOCKOPT_CONNECTX: i32 = 110;

/// Three ways to begin an association: `connect`; an option, of which no filter of addresses in
/// calls knows; and the first message of a socket for many.
pub(super) fn sctp(shot: &Shot) -> Result<Tried> {
    let mut tried = Tried::default();
    let mut sockets = Vec::new();
    let stream = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    for _ in 0..shot.count {
        let connected = bound(shot, stream, IPPROTO_SCTP)?;
        tried.once(sys::connect(&connected, &shot.target()));
        let optional = bound(shot, stream, IPPROTO_SCTP)?;
        let (level, option) = (IPPROTO_SCTP, SCTP_SOCKOPT_CONNECTX);
        tried.once(sys::set(&optional, level, option, &shot.target()));
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK;
        let many = bound(shot, kind, IPPROTO_SCTP)?;
        tried.once(sys::send(&many, MARK, 0, Some(&shot.target())));
        sockets.push((connected, optional, many));
    }
    thread::sleep(patience());
    Ok(tried)
}

/// An association with where one may. The far end's answer names all its addresses, and this kernel
/// asks at each of them whether it is a path.
pub(super) fn sctp_path(shot: &Shot) -> Result<Tried> {
    let socket = bound(shot, libc::SOCK_STREAM, IPPROTO_SCTP)?;
    let mut tried = Tried::default();
    sys::connect(&socket, &shot.target()).context("the first path, which may be")?;
    step("connected")?;
    for _ in 0..shot.count {
        tried.once(sys::send(&socket, MARK, libc::MSG_NOSIGNAL, None));
        thread::sleep(patience());
    }
    Ok(tried)
}
