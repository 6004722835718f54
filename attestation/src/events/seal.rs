//! The private half of an entry: committed to, sealed, opened again while its key exists.
//!
//! A *bucket key* belongs to one study, subject bucket and retention class on one node. From it
//! and the salt of an entry come the entry's own two keys (HKDF-SHA-256): one for the commitment
//! (HMAC-SHA-256 over the private half), one for the seal (AES-256-GCM). The salt is drawn for
//! each entry, so that no key seals twice; whoever has neither bucket key nor private half learns
//! from salt and commitment that there is something, and not what.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    constant_time::verify_slices_are_equal,
    hkdf::{HKDF_SHA256, KeyType, Salt},
    hmac,
};

use super::hpke::{self, HpkeError, POINT};
use crate::{ids::Sha256Digest, proto::v1};

const COMMIT: &[u8] = b"bailiwick entry commitment v1";
const SEAL: &[u8] = b"bailiwick entry seal v1";
const WRAP: &[u8] = b"bailiwick bucket key v1\0";
/// What a key wraps to: an encapsulated point, the key, a tag.
pub const WRAPPED: usize = POINT + 32 + 16;

/// Name of a bucket key: 16 random bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// From the wire.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The key of one study, subject bucket and retention class.
#[derive(Clone, Eq, PartialEq)]
pub struct BucketKey([u8; 32]);

impl fmt::Debug for BucketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BucketKey(..)")
    }
}

/// Whose key it is: what it is wrapped for cannot be passed off as another's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyTerms<'a> {
    /// The installation.
    pub deployment: &'a str,
    /// Its name.
    pub id: KeyId,
    /// The study.
    pub study: &'a str,
    /// The subject bucket.
    pub bucket: &'a str,
    /// The retention class.
    pub retention: &'a str,
}

impl KeyTerms<'_> {
    /// Names hold no zero byte, so no two terms give the same bytes.
    fn info(&self) -> Vec<u8> {
        [WRAP, self.deployment.as_bytes()].concat()
    }

    fn aad(&self) -> Vec<u8> {
        let (study, bucket) = (self.study.as_bytes(), self.bucket.as_bytes());
        let retention = self.retention.as_bytes();
        [&self.id.0, study, &[0], bucket, &[0], retention].concat()
    }
}

/// Why a private half was not sealed or not opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SealError {
    /// A salt or commitment of another length.
    #[error("salt or commitment has another length")]
    Malformed,
    /// Another key sealed it, or it was changed since.
    #[error("the seal does not open: another key's, or changed")]
    Seal,
    /// It opens, and is not what the log's entry commits to.
    #[error("what was sealed is not what the entry commits to")]
    Commitment,
    /// The provider failed.
    #[error("the cryptographic provider failed")]
    Provider,
}

impl SealError {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "seal-malformed",
            Self::Seal => "seal-does-not-open",
            Self::Commitment => "seal-other-content",
            Self::Provider => "seal-provider",
        }
    }
}

impl BucketKey {
    /// From random bytes drawn elsewhere.
    #[must_use]
    pub const fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The 32 bytes, for whoever keeps the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Commits to the private half and seals it. `salt` is drawn for this entry alone.
    pub fn seal(
        &self,
        id: KeyId,
        salt: [u8; 16],
        private: &[u8],
    ) -> Result<(v1::Sealing, Vec<u8>), SealError> {
        let commitment = self.commit(&salt, private)?;
        let mut sealed = private.to_vec();
        self.cipher(&salt)?
            .seal_in_place_append_tag(once(), Aad::from(commitment), &mut sealed)
            .map_err(|_unspecified| SealError::Provider)?;
        let sealing = v1::Sealing {
            key_id: id.0.to_vec(),
            salt: salt.to_vec(),
            commitment: commitment.to_vec(),
        };
        Ok((sealing, sealed))
    }

    /// Opens the private half and checks it against what the entry commits to.
    pub fn open(&self, sealing: &v1::Sealing, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let salt = <[u8; 16]>::try_from(sealing.salt.as_slice());
        let commitment = <[u8; 32]>::try_from(sealing.commitment.as_slice());
        let (Ok(salt), Ok(commitment)) = (salt, commitment) else {
            return Err(SealError::Malformed);
        };
        let mut text = sealed.to_vec();
        let private = self
            .cipher(&salt)?
            .open_in_place(once(), Aad::from(commitment), &mut text)
            .map_err(|_unspecified| SealError::Seal)?;
        // GCM does not commit to its key: only the commitment says which content was meant.
        self.committed(sealing, private)?;
        Ok(private.to_vec())
    }

    /// Whether the entry commits to this private half.
    pub fn committed(&self, sealing: &v1::Sealing, private: &[u8]) -> Result<(), SealError> {
        let salt = <[u8; 16]>::try_from(sealing.salt.as_slice());
        let salt = salt.map_err(|_length| SealError::Malformed)?;
        verify_slices_are_equal(&self.commit(&salt, private)?, &sealing.commitment)
            .map_err(|_differs| SealError::Commitment)
    }

    /// The key of one entry's commitment: whoever has it and the private half can check that the
    /// entry commits to it, and learns nothing about any other entry.
    pub fn opening(&self, sealing: &v1::Sealing) -> Result<[u8; 32], SealError> {
        let salt = <[u8; 16]>::try_from(sealing.salt.as_slice());
        self.derive(&salt.map_err(|_length| SealError::Malformed)?, COMMIT)
    }

    /// Wraps the key for a key store. `ephemeral` are random bytes drawn for this alone.
    pub fn wrap(
        &self,
        terms: &KeyTerms<'_>,
        store: &[u8; POINT],
        ephemeral: &[u8; 32],
    ) -> Result<Vec<u8>, HpkeError> {
        hpke::seal(store, ephemeral, &terms.info(), &terms.aad(), &self.0)
    }

    /// Opens what [`BucketKey::wrap`] made for this key store.
    pub fn unwrap_with(
        terms: &KeyTerms<'_>,
        store: &aws_lc_rs::agreement::PrivateKey,
        wrapped: &[u8],
    ) -> Result<Self, HpkeError> {
        let key = hpke::open(store, &terms.info(), &terms.aad(), wrapped)?;
        key.try_into().map(Self).map_err(|_length| HpkeError::Open)
    }

    fn commit(&self, salt: &[u8; 16], private: &[u8]) -> Result<[u8; 32], SealError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.derive(salt, COMMIT)?);
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&key, private).as_ref());
        Ok(out)
    }

    fn cipher(&self, salt: &[u8; 16]) -> Result<LessSafeKey, SealError> {
        UnboundKey::new(&AES_256_GCM, &self.derive(salt, SEAL)?)
            .map(LessSafeKey::new)
            .map_err(|_unspecified| SealError::Provider)
    }

    fn derive(&self, salt: &[u8; 16], purpose: &[u8]) -> Result<[u8; 32], SealError> {
        let mut out = [0; 32];
        Salt::new(HKDF_SHA256, salt)
            .extract(&self.0)
            .expand(&[purpose], ThirtyTwo)
            .and_then(|okm| okm.fill(&mut out))
            .map_err(|_unspecified| SealError::Provider)?;
        Ok(out)
    }
}

/// Checks a private half against an entry, with the [`BucketKey::opening`] of that entry.
pub fn committed_under(
    opening: &[u8],
    sealing: &v1::Sealing,
    private: &[u8],
) -> Result<(), SealError> {
    if opening.len() != 32 {
        return Err(SealError::Malformed);
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, opening);
    hmac::verify(&key, private, &sealing.commitment).map_err(|_differs| SealError::Commitment)
}

struct ThirtyTwo;

impl KeyType for ThirtyTwo {
    fn len(&self) -> usize {
        32
    }
}

/// Every key seals one message.
fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Subject buckets a study has on one node: enough that erasing one spares most of the others,
/// few enough that a bucket says little about its subject.
pub const BUCKETS: u8 = 16;

/// The bucket of a subject, `b-00` to `b-15`. Keyed, so that nobody without the node's secret can
/// try who is in which.
#[must_use]
pub fn bucket_of(secret: &[u8; 32], study: &str, subject: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, &[study.as_bytes(), &[0], subject].concat());
    let first = tag.as_ref().first().copied().unwrap_or_default();
    format!("b-{:02}", first % BUCKETS)
}

/// SHA-256 over key ids, ascending: names a set of keys in one line.
#[must_use]
pub fn keys_digest(ids: &[KeyId]) -> Sha256Digest {
    let mut ids: Vec<&[u8]> = ids.iter().map(|id| id.0.as_slice()).collect();
    ids.sort_unstable();
    ids.dedup();
    Sha256Digest::of(&ids)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};

    use super::*;

    const ID: KeyId = KeyId([5; 16]);
    const PRIVATE: &[u8] = b"uid 1000, /usr/bin/curl, 10.9.1.7 to 203.0.113.9";

    fn key() -> BucketKey {
        BucketKey::new([7; 32])
    }

    fn sealed() -> (v1::Sealing, Vec<u8>) {
        key().seal(ID, [1; 16], PRIVATE).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_and_its_neighbours_do_not() {
        let (sealing, text) = sealed();
        assert_eq!(key().open(&sealing, &text).unwrap(), PRIVATE);
        assert!(
            !text.windows(4).any(|w| w == b"curl"),
            "nothing in the clear"
        );
        type Edit = fn(&mut v1::Sealing, &mut Vec<u8>);
        let cases: &[(&str, Edit, SealError)] = &[
            ("text", |_, t| t[0] ^= 1, SealError::Seal),
            ("tag", |_, t| *t.last_mut().unwrap() ^= 1, SealError::Seal),
            (
                "a byte short",
                |_, t| t.truncate(t.len() - 1),
                SealError::Seal,
            ),
            ("nothing", |_, t| t.clear(), SealError::Seal),
            ("salt", |s, _| s.salt[0] ^= 1, SealError::Seal),
            ("commitment", |s, _| s.commitment[0] ^= 1, SealError::Seal),
            (
                "short salt",
                |s, _| s.salt.truncate(15),
                SealError::Malformed,
            ),
            (
                "short commitment",
                |s, _| s.commitment.truncate(31),
                SealError::Malformed,
            ),
        ];
        for (name, edit, want) in cases {
            let (mut sealing, mut text) = sealed();
            edit(&mut sealing, &mut text);
            assert_eq!(key().open(&sealing, &text), Err(*want), "{name}");
        }
        let other = BucketKey::new([8; 32]);
        assert_eq!(
            other.open(&sealing, &text),
            Err(SealError::Seal),
            "another key"
        );
    }

    #[test]
    fn the_commitment_is_to_the_content_and_its_salt() {
        let (sealing, _) = sealed();
        key().committed(&sealing, PRIVATE).unwrap();
        let refused = Err(SealError::Commitment);
        assert_eq!(key().committed(&sealing, b"something else"), refused);
        assert_eq!(
            BucketKey::new([8; 32]).committed(&sealing, PRIVATE),
            refused
        );
        let salted = v1::Sealing {
            salt: vec![2; 16],
            ..sealing.clone()
        };
        assert_eq!(key().committed(&salted, PRIVATE), refused);
        let short = v1::Sealing {
            salt: vec![1; 15],
            ..sealing.clone()
        };
        assert_eq!(key().committed(&short, PRIVATE), Err(SealError::Malformed));

        // A seal over another content that claims this commitment, by somebody with the key.
        let commitment: [u8; 32] = sealing.commitment.as_slice().try_into().unwrap();
        let mut text = b"a milder story".to_vec();
        let cipher = key().cipher(&[1; 16]).unwrap();
        cipher
            .seal_in_place_append_tag(once(), Aad::from(commitment), &mut text)
            .unwrap();
        assert_eq!(key().open(&sealing, &text), Err(SealError::Commitment));

        // The same content twice looks like two contents.
        let (again, _) = key().seal(ID, [2; 16], PRIVATE).unwrap();
        assert_ne!(again.commitment, sealing.commitment);
    }

    #[test]
    fn one_commitment_is_opened_without_its_key() {
        let (sealing, _) = sealed();
        let opening = key().opening(&sealing).unwrap();
        committed_under(&opening, &sealing, PRIVATE).unwrap();
        let refused = Err(SealError::Commitment);
        assert_eq!(committed_under(&opening, &sealing, b"another"), refused);
        assert_eq!(committed_under(&[1; 32], &sealing, PRIVATE), refused);
        let (other, _) = key().seal(ID, [2; 16], PRIVATE).unwrap();
        assert_eq!(
            committed_under(&opening, &other, PRIVATE),
            refused,
            "another entry's"
        );
        let short = committed_under(&opening[1..], &sealing, PRIVATE);
        assert_eq!(short, Err(SealError::Malformed));
        let mut bad = sealing;
        bad.salt.pop();
        assert_eq!(key().opening(&bad), Err(SealError::Malformed));
    }

    #[test]
    fn a_key_is_wrapped_for_one_store_under_its_own_terms() {
        let store = PrivateKey::from_private_key(&ECDH_P256, &[3; 32]).unwrap();
        let other = PrivateKey::from_private_key(&ECDH_P256, &[4; 32]).unwrap();
        let terms = KeyTerms {
            deployment: "demo",
            id: ID,
            study: "cardio",
            bucket: "b-03",
            retention: "default",
        };
        let wrapped = key()
            .wrap(&terms, &hpke::point(&store).unwrap(), &[9; 32])
            .unwrap();
        assert_eq!(wrapped.len(), WRAPPED);
        assert!(
            !wrapped.windows(4).any(|w| w == [7; 4]),
            "nothing in the clear"
        );
        let open = |terms: &KeyTerms<'_>, store| BucketKey::unwrap_with(terms, store, &wrapped);
        assert_eq!(open(&terms, &store).unwrap(), key());
        let refused = Err(HpkeError::Open);
        assert_eq!(open(&terms, &other), refused, "another store");
        let cases = [
            (
                "deployment",
                KeyTerms {
                    deployment: "prod",
                    ..terms
                },
            ),
            (
                "id",
                KeyTerms {
                    id: KeyId([6; 16]),
                    ..terms
                },
            ),
            (
                "study",
                KeyTerms {
                    study: "neuro",
                    ..terms
                },
            ),
            (
                "bucket",
                KeyTerms {
                    bucket: "b-04",
                    ..terms
                },
            ),
            (
                "retention",
                KeyTerms {
                    retention: "trial",
                    ..terms
                },
            ),
            (
                "moved border",
                KeyTerms {
                    study: "cardiob",
                    bucket: "-03",
                    ..terms
                },
            ),
        ];
        for (name, terms) in cases {
            assert_eq!(open(&terms, &store), refused, "{name}");
        }
    }

    #[test]
    fn buckets_are_few_and_keyed() {
        let subjects: Vec<String> = (0..200)
            .map(|n| format!("/studies/cardio/job-{n}"))
            .collect();
        let of = |secret: &[u8; 32], study: &str| -> Vec<String> {
            let all = subjects.iter();
            all.map(|s| bucket_of(secret, study, s.as_bytes()))
                .collect()
        };
        let ours = of(&[1; 32], "cardio");
        let mut distinct = ours.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), usize::from(BUCKETS));
        assert_eq!(
            (distinct[0].as_str(), distinct[15].as_str()),
            ("b-00", "b-15")
        );
        assert_eq!(
            of(&[1; 32], "cardio"),
            ours,
            "the same subject, the same bucket"
        );
        assert_ne!(of(&[2; 32], "cardio"), ours);
        assert_ne!(of(&[1; 32], "neuro"), ours);
    }

    #[test]
    fn a_set_of_keys_has_one_digest() {
        let (a, b) = (KeyId([1; 16]), KeyId([2; 16]));
        assert_eq!(keys_digest(&[a, b]), keys_digest(&[b, a, b]));
        assert_ne!(keys_digest(&[a]), keys_digest(&[a, b]));
        assert_eq!(keys_digest(&[]), Sha256Digest::of(&[]));
    }
}
