//! The last receipt, whole: statements made out of reach are signed under it, and it travels with
//! them, so that whoever has them sees that the log issued it.

use std::path::{Path, PathBuf};

use bailiwick_attestation::{Sha256Digest, proto::v1::Receipt};
use prost::Message as _;
use tracing::warn;

use crate::files::{read_bounded, write_atomically};

/// Longest receipt kept; real ones have some two kilobytes.
const LIMIT: usize = 64 << 10;

/// What is kept of it.
#[derive(Debug)]
pub(super) struct LastReceipt {
    file: PathBuf,
    /// Serialized; empty before the first.
    bytes: Vec<u8>,
}

/// What the node's place in its sequence calls a receipt.
pub(super) fn digest(receipt: &Receipt) -> Sha256Digest {
    Sha256Digest::of(&[&receipt.encode_to_vec()])
}

impl LastReceipt {
    /// The one on disk.
    pub(super) fn open(state_dir: &Path) -> Self {
        let file = state_dir.join("receipt");
        Self {
            bytes: read_bounded(&file, LIMIT).unwrap_or_default(),
            file,
        }
    }

    /// Keeps it. On a full disk it is known until the process ends, and not shown afterwards.
    pub(super) fn keep(&mut self, receipt: &Receipt) {
        self.bytes = receipt.encode_to_vec();
        if let Err(why) = write_atomically(&self.file, &self.bytes) {
            warn!(file = %self.file.display(), %why, "the last receipt is not on disk");
        }
    }

    /// The one with that digest, serialized; empty if it is another.
    pub(super) fn named(&self, last_receipt: &Sha256Digest) -> Vec<u8> {
        if Sha256Digest::of(&[&self.bytes]) == *last_receipt {
            self.bytes.clone()
        } else {
            Vec::new()
        }
    }
}
