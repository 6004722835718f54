//! The BPF LSM, by cgroup: what a process asks of the kernel itself.
//!
//! All run in the process that asks. Nothing is decided here: `common::kernel` does.

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use bailiwick_ebpf_common::device::{Reason, class};
use bailiwick_ebpf_common::kernel;

use crate::device::{fence_device_denied, fence_process, opener, yes_or_no};

/// 1 lets the process make the socket, 0 gives it EPERM.
#[lsm_cgroup(hook = "socket_create")]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_lsm_socket(ctx: LsmContext) -> i32 {
    let family: i32 = ctx.arg(0);
    let protocol: i32 = ctx.arg(2);
    let of_kernel: i32 = ctx.arg(3);
    let class = kernel::socket_class(family.cast_unsigned());
    if of_kernel != 0 || class == class::NONE {
        return 1;
    }
    yes_or_no(fence_kernel_asked(
        fence_process(),
        class.into(),
        family.cast_unsigned(),
        protocol.cast_unsigned(),
    ))
}

/// 1 lets the call go on, 0 gives it EPERM.
#[lsm_cgroup(hook = "bpf")]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_lsm_bpf(ctx: LsmContext) -> i32 {
    let command: i32 = ctx.arg(0);
    let command = command.cast_unsigned();
    yes_or_no(fence_kernel_asked(
        fence_process(),
        class::BPF.into(),
        command,
        0,
    ))
}

/// 1 has the kernel read the file, 0 gives the process EPERM.
#[lsm_cgroup(hook = "kernel_read_file")]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_lsm_read_file(ctx: LsmContext) -> i32 {
    let what: u32 = ctx.arg(1);
    yes_or_no(fence_kernel_asked(
        fence_process(),
        class::MODULE.into(),
        what,
        kernel::BY_FILE,
    ))
}

/// 1 has the kernel load what it is given, 0 gives the process EPERM.
#[lsm_cgroup(hook = "kernel_load_data")]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_lsm_load_data(ctx: LsmContext) -> i32 {
    let what: u32 = ctx.arg(0);
    yes_or_no(fence_kernel_asked(
        fence_process(),
        class::MODULE.into(),
        what,
        kernel::BY_MEMORY,
    ))
}

/// The answer: 1 or 0. `more` is told with a denial.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fence_kernel_asked(who: u64, class: u32, what: u32, more: u32) -> i32 {
    let [.., class] = class.to_be_bytes();
    let reason = kernel::judge(class, what, &opener(who, None));
    if matches!(reason, Reason::Granted | Reason::LeftAlone) {
        return 1;
    }
    fence_device_denied(
        u64::from(what) << 32 | u64::from(more),
        who,
        u64::from(class) << 8 | u64::from(reason.number()),
        0,
    );
    0
}
