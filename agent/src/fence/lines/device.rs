//! The network devices of this namespace, and what each is to the fence.

use std::io;

use bailiwick_ebpf_common::frame::link;

use crate::config::Devices;
use crate::netlink::{DUMP, Message, Netlink, attributes, number, text};

/// `RTM_NEWLINK`, `RTM_GETLINK`.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
/// `IFLA_IFNAME`, `IFLA_MASTER`, `IFLA_LINKINFO`, `IFLA_LINK_NETNSID`, `IFLA_INFO_KIND`.
const NAME: u16 = 3;
const MASTER: u16 = 10;
const INFO: u16 = 18;
const PEER_NAMESPACE: u16 = 37;
const KIND: u16 = 1;
/// `IFF_UP`, `IFF_LOOPBACK`.
const UP: u32 = 1;
const LOOPBACK: u32 = 8;
/// `ARPHRD_*` of devices whose frames begin with the IP header: PPP, IPv4 and IPv6 tunnels, SIT,
/// GRE of both families, none, raw IP.
const BARE: [u16; 8] = [512, 768, 769, 776, 778, 823, 0xfffe, 519];

/// Kinds through which a workload's packets come in, by `IFLA_INFO_KIND`.
const PORTS: [&str; 3] = ["veth", "tun", "netkit"];
/// Kinds whose packets go on by another device of this host, where they are seen.
const INSIDE: [&str; 12] = [
    "bridge", "bond", "team", "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "vrf", "ifb",
    "nlmon", "vcan",
];

/// One device, as the kernel lists it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    /// `veth`, `bridge`…; none for hardware.
    pub(super) kind: Option<String>,
    /// `ARPHRD_*`.
    pub(super) hardware: u16,
    pub(super) up: bool,
    pub(super) loopback: bool,
    /// The bridge or bond it is a port of.
    pub(super) master: Option<u32>,
    /// Number, in this namespace, of the namespace its other end is in.
    pub(super) peer_namespace: Option<i32>,
}

/// What a device is to the fence.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::fence) enum Role {
    /// Packets leave the host by it: the second line stands on its way out.
    Uplink,
    /// A workload is on its other side: the threshold stands on its way in.
    Port,
}

impl Device {
    /// What stands there, if anything. Found by itself is every device of which the fence does not
    /// know that its packets are seen elsewhere.
    pub(super) fn role(&self, uplinks: &Devices, ports: &Devices) -> Option<Role> {
        let named = |devices: &Devices| match devices {
            Devices::Auto => false,
            Devices::Named(names) => names.contains(&self.name),
        };
        if named(uplinks) {
            return Some(Role::Uplink);
        }
        if named(ports) {
            return Some(Role::Port);
        }
        let is_port = self.is_any(&PORTS);
        if *ports == Devices::Auto && is_port {
            return Some(Role::Port);
        }
        let leads_out = !self.loopback && !is_port && !self.is_any(&INSIDE);
        (*uplinks == Devices::Auto && leads_out).then_some(Role::Uplink)
    }

    fn is_any(&self, kinds: &[&str]) -> bool {
        self.kind
            .as_deref()
            .is_some_and(|kind| kinds.contains(&kind))
    }

    /// A `tun` or tap device, which a process of this host holds open.
    pub(super) fn is_tap(&self) -> bool {
        self.is_any(&["tun"])
    }

    /// How its frames begin: one of [`link`].
    pub(super) fn frames(&self) -> u32 {
        if BARE.contains(&self.hardware) {
            link::BARE
        } else {
            link::ETHERNET
        }
    }
}

/// All devices of this thread's network namespace.
pub(super) fn list(netlink: &mut Netlink) -> io::Result<Vec<Device>> {
    // `struct ifinfomsg`, of any family.
    let answer = netlink.ask(GET_LINK, DUMP, &[0; 16])?;
    Ok(answer.iter().filter_map(read).collect())
}

/// `struct ifinfomsg` and its attributes.
fn read((kind, body): &Message) -> Option<Device> {
    if *kind != NEW_LINK {
        return None;
    }
    let (head, rest) = body.split_first_chunk::<16>()?;
    let [_, _, h0, h1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *head;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let mut device = Device {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        hardware: u16::from_ne_bytes([h0, h1]),
        up: flags & UP != 0,
        loopback: flags & LOOPBACK != 0,
        ..Device::default()
    };
    for (kind, value) in attributes(rest) {
        match kind {
            NAME => device.name = text(value),
            MASTER => device.master = number(value),
            PEER_NAMESPACE => {
                device.peer_namespace = value.first_chunk().copied().map(i32::from_ne_bytes);
            }
            INFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == KIND);
                device.kind = kind.map(|(_, value)| text(value));
            }
            _ => {}
        }
    }
    Some(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute;

    fn device(name: &str, kind: Option<&str>) -> Device {
        Device {
            index: 7,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            ..Device::default()
        }
    }

    #[test]
    fn what_is_not_known_to_stay_inside_is_an_uplink() {
        let (uplink, port) = (Some(Role::Uplink), Some(Role::Port));
        let rows: &[(&str, Device, Option<Role>)] = &[
            ("hardware", device("eth0", None), uplink),
            ("wireguard", device("wg0", Some("wireguard")), uplink),
            ("vxlan", device("vx0", Some("vxlan")), uplink),
            ("a kind of tomorrow", device("x0", Some("warp")), uplink),
            ("veth", device("veth1", Some("veth")), port),
            ("tap", device("tap0", Some("tun")), port),
            ("netkit", device("nk0", Some("netkit")), port),
            (
                "a veth in a bridge",
                Device {
                    master: Some(3),
                    ..device("v", Some("veth"))
                },
                port,
            ),
            (
                "hardware in a bond",
                Device {
                    master: Some(3),
                    ..device("e", None)
                },
                uplink,
            ),
            ("bridge", device("br0", Some("bridge")), None),
            ("bond", device("bond0", Some("bond")), None),
            ("vlan", device("eth0.7", Some("vlan")), None),
            ("macvtap", device("mt0", Some("macvtap")), None),
            (
                "loopback",
                Device {
                    loopback: true,
                    ..device("lo", None)
                },
                None,
            ),
        ];
        for (name, device, want) in rows {
            let found = device.role(&Devices::Auto, &Devices::Auto);
            assert_eq!(found, *want, "{name}");
            let none = Devices::Named([].into());
            assert_eq!(device.role(&none, &none), None, "{name}: nothing asked for");
        }
    }

    #[test]
    fn what_is_named_is_what_it_is_named_for() {
        let named = |name: &str| Devices::Named([name.to_owned()].into());
        let veth = device("veth1", Some("veth"));
        let rows = [
            (
                "an uplink",
                named("veth1"),
                Devices::Auto,
                Some(Role::Uplink),
            ),
            ("a port", Devices::Auto, named("veth1"), Some(Role::Port)),
            (
                "another uplink",
                named("veth2"),
                Devices::Auto,
                Some(Role::Port),
            ),
            ("another port", Devices::Auto, named("veth2"), None),
        ];
        for (name, uplinks, ports, want) in rows {
            assert_eq!(veth.role(&uplinks, &ports), want, "{name}");
        }
    }

    #[test]
    fn frames_begin_as_the_hardware_says() {
        for (hardware, want) in [
            (1, link::ETHERNET),
            (0xfffe, link::BARE),
            (776, link::BARE),
            (512, link::BARE),
            (32, link::ETHERNET),
        ] {
            let device = Device {
                hardware,
                ..Device::default()
            };
            assert_eq!(device.frames(), want, "{hardware}");
        }
    }

    #[test]
    fn a_device_is_read_from_its_message() {
        let mut body = vec![0; 16];
        body[2..4].copy_from_slice(&1_u16.to_ne_bytes());
        body[4..8].copy_from_slice(&9_u32.to_ne_bytes());
        body[8..12].copy_from_slice(&1_u32.to_ne_bytes());
        attribute(&mut body, NAME, b"veth1\0");
        attribute(&mut body, MASTER, &3_u32.to_ne_bytes());
        attribute(&mut body, PEER_NAMESPACE, &2_i32.to_ne_bytes());
        let mut info = Vec::new();
        attribute(&mut info, KIND, b"veth\0");
        attribute(&mut body, INFO, &info);
        let want = Device {
            index: 9,
            hardware: 1,
            up: true,
            master: Some(3),
            peer_namespace: Some(2),
            ..device("veth1", Some("veth"))
        };
        assert_eq!(read(&(NEW_LINK, body.clone())), Some(want));
        assert_eq!(read(&(GET_LINK, body.clone())), None, "another message");
        assert_eq!(read(&(NEW_LINK, body[..15].to_vec())), None, "cut");
    }
}
