//! Sockets as the kernel makes them.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Shot, step};
use crate::actor::Tried;
use crate::net::WIRE;
use crate::pace::paced;
use crate::sys;
use crate::wire::MARK;

/// A handshake on a wire takes microseconds.
pub(super) fn patience() -> Duration {
    paced(Duration::from_millis(400))
}

const IPPROTO_MPTCP: i32 = 262;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

pub(super) fn udp(shot: &Shot) -> Result<Tried> {
    let socket = bound(shot, libc::SOCK_DGRAM, 0)?;
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::send(&socket, MARK, 0, Some(&shot.target())));
    }
    Ok(tried)
}

pub(super) fn tcp(shot: &Shot) -> Result<Tried> {
    connections(shot, 0)
}

pub(super) fn mptcp(shot: &Shot) -> Result<Tried> {
    connections(shot, IPPROTO_MPTCP)
}

fn connections(shot: &Shot, protocol: i32) -> Result<Tried> {
    let mut tried = Tried::default();
    let mut sockets = Vec::new();
    for _ in 0..shot.count {
        let socket = bound(shot, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, protocol)?;
        tried.once(sys::connect(&socket, &shot.target()));
        sockets.push(socket);
    }
    thread::sleep(patience());
    Ok(tried)
}

/// Not bound: the socket is an IPv6 one, and what leaves is not.
pub(super) fn mapped_udp(shot: &Shot) -> Result<Tried> {
    let socket = sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?;
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::send(&socket, MARK, 0, Some(&mapped(shot)?)));
    }
    Ok(tried)
}

pub(super) fn mapped_tcp(shot: &Shot) -> Result<Tried> {
    let mut tried = Tried::default();
    let mut sockets = Vec::new();
    for _ in 0..shot.count {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
        let socket = sys::socket(libc::AF_INET6, kind, 0)?;
        tried.once(sys::connect(&socket, &mapped(shot)?));
        sockets.push(socket);
    }
    thread::sleep(patience());
    Ok(tried)
}

fn mapped(shot: &Shot) -> Result<Vec<u8>> {
    let to: Ipv4Addr = v4(shot.to)?;
    Ok(sys::internet(to.to_ipv6_mapped().into(), shot.port))
}

fn v4(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(_) => anyhow::bail!("{address} is no IPv4 address"),
    }
}

pub(super) fn ping(shot: &Shot) -> Result<Tried> {
    let (protocol, kind) = if shot.to.is_ipv4() {
        (libc::IPPROTO_ICMP, ECHO_REQUEST)
    } else {
        (libc::IPPROTO_ICMPV6, ECHO_REQUEST_V6)
    };
    let socket = bound(shot, libc::SOCK_DGRAM, protocol)?;
    let mut tried = Tried::default();
    for number in 0..shot.count {
        let [.., low] = number.to_be_bytes();
        let echo = [&[kind, 0, 0, 0, 0, 0, 0, low], MARK].concat();
        let to = sys::internet(shot.to, 0);
        tried.once(sys::send(&socket, &echo, 0, Some(&to)));
    }
    Ok(tried)
}

pub(super) fn fast_open(shot: &Shot) -> Result<Tried> {
    let mut tried = Tried::default();
    let mut sockets = Vec::new();
    for _ in 0..shot.count {
        let socket = bound(shot, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        let sent = sys::send(&socket, MARK, libc::MSG_FASTOPEN, Some(&shot.target()));
        tried.once(sent);
        sockets.push(socket);
    }
    thread::sleep(patience());
    Ok(tried)
}

/// A connection to where one may; the far end then names `via`, to which this kernel makes a path
/// of its own accord. Every path it may have tried counts as one attempt.
pub(super) fn mptcp_path(shot: &Shot) -> Result<Tried> {
    let socket = bound(shot, libc::SOCK_STREAM, IPPROTO_MPTCP)?;
    let mut tried = Tried::default();
    sys::connect(&socket, &shot.target()).context("the first path, which may be")?;
    sys::send(&socket, MARK, 0, None).context("on the first path")?;
    step("connected")?;
    for _ in 0..shot.count {
        // Data, for whatever path there is.
        tried.once(sys::send(&socket, MARK, libc::MSG_NOSIGNAL, None));
        thread::sleep(patience() / 4);
    }
    Ok(tried)
}

/// Multicast, broadcast, link-local: by the uplink, whatever a routing table says.
pub(super) fn special(shot: &Shot) -> Result<Tried> {
    let socket = bound(shot, libc::SOCK_DGRAM, 0)?;
    on_the_wire(&socket)?;
    sys::set_number(&socket, libc::SOL_SOCKET, libc::SO_BROADCAST, 1).context("SO_BROADCAST")?;
    if shot.to.is_ipv4() {
        let ttl = libc::IP_MULTICAST_TTL;
        sys::set_number(&socket, libc::IPPROTO_IP, ttl, 8).context("IP_MULTICAST_TTL")?;
    }
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::send(&socket, MARK, 0, Some(&shot.target())));
    }
    Ok(tried)
}

/// Whatever leaves, leaves by the wire.
pub(super) fn on_the_wire(socket: &OwnedFd) -> Result<()> {
    let device = WIRE.as_bytes();
    sys::set(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device).context("SO_BINDTODEVICE")
}

/// The name of a group is four bytes that the kernel sends by itself.
pub(super) fn join(shot: &Shot) -> Result<Tried> {
    let socket = bound(shot, libc::SOCK_DGRAM, 0)?;
    let device = sys::ifindex(WIRE)?;
    let mut tried = Tried::default();
    for number in 0..shot.count {
        let [.., low] = number.to_be_bytes();
        // `struct ip_mreqn`: group, address, device.
        let mut request = vec![239, 98, 119, low];
        request.extend([0; 4]);
        request.extend(device.to_ne_bytes());
        let joined = sys::set(&socket, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request);
        tried.once(joined);
    }
    // The kernel tells the routers within a second.
    thread::sleep(patience() * 4);
    Ok(tried)
}

/// The kernel cuts it into fragments; only the first has ports.
pub(super) fn large(shot: &Shot) -> Result<Tried> {
    let socket = bound(shot, libc::SOCK_DGRAM, 0)?;
    let payload = MARK.repeat(300);
    ensure!(payload.len() > 3000, "more than two packets' worth");
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::send(&socket, &payload, 0, Some(&shot.target())));
    }
    Ok(tried)
}

/// With the source address, so that it is the study's own.
pub(super) fn bound(shot: &Shot, kind: i32, protocol: i32) -> Result<OwnedFd> {
    let socket = sys::socket(shot.family(), kind, protocol).context("make a socket")?;
    sys::bind(&socket, &shot.source()).context("bind")?;
    Ok(socket)
}
