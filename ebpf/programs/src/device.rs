//! `cgroup/dev` and `cgroup/sock_create`: who opens which device, who makes a raw socket.
//!
//! Both run in the process that asks, so its cgroup, id and user are at hand. As elsewhere nothing
//! is decided here: `common::device` does.

use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};
use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns,
};
use aya_ebpf::macros::{cgroup_device, cgroup_sock};
use aya_ebpf::programs::{DeviceContext, SockContext};
use bailiwick_ebpf_common::abi::{EVENT_WINDOW_NS, FlowState, counter};
use bailiwick_ebpf_common::device::{
    self, Device, DeviceEvent, DeviceKey, DeviceSubject, Granted, Opener, Owner, Reason, Settled,
    class, state,
};
use bailiwick_ebpf_common::policy::kind;

use crate::judge::NO_SUBJECT;
use crate::maps::{
    CONFIG, DENIED_DEVICES, DEVICE_EVENTS, DEVICE_OPENED, DEVICE_OWNERS, LEASE, devices, policy,
    tagged,
};
use crate::report;

/// `BPF_DEVCG_ACC_MKNOD`
const MKNOD: u32 = 1;
/// `BPF_DEVCG_DEV_CHAR`
const CHAR: u32 = 2;
/// The helper's flag `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;

/// 1 lets the process open the device, 0 gives it EPERM.
#[cgroup_device]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_device(ctx: DeviceContext) -> i32 {
    // SAFETY: the context is valid for the run; the verifier checks the access.
    let access = unsafe { (*ctx.device).access_type };
    // SAFETY: as above.
    let major = unsafe { (*ctx.device).major };
    // SAFETY: as above.
    let minor = unsafe { (*ctx.device).minor };
    if access >> 16 == MKNOD || access & 0xffff != CHAR {
        return 1;
    }
    let class = fence_device_class(major, minor);
    if class == u32::from(class::NONE) {
        return 1;
    }
    let who = fence_process();
    let granted = fence_device_grant(who, major, minor);
    yes_or_no(fence_device_open(
        who,
        class,
        granted,
        u64::from(major) << 32 | u64::from(minor),
    ))
}

/// 1 lets the process make the socket, 0 gives it EPERM.
#[cgroup_sock(sock_create)]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_socket(ctx: SockContext) -> i32 {
    // SAFETY: the context is valid for the run; the verifier checks the access.
    let socket_type = unsafe { (*ctx.sock).type_ };
    if socket_type != device::SOCK_RAW {
        return 1;
    }
    // SAFETY: as above.
    let family = unsafe { (*ctx.sock).family };
    // SAFETY: as above.
    let protocol = unsafe { (*ctx.sock).protocol };
    yes_or_no(fence_socket_made(fence_process(), family, protocol))
}

/// The compiler knows that it is 0 or 1 and would return it as it is; the verifier does not.
#[inline(always)]
pub(crate) fn yes_or_no(answer: i32) -> i32 {
    core::hint::black_box(answer) & 1
}

// As in `judge`: functions the verifier checks once, and that fetch their own maps.

/// [`class`] of a device.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_device_class(major: u32, minor: u32) -> u32 {
    device::classify(devices(), Device { major, minor }).into()
}

/// The subject the running process belongs to, or [`NO_SUBJECT`], tagged.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_process() -> u64 {
    let (Some(policy), Some(config)) = (policy(), CONFIG.get(0)) else {
        return NO_SUBJECT.into();
    };
    let root = config.root_level;
    let ancestor = |level: u32| {
        let level = root.wrapping_add(level).cast_signed();
        // SAFETY: the helper reads the running process's own cgroup.
        unsafe { bpf_get_current_ancestor_cgroup_id(level) }
    };
    policy.tag(policy.resolve(ancestor).unwrap_or(NO_SUBJECT))
}

/// The grant that holds a device: all bits set for none, else the unit, and above it the sharing.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_device_grant(who: u64, major: u32, minor: u32) -> u64 {
    let Some((policy, subject)) = tagged(who) else {
        return u64::MAX;
    };
    match policy.devices.granted(subject, Device { major, minor }) {
        Some(Granted { unit, sharing }) => u64::from(sharing) << 32 | u64::from(unit),
        None => u64::MAX,
    }
}

/// The answer to an open of `device` (major above minor): 1 or 0.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_device_open(who: u64, class: u32, granted: u64, device: u64) -> i32 {
    let [.., class] = class.to_be_bytes();
    let [_, _, _, sharing, a, b, c, d] = granted.to_be_bytes();
    let granted = (granted != u64::MAX).then_some(Granted {
        unit: u32::from_be_bytes([a, b, c, d]),
        sharing,
    });
    let answer = device::judge(class, &opener(who, granted));
    let (reason, held_by) = match answer.reason {
        Reason::Granted if answer.unit != 0 => take(answer.unit, answer.owner),
        reason => (reason, 0),
    };
    if matches!(reason, Reason::Granted | Reason::LeftAlone) {
        return 1;
    }
    fence_device_denied(
        device,
        who,
        u64::from(class) << 8 | u64::from(reason.number()),
        held_by,
    );
    0
}

/// The answer to a raw socket: 1 or 0.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_socket_made(who: u64, family: u32, protocol: u32) -> i32 {
    let reason = device::judge_socket(device::SOCK_RAW, &opener(who, None));
    if matches!(reason, Reason::Granted | Reason::LeftAlone) {
        return 1;
    }
    fence_device_denied(
        u64::from(family) << 32 | u64::from(protocol),
        who,
        u64::from(class::RAW_SOCKET) << 8 | u64::from(reason.number()),
        0,
    );
    0
}

/// Who asks. A policy that is not the one that named the subject is none.
#[inline(always)]
pub(crate) fn opener(who: u64, granted: Option<Granted>) -> Opener {
    let none = Opener {
        policy: false,
        kind: kind::NONE,
        attested: false,
        subject: DeviceSubject::default(),
        granted,
    };
    let Some((policy, number)) = tagged(who) else {
        return none;
    };
    let (Some(subject), Some(devices)) = (policy.subject(number), policy.devices.subject(number))
    else {
        return Opener {
            policy: true,
            ..none
        };
    };
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let lease = LEASE.get(0).map_or(0, |lease| lease.end_boot_ns);
    Opener {
        policy: true,
        kind: subject.kind,
        attested: subject.attested(lease, now),
        subject: *devices,
        granted,
    }
}

/// Takes a unit, or finds it taken. Returns who has it instead, too.
#[inline(always)]
fn take(unit: u32, owner: u64) -> (Reason, u64) {
    let fresh = Owner {
        id: owner,
        state: state::HELD,
    };
    // Somebody may be quicker between looking and adding; then what is there decides.
    let mut attempt = 0;
    while attempt < 2 {
        // SAFETY: an entry is added and removed whole, and the agent changes it by replacing it.
        let held = unsafe { DEVICE_OWNERS.get(unit) };
        match device::settle(owner, held) {
            Settled::Deny(reason) => return (reason, held.map_or(0, |held| held.id)),
            Settled::Open => return opened(unit),
            Settled::Take if DEVICE_OWNERS.insert(unit, fresh, NO_EXIST).is_ok() => {
                return opened(unit);
            }
            Settled::Take => attempt += 1,
        }
    }
    (Reason::NoRoom, 0)
}

/// Notes the time of an open: a unit is not given back while a descriptor may be on its way.
#[inline(always)]
fn opened(unit: u32) -> (Reason, u64) {
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    match DEVICE_OPENED.insert(unit, now, 0) {
        Ok(()) => (Reason::Granted, 0),
        Err(_full) => (Reason::NoRoom, 0),
    }
}

/// Counts a denial, and sends an event unless the last one of its kind is fresh. `what` is class
/// and reason.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_device_denied(device: u64, who: u64, what: u64, owner: u64) -> i32 {
    let [a, b, c, d, e, f, g, h] = device.to_be_bytes();
    let (major, minor) = (
        u32::from_be_bytes([a, b, c, d]),
        u32::from_be_bytes([e, f, g, h]),
    );
    let [.., class, reason] = what.to_be_bytes();
    report::count(match class {
        class::RAW_SOCKET | class::VSOCK => counter::SOCKETS_DENIED,
        class::BPF | class::MODULE => counter::KERNEL_DENIED,
        _ => counter::DEVICES_DENIED,
    });
    // SAFETY: the helper reads the running process's own cgroup.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let key = DeviceKey {
        cgroup,
        major,
        minor,
        class,
        reason,
        reserved: [0; 6],
    };
    let Some(silent) = due(&key, now) else {
        return 0;
    };
    let Some(mut entry) = DEVICE_EVENTS.reserve(0) else {
        report::count(counter::EVENTS_LOST);
        return 0;
    };
    let [.., s0, s1, s2, s3] = who.to_be_bytes();
    let [p0, p1, p2, p3, ..] = bpf_get_current_pid_tgid().to_be_bytes();
    let [.., u0, u1, u2, u3] = bpf_get_current_uid_gid().to_be_bytes();
    entry.write(DeviceEvent {
        boot_ns: now,
        cgroup,
        count: silent + 1,
        generation: who >> 32,
        owner,
        subject: u32::from_be_bytes([s0, s1, s2, s3]),
        major,
        minor,
        pid: u32::from_be_bytes([p0, p1, p2, p3]),
        uid: u32::from_be_bytes([u0, u1, u2, u3]),
        class,
        reason,
        reserved: [0; 2],
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
    });
    entry.submit(0);
    0
}

/// Denials of this kind since its last event, if it is time for the next. As for packets, two CPUs
/// may both find it is time; the counters are what is exact.
#[inline(always)]
fn due(key: &DeviceKey, now: u64) -> Option<u64> {
    let window = EVENT_WINDOW_NS;
    let fresh = FlowState {
        reported_ns: now,
        silent: 0,
    };
    let Some(state) = DENIED_DEVICES.get_ptr_mut(key) else {
        // Full tables evict; a failed insert means one event more.
        let _inserted = DENIED_DEVICES.insert(key, fresh, 0);
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
