//! What the kernel counts for the agent, exactly: denials (and samples of what passed) by whom and
//! where to, and everything that passed by study and jurisdiction.
//!
//! Programs add, the agent takes whole tables away: the tables are inner maps, and the agent puts
//! an empty one in place of each. When that call returns no program uses the old one any more, so
//! that what is read from it is final. A flood of one flow is one entry, however long the agent
//! takes; flows that find the table full are counted together in a second table without their
//! addresses ([`TallyKey::others`]), and what finds that one full in an entry that is always there.

/// Entries of a table of [`Tally`]s.
pub const TALLIES: usize = 4096;
/// Entries of a table of [`Passed`].
pub const PASSED: usize = 2048;

/// Index of the flows in the map `TALLY`.
pub const FLOWS: u32 = 0;
/// Index of those that found no room there.
pub const OTHERS: u32 = 1;
/// Tables in the map `TALLY`.
pub const TABLES: usize = 2;

/// [`TallyKey::uid`] where nobody knows.
pub const NO_UID: u32 = u32::MAX;

/// [`TallyKey::action`].
pub mod action {
    /// Dropped.
    pub const DENIED: u8 = 0;
    /// Passed, and was looked at as one of many.
    pub const SAMPLED: u8 = 1;
    /// Passed, and would have been dropped in enforce mode.
    pub const AUDITED: u8 = 2;
}

/// Which packets one entry stands for.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct TallyKey {
    /// [`crate::PolicyImage::tag`] of the policy that judged and the subject.
    pub who: u64,
    /// The socket's cgroup, or the process'.
    pub cgroup: u64,
    /// The far end as in the header, IPv4 as `::ffff:a.b.c.d`; zero where there is none.
    pub far: [u8; 16],
    /// The socket's user, or the process'; [`NO_UID`]: not known.
    pub uid: u32,
    /// The far end's port, host byte order; 0 without ports.
    pub port: u16,
    /// Jurisdiction number of the far end, 0 where it was not looked up.
    pub jurisdiction: u16,
    /// Layer 4 protocol.
    pub protocol: u8,
    /// One of [`crate::abi::hook`].
    pub hook: u8,
    /// [`crate::Rule`] as a number.
    pub rule: u8,
    /// One of [`action`].
    pub action: u8,
    /// One of [`crate::abi::direction`].
    pub direction: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<TallyKey>() == 48);

impl TallyKey {
    /// The agent puts it into the table [`OTHERS`] before that is used: there is always room for
    /// what finds none elsewhere. Whose and why nobody knows then.
    pub const REST: Self = Self {
        who: u64::MAX,
        cgroup: 0,
        far: [0; 16],
        uid: NO_UID,
        port: 0,
        jurisdiction: 0,
        protocol: 0,
        hook: 0,
        rule: 0,
        action: 0,
        direction: 0,
        reserved: [0; 3],
    };

    /// The entry that stands for this one and all like it where there is no room for each: whose
    /// it was, by which rule, at which hook, and what became of it.
    #[inline(always)]
    #[must_use]
    pub const fn others(&self) -> Self {
        Self {
            who: self.who,
            cgroup: 0,
            far: [0; 16],
            uid: NO_UID,
            port: 0,
            jurisdiction: 0,
            protocol: 0,
            hook: self.hook,
            rule: self.rule,
            action: self.action,
            direction: self.direction,
            reserved: [0; 3],
        }
    }

    /// The subject's number, `u32::MAX` for nobody's.
    #[inline(always)]
    #[must_use]
    pub const fn subject(&self) -> u32 {
        let [.., a, b, c, d] = self.who.to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// Generation of the policy that judged, its lower 32 bits; 0: none.
    #[inline(always)]
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.who >> 32
    }
}

/// What they came to, and who sent the first of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Tally {
    /// Packets. Added to atomically, as is the next.
    pub count: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
    /// CLOCK_BOOTTIME of the first, ns.
    pub first_ns: u64,
    /// CLOCK_BOOTTIME of the last, ns; of two CPUs that write at once either.
    pub last_ns: u64,
    /// The near end of the first, as in the header.
    pub near: [u8; 16],
    /// Process of the first, in the first pid namespace; 0: the hook does not know.
    pub pid: u32,
    /// The near end's port, host byte order; 0 without ports.
    pub near_port: u16,
    /// Zero.
    pub reserved: [u8; 2],
    /// The kernel's name of that process, zero-padded.
    pub command: [u8; 16],
}
const _: () = assert!(size_of::<Tally>() == 72);

/// Key of the table in the map `PASSED`.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct PassedKey {
    /// As in [`TallyKey::who`].
    pub who: u64,
    /// Jurisdiction number of the far end.
    pub jurisdiction: u16,
    /// One of [`crate::abi::direction`].
    pub direction: u8,
    /// Zero.
    pub reserved: [u8; 5],
}
const _: () = assert!(size_of::<PassedKey>() == 16);

impl PassedKey {
    /// Under this key the agent writes when the table began to count: [`Passed::packets`] is then
    /// CLOCK_BOOTTIME in ns. No packet has it.
    pub const BEGAN: Self = Self {
        who: u64::MAX,
        jurisdiction: u16::MAX,
        direction: 0,
        reserved: [0; 5],
    };

    /// What finds no room is counted here; the agent puts it there before the table is used.
    pub const OTHERS: Self = Self {
        who: u64::MAX,
        jurisdiction: 0,
        direction: 0,
        reserved: [0; 5],
    };
}

/// What passed, on one CPU.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Passed {
    /// Packets, as the hook sees them: before they are cut to the device's size.
    pub packets: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
}
const _: () = assert!(size_of::<Passed>() == 16);

// SAFETY: `repr(C)`, integers only, no padding (sizes asserted above).
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for TallyKey {}
// SAFETY: as above.
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for Tally {}
// SAFETY: as above.
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for PassedKey {}
// SAFETY: as above.
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for Passed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_say_whose_and_why_and_nothing_personal() {
        let key = TallyKey {
            who: 7 << 32 | 3,
            cgroup: 9,
            far: [1; 16],
            uid: 1000,
            port: 443,
            jurisdiction: 5,
            protocol: 6,
            hook: 2,
            rule: 9,
            action: action::AUDITED,
            direction: 1,
            reserved: [0; 3],
        };
        assert_eq!((key.subject(), key.generation()), (3, 7));
        let others = key.others();
        assert_eq!((others.who, others.hook), (key.who, key.hook));
        assert_eq!((others.rule, others.action), (key.rule, key.action));
        assert_eq!(others.direction, key.direction);
        let another = TallyKey {
            cgroup: 10,
            far: [2; 16],
            uid: 1001,
            port: 80,
            jurisdiction: 6,
            protocol: 17,
            ..key
        };
        assert_eq!(another.others(), others);
        assert_ne!(TallyKey { rule: 8, ..key }.others(), others);
    }
}
