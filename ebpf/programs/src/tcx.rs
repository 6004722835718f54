//! Second line and threshold: what crosses a network device.
//!
//! Programs of both run before every other program on their device, and pass on what they let
//! pass. A frame is read from its first byte.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use bailiwick_ebpf_common::abi::{PortKey, hook};
use bailiwick_ebpf_common::frame::{self, Frame};
use bailiwick_ebpf_common::policy::kind;
use bailiwick_ebpf_common::{Line, Loopback, Rule, Verdict, Whose};

use crate::judge::{Asked, NO_SUBJECT, Room, fence_report, fence_resolve, overtaken, settle};
use crate::maps;
use crate::report::{self, Answer};
use crate::skb::Skb;

/// `TCX_NEXT`, and `TC_ACT_UNSPEC` where there is no tcx: whoever comes next decides.
const NEXT: i32 = -1;
/// `TCX_DROP`, `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// Second line: what leaves by an uplink.
#[classifier]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_uplink(ctx: TcContext) -> i32 {
    let skb = Skb::from_ptr(ctx.skb.skb);
    let who = fence_sender(skb.as_ptr());
    match open(&skb) {
        Frame::Ip(offset) => {
            let mut room = Room::new();
            let fault = room.read(&skb, offset);
            let (mut answer, mut who) = judge(who, Line::SECOND, fault, &mut room);
            if overtaken(answer, who) {
                who = fence_sender(skb.as_ptr());
                (answer, who) = judge(who, Line::SECOND, fault, &mut room);
            }
            conclude(&skb, answer, who, hook::TCX_EGRESS, &mut room)
        }
        // The kernel's own, or a workload's that a port has let in: it has no socket. Nobody's
        // study needs to write one by hand.
        Frame::Arp if fence_resolves(skb.as_ptr(), who) == 1 => NEXT,
        Frame::Named(ethertype) if fence_names(skb.as_ptr(), who, ethertype.into()) == 1 => NEXT,
        Frame::Arp | Frame::Named(_) | Frame::Other => refuse(&skb, who, hook::TCX_EGRESS),
    }
}

/// Threshold: what a workload's port takes in. Says in the mark whose it is.
#[classifier]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_port(ctx: TcContext) -> i32 {
    let skb = Skb::from_ptr(ctx.skb.skb);
    let who = fence_owner_of_port(skb.as_ptr());
    // A number that the mark does not hold is nobody's at the uplink.
    let marked = fence_mark(skb.as_ptr(), who) == 1;
    match open(&skb) {
        Frame::Ip(offset) => {
            let mut room = Room::new();
            let fault = room.read(&skb, offset);
            let (mut answer, mut who) = judge(who, Line::THRESHOLD, fault, &mut room);
            if overtaken(answer, who) {
                who = fence_owner_of_port(skb.as_ptr());
                // The uplink reads the mark by the policy in force, too.
                fence_mark(skb.as_ptr(), who);
                (answer, who) = judge(who, Line::THRESHOLD, fault, &mut room);
            }
            conclude(&skb, answer, who, hook::TCX_INGRESS, &mut room)
        }
        Frame::Arp if marked => NEXT,
        Frame::Arp | Frame::Named(_) | Frame::Other => refuse(&skb, who, hook::TCX_INGRESS),
    }
}

/// The verdict by the policy in force at this moment, and whose packet it was found to be.
#[inline(always)]
fn judge(who: u64, line: Line, fault: u32, room: &mut Room) -> (u64, u64) {
    let asked = Asked {
        line,
        ingress: false,
        far_end: Loopback::NO,
        fault,
    };
    settle(who, asked, room.flow())
}

/// What is neither IP nor address resolution, whoever sends it.
#[inline(always)]
fn refuse(skb: &Skb, who: u64, at: u8) -> i32 {
    let answer = Answer::from(Verdict::deny(Rule::EtherType)).pack();
    conclude(skb, answer, who, at, &mut Room::new())
}

#[inline(always)]
fn open(skb: &Skb) -> Frame {
    // SAFETY: the agent alone writes, and writes four aligned bytes.
    let kind = unsafe { maps::LINKS.get(skb.device()) };
    let kind = kind.copied().unwrap_or(frame::link::ETHERNET);
    frame::open(skb, kind, skb.length(), skb.tags_outside())
}

#[inline(always)]
fn conclude(skb: &Skb, answer: u64, who: u64, at: u8, room: &mut Room) -> i32 {
    let verdict = Answer::unpack(answer);
    if verdict.action == report::ALLOW {
        return NEXT;
    }
    fence_report(skb.as_ptr(), answer, who, at.into(), room.flow());
    if verdict.action == report::AUDIT {
        NEXT
    } else {
        DROP
    }
}

/// Whose is what leaves: by its socket's cgroup; without one by the mark; without either, and not
/// forwarded, the kernel's own.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_sender(skb: *mut __sk_buff) -> u64 {
    let packet = Skb::from_ptr(skb);
    if packet.cgroup() != 0 {
        return fence_resolve(skb);
    }
    let (Some(policy), Some(config)) = (maps::policy(), maps::CONFIG.get(0)) else {
        return NO_SUBJECT.into();
    };
    let subject = config.marking.read(packet.mark(), policy.header.generation);
    policy.tag(match subject {
        Some(subject) => subject,
        None if packet.is_forwarded() => Whose::UNMARKED.number(),
        None => Whose::KERNEL.number(),
    })
}

/// Whose workload a port belongs to: as the agent found; else, for what a process writes to a tap,
/// that process's.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_owner_of_port(skb: *mut __sk_buff) -> u64 {
    let packet = Skb::from_ptr(skb);
    let Some(policy) = maps::policy() else {
        return NO_SUBJECT.into();
    };
    let tag = policy.tag(0);
    let [a, b, c, d, ..] = tag.to_be_bytes();
    let key = PortKey {
        ifindex: packet.device(),
        generation: u32::from_be_bytes([a, b, c, d]),
    };
    // SAFETY: the agent alone writes, and writes four aligned bytes.
    match unsafe { maps::PORTS.get(key) } {
        Some(subject) => policy.tag(*subject),
        None if packet.cgroup() != 0 => fence_resolve(skb),
        None => policy.tag(NO_SUBJECT),
    }
}

/// Writes into the mark whose packet it is, or that it is nobody's. 1: somebody's.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_mark(skb: *mut __sk_buff, who: u64) -> i32 {
    let packet = Skb::from_ptr(skb);
    let Some(config) = maps::CONFIG.get(0) else {
        return 0;
    };
    let mark = packet.mark();
    let [a, b, c, d, e, f, g, h] = who.to_be_bytes();
    let generation = u32::from_be_bytes([a, b, c, d]).into();
    let subject = u32::from_be_bytes([e, f, g, h]);
    let written = config.marking.write(mark, generation, subject);
    packet.set_mark(written.unwrap_or(mark & !config.marking.mask));
    i32::from(written.is_some())
}

/// 1: address resolution may come from there: from the kernel or a port it has no socket, and of
/// those who have one only a named host service writes it by hand.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_resolves(skb: *mut __sk_buff, who: u64) -> i32 {
    let Some((policy, number)) = maps::tagged(who) else {
        return 0;
    };
    let subject = policy.subject(number);
    if Skb::from_ptr(skb).cgroup() == 0 {
        return i32::from(number == Whose::KERNEL.number() || subject.is_some());
    }
    i32::from(subject.is_some_and(|subject| subject.kind == kind::HOST))
}

/// 1: the host fence names the ethertype, and a host service sends the frame. What it says is not
/// read; a study has no business below IP.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_names(skb: *mut __sk_buff, who: u64, ethertype: u32) -> i32 {
    let [.., a, b] = ethertype.to_be_bytes();
    let Some((policy, number)) = maps::tagged(who) else {
        return 0;
    };
    let host = policy
        .subject(number)
        .is_some_and(|subject| subject.kind == kind::HOST);
    // A mark says whose forwarded packet it is; a host service's frame has its socket.
    let own = host && Skb::from_ptr(skb).cgroup() != 0;
    i32::from(own && policy.header.names_ethertype(u16::from_be_bytes([a, b])))
}
