//! Which of this collector's log keys sign: all that the policy in force lists and whose time it
//! is, so that nodes that lag one policy behind know one of them.
//!
//! One key follows another within one log: origin, entries and lineage stay.

use std::sync::{Arc, PoisonError, RwLock};

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::tlog::{Checkpoint, NoteError, NoteSigner};
use bailiwick_policy::model::CollectorKeys;

/// Every log key this collector holds, and those that sign now. Clones share it.
#[derive(Clone, Debug)]
pub struct LogSigners(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    first: NoteSigner,
    later: Vec<NoteSigner>,
    /// Indices; never empty.
    signing: RwLock<Vec<usize>>,
}

impl From<NoteSigner> for LogSigners {
    fn from(only: NoteSigner) -> Self {
        Self::new(only, Vec::new())
    }
}

impl LogSigners {
    /// Until a policy says otherwise the first signs. All are of one log.
    #[must_use]
    pub fn new(first: NoteSigner, later: Vec<NoteSigner>) -> Self {
        Self(Arc::new(Inner {
            first,
            later,
            signing: RwLock::new(vec![0]),
        }))
    }

    /// Origin of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.0.first.verifier().name()
    }

    fn held(&self) -> impl Iterator<Item = &NoteSigner> {
        std::iter::once(&self.0.first).chain(&self.0.later)
    }

    /// Verifier keys of those held, as the policy file spells them.
    #[must_use]
    pub fn vkeys(&self) -> Vec<String> {
        let held = self.held();
        held.map(|signer| signer.verifier().to_string()).collect()
    }

    /// Verifier keys of those that sign now.
    #[must_use]
    pub fn signing(&self) -> Vec<String> {
        let signing = self.indices();
        let held = self.held().enumerate();
        held.filter(|(at, _)| signing.contains(at))
            .map(|(_, signer)| signer.verifier().to_string())
            .collect()
    }

    /// Whether any key held here is one that nodes believe.
    #[must_use]
    pub fn believed(&self, listed: &CollectorKeys, now: UnixTime) -> bool {
        !choice(&self.vkeys(), listed, now).is_empty()
    }

    /// Follows what approvers list. True if others sign from now on. Where they list none that is
    /// held, the first goes on: nobody believes it, and every entry can be shown again once one
    /// does.
    pub(super) fn follow(&self, listed: &CollectorKeys, now: UnixTime) -> bool {
        let mut wanted = choice(&self.vkeys(), listed, now);
        if wanted.is_empty() {
            wanted.push(0);
        }
        let mut signing = self
            .0
            .signing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let changed = *signing != wanted;
        *signing = wanted;
        changed
    }

    /// One note, with a line of each that signs.
    pub(super) fn sign(&self, checkpoint: &Checkpoint) -> Result<String, NoteError> {
        let signing = self.indices();
        let mut note: Option<String> = None;
        for (at, signer) in self.held().enumerate() {
            if signing.contains(&at) {
                note = Some(match note {
                    None => checkpoint.sign(signer)?,
                    Some(note) => signer.cosign(&note)?,
                });
            }
        }
        note.ok_or(NoteError::Sign)
    }

    fn indices(&self) -> Vec<usize> {
        let signing = self.0.signing.read();
        signing.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which of the keys held are listed and count.
fn choice(held: &[String], listed: &CollectorKeys, now: UnixTime) -> Vec<usize> {
    let counts = |vkey: &String| {
        let mut keys = listed.logs.iter();
        keys.any(|log| log.vkey == *vkey && log.term.counts(now).is_ok())
    };
    let held = held.iter().enumerate();
    held.filter(|(_, vkey)| counts(vkey))
        .map(|(at, _)| at)
        .collect()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::Ed25519KeyPair;
    use bailiwick_attestation::{Sha256Digest, Term};
    use bailiwick_policy::model::LogKey;

    use super::*;

    fn signer() -> NoteSigner {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        NoteSigner::from_pkcs8("log.example/demo", pkcs8.as_ref()).unwrap()
    }

    #[test]
    fn all_keys_that_count_sign_and_a_revoked_one_at_no_price() {
        let (old, new, foreign) = (signer(), signer(), signer());
        let verifiers = [&old, &new].map(|signer| signer.verifier().clone());
        let foreign = foreign.verifier().to_string();
        let signers = LogSigners::new(old, vec![new]);
        let [o, n] = verifiers.clone().map(|verifier| verifier.to_string());
        let now = UnixTime::from_secs(100);
        let at = |secs| Some(UnixTime::from_secs(secs));
        let open = Term::default();
        let revoked = Term {
            revoked: at(50),
            ..open
        };
        let ended = Term {
            not_after: at(100),
            ..open
        };
        let early = Term {
            not_before: at(101),
            ..open
        };
        let entry = |vkey: &str, term| LogKey {
            origin: "log.example/demo".to_owned(),
            vkey: vkey.to_owned(),
            term,
        };
        let rows: &[(&str, Vec<LogKey>, [bool; 2], bool)] = &[
            ("before", vec![entry(&o, open)], [true, false], true),
            (
                "overlap",
                vec![entry(&o, open), entry(&n, open)],
                [true, true],
                true,
            ),
            (
                "announced",
                vec![entry(&o, open), entry(&n, early)],
                [true, false],
                true,
            ),
            (
                "the old ended",
                vec![entry(&o, ended), entry(&n, open)],
                [false, true],
                true,
            ),
            (
                "the old revoked",
                vec![entry(&o, revoked), entry(&n, open)],
                [false, true],
                true,
            ),
            ("the old gone", vec![entry(&n, open)], [false, true], true),
            (
                "all revoked",
                vec![entry(&o, revoked), entry(&n, revoked)],
                [true, false],
                false,
            ),
            (
                "another's",
                vec![entry(&foreign, open)],
                [true, false],
                false,
            ),
            ("none", vec![], [true, false], false),
        ];
        let checkpoint = Checkpoint {
            origin: "log.example/demo".to_owned(),
            size: 1,
            root: Sha256Digest([7; 32]),
        };
        let mut before = [true, false];
        for (name, logs, want, believed) in rows {
            let listed = CollectorKeys {
                logs: logs.clone(),
                ..CollectorKeys::default()
            };
            assert_eq!(signers.believed(&listed, now), *believed, "{name}");
            assert_eq!(signers.follow(&listed, now), before != *want, "{name}");
            assert!(!signers.follow(&listed, now), "{name}: once");
            let note = signers.sign(&checkpoint).unwrap();
            let signed = verifiers
                .each_ref()
                .map(|key| Checkpoint::verify(note.as_bytes(), key).is_ok());
            assert_eq!(signed, *want, "{name}");
            let named = [&o, &n].map(|vkey| signers.signing().contains(vkey));
            assert_eq!(named, *want, "{name}");
            before = *want;
        }
    }
}
