//! Who may go where: subjects, found by cgroup, and the rules of each, in one blob.
//!
//! A *subject* is a study or a named host service. Address rules are flattened by the compiler into
//! ordered intervals, so that the kernel neither matches prefixes nor weighs them: it finds the one
//! interval that holds the address.

use core::hint::black_box;

use crate::Address;
use crate::device::DeviceTable;

/// Studies and host services in one image.
pub const SUBJECTS: usize = 512;
/// Slots for cgroups; a power of two, filled to half.
pub const CGROUP_SLOTS: usize = 8192;
/// Slots looked at for one cgroup.
pub const PROBES: u64 = 4;
/// Intervals of all rule sets together; 2 to the power of [`SEARCH_STEPS`].
pub const INTERVALS: usize = 16_384;
/// Halvings that find one interval among [`INTERVALS`].
pub const SEARCH_STEPS: u32 = 14;
/// Services of all intervals together.
pub const SERVICES: usize = 4096;
/// Services one interval may list.
pub const SERVICES_PER_INTERVAL: u32 = 16;
/// Levels below the fence root that are searched for a subject.
pub const DEPTH: u32 = 16;

/// `BAILFENC`, big-endian.
pub const POLICY_MAGIC: u64 = 0x4241_494c_4645_4e43;
/// Of this layout.
pub const POLICY_FORMAT: u32 = 3;

/// [`Subject::kind`].
pub mod kind {
    /// A slot nobody uses.
    pub const NONE: u8 = 0;
    /// A study: the first one met from the fence root down decides.
    pub const STUDY: u8 = 1;
    /// A host service: the deepest one decides, where no study does.
    pub const HOST: u8 = 2;
}

/// [`Subject::mode`]. Every value but [`mode::AUDIT`] enforces.
pub mod mode {
    /// Denied packets are dropped.
    pub const ENFORCE: u8 = 0;
    /// Denied packets are reported and pass.
    pub const AUDIT: u8 = 1;
}

/// [`Subject::peers`]. Every value but [`peering::DECLARED`] asks for entries.
pub mod peering {
    /// Whatever the policy names as the study's own addresses is one.
    pub const DECLARED: u8 = 0;
    /// Only while an entry of [`crate::peers`] stands.
    pub const ATTESTED: u8 = 1;
}

/// [`Interval::decision`]. Unknown values deny.
pub mod decision {
    /// No prefix covers it: services, then the jurisdiction decide.
    pub const NONE: u8 = 0;
    /// An allowed prefix is the longest.
    pub const ALLOW: u8 = 1;
    /// A denied prefix is the longest, or as long as an allowed one.
    pub const DENY: u8 = 2;
}

/// What [`PolicyImage::owner`] answers where an address is not a study's. No subject has these
/// numbers; `u32::MAX` stands for "nobody's" where an answer crosses a function's border.
pub mod owned {
    /// Of the management plane: for the host services named for it, and for no study.
    pub const MANAGEMENT: u32 = u32::MAX - 2;
    /// A service address that the host translates before the packet leaves.
    pub const TRANSLATED: u32 = u32::MAX - 3;
}

/// Bits of [`PolicyHeader::essentials`]: what the host itself sends and receives so that it has a
/// network at all. Never a study's.
pub mod essential {
    /// Solicitations and advertisements that do not leave the link (RFC 4861).
    pub const NEIGHBOUR_DISCOVERY: u64 = 1;
    /// A client's DHCP, IPv4 (RFC 2131) and IPv6 (RFC 8415), to everybody on the link.
    pub const DHCP: u64 = 2;
    /// Which groups this host listens to: IGMP, MLD (RFC 9776, RFC 9777).
    pub const GROUPS: u64 = 4;
    /// ICMP's errors: unreachable, too big, time exceeded, parameter problem.
    pub const ICMP_ERRORS: u64 = 8;
    /// TCP's refusals, which the kernel sends from no socket.
    pub const TCP_RESETS: u64 = 16;
}

/// What one subject may reach in one state of the lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct RuleSet {
    /// Bit `n` of word `n / 64`: jurisdiction `n` may be reached. All zero: nothing may.
    pub jurisdictions: [u64; 8],
    /// Intervals of this set.
    pub intervals: Slice,
}

/// Index into [`Subject::rules`].
pub const UNATTESTED: usize = 0;
/// Index into [`Subject::rules`].
pub const ATTESTED: usize = 1;

/// A run of entries in a table of the image.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Slice {
    /// Index of the first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// A study or a host service.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Subject {
    /// Without a lease ([`UNATTESTED`]), and while the node's lease lasts ([`ATTESTED`]).
    pub rules: [RuleSet; 2],
    /// Zero-padded.
    pub name: [u8; 64],
    /// Until then it is judged as if the node's lease lasted: a break-glass manifest says so.
    /// CLOCK_BOOTTIME in nanoseconds; 0: none.
    pub break_glass_boot_ns: u64,
    /// One of [`kind`].
    pub kind: u8,
    /// One of [`mode`].
    pub mode: u8,
    /// One of [`peering`].
    pub peers: u8,
    /// 1: a host service that may reach the management plane, by its own rules.
    pub management: u8,
    /// Zero.
    pub reserved: [u8; 4],
}
const _: () = assert!(size_of::<Subject>() == 224);

impl Subject {
    /// Whether it is judged by its rules with a lease, at `now` (boot time, ns): the node's lease
    /// lasts, or a break-glass manifest stands in for it.
    #[inline(always)]
    #[must_use]
    pub fn attested(&self, lease_boot_ns: u64, now: u64) -> bool {
        now < self.break_glass_boot_ns.max(lease_boot_ns)
    }
}

/// Which subject a cgroup belongs to. Cgroup 0 marks a free slot: no cgroup has that id.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct CgroupSlot {
    /// The cgroup's id (inode number in cgroupfs).
    pub cgroup: u64,
    /// Index into the subjects.
    pub subject: u32,
    /// Zero.
    pub reserved: u32,
}

/// From this address up to the next interval's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Interval {
    /// Upper half of the first address.
    pub hi: u64,
    /// Lower half.
    pub lo: u64,
    /// Services that reach into this interval.
    pub services: Slice,
    /// In the table of owners: subject index + 1, 0, or one of [`owned`] + 1. In the kernel's
    /// table: the index + 1 of the study that is served, 0 for the host itself. In a rule set: zero.
    pub owner: u32,
    /// One of [`decision`].
    pub decision: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<Interval>() == 32);

/// Protocol and ports of a target; its address is the interval's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Service {
    /// Layer 4 protocol number, or [`ANY_PROTOCOL`]; [`ICMP_PROTOCOL`] is ICMP of either family.
    pub protocol: u16,
    /// First port, host byte order.
    pub first_port: u16,
    /// Last port. 0 to 65,535 is "any", and asks for no ports.
    pub last_port: u16,
    /// Zero.
    pub reserved: u16,
}

/// [`Service::protocol`]: whatever runs over IP.
pub const ANY_PROTOCOL: u16 = 256;
/// [`Service::protocol`]: ICMP over IPv4, ICMPv6 over IPv6.
pub const ICMP_PROTOCOL: u16 = 257;

/// The first 256 bytes.
#[derive(Debug)]
#[repr(C)]
pub struct PolicyHeader {
    /// [`POLICY_MAGIC`]; zero in a map nobody has filled.
    pub magic: u64,
    /// [`POLICY_FORMAT`].
    pub format: u32,
    /// Subjects in use.
    pub subjects: u32,
    /// Number of the signed manifest.
    pub generation: u64,
    /// [`crate::world::WorldHeader::own_table`] of the codes the bitmaps were made with.
    pub own_table: u64,
    /// Intervals whose `owner` says which study an address belongs to.
    pub owners: Slice,
    /// SHA-256 of the signed manifest.
    pub manifest_digest: [u8; 32],
    /// SHA-256 over the whole image, this field being zero.
    pub digest: [u8; 32],
    /// Odd multiplier of the cgroups' hash.
    pub seed: u64,
    /// Intervals of what the kernel's own sockets (NFS, WireGuard) may reach, and for whom.
    pub kernel: Slice,
    /// Bits of [`essential`].
    pub essentials: u64,
    /// Ethertypes that may leave beside IPv4, IPv6 and ARP, host byte order; 0 ends the list.
    pub ethertypes: [u16; 8],
    /// Zero.
    pub reserved: [u8; 112],
}
const _: () = assert!(size_of::<PolicyHeader>() == 256);

/// All studies and host services of this node.
#[repr(C)]
#[expect(
    missing_debug_implementations,
    reason = "most of a megabyte of numbers"
)]
pub struct PolicyImage {
    /// Where it came from.
    pub header: PolicyHeader,
    /// Index: subject.
    pub subjects: [Subject; SUBJECTS],
    /// Open addressing, see [`PolicyImage::slot_of`].
    pub cgroups: [CgroupSlot; CGROUP_SLOTS],
    /// Of all rule sets, and the owners'.
    pub intervals: [Interval; INTERVALS],
    /// Of all intervals.
    pub services: [Service; SERVICES],
    /// Which devices each subject may open.
    pub devices: DeviceTable,
}
const _: () = assert!(
    size_of::<PolicyImage>()
        == 256
            + SUBJECTS * 224
            + CGROUP_SLOTS * 16
            + INTERVALS * 32
            + SERVICES * 8
            + size_of::<DeviceTable>()
);

// SAFETY: `repr(C)`, integers only; the assertions above leave no room for padding.
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for PolicyImage {}

impl PolicyImage {
    /// The `probe`-th slot where a cgroup may stand: multiplicative hashing, then the neighbours.
    /// The compiler looks for a `seed` with which [`PROBES`] are enough.
    #[inline(always)]
    #[must_use]
    pub fn slot_of(seed: u64, cgroup: u64, probe: u64) -> usize {
        let hash = cgroup.wrapping_mul(seed) >> 40;
        let mask = 8191;
        usize::try_from(black_box(hash.wrapping_add(probe)) & mask).unwrap_or(0)
    }

    /// The subject this very cgroup was named for, not its ancestors.
    #[inline(always)]
    #[must_use]
    pub fn subject_at(&self, cgroup: u64) -> Option<u32> {
        let mut probe = 0;
        while probe < PROBES {
            let slot = self
                .cgroups
                .get(Self::slot_of(self.header.seed, cgroup, probe))?;
            if slot.cgroup == cgroup {
                return Some(slot.subject);
            }
            if slot.cgroup == 0 {
                return None;
            }
            probe += 1;
        }
        None
    }

    /// Walks from the fence root down: the first study met decides, else the deepest host service.
    ///
    /// `ancestor` gives the cgroup's id `n` levels below the fence root, 0 where there is none.
    #[inline(always)]
    #[must_use]
    pub fn resolve(&self, ancestor: impl Fn(u32) -> u64) -> Option<u32> {
        let mut deepest = None;
        let mut level = 0;
        while level < DEPTH {
            let cgroup = ancestor(level);
            if cgroup == 0 {
                break;
            }
            if let Some(number) = self.subject_at(cgroup) {
                let subject = self.subject(number)?;
                if subject.kind == kind::STUDY {
                    return Some(number);
                }
                deepest = Some(number);
            }
            level += 1;
        }
        deepest
    }

    /// A subject's number with the generation that gave it: a policy swapped in while a packet is
    /// judged, or after an entry of [`crate::peers`] was made, must not read the old one's numbers.
    #[inline(always)]
    #[must_use]
    pub const fn tag(&self, subject: u32) -> u64 {
        tag(self.header.generation, subject)
    }

    /// The subject with this number.
    #[inline(always)]
    #[must_use]
    pub fn subject(&self, number: u32) -> Option<&Subject> {
        self.subjects.get(black_box(crate::index(number)))
    }

    /// The interval that holds the address: the last one that does not begin after it.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, slice: Slice, address: Address) -> Option<&Interval> {
        if slice.count == 0 {
            return None;
        }
        let first = u64::from(slice.first);
        // Invariant: the interval looked for stands in `at .. at + 2 * half`.
        let last = first + u64::from(slice.count) - 1;
        let mut at = first;
        let mut half: u64 = 1 << (SEARCH_STEPS - 1);
        let mut step = 0;
        while step < SEARCH_STEPS {
            let probe = at + half;
            // Beyond the slice counts as "begins after the address".
            let inside = 1 ^ crate::top_bit(last.wrapping_sub(probe));
            let entry = self.interval(probe);
            let after = address.below(entry.hi, entry.lo);
            let take = inside & (1 ^ after);
            at += half & take.wrapping_neg();
            half >>= 1;
            step += 1;
        }
        let found = self.interval(at);
        // Before the first interval lies nothing.
        (address.below(found.hi, found.lo) == 0).then_some(found)
    }

    /// Numbers beyond the table wrap: no branch, see [`crate::Question::zero`]. What a wrapped
    /// number finds is discarded by the caller.
    #[inline(always)]
    fn interval(&self, number: u64) -> &Interval {
        let index = usize::try_from(black_box(number) & MASK).unwrap_or(0);
        &self.intervals[index]
    }

    /// The service with this number, which wraps as an interval's does; the compiler writes none
    /// that does.
    #[inline(always)]
    pub(crate) fn service(&self, number: u32) -> &Service {
        let index = crate::index(black_box(number) & 4095);
        &self.services[index]
    }

    /// The study an address belongs to, or one of [`owned`].
    #[inline(always)]
    #[must_use]
    pub fn owner(&self, address: Address) -> Option<u32> {
        self.find(self.header.owners, address)?.owner.checked_sub(1)
    }
}

impl PolicyHeader {
    /// Whether a frame of this ethertype may leave, where it is neither IPv4, IPv6 nor ARP.
    #[inline(always)]
    #[must_use]
    pub fn names_ethertype(&self, ethertype: u16) -> bool {
        let mut named = 0;
        let mut at = 0;
        while at < 8 {
            named |= crate::equal(self.ethertypes[at].into(), ethertype.into());
            at += 1;
        }
        ethertype != 0 && named != 0
    }
}

/// [`PolicyImage::tag`] without the image: the lower 32 bits of the generation, then the number.
#[inline(always)]
#[must_use]
pub const fn tag(generation: u64, subject: u32) -> u64 {
    let [.., a, b, c, d] = generation.to_be_bytes();
    let [e, f, g, h] = subject.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

const MASK: u64 = 16_383;
const _: () = assert!(SERVICES == 4096);
const _: () = assert!(INTERVALS == 1 << SEARCH_STEPS && MASK == (1 << SEARCH_STEPS) - 1);

impl RuleSet {
    /// Whether the bitmap answers for a jurisdiction. "Unknown" is never answered.
    #[inline(always)]
    #[must_use]
    pub fn allows(&self, jurisdiction: u16) -> bool {
        if jurisdiction == 0 {
            return false;
        }
        match self
            .jurisdictions
            .get(black_box(usize::from(jurisdiction >> 6)))
        {
            Some(word) => (word >> (jurisdiction & 63)) & 1 == 1,
            None => false,
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
