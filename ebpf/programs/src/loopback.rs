//! Who has the other end of a packet on the loopback device, where every address is the machine's.
//!
//! Looked up by the packet's own addresses and ports, in its own network namespace: on the way out
//! the socket that will receive it, on the way in the socket that would receive an answer.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_sk_ancestor_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
};
use bailiwick_ebpf_common::packet::protocol;
use bailiwick_ebpf_common::policy::kind;
use bailiwick_ebpf_common::{Address, Flow, Loopback, PolicyImage};

use crate::skb::Skb;

/// `BPF_F_CURRENT_NETNS`: the namespace of the packet.
const CURRENT_NETNS: u64 = u64::MAX;

/// Classifies the far end for `subject`.
///
/// No socket to receive means nobody reads it, so that the kernel's own answers (a reset, the last
/// acknowledgement) still arrive. No socket that sent it is a closed TCP connection at best; what
/// opens one, and any datagram, has a sender that can be found.
#[inline(always)]
pub(crate) fn far_end(
    skb: &Skb,
    policy: &PolicyImage,
    root: u32,
    subject: u32,
    ingress: bool,
    flow: &Flow,
) -> Loopback {
    let tcp = flow.protocol == protocol::TCP;
    if !flow.has_ports() || !(tcp || flow.protocol == protocol::UDP) {
        return Loopback::UNCLEAR;
    }
    let socket = lookup(skb, ingress, flow, tcp);
    if socket.is_null() {
        return if ingress && flow.opens() {
            Loopback::UNCLEAR
        } else {
            Loopback::NOBODY
        };
    }
    let other = policy.resolve(|level| {
        // SAFETY: the socket is not null and not yet released.
        unsafe { bpf_sk_ancestor_cgroup_id(socket.cast(), root.wrapping_add(level).cast_signed()) }
    });
    // SAFETY: the lookup's reference is given back once, and not used again.
    unsafe { bpf_sk_release(socket.cast()) };
    let is_study = |number: u32| {
        policy
            .subject(number)
            .is_some_and(|subject| subject.kind == kind::STUDY)
    };
    let other = other.unwrap_or(u32::MAX);
    match (is_study(subject), is_study(other)) {
        (true, true) if subject == other => Loopback::SAME,
        (true, true) => Loopback::OTHER_STUDY,
        (false, false) => Loopback::SAME,
        _ => Loopback::HOST,
    }
}

/// A reference to the socket, or null.
#[inline(always)]
fn lookup(skb: &Skb, ingress: bool, flow: &Flow, tcp: bool) -> *mut bpf_sock {
    // A tuple is written as the receiver sees it: `s` is the sender. For the sender of what came
    // in, turn it round.
    let (from, to, from_port, to_port) = if ingress {
        (
            flow.destination,
            flow.source,
            flow.destination_port(),
            flow.source_port(),
        )
    } else {
        (
            flow.source,
            flow.destination,
            flow.source_port(),
            flow.destination_port(),
        )
    };
    // `struct bpf_sock_tuple` as words: addresses, then both ports in network order. Every word is
    // written: of what is not, the compiler may leave a pointer there, which no helper is lent.
    let [a, b] = from_port.to_be_bytes();
    let [c, d] = to_port.to_be_bytes();
    let ports = u32::from_ne_bytes([a, b, c, d]);
    let (mut tuple, size): ([u32; 9], u32) = match (from.v4(), to.v4()) {
        (Some(from), Some(to)) => ([from.to_be(), to.to_be(), ports, 0, 0, 0, 0, 0, 0], 12),
        _ => {
            let [s0, s1, s2, s3] = words(from);
            let [d0, d1, d2, d3] = words(to);
            ([s0, s1, s2, s3, d0, d1, d2, d3, ports], 36)
        }
    };
    let tuple: *mut bpf_sock_tuple = (&raw mut tuple).cast();
    if tcp {
        // SAFETY: the tuple is initialised for `size` bytes and outlives the call.
        unsafe { bpf_sk_lookup_tcp(skb.as_ptr().cast(), tuple, size, CURRENT_NETNS, 0) }
    } else {
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_udp(skb.as_ptr().cast(), tuple, size, CURRENT_NETNS, 0) }
    }
}

/// Four words in network order.
#[inline(always)]
pub(crate) fn words(address: Address) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h] = address.hi.to_be_bytes();
    let [i, j, k, l, m, n, o, p] = address.lo.to_be_bytes();
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
