//! Counting every verdict, and telling the agent of denials without drowning it.

use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns};
use bailiwick_ebpf_common::abi::{Event, FlowKey, FlowState, counter, direction, hook};
use bailiwick_ebpf_common::{Action, Address, Flow, Rule, Verdict};

use crate::maps::{CONFIG, COUNTERS, DENIED_FLOWS, EVENTS};
use crate::skb::Skb;

#[inline(always)]
pub(crate) fn allowed(way: u8) {
    count(if way == direction::EGRESS {
        counter::EGRESS_ALLOWED
    } else {
        counter::INGRESS_ALLOWED
    });
}

/// [`Action`] as a number, across a function's border.
pub(crate) const DENY: u8 = 0;
pub(crate) const ALLOW: u8 = 1;
pub(crate) const AUDIT: u8 = 2;

/// A verdict in numbers.
pub(crate) struct Answer {
    /// [`DENY`], [`ALLOW`], [`AUDIT`].
    pub(crate) action: u8,
    /// [`bailiwick_ebpf_common::Rule`] as a number.
    pub(crate) rule: u8,
    /// 0 where nothing asked.
    pub(crate) jurisdiction: u16,
}

impl From<Verdict> for Answer {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self {
            action: match verdict.action {
                Action::Allow => ALLOW,
                Action::Audit => AUDIT,
                Action::Deny => DENY,
            },
            rule: verdict.rule.number(),
            jurisdiction: verdict.jurisdiction,
        }
    }
}

impl Answer {
    #[inline(always)]
    pub(crate) fn pack(&self) -> u64 {
        let [j0, j1] = self.jurisdiction.to_be_bytes();
        u64::from_be_bytes([0, 0, 0, 0, self.action, self.rule, j0, j1])
    }

    #[inline(always)]
    pub(crate) fn unpack(packed: u64) -> Self {
        let [.., action, rule, j0, j1] = packed.to_be_bytes();
        Self {
            action,
            rule,
            jurisdiction: u16::from_be_bytes([j0, j1]),
        }
    }
}

/// Counts a denial (or an audited one), and sends an event unless this flow's last one is fresh.
#[inline(always)]
pub(crate) fn denied(skb: &Skb, answer: &Answer, who: u64, at: u8) {
    let ingress = at == hook::SKB_INGRESS;
    let audit = u8::from(answer.action == AUDIT);
    let (base, direction) = if ingress {
        (counter::INGRESS_DENIED, direction::INGRESS)
    } else {
        (counter::EGRESS_DENIED, direction::EGRESS)
    };
    count(base + u32::from(audit));
    count(counter::RULES + u32::from(answer.rule));

    let [.., a, b, c, d] = who.to_be_bytes();
    // Read again: what a denial costs nobody waits for. All zero where it cannot be read.
    let flow = Flow::parse(skb).unwrap_or_default();
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let flow = flow.washed((now >> 63).wrapping_neg());
    let (far, port) = if ingress {
        (flow.source, flow.source_port())
    } else {
        (flow.destination, flow.destination_port())
    };
    let key = FlowKey {
        address: bytes(far),
        cgroup: skb.cgroup(),
        port,
        protocol: flow.protocol,
        direction,
        rule: answer.rule,
        hook: at,
        reserved: [0; 2],
    };
    let Some(silent) = due(&key, now) else {
        return;
    };
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    entry.write(Event {
        boot_ns: now,
        cgroup: key.cgroup,
        count: silent + 1,
        generation: who >> 32,
        source: bytes(flow.source),
        destination: bytes(flow.destination),
        subject: u32::from_be_bytes([a, b, c, d]),
        source_port: flow.source_port(),
        destination_port: flow.destination_port(),
        jurisdiction: answer.jurisdiction,
        protocol: key.protocol,
        direction,
        rule: answer.rule,
        audit,
        hook: at,
        reserved: 0,
    });
    entry.submit(0);
}

/// Counts a socket option that was refused, and tells which cgroup's process asked.
#[inline(always)]
pub(crate) fn option_refused() {
    count(counter::RULES + u32::from(Rule::SocketOption.number()));
    // SAFETY: the helper takes nothing and returns a number.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let key = FlowKey {
        cgroup,
        direction: direction::EGRESS,
        rule: Rule::SocketOption.number(),
        hook: hook::SETSOCKOPT,
        ..FlowKey::default()
    };
    let Some(silent) = due(&key, now) else {
        return;
    };
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    entry.write(Event {
        boot_ns: now,
        cgroup,
        count: silent + 1,
        subject: u32::MAX,
        direction: direction::EGRESS,
        rule: key.rule,
        hook: key.hook,
        ..Event::default()
    });
    entry.submit(0);
}

/// Denials of this flow since its last event, if it is time for the next.
///
/// Two CPUs may both find it is time, or lose one of two increments: events are for people, the
/// counters are what is exact.
#[inline(always)]
fn due(key: &FlowKey, now: u64) -> Option<u64> {
    let window = CONFIG.get(0).map_or(0, |config| config.event_window_ns);
    let fresh = FlowState {
        reported_ns: now,
        silent: 0,
    };
    let Some(state) = DENIED_FLOWS.get_ptr_mut(key) else {
        // Full tables evict; a failed insert means one event more.
        let _inserted = DENIED_FLOWS.insert(key, fresh, 0);
        return Some(0);
    };
    // SAFETY: the kernel keeps the entry until the program ends, and it is two integers.
    let state = unsafe { &mut *state };
    if now.wrapping_sub(state.reported_ns) < window {
        state.silent += 1;
        return None;
    }
    let silent = state.silent;
    *state = fresh;
    Some(silent)
}

#[inline(always)]
fn bytes(address: Address) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = address.hi.to_be_bytes();
    let [i, j, k, l, m, n, o, p] = address.lo.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

#[inline(always)]
pub(crate) fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the slot belongs to this CPU; whoever interrupts may cost a count, not more.
        unsafe { *counter += 1 };
    }
}
