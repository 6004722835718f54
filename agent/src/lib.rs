//! Attester and enforcer on one host.
//!
//! One binary, several processes: `fence` holds the BPF programs and speaks to no network, `run`
//! holds the TPM and the connection to the collector, and short-lived children ask what neither
//! should have in its address space.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the one TOML file |
//! | [`tpm`] | EK, AK, transport key, quotes: one thread owns the TPM |
//! | [`collect`] | facts about the host, one file per source |
//! | [`spool`] | what no receipt covers yet, on disk |

pub mod attest;
pub mod backoff;
pub mod channel;
pub mod clock;
pub mod collect;
pub mod config;
pub mod enroll;
pub mod fence_service;
mod files;
pub mod ipc;
pub mod notify;
pub mod proto;
pub mod spool;
pub mod tls;
pub mod tpm;
pub mod uplink;
