//! What is beside this host, on the wires that lead out of it: switches that say who they are
//! (LLDP), and the addresses by which packets leave.
//!
//! A machine that was carried away meets other switches. It is the network's word, heard by the
//! kernel: whoever holds the wire can say what the switch said, so it proves no place; it tells
//! that one changed.
//!
//! One socket per device takes frames of this one ethertype. Nobody waits at it: what has come
//! meanwhile is read when facts are, a few frames at most.

mod heard;
mod links;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, net::IpAddr, os::fd::OwnedFd, time::Instant};

use bailiwick_attestation::{
    host::{LLDP_ETHERTYPE, LLDP_LIMIT, Neighbour},
    proto::v1::{Claim, claim::Value},
};
use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use self::heard::Heard;
use super::{MAX_TEXT, claim, why};
use crate::{config::Devices, netlink::Netlink, sys::packet};

/// To whom switches send them: nearest bridge, nearest bridge that is no two-port one, nearest
/// customer bridge (IEEE 802.1AB, table 7-1).
const GROUPS: [[u8; 6]; 3] = [
    [0x01, 0x80, 0xc2, 0, 0, 0x0e],
    [0x01, 0x80, 0xc2, 0, 0, 0x03],
    [0x01, 0x80, 0xc2, 0, 0, 0x00],
];
/// Most frames of one device that one look reads.
const FRAMES: usize = 64;

/// Ears on the wires.
#[derive(Debug)]
pub struct Uplinks {
    wanted: Devices,
    /// By index of the device and its name, which a later device of this index need not have.
    ears: BTreeMap<(u32, String), Ear>,
}

#[derive(Debug)]
struct Ear {
    socket: OwnedFd,
    heard: Heard,
}

impl Uplinks {
    /// Listens on nothing yet.
    #[must_use]
    pub const fn new(wanted: Devices) -> Self {
        Self {
            wanted,
            ears: BTreeMap::new(),
        }
    }

    /// What is beside the host now. Nothing where no uplinks are wanted.
    pub fn look(&mut self, now: Instant) -> Vec<Claim> {
        if matches!(&self.wanted, Devices::Named(names) if names.is_empty()) {
            return Vec::new();
        }
        let mut claims = Vec::new();
        if let Err(err) = self.claims(now, &mut claims) {
            let unavailable = Value::Unavailable(why(&err));
            claims.push(claim("uplink.addresses", "rtnetlink", unavailable));
        }
        claims
    }

    fn claims(&mut self, now: Instant, out: &mut Vec<Claim>) -> io::Result<()> {
        let mut netlink = Netlink::new()?;
        let all = links::list(&mut netlink)?;
        let wanted = links::heard_on(&all, &self.wanted);
        self.ears.retain(|(index, name), _| {
            let same = |link: &&links::Link| link.index == *index && link.name == *name;
            wanted.iter().any(same)
        });
        for link in &wanted {
            let name = spelt(link);
            let source = format!("LLDP on {}", link.name);
            let mut put = |what: &str, value| {
                out.push(claim(&format!("uplink.{name}.{what}"), &source, value));
            };
            match self.ear(link, now).map(|ear| ear.listen(now)) {
                Ok(Some(said)) => {
                    put("neighbours", Value::Text(said.neighbours));
                    if !said.systems.is_empty() {
                        put("systems", Value::Text(said.systems));
                    }
                }
                Ok(None) => put(
                    "neighbours",
                    Value::Unavailable("nobody heard yet".to_owned()),
                ),
                Err(err) => put("neighbours", Value::Unavailable(why(&err))),
            }
        }
        let devices = links::standing_on(&all, &wanted);
        let addresses = links::addresses(&mut netlink, &devices)?;
        let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let value = match addresses.join(", ") {
            text if text.len() <= MAX_TEXT => Value::Text(text),
            _ => Value::Unavailable(format!("{} addresses", addresses.len())),
        };
        out.push(claim("uplink.addresses", "rtnetlink", value));
        Ok(())
    }

    fn ear(&mut self, link: &links::Link, now: Instant) -> io::Result<&mut Ear> {
        use std::collections::btree_map::Entry;
        Ok(match self.ears.entry((link.index, link.name.clone())) {
            Entry::Occupied(ear) => ear.into_mut(),
            Entry::Vacant(place) => place.insert(Ear {
                socket: packet::listen(link.index, LLDP_ETHERTYPE, &GROUPS)?,
                heard: Heard::new(now),
            }),
        })
    }
}

impl Ear {
    fn listen(&mut self, now: Instant) -> Option<heard::Said> {
        // One byte more than a frame may have shows that it has more.
        let mut room = [0; LLDP_LIMIT + 1];
        for _ in 0..FRAMES {
            match recv(&self.socket, &mut room[..], RecvFlags::empty()) {
                Ok((_, length)) => {
                    // What is no such frame was sent by somebody on the wire, and says nothing.
                    let frame = room.get(..length).unwrap_or_default();
                    if let Ok(neighbour) = Neighbour::parse(frame) {
                        self.heard.take(now, neighbour);
                    }
                }
                Err(Errno::INTR | Errno::NETDOWN) => {}
                Err(_) => break,
            }
        }
        self.heard.say(now)
    }
}

/// A device's name as a claim's may be; by its index where it has other letters.
fn spelt(link: &links::Link) -> String {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    match link.name.bytes().all(plain) {
        true => link.name.clone(),
        false => format!("if{}", link.index),
    }
}
