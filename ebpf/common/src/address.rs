//! One number for both families.

/// An IP address as a 128-bit number, in two halves: the kernel side has no wide integers.
///
/// IPv4 stands as `::ffff:a.b.c.d`, so that one ordered table holds both families.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Address {
    /// The upper 64 bits.
    pub hi: u64,
    /// The lower 64 bits.
    pub lo: u64,
}

/// Upper half of the word that marks an IPv4 address inside IPv6.
const MAPPED: u64 = 0x0000_ffff_0000_0000;

#[inline(always)]
fn low_word(number: u64) -> u32 {
    let [_, _, _, _, a, b, c, d] = number.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

impl Address {
    /// From an IPv4 address as a number (`10.0.0.1` is `0x0a00_0001`).
    #[inline(always)]
    #[must_use]
    pub const fn from_v4(address: u32) -> Self {
        let [a, b, c, d] = address.to_be_bytes();
        let low = u64::from_be_bytes([0, 0, 0, 0, a, b, c, d]);
        Self {
            hi: 0,
            lo: MAPPED | low,
        }
    }

    /// From 16 bytes in network order.
    #[inline(always)]
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            hi: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            lo: u64::from_be_bytes([i, j, k, l, m, n, o, p]),
        }
    }

    /// The 16 bytes in network order.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (upper, lower) = bytes.split_at_mut(8);
        upper.copy_from_slice(&self.hi.to_be_bytes());
        lower.copy_from_slice(&self.lo.to_be_bytes());
        bytes
    }

    /// The IPv4 address this one stands for, if it is one.
    #[inline(always)]
    #[must_use]
    pub fn v4(self) -> Option<u32> {
        (self.hi == 0 && self.lo & 0xffff_ffff_0000_0000 == MAPPED).then(|| low_word(self.lo))
    }

    /// The address that decides: where an IPv6 address carries an IPv4 destination, the packet ends
    /// there, whatever the outer address looks like.
    ///
    /// 6to4 (RFC 3056), Teredo (RFC 4380: the client's address, inverted) and NAT64's well-known
    /// prefix (RFC 6052). `::ffff:a.b.c.d` is IPv4 already.
    #[inline(always)]
    #[must_use]
    pub fn canonical(self) -> Self {
        if self.hi >> 48 == 0x2002 {
            return Self::from_v4(low_word(self.hi >> 16));
        }
        if self.hi >> 32 == 0x2001_0000 {
            return Self::from_v4(!low_word(self.lo));
        }
        if self.hi == 0x0064_ff9b_0000_0000 && self.lo >> 32 == 0 {
            return Self::from_v4(low_word(self.lo));
        }
        self
    }

    /// `fe80::/10` or `169.254.0.0/16`.
    #[inline(always)]
    #[must_use]
    pub fn is_link_local(self) -> bool {
        self.hi >> 54 == 0xfe80 >> 6 || (self.hi == 0 && self.lo >> 16 == 0xffff_a9fe)
    }

    /// `127.0.0.0/8`, `::1`, and the addresses that mean "this host": `0.0.0.0`, `::`.
    #[inline(always)]
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self.hi == 0 && (self.lo <= 1 || self.lo >> 24 == 0xff_ff7f || self.lo == 0xffff_0000_0000)
    }

    /// `ff02::/16`: multicast that no router forwards.
    #[inline(always)]
    #[must_use]
    pub fn is_link_multicast(self) -> bool {
        self.hi >> 48 == 0xff02
    }

    /// `ff00::/8`, however far the group reaches.
    #[inline(always)]
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.hi >> 56 == 0xff
    }

    /// Whether `self` stands before `other`, without a branch: a search that branched on each
    /// comparison would be 2ⁿ paths to the kernel's verifier.
    #[inline(always)]
    #[must_use]
    pub(crate) fn below(self, hi: u64, lo: u64) -> u64 {
        let upper = borrow(self.hi, hi);
        let same = crate::equal(self.hi, hi);
        upper | (same & borrow(self.lo, lo))
    }
}

/// 1 where `a < b`, else 0: the borrow of `a - b` (Hacker's Delight, unsigned compare).
#[inline(always)]
fn borrow(a: u64, b: u64) -> u64 {
    crate::top_bit((!a & b) | ((!a | b) & a.wrapping_sub(b)))
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v6(text: &str) -> Address {
        Address::from_bytes(text.parse::<Ipv6Addr>().unwrap().octets())
    }

    #[test]
    fn the_inner_address_decides() {
        let cases: &[(&str, &str, Option<&str>)] = &[
            ("mapped", "::ffff:198.51.100.7", Some("198.51.100.7")),
            ("6to4", "2002:c633:6407::1", Some("198.51.100.7")),
            (
                "Teredo",
                "2001:0:102:304:0:ffff:39cc:9bf8",
                Some("198.51.100.7"),
            ),
            ("NAT64", "64:ff9b::c633:6407", Some("198.51.100.7")),
            ("beside 6to4", "2003:c633:6407::1", None),
            ("beside Teredo", "2001:1::39cc:9bf8", None),
            ("beside NAT64", "64:ff9b::1:c633:6407", None),
            ("compatible, long withdrawn", "::198.51.100.7", None),
            ("plain", "2001:db8::1", None),
        ];
        for (name, outer, inner) in cases {
            let want = inner.map(|text| text.parse::<Ipv4Addr>().unwrap().to_bits());
            assert_eq!(v6(outer).canonical().v4(), want, "{name}");
        }
    }

    #[test]
    fn order_without_branches_is_order() {
        let numbers = [0, 1, 2, u64::MAX - 1, u64::MAX, 1 << 63, (1 << 63) - 1];
        for a in numbers {
            for b in numbers {
                for c in numbers {
                    for d in numbers {
                        let (left, right) = (Address { hi: a, lo: b }, Address { hi: c, lo: d });
                        assert_eq!(left.below(c, d) == 1, left < right, "{left:?} {right:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_come_back() {
        let address = v6("2001:db8::42");
        assert_eq!(Address::from_bytes(address.to_bytes()), address);
    }

    #[test]
    fn what_stays_on_the_host() {
        for (text, want) in [
            ("::ffff:127.0.0.1", true),
            ("::ffff:127.255.255.255", true),
            ("::ffff:126.255.255.255", false),
            ("::ffff:128.0.0.0", false),
            ("::ffff:0.0.0.0", true),
            ("::ffff:0.0.0.1", false),
            ("::1", true),
            ("::", true),
            ("::2", false),
            ("1::1", false),
        ] {
            assert_eq!(v6(text).is_loopback(), want, "{text}");
        }
    }

    #[test]
    fn what_stays_on_the_link() {
        for (text, unicast, multicast) in [
            ("fe80::1", true, false),
            ("febf::1", true, false),
            ("fec0::1", false, false),
            ("::ffff:169.254.1.1", true, false),
            ("::ffff:169.255.1.1", false, false),
            ("ff02::1", false, true),
            ("ff05::1", false, false),
        ] {
            assert_eq!(v6(text).is_link_local(), unicast, "{text}");
            assert_eq!(v6(text).is_link_multicast(), multicast, "{text}");
            assert_eq!(v6(text).is_multicast(), text.starts_with("ff"), "{text}");
        }
    }
}
