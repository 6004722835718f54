//! The transparency log's arithmetic: RFC 6962 trees, C2SP checkpoints and signed notes, receipts.
//!
//! A log is a list of small entries. Its Merkle root says what stands in it and in which order; a
//! checkpoint is that root, signed; a proof of a few hashes shows that one entry is under it.
//! Whoever stores the hashes brings them: the functions here say which ones they need
//! ([`inclusion_plan`], [`consistency_plan`], [`root_plan`]) and fold what they are given. A node,
//! which stores next to none, keeps the right edge of its own log ([`Frontier`], [`Tail`]).

mod act;
mod checkpoint;
mod erasure;
mod frontier;
mod keys;
mod lines;
mod merkle;
mod note;
mod receipt;
mod turn;

pub use act::{ActEntry, ActKind};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use erasure::ErasureCertificate;
pub use frontier::{Frontier, Head, HeadRefused, Tail, head_follows};
pub use keys::{LogKey, verify_receipt_by};
pub use merkle::{
    NodeIndex, Plan, ProofRefused, completed_by, consistency_plan, inclusion_plan, leaf_hash,
    node_hash, root_plan, verify_consistency, verify_inclusion,
};
pub use note::{NoteError, NoteSigner, NoteVerifier, SignedNote};
pub use receipt::{
    LogEntry, LogEntryError, ReceiptRefused, VerifiedAct, VerifiedReceipt, verify_act,
    verify_receipt,
};
pub use turn::Turn;
