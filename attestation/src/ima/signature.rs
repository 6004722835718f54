//! What `security.ima` holds of a file that somebody signed, as far as a list shows it.

use std::fmt;

use super::template::FileDigest;
use crate::crypto::{
    HashAlgorithm, PublicKey, SignatureScheme, VerifyError, verify, verify_digest,
};
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

/// `EVM_IMA_XATTR_DIGSIG`: a signature over the digest of the file.
const FILE: u8 = 3;
/// `EVM_XATTR_PORTABLE_DIGSIG`: one over the attributes of the file, which no list shows whole.
const ATTRIBUTES: u8 = 5;
/// `IMA_VERITY_DIGSIG`: one over the digest that fs-verity has of the file.
const VERITY: u8 = 6;

/// The last four bytes of a key's identifier, as signatures name it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId(pub [u8; 4]);

impl KeyId {
    /// Of a key that has the usual identifier: SHA-1 of its bits (RFC 5280, §4.2.1.2, method 1).
    #[must_use]
    pub fn of(key: &PublicKey) -> Self {
        let id = HashAlgorithm::Sha1
            .digest(&[&key.bits()])
            .unwrap_or_default();
        Self(id.as_slice().last_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A signature over a file. Nothing of it is verified yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileSignature<'a> {
    /// What kind of digest is signed: that of the file, or that of fs-verity.
    kind: u8,
    /// With version 3 the kind is under the signature too.
    version: u8,
    hash: HashAlgorithm,
    /// The number the kernel gives the hash.
    hash_number: u8,
    /// Whose it says it is.
    pub key: KeyId,
    signature: &'a [u8],
}

/// Why a file's signature is none that can be checked, or is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FileSignatureRefused {
    /// Not the structure.
    #[error("malformed signature")]
    Malformed(#[source] ParseError),
    /// Over the attributes of the file.
    #[error("the signature is EVM's, over attributes that the list does not show")]
    Attributes,
    /// Over another digest than the one that was measured.
    #[error("the signature is over a {signed} digest, what was measured is {measured}")]
    Digest {
        /// Of the signature.
        signed: String,
        /// Of the list.
        measured: String,
    },
    /// Does not verify, or not by that kind of key.
    #[error("the signature by key {0} does not verify")]
    Verify(KeyId, #[source] VerifyError),
}

impl<'a> FileSignature<'a> {
    /// Reads `signature_v2_hdr` and what stands before it: `security/integrity/integrity.h`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FileSignatureRefused> {
        if bytes.first() == Some(&ATTRIBUTES) {
            return Err(FileSignatureRefused::Attributes);
        }
        Self::read(bytes).map_err(FileSignatureRefused::Malformed)
    }

    fn read(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("signature_v2_hdr", bytes);
        let unsupported = |r: &Reader<'_>, field, at, found: u8| {
            let fault = Fault::Unsupported {
                found: found.into(),
            };
            Err(r.fault_at(field, at, fault))
        };
        let kind = r.u8("type")?;
        if !matches!(kind, FILE | VERITY) {
            return unsupported(&r, "type", 0, kind);
        }
        let version = r.u8("version")?;
        // What fs-verity signs was never signed in the older way.
        if !matches!((kind, version), (_, 3) | (FILE, 2)) {
            return unsupported(&r, "version", 1, version);
        }
        let number = r.u8("hash_algo")?;
        let Some(hash) = hash_of(number) else {
            return unsupported(&r, "hash_algo", 2, number);
        };
        let key = KeyId(r.array("keyid")?);
        let len = r.u16("sig_size")?;
        let signature = r.take("sig", len.into())?;
        r.finish()?;
        Ok(Self {
            kind,
            version,
            hash,
            hash_number: number,
            key,
            signature,
        })
    }

    /// That `key` signed the digest that was measured.
    pub fn verify(
        &self,
        key: &PublicKey,
        measured: &FileDigest<'_>,
    ) -> Result<(), FileSignatureRefused> {
        let verity = if self.kind == VERITY { "verity:" } else { "" };
        let signed = format!("{verity}{}", self.hash);
        if signed != measured.algorithm || measured.digest.len() != self.hash.digest_len() {
            return Err(FileSignatureRefused::Digest {
                signed,
                measured: measured.algorithm.chars().take(64).collect(),
            });
        }
        let scheme = match key {
            PublicKey::Rsa { .. } => SignatureScheme::RsaPkcs1(self.hash),
            _ => SignatureScheme::Ecdsa(self.hash),
        };
        let verified = if self.version == 3 {
            let signed = [&[self.kind, self.hash_number], measured.digest].concat();
            verify(key, scheme, &signed, self.signature)
        } else {
            verify_digest(key, scheme, measured.digest, self.signature)
        };
        verified.map_err(|error| FileSignatureRefused::Verify(self.key, error))
    }
}

/// `enum hash_algo` of `include/uapi/linux/hash_info.h`, as far as a signature may have it.
const fn hash_of(number: u8) -> Option<HashAlgorithm> {
    Some(match number {
        2 => HashAlgorithm::Sha1,
        4 => HashAlgorithm::Sha256,
        5 => HashAlgorithm::Sha384,
        6 => HashAlgorithm::Sha512,
        _ => return None,
    })
}
