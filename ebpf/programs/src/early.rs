//! Early: a process that connects is told at once, where it would wait in silence for an answer
//! that no packet asks for; and the event names it.
//!
//! Not the last word. Which device a packet will take is not known yet, nor whether it will be sent
//! from this process's socket at all: the first line judges every packet, whatever is said here.
//! What passes here is not counted, what is denied never becomes a packet. Whoever sends datagrams
//! without connecting hears of a denial from the first line, at once.

use aya_ebpf::bindings::{bpf_sock_addr, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use bailiwick_ebpf_common::abi::hook;
use bailiwick_ebpf_common::packet::protocol;
use bailiwick_ebpf_common::{Address, Flow, Line, Loopback};

use crate::device::fence_process;
use crate::judge::{Asked, NO_SUBJECT, Room, overtaken, settle};
use crate::report::{self, Answer};
use crate::{loopback, maps};

/// `BPF_F_CURRENT_NETNS`: the namespace of the socket.
const CURRENT_NETNS: u64 = u64::MAX;
/// `IPPROTO_MPTCP`: on the wire it is TCP.
const MPTCP: u32 = 262;

/// A process asks for a connection, IPv4.
#[cgroup_sock_addr(connect4)]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_connect4(ctx: SockAddrContext) -> i32 {
    decide(ctx.sock_addr, hook::CONNECT4)
}

/// The same, IPv6.
#[cgroup_sock_addr(connect6)]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_connect6(ctx: SockAddrContext) -> i32 {
    decide(ctx.sock_addr, hook::CONNECT6)
}

/// 1 lets the call go on, 0 answers it with `EPERM`.
#[inline(always)]
fn decide(asked: *mut bpf_sock_addr, at: u8) -> i32 {
    let mut who = fence_process();
    if left_alone(who) {
        return 1;
    }
    let mut room = Room::new();
    // SAFETY: the room for one, all zero: every bit pattern of it is a flow.
    let flow = unsafe { &mut *room.flow() };
    flow.destination = destination(asked, at);
    // SAFETY: the context outlives the program's run; the verifier checks the access.
    let protocol = match unsafe { (*asked).protocol } {
        MPTCP => protocol::TCP.into(),
        protocol => protocol,
    };
    let [.., protocol] = protocol.to_be_bytes();
    flow.protocol = protocol;
    if flow.has_ports() {
        flow.upper = port(asked).into();
    }
    let mut answer = judge(&mut who, &mut room);
    if overtaken(answer, who) {
        who = fence_process();
        answer = judge(&mut who, &mut room);
    }
    if Answer::unpack(answer).action != report::DENY || fence_has_receiver(asked, room.flow()) == 1
    {
        return 1;
    }
    fence_early_denied(answer, who, at.into(), room.flow());
    0
}

#[inline(always)]
fn judge(who: &mut u64, room: &mut Room) -> u64 {
    let asked = Asked {
        line: Line::EARLY,
        ingress: false,
        far_end: Loopback::NO,
        fault: 0,
    };
    let (answer, whose) = settle(*who, asked, room.flow());
    *who = whose;
    answer
}

/// The kernel's own threads, whose packets the first line judges by their target.
#[inline(always)]
fn left_alone(who: u64) -> bool {
    let [.., a, b, c, d] = who.to_be_bytes();
    let root = maps::CONFIG.get(0).map_or(0, |config| config.root_level);
    // SAFETY: the helper reads the running process's own cgroup.
    let in_root = root == 0 && unsafe { bpf_get_current_ancestor_cgroup_id(1) } == 0;
    in_root && u32::from_be_bytes([a, b, c, d]) == NO_SUBJECT
}

#[inline(always)]
fn destination(asked: *mut bpf_sock_addr, at: u8) -> Address {
    if at == hook::CONNECT4 {
        // SAFETY: the context outlives the program's run; the verifier checks the access.
        return Address::from_v4(u32::from_be(unsafe { (*asked).user_ip4 }));
    }
    // SAFETY: as above; nothing is read yet.
    let words = unsafe { &raw const (*asked).user_ip6 }.cast();
    let [a, b, c, d] = [
        word(words),
        word(words.wrapping_add(1)),
        word(words.wrapping_add(2)),
        word(words.wrapping_add(3)),
    ];
    Address {
        hi: u64::from(u32::from_be(a)) << 32 | u64::from(u32::from_be(b)),
        lo: u64::from(u32::from_be(c)) << 32 | u64::from(u32::from_be(d)),
    }
}

/// One word of the context, read by itself: the kernel has no wider read of these fields.
#[inline(always)]
fn word(at: *const u32) -> u32 {
    // SAFETY: a word of the context; the verifier checks the access.
    unsafe { at.read_volatile() }
}

/// The far end's, host byte order. The field holds it in network byte order, in its first bytes.
#[inline(always)]
fn port(asked: *mut bpf_sock_addr) -> u16 {
    // SAFETY: the context outlives the program's run; the verifier checks the access.
    let [a, b, ..] = unsafe { (*asked).user_port }.to_ne_bytes();
    u16::from_be_bytes([a, b])
}

/// 1: a socket of this namespace would receive it. It may then go by the loopback device, where
/// addresses say nothing; who meets whom there the first line finds out.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_has_receiver(asked: *mut bpf_sock_addr, flow: *mut Flow) -> u32 {
    // SAFETY: the caller's room for one, integers only and all of them written.
    let Some(flow) = (unsafe { flow.as_ref() }) else {
        return 0;
    };
    let far = flow.destination;
    let [a, b] = flow.destination_port().to_be_bytes();
    let ports = u32::from_ne_bytes([0, 0, a, b]);
    let (mut tuple, size): ([u32; 9], u32) = match far.v4() {
        Some(v4) => ([0, v4.to_be(), ports, 0, 0, 0, 0, 0, 0], 12),
        None => {
            let [d0, d1, d2, d3] = loopback::words(far);
            ([0, 0, 0, 0, d0, d1, d2, d3, ports], 36)
        }
    };
    let tuple: *mut bpf_sock_tuple = (&raw mut tuple).cast();
    let context = asked.cast();
    let socket = if flow.protocol == protocol::TCP {
        // SAFETY: the tuple is initialised for `size` bytes and outlives the call.
        unsafe { bpf_sk_lookup_tcp(context, tuple, size, CURRENT_NETNS, 0) }
    } else if flow.protocol == protocol::UDP {
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_udp(context, tuple, size, CURRENT_NETNS, 0) }
    } else {
        return 0;
    };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: the lookup's reference is given back once, and not used again.
    unsafe { bpf_sk_release(socket.cast()) };
    1
}

/// Counts a denial and tells which process asked.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn fence_early_denied(
    answer: u64,
    who: u64,
    at: u32,
    flow: *mut Flow,
) -> i32 {
    let [.., at] = at.to_be_bytes();
    // SAFETY: the caller's room for one, integers only and all of them written.
    if let Some(flow) = unsafe { flow.as_ref() } {
        report::early(flow, &Answer::unpack(answer), who, at);
    }
    0
}
