//! IP headers, read within bounds.

use crate::Address;
use crate::policy::essential;

/// Bytes of a packet, from its network header on.
pub trait Packet {
    /// `N` bytes at `offset`, or `None` where the packet is shorter.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// The same, all zero where the packet is shorter.
    ///
    /// Not `load` with a default: to the kernel's verifier a branch here would double the number
    /// of paths through everything that follows.
    fn load_or_zero<const N: usize>(&self, offset: u32) -> [u8; N];
}

impl Packet for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(crate::index(offset)..)?.first_chunk().copied()
    }

    fn load_or_zero<const N: usize>(&self, offset: u32) -> [u8; N] {
        self.load(offset).unwrap_or([0; N])
    }
}

/// Why a packet could not be judged by its header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// Shorter than its headers, or of no known version.
    Header,
    /// The header's destination is not where the packet goes (IPv4 source route, IPv6 routing).
    SourceRoute,
    /// More extension headers than [`MAX_EXTENSIONS`].
    Extensions,
}

/// IPv6 extension headers that are walked; RFC 8200 names fewer kinds than this.
pub const MAX_EXTENSIONS: u32 = 8;

/// What the rules look at. Everything is as the header says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flow {
    /// Where it comes from.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// The first four bytes of layer 4, big-endian; zero where the packet ends before.
    pub upper: u32,
    /// Fragment offset in units of 8 bytes; not 0: the ports are in another packet.
    pub fragment: u16,
    /// Layer 4 protocol number.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TCP's flags; of other protocols whatever stands there.
    pub flags: u8,
    /// 1: an ICMPv6 message longer than [`DISCOVERY`].
    pub long: u8,
}

/// Bytes of the longest solicitation or advertisement that a kernel sends: 24, and one option, which
/// holds a link address of InfiniBand at most.
pub const DISCOVERY: u32 = 48;

/// A type of ICMPv6.
const ROUTER_ADVERTISEMENT: u8 = 134;

/// Protocol numbers (IANA).
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// Group membership for IPv4.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    pub(super) const DCCP: u8 = 33;
    pub(super) const SCTP: u8 = 132;
    pub(super) const UDP_LITE: u8 = 136;
}

impl Flow {
    /// Reads the headers. Trusts no length but its own.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(packet: &P) -> Result<Self, Malformed> {
        let [first] = packet.load::<1>(0).ok_or(Malformed::Header)?;
        let (flow, upper) = match first >> 4 {
            4 => Self::parse_v4(packet, first)?,
            6 => Self::parse_v6(packet)?,
            _ => return Err(Malformed::Header),
        };
        // In one place for both families: each read is room on the stack, of which Linux 6.1 counts
        // every function in steps of 32 bytes.
        Ok(Self {
            upper: u32::from_be_bytes(packet.load_or_zero(upper)),
            flags: u8::from_be_bytes(packet.load_or_zero(upper + 13)),
            long: u8::from(
                flow.protocol == protocol::ICMPV6 && packet.load::<1>(upper + DISCOVERY).is_some(),
            ),
            ..flow
        })
    }

    /// All but layer 4, and where that begins.
    #[inline(always)]
    fn parse_v4<P: Packet + ?Sized>(packet: &P, first: u8) -> Result<(Self, u32), Malformed> {
        let header = packet.load::<20>(0).ok_or(Malformed::Header)?;
        let [
            _,
            _,
            _,
            _,
            _,
            _,
            f0,
            f1,
            ttl,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = header;
        let length = u32::from(first & 0x0f) * 4;
        if length < 20 {
            return Err(Malformed::Header);
        }
        if length > 20 {
            refuse_source_route(packet, length)?;
        }
        let flow = Self {
            source: Address::from_v4(u32::from_be_bytes([s0, s1, s2, s3])),
            destination: Address::from_v4(u32::from_be_bytes([d0, d1, d2, d3])),
            upper: 0,
            fragment: u16::from_be_bytes([f0, f1]) & 0x1fff,
            protocol,
            hop_limit: ttl,
            flags: 0,
            long: 0,
        };
        Ok((flow, length))
    }

    /// The same of IPv6, behind its extension headers.
    #[inline(always)]
    fn parse_v6<P: Packet + ?Sized>(packet: &P) -> Result<(Self, u32), Malformed> {
        let destination = packet.load::<16>(24).ok_or(Malformed::Header)?;
        let source = packet.load_or_zero(8);
        let [mut next, hop_limit] = packet.load_or_zero(6);
        let mut offset = 40;
        let mut fragment = 0;
        let mut walked = 0;
        loop {
            // Lengths in units of 8 beyond the first 8 bytes, but AH (51): units of 4, plus 8.
            let unit = match next {
                0 | 60 | 135 | 139 | 140 => 8,
                51 => 4,
                44 => 0,
                43 => return Err(Malformed::SourceRoute),
                _ => break,
            };
            if walked == MAX_EXTENSIONS {
                return Err(Malformed::Extensions);
            }
            walked += 1;
            let [following, length, f0, f1] = packet.load::<4>(offset).ok_or(Malformed::Header)?;
            offset += 8 + u32::from(length) * unit;
            if next == 44 {
                fragment = u16::from_be_bytes([f0, f1]) >> 3;
                if fragment != 0 {
                    next = following;
                    break; // what follows is the middle of something
                }
            }
            next = following;
        }
        let flow = Self {
            source: Address::from_bytes(source),
            destination: Address::from_bytes(destination),
            upper: 0,
            fragment,
            protocol: next,
            hop_limit,
            flags: 0,
            long: 0,
        };
        Ok((flow, offset))
    }

    /// The same flow, forgotten by the verifier: see [`crate::Question::zero`].
    #[inline(always)]
    #[must_use]
    pub fn washed(&self, zero: u64) -> Self {
        let [.., c, d, e, f] = zero.to_be_bytes();
        Self {
            source: Address {
                hi: self.source.hi ^ zero,
                lo: self.source.lo ^ zero,
            },
            destination: Address {
                hi: self.destination.hi ^ zero,
                lo: self.destination.lo ^ zero,
            },
            upper: self.upper ^ u32::from_be_bytes([c, d, e, f]),
            fragment: self.fragment ^ u16::from_be_bytes([e, f]),
            protocol: self.protocol ^ f,
            hop_limit: self.hop_limit ^ f,
            flags: self.flags ^ f,
            long: self.long ^ f,
        }
    }

    /// The packet says between which ports it goes. Later fragments do not.
    #[inline(always)]
    #[must_use]
    pub fn has_ports(&self) -> bool {
        self.fragment == 0
            && matches!(
                self.protocol,
                protocol::TCP
                    | protocol::UDP
                    | protocol::DCCP
                    | protocol::SCTP
                    | protocol::UDP_LITE
            )
    }

    /// Where [`Flow::has_ports`].
    #[inline(always)]
    #[must_use]
    pub fn source_port(&self) -> u16 {
        let [a, b, _, _] = self.upper.to_be_bytes();
        u16::from_be_bytes([a, b])
    }

    /// Where [`Flow::has_ports`].
    #[inline(always)]
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        let [_, _, a, b] = self.upper.to_be_bytes();
        u16::from_be_bytes([a, b])
    }

    /// Not an answer within an existing TCP connection: SYN without ACK, or not TCP at all.
    #[inline(always)]
    #[must_use]
    pub fn opens(&self) -> bool {
        self.protocol != protocol::TCP || self.flags & 0x12 == 0x02 || self.flags == 0
    }

    /// Neighbour discovery that cannot leave the link: solicitations and advertisements (RFC 4861)
    /// with the hop limit no router leaves at 255, to a link-local address.
    ///
    /// On the way out only what a host's kernel sends: no advertisement of a router, and no room
    /// for a payload behind it. Anybody with a raw socket can write one to the whole link.
    #[inline(always)]
    #[must_use]
    pub fn is_neighbour_discovery(&self, ingress: bool) -> bool {
        let [kind, _, _, _] = self.upper.to_be_bytes();
        let a_hosts = kind != ROUTER_ADVERTISEMENT && self.long == 0;
        (ingress || a_hosts)
            && self.protocol == protocol::ICMPV6
            && self.fragment == 0
            && (133..=136).contains(&kind)
            && self.hop_limit == 255
            && self.source.v4().is_none()
            && (self.destination.is_link_local() || self.destination.is_link_multicast())
    }

    /// What a kernel tells one neighbour, wherever its address is from: whoever asks by a global
    /// address is answered there (RFC 4861, 7.2.4), and asked there whether it is still up.
    ///
    /// A router would carry it further, so it is nobody's but the host's own, and has no room for a
    /// payload either.
    #[inline(always)]
    #[must_use]
    pub fn tells_a_neighbour(&self, ingress: bool) -> bool {
        let [kind, _, _, _] = self.upper.to_be_bytes();
        !ingress
            && self.protocol == protocol::ICMPV6
            && self.fragment == 0
            && (kind == 135 || kind == 136)
            && self.hop_limit == 255
            && self.long == 0
            && self.source.v4().is_none()
            && !self.destination.is_multicast()
    }
}

impl Flow {
    /// Which of [`essential`] this is, as its bit; 0: none.
    #[inline(always)]
    #[must_use]
    pub fn essential(&self, ingress: bool) -> u64 {
        let [kind, _, _, _] = self.upper.to_be_bytes();
        let four = self.source.v4().is_some();
        match self.protocol {
            _ if self.is_neighbour_discovery(ingress) || self.tells_a_neighbour(ingress) => {
                essential::NEIGHBOUR_DISCOVERY
            }
            _ if self.fragment != 0 => 0,
            protocol::UDP => self.dhcp(four, ingress),
            protocol::IGMP if four && self.hop_limit == 1 => essential::GROUPS,
            protocol::ICMP if four && matches!(kind, 3 | 11 | 12) => essential::ICMP_ERRORS,
            protocol::ICMPV6 if !four => match kind {
                1..=4 => essential::ICMP_ERRORS,
                // Listener queries, reports, done: hop limit 1, to a group.
                130..=132 | 143 if self.hop_limit == 1 => essential::GROUPS,
                _ => 0,
            },
            protocol::TCP if self.flags & 0x04 != 0 => essential::TCP_RESETS,
            _ => 0,
        }
    }

    /// A client's DHCP: out to everybody on the link, in from a server's port.
    #[inline(always)]
    fn dhcp(&self, four: bool, ingress: bool) -> u64 {
        let (client, server): (u16, u16) = if four { (68, 67) } else { (546, 547) };
        let (near, far) = if ingress {
            (self.destination_port(), self.source_port())
        } else {
            (self.source_port(), self.destination_port())
        };
        let to_all = if four {
            self.destination == Address::from_v4(u32::MAX)
        } else {
            self.destination.is_link_multicast()
        };
        if near == client && far == server && (ingress || to_all) {
            essential::DHCP
        } else {
            0
        }
    }
}

/// Loose (131) and strict (137) source routes, wherever they stand among the options.
///
/// A byte of another option's data that looks like one refuses the packet too: options are so rare
/// that a walk over their lengths, which the sender writes, buys nothing.
#[inline(always)]
fn refuse_source_route<P: Packet + ?Sized>(packet: &P, length: u32) -> Result<(), Malformed> {
    let mut offset = 20;
    while offset < length && offset < 60 {
        let [option] = packet.load::<1>(offset).ok_or(Malformed::Header)?;
        if option == 131 || option == 137 {
            return Err(Malformed::SourceRoute);
        }
        offset += 1;
    }
    Ok(())
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
