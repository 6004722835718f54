//! Signature verification.

use std::borrow::Cow;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    self, ParsedPublicKey, RsaParameters, RsaPssSaltLength, VerificationAlgorithm,
};
use der::{Encode, Sequence, asn1::UintRef};

use super::{Curve, HashAlgorithm, PublicKey};

/// How a signature was made.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(HashAlgorithm),
    /// RSASSA-PSS with MGF1 over the same hash; salt as long as the digest, or as long as fits,
    /// which is what a TPM outside FIPS mode does.
    RsaPss(HashAlgorithm),
    /// ECDSA, signature as DER `ECDSA-Sig-Value`.
    Ecdsa(HashAlgorithm),
    /// RFC 8032.
    Ed25519,
}

/// Something no verdict can be given on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unsupported {
    /// SHA-1 under a signature: collisions are cheap.
    #[error("SHA-1 signatures are not accepted")]
    Sha1,
    /// A hash that signatures are not checked with.
    #[error("signatures over {0} are not supported")]
    Hash(HashAlgorithm),
    /// RSA outside 2048 to 4096 bits.
    #[error("RSA keys of {0} bits are not supported, only 2048 to 4096")]
    RsaBits(usize),
}

/// Why a signature was not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VerifyError {
    /// Not checked.
    #[error(transparent)]
    Unsupported(Unsupported),
    /// A scheme for another kind of key.
    #[error("the signature is not of the key's kind")]
    KeyKind,
    /// Checked, and not by this key over these bytes.
    #[error("the signature does not verify")]
    Mismatch,
}

impl VerifyError {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unsupported(Unsupported::Sha1) => "sha1-signature",
            Self::Unsupported(Unsupported::Hash(_)) => "unsupported-hash",
            Self::Unsupported(Unsupported::RsaBits(_)) => "unsupported-key-size",
            Self::KeyKind => "signature-scheme",
            Self::Mismatch => "signature",
        }
    }
}

/// Checks `signature` by `key` over `message`.
pub fn verify(
    key: &PublicKey,
    scheme: SignatureScheme,
    message: &[u8],
    signature: &[u8],
) -> Result<(), VerifyError> {
    match (key, scheme) {
        (PublicKey::Rsa { modulus, exponent }, SignatureScheme::RsaPkcs1(hash)) => {
            let key = RsaKey::new(key, modulus, exponent)?;
            key.verify(pkcs1(hash)?, message, signature)
        }
        (PublicKey::Rsa { modulus, exponent }, SignatureScheme::RsaPss(hash)) => {
            let key = RsaKey::new(key, modulus, exponent)?;
            let [digest_salt, longest_salt] = pss(hash)?;
            key.verify(&digest_salt, message, signature)
                .or_else(|_| key.verify(&longest_salt, message, signature))
        }
        (PublicKey::Ec { curve, point }, SignatureScheme::Ecdsa(hash)) => {
            one_shot(ecdsa(*curve, hash)?, point, message, signature)
        }
        (PublicKey::Ed25519(key), SignatureScheme::Ed25519) => {
            one_shot(&signature::ED25519, key, message, signature)
        }
        _ => Err(VerifyError::KeyKind),
    }
}

/// A key of a curve, read once for one hash: for whoever checks many signatures by it.
#[derive(Clone, Debug)]
pub struct PreparedKey {
    scheme: SignatureScheme,
    key: ParsedPublicKey,
}

impl PreparedKey {
    /// `None` where there is nothing to gain, and for a key that is none: [`verify`] says why.
    #[must_use]
    pub fn new(key: &PublicKey, scheme: SignatureScheme) -> Option<Self> {
        let (PublicKey::Ec { curve, point }, SignatureScheme::Ecdsa(hash)) = (key, scheme) else {
            return None;
        };
        let key = ParsedPublicKey::new(ecdsa(*curve, hash).ok()?, point).ok()?;
        Some(Self { scheme, key })
    }

    /// Checks `signature` over `message`, as [`verify`] does. Of another scheme than the key was read
    /// for it is no signature of this key's.
    pub fn verify(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), VerifyError> {
        if scheme != self.scheme {
            return Err(VerifyError::KeyKind);
        }
        match self.key.verify_sig(message, signature) {
            Ok(()) => Ok(()),
            Err(_) => Err(VerifyError::Mismatch),
        }
    }
}

/// Checks `signature` by `key` over something of which only the digest is there, made with the
/// hash of the scheme by whoever saw it. EdDSA has no such form.
pub fn verify_digest(
    key: &PublicKey,
    scheme: SignatureScheme,
    digest: &[u8],
    signature: &[u8],
) -> Result<(), VerifyError> {
    let (algorithm, bytes, hash): (&'static dyn VerificationAlgorithm, Cow<'_, [u8]>, _) =
        match (key, scheme) {
            (PublicKey::Rsa { modulus, exponent }, SignatureScheme::RsaPkcs1(hash)) => {
                RsaKey::new(key, modulus, exponent)?;
                (pkcs1(hash)?, key.to_spki_der().into(), hash)
            }
            (PublicKey::Ec { curve, point }, SignatureScheme::Ecdsa(hash)) => {
                (ecdsa(*curve, hash)?, point.into(), hash)
            }
            _ => return Err(VerifyError::KeyKind),
        };
    let kind = match hash {
        HashAlgorithm::Sha256 => &digest::SHA256,
        HashAlgorithm::Sha384 => &digest::SHA384,
        HashAlgorithm::Sha512 => &digest::SHA512,
        other => return Err(unsupported(other)),
    };
    let Ok(digest) = digest::Digest::import_less_safe(digest, kind) else {
        return Err(VerifyError::Mismatch);
    };
    let key = signature::UnparsedPublicKey::new(algorithm, bytes);
    match key.verify_digest(&digest, signature) {
        Ok(()) => Ok(()),
        Err(_) => Err(VerifyError::Mismatch),
    }
}

/// DER `ECDSA-Sig-Value` of the two integers as a TPM writes them: big-endian, any width.
pub(crate) fn ecdsa_der(r: &[u8], s: &[u8]) -> Option<Vec<u8>> {
    #[derive(Sequence)]
    struct EcdsaSigValue<'a> {
        r: UintRef<'a>,
        s: UintRef<'a>,
    }
    let value = EcdsaSigValue {
        r: UintRef::new(r).ok()?,
        s: UintRef::new(s).ok()?,
    };
    value.to_der().ok()
}

struct RsaKey<'a>(signature::RsaPublicKeyComponents<&'a [u8]>);

impl<'a> RsaKey<'a> {
    fn new(key: &PublicKey, modulus: &'a [u8], exponent: &'a [u8]) -> Result<Self, VerifyError> {
        let bits = key.rsa_bits().unwrap_or_default();
        if !(2048..=4096).contains(&bits) {
            return Err(VerifyError::Unsupported(Unsupported::RsaBits(bits)));
        }
        Ok(Self(signature::RsaPublicKeyComponents {
            n: modulus,
            e: exponent,
        }))
    }

    fn verify(
        &self,
        parameters: &RsaParameters,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), VerifyError> {
        match self.0.verify(parameters, message, signature) {
            Ok(()) => Ok(()),
            Err(_) => Err(VerifyError::Mismatch),
        }
    }
}

fn one_shot(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), VerifyError> {
    let key = signature::UnparsedPublicKey::new(algorithm, key);
    match key.verify(message, signature) {
        Ok(()) => Ok(()),
        Err(_) => Err(VerifyError::Mismatch),
    }
}

fn unsupported(hash: HashAlgorithm) -> VerifyError {
    VerifyError::Unsupported(match hash {
        HashAlgorithm::Sha1 => Unsupported::Sha1,
        other => Unsupported::Hash(other),
    })
}

fn pkcs1(hash: HashAlgorithm) -> Result<&'static RsaParameters, VerifyError> {
    match hash {
        HashAlgorithm::Sha256 => Ok(&signature::RSA_PKCS1_2048_8192_SHA256),
        HashAlgorithm::Sha384 => Ok(&signature::RSA_PKCS1_2048_8192_SHA384),
        HashAlgorithm::Sha512 => Ok(&signature::RSA_PKCS1_2048_8192_SHA512),
        other => Err(unsupported(other)),
    }
}

fn pss(hash: HashAlgorithm) -> Result<[RsaParameters; 2], VerifyError> {
    let parameters = || match hash {
        HashAlgorithm::Sha256 => Ok(signature::RSA_PSS_2048_8192_SHA256),
        HashAlgorithm::Sha384 => Ok(signature::RSA_PSS_2048_8192_SHA384),
        HashAlgorithm::Sha512 => Ok(signature::RSA_PSS_2048_8192_SHA512),
        other => Err(unsupported(other)),
    };
    Ok([
        parameters()?,
        parameters()?.with_pss_salt_length(RsaPssSaltLength::Max),
    ])
}

fn ecdsa(
    curve: Curve,
    hash: HashAlgorithm,
) -> Result<&'static dyn VerificationAlgorithm, VerifyError> {
    Ok(match (curve, hash) {
        (Curve::P256, HashAlgorithm::Sha256) => &signature::ECDSA_P256_SHA256_ASN1,
        (Curve::P256, HashAlgorithm::Sha384) => &signature::ECDSA_P256_SHA384_ASN1,
        (Curve::P256, HashAlgorithm::Sha512) => &signature::ECDSA_P256_SHA512_ASN1,
        (Curve::P384, HashAlgorithm::Sha256) => &signature::ECDSA_P384_SHA256_ASN1,
        (Curve::P384, HashAlgorithm::Sha384) => &signature::ECDSA_P384_SHA384_ASN1,
        (Curve::P384, HashAlgorithm::Sha512) => &signature::ECDSA_P384_SHA512_ASN1,
        (Curve::P521, HashAlgorithm::Sha256) => &signature::ECDSA_P521_SHA256_ASN1,
        (Curve::P521, HashAlgorithm::Sha384) => &signature::ECDSA_P521_SHA384_ASN1,
        (Curve::P521, HashAlgorithm::Sha512) => &signature::ECDSA_P521_SHA512_ASN1,
        (_, other) => return Err(unsupported(other)),
    })
}
