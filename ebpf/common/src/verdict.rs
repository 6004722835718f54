//! The one decision: may this subject exchange packets with that address?

use core::hint::black_box;

use crate::address::Address;
use crate::packet::{Flow, Malformed, protocol};
use crate::policy::{
    ANY_PROTOCOL, ATTESTED, ICMP_PROTOCOL, PolicyImage, SERVICES_PER_INTERVAL, Slice, Subject,
    UNATTESTED, decision, kind, mode, peering,
};
use crate::world::{Jurisdiction, WorldImage};

/// What happens to the packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped and reported.
    Deny,
    /// It is reported as [`Action::Deny`] would be, and passes.
    Audit,
}

/// Why. The numbers are part of the event's layout and never reused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Rule {
    /// The fence stands and no policy was loaded.
    NoPolicy = 1,
    /// The cgroup belongs to no study and no named host service.
    NoSubject = 2,
    /// The header could not be read.
    Malformed = 3,
    /// The header's destination is not the packet's.
    SourceRoute = 4,
    /// The address, or the socket at the other end, is another study's.
    OtherStudy = 5,
    /// An explicit prefix.
    Prefix = 6,
    /// The study's own addresses, or its own sockets on the loopback device.
    Peer = 7,
    /// A named service.
    Service = 8,
    /// The bitmap of jurisdictions.
    Jurisdiction = 9,
    /// A later fragment, where only ports could have decided.
    Fragment = 10,
    /// Neighbour discovery on the link.
    Neighbour = 11,
    /// Loopback between a study and what is not of it.
    Loopback = 12,
    /// Would have passed with a lease, or might have: the node has none.
    NoLease = 13,
    /// One of the study's own addresses, and no node in standing has signed for it.
    PeerLost = 14,
    /// Forwarded, and no port of a study has marked it.
    Forwarded = 15,
    /// A frame that is neither IP nor address resolution, or has more tags than are unwrapped.
    EtherType = 16,
    /// A socket option that would lead past a line of the fence.
    SocketOption = 17,
}

/// Outcome, reason, and where the address lies as far as it was looked up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// What happens.
    pub action: Action,
    /// Why.
    pub rule: Rule,
    /// Jurisdiction number; 0 where nothing asked.
    pub jurisdiction: u16,
}

/// For packets on the loopback device, where addresses say nothing: who has the other end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loopback {
    /// Not on the loopback device.
    No,
    /// A socket of the same subject, or both belong to the host.
    Same,
    /// A socket of another study.
    OtherStudy,
    /// One end is a study's, the other the host's.
    Host,
    /// No socket: what is sent reaches nobody.
    Nobody,
    /// No socket that could be looked up has sent this.
    Unclear,
}

/// Everything a verdict depends on.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "the images are megabytes")]
pub struct Question<'a> {
    /// The table of jurisdictions, if loaded.
    pub world: Option<&'a WorldImage>,
    /// The policy in force.
    pub policy: &'a PolicyImage,
    /// Who: a number from [`PolicyImage::resolve`].
    pub subject: Option<u32>,
    /// The node's lease lasts, or something stands in for it: [`Subject::attested`].
    pub attested: bool,
    /// An entry for the far end stands ([`crate::peers::stands`]); asked of studies whose own
    /// addresses count only then.
    pub peer: bool,
    /// The packet comes in: the far end is its source.
    pub ingress: bool,
    /// Set for the loopback device.
    pub loopback: Loopback,
    /// The packet's header.
    pub flow: &'a Flow,
    /// 0, but from a source the kernel's verifier cannot see through.
    ///
    /// XOR-ed into what earlier branches have fixed, so that their paths meet again: a verifier
    /// that remembered each would walk the rest of the program some hundred times.
    pub zero: u64,
}

impl Malformed {
    /// The rule under which such a packet is denied.
    #[inline(always)]
    #[must_use]
    pub fn rule(self) -> Rule {
        match self {
            Self::SourceRoute => Rule::SourceRoute,
            Self::Header | Self::Extensions => Rule::Malformed,
        }
    }
}

impl Verdict {
    /// Denied, for everyone and in every mode.
    #[inline(always)]
    #[must_use]
    pub const fn deny(rule: Rule) -> Self {
        Self {
            action: Action::Deny,
            rule,
            jurisdiction: 0,
        }
    }

    #[inline(always)]
    const fn allow(rule: Rule) -> Self {
        Self {
            action: Action::Allow,
            rule,
            jurisdiction: 0,
        }
    }
}

/// Judges one packet.
///
/// In this order: neighbour discovery on the link; sockets of the same or of another study on the
/// loopback device; addresses of another study; explicit prefixes; services; the study's own
/// addresses, where they count; the jurisdiction. The first that answers decides, and what nothing answers is denied.
#[inline(always)]
#[must_use]
pub fn judge(question: &Question<'_>) -> Verdict {
    let images = Images {
        world: question.world,
        policy: question.policy,
        peer: question.peer,
    };
    judge_with(question, &images)
}

/// What a verdict looks up.
///
/// In the kernel each of these is a function of its own, which the verifier checks once; what is
/// inlined it walks again for every path that leads there.
pub trait Tables {
    /// Which study a canonical address belongs to.
    fn owner(&self, far: Address) -> Option<u32>;
    /// What a subject's prefixes and services say of it: a number of [`weighed`].
    fn weigh(&self, subject: u32, attested: bool, far: Address, carried: Carried) -> u32;
    /// Whether an entry of [`crate::peers`] stands for it.
    fn peer(&self, subject: u32, far: Address) -> bool;
    /// Where it lies.
    fn locate(&self, far: Address) -> Jurisdiction;
}

/// The tables, where they can simply be read.
struct Images<'a> {
    world: Option<&'a WorldImage>,
    policy: &'a PolicyImage,
    peer: bool,
}

impl Tables for Images<'_> {
    fn owner(&self, far: Address) -> Option<u32> {
        self.policy.owner(far)
    }

    fn weigh(&self, subject: u32, attested: bool, far: Address, carried: Carried) -> u32 {
        weigh(self.policy, subject, attested, far, carried)
    }

    fn peer(&self, _subject: u32, _far: Address) -> bool {
        self.peer
    }

    fn locate(&self, far: Address) -> Jurisdiction {
        locate(self.world, self.policy.header.own_table, far)
    }
}

/// Where the far end lies, as far as the policy's numbers and the table's mean the same: an
/// operator's own codes are numbered by each table anew.
#[inline(always)]
#[must_use]
pub fn locate(world: Option<&WorldImage>, own_table: u64, far: Address) -> Jurisdiction {
    let Some(world) = world else {
        return Jurisdiction::UNKNOWN;
    };
    let found = world.locate_canonical(far);
    if found.is_own() && world.header.own_table != own_table {
        return Jurisdiction::UNKNOWN;
    }
    found
}

/// [`judge`], on tables that are looked up in another way.
#[inline(always)]
#[must_use]
pub fn judge_with(question: &Question<'_>, tables: &impl Tables) -> Verdict {
    let flow = question.flow;
    let Some(number) = question.subject else {
        return Verdict::deny(Rule::NoSubject);
    };
    let Some(subject) = question.policy.subject(number) else {
        return Verdict::deny(Rule::NoSubject);
    };
    if subject.kind != kind::STUDY && subject.kind != kind::HOST {
        return Verdict::deny(Rule::NoSubject);
    }
    match question.loopback {
        Loopback::Same => return Verdict::allow(Rule::Peer),
        Loopback::Nobody => return Verdict::allow(Rule::Loopback),
        Loopback::OtherStudy => return Verdict::deny(Rule::OtherStudy),
        Loopback::Unclear => return Verdict::deny(Rule::Loopback),
        Loopback::Host | Loopback::No => {}
    }
    let zero = question.zero;
    let on_loopback = hidden(u64::from(question.loopback == Loopback::Host), zero);
    if on_loopback == 0 && flow.is_neighbour_discovery() {
        return Verdict::allow(Rule::Neighbour);
    }
    let (far, port) = if question.ingress {
        (flow.source.canonical(), flow.source_port())
    } else {
        (flow.destination.canonical(), flow.destination_port())
    };
    let far = Address {
        hi: hidden(far.hi, zero),
        lo: hidden(far.lo, zero),
    };
    let carried = Carried {
        protocol: flow.protocol,
        has_ports: flow.has_ports(),
        port,
    };

    let is_study = subject.kind == kind::STUDY;
    let owner = tables.owner(far);
    if is_study && owner.is_some_and(|owner| owner != number) {
        return Verdict::deny(Rule::OtherStudy);
    }
    let own = hidden(u64::from(is_study && owner.is_some()), zero);
    let explicit = tables.weigh(number, question.attested, far, carried);
    match explicit {
        weighed::PREFIX => return Verdict::allow(Rule::Prefix),
        weighed::SERVICE => return Verdict::allow(Rule::Service),
        _ => {}
    }
    // From here on only what the study was not told explicitly.
    let attested = hidden(u64::from(question.attested), zero);
    let Some(rules) = subject
        .rules
        .get(black_box(usize::try_from(attested).unwrap_or(2)))
    else {
        return Verdict::deny(Rule::NoLease);
    };
    let jurisdiction = tables.locate(far).0;
    // Most studies never ask.
    let lost = if own != 0 && subject.peers != peering::DECLARED {
        u64::from(!tables.peer(number, far))
    } else {
        0
    };
    let lost = hidden(lost, zero);
    let (action, rule) = if explicit != weighed::NOTHING && explicit != weighed::UNANSWERED {
        (refusal(subject, attested), Rule::Prefix)
    } else if on_loopback != 0 {
        (refusal(subject, attested), Rule::Loopback)
    } else if lost != 0 {
        // Before the jurisdiction: a node that lost standing is dropped wherever it stands.
        (refusal(subject, attested), Rule::PeerLost)
    } else if own & attested != 0 {
        (Action::Allow, Rule::Peer)
    } else if rules.allows(jurisdiction) {
        (Action::Allow, Rule::Jurisdiction)
    } else if explicit == weighed::UNANSWERED {
        (refusal(subject, attested), Rule::Fragment)
    } else if attested == 0 {
        (refusal(subject, attested), Rule::NoLease)
    } else {
        (refusal(subject, attested), Rule::Jurisdiction)
    };
    Verdict {
        action,
        rule,
        jurisdiction,
    }
}

/// The value, as something the kernel's verifier has to take as it comes: see [`Question::zero`].
#[inline(always)]
const fn hidden(value: u64, zero: u64) -> u64 {
    value ^ zero
}

/// Audit is a word about the study's own rules: without a lease, and against another study, every
/// study is enforced.
#[inline(always)]
fn refusal(subject: &Subject, attested: u64) -> Action {
    if subject.mode == mode::AUDIT && attested != 0 {
        Action::Audit
    } else {
        Action::Deny
    }
}

/// What prefixes and services say, as a number across a function's border. Others deny.
pub mod weighed {
    /// Nothing covers the address.
    pub const NOTHING: u32 = 0;
    /// An allowed prefix is the longest.
    pub const PREFIX: u32 = 1;
    /// A service answers for this very packet.
    pub const SERVICE: u32 = 2;
    /// A denied prefix is the longest.
    pub const DENIED: u32 = 3;
    /// A port rule stands here, and this packet carries no ports.
    pub const UNANSWERED: u32 = 4;
}

/// What a service's rule is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// Layer 4 protocol number.
    pub protocol: u8,
    /// Whether `port` was read.
    pub has_ports: bool,
    /// Of the far end.
    pub port: u16,
}

impl Carried {
    /// As one number: what a function of the kernel side takes.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u32 {
        let [high, low] = self.port.to_be_bytes();
        let has_ports = if self.has_ports { 1 } else { 0 };
        u32::from_be_bytes([self.protocol, has_ports, high, low])
    }

    /// The reverse.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(packed: u32) -> Self {
        let [protocol, has_ports, high, low] = packed.to_be_bytes();
        Self {
            protocol,
            has_ports: has_ports & 1 == 1,
            port: u16::from_be_bytes([high, low]),
        }
    }
}

/// What the prefixes and services of a subject say of a canonical address: a number of
/// [`weighed`].
#[inline(always)]
#[must_use]
pub fn weigh(
    policy: &PolicyImage,
    subject: u32,
    attested: bool,
    far: Address,
    carried: Carried,
) -> u32 {
    let Some(subject) = policy.subject(subject) else {
        return weighed::DENIED;
    };
    let rules = if attested { ATTESTED } else { UNATTESTED };
    let Some(rules) = subject.rules.get(black_box(rules)) else {
        return weighed::DENIED;
    };
    let Some(interval) = policy.find(rules.intervals, far) else {
        return weighed::NOTHING;
    };
    if interval.decision == decision::ALLOW {
        return weighed::PREFIX;
    }
    let answer = services(policy, interval.services, carried);
    if answer == weighed::SERVICE || interval.decision == decision::NONE {
        answer
    } else {
        weighed::DENIED
    }
}

/// Without a branch per rule: the verifier would walk every combination of answers.
#[inline(always)]
fn services(policy: &PolicyImage, slice: Slice, carried: Carried) -> u32 {
    let protocol = u64::from(carried.protocol);
    let has_ports = u64::from(carried.has_ports);
    let port = u64::from(carried.port);
    let is_icmp = crate::equal(protocol, protocol::ICMP.into())
        | crate::equal(protocol, protocol::ICMPV6.into());
    let mut allowed = 0;
    let mut unanswered = 0;
    let mut number = 0;
    while number < SERVICES_PER_INTERVAL && number < slice.count {
        let at = slice.first.wrapping_add(number);
        let service = policy.service(at);
        let (wanted, first, last) = (
            u64::from(service.protocol),
            u64::from(service.first_port),
            u64::from(service.last_port),
        );
        let meant = crate::equal(wanted, ANY_PROTOCOL.into())
            | crate::equal(wanted, protocol)
            | (crate::equal(wanted, ICMP_PROTOCOL.into()) & is_icmp);
        let any_port = crate::equal(first, 0) & crate::equal(last, u16::MAX.into());
        let in_range = at_most(first, port) & at_most(port, last);
        allowed |= meant & (any_port | (has_ports & in_range));
        unanswered |= meant & (has_ports ^ 1);
        number += 1;
    }
    if allowed != 0 {
        weighed::SERVICE
    } else if unanswered != 0 {
        weighed::UNANSWERED
    } else {
        weighed::NOTHING
    }
}

/// 1 where `a <= b`, else 0; both far below 2⁶³.
#[inline(always)]
fn at_most(a: u64, b: u64) -> u64 {
    1 ^ crate::top_bit(b.wrapping_sub(a))
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
