//! Counting every verdict, and telling the agent of denials without drowning it.
//!
//! See `common::tally` for who reads what. Every sum is added to atomically: a program in a
//! process' context is interrupted by packets that come in on the same CPU.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_get_socket_uid;
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
    bpf_get_current_uid_gid, bpf_ktime_get_boot_ns,
};
use bailiwick_ebpf_common::abi::{counter, direction, hook};
use bailiwick_ebpf_common::tally::{
    self, FLOWS, NO_UID, OTHERS, Passed, PassedKey, Tally, TallyKey,
};
use bailiwick_ebpf_common::{Action, Address, Flow, Rule, Verdict};

use crate::judge::NO_SUBJECT;
use crate::maps::{CONFIG, COUNTERS, PASSED, TALLY};
use crate::skb::Skb;

/// What the kernel says for the user of a socket it does not know (`overflowuid`).
const OVERFLOW_UID: u32 = 65_534;

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

/// Counts a packet that passes. True: it is one of those that are told of.
#[inline(always)]
pub(crate) fn passed(skb: &Skb, answer: &Answer, who: u64, at: u8) -> bool {
    let direction = way(at);
    count(if direction == direction::INGRESS {
        counter::INGRESS_ALLOWED
    } else {
        counter::EGRESS_ALLOWED
    });
    let key = PassedKey {
        who,
        jurisdiction: answer.jurisdiction,
        direction,
        reserved: [0; 5],
    };
    let Some(table) = PASSED.get(0) else {
        return false;
    };
    if table.get_ptr_mut(key).is_none() {
        // Another CPU may have been faster, or there is no room: the next look tells.
        let _inserted = table.insert(key, Passed::default(), BPF_NOEXIST.into());
    }
    let entry = match table.get_ptr_mut(key) {
        Some(entry) => entry,
        None => match table.get_ptr_mut(PassedKey::OTHERS) {
            Some(others) => others,
            None => return false,
        },
    };
    // SAFETY: the kernel keeps the entry until the program ends, and it is two integers.
    let before = unsafe { (*entry).packets };
    // SAFETY: as above.
    add(unsafe { &raw mut (*entry).packets }, 1);
    // SAFETY: as above.
    add(unsafe { &raw mut (*entry).bytes }, skb.length().into());
    let sample = u64::from(CONFIG.get(0).map_or(0, |config| config.sample));
    sample != 0 && before % sample == 0
}

/// Counts a denial, or an audited one, and tells of it; of a packet that passes, tells.
#[inline(always)]
pub(crate) fn told(skb: &Skb, flow: &Flow, answer: &Answer, who: u64, at: u8) {
    let direction = way(at);
    if answer.action != ALLOW {
        let base = if direction == direction::INGRESS {
            counter::INGRESS_DENIED
        } else {
            counter::EGRESS_DENIED
        };
        count(base + u32::from(answer.action == AUDIT));
        count(counter::RULES + u32::from(answer.rule));
    }
    let now = now();
    let ingress = direction == direction::INGRESS;
    let (far, port) = if ingress {
        (flow.source, flow.source_port())
    } else {
        (flow.destination, flow.destination_port())
    };
    let mut key = TallyKey {
        who,
        cgroup: skb.cgroup(),
        far: bytes(far),
        uid: user(skb),
        port,
        jurisdiction: answer.jurisdiction,
        protocol: flow.protocol,
        hook: at,
        rule: answer.rule,
        action: answer.action,
        direction,
        reserved: [0; 3],
    };
    if let Some(entry) = tally(&mut key, skb.length().into(), now) {
        let (near, near_port) = if ingress {
            (flow.destination, flow.destination_port())
        } else {
            (flow.source, flow.source_port())
        };
        // SAFETY: the kernel keeps the entry until the program ends, and it is integers.
        unsafe { (*entry).near = bytes(near) };
        // SAFETY: as above.
        unsafe { (*entry).near_port = near_port };
    }
}

/// Counts a socket option that was refused, and tells which process asked.
#[inline(always)]
pub(crate) fn option_refused() {
    refused(
        Rule::SocketOption.number(),
        hook::SETSOCKOPT,
        NO_SUBJECT.into(),
        [0; 16],
    );
}

/// Counts what was refused to the process that runs, and tells of it. `far`: what it was about,
/// where that is no address.
#[inline(always)]
pub(crate) fn refused(rule: u8, at: u8, who: u64, far: [u8; 16]) {
    count(counter::RULES + u32::from(rule));
    let mut key = TallyKey {
        who,
        // SAFETY: the helper takes nothing and returns a number.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        far,
        uid: current_user(),
        rule,
        hook: at,
        direction: direction::EGRESS,
        ..TallyKey::default()
    };
    if let Some(entry) = tally(&mut key, 0, now()) {
        // SAFETY: the kernel keeps the entry until the program ends, and it is integers.
        unsafe { (*entry).pid = current_process() };
        // SAFETY: as above.
        unsafe { (*entry).command = bpf_get_current_comm().unwrap_or_default() };
    }
}

/// Counts what a process was refused before it became a packet, and tells which process.
#[inline(always)]
pub(crate) fn early(flow: &Flow, answer: &Answer, who: u64, at: u8) {
    count(counter::EARLY_DENIED);
    count(counter::RULES + u32::from(answer.rule));
    let mut key = TallyKey {
        who,
        // SAFETY: the helper takes nothing and returns a number.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        far: bytes(flow.destination),
        uid: current_user(),
        port: flow.destination_port(),
        jurisdiction: answer.jurisdiction,
        protocol: flow.protocol,
        hook: at,
        rule: answer.rule,
        action: answer.action,
        direction: direction::EGRESS,
        reserved: [0; 3],
    };
    if let Some(entry) = tally(&mut key, 0, now()) {
        // SAFETY: the kernel keeps the entry until the program ends, and it is integers.
        unsafe { (*entry).pid = current_process() };
        // SAFETY: as above.
        unsafe { (*entry).command = bpf_get_current_comm().unwrap_or_default() };
    }
}

/// Adds a packet to an entry, making it if need be: its own, that of all like it, or the last one.
/// Answers with its own where that is new: the agent looks at none before this program has ended.
#[inline(always)]
fn tally(key: &mut TallyKey, length: u64, now: u64) -> Option<*mut Tally> {
    let (entry, new) = match tally_in(FLOWS, key) {
        Some(found) => found,
        None => {
            *key = key.others();
            let found = tally_in(OTHERS, key).or_else(|| {
                *key = TallyKey::REST;
                tally_in(OTHERS, key)
            });
            let Some((entry, _)) = found else {
                count(counter::EVENTS_LOST);
                return None;
            };
            (entry, false)
        }
    };
    // SAFETY: the kernel keeps the entry until the program ends, and it is integers.
    let before = unsafe { (*entry).first_ns };
    if before == 0 {
        // SAFETY: as above; of two CPUs that write at once either time is right.
        unsafe { (*entry).first_ns = now };
    }
    // SAFETY: as above.
    unsafe { (*entry).last_ns = now };
    // SAFETY: as above.
    add(unsafe { &raw mut (*entry).count }, 1);
    // SAFETY: as above.
    add(unsafe { &raw mut (*entry).bytes }, length);
    new.then_some(entry)
}

/// The entry, and whether this made it; `None`: there is none, and no room for one.
#[inline(always)]
fn tally_in(table: u32, key: &TallyKey) -> Option<(*mut Tally, bool)> {
    let table = TALLY.get(table)?;
    if let Some(entry) = table.get_ptr_mut(key) {
        return Some((entry, false));
    }
    // Another CPU may have been faster, or there is no room: the next look tells.
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "by value it would be copied to the stack, which has 512 bytes"
    )]
    let made = table.insert(key, &NOTHING, BPF_NOEXIST.into()).is_ok();
    Some((table.get_ptr_mut(key)?, made))
}

/// What a new entry begins with. Not on the stack, which has 512 bytes.
static NOTHING: Tally = Tally {
    count: 0,
    bytes: 0,
    first_ns: 0,
    last_ns: 0,
    near: [0; 16],
    pid: 0,
    near_port: 0,
    reserved: [0; 2],
    command: [0; 16],
};

/// Which way a packet goes that is judged there.
#[inline(always)]
fn way(at: u8) -> u8 {
    if at == hook::SKB_INGRESS {
        direction::INGRESS
    } else {
        direction::EGRESS
    }
}

/// The user of the packet's socket, as its network namespace counts users.
#[inline(always)]
fn user(skb: &Skb) -> u32 {
    // SAFETY: the context is valid for the run.
    match unsafe { bpf_get_socket_uid(skb.as_ptr()) } {
        OVERFLOW_UID => NO_UID,
        uid => uid,
    }
}

/// The user that runs, as the first namespace counts users.
#[inline(always)]
fn current_user() -> u32 {
    let [.., a, b, c, d] = bpf_get_current_uid_gid().to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// The process that runs, as the first namespace counts processes.
#[inline(always)]
fn current_process() -> u32 {
    let [a, b, c, d, ..] = bpf_get_current_pid_tgid().to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_boot_ns() }
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
        add(counter, 1);
    }
}

/// One instruction, which nothing interrupts.
#[inline(always)]
fn add(number: *mut u64, what: u64) {
    // SAFETY: the pointer is into a map's value, aligned to eight bytes.
    let _before = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(number, what) };
}

/// What stands in an answer means the same in an entry.
const _: () = assert!(
    DENY == tally::action::DENIED
        && ALLOW == tally::action::SAMPLED
        && AUDIT == tally::action::AUDITED
);
