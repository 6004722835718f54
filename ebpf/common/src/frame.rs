//! Frames, read from their first byte: what the socket or the kernel says they carry is the
//! sender's choice.

use crate::packet::Packet;

/// VLAN tags that are unwrapped, those the kernel keeps beside the frame included.
pub const MAX_TAGS: u32 = 2;

/// How the frames of a device begin. Values of the map `LINKS`.
pub mod link {
    /// With an Ethernet header. Every number that has no other meaning here means this.
    pub const ETHERNET: u32 = 0;
    /// With the IP header: tunnels and `tun` devices.
    pub const BARE: u32 = 1;
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Frame {
    /// An IP packet that begins at this offset.
    Ip(u32),
    /// Address resolution, and no longer than that.
    Arp,
    /// What is judged by its ethertype alone: `PolicyHeader::names_ethertype` of it.
    Named(u16),
    /// Anything else: more tags than are unwrapped, an ethertype that lies, a length.
    Other,
}

/// Below it the field is a length (IEEE 802.3).
const ETHERTYPES: u16 = 0x600;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad.
const TAGS: [u16; 2] = [0x8100, 0x88a8];

/// Header, two tags, 28 bytes of ARP for Ethernet and IPv4, and the padding to the shortest frame.
/// What is longer carries something else too.
const ARP_LENGTH: u32 = 68;

/// Finds the network header. `length` is the frame's, `outside` the tags the kernel keeps beside it.
#[inline(always)]
pub fn open<P: Packet + ?Sized>(frame: &P, kind: u32, length: u32, outside: u32) -> Frame {
    if kind == link::BARE {
        return Frame::Ip(0);
    }
    let Some(ethertype) = frame.load::<2>(12).map(u16::from_be_bytes) else {
        return Frame::Other;
    };
    let outermost = Header {
        ethertype,
        offset: 14,
        tags: outside,
    };
    // Once for each tag: Linux 6.1 takes no loop whose end it cannot see.
    let Some(Header {
        ethertype, offset, ..
    }) = untagged(frame, outermost).and_then(|header| untagged(frame, header))
    else {
        return Frame::Other;
    };
    let version = match ethertype {
        IPV4 => 4,
        IPV6 => 6,
        ARP if length <= ARP_LENGTH => return Frame::Arp,
        ARP => return Frame::Other,
        // A third tag stands for whatever it wraps.
        other if other < ETHERTYPES || TAGS.contains(&other) => return Frame::Other,
        other => return Frame::Named(other),
    };
    match frame.load::<1>(offset) {
        Some([first]) if first >> 4 == version => Frame::Ip(offset),
        _ => Frame::Other,
    }
}

/// Where the ethertype was found, and behind how many tags.
#[derive(Clone, Copy)]
struct Header {
    ethertype: u16,
    /// Of what the ethertype speaks of.
    offset: u32,
    tags: u32,
}

/// Behind one tag, if there is one; `None` where there are too many or the frame ends. A third tag
/// is left, and no ethertype that is let through.
#[inline(always)]
fn untagged<P: Packet + ?Sized>(frame: &P, header: Header) -> Option<Header> {
    let [customer, provider] = TAGS;
    if header.ethertype != customer && header.ethertype != provider {
        return Some(header);
    }
    if header.tags >= MAX_TAGS {
        return None;
    }
    let next = frame.load::<2>(header.offset + 2)?;
    Some(Header {
        ethertype: u16::from_be_bytes(next),
        offset: header.offset + 4,
        tags: header.tags + 1,
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn frame(head: &[u16], body: &[u8]) -> Vec<u8> {
        let mut bytes = std::vec![0xee; 12];
        bytes.extend(head.iter().flat_map(|word| word.to_be_bytes()));
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_frame_is_what_its_bytes_say() {
        let four: &[u8] = &[0x45; 20];
        let six: &[u8] = &[0x60; 40];
        let arp: &[u8] = &[0; 28];
        let rows: &[(&str, Vec<u8>, u32, Frame)] = &[
            ("IPv4", frame(&[0x0800], four), 0, Frame::Ip(14)),
            ("IPv6", frame(&[0x86dd], six), 0, Frame::Ip(14)),
            (
                "one tag",
                frame(&[0x8100, 7, 0x0800], four),
                0,
                Frame::Ip(18),
            ),
            (
                "two tags",
                frame(&[0x88a8, 7, 0x8100, 8, 0x86dd], six),
                0,
                Frame::Ip(22),
            ),
            (
                "three tags",
                frame(&[0x88a8, 7, 0x8100, 8, 0x8100, 9, 0x0800], four),
                0,
                Frame::Other,
            ),
            (
                "two tags and one beside the frame",
                frame(&[0x88a8, 7, 0x8100, 8, 0x0800], four),
                1,
                Frame::Other,
            ),
            (
                "one tag and one beside the frame",
                frame(&[0x8100, 8, 0x0800], four),
                1,
                Frame::Ip(18),
            ),
            (
                "IPv4 that says it is IPv6",
                frame(&[0x86dd], four),
                0,
                Frame::Other,
            ),
            (
                "IPv6 that says it is IPv4",
                frame(&[0x0800], six),
                0,
                Frame::Other,
            ),
            (
                "nothing behind the header",
                frame(&[0x0800], &[]),
                0,
                Frame::Other,
            ),
            ("a tag and nothing", frame(&[0x8100], &[]), 0, Frame::Other),
            ("ARP", frame(&[0x0806], arp), 0, Frame::Arp),
            (
                "ARP in a tag",
                frame(&[0x8100, 7, 0x0806], arp),
                0,
                Frame::Arp,
            ),
            (
                "ARP that carries more",
                frame(&[0x0806], &[0; 55]),
                0,
                Frame::Other,
            ),
            (
                "MPLS",
                frame(&[0x8847, 0, 0x1ff], four),
                0,
                Frame::Named(0x8847),
            ),
            (
                "PPPoE",
                frame(&[0x8864, 0x1100, 0, 22, 0x21], four),
                0,
                Frame::Named(0x8864),
            ),
            (
                "802.3 with LLC",
                frame(&[60, 0xaaaa, 0x0300, 0, 0x0800], four),
                0,
                Frame::Other,
            ),
            (
                "a tag of old",
                frame(&[0x9100, 7, 0x0800], four),
                0,
                Frame::Named(0x9100),
            ),
            ("LLDP", frame(&[0x88cc], &[0; 50]), 0, Frame::Named(0x88cc)),
            (
                "LLDP in a tag",
                frame(&[0x8100, 7, 0x88cc], &[0; 50]),
                0,
                Frame::Named(0x88cc),
            ),
            (
                "the greatest length",
                frame(&[0x5ff], &[0; 50]),
                0,
                Frame::Other,
            ),
            (
                "the least ethertype",
                frame(&[0x600], &[0; 50]),
                0,
                Frame::Named(0x600),
            ),
            ("cut", std::vec![0; 13], 0, Frame::Other),
            ("empty", Vec::new(), 0, Frame::Other),
        ];
        for (name, bytes, outside, want) in rows {
            let length = u32::try_from(bytes.len()).unwrap();
            let found = open(bytes.as_slice(), link::ETHERNET, length, *outside);
            assert_eq!(found, *want, "{name}");
        }
        let bare = open(four, link::BARE, 20, 0);
        assert_eq!(bare, Frame::Ip(0), "a device without link headers");
    }
}
