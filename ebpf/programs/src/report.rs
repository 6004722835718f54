//! Counting every verdict, and telling the agent of denials without drowning it.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use bailiwick_ebpf_common::abi::{Event, FlowKey, FlowState, counter, direction};
use bailiwick_ebpf_common::{Action, Address, Flow, Verdict};

use crate::maps::{CONFIG, COUNTERS, DENIED_FLOWS, EVENTS, policy};
use crate::skb::Skb;

#[inline(always)]
pub(crate) fn allowed(way: u8) {
    count(if way == direction::EGRESS {
        counter::EGRESS_ALLOWED
    } else {
        counter::INGRESS_ALLOWED
    });
}

/// Counts a denial (or an audited one), and sends an event unless this flow's last one is fresh.
#[inline(always)]
pub(crate) fn denied(
    skb: &Skb,
    way: u8,
    subject: Option<u32>,
    flow: Option<&Flow>,
    verdict: &Verdict,
) {
    let audit = verdict.action == Action::Audit;
    count(match (way == direction::EGRESS, audit) {
        (true, false) => counter::EGRESS_DENIED,
        (true, true) => counter::EGRESS_AUDITED,
        (false, false) => counter::INGRESS_DENIED,
        (false, true) => counter::INGRESS_AUDITED,
    });
    count(counter::RULES + u32::from(verdict.rule.number()));

    let ingress = way == direction::INGRESS;
    let mut key = FlowKey {
        cgroup: skb.cgroup(),
        direction: way,
        rule: verdict.rule.number(),
        ..FlowKey::default()
    };
    if let Some(flow) = flow {
        let (far, port) = if ingress {
            (flow.source, flow.source_port())
        } else {
            (flow.destination, flow.destination_port())
        };
        key.address = bytes(far);
        key.port = port;
        key.protocol = flow.protocol;
    }
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
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
        generation: policy().map_or(0, |policy| policy.header.generation),
        source: flow.map_or([0; 16], |flow| bytes(flow.source)),
        destination: flow.map_or([0; 16], |flow| bytes(flow.destination)),
        subject: subject.unwrap_or(u32::MAX),
        source_port: flow.map_or(0, |flow| flow.source_port()),
        destination_port: flow.map_or(0, |flow| flow.destination_port()),
        jurisdiction: verdict.jurisdiction,
        protocol: key.protocol,
        direction: way,
        rule: key.rule,
        audit: u8::from(audit),
        reserved: [0; 2],
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
fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the slot belongs to this CPU, and softirq cannot nest on it.
        unsafe { *counter += 1 };
    }
}
