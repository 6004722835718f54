//! The one decision: may this subject exchange packets with that address?

use core::hint::black_box;

use crate::address::Address;
use crate::packet::{Flow, Malformed};
use crate::policy::{PolicyImage, Subject, kind, mode, owned, peering};
pub use crate::weigh::{Carried, Far, served, served_with, services, weigh, weigh_with, weighed};
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
    /// The host's kernel, from a socket of its own: NFS, WireGuard.
    Kernel = 18,
    /// The host's network itself, as the host fence names it.
    Essential = 19,
    /// The management plane.
    Management = 20,
    /// DNS, to what is not an approved resolver.
    Resolver = 21,
    /// A service address; where it leads is judged on the uplink.
    Translated = 22,
}

/// Which line of the fence asks.
///
/// A number and no enum, as [`Whose`] and [`Loopback`] are: it crosses the border of a function, and
/// the verifier would walk all that follows once for each variant it was turned back into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Line(u8);

impl Line {
    /// A socket's packet, in and out of it.
    pub const FIRST: Self = Self(1);
    /// A workload's packet, before the host translates or forwards it.
    pub const THRESHOLD: Self = Self(2);
    /// What leaves by an uplink, translated or not.
    pub const SECOND: Self = Self(3);
    /// A process that connects or sends. Not yet a packet, and not the last word: which device it
    /// will take is not known.
    pub const EARLY: Self = Self(4);

    /// Across a function's border.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The reverse. What is no line's number is judged as [`Line::FIRST`] is.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }
}

/// Whose traffic a packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Whose(u32);

impl Whose {
    /// No process's: the host's kernel sends it, from a socket of its own or from none. Asked of
    /// [`served`] whom it serves; still this, nobody.
    pub const KERNEL: Self = Self(u32::MAX - 1);
    /// Forwarded by this host, and carries no mark.
    pub const UNMARKED: Self = Self(u32::MAX - 2);
    /// The kernel's, to a target that the host fence names for the host itself.
    pub const SERVED: Self = Self(u32::MAX - 3);
    /// A cgroup, a port or a mark that is nobody's.
    pub const NOBODY: Self = Self(u32::MAX);

    /// A study's or a host service's, by the cgroup of its socket ([`PolicyImage::resolve`]), by
    /// its workload port, or by the mark that the threshold has given it. A number that is no
    /// subject's is nobody's, once it is looked up.
    #[inline(always)]
    #[must_use]
    pub const fn subject(number: u32) -> Self {
        Self(number)
    }

    /// As one number, across a function's border and into [`PolicyImage::tag`].
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The subject's number, if it may be one's.
    #[inline(always)]
    #[must_use]
    pub const fn as_subject(self) -> Option<u32> {
        match self {
            Self::KERNEL | Self::UNMARKED | Self::SERVED | Self::NOBODY => None,
            Self(number) => Some(number),
        }
    }
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
pub struct Loopback(u8);

impl Loopback {
    /// Not on the loopback device.
    pub const NO: Self = Self(0);
    /// A socket of the same subject, or both belong to the host.
    pub const SAME: Self = Self(1);
    /// A socket of another study.
    pub const OTHER_STUDY: Self = Self(2);
    /// One end is a study's, the other the host's.
    pub const HOST: Self = Self(3);
    /// No socket: what is sent reaches nobody.
    pub const NOBODY: Self = Self(4);
    /// No socket that could be looked up has sent this.
    pub const UNCLEAR: Self = Self(5);

    /// Across a function's border.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The reverse. A number that is none of these is judged as [`Loopback::UNCLEAR`] is.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }
}

/// Everything a verdict depends on.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "the images are megabytes")]
pub struct Question<'a> {
    /// The table of jurisdictions, if loaded.
    pub world: Option<&'a WorldImage>,
    /// The policy in force.
    pub policy: &'a PolicyImage,
    /// Who asks where.
    pub line: Line,
    /// Whose packet it is.
    pub whose: Whose,
    /// Threshold and uplinks are attached, so that what the host translates is judged again.
    pub translated: bool,
    /// The node's lease lasts, or something stands in for it: [`Subject::attested`].
    pub attested: bool,
    /// An entry for the far end stands ([`crate::peers::stands`]); asked of studies whose own
    /// addresses count only then.
    pub peer: bool,
    /// The packet comes in: the far end is its source.
    pub ingress: bool,
    /// [`keeps_up`] says so. It turns denials of the host's own packets alone, so that it need not
    /// be asked before one.
    pub essential: bool,
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
/// In this order: whose it is; sockets of the same or of another study on the loopback device;
/// addresses of another study and of the management plane; explicit prefixes and services; the
/// study's own addresses, where they count; resolvers; service addresses; the jurisdiction; what
/// keeps the host's network up. The first that answers decides, and what nothing answers is denied.
/// `ebpf/policy/README.md` has the table.
#[inline(always)]
#[must_use]
pub fn judge(question: &Question<'_>) -> Verdict {
    judge_with(question, &Images { question })
}

/// What a verdict looks up.
///
/// In the kernel each of these is a function of its own, which the verifier checks once; what is
/// inlined it walks again for every path that leads there.
pub trait Tables {
    /// The address that is judged, and what goes there.
    fn far(&self, flow: &Flow, ingress: bool) -> Far;
    /// Which study a canonical address belongs to, or one of [`owned`].
    fn owner(&self, far: Address) -> Option<u32>;
    /// What a subject's prefixes and services say of it: a number of [`weighed`].
    fn weigh(&self, subject: u32, attested: bool, far: Address, carried: Carried) -> u32;
    /// Whether an entry of [`crate::peers`] stands for it.
    fn peer(&self, subject: u32, far: Address) -> bool;
    /// Where it lies.
    fn locate(&self, far: Address) -> Jurisdiction;
}

/// The tables, where they can simply be read.
struct Images<'a, 'q> {
    question: &'q Question<'a>,
}

impl Tables for Images<'_, '_> {
    fn far(&self, flow: &Flow, ingress: bool) -> Far {
        Far::side(flow, ingress)
    }

    fn owner(&self, far: Address) -> Option<u32> {
        self.question.policy.owner(far)
    }

    fn weigh(&self, subject: u32, attested: bool, far: Address, carried: Carried) -> u32 {
        weigh(self.question.policy, subject, attested, far, carried)
    }

    fn peer(&self, _subject: u32, _far: Address) -> bool {
        self.question.peer
    }

    fn locate(&self, far: Address) -> Jurisdiction {
        let Question { world, policy, .. } = self.question;
        locate(*world, policy.header.own_table, far)
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
    let zero = question.zero;
    let far = tables.far(flow, question.ingress);
    let (far, mut carried) = (far.address, far.carried());
    match question.whose {
        Whose::KERNEL if question.essential => return Verdict::allow(Rule::Essential),
        Whose::KERNEL => return Verdict::deny(Rule::Kernel),
        Whose::SERVED => return Verdict::allow(Rule::Kernel),
        Whose::UNMARKED => return Verdict::deny(Rule::Forwarded),
        _ => {}
    }
    // [`Whose::NOBODY`] is the number of no subject. Linux 6.1 walks ways that the comparisons above have closed, with bounds that no number meets.
    let [.., a, b, c, d] = hidden(question.whose.number().into(), zero).to_be_bytes();
    let number = u32::from_be_bytes([a, b, c, d]);
    let Some(subject) = question.policy.subject(number) else {
        return Verdict::deny(Rule::NoSubject);
    };
    if subject.kind != kind::STUDY && subject.kind != kind::HOST {
        return Verdict::deny(Rule::NoSubject);
    }
    match question.loopback {
        Loopback::HOST | Loopback::NO => {}
        Loopback::SAME => return Verdict::allow(Rule::Peer),
        Loopback::NOBODY => return Verdict::allow(Rule::Loopback),
        Loopback::OTHER_STUDY => return Verdict::deny(Rule::OtherStudy),
        _ => return Verdict::deny(Rule::Loopback),
    }
    let on_loopback = hidden(u64::from(question.loopback == Loopback::HOST), zero);
    if on_loopback == 0 && flow.is_neighbour_discovery(question.ingress) {
        return Verdict::allow(Rule::Neighbour);
    }
    let is_study = subject.kind == kind::STUDY;
    if question.line == Line::EARLY && far.is_loopback() {
        // Which sockets meet there the first line finds out.
        return Verdict::allow(Rule::Loopback);
    }
    let owner = tables.owner(far);
    if owner == Some(owned::MANAGEMENT) && (is_study || subject.management != 1) {
        return Verdict::deny(Rule::Management);
    }
    let translated = owner == Some(owned::TRANSLATED);
    let is_owned = !translated && owner.is_some();
    if is_study && is_owned && owner != Some(number) {
        return Verdict::deny(Rule::OtherStudy);
    }
    let own = hidden(u64::from(is_study && is_owned), zero);
    // A resolver passes on whatever it is asked: only a service that names it by its port answers.
    carried.by_port = is_study && carried.is_dns();
    let explicit = tables.weigh(number, question.attested, far, carried);
    match explicit {
        weighed::PREFIX => return Verdict::allow(Rule::Prefix),
        weighed::SERVICE => return Verdict::allow(Rule::Service),
        _ => {}
    }
    // From here on only what the study was not told explicitly.
    let attested = hidden(u64::from(question.attested), zero);
    // What leaves as it is was not translated after all.
    let translated = hidden(
        u64::from(translated && question.translated && question.line != Line::SECOND),
        zero,
    );
    let jurisdiction = tables.locate(far).0;
    // Chosen and asked in one go: Linux 6.1 forgets the bounds of an index that is put aside.
    let Some(rules) = subject
        .rules
        .get(black_box(usize::try_from(attested).unwrap_or(2)))
    else {
        return Verdict::deny(Rule::NoLease);
    };
    let allowed = hidden(u64::from(rules.allows(jurisdiction)), zero);
    // Most studies never ask.
    let lost = if own != 0 && subject.peers != peering::DECLARED {
        u64::from(!tables.peer(number, far))
    } else {
        0
    };
    let lost = hidden(lost, zero);
    let essential = hidden(u64::from(question.essential && !is_study), zero);
    let (action, rule) = if !matches!(
        explicit,
        weighed::NOTHING | weighed::UNANSWERED | weighed::RESOLVER
    ) {
        (refusal(subject, attested), Rule::Prefix)
    } else if on_loopback != 0 {
        (refusal(subject, attested), Rule::Loopback)
    } else if lost != 0 {
        // Before the jurisdiction: a node that lost standing is dropped wherever it stands.
        (refusal(subject, attested), Rule::PeerLost)
    } else if own & attested != 0 {
        (Action::Allow, Rule::Peer)
    } else if explicit == weighed::RESOLVER {
        (refusal(subject, attested), Rule::Resolver)
    } else if translated & attested != 0 {
        (Action::Allow, Rule::Translated)
    } else if allowed != 0 {
        (Action::Allow, Rule::Jurisdiction)
    } else if essential != 0 {
        (Action::Allow, Rule::Essential)
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

/// Whether the host fence names this packet as one without which the host has no network.
#[inline(always)]
#[must_use]
pub fn keeps_up(policy: &PolicyImage, flow: &Flow, ingress: bool) -> bool {
    flow.essential(ingress) & policy.header.essentials != 0
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

#[cfg(test)]
#[path = "verdict_tests/mod.rs"]
mod tests;
