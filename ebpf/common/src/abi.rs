//! Small values that cross between the kernel and the agent, and the names under which they do.

/// Version of everything pinned: part of the pins' path. Raise it when a layout, a map's flags or
/// the meaning of a field changes; programs of one version never read maps of another.
pub const ABI: u32 = 3;

/// Map `CONFIG`, index 0. Written once, before the programs are attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Config {
    /// Level of the fence root in the hierarchy; 0 is the root of the hierarchy.
    pub root_level: u32,
    /// Bits of a packet's mark that hold the study it came from; 0: marks say nothing.
    pub mark_mask: u32,
    /// Within this time one flow reports one event.
    pub event_window_ns: u64,
}
const _: () = assert!(size_of::<Config>() == 16);

/// Map `LEASE`, index 0: the end of the node's standing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Lease {
    /// CLOCK_BOOTTIME in nanoseconds; 0: none.
    pub end_boot_ns: u64,
}

/// One denial, through the ring buffer `EVENTS`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Event {
    /// CLOCK_BOOTTIME in nanoseconds.
    pub boot_ns: u64,
    /// The socket's cgroup.
    pub cgroup: u64,
    /// Packets this event stands for: itself, and those of the same flow since its last event.
    pub count: u64,
    /// Generation of the policy that judged, its lower 32 bits; 0: none.
    pub generation: u64,
    /// As in the header, IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// As in the header.
    pub destination: [u8; 16],
    /// Number in the policy image, or `u32::MAX`.
    pub subject: u32,
    /// Host byte order; 0 without ports.
    pub source_port: u16,
    /// Host byte order; 0 without ports.
    pub destination_port: u16,
    /// Jurisdiction number of the far end, 0 where it was not looked up.
    pub jurisdiction: u16,
    /// Layer 4 protocol.
    pub protocol: u8,
    /// One of [`direction`].
    pub direction: u8,
    /// [`crate::Rule`] as a number.
    pub rule: u8,
    /// 1: audit mode, the packet passed.
    pub audit: u8,
    /// One of [`hook`].
    pub hook: u8,
    /// Zero.
    pub reserved: u8,
}
const _: () = assert!(size_of::<Event>() == 80);

/// [`Event::direction`].
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
    /// As statements and events spell them.
    pub const NAMES: [(u8, &str); 11] = [
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

/// Key of the map that keeps a flood of one flow's denials to one event per window.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct FlowKey {
    /// The far end.
    pub address: [u8; 16],
    /// The socket's cgroup.
    pub cgroup: u64,
    /// The far end's port.
    pub port: u16,
    /// Layer 4 protocol.
    pub protocol: u8,
    /// One of [`direction`].
    pub direction: u8,
    /// [`crate::Rule`] as a number.
    pub rule: u8,
    /// One of [`hook`].
    pub hook: u8,
    /// Zero.
    pub reserved: [u8; 2],
}
const _: () = assert!(size_of::<FlowKey>() == 32);

/// Value of that map.
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
    /// Events the full ring buffer did not take.
    pub const EVENTS_LOST: u32 = 6;
    /// Opens of governed devices that were denied.
    pub const DEVICES_DENIED: u32 = 10;
    /// Raw sockets that were denied.
    pub const SOCKETS_DENIED: u32 = 11;
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
    // SAFETY: one integer.
    unsafe impl aya::Pod for super::Lease {}
    // SAFETY: `repr(C)`, integers only, no padding (size asserted above).
    unsafe impl aya::Pod for super::FlowKey {}
    // SAFETY: two integers.
    unsafe impl aya::Pod for super::FlowState {}
}

/// An event as it came out of the ring buffer.
#[cfg(not(target_arch = "bpf"))]
impl Event {
    /// Reads one record; another length is no event.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut event = Self::default();
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        crate::Plain::bytes_mut(&mut event).copy_from_slice(bytes);
        Some(event)
    }
}

// SAFETY: `repr(C)`, integers only, no padding (size asserted above).
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for Event {}
