//! Evidence formats and appraisal: bytes in, verdict out.
//!
//! Nothing here opens a socket or a file, reads a clock or spawns: time, certificates, reference
//! values and policy arrive as arguments, so that the collector, `bailiwick verify` and an
//! auditor's laptop years later reach the same conclusion from the same bytes.
//!
//! | module | holds |
//! |---|---|
//! | [`crypto`] | hashes, public keys, signature verification |
//! | [`tpm`] | quotes, public areas, names, EK certificates, credential activation |
//! | [`x509`] | certificates and the paths between them |
//! | [`cvm`] | what the processor says of a confidential guest |
//! | [`evidence`] | the statement, its envelope and what a signer binds |
//! | [`boot`] | the boot event log: reading, replay, what of it may be believed |
//! | [`events`] | entries of a node's own log, and what of them can be forgotten |
//! | [`fence_log`] | what the fence put in force, as its PCR holds it |
//! | [`geotag`] | where a machine stands, by the word of somebody who stood there |
//! | [`gpu`] | what a GPU or a switch says of itself, and who vouches for it |
//! | [`host`] | what a host's own files say |
//! | [`ima`] | the kernel's list of what it measured: reading and replay |
//! | [`profile`] | the validated stack a node is held against |
//! | [`appraisal`] | evidence and profile to an attestation result |
//! | [`tlog`] | Merkle proofs, checkpoints, signed notes |
//! | [`standing`] | leases: what an affirming result is worth, and until when |
//! | [`proto`] | the wire contract |
#![forbid(unsafe_code)]
#![deny(missing_docs, clippy::indexing_slicing)]

#[cfg(test)]
extern crate self as bailiwick_attestation;

mod error;
#[cfg(test)]
mod fixture;
mod ids;
mod reader;
mod term;
mod toml_file;

pub mod appraisal;
pub mod boot;
pub mod crypto;
pub mod cvm;
pub mod events;
pub mod evidence;
pub mod fence_log;
pub mod geotag;
pub mod gpu;
pub mod host;
pub mod ima;
pub mod profile;
pub mod proto;
pub mod standing;
pub mod tlog;
pub mod tpm;
pub mod x509;

pub use error::{Fault, ParseError};
pub use ids::{DeploymentId, IdError, JurisdictionCode, NodeId, Sha256Digest, StudyId, UnixTime};
pub use reader::Reader;
pub use term::{Lapsed, Term};
pub use toml_file::{FileError, Place, TomlFile};
