//! The attestation key: a public area whose attributes keep it from signing lies.

use crate::crypto::{HashAlgorithm, PreparedKey, PublicKey, VerifyError};

use super::public::{KeyScheme, Name, ObjectAttributes, Public, PublicKind, TPM_ALG_NULL};
use super::signature::{self, ECDSA, RSAPSS, RSASSA, Signature};

/// What an AK must be: a key the TPM drew itself, that never leaves it, and that signs nothing a
/// stranger composed.
const REQUIRED: [(ObjectAttributes, &str); 5] = [
    (ObjectAttributes::RESTRICTED, "restricted"),
    (ObjectAttributes::SIGN, "sign"),
    (ObjectAttributes::FIXED_TPM, "fixedTPM"),
    (ObjectAttributes::FIXED_PARENT, "fixedParent"),
    (
        ObjectAttributes::SENSITIVE_DATA_ORIGIN,
        "sensitiveDataOrigin",
    ),
];

/// Why a public area is not accepted as an AK.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AkRefused {
    /// An attribute an AK needs is not set.
    #[error("the key lacks the attribute {0}")]
    Lacks(&'static str),
    /// The key may decrypt, so its public part can be used to make it answer for data.
    #[error("the key has the attribute decrypt")]
    Decrypts,
    /// Not an RSA or ECC key of a supported kind.
    #[error("the public area holds no key that can verify a quote")]
    Key,
    /// A scheme other than RSASSA, RSAPSS or ECDSA, or none.
    #[error("the key's scheme {0:#06x} is not one that quotes are accepted with")]
    Scheme(u16),
    /// A hash other than SHA-256, SHA-384 or SHA-512.
    #[error("the key signs with a hash that is not accepted")]
    Hash,
    /// No name can be computed, so no credential can be bound to it.
    #[error("the public area has no name")]
    Name,
}

impl AkRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Lacks("restricted") => "ak-not-restricted",
            Self::Lacks("fixedTPM") => "ak-not-fixed-tpm",
            Self::Lacks("fixedParent") => "ak-not-fixed-parent",
            Self::Lacks("sensitiveDataOrigin") => "ak-imported",
            Self::Lacks(_) => "ak-does-not-sign",
            Self::Decrypts => "ak-decrypts",
            Self::Key => "ak-key",
            Self::Scheme(_) => "ak-scheme",
            Self::Hash => "ak-hash",
            Self::Name => "ak-name",
        }
    }
}

/// An AK whose attributes were checked. That it lives in a real TPM is for credential activation
/// to show, not for this type.
#[derive(Clone, Debug)]
pub struct AkPublic {
    public: Public,
    key: PublicKey,
    /// The same, read for the one scheme it is fixed to: it signs a statement a minute for months.
    prepared: Option<PreparedKey>,
    scheme: KeyScheme,
    hash: HashAlgorithm,
    name: Name,
}

impl Eq for AkPublic {}

impl PartialEq for AkPublic {
    fn eq(&self, other: &Self) -> bool {
        // All else comes from it.
        self.public == other.public
    }
}

impl AkPublic {
    /// Checks attributes and scheme.
    pub fn new(public: Public) -> Result<Self, AkRefused> {
        check_attributes(public.attributes())?;
        let (key, scheme, hash) = check_key(&public)?;
        let name = public.name().ok_or(AkRefused::Name)?;
        let prepared = PreparedKey::new(&key, signature::scheme(scheme.algorithm, hash));
        Ok(Self {
            public,
            key,
            prepared,
            scheme,
            hash,
            name,
        })
    }

    /// The public area.
    #[must_use]
    pub const fn public(&self) -> &Public {
        &self.public
    }

    /// What the TPM calls it.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The key itself.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The signature is of the scheme and hash this key is fixed to.
    #[must_use]
    pub fn allows(&self, signature: &Signature) -> bool {
        signature.algorithm() == self.scheme.algorithm && signature.hash() == self.hash
    }

    /// Checks `signature` over `message`. Callers have asked [`Self::allows`] first.
    pub(super) fn verify(&self, signature: &Signature, message: &[u8]) -> Result<(), VerifyError> {
        match &self.prepared {
            Some(key) => signature.verify_prepared(key, message),
            None => signature.verify(&self.key, message),
        }
    }
}

fn check_attributes(attributes: ObjectAttributes) -> Result<(), AkRefused> {
    for (bit, name) in REQUIRED {
        if !attributes.contains(bit) {
            return Err(AkRefused::Lacks(name));
        }
    }
    if attributes.contains(ObjectAttributes::DECRYPT) {
        return Err(AkRefused::Decrypts);
    }
    Ok(())
}

fn check_key(public: &Public) -> Result<(PublicKey, KeyScheme, HashAlgorithm), AkRefused> {
    let PublicKind::Asymmetric { key, scheme, .. } = public.kind() else {
        return Err(AkRefused::Key);
    };
    let Some(scheme) = *scheme else {
        return Err(AkRefused::Scheme(TPM_ALG_NULL));
    };
    let fits = match key {
        PublicKey::Rsa { .. } => matches!(scheme.algorithm, RSASSA | RSAPSS),
        PublicKey::Ec { .. } => scheme.algorithm == ECDSA,
        PublicKey::Ed25519(_) => false,
    };
    if !fits {
        return Err(AkRefused::Scheme(scheme.algorithm));
    }
    match scheme.hash {
        Some(hash @ (HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512)) => {
            Ok((key.clone(), scheme, hash))
        }
        _ => Err(AkRefused::Hash),
    }
}
