//! Small values that cross between the kernel and the agent, and the names under which they do.

use crate::mark::Marking;

/// Version of everything pinned: part of the pins' path. Raise it when a layout, a map's flags or
/// the meaning of a field changes; programs of one version never read maps of another.
pub const ABI: u32 = 3;

/// Map `CONFIG`, index 0. Written once, before the programs are attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Config {
    /// Level of the fence root in the hierarchy; 0 is the root of the hierarchy.
    pub root_level: u32,
    /// One in so many packets that pass is told of one by one; 0: none.
    pub sample: u32,
    /// Where ports write whose packet it is.
    pub marking: Marking,
}
const _: () = assert!(size_of::<Config>() == 16);

/// Key of the map `PORTS`: whose workload is on the other side of a device. Its value is the
/// subject's number.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct PortKey {
    /// Index of the device, in the fence's network namespace.
    pub ifindex: u32,
    /// Generation of the policy that numbers the subject, its lower 32 bits.
    pub generation: u32,
}

/// Devices in `PORTS`, and in `LINKS`.
pub const NETWORK_DEVICES: usize = 4096;

/// Map `LEASE`, index 0: the end of the node's standing, and what else changes without a policy.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Lease {
    /// CLOCK_BOOTTIME in nanoseconds; 0: none.
    pub end_boot_ns: u64,
    /// 1: threshold and second line stand, so that what the host translates is judged again.
    pub translated: u64,
}

/// Which way a packet goes, as the workload sees it.
pub mod direction {
    /// Leaves the workload.
    pub const EGRESS: u8 = 1;
    /// Comes to the workload.
    pub const INGRESS: u8 = 2;
}

/// Where something was judged. The numbers are part of the events' layout and never reused.
pub mod hook {
    /// First line: what a socket sends.
    pub const SKB_EGRESS: u8 = 1;
    /// First line: what comes to a socket.
    pub const SKB_INGRESS: u8 = 2;
    /// Second line: what leaves by an uplink.
    pub const TCX_EGRESS: u8 = 3;
    /// Threshold: what a workload port takes in.
    pub const TCX_INGRESS: u8 = 4;
    /// A process asks for a connection, IPv4.
    pub const CONNECT4: u8 = 5;
    /// The same, IPv6.
    pub const CONNECT6: u8 = 6;
    /// A process sends a datagram, IPv4.
    pub const SENDMSG4: u8 = 7;
    /// The same, IPv6.
    pub const SENDMSG6: u8 = 8;
    /// A process sets a socket option.
    pub const SETSOCKOPT: u8 = 9;
    /// A process opens a device, or makes a node for one.
    pub const DEVICE: u8 = 10;
    /// A process makes a socket.
    pub const SOCK_CREATE: u8 = 11;
    /// A process makes a socket of any family, asked by the BPF LSM.
    pub const LSM_SOCKET: u8 = 12;
    /// A process calls bpf(2).
    pub const LSM_BPF: u8 = 13;
    /// A process has the kernel read a file: a module by its descriptor.
    pub const LSM_READ_FILE: u8 = 14;
    /// A process gives the kernel something to load: a module from its memory.
    pub const LSM_LOAD_DATA: u8 = 15;
    /// As statements and events spell them.
    pub const NAMES: [(u8, &str); 15] = [
        (SKB_EGRESS, "cgroup_skb/egress"),
        (SKB_INGRESS, "cgroup_skb/ingress"),
        (TCX_EGRESS, "tcx/egress"),
        (TCX_INGRESS, "tcx/ingress"),
        (CONNECT4, "cgroup/connect4"),
        (CONNECT6, "cgroup/connect6"),
        (SENDMSG4, "cgroup/sendmsg4"),
        (SENDMSG6, "cgroup/sendmsg6"),
        (SETSOCKOPT, "cgroup/setsockopt"),
        (DEVICE, "cgroup/dev"),
        (SOCK_CREATE, "cgroup/sock_create"),
        (LSM_SOCKET, "lsm/socket_create"),
        (LSM_BPF, "lsm/bpf"),
        (LSM_READ_FILE, "lsm/kernel_read_file"),
        (LSM_LOAD_DATA, "lsm/kernel_load_data"),
    ];

    /// The name of a hook's number; an unknown number has none.
    #[must_use]
    pub const fn name(number: u8) -> &'static str {
        let mut rest: &[(u8, &str)] = &NAMES;
        while let [(hook, name), others @ ..] = rest {
            if *hook == number {
                return name;
            }
            rest = others;
        }
        ""
    }
}

/// Within this time one kind of denied device reports one event.
pub const EVENT_WINDOW_NS: u64 = 1_000_000_000;

/// What keeps something that is refused again and again to one event per time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct FlowState {
    /// When its last event was sent, CLOCK_BOOTTIME.
    pub reported_ns: u64,
    /// Denials since.
    pub silent: u64,
}

/// Index into the per-CPU map `COUNTERS`. Packets, but for [`counter::EVENTS_LOST`].
pub mod counter {
    /// Passed on the way out.
    pub const EGRESS_ALLOWED: u32 = 0;
    /// Dropped on the way out.
    pub const EGRESS_DENIED: u32 = 1;
    /// Would have been dropped on the way out.
    pub const EGRESS_AUDITED: u32 = 2;
    /// Passed on the way in.
    pub const INGRESS_ALLOWED: u32 = 3;
    /// Dropped on the way in.
    pub const INGRESS_DENIED: u32 = 4;
    /// Would have been dropped on the way in.
    pub const INGRESS_AUDITED: u32 = 5;
    /// Denials that found no table to be told in; the counters here have them.
    pub const EVENTS_LOST: u32 = 6;
    /// Opens of governed devices that were denied.
    pub const DEVICES_DENIED: u32 = 10;
    /// Raw and vsock sockets that were denied.
    pub const SOCKETS_DENIED: u32 = 11;
    /// Calls that were denied before they became packets.
    pub const EARLY_DENIED: u32 = 12;
    /// Calls of `bpf(2)`, and modules, that were denied.
    pub const KERNEL_DENIED: u32 = 13;
    /// Denials by rule stand from here on: `RULES + rule`.
    pub const RULES: u32 = 16;
    /// Entries of the map.
    pub const COUNT: u32 = 48;
    /// The first seven by name, as statements and metrics spell them.
    pub const NAMES: [&str; 7] = [
        "egress.allowed",
        "egress.denied",
        "egress.audited",
        "ingress.allowed",
        "ingress.denied",
        "ingress.audited",
        "events.lost",
    ];
}

/// Names of rules in events and counters.
pub const RULE_NAMES: [(crate::Rule, &str); 22] = [
    (crate::Rule::NoPolicy, "no-policy"),
    (crate::Rule::NoSubject, "no-subject"),
    (crate::Rule::Malformed, "malformed"),
    (crate::Rule::SourceRoute, "source-route"),
    (crate::Rule::OtherStudy, "other-study"),
    (crate::Rule::Prefix, "prefix"),
    (crate::Rule::Peer, "peer"),
    (crate::Rule::Service, "service"),
    (crate::Rule::Jurisdiction, "jurisdiction"),
    (crate::Rule::Fragment, "fragment"),
    (crate::Rule::Neighbour, "neighbour-discovery"),
    (crate::Rule::Loopback, "loopback"),
    (crate::Rule::NoLease, "no-lease"),
    (crate::Rule::PeerLost, "peer-lost"),
    (crate::Rule::Forwarded, "forwarded"),
    (crate::Rule::EtherType, "ethertype"),
    (crate::Rule::SocketOption, "socket-option"),
    (crate::Rule::Kernel, "kernel"),
    (crate::Rule::Essential, "essential"),
    (crate::Rule::Management, "management"),
    (crate::Rule::Resolver, "resolver"),
    (crate::Rule::Translated, "translated"),
];

impl crate::Rule {
    /// The number that stands in events.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::as_conversions,
        reason = "the discriminant of a `repr(u8)` enum"
    )]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in events, counters and explanations.
    #[must_use]
    pub fn name(self) -> &'static str {
        rule_name(self.number())
    }
}

/// The name of a rule's number; an unknown number is named so.
#[must_use]
pub fn rule_name(number: u8) -> &'static str {
    RULE_NAMES
        .iter()
        .find(|(rule, _)| rule.number() == number)
        .map_or("unknown", |(_, name)| name)
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, integers only, no padding (asserted beside it).
    unsafe impl aya::Pod for crate::WorldImage {}
    // SAFETY: `repr(C)`, integers only, no padding (sizes asserted above).
    unsafe impl aya::Pod for super::Config {}
    // SAFETY: two integers.
    unsafe impl aya::Pod for super::Lease {}
}
