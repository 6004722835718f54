//! Where an address lies: one blob for both families, so that they swap together.
//!
//! IPv4 takes 16, 8 and 8 bits, at most three dependent loads; IPv6 takes 16 bits, then 8 at a
//! time. A node is 256 entries of 16 bits, equal nodes are stored once. An entry from
//! [`LEAF_BASE`] up is a jurisdiction, below it the number of a node.

use crate::{Address, opaque};

/// A jurisdiction's number: fixed for ISO codes, never renumbered, below [`JURISDICTIONS`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Jurisdiction(pub u16);

/// Numbers a jurisdiction may have: 0 to 511.
pub const JURISDICTIONS: u16 = 512;
/// First of the numbers that a world image gives to the operator's own codes (`X-…`).
pub const OWN_BASE: u16 = 400;
/// How many codes of the operator's own an image can hold.
pub const OWN_CODES: usize = 112;

impl Jurisdiction {
    /// Nobody knows. Denied, whatever a bitmap says: bit 0 is never set.
    pub const UNKNOWN: Self = Self(0);
    /// Private, reserved or special-purpose space (IANA registries).
    pub const RESERVED: Self = Self(1);
    /// Multicast and broadcast.
    pub const MULTICAST: Self = Self(2);
    /// Announced from many places at once.
    pub const ANYCAST: Self = Self(3);
    /// The machine itself.
    pub const LOOPBACK: Self = Self(4);
    /// The link itself.
    pub const LINK_LOCAL: Self = Self(5);
    /// `EU`: a registry's word for "somewhere in Europe".
    pub const EUROPE: Self = Self(6);
    /// `AP`: the same for Asia and the Pacific.
    pub const ASIA_PACIFIC: Self = Self(7);
    /// Anonymising proxies, satellite providers, Tor: an address without a place (`A1`, `A2`, `T1`).
    pub const PLACELESS: Self = Self(8);

    /// Whether the number is one that an image assigns to an operator's own code.
    #[inline(always)]
    #[must_use]
    pub const fn is_own(self) -> bool {
        self.0 >= OWN_BASE
    }
}

/// Entries from here up are leaves: jurisdiction 0 is `LEAF_BASE`, 511 is 65,535.
pub const LEAF_BASE: u16 = 65_024;
/// Nodes of one family. The table of June 2026 takes 27,448 for IPv4 and 24,814 for IPv6.
pub const NODES: usize = 40_960;

/// 256 entries, chosen by eight bits of the address.
pub type Node = [u16; 256];

/// `BAILWRLD`, big-endian.
pub const WORLD_MAGIC: u64 = 0x4241_494c_5752_4c44;
/// Of this layout. Part of the pinned maps' contract, with the image's size.
pub const WORLD_FORMAT: u32 = 1;

/// The first page of the image.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WorldHeader {
    /// [`WORLD_MAGIC`]; zero in a map nobody has filled.
    pub magic: u64,
    /// [`WORLD_FORMAT`].
    pub format: u32,
    /// Nodes in use.
    pub v4_nodes: u32,
    /// Nodes in use.
    pub v6_nodes: u32,
    /// Own codes in use.
    pub own_codes: u32,
    /// Number of the policy this table came with.
    pub generation: u64,
    /// Seconds since 1970, when the source was made.
    pub built: u64,
    /// Ranges the source gave.
    pub ranges: u64,
    /// SHA-256 over the sources' bytes.
    pub source_digest: [u8; 32],
    /// SHA-256 over the image's used parts, this field being zero.
    pub digest: [u8; 32],
    /// First eight bytes of SHA-256 over the own codes: a policy compiled against other codes
    /// gets no answer from the numbers above [`OWN_BASE`].
    pub own_table: u64,
    /// Who made the source, zero-padded ASCII; empty where it does not tell.
    pub source: [u8; 128],
    /// Under what terms, likewise.
    pub licence: [u8; 128],
    /// Ranges of each family, IPv4 and IPv6, the operator's sites included: without any, that
    /// family lies nowhere. For whoever explains a denial; programs do not look.
    pub family_ranges: [u64; 2],
    /// Zero.
    pub reserved: [u8; 120],
    /// Codes of the numbers from [`OWN_BASE`], zero-padded ASCII.
    pub own_names: [[u8; 32]; OWN_CODES],
}
const _: () = assert!(size_of::<WorldHeader>() == 4096);

/// The whole table. 42 MB, constant: the value size is part of the pinned maps' contract.
#[derive(Clone, Copy)] // so that a map can be typed with it; nobody copies it
#[repr(C)]
#[expect(missing_debug_implementations, reason = "42 MB of numbers")]
pub struct WorldImage {
    /// Where it came from.
    pub header: WorldHeader,
    /// By the first 16 bits of an IPv4 address.
    pub v4_root: [u16; 65_536],
    /// By the first 16 bits of an IPv6 address.
    pub v6_root: [u16; 65_536],
    /// Chosen by bits 16 to 23, then 24 to 31.
    pub v4_nodes: [Node; NODES],
    /// Chosen by eight bits at a time.
    pub v6_nodes: [Node; NODES],
}
const _: () = assert!(size_of::<WorldImage>() == 4096 + 2 * 131_072 + 2 * NODES * 512);

// SAFETY: `repr(C)`, integers only; the assertions above leave no room for padding.
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for WorldImage {}

impl WorldImage {
    /// Where the address lies, by the IPv4 address inside where it carries one.
    #[inline(always)]
    #[must_use]
    pub fn locate(&self, address: Address) -> Jurisdiction {
        self.locate_canonical(address.canonical())
    }

    /// The same for an address that is [`Address::canonical`] already.
    #[inline(always)]
    #[must_use]
    pub(crate) fn locate_canonical(&self, address: Address) -> Jurisdiction {
        // A map that nobody filled is all zero: every path through it ends without a leaf.
        match address.v4() {
            Some(v4) => self.locate_v4(v4),
            None => self.locate_v6(address),
        }
    }

    /// The same for IPv4 alone.
    #[inline(always)]
    #[must_use]
    pub fn locate_v4(&self, address: u32) -> Jurisdiction {
        let [a, b, c, d] = address.to_be_bytes();
        let first = u16::from_be_bytes([a, b]);
        let Some(&entry) = self.v4_root.get(usize::from(first)) else {
            return Jurisdiction::UNKNOWN;
        };
        if let Some(found) = leaf(entry) {
            return found;
        }
        let entry = descend(&self.v4_nodes, entry, c);
        if let Some(found) = leaf(entry) {
            return found;
        }
        leaf(descend(&self.v4_nodes, entry, d)).unwrap_or(Jurisdiction::UNKNOWN)
    }

    /// The same for IPv6 alone; embedded IPv4 addresses are not taken out here.
    #[inline(always)]
    #[must_use]
    pub fn locate_v6(&self, address: Address) -> Jurisdiction {
        let [a, b, c, d, e, f, g, h] = address.hi.to_be_bytes();
        let [i, j, k, l, m, n, o, p] = address.lo.to_be_bytes();
        let first = u16::from_be_bytes([a, b]);
        let Some(&entry) = self.v6_root.get(usize::from(first)) else {
            return Jurisdiction::UNKNOWN;
        };
        let mut entry = entry;
        for byte in [c, d, e, f, g, h, i, j, k, l, m, n, o, p] {
            if let Some(found) = leaf(entry) {
                return found;
            }
            entry = descend(&self.v6_nodes, entry, byte);
        }
        leaf(entry).unwrap_or(Jurisdiction::UNKNOWN)
    }
}

#[inline(always)]
fn leaf(entry: u16) -> Option<Jurisdiction> {
    entry.checked_sub(LEAF_BASE).map(Jurisdiction)
}

/// The entry one level down; a node number out of range leads to "unknown".
///
/// `opaque`: LLVM knows more about `entry` than the kernel's verifier, and would leave out the
/// comparison the verifier wants to see beside the access.
#[inline(always)]
fn descend(nodes: &[Node; NODES], entry: u16, byte: u8) -> u16 {
    let number = usize::try_from(opaque(entry.into())).unwrap_or(usize::MAX);
    match nodes.get(number) {
        Some(node) => node.get(usize::from(byte)).copied().unwrap_or(LEAF_BASE),
        None => LEAF_BASE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plain;

    #[test]
    fn an_empty_image_knows_nothing() {
        let image = WorldImage::zeroed();
        assert_eq!(
            image.locate(Address::from_v4(0x0102_0304)),
            Jurisdiction::UNKNOWN
        );
    }

    #[test]
    fn a_node_out_of_range_and_a_path_without_a_leaf_lead_nowhere() {
        let mut image = WorldImage::zeroed();
        image.header.magic = WORLD_MAGIC;
        image.v4_root[0x0102] = LEAF_BASE - 1;
        image.v4_root[0x0103] = 3; // node 3 is all zero: node 0, and again
        image.v6_root[0x2001] = 3;
        for address in [0x0102_0304, 0x0103_0304] {
            assert_eq!(
                image.locate_v4(address),
                Jurisdiction::UNKNOWN,
                "{address:#x}"
            );
        }
        let deep = Address {
            hi: 0x2001_0db8_0000_0000,
            lo: 1,
        };
        assert_eq!(image.locate(deep), Jurisdiction::UNKNOWN);
        image.v4_root[0x0104] = LEAF_BASE + 56;
        assert_eq!(image.locate_v4(0x0104_0304), Jurisdiction(56));
    }
}
