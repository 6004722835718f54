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
    receipt: Option<Receipt>,
}

/// What the node's place in its sequence calls a receipt.
pub(super) fn digest(receipt: &Receipt) -> Sha256Digest {
    Sha256Digest::of(&[&receipt.encode_to_vec()])
}

impl LastReceipt {
    /// The one on disk.
    pub(super) fn open(state_dir: &Path) -> Self {
        let file = state_dir.join("receipt");
        let kept = read_bounded(&file, LIMIT).ok();
        Self {
            receipt: kept.and_then(|bytes| Receipt::decode(bytes.as_slice()).ok()),
            file,
        }
    }

    /// Keeps it. On a full disk it is known until the process ends, and not shown afterwards.
    pub(super) fn keep(&mut self, receipt: &Receipt) {
        if let Err(why) = write_atomically(&self.file, &receipt.encode_to_vec()) {
            warn!(file = %self.file.display(), %why, "the last receipt is not on disk");
        }
        self.receipt = Some(receipt.clone());
    }

    /// The one with that digest, if it is.
    pub(super) fn named(&self, last_receipt: &Sha256Digest) -> Option<Receipt> {
        let receipt = self.receipt.as_ref()?;
        (digest(receipt) == *last_receipt).then(|| receipt.clone())
    }
}
