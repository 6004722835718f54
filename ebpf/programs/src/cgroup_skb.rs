//! First line: every IP packet of every socket below the fence root, in any network namespace.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use bailiwick_ebpf_common::abi::hook;
use bailiwick_ebpf_common::{Line, Loopback};

use crate::judge::{
    Asked, Room, fence_far_end, fence_passed, fence_report, fence_resolve, overtaken, settle,
};
use crate::report::{self, Answer};
use crate::skb::Skb;

/// What leaves a workload.
#[cgroup_skb]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_egress(ctx: SkBuffContext) -> i32 {
    decide(&Skb::new(&ctx), hook::SKB_EGRESS)
}

/// What comes to a workload.
#[cgroup_skb]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_ingress(ctx: SkBuffContext) -> i32 {
    decide(&Skb::new(&ctx), hook::SKB_INGRESS)
}

/// 1 lets the packet pass, 0 drops it.
#[inline(always)]
fn decide(skb: &Skb, at: u8) -> i32 {
    let ingress = at == hook::SKB_INGRESS;
    let mut room = Room::new();
    // At this hook a packet begins with its network header.
    let fault = room.read(skb, 0);
    let mut judged = judge(skb, ingress, fault, &mut room);
    if overtaken(judged.answer, judged.who) {
        judged = judge(skb, ingress, fault, &mut room);
    }
    let Judged {
        answer,
        who,
        far_end,
    } = judged;
    let verdict = Answer::unpack(answer);
    if verdict.action == report::ALLOW {
        let place = u32::from(at) | (u32::from(far_end.number()) << 8);
        let told = fence_passed(skb.as_ptr(), answer, who, place, room.flow());
        if told != 0 {
            fence_report(skb.as_ptr(), told, who, at.into(), room.flow());
        }
        return 1;
    }
    fence_report(skb.as_ptr(), answer, who, at.into(), room.flow());
    i32::from(verdict.action == report::AUDIT)
}

/// The verdict on a packet, and what it was found by.
struct Judged {
    answer: u64,
    who: u64,
    far_end: Loopback,
}

/// Judges by the policy in force at this moment.
#[inline(always)]
fn judge(skb: &Skb, ingress: bool, fault: u32, room: &mut Room) -> Judged {
    let who = fence_resolve(skb.as_ptr());
    let far_end = if fault == 0 && skb.on_loopback() {
        let found = fence_far_end(skb.as_ptr(), who, ingress.into(), room.flow());
        let [.., found] = found.to_be_bytes();
        Loopback::from_number(found)
    } else {
        Loopback::NO
    };
    let asked = Asked {
        line: Line::FIRST,
        ingress,
        far_end,
        fault,
    };
    let (answer, who) = settle(who, asked, room.flow());
    Judged {
        answer,
        who,
        far_end,
    }
}
