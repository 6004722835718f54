//! The fence in this machine's kernel, on cgroups and a BPF file system of the tests' own. Needs
//! root.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests stand outside of test functions"
)]

mod bundle;
mod devices;
mod differential;
mod measured;
mod net;
mod policy;
mod scene;
mod standing;
mod traffic;
