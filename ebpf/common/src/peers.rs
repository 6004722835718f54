//! Addresses of a study on other nodes, and until when each of them counts.
//!
//! The agent writes an entry for every address that another node has signed for; the kernel
//! compares its end with boot time, so an entry that nobody renews ends by itself. Keys carry the
//! tag of the policy that numbered the study ([`crate::PolicyImage::tag`]): an entry made for one
//! policy says nothing under another, where the number may be another study's.

use crate::Address;

/// Entries that one policy may have; the agent keeps the bound.
pub const PEERS: usize = 8192;
/// Entries of the map: those of the policy in force, and of the next one while they are swapped.
pub const PEER_SLOTS: usize = 2 * PEERS;

/// Key of the map `PEERS`.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct PeerKey {
    /// Upper half of the canonical address; IPv4 stands as `::ffff:a.b.c.d`.
    pub hi: u64,
    /// Lower half.
    pub lo: u64,
    /// The study, as [`crate::PolicyImage::tag`] has it.
    pub study: u64,
}
const _: () = assert!(size_of::<PeerKey>() == 24);

/// Value of the map `PEERS`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct PeerEnd {
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub boot_ns: u64,
}
const _: () = assert!(size_of::<PeerEnd>() == 8);

impl PeerKey {
    /// For a study's tag and a canonical address.
    #[inline(always)]
    #[must_use]
    pub const fn new(study: u64, address: Address) -> Self {
        Self {
            hi: address.hi,
            lo: address.lo,
            study,
        }
    }
}

/// Whether an address counts at `now` (boot time, ns): there is an entry, and it has not ended.
#[inline(always)]
#[must_use]
pub fn stands(entry: Option<&PeerEnd>, now: u64) -> bool {
    match entry {
        Some(end) => now < end.boot_ns,
        None => false,
    }
}

// SAFETY: `repr(C)`, integers only, no padding (size asserted above).
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for PeerKey {}
// SAFETY: one integer.
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for PeerEnd {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_counts_until_its_end_and_not_at_it() {
        let end = |boot_ns| Some(PeerEnd { boot_ns });
        for (name, entry, now, want) in [
            ("none", None, 0, false),
            ("before the end", end(1000), 999, true),
            ("at the end", end(1000), 1000, false),
            ("after it", end(1000), 1001, false),
            ("ended at once", end(0), 0, false),
        ] {
            assert_eq!(stands(entry.as_ref(), now), want, "{name}");
        }
    }
}
