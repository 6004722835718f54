//! Headers behind the header: what hides ports, and what sends a packet elsewhere than it says.

use std::net::IpAddr;

use anyhow::{Context as _, Result};

use super::{Shot, packet, socket};
use crate::actor::Tried;
use crate::sys;
use crate::wire::{self, MARK, V4};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const UDP: u8 = 17;

/// Options that mean nothing, in front of a datagram; where a careless reader would look for the
/// ports stands 5000.
pub(super) fn extended(shot: &Shot) -> Result<Tried> {
    let (from, to) = packet::v6(shot)?;
    let mut payload = vec![DESTINATION, 0, 1, 4, 0x13, 0x88, 0x13, 0x88];
    payload.extend([UDP, 0, 1, 4, 0x13, 0x88, 0x13, 0x88]);
    payload.extend(wire::udp(from.into(), to.into(), (5001, shot.port), MARK));
    let whole = wire::ipv6(from, to, HOP_BY_HOP, &payload);
    packet::send(shot, &whole, shot.to)
}

/// Nine and forty of them.
pub(super) fn many(shot: &Shot) -> Result<Tried> {
    let (from, to) = packet::v6(shot)?;
    let mut tried = Tried::default();
    for number in [9_usize, 40] {
        let mut payload = Vec::new();
        for left in (0..number).rev() {
            let next = if left == 0 { UDP } else { DESTINATION };
            payload.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        payload.extend(wire::udp(from.into(), to.into(), (5001, shot.port), MARK));
        let whole = wire::ipv6(from, to, DESTINATION, &payload);
        tried.add(&packet::send(shot, &whole, shot.to)?);
    }
    Ok(tried)
}

/// Solicitations and advertisements for the whole link, as only a neighbour's kernel writes them,
/// with a payload where options stand.
pub(super) fn neighbour(shot: &Shot) -> Result<Tried> {
    let (from, to) = packet::v6(shot)?;
    let raw = sys::socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    socket::on_the_wire(&raw)?;
    let mut tried = Tried::default();
    for kind in 133_u8..=136 {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(to.octets());
        // An option of a kind that nobody knows, eight bytes a unit.
        message.extend([253, 8]);
        message.extend(MARK.iter().cycle().take(62));
        let mut whole = wire::ipv6(from, to, 58, &message);
        if let Some(hops) = whole.get_mut(7) {
            *hops = 255;
        }
        for _ in 0..shot.count {
            let next = sys::internet(shot.to, 0);
            tried.once(sys::send(&raw, &whole, 0, Some(&next)));
        }
    }
    Ok(tried)
}

/// The header's destination is `via`; where the packet is to end stands behind it.
pub(super) fn routing(shot: &Shot) -> Result<Tried> {
    let (from, to) = packet::v6(shot)?;
    let Some(IpAddr::V6(via)) = shot.via else {
        anyhow::bail!("no address on the way");
    };
    let mut tried = Tried::default();
    // Type 0 (RFC 2460), 2 (mobile), 3 (RPL), 4 (segments).
    for kind in [0_u8, 2, 3, 4] {
        for behind_options in [false, true] {
            let mut payload = Vec::new();
            if behind_options {
                payload.extend([ROUTING, 0, 1, 4, 0, 0, 0, 0]);
            }
            payload.extend([UDP, 2, kind, 1, 0, 0, 0, 0]);
            payload.extend(to.octets());
            payload.extend(wire::udp(from.into(), to.into(), (5001, shot.port), MARK));
            let next = if behind_options { DESTINATION } else { ROUTING };
            let whole = wire::ipv6(from, via, next, &payload);
            tried.add(&packet::send(shot, &whole, via.into())?);
        }
    }
    Ok(tried)
}

/// Loose and strict, asked of the kernel and written by hand, first among the options and last.
pub(super) fn source_route(shot: &Shot) -> Result<Tried> {
    let (from, to) = packet::v4(shot)?;
    let Some(IpAddr::V4(via)) = shot.via else {
        anyhow::bail!("no address on the way");
    };
    let mut tried = Tried::default();
    for kind in [131_u8, 137] {
        // As a socket takes it: the first hop in front, the kernel puts the destination last.
        let [a, b, c, d] = via.octets();
        let option = [kind, 7, 4, a, b, c, d, 0];
        let socket = socket::bound(shot, libc::SOCK_DGRAM, 0)?;
        sys::set(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &option).context("IP_OPTIONS")?;
        for _ in 0..shot.count {
            tried.once(sys::send(&socket, MARK, 0, Some(&shot.target())));
        }
        let [a, b, c, d] = to.octets();
        for options in [
            vec![kind, 7, 4, a, b, c, d, 0],
            vec![1, kind, 7, 4, a, b, c, d],
            [vec![1; 33], vec![kind, 7, 4, a, b, c, d]].concat(),
        ] {
            let header = V4 {
                options: &options,
                protocol: UDP,
                fragment: 0,
            };
            let udp = wire::udp(from.into(), to.into(), (5001, shot.port), MARK);
            let whole = wire::ipv4(from, via, header, &udp);
            tried.add(&packet::send(shot, &whole, via.into())?);
        }
    }
    Ok(tried)
}
