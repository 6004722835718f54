//! The agent.
pub mod collect;
pub mod config;
mod files;
pub mod spool;
pub mod tpm;
