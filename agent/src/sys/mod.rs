//! System calls that no crate in use has a safe face for; the agent's only `unsafe` code.
//!
//! [`bpf`] is what aya lacks of bpf(2): inner maps filled from bytes, freezing, pins that are
//! replaced, links updated in place. [`handle`] finds a cgroup by its id.

pub(crate) mod bpf;
pub(crate) mod handle;
