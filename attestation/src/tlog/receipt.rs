//! A receipt: proof that one statement stands in the collector's log.

use super::{
    act::ActEntry,
    checkpoint::{Checkpoint, CheckpointError},
    lines::Lines,
    merkle::{ProofRefused, leaf_hash, verify_inclusion},
    note::NoteVerifier,
};
use crate::{
    ids::{Sha256Digest, UnixTime},
    proto::v1,
    term::Lapsed,
};

/// First line of every entry; another version is another line.
const HEADER: &str = "bailiwick statement v1";
/// A proof over 2^63 entries has 63 hashes.
const MAX_PATH: usize = 63;

/// What the log commits to for one accepted statement. Plain lines, so that a page of script reads
/// it: header, subject, epoch, sequence, statement, verdict, received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogEntry {
    /// Node id, or `ek-…` while pending.
    pub subject: String,
    /// Epoch of the node's log.
    pub epoch: u64,
    /// Index in that epoch.
    pub sequence: u64,
    /// SHA-256 of the statement's bytes.
    pub statement: Sha256Digest,
    /// Overall status of the appraisal.
    pub verdict: String,
    /// When the collector received it.
    pub received: UnixTime,
}

/// An entry that is not one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("log entry, line {line}: {fault}")]
pub struct LogEntryError {
    /// Counted from 1.
    pub line: usize,
    /// The rule it breaks.
    pub fault: &'static str,
}

impl LogEntry {
    /// The bytes that are hashed into the log.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        format!(
            "{HEADER}\nsubject {}\nepoch {}\nsequence {}\nstatement {}\nverdict {}\nreceived {}\n",
            self.subject,
            self.epoch,
            self.sequence,
            self.statement,
            self.verdict,
            self.received.millis(),
        )
        .into_bytes()
    }

    /// Reads an entry back; only the one spelling [`LogEntry::to_bytes`] writes is accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogEntryError> {
        let mut lines = Lines::new(bytes, HEADER, "not a statement entry of version 1")?;
        let entry = Self {
            subject: lines.text("subject")?.to_owned(),
            epoch: lines.number("epoch")?,
            sequence: lines.number("sequence")?,
            statement: lines.digest("statement")?,
            verdict: lines.text("verdict")?.to_owned(),
            received: lines.time("received")?,
        };
        lines.finish(&entry.to_bytes())?;
        Ok(entry)
    }
}

/// Why a receipt proves nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReceiptRefused {
    /// A field has another length than its kind has, or there are too many hashes.
    #[error("receipt.{0} is malformed")]
    Malformed(&'static str),
    /// The entry cannot be read.
    #[error("receipt entry")]
    Entry(#[source] LogEntryError),
    /// The entry speaks of another statement.
    #[error("the receipt is for statement {found}, not {want}")]
    OtherStatement {
        /// Digest in the receipt or its entry.
        found: Sha256Digest,
        /// Digest asked for.
        want: Sha256Digest,
    },
    /// The checkpoint is malformed or not signed by the log.
    #[error("receipt checkpoint")]
    Checkpoint(#[source] CheckpointError),
    /// The log signed it with a key that does not count.
    #[error("receipt checkpoint")]
    Key(#[source] Lapsed),
    /// No key of this log is known.
    #[error("no key of the log {0:?} is known")]
    UnknownLog(String),
    /// The path does not lead from the entry to the checkpoint's root.
    #[error("receipt inclusion path")]
    Proof(#[source] ProofRefused),
    /// It does not extend what this node saw before.
    #[error("the log shrank: {found} entries after {seen}")]
    Shrank {
        /// Size in this receipt.
        found: u64,
        /// Size seen before.
        seen: u64,
    },
}

impl ReceiptRefused {
    /// Stable word for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Entry(_) => "receipt-malformed",
            Self::OtherStatement { .. } => "receipt-other-statement",
            Self::Checkpoint(_) => "receipt-checkpoint",
            Self::Key(Lapsed::Early(_) | Lapsed::Ended(_)) => "receipt-key-ended",
            Self::Key(Lapsed::Revoked(_)) => "receipt-key-revoked",
            Self::UnknownLog(_) => "receipt-unknown-log",
            Self::Proof(_) => "receipt-proof",
            Self::Shrank { .. } => "receipt-log-shrank",
        }
    }
}

/// A receipt whose proof holds under the log's key. Only [`verify_receipt`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedReceipt {
    /// What the log holds.
    pub entry: LogEntry,
    /// Where.
    pub index: u64,
    /// The checkpoint it is proved against.
    pub checkpoint: Checkpoint,
}

/// Checks a receipt for the statement with digest `want` against the log's key.
///
/// `seen` is the size of the newest checkpoint known before, if any: a log never shrinks.
pub fn verify_receipt(
    receipt: &v1::Receipt,
    want: &Sha256Digest,
    log: &NoteVerifier,
    seen: Option<u64>,
) -> Result<VerifiedReceipt, ReceiptRefused> {
    names(&receipt.statement_digest, want)?;
    let entry = LogEntry::parse(&receipt.entry).map_err(ReceiptRefused::Entry)?;
    names(entry.statement.as_bytes(), want)?;
    let checkpoint = included(receipt, log, seen)?;
    Ok(VerifiedReceipt {
        entry,
        index: receipt.index,
        checkpoint,
    })
}

/// An act's receipt whose proof holds under the log's key. Only [`verify_act`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedAct {
    /// What the log holds.
    pub entry: ActEntry,
    /// Where.
    pub index: u64,
    /// The checkpoint it is proved against.
    pub checkpoint: Checkpoint,
}

/// Checks the receipt of an act whose body has digest `want` against the log's key.
pub fn verify_act(
    receipt: &v1::Receipt,
    want: &Sha256Digest,
    log: &NoteVerifier,
    seen: Option<u64>,
) -> Result<VerifiedAct, ReceiptRefused> {
    names(&receipt.statement_digest, want)?;
    let entry = ActEntry::parse(&receipt.entry).map_err(ReceiptRefused::Entry)?;
    names(entry.body.as_bytes(), want)?;
    let checkpoint = included(receipt, log, seen)?;
    Ok(VerifiedAct {
        entry,
        index: receipt.index,
        checkpoint,
    })
}

fn names(found: &[u8], want: &Sha256Digest) -> Result<(), ReceiptRefused> {
    let found = Sha256Digest::from_slice(found);
    let found = found.ok_or(ReceiptRefused::Malformed("statement_digest"))?;
    if found != *want {
        return Err(ReceiptRefused::OtherStatement { found, want: *want });
    }
    Ok(())
}

/// That the receipt's entry stands under a checkpoint of this log, no older than the one seen.
fn included(
    receipt: &v1::Receipt,
    log: &NoteVerifier,
    seen: Option<u64>,
) -> Result<Checkpoint, ReceiptRefused> {
    let digest = |bytes: &[u8], field| {
        Sha256Digest::from_slice(bytes).ok_or(ReceiptRefused::Malformed(field))
    };
    if receipt.inclusion_path.len() > MAX_PATH {
        return Err(ReceiptRefused::Malformed("inclusion_path"));
    }
    let path = receipt
        .inclusion_path
        .iter()
        .map(|hash| digest(hash, "inclusion_path"))
        .collect::<Result<Vec<_>, _>>()?;
    let checkpoint =
        Checkpoint::verify(&receipt.checkpoint, log).map_err(ReceiptRefused::Checkpoint)?;
    if receipt.log != checkpoint.origin {
        return Err(ReceiptRefused::Malformed("log"));
    }
    let leaf = leaf_hash(&receipt.entry);
    verify_inclusion(
        &leaf,
        receipt.index,
        checkpoint.size,
        &path,
        &checkpoint.root,
    )
    .map_err(ReceiptRefused::Proof)?;
    if let Some(seen) = seen
        && checkpoint.size < seen
    {
        return Err(ReceiptRefused::Shrank {
            found: checkpoint.size,
            seen,
        });
    }
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::Ed25519KeyPair;

    use super::*;
    use crate::tlog::{NoteSigner, node_hash};

    fn signer(seed: u8) -> NoteSigner {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        NoteSigner::from_pkcs8("log.example/eu", pair.to_pkcs8v1().unwrap().as_ref()).unwrap()
    }

    fn statement() -> Sha256Digest {
        Sha256Digest::of(&[b"a statement"])
    }

    /// Our entry at index 1 of a log of two.
    fn receipt() -> v1::Receipt {
        let entry = LogEntry {
            subject: "gpu-01".to_owned(),
            epoch: 0,
            sequence: 3,
            statement: statement(),
            verdict: "affirming".to_owned(),
            received: UnixTime(1_800_000_000_123),
        }
        .to_bytes();
        let before = leaf_hash(b"another entry");
        let root = node_hash(&before, &leaf_hash(&entry));
        let checkpoint = Checkpoint {
            origin: "log.example/eu".to_owned(),
            size: 2,
            root,
        };
        v1::Receipt {
            statement_digest: statement().0.to_vec(),
            log: "log.example/eu".to_owned(),
            index: 1,
            entry,
            inclusion_path: vec![before.0.to_vec()],
            checkpoint: checkpoint.sign(&signer(1)).unwrap().into_bytes(),
        }
    }

    #[test]
    fn a_receipt_proves_its_statement() {
        let verified =
            verify_receipt(&receipt(), &statement(), signer(1).verifier(), Some(2)).unwrap();
        assert_eq!(verified.entry.subject, "gpu-01");
        assert_eq!(verified.checkpoint.size, 2);
    }

    fn edit_entry(r: &mut v1::Receipt, from: &str, to: &str) {
        r.entry = String::from_utf8(r.entry.clone())
            .unwrap()
            .replace(from, to)
            .into_bytes();
    }

    fn edit_checkpoint(r: &mut v1::Receipt, from: &str, to: &str) {
        let text = String::from_utf8(r.checkpoint.clone()).unwrap();
        r.checkpoint = text.replace(from, to).into_bytes();
    }

    /// One log holds both kinds of entry, and neither is taken for the other.
    #[test]
    fn an_act_is_proved_and_no_statement_is_one() {
        let body = Sha256Digest::of(&[b"an enrolment"]);
        let act = ActEntry {
            kind: crate::tlog::ActKind::Enrolment,
            subject: "gpu-01".to_owned(),
            body,
            at: UnixTime(7),
        };
        let entry = act.to_bytes();
        let good = v1::Receipt {
            statement_digest: body.0.to_vec(),
            log: "log.example/eu".to_owned(),
            index: 0,
            checkpoint: Checkpoint {
                origin: "log.example/eu".to_owned(),
                size: 1,
                root: leaf_hash(&entry),
            }
            .sign(&signer(1))
            .unwrap()
            .into_bytes(),
            entry,
            inclusion_path: Vec::new(),
        };
        let verified = verify_act(&good, &body, signer(1).verifier(), None).unwrap();
        assert_eq!((verified.entry, verified.index), (act, 0));
        type Edit = fn(&mut v1::Receipt);
        let cases: &[(&str, Edit, &str)] = &[
            (
                "other body",
                |r| r.statement_digest = vec![1; 32],
                "receipt-other-statement",
            ),
            (
                "retired in place of enrolled",
                |r| edit_entry(r, "enrolment", "retirement"),
                "receipt-proof",
            ),
            (
                "another node's",
                |r| edit_entry(r, "gpu-01", "gpu-02"),
                "receipt-proof",
            ),
            ("later", |r| edit_entry(r, "at 7", "at 8"), "receipt-proof"),
            (
                "a statement's entry",
                |r| r.entry = receipt().entry,
                "receipt-malformed",
            ),
        ];
        for (name, edit, code) in cases {
            let mut bad = good.clone();
            edit(&mut bad);
            let refused = verify_act(&bad, &body, signer(1).verifier(), None);
            assert_eq!(refused.unwrap_err().code(), *code, "{name}");
        }
        let refused = verify_receipt(&good, &body, signer(1).verifier(), None);
        assert_eq!(refused.unwrap_err().code(), "receipt-malformed");
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        type Edit = fn(&mut v1::Receipt);
        let cases: &[(&str, Edit, &str)] = &[
            (
                "other digest",
                |r| r.statement_digest = vec![1; 32],
                "receipt-other-statement",
            ),
            (
                "short digest",
                |r| r.statement_digest.truncate(31),
                "receipt-malformed",
            ),
            ("other index", |r| r.index = 0, "receipt-proof"),
            ("index past the end", |r| r.index = 2, "receipt-proof"),
            ("no path", |r| r.inclusion_path.clear(), "receipt-proof"),
            (
                "other path",
                |r| r.inclusion_path = vec![vec![1; 32]],
                "receipt-proof",
            ),
            (
                "short path",
                |r| r.inclusion_path = vec![vec![1; 31]],
                "receipt-malformed",
            ),
            (
                "endless path",
                |r| r.inclusion_path = vec![vec![0; 32]; 64],
                "receipt-malformed",
            ),
            (
                "verdict edited",
                |r| edit_entry(r, "affirming", "warning"),
                "receipt-proof",
            ),
            (
                "not canonical",
                |r| r.entry.push(b'\n'),
                "receipt-malformed",
            ),
            (
                "size edited",
                |r| edit_checkpoint(r, "\n2\n", "\n3\n"),
                "receipt-checkpoint",
            ),
            ("origin edited", |r| r.log.push('x'), "receipt-malformed"),
        ];
        for (name, edit, code) in cases {
            let mut bad = receipt();
            edit(&mut bad);
            let refused = verify_receipt(&bad, &statement(), signer(1).verifier(), None);
            assert_eq!(refused.unwrap_err().code(), *code, "{name}");
        }
        let other_key = verify_receipt(&receipt(), &statement(), signer(2).verifier(), None);
        assert_eq!(other_key.unwrap_err().code(), "receipt-checkpoint");
        let shrank = verify_receipt(&receipt(), &statement(), signer(1).verifier(), Some(3));
        assert_eq!(shrank.unwrap_err().code(), "receipt-log-shrank");
    }
}
