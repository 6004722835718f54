//! Attester and enforcer on one host.
//!
//! One binary, several processes: `fence` holds the BPF programs and speaks to no network, `run`
//! holds the TPM and the connection to the collector, and short-lived children ask what neither
//! should have in its address space.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the one TOML file |
//! | [`collect`] | facts about the host, one file per source |
//! | [`signer`] | who signs: the TPM, or the processor of a guest that has none, and its key |
//! | [`tpm`] | EK, AK, transport key, quotes: one thread owns the TPM |
//! | [`attest`] | a statement: put together, quoted, kept |
//! | [`fence`] | BPF programs, maps and links: put in place, kept, read back |
//! | [`seal`] | what of it is personal, sealed, and forgotten when approvers say so |
//! | [`spool`] | what no receipt covers yet, on disk |
//! | [`log`] | what happened here, append-only, its root in every statement |
//! | [`outward`] | what others may believe, on disk while it stands |
//! | [`geotag`] | where the node stands: what to sign, and what was signed, into the TPM |
//! | [`enroll`], [`tls`], [`channel`] | how the node and its collector know each other |
//! | [`uplink`] | the node's loop: when to say what, and what follows from the answers |
//! | [`fence_service`], [`ipc`], [`proto`] | the `fence` process and how `run` speaks to it |
//! | [`probe`] | questions to a vendor's library, each in a process of its own |
//! | [`notify`], [`clock`], [`backoff`] | the service manager, time, patience |

pub mod attest;
pub mod backoff;
pub mod channel;
pub mod clock;
pub mod collect;
pub mod config;
pub mod enroll;
pub mod fence;
pub mod fence_service;
mod files;
mod floor;
pub mod geotag;
pub mod ipc;
pub mod log;
mod netlink;
pub mod notify;
pub mod outward;
pub mod probe;
pub mod proto;
pub mod seal;
pub mod signer;
pub mod spool;
mod sys;
pub mod tls;
pub mod tpm;
pub mod uplink;

pub use sys::keep_memory_small;
