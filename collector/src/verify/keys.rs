//! Whose word a receipt is, to somebody who looks back: the log's keys as the policy of that time
//! lists them, those that came later, and since when one of them is revoked.
//!
//! Whoever took a key can sign with it under any date. So after a revocation the key's signature
//! alone shows nothing any more, of the time before neither: there it is the log that shows it, by
//! a checkpoint of another of its keys that covers the entry.

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{LogKey, ReceiptRefused, VerifiedReceipt, verify_receipt};
use bailiwick_attestation::{Lapsed, Sha256Digest, UnixTime};
use bailiwick_policy::approvers::Chain;
use bailiwick_policy::bundle::{Bundle, PolicyRefused, VerifiedBundle};
use bailiwick_policy::model::CollectorKeys;

use super::{Anchors, Report};
use crate::ingest::error_chain;

/// What a receipt is worth.
#[derive(Debug)]
pub(super) enum Word {
    /// A key that counts signed it.
    Proved(VerifiedReceipt),
    /// A key signed it that somebody else may have had, at a time when it was good.
    Unshown(UnixTime),
    /// Why not.
    Refused(ReceiptRefused),
}

/// The log keys there are to look back with: those of the newest policy known, and those of the
/// statement's own that it does not list any more.
pub(super) fn log_keys(
    stored: &v1::StoredStatement,
    policy: Option<&VerifiedBundle>,
    anchors: &Anchors<'_>,
    report: &mut Report,
) -> Vec<LogKey> {
    let then = policy.map_or_else(Vec::new, |policy| policy.model.collector.receipt_keys());
    let least = policy.map_or(0, |policy| policy.manifest.version);
    let brought = stored.keys.clone().map(|keys| (keys.before.clone(), keys));
    let (changes, brought) = brought.unzip();
    let changes: Vec<Bundle> = changes
        .unwrap_or_else(|| stored.approvers.clone())
        .into_iter()
        .map(Bundle::from)
        .collect();
    let received = UnixTime(stored.received_ms);
    let first = anchors.approvers.clone();
    let chain = match Chain::restore(first, anchors.deployment, received, &changes) {
        Ok(chain) => chain,
        Err(refused) => {
            report.refuse("keys", format!("{}: {refused}", refused.code()));
            return then;
        }
    };
    let mut newest: Option<(u64, CollectorKeys)> = None;
    for bundle in brought.map(Bundle::from).iter().chain(anchors.keys) {
        match bundle.collector_keys(&chain, anchors.deployment) {
            Ok((manifest, keys)) => {
                let known = newest.as_ref().map_or(least, |(version, _)| *version);
                if manifest.version >= known {
                    newest = Some((manifest.version, keys));
                }
            }
            Err(refused) => refuse(report, &refused),
        }
    }
    match newest {
        Some((version, keys)) => {
            report.ok(
                "keys",
                format!("of the log, as policy {version} lists them"),
            );
            merged(then, keys.receipt_keys())
        }
        None => then,
    }
}

fn refuse(report: &mut Report, refused: &PolicyRefused) {
    report.refuse(
        "keys",
        format!("{}: {}", refused.code(), error_chain(refused)),
    );
}

/// The newer list's word about a key is the last; a key that only left the list was good once.
fn merged(then: Vec<LogKey>, newer: Vec<LogKey>) -> Vec<LogKey> {
    let known = |key: &LogKey| newer.iter().any(|new| new.verifier == key.verifier);
    let older: Vec<LogKey> = then.into_iter().filter(|key| !known(key)).collect();
    newer.into_iter().chain(older).collect()
}

/// What the receipt shows under these keys.
pub(super) fn word(receipt: &v1::Receipt, want: &Sha256Digest, keys: &[LogKey]) -> Word {
    let (mut unshown, mut refused) = (None, None);
    for key in keys.iter().filter(|key| key.verifier.name() == receipt.log) {
        match verify_receipt(receipt, want, &key.verifier, None) {
            Ok(proved) => match key.term.counted(proved.entry.received) {
                // What came before a key's time it may show again.
                Ok(()) | Err(Lapsed::Early(_)) => match key.term.revoked {
                    None => return Word::Proved(proved),
                    Some(since) => unshown = Some(Word::Unshown(since)),
                },
                Err(lapsed) => refused = Some(ReceiptRefused::Key(lapsed)),
            },
            Err(why) => {
                refused.get_or_insert(why);
            }
        }
    }
    unshown.unwrap_or_else(|| {
        let unknown = || ReceiptRefused::UnknownLog(receipt.log.chars().take(80).collect());
        Word::Refused(refused.unwrap_or_else(unknown))
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::Ed25519KeyPair;
    use bailiwick_attestation::Term;
    use bailiwick_attestation::tlog::{Checkpoint, LogEntry, NoteSigner, leaf_hash};

    use super::*;

    fn signer() -> NoteSigner {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        NoteSigner::from_pkcs8("log.example/demo", pkcs8.as_ref()).unwrap()
    }

    /// For a statement received at second 100.
    fn receipt(signers: &[&NoteSigner]) -> (v1::Receipt, Sha256Digest) {
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
            origin: "log.example/demo".to_owned(),
            size: 1,
            root: leaf_hash(&entry),
        };
        let (first, rest) = signers.split_first().unwrap();
        let mut note = checkpoint.sign(first).unwrap();
        for signer in rest {
            note = signer.cosign(&note).unwrap();
        }
        let receipt = v1::Receipt {
            statement_digest: statement.0.to_vec(),
            log: "log.example/demo".to_owned(),
            index: 0,
            entry,
            inclusion_path: Vec::new(),
            checkpoint: note.into_bytes(),
        };
        (receipt, statement)
    }

    #[test]
    fn nothing_by_a_revoked_key_is_believed_and_of_before_what_the_log_shows() {
        let (old, new, foreign) = (signer(), signer(), signer());
        let key = |signer: &NoteSigner, term| LogKey {
            verifier: signer.verifier().clone(),
            term,
        };
        let at = |secs| Some(UnixTime::from_secs(secs));
        let open = Term::default();
        let revoked = |secs| Term {
            revoked: at(secs),
            ..open
        };
        let ended = |secs| Term {
            not_after: at(secs),
            ..open
        };
        let early = Term {
            not_before: at(500),
            ..open
        };
        let (o, n) = ([&old], [&new]);
        let both = [&old, &new];
        type Row<'a> = (&'a str, &'a [&'a NoteSigner], Vec<LogKey>, &'a str);
        let rows: &[Row<'_>] = &[
            ("good", &o, vec![key(&old, open)], "proved"),
            (
                "after its revocation",
                &o,
                vec![key(&old, revoked(100)), key(&new, open)],
                "receipt-key-revoked",
            ),
            (
                "dated before its revocation",
                &o,
                vec![key(&old, revoked(101)), key(&new, open)],
                "unshown",
            ),
            (
                "before, and the log shows it under another key",
                &both,
                vec![key(&old, revoked(101)), key(&new, open)],
                "proved",
            ),
            (
                "after, and the log shows it under another key",
                &both,
                vec![key(&old, revoked(50)), key(&new, open)],
                "proved",
            ),
            (
                "shown again by a key whose time came later",
                &n,
                vec![key(&old, revoked(101)), key(&new, early)],
                "proved",
            ),
            (
                "after its time",
                &o,
                vec![key(&old, ended(100))],
                "receipt-key-ended",
            ),
            ("in its time", &o, vec![key(&old, ended(101))], "proved"),
            (
                "by both, both revoked",
                &both,
                vec![key(&old, revoked(50)), key(&new, revoked(60))],
                "receipt-key-revoked",
            ),
            (
                "by nobody listed",
                &[&foreign],
                vec![key(&old, open)],
                "receipt-checkpoint",
            ),
            ("no key", &o, vec![], "receipt-unknown-log"),
        ];
        for (name, signers, keys, want) in rows {
            let (receipt, statement) = receipt(signers);
            let found = match word(&receipt, &statement, keys) {
                Word::Proved(_) => "proved",
                Word::Unshown(_) => "unshown",
                Word::Refused(why) => why.code(),
            };
            assert_eq!(found, *want, "{name}");
        }
    }

    #[test]
    fn the_newer_list_has_the_last_word_and_what_left_it_was_good_once() {
        let (old, new) = (signer(), signer());
        let key = |signer: &NoteSigner, revoked| LogKey {
            verifier: signer.verifier().clone(),
            term: Term {
                revoked,
                ..Term::default()
            },
        };
        let gone = Some(UnixTime(7));
        let rows = [
            (
                "revoked since",
                vec![key(&old, gone), key(&new, None)],
                2,
                gone,
            ),
            ("left the list", vec![key(&new, None)], 2, None),
            ("still there", vec![key(&old, None)], 1, None),
        ];
        for (name, newer, count, revoked) in rows {
            let keys = merged(vec![key(&old, None)], newer);
            assert_eq!(keys.len(), count, "{name}");
            let found = keys.iter().find(|key| key.verifier == *old.verifier());
            assert_eq!(found.unwrap().term.revoked, revoked, "{name}");
        }
    }
}
