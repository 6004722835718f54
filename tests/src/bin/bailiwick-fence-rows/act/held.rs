//! Sockets that are older than what should judge them, or were somebody else's.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::socket::{bound, patience};
use super::{Shot, step};
use crate::actor::Tried;
use crate::sys;
use crate::wire::MARK;

pub(super) fn established(shot: &Shot) -> Result<Tried> {
    let socket = bound(shot, libc::SOCK_STREAM, 0)?;
    sys::connect(&socket, &shot.target()).context("connect, which may be")?;
    step("connected")?;
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::send(&socket, MARK, libc::MSG_NOSIGNAL, None));
        thread::sleep(patience() / 8);
    }
    thread::sleep(patience());
    Ok(tried)
}

pub(super) fn early(shot: &Shot) -> Result<Tried> {
    let socket = bound(shot, libc::SOCK_DGRAM, 0)?;
    step("made")?;
    Ok(use_it(&socket, shot))
}

pub(super) fn early_and_new(shot: &Shot) -> Result<Tried> {
    let old = bound(shot, libc::SOCK_DGRAM, 0)?;
    step("made")?;
    let mut tried = use_it(&old, shot);
    let new = bound(shot, libc::SOCK_DGRAM, 0)?;
    tried.add(&use_it(&new, shot));
    Ok(tried)
}

/// Tries nothing itself.
pub(super) fn lend(shot: &Shot) -> Result<Tried> {
    let socket = bound(shot, libc::SOCK_DGRAM, 0)?;
    let at = shot.meet.as_ref().context("where to meet")?;
    let listener = UnixListener::bind(at).context("listen")?;
    step("made")?;
    let (stream, _) = listener.accept().context("accept")?;
    let descriptors = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let flags = SendFlags::empty();
    sendmsg(&stream, &[IoSlice::new(b"x")], &mut ancillary, flags).context("hand it over")?;
    Ok(Tried::default())
}

pub(super) fn borrow(shot: &Shot) -> Result<Tried> {
    let at = shot.meet.as_ref().context("where to meet")?;
    let stream = UnixStream::connect(at).context("meet")?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    recvmsg(&stream, &mut buffers, &mut ancillary, RecvFlags::empty()).context("take it")?;
    let taken: Option<OwnedFd> = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut taken) => taken.next(),
        _ => None,
    });
    Ok(use_it(&taken.context("a socket")?, shot))
}

pub(super) fn unshare(shot: &Shot) -> Result<Tried> {
    sys::new_network_namespace().context("a new network namespace")?;
    step("alone")?;
    let socket = bound(shot, libc::SOCK_DGRAM, 0)?;
    Ok(use_it(&socket, shot))
}

/// Hands everything that comes to `via`, port 6000, on to `to`: somebody's proxy. Tries nothing
/// itself.
pub(super) fn relay(shot: &Shot) -> Result<Tried> {
    let here = shot.via.context("an address to listen on")?;
    let inner = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    sys::bind(&inner, &sys::internet(here, 6000)).context("listen")?;
    let outer = bound(shot, libc::SOCK_DGRAM, 0)?;
    let (target, inner) = (shot.target(), std::net::UdpSocket::from(inner));
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, _)) = inner.recv_from(&mut buffer) {
            let bytes = buffer.get(..length).unwrap_or_default();
            // What its own fence refuses is its own business.
            drop(sys::send(&outer, bytes, 0, Some(&target)));
        }
    });
    step("listening")?;
    Ok(Tried::default())
}

fn use_it(socket: &OwnedFd, shot: &Shot) -> Tried {
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::send(socket, MARK, 0, Some(&shot.target())));
    }
    tried
}
