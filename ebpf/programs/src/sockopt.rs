//! Options: what would leave another line blind is refused to everyone, whoever asks.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sockopt;
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use bailiwick_ebpf_common::option;

use crate::report;

/// The kernel shows a program one page of an option's value at most. It takes a longer one from
/// the process again where the program leaves the length 0, and refuses it otherwise.
const PAGE: i32 = 4096;

/// 1 lets the call go on, 0 answers it with `EPERM`.
#[cgroup_sockopt(setsockopt)]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn fence_setsockopt(ctx: SockoptContext) -> i32 {
    let option: *mut bpf_sockopt = ctx.as_ptr().cast();
    // SAFETY: the context outlives the program's run; the verifier checks the access.
    let level = unsafe { (*option).level };
    // SAFETY: as above.
    let name = unsafe { (*option).optname };
    if option::refused(level, name) {
        report::option_refused();
        return 0;
    }
    // SAFETY: as above.
    if unsafe { (*option).optlen } > PAGE {
        // SAFETY: as above, and the kernel lets this program write the field.
        unsafe { (*option).optlen = 0 };
    }
    1
}
