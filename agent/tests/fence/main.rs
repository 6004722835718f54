//! The fence in this machine's kernel, on cgroups and a BPF file system of the tests' own. Needs
//! root.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests stand outside of test functions"
)]

#[path = "../../../attestation/src/fixture.rs"]
#[expect(
    dead_code,
    reason = "a fixture of the verifier's tests, of which they need more"
)]
mod fixture;
#[path = "../../../ebpf/policy/tests/semantics/host.rs"]
mod host;
#[path = "../../../ebpf/policy/tests/semantics/packet.rs"]
mod packet;
#[path = "../../../ebpf/policy/tests/semantics/table.rs"]
mod table;

mod bundle;
mod counted;
mod devices;
mod differential;
mod early;
mod identity;
mod lines;
mod measured;
mod net;
mod policy;
mod raw;
mod scene;
mod semantics;
mod standing;
mod traffic;
