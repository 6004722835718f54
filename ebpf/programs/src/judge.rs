//! The verdict, for whichever hook asks: functions the verifier checks one by one.

use core::mem::{MaybeUninit, align_of, size_of};

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use bailiwick_ebpf_common::abi::hook;
use bailiwick_ebpf_common::peers::PeerKey;
use bailiwick_ebpf_common::policy::Slice;
use bailiwick_ebpf_common::verdict::{Carried, Far, Tables, weighed};
use bailiwick_ebpf_common::{
    Address, Flow, Jurisdiction, Line, Loopback, Question, Rule, Verdict, Whose, judge_with, peers,
    verdict,
};

use crate::report::{self, Answer};
use crate::skb::{After, Skb};
use crate::{loopback, maps};

// What follows has global linkage: the verifier checks such a function by itself and once, where
// inlined code is walked anew on every path that leads to it. Arguments are numbers and the
// context, so each fetches its own maps; `who` holds the subject's number and tags the policy that
// gave it, and a function that finds another policy in force denies (`maps::tagged`); then the packet
// is judged once more, from its subject on (`overtaken`).

/// What is asked of a packet besides whose it is and its headers; one number, across a function's
/// border.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) line: Line,
    pub(crate) ingress: bool,
    pub(crate) far_end: Loopback,
    /// Of [`Room::read`].
    pub(crate) fault: u32,
}

impl Asked {
    #[inline(always)]
    fn pack(self, essential: bool) -> u32 {
        let [.., fault] = self.fault.to_be_bytes();
        let flags = u8::from(self.ingress) | (u8::from(essential) << 1);
        u32::from_be_bytes([self.line.number(), flags, self.far_end.number(), fault])
    }

    #[inline(always)]
    fn unpack(packed: u32) -> (Self, bool) {
        let [line, flags, far_end, fault] = packed.to_be_bytes();
        let asked = Self {
            line: Line::from_number(line),
            ingress: flags & 1 != 0,
            far_end: Loopback::from_number(far_end),
            fault: fault.into(),
        };
        (asked, flags & 2 != 0)
    }
}

/// Room for a packet's headers, on the stack of whoever asks: what reading them takes of it is
/// free again when they are judged.
pub(crate) struct Room(MaybeUninit<[u64; WORDS]>);

const WORDS: usize = size_of::<Flow>() / 8;
const _: () = assert!(size_of::<Flow>() == WORDS * 8 && align_of::<Flow>() == 8);

impl Room {
    /// All zero, word by word: the verifier of older kernels lends no function what was never
    /// written, and a loop over bytes would be walked byte by byte.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        let mut room = MaybeUninit::<[u64; WORDS]>::uninit();
        let mut at = 0;
        while at < WORDS {
            let word = room.as_mut_ptr().cast::<u64>().wrapping_add(at);
            // SAFETY: one of the words of the room.
            unsafe { word.write_volatile(0) };
            at += 1;
        }
        Self(room)
    }

    /// Fills it with the headers behind `offset`. 0, or the number of the rule that denies the
    /// packet.
    #[inline(always)]
    pub(crate) fn read(&mut self, skb: &Skb, offset: u32) -> u32 {
        fence_flow(skb.as_ptr(), offset, self.flow())
    }

    #[inline(always)]
    pub(crate) fn flow(&mut self) -> *mut Flow {
        self.0.as_mut_ptr().cast()
    }
}

/// Reads the headers behind `offset` to where there is room for them. What a function writes there
/// the verifier takes as it comes: paths that read different headers meet again.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_flow(skb: *mut __sk_buff, offset: u32, to: *mut Flow) -> u32 {
    if to.is_null() {
        return Rule::Malformed.number().into();
    }
    match Flow::parse(&After(&Skb::from_ptr(skb), offset)) {
        Ok(flow) => {
            // SAFETY: the caller's room for one, and not null.
            unsafe { *to = flow };
            0
        }
        Err(fault) => fault.rule().number().into(),
    }
}

/// What [`Room::flow`] gave, in a function of its own.
#[inline(always)]
fn lent<'a>(flow: *mut Flow) -> Option<&'a Flow> {
    // SAFETY: the caller's room for one, integers only and all of them written; it outlives the
    // function it was lent to.
    unsafe { flow.as_ref() }
}

/// The verdict, packed, and whose packet it was found to be.
#[inline(always)]
pub(crate) fn settle(who: u64, asked: Asked, flow: *mut Flow) -> (u64, u64) {
    let side = asked.pack(false);
    let who = if is_kernel(who) {
        fence_served(who, side, flow)
    } else {
        who
    };
    let answer = fence_judge(who, side, flow);
    if Answer::unpack(answer).action != report::ALLOW && fence_keeps_up(who, side, flow) == 1 {
        // Asked last: nearly all packets need no answer.
        return (fence_judge(who, asked.pack(true), flow), who);
    }
    (answer, who)
}

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
        subject = Whose::KERNEL.number();
    }
    policy.tag(subject)
}

/// 1: the policy that gave `who` is no longer in force. What was denied meanwhile may have been
/// denied for that alone, and is judged once more.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_replaced(who: u64) -> u32 {
    maps::tagged(who).is_none().into()
}

/// Whether an answer has to be asked for once more: see [`fence_replaced`].
#[inline(always)]
pub(crate) fn overtaken(answer: u64, who: u64) -> bool {
    Answer::unpack(answer).action != report::ALLOW && fence_replaced(who) == 1
}

/// Whether [`fence_served`] has to be asked.
#[inline(always)]
fn is_kernel(who: u64) -> bool {
    let [.., a, b, c, d] = who.to_be_bytes();
    u32::from_be_bytes([a, b, c, d]) == Whose::KERNEL.number()
}

/// Whose a packet of the kernel's own is, by where it goes; everybody else's stays whose it is.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_served(who: u64, asked: u32, flow: *mut Flow) -> u64 {
    let (Some((policy, number)), Some(flow)) = (maps::tagged(who), lent(flow)) else {
        return who;
    };
    let (asked, _) = Asked::unpack(asked);
    if number != Whose::KERNEL.number() || asked.fault != 0 {
        return who;
    }
    let far = far_side(flow, asked.ingress);
    let answers = |slice: Slice| services(who, slice, far.carried());
    policy.tag(verdict::served_with(policy, &far, answers).number())
}

/// [`Far::side`], by a function of its own.
#[inline(always)]
fn far_side(flow: &Flow, ingress: bool) -> Far {
    let mut far = MaybeUninit::<Far>::uninit();
    let nothing = Far {
        address: Address { hi: 0, lo: 0 },
        carried: 0,
    };
    // SAFETY: room for one; written where the compiler may not leave it out, see `Room::new`.
    unsafe { far.as_mut_ptr().write_volatile(nothing) };
    fence_far(
        (&raw const *flow).cast_mut(),
        ingress.into(),
        far.as_mut_ptr(),
    );
    // SAFETY: written above.
    unsafe { far.assume_init() }
}

/// Writes the address that is judged, and what goes there, to where there is room for them.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_far(flow: *mut Flow, ingress: u32, to: *mut Far) -> u32 {
    let Some(flow) = lent(flow) else {
        return 0;
    };
    if !to.is_null() {
        // SAFETY: the caller's room for one, and not null.
        unsafe { *to = Far::side(flow, ingress == 1) };
    }
    0
}

/// [`verdict::services`], by a function of its own.
#[inline(always)]
fn services(who: u64, slice: Slice, carried: Carried) -> u32 {
    fence_services(who, slice.first, slice.count, carried.pack())
}

/// What a slice of the policy's services says of a packet: a number of [`weighed`].
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_services(who: u64, first: u32, count: u32, carried: u32) -> u32 {
    match maps::tagged(who) {
        Some((policy, _)) => {
            verdict::services(policy, Slice { first, count }, Carried::unpack(carried))
        }
        None => weighed::DENIED,
    }
}

/// 1: the host fence names this packet as one without which the host has no network.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_keeps_up(who: u64, asked: u32, flow: *mut Flow) -> u32 {
    let (asked, _) = Asked::unpack(asked);
    match (maps::tagged(who), lent(flow)) {
        (Some((policy, _)), Some(flow)) if asked.fault == 0 => {
            verdict::keeps_up(policy, flow, asked.ingress).into()
        }
        _ => 0,
    }
}

/// Who has the other end of a packet on the loopback device: a [`Loopback`]'s number.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_far_end(
    skb: *mut __sk_buff,
    who: u64,
    ingress: u32,
    flow: *mut Flow,
) -> u32 {
    let (Some((policy, subject)), Some(config), Some(flow)) =
        (maps::tagged(who), maps::CONFIG.get(0), lent(flow))
    else {
        return Loopback::UNCLEAR.number().into();
    };
    loopback::far_end(
        &Skb::from_ptr(skb),
        policy,
        config.root_level,
        subject,
        ingress == 1,
        flow,
    )
    .number()
    .into()
}

/// The tables, each behind a function of its own.
struct Functions {
    who: u64,
    own_table: u64,
}

impl Tables for Functions {
    #[inline(always)]
    fn far(&self, flow: &Flow, ingress: bool) -> Far {
        far_side(flow, ingress)
    }

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
    let (far, carried) = (Address { hi, lo }, Carried::unpack(carried));
    let answers = |slice: Slice| services(who, slice, carried);
    verdict::weigh_with(policy, subject, attested == 1, far, carried, answers)
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
pub(crate) extern "C" fn fence_judge(who: u64, asked: u32, flow: *mut Flow) -> u64 {
    let (asked, essential) = Asked::unpack(asked);
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let zero = (now >> 63).wrapping_neg(); // for 292 years of uptime
    let verdict = match (maps::tagged(who), lent(flow)) {
        (None, _) => Verdict::deny(Rule::NoPolicy),
        _ if asked.fault == u32::from(Rule::SourceRoute.number()) => {
            Verdict::deny(Rule::SourceRoute)
        }
        _ if asked.fault != 0 => Verdict::deny(Rule::Malformed),
        (_, None) => Verdict::deny(Rule::Malformed),
        (Some((policy, subject)), Some(flow)) => {
            let lease = maps::LEASE.get(0);
            let end = lease.map_or(0, |lease| lease.end_boot_ns);
            let question = Question {
                world: None, // looked up by `fence_locate`
                policy,
                line: asked.line,
                whose: Whose::subject(subject),
                translated: lease.is_some_and(|lease| lease.translated == 1),
                attested: policy
                    .subject(subject)
                    .is_some_and(|subject| subject.attested(end, now)),
                peer: false, // looked up by `fence_peer`
                ingress: asked.ingress,
                essential,
                loopback: asked.far_end,
                flow,
                zero,
            };
            let own_table = policy.header.own_table;
            judge_with(&question, &Functions { who, own_table })
        }
    };
    Answer::from(verdict).pack()
}

/// Counts a packet that passes. 0, or the answer to tell of it with: it is one of a sample. `place`
/// holds the hook, and in the byte above it who has the other end on the loopback device.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_passed(
    skb: *mut __sk_buff,
    answer: u64,
    who: u64,
    place: u32,
    flow: *mut Flow,
) -> u64 {
    let [_, _, far_end, at] = place.to_be_bytes();
    let mut answer = Answer::unpack(answer);
    if answer.jurisdiction == 0 {
        // By an explicit rule, before anybody asked where it lies: it is counted by place, too.
        answer.jurisdiction = match (maps::policy(), lent(flow)) {
            _ if Loopback::from_number(far_end) != Loopback::NO => Jurisdiction::LOOPBACK.0,
            (Some(policy), Some(flow)) => {
                let far = if at == hook::SKB_INGRESS {
                    flow.source.canonical()
                } else {
                    flow.destination.canonical()
                };
                let found = fence_locate(far.hi, far.lo, policy.header.own_table);
                let [.., a, b] = found.to_be_bytes();
                u16::from_be_bytes([a, b])
            }
            _ => Jurisdiction::UNKNOWN.0,
        };
    }
    if report::passed(&Skb::from_ptr(skb), &answer, who, at) {
        answer.pack()
    } else {
        0
    }
}

/// Counts and tells of a denial at a hook; tells of a packet that passes.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_report(
    skb: *mut __sk_buff,
    answer: u64,
    who: u64,
    at: u32,
    flow: *mut Flow,
) -> i32 {
    let [.., at] = at.to_be_bytes();
    if let Some(flow) = lent(flow) {
        report::told(&Skb::from_ptr(skb), flow, &Answer::unpack(answer), who, at);
    }
    0
}

/// No number in any policy image.
pub(crate) const NO_SUBJECT: u32 = Whose::NOBODY.number();
