//! Which measured files are known: by digest, or by the key that signed them.
//!
//! What decides is content. A name is chosen by whoever made the file, and in a container or on an
//! overlay it is a path of another root; so names only explain what was refused.

use std::collections::{BTreeMap, BTreeSet};

use super::modsig::Appended;
use super::signature::{FileSignature, KeyId};
use super::{Entry, FileDigest};
use crate::crypto::{Digest, PublicKey};
use crate::ids::UnixTime;
use crate::term::{Lapsed, Term};

/// What kind of digest a file is known by. SHA-1 and MD5 are none: whoever wrote a file with a
/// collision in it has two.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum DigestKind {
    /// SHA-256 of its bytes.
    Sha256,
    /// SHA-384 of its bytes.
    Sha384,
    /// SHA-512 of its bytes.
    Sha512,
    /// What fs-verity makes of it with SHA-256.
    VeritySha256,
    /// What fs-verity makes of it with SHA-512.
    VeritySha512,
}

impl DigestKind {
    const ALL: [Self; 5] = [
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::VeritySha256,
        Self::VeritySha512,
    ];

    /// As lists spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::VeritySha256 => "verity:sha256",
            Self::VeritySha512 => "verity:sha512",
        }
    }

    /// Bytes of a digest.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 | Self::VeritySha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 | Self::VeritySha512 => 64,
        }
    }
}

/// A digest with its kind: what a file is known by.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KnownDigest(DigestKind, Digest);

impl KnownDigest {
    /// Reads `sha256:HEX`, or HEX alone of a length that only one plain kind has.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let (kind, digits) = match text.rsplit_once(':') {
            Some((kind, digits)) => (Some(kind), digits),
            None => (None, text),
        };
        let bytes = hex::decode(digits).ok()?;
        let kind = DigestKind::ALL.into_iter().find(|one| {
            one.digest_len() == bytes.len() && kind.is_none_or(|kind| one.name() == kind)
        })?;
        Some(Self(kind, Digest::from_slice(&bytes)?))
    }

    /// What a file's entry says; `None` for a kind that a profile cannot list.
    #[must_use]
    pub fn of(digest: &FileDigest<'_>) -> Option<Self> {
        let mut kinds = DigestKind::ALL.into_iter();
        let kind = kinds.find(|kind| kind.name() == digest.algorithm)?;
        let fits = digest.digest.len() == kind.digest_len();
        Some(Self(kind, Digest::from_slice(digest.digest)?)).filter(|_| fits)
    }
}

impl std::fmt::Display for KnownDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.0.name(), self.1)
    }
}

/// A file that a profile lists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KnownFile {
    /// What people call it: a path, or a package with its version.
    pub name: String,
    /// When it is good.
    pub term: Term,
}

/// A key whose signature makes a file known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SigningKey {
    /// What people call it.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// What signatures call it.
    pub id: KeyId,
    /// When its word counts.
    pub term: Term,
}

/// What a profile knows of files.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KnownFiles {
    /// By digest; the same one may stand there more than once, in times that overlap.
    pub files: BTreeMap<KnownDigest, Vec<KnownFile>>,
    /// Whose signatures count.
    pub keys: Vec<SigningKey>,
    /// Users whose own files are not judged, where the template shows the owner; never root.
    pub unjudged_owners: BTreeSet<u32>,
}

/// Why a file is known, or is of no concern.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judged<'k> {
    /// Its digest is listed.
    Listed(&'k KnownFile),
    /// A listed key signed it.
    Signed(&'k SigningKey),
    /// It belongs to a user whose files are not judged.
    Unjudged(u32),
}

/// Why a file is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FileRefused {
    /// Listed, and taken back or not in its time, and nothing else speaks for it.
    #[error("{name}: {lapsed}")]
    Lapsed {
        /// What the profile calls it.
        name: String,
        /// Which bound it is outside of.
        lapsed: Lapsed,
    },
    /// Signed by a key whose word does not count now.
    #[error("signed by {name}: {lapsed}")]
    Key {
        /// What the profile calls the key.
        name: String,
        /// Which bound it is outside of.
        lapsed: Lapsed,
    },
    /// Its signature says it is a listed key's and is not, or cannot be checked.
    #[error("{0}")]
    Signature(String),
    /// Nobody listed it and nobody known signed it.
    #[error("{}", signer.map_or_else(|| "unsigned".to_owned(), |key| format!("signed by key {key}, which the profile does not have")))]
    Unknown {
        /// Whose the signature says it is.
        signer: Option<KeyId>,
    },
}

impl FileRefused {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Lapsed { lapsed, .. } => match lapsed {
                Lapsed::Early(_) => "file-early",
                Lapsed::Ended(_) => "file-ended",
                Lapsed::Revoked(_) => "file-revoked",
            },
            Self::Key { .. } => "file-key",
            Self::Signature(_) => "file-signature",
            Self::Unknown { .. } => "file-unknown",
        }
    }
}

impl KnownFiles {
    /// What an entry is by its content. A digest that was taken back is refused whoever signed it;
    /// one that has ended may still be good by its signature.
    pub fn judge(&self, entry: &Entry<'_>, now: UnixTime) -> Result<Judged<'_>, FileRefused> {
        let measured = entry.file_digest();
        let listed = measured.as_ref().and_then(KnownDigest::of);
        let listed = listed.and_then(|digest| self.files.get(&digest));
        let listed = listed.map(Vec::as_slice).unwrap_or_default();
        let lapsed = |one: &KnownFile, lapsed| FileRefused::Lapsed {
            name: one.name.clone(),
            lapsed,
        };
        let mut ended = None;
        let mut good = None;
        for one in listed {
            match one.term.counts(now) {
                Ok(()) => good = good.or(Some(one)),
                Err(revoked @ Lapsed::Revoked(_)) => return Err(lapsed(one, revoked)),
                Err(other) => ended = Some(lapsed(one, other)),
            }
        }
        if let Some(one) = good {
            return Ok(Judged::Listed(one));
        }
        let unsigned = match measured.map(|digest| self.signed(entry, &digest, now)) {
            Some(Ok(key)) => return Ok(Judged::Signed(key)),
            Some(Err(refused)) => refused,
            None => FileRefused::Unknown { signer: None },
        };
        // Only the kernel's own template says which field the owner is.
        let owner = entry.owner().filter(|_| entry.template.is_known());
        match owner {
            Some(owner) if self.unjudged_owners.contains(&owner) => Ok(Judged::Unjudged(owner)),
            _ => Err(ended.unwrap_or(unsigned)),
        }
    }

    fn signed(
        &self,
        entry: &Entry<'_>,
        measured: &FileDigest<'_>,
        now: UnixTime,
    ) -> Result<&SigningKey, FileRefused> {
        let mut refused = FileRefused::Unknown { signer: None };
        if let Some(bytes) = entry.signature() {
            match self.attribute(bytes, measured, now) {
                Ok(key) => return Ok(key),
                Err(why) => refused = why,
            }
        }
        let Some((digest, message)) = entry.appended_signature() else {
            return Err(refused);
        };
        let appended = Appended::parse(message)
            .map_err(|error| FileRefused::Signature(format!("appended signature: {error}")))?;
        let mut keys = self.keys.iter();
        match keys.find(|key| appended.verify(&key.key, &digest).is_ok()) {
            Some(key) => counts(key, now),
            None => Err(refused),
        }
    }

    fn attribute(
        &self,
        bytes: &[u8],
        measured: &FileDigest<'_>,
        now: UnixTime,
    ) -> Result<&SigningKey, FileRefused> {
        let told = |error: &dyn std::error::Error| {
            let why = error
                .source()
                .map_or_else(String::new, |why| format!(": {why}"));
            FileRefused::Signature(format!("{error}{why}"))
        };
        let signature = FileSignature::parse(bytes).map_err(|error| told(&error))?;
        let mut refused = FileRefused::Unknown {
            signer: Some(signature.key),
        };
        for key in self.keys.iter().filter(|key| key.id == signature.key) {
            match signature.verify(&key.key, measured) {
                Ok(()) => return counts(key, now),
                Err(error) => refused = told(&error),
            }
        }
        Err(refused)
    }

    /// What is known under a name like this one, for whoever asks why a file is not: the same
    /// path, in a container or below an overlay too, or else a file called the same.
    #[must_use]
    pub fn nearest(&self, name: &[u8]) -> Option<(&KnownDigest, &KnownFile)> {
        let name = String::from_utf8_lossy(name);
        let all = || {
            let files = self.files.iter();
            files.flat_map(|(digest, files)| files.iter().map(move |file| (digest, file)))
        };
        let path = |file: &KnownFile| file.name.starts_with('/') && name.ends_with(&file.name);
        let last = |path: &str| path.rsplit('/').next().map(str::to_owned);
        let called = last(&name).filter(|last| !last.is_empty());
        all()
            .find(|(_, file)| path(file))
            .or_else(|| all().find(|(_, file)| called.is_some() && last(&file.name) == called))
    }
}

fn counts(key: &SigningKey, now: UnixTime) -> Result<&SigningKey, FileRefused> {
    match key.term.counts(now) {
        Ok(()) => Ok(key),
        Err(lapsed) => Err(FileRefused::Key {
            name: key.name.clone(),
            lapsed,
        }),
    }
}
