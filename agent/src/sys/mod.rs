//! System calls that no crate in use has a safe face for; the agent's only `unsafe` code.
//!
//! [`bpf`] is what aya lacks of bpf(2): inner maps filled from bytes, freezing, pins that are
//! replaced, links updated in place. [`handle`] finds a cgroup by its id.

pub(crate) mod bpf;
pub(crate) mod handle;

/// Gives freed memory back to the kernel: a policy's tables take tens of megabytes while they are
/// compiled, and the allocator would keep the pages for a next time that comes once a month.
pub(crate) fn give_back_memory() {
    // SAFETY: takes no pointer; the allocator locks what it looks at.
    let _gave_some = unsafe { libc::malloc_trim(0) };
}
