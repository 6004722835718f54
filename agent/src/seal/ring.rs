//! The node's bucket keys, and the one file they are kept in.
//!
//! The file is sealed with a master key that lies in the TPM and nowhere else. Keys are destroyed
//! by leaving them out and drawing a new master key: then no older copy of the file opens,
//! wherever it was put.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bailiwick_attestation::{
    Sha256Digest,
    events::{BucketKey, KeyId, bucket_of},
};
use prost::Message;

/// Most keys: 256 studies with sixteen buckets each.
pub const MAX_KEYS: usize = 4096;

/// Most erasures remembered; the newest manifest is the only one that comes again.
pub(super) const MAX_ERASED: usize = 256;

const AAD: &[u8] = b"bailiwick node keys v1";

/// What events without a study are kept under.
pub const NO_STUDY: &str = "no-study";

/// A bucket key and whose it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RingKey {
    /// Its name.
    pub id: KeyId,
    /// The study, or [`NO_STUDY`].
    pub study: String,
    /// Of which subjects.
    pub bucket: String,
    /// For how long it is meant to last.
    pub retention: String,
    /// The key.
    pub key: BucketKey,
    /// The key store it was wrapped for last; empty: for none yet.
    pub wrapped_for: String,
}

/// All of a node's bucket keys.
#[derive(Clone, Eq, PartialEq)]
pub struct Ring {
    /// What subjects are sorted into buckets by.
    secret: [u8; 32],
    keys: Vec<RingKey>,
    /// Manifests of kind `erasure` that were applied, oldest first.
    erased: Vec<Sha256Digest>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Ring");
        shown.field("keys", &self.keys.len());
        shown.finish_non_exhaustive()
    }
}

impl Ring {
    /// Without a key. `secret` is random.
    #[must_use]
    pub const fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            keys: Vec::new(),
            erased: Vec::new(),
        }
    }

    /// The bucket of a subject.
    #[must_use]
    pub fn bucket(&self, study: &str, subject: &[u8]) -> String {
        bucket_of(&self.secret, study, subject)
    }

    /// The key of a bucket, if there is one.
    #[must_use]
    pub fn find(&self, study: &str, bucket: &str, retention: &str) -> Option<&RingKey> {
        self.keys
            .iter()
            .find(|key| key.study == study && key.bucket == bucket && key.retention == retention)
    }

    /// Adds a key; false: there is no room.
    pub fn add(&mut self, key: RingKey) -> bool {
        let room = self.keys.len() < MAX_KEYS;
        if room {
            self.keys.push(key);
        }
        room
    }

    /// Keys that are not wrapped for this key store yet.
    pub fn unwrapped<'a>(&'a self, store: &'a str) -> impl Iterator<Item = &'a RingKey> {
        self.keys.iter().filter(move |key| key.wrapped_for != store)
    }

    /// They are wrapped for this key store now, and the log says so.
    pub fn wrapped(&mut self, ids: &[KeyId], store: &str) {
        for key in &mut self.keys {
            if ids.contains(&key.id) {
                store.clone_into(&mut key.wrapped_for);
            }
        }
    }

    /// The log has no room to say so: they are to be wrapped again.
    pub fn not_wrapped(&mut self, ids: &[KeyId]) {
        self.wrapped(ids, "");
    }

    /// The same, with erasures that were applied before it.
    #[must_use]
    pub(super) fn after(mut self, erased: impl Iterator<Item = Sha256Digest>) -> Self {
        self.erased = erased.collect();
        self
    }

    /// Manifests that were applied, oldest first.
    pub(super) fn erasures(&self) -> impl Iterator<Item = &Sha256Digest> {
        self.erased.iter()
    }

    /// Whether a manifest was applied already.
    #[must_use]
    pub fn applied(&self, manifest: &Sha256Digest) -> bool {
        self.erased.contains(manifest)
    }

    /// The ring after a manifest's erasure, and the keys that are not in it any more.
    #[must_use]
    pub fn without(
        &self,
        manifest: Sha256Digest,
        meant: impl Fn(&RingKey) -> bool,
    ) -> (Self, Vec<KeyId>) {
        let (gone, keys): (Vec<_>, Vec<_>) = self.keys.iter().cloned().partition(meant);
        let mut erased = self.erased.clone();
        if erased.len() >= MAX_ERASED {
            erased.remove(0);
        }
        erased.push(manifest);
        let ring = Self {
            secret: self.secret,
            keys,
            erased,
        };
        (ring, gone.iter().map(|key| key.id).collect())
    }

    /// The file, sealed. `nonce` is random and used for this alone.
    pub(super) fn seal(&self, master: &[u8; 32], nonce: [u8; 12]) -> Option<Vec<u8>> {
        let mut out = RingFile::from(self).encode_to_vec();
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, master).ok()?);
        cipher
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(AAD),
                &mut out,
            )
            .ok()?;
        Some([nonce.as_slice(), &out].concat())
    }

    /// Reads the file; `None`: another master key sealed it, or it was changed.
    pub(super) fn open(master: &[u8; 32], file: &[u8]) -> Option<Self> {
        let (nonce, text) = file.split_first_chunk::<12>()?;
        let mut text = text.to_vec();
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, master).ok()?);
        let plain = cipher
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(AAD),
                &mut text,
            )
            .ok()?;
        RingFile::decode(&*plain).ok()?.into_ring()
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct RingFile {
    #[prost(bytes = "vec", tag = "1")]
    secret: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    keys: Vec<KeyFile>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    erased: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyFile {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    study: String,
    #[prost(string, tag = "3")]
    bucket: String,
    #[prost(string, tag = "4")]
    retention: String,
    #[prost(bytes = "vec", tag = "5")]
    key: Vec<u8>,
    #[prost(string, tag = "6")]
    wrapped_for: String,
}

impl From<&Ring> for RingFile {
    fn from(ring: &Ring) -> Self {
        Self {
            secret: ring.secret.to_vec(),
            keys: ring
                .keys
                .iter()
                .map(|key| KeyFile {
                    id: key.id.0.to_vec(),
                    study: key.study.clone(),
                    bucket: key.bucket.clone(),
                    retention: key.retention.clone(),
                    key: key.key.as_bytes().to_vec(),
                    wrapped_for: key.wrapped_for.clone(),
                })
                .collect(),
            erased: ring.erased.iter().map(|digest| digest.0.to_vec()).collect(),
        }
    }
}

impl RingFile {
    fn into_ring(self) -> Option<Ring> {
        let keys = self.keys.into_iter().map(|file| {
            Some(RingKey {
                id: KeyId::from_slice(&file.id)?,
                study: file.study,
                bucket: file.bucket,
                retention: file.retention,
                key: BucketKey::new(file.key.try_into().ok()?),
                wrapped_for: file.wrapped_for,
            })
        });
        Some(Ring {
            secret: self.secret.try_into().ok()?,
            keys: keys.collect::<Option<_>>()?,
            erased: self
                .erased
                .iter()
                .map(|digest| Sha256Digest::from_slice(digest))
                .collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn key(number: u8, study: &str) -> RingKey {
        RingKey {
            id: KeyId([number; 16]),
            study: study.to_owned(),
            bucket: "b-01".to_owned(),
            retention: "default".to_owned(),
            key: BucketKey::new([number; 32]),
            wrapped_for: String::new(),
        }
    }

    fn ring() -> Ring {
        let mut ring = Ring::new([9; 32]);
        assert!(ring.add(key(1, "cardio")));
        assert!(ring.add(key(2, "neuro")));
        ring
    }

    #[test]
    fn the_file_opens_under_its_master_key_alone() {
        let ring = ring();
        let file = ring.seal(&[1; 32], [2; 12]).unwrap();
        assert_eq!(Ring::open(&[1; 32], &file), Some(ring));
        assert!(!file.windows(8).any(|w| w == [1; 8]), "no key in the clear");
        assert!(!file.windows(6).any(|w| w == b"cardio"), "nor a name");
        assert_eq!(Ring::open(&[3; 32], &file), None, "another master key");
        for at in [0, 12, file.len() - 1] {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert_eq!(Ring::open(&[1; 32], &bad), None, "byte {at}");
        }
        assert_eq!(Ring::open(&[1; 32], &file[..file.len() - 1]), None);
        assert_eq!(Ring::open(&[1; 32], &[]), None);
    }

    #[test]
    fn what_is_erased_is_not_in_the_ring_any_more() {
        let manifest = Sha256Digest([4; 32]);
        let before = ring();
        let (after, gone) = before.without(manifest, |key| key.study == "cardio");
        assert_eq!(gone, [KeyId([1; 16])]);
        assert!(after.find("cardio", "b-01", "default").is_none());
        assert!(after.find("neuro", "b-01", "default").is_some());
        assert!(after.applied(&manifest) && !before.applied(&manifest));
        let file = after.seal(&[1; 32], [2; 12]).unwrap();
        assert_eq!(Ring::open(&[1; 32], &file), Some(after.clone()));
        // A key of the same bucket made since is another key.
        let mut later = after;
        later.add(key(5, "cardio"));
        let found = later.find("cardio", "b-01", "default").unwrap();
        assert_eq!(found.id, KeyId([5; 16]));
    }

    #[test]
    fn keys_are_found_by_all_three_and_wrapped_once_per_store() {
        let mut ring = ring();
        assert!(ring.find("cardio", "b-02", "default").is_none());
        assert!(ring.find("cardio", "b-01", "trial").is_none());
        let ids: Vec<KeyId> = ring.unwrapped("keys-1").map(|key| key.id).collect();
        assert_eq!(ids.len(), 2);
        ring.wrapped(&ids[..1], "keys-1");
        let left: Vec<KeyId> = ring.unwrapped("keys-1").map(|key| key.id).collect();
        assert_eq!(left, [KeyId([2; 16])]);
        assert_eq!(ring.unwrapped("keys-2").count(), 2, "another store");
    }

    #[test]
    fn a_ring_is_bounded_and_remembers_the_newest_erasures() {
        let mut ring = Ring::new([9; 32]);
        for _ in 0..MAX_KEYS {
            assert!(ring.add(key(1, "cardio")));
        }
        assert!(!ring.add(key(1, "cardio")));
        for number in 0..=u8::MAX {
            (ring, _) = ring.without(Sha256Digest([number; 32]), |_| false);
        }
        assert!(ring.applied(&Sha256Digest([0; 32])));
        let (ring, _) = ring.without(Sha256Digest::of(&[b"next"]), |_| true);
        assert!(!ring.applied(&Sha256Digest([0; 32])));
        assert!(ring.applied(&Sha256Digest([1; 32])));
    }
}
