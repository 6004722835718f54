//! Several keys of one log: the old beside the new while one takes the other's place.

use super::CheckpointError;
use super::note::{NoteError, NoteVerifier};
use super::receipt::{ReceiptRefused, VerifiedReceipt, verify_receipt};
use crate::ids::Sha256Digest;
use crate::proto::v1;
use crate::term::{Lapsed, Term};

/// A key of a log; its name is the log's origin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogKey {
    /// What checkpoints are checked with.
    pub verifier: NoteVerifier,
    /// When its checkpoints count.
    pub term: Term,
}

/// Checks a receipt under the keys of its log, now: one key that counts has to have signed. The
/// same checkpoint may bear lines of others, which then neither help nor harm.
pub fn verify_receipt_by<'a>(
    receipt: &v1::Receipt,
    want: &Sha256Digest,
    keys: impl IntoIterator<Item = &'a LogKey>,
    seen: Option<u64>,
) -> Result<VerifiedReceipt, ReceiptRefused> {
    let mut refused = None;
    for key in keys {
        if key.verifier.name() != receipt.log {
            continue;
        }
        let why = match verify_receipt(receipt, want, &key.verifier, seen) {
            Ok(proved) => match key.term.counts(proved.entry.received) {
                // What came before a key's time it may show again.
                Ok(()) | Err(Lapsed::Early(_)) => return Ok(proved),
                Err(lapsed) => ReceiptRefused::Key(lapsed),
            },
            Err(why) => why,
        };
        // What another key says about a checkpoint it did not sign is the least of all.
        if refused.as_ref().is_none_or(unsigned) {
            refused = Some(why);
        }
    }
    Err(refused
        .unwrap_or_else(|| ReceiptRefused::UnknownLog(receipt.log.chars().take(80).collect())))
}

const fn unsigned(why: &ReceiptRefused) -> bool {
    matches!(
        why,
        ReceiptRefused::Checkpoint(CheckpointError::Note(NoteError::Unsigned(_)))
    )
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::Ed25519KeyPair;

    use super::*;
    use crate::ids::UnixTime;
    use crate::tlog::{Checkpoint, LogEntry, NoteSigner, leaf_hash};

    fn signer(seed: u8) -> NoteSigner {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        NoteSigner::from_pkcs8("log.example/eu", pair.to_pkcs8v1().unwrap().as_ref()).unwrap()
    }

    /// The one entry of a log, of second 100, signed by these.
    fn receipt(seeds: &[u8]) -> (v1::Receipt, Sha256Digest) {
        let statement = Sha256Digest([7; 32]);
        let entry = LogEntry {
            subject: "gpu-01".to_owned(),
            epoch: 0,
            sequence: 3,
            statement,
            verdict: "affirming".to_owned(),
            received: UnixTime::from_secs(100),
        }
        .to_bytes();
        let checkpoint = Checkpoint {
            origin: "log.example/eu".to_owned(),
            size: 1,
            root: leaf_hash(&entry),
        };
        let (first, rest) = seeds.split_first().unwrap();
        let mut note = checkpoint.sign(&signer(*first)).unwrap();
        for seed in rest {
            note = signer(*seed).cosign(&note).unwrap();
        }
        let receipt = v1::Receipt {
            statement_digest: statement.0.to_vec(),
            log: "log.example/eu".to_owned(),
            index: 0,
            entry,
            inclusion_path: Vec::new(),
            checkpoint: note.into_bytes(),
        };
        (receipt, statement)
    }

    #[test]
    fn a_receipt_counts_under_a_key_that_counts() {
        let key = |seed, term| LogKey {
            verifier: signer(seed).verifier().clone(),
            term,
        };
        let open = Term::default();
        let at = |secs| Some(UnixTime::from_secs(secs));
        let ended = Term {
            not_after: at(100),
            ..open
        };
        let early = Term {
            not_before: at(101),
            ..open
        };
        let revoked = Term {
            revoked: at(500),
            ..open
        };
        let other = {
            let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
            let pkcs8 = pair.to_pkcs8v1().unwrap();
            NoteSigner::from_pkcs8("log.example/us", pkcs8.as_ref()).unwrap()
        };
        let elsewhere = LogKey {
            verifier: other.verifier().clone(),
            term: open,
        };
        type Row<'a> = (&'a str, &'a [u8], Vec<LogKey>, Option<&'a str>);
        let rows: &[Row<'_>] = &[
            ("the one key", &[1], vec![key(1, open)], None),
            (
                "old beside new, by the old",
                &[1],
                vec![key(2, open), key(1, open)],
                None,
            ),
            (
                "old beside new, by the new",
                &[2],
                vec![key(2, open), key(1, open)],
                None,
            ),
            (
                "by both, the old revoked",
                &[1, 2],
                vec![key(1, revoked), key(2, open)],
                None,
            ),
            (
                "by both, to a node that knows the old alone",
                &[1, 2],
                vec![key(1, open)],
                None,
            ),
            (
                "by the revoked alone",
                &[1],
                vec![key(1, revoked), key(2, open)],
                Some("receipt-key-revoked"),
            ),
            (
                "the same, listed last",
                &[1],
                vec![key(2, open), key(1, revoked)],
                Some("receipt-key-revoked"),
            ),
            (
                "after its time",
                &[1],
                vec![key(1, ended)],
                Some("receipt-key-ended"),
            ),
            ("of before its time", &[1], vec![key(1, early)], None),
            (
                "by a stranger",
                &[3],
                vec![key(1, open), key(2, open)],
                Some("receipt-checkpoint"),
            ),
            (
                "another log's key",
                &[1],
                vec![elsewhere],
                Some("receipt-unknown-log"),
            ),
            ("none", &[1], vec![], Some("receipt-unknown-log")),
        ];
        for (name, seeds, keys, want) in rows {
            let (receipt, statement) = receipt(seeds);
            let found = verify_receipt_by(&receipt, &statement, keys, None);
            assert_eq!(found.err().map(|why| why.code()), *want, "{name}");
        }
        let (receipt, statement) = receipt(&[1]);
        let seen = verify_receipt_by(&receipt, &statement, &[key(2, open), key(1, open)], Some(2));
        assert_eq!(seen.unwrap_err().code(), "receipt-log-shrank");
    }
}
