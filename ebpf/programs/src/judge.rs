//! The verdict, for whichever hook asks: functions the verifier checks one by one.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use bailiwick_ebpf_common::abi::hook;
use bailiwick_ebpf_common::peers::PeerKey;
use bailiwick_ebpf_common::verdict::{Carried, Tables, weighed};
use bailiwick_ebpf_common::{
    Address, Flow, Jurisdiction, Line, Question, Rule, Verdict, Whose, judge_with, peers, verdict,
};

use crate::report::{self, Answer};
use crate::skb::Skb;
use crate::{loopback, maps};

// What follows has global linkage: the verifier checks such a function by itself and once, where
// inlined code is walked anew on every path that leads to it. Arguments are numbers and the
// context, so each fetches its own maps; `who` holds the subject's number and tags the policy that
// gave it, and a function that finds another policy in force denies (`maps::tagged`).

/// The subject a packet's socket belongs to, or [`NO_SUBJECT`], tagged.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_resolve(skb: *mut __sk_buff) -> u64 {
    let skb = Skb::from_ptr(skb);
    let (Some(policy), Some(config)) = (maps::policy(), maps::CONFIG.get(0)) else {
        return NO_SUBJECT.into();
    };
    let root = config.root_level;
    // A number in every case, at once: the value of an empty `Option` would be a read of nothing,
    // which Linux 6.1 refuses.
    let mut subject = policy
        .resolve(|level| skb.ancestor(root.wrapping_add(level)))
        .unwrap_or(NO_SUBJECT);
    // No process lives in the root of the hierarchy but the kernel's own.
    if subject == NO_SUBJECT && root == 0 && skb.ancestor(1) == 0 {
        subject = Whose::Kernel.number();
    }
    policy.tag(subject)
}

/// Whether [`fence_served`] has to be asked.
#[inline(always)]
pub(crate) fn is_kernel(who: u64) -> bool {
    let [.., a, b, c, d] = who.to_be_bytes();
    u32::from_be_bytes([a, b, c, d]) == Whose::Kernel.number()
}

/// Whose a packet of the kernel's own is, by where it goes; everybody else's stays whose it is.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_served(skb: *mut __sk_buff, who: u64, ingress: u32) -> u64 {
    let Some((policy, number)) = maps::tagged(who) else {
        return who;
    };
    if number != Whose::Kernel.number() {
        return who;
    }
    let Ok(flow) = Flow::parse(&Skb::from_ptr(skb)) else {
        return who;
    };
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let zero = (now >> 63).wrapping_neg();
    let whose = verdict::served(policy, &flow.washed(zero), ingress == 1, zero);
    policy.tag(whose.number())
}

/// 1: the host fence names this packet as one without which the host has no network.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_keeps_up(skb: *mut __sk_buff, who: u64, ingress: u32) -> u32 {
    match (maps::tagged(who), Flow::parse(&Skb::from_ptr(skb))) {
        (Some((policy, _)), Ok(flow)) => verdict::keeps_up(policy, &flow, ingress == 1).into(),
        _ => 0,
    }
}

/// Who has the other end of a packet on the loopback device: a number of `loopback`.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_far_end(skb: *mut __sk_buff, who: u64, ingress: u32) -> u32 {
    let skb = Skb::from_ptr(skb);
    let (Some((policy, subject)), Some(config), Ok(flow)) =
        (maps::tagged(who), maps::CONFIG.get(0), Flow::parse(&skb))
    else {
        return loopback::UNCLEAR;
    };
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let flow = flow.washed((now >> 63).wrapping_neg());
    loopback::far_end(
        &skb,
        policy,
        config.root_level,
        subject,
        ingress == 1,
        &flow,
    )
}

/// The tables, each behind a function of its own.
struct Functions {
    who: u64,
    own_table: u64,
}

impl Tables for Functions {
    #[inline(always)]
    fn owner(&self, far: Address) -> Option<u32> {
        let owner = fence_owner(self.who, far.hi, far.lo);
        (owner != NO_SUBJECT).then_some(owner)
    }

    #[inline(always)]
    fn weigh(&self, _subject: u32, attested: bool, far: Address, carried: Carried) -> u32 {
        fence_weigh(self.who, attested.into(), far.hi, far.lo, carried.pack())
    }

    #[inline(always)]
    fn peer(&self, _subject: u32, far: Address) -> bool {
        fence_peer(self.who, far.hi, far.lo) == 1
    }

    #[inline(always)]
    fn locate(&self, far: Address) -> Jurisdiction {
        let found = fence_locate(far.hi, far.lo, self.own_table);
        let [.., a, b] = found.to_be_bytes();
        Jurisdiction(u16::from_be_bytes([a, b]))
    }
}

/// The study a canonical address belongs to, or [`NO_SUBJECT`].
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_owner(who: u64, hi: u64, lo: u64) -> u32 {
    match maps::tagged(who) {
        Some((policy, _)) => policy.owner(Address { hi, lo }).unwrap_or(NO_SUBJECT),
        None => NO_SUBJECT - 1, // somebody else's, until the next packet
    }
}

/// What a subject's prefixes and services say of a canonical address.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_weigh(
    who: u64,
    attested: u32,
    hi: u64,
    lo: u64,
    carried: u32,
) -> u32 {
    let Some((policy, subject)) = maps::tagged(who) else {
        return weighed::DENIED;
    };
    let carried = Carried::unpack(carried);
    verdict::weigh(policy, subject, attested == 1, Address { hi, lo }, carried)
}

/// 1: an entry of the study's stands for a canonical address.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_peer(who: u64, hi: u64, lo: u64) -> u32 {
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let key = PeerKey::new(who, Address { hi, lo });
    // SAFETY: the agent alone writes, and writes eight aligned bytes: an end is old or new.
    let entry = unsafe { maps::PEERS.get(key) };
    u32::from(peers::stands(entry, now))
}

/// Where a canonical address lies.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_locate(hi: u64, lo: u64, own_table: u64) -> u32 {
    verdict::locate(maps::world(), own_table, Address { hi, lo })
        .0
        .into()
}

/// The verdict, packed. Whatever cannot be fetched is denied.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_judge(
    skb: *mut __sk_buff,
    who: u64,
    ingress: u32,
    far_end: u32,
    essential: u32,
) -> u64 {
    let skb = Skb::from_ptr(skb);
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let zero = (now >> 63).wrapping_neg(); // for 292 years of uptime
    let verdict = match (maps::tagged(who), Flow::parse(&skb)) {
        (None, _) => Verdict::deny(Rule::NoPolicy),
        (_, Err(fault)) => Verdict::deny(fault.rule()),
        (Some((policy, subject)), Ok(flow)) => {
            let lease = maps::LEASE.get(0).map_or(0, |lease| lease.end_boot_ns);
            let question = Question {
                world: None, // looked up by `fence_locate`
                policy,
                line: Line::First,
                whose: Whose::from_number(subject),
                translated: false, // nothing judges again what the host translates
                attested: policy
                    .subject(subject)
                    .is_some_and(|subject| subject.attested(lease, now)),
                peer: false, // looked up by `fence_peer`
                ingress: ingress == 1,
                essential: essential == 1,
                loopback: loopback::from_number(far_end),
                flow: &flow.washed(zero),
                zero,
            };
            let own_table = policy.header.own_table;
            judge_with(&question, &Functions { who, own_table })
        }
    };
    Answer::from(verdict).pack()
}

/// Where the far end of a packet lies that passed by an explicit rule, before anybody asked: it is
/// counted by jurisdiction, too.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_place(skb: *mut __sk_buff, ingress: u32) -> u32 {
    let (Some(policy), Ok(flow)) = (maps::policy(), Flow::parse(&Skb::from_ptr(skb))) else {
        return Jurisdiction::UNKNOWN.0.into();
    };
    let far = if ingress == 1 {
        flow.source.canonical()
    } else {
        flow.destination.canonical()
    };
    fence_locate(far.hi, far.lo, policy.header.own_table)
}

/// Counts a packet that passes. 0, or the answer to tell of it with: it is one of a sample.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_passed(
    skb: *mut __sk_buff,
    answer: u64,
    who: u64,
    at: u32,
    far_end: u32,
) -> u64 {
    let [.., at] = at.to_be_bytes();
    let mut answer = Answer::unpack(answer);
    if answer.jurisdiction == 0 {
        answer.jurisdiction = if far_end == loopback::NOT {
            let ingress = u32::from(at == hook::SKB_INGRESS);
            let [.., a, b] = fence_place(skb, ingress).to_be_bytes();
            u16::from_be_bytes([a, b])
        } else {
            Jurisdiction::LOOPBACK.0
        };
    }
    if report::passed(&Skb::from_ptr(skb), &answer, who, at) {
        answer.pack()
    } else {
        0
    }
}

/// Counts and tells of a denial; tells of a packet that passes.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_report(skb: *mut __sk_buff, answer: u64, who: u64, at: u32) -> i32 {
    let [.., at] = at.to_be_bytes();
    report::told(&Skb::from_ptr(skb), &Answer::unpack(answer), who, at);
    0
}

/// No number in any policy image.
pub(crate) const NO_SUBJECT: u32 = Whose::Nobody.number();
