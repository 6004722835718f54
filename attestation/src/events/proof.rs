//! An entry shown to somebody who trusts neither node nor collector: it stands in the log that a
//! quoted statement names, and its private half is the one it commits to.

use prost::Message;

use super::{Entry, EntryRefused, SealError, committed_under};
use crate::{
    ids::Sha256Digest,
    proto::v1::{self, log_entry::What},
    tlog::{Head, ProofRefused, verify_inclusion},
};

/// Why an entry is not shown.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EntryUnproven {
    /// Not an entry.
    #[error("the entry is malformed")]
    Malformed(#[source] EntryRefused),
    /// A hash of another length.
    #[error("EntryProof.inclusion_path: not hashes of 32 bytes")]
    Path,
    /// The statement is about another epoch's log.
    #[error("the entry is of epoch {found}, the statement of epoch {want}")]
    Epoch {
        /// Of the entry.
        found: u64,
        /// Of the statement.
        want: u64,
    },
    /// It does not stand in the log that the statement names.
    #[error("the entry is not in the log the statement names")]
    Inclusion(#[source] ProofRefused),
    /// A private half beside an entry that commits to none.
    #[error("the entry commits to no private half")]
    NothingSealed,
    /// The private half is not the one the entry commits to.
    #[error("the private half")]
    Private(#[source] SealError),
    /// The private half is what the entry commits to, and cannot be read.
    #[error("the private half is not a DenialPrivate")]
    Unreadable,
}

impl EntryUnproven {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Path => "entry-malformed",
            Self::Epoch { .. } => "entry-other-epoch",
            Self::Inclusion(_) => "entry-not-in-log",
            Self::NothingSealed | Self::Private(_) | Self::Unreadable => "entry-other-content",
        }
    }
}

/// An entry that stands in the log. Only [`verify_entry`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct ProvenEntry {
    /// What the log says.
    pub entry: Entry,
    /// What it commits to, where that was shown.
    pub private: Option<v1::DenialPrivate>,
}

/// Checks an entry against the head that a statement of this epoch names.
pub fn verify_entry(
    proof: &v1::EntryProof,
    epoch: u64,
    head: &Head,
) -> Result<ProvenEntry, EntryUnproven> {
    let entry = Entry::parse(&proof.entry).map_err(EntryUnproven::Malformed)?;
    if entry.epoch != epoch {
        return Err(EntryUnproven::Epoch {
            found: entry.epoch,
            want: epoch,
        });
    }
    let path = proof.inclusion_path.iter();
    let path = path
        .map(|hash| Sha256Digest::from_slice(hash))
        .collect::<Option<Vec<_>>>()
        .ok_or(EntryUnproven::Path)?;
    verify_inclusion(&entry.leaf, entry.index, head.size, &path, &head.root)
        .map_err(EntryUnproven::Inclusion)?;
    if proof.private.is_empty() && proof.opening.is_empty() {
        return Ok(ProvenEntry {
            entry,
            private: None,
        });
    }
    let sealing = match &entry.what {
        What::Denial(denial) => denial.sealing.as_ref(),
        _ => None,
    };
    let sealing = sealing.ok_or(EntryUnproven::NothingSealed)?;
    committed_under(&proof.opening, sealing, &proof.private).map_err(EntryUnproven::Private)?;
    let private = v1::DenialPrivate::decode(proof.private.as_slice())
        .map_err(|_malformed| EntryUnproven::Unreadable)?;
    Ok(ProvenEntry {
        entry,
        private: Some(private),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::{BucketKey, KeyId},
        ids::UnixTime,
        tlog::{Tail, leaf_hash},
    };

    /// Entry 2 of a log of five, its private half beside it; and the head.
    fn proof() -> (v1::EntryProof, Head) {
        let private = v1::DenialPrivate {
            cgroup: "/studies/cardio/jane".to_owned(),
            ..v1::DenialPrivate::default()
        }
        .encode_to_vec();
        let key = BucketKey::new([7; 32]);
        let (sealing, _) = key.seal(KeyId([1; 16]), [2; 16], &private).unwrap();
        let opening = key.opening(&sealing).unwrap().to_vec();
        let denial = What::Denial(v1::Denial {
            sealing: Some(sealing),
            ..v1::Denial::default()
        });
        let lease = || What::Lease(v1::LeaseTurned::default());
        let began = What::EpochBegan(v1::EpochBegan::default());
        let all = [began, lease(), denial, lease(), lease()];
        let entries: Vec<Vec<u8>> = (0..)
            .zip(all)
            .map(|(index, what)| Entry::compose((3, index), UnixTime(1), 2, what))
            .collect();
        let mut tail = Tail::default();
        for entry in &entries {
            tail.push(leaf_hash(entry));
        }
        let path = tail.inclusion(2, 5).unwrap();
        let proof = v1::EntryProof {
            entry: entries[2].clone(),
            inclusion_path: path.iter().map(|hash| hash.0.to_vec()).collect(),
            private,
            opening,
        };
        (proof, tail.head())
    }

    #[test]
    fn an_entry_is_shown_with_its_private_half_or_without() {
        let (mut proof, head) = proof();
        let shown = verify_entry(&proof, 3, &head).unwrap();
        assert_eq!(shown.entry.index, 2);
        assert_eq!(shown.private.unwrap().cgroup, "/studies/cardio/jane");
        // The key is destroyed: the proof stays valid, the copy silent.
        (proof.private, proof.opening) = (Vec::new(), Vec::new());
        assert_eq!(verify_entry(&proof, 3, &head).unwrap().private, None);
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        type Edit = fn(&mut v1::EntryProof, &mut Head);
        let cases: &[(&str, Edit, &str)] = &[
            ("no entry", |p, _| p.entry.clear(), "entry-malformed"),
            (
                "short hash",
                |p, _| p.inclusion_path[0].truncate(31),
                "entry-malformed",
            ),
            (
                "no path",
                |p, _| p.inclusion_path.clear(),
                "entry-not-in-log",
            ),
            (
                "other path",
                |p, _| p.inclusion_path[1][0] ^= 1,
                "entry-not-in-log",
            ),
            ("other root", |_, h| h.root.0[0] ^= 1, "entry-not-in-log"),
            ("smaller log", |_, h| h.size = 2, "entry-not-in-log"),
            (
                "another entry",
                |p, _| {
                    let what = What::Denial(v1::Denial::default());
                    p.entry = Entry::compose((3, 2), UnixTime(1), 2, what);
                },
                "entry-not-in-log",
            ),
            (
                "a milder story",
                |p, _| p.private[2] ^= 1,
                "entry-other-content",
            ),
            (
                "no opening",
                |p, _| p.opening.clear(),
                "entry-other-content",
            ),
            (
                "other opening",
                |p, _| p.opening[0] ^= 1,
                "entry-other-content",
            ),
            (
                "nothing shown",
                |p, _| p.private.clear(),
                "entry-other-content",
            ),
        ];
        for (name, edit, want) in cases {
            let (mut bad, mut head) = proof();
            edit(&mut bad, &mut head);
            let refused = verify_entry(&bad, 3, &head).unwrap_err();
            assert_eq!(refused.code(), *want, "{name}");
        }
        let (good, head) = proof();
        let refused = verify_entry(&good, 2, &head).unwrap_err();
        assert_eq!(refused.code(), "entry-other-epoch");
    }
}
