//! The fence, as the kernel runs it: a file per hook, and what they share.
//!
//! | file | hook | line |
//! |---|---|---|
//! | `cgroup_skb` | `cgroup_skb` egress and ingress | first: every IP packet of every socket |
//! | `device` | `cgroup/dev`, `cgroup/sock_create` | devices: which study opens which |
//! | `early` | `cgroup/connect4`, `cgroup/connect6` | early: the process is told at once |
//! | `lsm` | the BPF LSM, where there is one | kernel: frames, vsock, `bpf(2)`, modules |
//! | `tcx` | `tcx` egress of uplinks, ingress of ports | second line and threshold: every frame |
//! | `sockopt` | `cgroup/setsockopt` | options: nothing that would leave another line blind |
//!
//! Each fetches its arguments (header, subject, tables, lease, the socket at the other end of the
//! loopback device), asks [`bailiwick_ebpf_common::judge`] through `judge`, counts, and reports
//! denials. Nothing is decided here; whatever cannot be fetched is denied.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "the target has no compare-and-swap, so `core` offers it no atomic addition"
)]

mod cgroup_skb;
mod device;
mod early;
mod judge;
mod loopback;
mod lsm;
mod maps;
mod report;
mod skb;
mod sockopt;
mod tcx;

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
