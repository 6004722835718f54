//! Packets with a header of the attacker's own, by a raw socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};

use super::Shot;
use crate::actor::Tried;
use crate::sys;
use crate::wire::{self, MARK, V4};

/// The header says `to`; the socket is told `via`, where there is one.
pub(super) fn raw(shot: &Shot) -> Result<Tried> {
    let packet = wire::datagram(shot.from, shot.to, shot.port);
    send(shot, &packet, shot.via.unwrap_or(shot.to))
}

/// From the middle of something that was never begun.
pub(super) fn late_fragment(shot: &Shot) -> Result<Tried> {
    let payload = MARK.repeat(4);
    let packet = match (shot.from, shot.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = V4 {
                fragment: 185,
                protocol: 17,
                options: &[],
            };
            wire::ipv4(from, to, header, &payload)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = (185_u16 << 3).to_be_bytes();
            let fragment = [&[17, 0, high, low, 0, 0, 0, 9], payload.as_slice()].concat();
            wire::ipv6(from, to, 44, &fragment)
        }
        _ => bail!("addresses of two families"),
    };
    send(shot, &packet, shot.to)
}

/// Both addresses, where they are IPv6.
pub(super) fn v6(shot: &Shot) -> Result<(Ipv6Addr, Ipv6Addr)> {
    match (shot.from, shot.to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => Ok((from, to)),
        _ => bail!("{} and {} are not IPv6", shot.from, shot.to),
    }
}

/// Both addresses, where they are IPv4.
pub(super) fn v4(shot: &Shot) -> Result<(Ipv4Addr, Ipv4Addr)> {
    match (shot.from, shot.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Ok((from, to)),
        _ => bail!("{} and {} are not IPv4", shot.from, shot.to),
    }
}

/// As often as the shot says; the kernel routes it to `next`.
pub(super) fn send(shot: &Shot, packet: &[u8], next: IpAddr) -> Result<Tried> {
    let socket = sys::socket(shot.family(), libc::SOCK_RAW, libc::IPPROTO_RAW)
        .context("make a raw socket")?;
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        let to = sys::internet(next, 0);
        tried.once(sys::send(&socket, packet, 0, Some(&to)));
    }
    Ok(tried)
}
