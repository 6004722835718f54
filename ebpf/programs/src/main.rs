//! The fence, as the kernel runs it.
//!
//! `cgroup_skb` egress and ingress on the fence root. Both fetch their arguments (header, subject,
//! tables, lease, the socket at the other end of the loopback device), ask
//! [`bailiwick_ebpf_common::judge`], count, and report denials. Nothing is decided here; whatever
//! cannot be fetched is denied.
#![no_std]
#![no_main]

mod loopback;
mod maps;
mod report;
mod skb;

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use bailiwick_ebpf_common::abi::direction;
use bailiwick_ebpf_common::{Action, Flow, Loopback, Question, Rule, Verdict, judge};

use crate::skb::Skb;

/// What leaves a workload.
#[cgroup_skb]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_egress(ctx: SkBuffContext) -> i32 {
    decide(&Skb::new(&ctx), direction::EGRESS)
}

/// What comes to a workload.
#[cgroup_skb]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_ingress(ctx: SkBuffContext) -> i32 {
    decide(&Skb::new(&ctx), direction::INGRESS)
}

/// 1 lets the packet pass, 0 drops it.
#[inline(always)]
fn decide(skb: &Skb, direction: u8) -> i32 {
    let Some(policy) = maps::policy() else {
        return refuse(skb, direction, None, &Verdict::deny(Rule::NoPolicy));
    };
    let Some(config) = maps::CONFIG.get(0) else {
        return refuse(skb, direction, None, &Verdict::deny(Rule::NoPolicy));
    };
    let root = config.root_level;
    let ingress = direction == direction::INGRESS;
    // Before the header is read, so that the verifier walks this loop once and not once for every
    // shape a header can have.
    let subject = policy.resolve(|level| skb.ancestor(root.wrapping_add(level)));
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let zero = (now >> 63).wrapping_neg(); // for 292 years of uptime
    let subject = wash(subject, zero);
    let flow = match Flow::parse(skb) {
        Ok(flow) => flow.washed(zero),
        Err(fault) => return refuse(skb, direction, subject, &Verdict::deny(fault.rule())),
    };
    let loopback = if skb.on_loopback() {
        loopback::far_end(skb, policy, root, subject, ingress, &flow)
    } else {
        Loopback::No
    };
    let verdict = judge(&Question {
        world: maps::world(),
        policy,
        subject,
        attested: maps::LEASE
            .get(0)
            .is_some_and(|lease| now < lease.end_boot_ns),
        ingress,
        loopback,
        flow: &flow,
        zero,
    });
    match verdict.action {
        Action::Allow => {
            report::allowed(direction);
            1
        }
        Action::Audit => {
            report::denied(skb, direction, subject, Some(&flow), &verdict);
            1
        }
        Action::Deny => {
            report::denied(skb, direction, subject, Some(&flow), &verdict);
            0
        }
    }
}

/// The same number, forgotten by the verifier: see `Question::zero`.
#[inline(always)]
fn wash(subject: Option<u32>, zero: u64) -> Option<u32> {
    let number = u64::from(subject.unwrap_or(u32::MAX)) ^ zero;
    u32::try_from(number & 0xffff_ffff)
        .ok()
        .filter(|number| *number != u32::MAX)
}

/// For packets whose header was not read.
#[inline(always)]
fn refuse(skb: &Skb, direction: u8, subject: Option<u32>, verdict: &Verdict) -> i32 {
    report::denied(skb, direction, subject, None, verdict);
    0
}

/// The kernel asks for a GPL-compatible licence before it lends some of its helpers.
// SAFETY: no other symbol has this name; the loader reads the section.
#[unsafe(link_section = "license")]
// SAFETY: as above.
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
