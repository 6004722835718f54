//! First line: every IP packet of every socket below the fence root, in any network namespace.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use bailiwick_ebpf_common::abi::hook;

use crate::judge::{
    fence_far_end, fence_judge, fence_keeps_up, fence_passed, fence_report, fence_resolve,
    fence_served, is_kernel,
};
use crate::loopback;
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
    let ingress = u32::from(at == hook::SKB_INGRESS);
    let mut who = fence_resolve(skb.as_ptr());
    if is_kernel(who) {
        who = fence_served(skb.as_ptr(), who, ingress);
    }
    let far_end = if skb.on_loopback() {
        fence_far_end(skb.as_ptr(), who, ingress)
    } else {
        loopback::NOT
    };
    let mut answer = fence_judge(skb.as_ptr(), who, ingress, far_end, 0);
    if Answer::unpack(answer).action != report::ALLOW
        && fence_keeps_up(skb.as_ptr(), who, ingress) == 1
    {
        // Asked last: nearly all packets need no answer.
        answer = fence_judge(skb.as_ptr(), who, ingress, far_end, 1);
    }
    let verdict = Answer::unpack(answer);
    if verdict.action == report::ALLOW {
        let told = fence_passed(skb.as_ptr(), answer, who, at.into(), far_end);
        if told != 0 {
            fence_report(skb.as_ptr(), told, who, at.into());
        }
        return 1;
    }
    fence_report(skb.as_ptr(), answer, who, at.into());
    i32::from(verdict.action == report::AUDIT)
}
