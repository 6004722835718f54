//! Network devices and their addresses, as rtnetlink lists them: which of them lead out of the host.
//!
//! Layouts: `struct ifinfomsg` and `IFLA_*` of `include/uapi/linux/if_link.h`, `struct ifaddrmsg`
//! and `IFA_*` of `include/uapi/linux/if_addr.h`.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    config::Devices,
    netlink::{DUMP, Message, Netlink, attributes, number, text},
};

/// `RTM_NEWLINK`, `RTM_GETLINK`, `RTM_NEWADDR`, `RTM_GETADDR`.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
/// `IFLA_IFNAME`, `IFLA_LINK`, `IFLA_MASTER`, `IFLA_LINKINFO`, `IFLA_INFO_KIND`.
const NAME: u16 = 3;
const BELOW: u16 = 5;
const MASTER: u16 = 10;
const INFO: u16 = 18;
const KIND: u16 = 1;
/// `ARPHRD_ETHER`, `IFF_LOOPBACK`.
const ETHERNET: u16 = 1;
const LOOPBACK: u32 = 8;
/// `IFA_ADDRESS`, `IFA_LOCAL`, `IFA_FLAGS`.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const FLAGS: u16 = 8;
/// `RT_SCOPE_LINK`: this scope and those above lead nowhere.
const SCOPE_LINK: u8 = 253;
/// `IFA_F_TEMPORARY`, `_DADFAILED`, `_DEPRECATED`, `_TENTATIVE`: of IPv6 addresses that come and go
/// by themselves.
const PASSING: u32 = 0x01 | 0x08 | 0x20 | 0x40;
/// Kinds of devices whose packets leave by the device below.
const ABOVE: [&str; 3] = ["vlan", "macvlan", "macsec"];
/// Most devices that are listened on; a host has a few ports, and functions of them.
const MOST: usize = 32;
/// How deep devices stand on each other: a bridge on a VLAN on a bond.
const DEPTH: usize = 8;

/// One device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `bond`, `vlan`…; none for hardware.
    kind: Option<String>,
    ethernet: bool,
    loopback: bool,
    master: Option<u32>,
    below: Option<u32>,
}

/// All devices of this thread's network namespace.
pub(super) fn list(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let answer = netlink.ask(GET_LINK, DUMP, &[0; 16])?;
    Ok(answer.iter().filter_map(link).collect())
}

fn link((kind, body): &Message) -> Option<Link> {
    if *kind != NEW_LINK {
        return None;
    }
    let (head, rest) = body.split_first_chunk::<16>()?;
    let [_, _, h0, h1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *head;
    let mut link = Link {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        ethernet: u16::from_ne_bytes([h0, h1]) == ETHERNET,
        loopback: u32::from_ne_bytes([f0, f1, f2, f3]) & LOOPBACK != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(rest) {
        match kind {
            NAME => link.name = text(value),
            BELOW => link.below = number(value),
            MASTER => link.master = number(value),
            INFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == KIND);
                link.kind = kind.map(|(_, value)| text(value));
            }
            _ => {}
        }
    }
    Some(link)
}

/// Where a neighbour can be heard: hardware, or what the configuration names; of a bond its ports,
/// to which switches speak each by itself.
pub(super) fn heard_on<'l>(links: &'l [Link], wanted: &Devices) -> Vec<&'l Link> {
    let hardware = |link: &&Link| link.kind.is_none() && link.ethernet && !link.loopback;
    let mut found: Vec<&Link> = match wanted {
        Devices::Auto => links.iter().filter(hardware).collect(),
        Devices::Named(names) => {
            let mut found = Vec::new();
            for link in links.iter().filter(|link| names.contains(&link.name)) {
                let within = |port: &&Link| under(links, port, link.index);
                let ports: Vec<&Link> = links.iter().filter(hardware).filter(within).collect();
                match ports.is_empty() {
                    true if link.ethernet => found.push(link),
                    _ => found.extend(ports),
                }
            }
            found
        }
    };
    found.sort_by_key(|link| link.index);
    found.dedup_by_key(|link| link.index);
    found.truncate(MOST);
    found
}

/// Whether a device is a port of another, or of a port of it.
fn under(links: &[Link], port: &Link, master: u32) -> bool {
    let mut at = port.master;
    for _ in 0..DEPTH {
        match at {
            Some(index) if index == master => return true,
            Some(index) => {
                let above = links.iter().find(|link| link.index == index);
                at = above.and_then(|link| link.master);
            }
            None => return false,
        }
    }
    false
}

/// Devices whose addresses packets have that leave by those: they, and what stands on them.
pub(super) fn standing_on(links: &[Link], heard_on: &[&Link]) -> BTreeSet<u32> {
    let mut found: BTreeSet<u32> = heard_on.iter().map(|link| link.index).collect();
    for _ in 0..DEPTH {
        let before = found.len();
        for link in links {
            if found.contains(&link.index) {
                found.extend(link.master);
            }
            let above = link
                .kind
                .as_deref()
                .is_some_and(|kind| ABOVE.contains(&kind));
            if above && link.below.is_some_and(|below| found.contains(&below)) {
                found.insert(link.index);
            }
        }
        if found.len() == before {
            break;
        }
    }
    found
}

/// Addresses of those devices that packets can have as their source beyond the link.
pub(super) fn addresses(
    netlink: &mut Netlink,
    devices: &BTreeSet<u32>,
) -> io::Result<BTreeSet<IpAddr>> {
    let answer = netlink.ask(GET_ADDRESS, DUMP, &[0; 8])?;
    let found = answer.iter().filter_map(address);
    let found = found.filter(|(device, _)| devices.contains(device));
    Ok(found.map(|(_, address)| address).collect())
}

fn address((kind, body): &Message) -> Option<(u32, IpAddr)> {
    if *kind != NEW_ADDRESS {
        return None;
    }
    let (head, rest) = body.split_first_chunk::<8>()?;
    let [_, _, flags, scope, i0, i1, i2, i3] = *head;
    if scope >= SCOPE_LINK {
        return None;
    }
    let (mut flags, mut address, mut local) = (u32::from(flags), None, None);
    for (kind, value) in attributes(rest) {
        match kind {
            ADDRESS => address = ip(value),
            LOCAL => local = ip(value),
            FLAGS => flags = number(value).unwrap_or(flags),
            _ => {}
        }
    }
    // Of a tunnel's ends `IFA_ADDRESS` is the other.
    let address = local.or(address)?;
    let passing = address.is_ipv6() && flags & PASSING != 0;
    (!passing).then(|| (u32::from_ne_bytes([i0, i1, i2, i3]), address))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value
            .try_into()
            .ok()
            .map(|bytes: [u8; 4]| Ipv4Addr::from(bytes).into()),
        _ => value
            .try_into()
            .ok()
            .map(|bytes: [u8; 16]| Ipv6Addr::from(bytes).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute;

    fn device(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            ethernet: true,
            ..Link::default()
        }
    }

    fn on(mut link: Link, master: Option<u32>, below: Option<u32>) -> Link {
        (link.master, link.below) = (master, below);
        link
    }

    #[test]
    fn what_leads_out_is_listened_on_and_what_stands_on_it_has_its_addresses() {
        let links = [
            Link {
                loopback: true,
                ..device(1, "lo", None)
            },
            on(device(2, "eth0", None), Some(4), None),
            on(device(3, "eth1", None), Some(4), None),
            on(device(4, "bond0", Some("bond")), Some(6), None),
            on(device(5, "bond0.7", Some("vlan")), None, Some(4)),
            device(6, "br0", Some("bridge")),
            on(device(7, "veth1", Some("veth")), Some(6), Some(2)),
            device(8, "eth2", None),
            Link {
                ethernet: false,
                ..device(9, "ib0", None)
            },
            device(10, "docker0", Some("bridge")),
        ];
        let named = |name: &str| Devices::Named([name.to_owned()].into());
        let rows = [
            (
                "found",
                Devices::Auto,
                vec![2, 3, 8],
                vec![2, 3, 4, 5, 6, 8],
            ),
            ("one of them", named("eth2"), vec![8], vec![8]),
            ("a bond", named("bond0"), vec![2, 3], vec![2, 3, 4, 5, 6]),
            (
                "the bridge above it",
                named("br0"),
                vec![2, 3],
                vec![2, 3, 4, 5, 6],
            ),
            (
                "a port of a workload, by name",
                named("veth1"),
                vec![7],
                vec![6, 7],
            ),
            ("one without Ethernet", named("ib0"), vec![], vec![]),
            ("none", Devices::Named(BTreeSet::new()), vec![], vec![]),
        ];
        for (name, wanted, heard, with_addresses) in rows {
            let found = heard_on(&links, &wanted);
            let at: Vec<u32> = found.iter().map(|link| link.index).collect();
            assert_eq!(at, heard, "{name}");
            let standing: Vec<u32> = standing_on(&links, &found).into_iter().collect();
            assert_eq!(standing, with_addresses, "{name}");
        }
        let many: Vec<Link> = (1..100)
            .map(|at| device(at, &format!("e{at}"), None))
            .collect();
        assert_eq!(heard_on(&many, &Devices::Auto).len(), MOST);
        let ring = [on(device(1, "a", None), Some(1), Some(1))];
        assert!(!under(&ring, &ring[0], 9), "a ring has an end");
    }

    #[test]
    fn addresses_that_stay_are_told_and_those_that_pass_are_not() {
        let message = |flags: u32, scope: u8, parts: &[(u16, &[u8])]| {
            let mut body = vec![2, 24, 0x80, scope];
            body.extend(7_u32.to_ne_bytes());
            for (kind, value) in parts {
                attribute(&mut body, *kind, value);
            }
            attribute(&mut body, FLAGS, &flags.to_ne_bytes());
            (NEW_ADDRESS, body)
        };
        let v6 = "2001:db8::5".parse::<Ipv6Addr>().unwrap().octets();
        let four: &[(u16, &[u8])] = &[(ADDRESS, &[10, 0, 0, 9]), (LOCAL, &[10, 0, 0, 5])];
        let six: &[(u16, &[u8])] = &[(ADDRESS, &v6)];
        let rows = [
            (
                "IPv4, by its own end",
                message(0x81, 0, four),
                Some("10.0.0.5"),
            ),
            ("IPv6", message(0x80, 0, six), Some("2001:db8::5")),
            ("IPv6 of a day", message(0x81, 0, six), None),
            ("IPv6 that was", message(0xa0, 0, six), None),
            ("IPv6 not yet", message(0xc0, 0, six), None),
            ("of the link", message(0, 253, six), None),
            ("of the host", message(0, 254, four), None),
            ("no address", message(0, 0, &[]), None),
            (
                "half an address",
                message(0, 0, &[(ADDRESS, &[1, 2])]),
                None,
            ),
        ];
        for (name, message, want) in rows {
            let found = address(&message).map(|(device, address)| (device, address.to_string()));
            assert_eq!(found, want.map(|want| (7, want.to_owned())), "{name}");
        }
        assert_eq!(address(&(NEW_ADDRESS, vec![2; 7])), None, "cut");
        assert_eq!(address(&(NEW_LINK, vec![0; 40])), None, "another message");
    }
}
