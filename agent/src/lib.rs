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

pub mod collect;
pub mod config;
mod files;
pub mod spool;
pub mod tpm;
