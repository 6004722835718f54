//! Credential activation, the verifier's half: `TPM2_MakeCredential` without a TPM.
//!
//! A secret is sealed to an EK *and* a name. The TPM that holds the EK gives it back only if an
//! object of that name is loaded in it; so whoever answers with the secret has both in one TPM.
//! It convinces only whoever drew the secret.
//!
//! TPM 2.0 Library r1.59, Part 1, "Credential Protection", KDFa and KDFe of the same part.

use aws_lc_rs::agreement;
use aws_lc_rs::cipher::{self, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand;
use aws_lc_rs::rsa::{self, OaepPublicEncryptingKey, PublicEncryptingKey};

use crate::crypto::{Curve, HashAlgorithm, PublicKey};
use crate::ids::Sha256Digest;

use super::public::{Name, ObjectAttributes, Public, PublicKind, SymmetricScheme};

const AES: u16 = 0x0006;
const CFB: u16 = 0x0043;

/// Why a public area is not accepted as an EK.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EkRefused {
    /// An attribute an EK needs is not set.
    #[error("the key lacks the attribute {0}")]
    Lacks(&'static str),
    /// A key that signs is no EK: what it is asked to sign could be chosen by a stranger.
    #[error("the key has the attribute sign")]
    Signs,
    /// Neither RSA of 2048 to 4096 bits nor P-256, P-384 or P-521.
    #[error("the public area holds no key that credentials can be made for")]
    Key,
    /// The name algorithm is none of SHA-256, SHA-384 and SHA-512.
    #[error("the name algorithm is not one that credentials are made with")]
    NameAlgorithm,
    /// The protection of its children is not AES in CFB mode.
    #[error("the symmetric scheme is not AES-128 or AES-256 in CFB mode")]
    Symmetric,
}

impl EkRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Lacks(_) | Self::Signs => "ek-attributes",
            Self::Key => "ek-key",
            Self::NameAlgorithm => "ek-name-algorithm",
            Self::Symmetric => "ek-symmetric",
        }
    }
}

/// Why no credential was made. None of these is the EK's fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CredentialError {
    /// The secret is empty or longer than a digest of the EK's name algorithm.
    #[error("a secret has 1 to {limit} bytes, not {found}")]
    Secret {
        /// Bytes given.
        found: usize,
        /// The most a TPM takes.
        limit: usize,
    },
    /// The provider refused the key, for example a point that is not on its curve.
    #[error("the cryptographic provider does not work with this EK")]
    Provider,
}

impl CredentialError {
    /// The stable name of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "credential-secret",
            Self::Provider => "ek-unusable",
        }
    }
}

/// An EK whose attributes were checked. Who made its TPM is for its certificate to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EkPublic {
    public: Public,
    key: PublicKey,
    hash: HashAlgorithm,
    aes_bits: u16,
}

impl EkPublic {
    /// Checks attributes and algorithms.
    pub fn new(public: Public) -> Result<Self, EkRefused> {
        check_attributes(public.attributes())?;
        let (key, hash, aes_bits) = check_algorithms(&public)?;
        Ok(Self {
            public,
            key,
            hash,
            aes_bits,
        })
    }

    /// The public area.
    #[must_use]
    pub const fn public(&self) -> &Public {
        &self.public
    }

    /// The key itself, to be compared with the certificate's.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// SHA-256 of the marshalled public area: identifies the node.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.public.digest()
    }
}

fn check_attributes(attributes: ObjectAttributes) -> Result<(), EkRefused> {
    for (bit, name) in [
        (ObjectAttributes::RESTRICTED, "restricted"),
        (ObjectAttributes::DECRYPT, "decrypt"),
        (ObjectAttributes::FIXED_TPM, "fixedTPM"),
        (ObjectAttributes::FIXED_PARENT, "fixedParent"),
        (
            ObjectAttributes::SENSITIVE_DATA_ORIGIN,
            "sensitiveDataOrigin",
        ),
    ] {
        if !attributes.contains(bit) {
            return Err(EkRefused::Lacks(name));
        }
    }
    if attributes.contains(ObjectAttributes::SIGN) {
        return Err(EkRefused::Signs);
    }
    Ok(())
}

fn check_algorithms(public: &Public) -> Result<(PublicKey, HashAlgorithm, u16), EkRefused> {
    let PublicKind::Asymmetric { key, symmetric, .. } = public.kind() else {
        return Err(EkRefused::Key);
    };
    if key
        .rsa_bits()
        .is_some_and(|bits| !(2048..=4096).contains(&bits))
    {
        return Err(EkRefused::Key);
    }
    let hash = match public.name_algorithm() {
        Some(hash @ (HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512)) => {
            hash
        }
        _ => return Err(EkRefused::NameAlgorithm),
    };
    match symmetric {
        Some(SymmetricScheme {
            algorithm: AES,
            key_bits: bits @ (128 | 256),
            mode: CFB,
        }) => Ok((key.clone(), hash, *bits)),
        _ => Err(EkRefused::Symmetric),
    }
}

/// What `TPM2_ActivateCredential` takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credential {
    /// `TPM2B_ID_OBJECT`, length included.
    pub id_object: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`, length included.
    pub encrypted_secret: Vec<u8>,
}

/// Seals `secret` to the TPM that holds `ek`, to be opened beside the object called `name`.
///
/// The caller draws the secret, keeps it, and compares the answer in constant time. What else
/// is random here (seed, padding, ephemeral key) comes from the provider's generator.
pub fn make_credential(
    ek: &EkPublic,
    name: &Name,
    secret: &[u8],
) -> Result<Credential, CredentialError> {
    let limit = ek.hash.digest_len();
    if secret.is_empty() || secret.len() > limit {
        return Err(CredentialError::Secret {
            found: secret.len(),
            limit,
        });
    }
    let (seed, encrypted_secret) = match &ek.key {
        PublicKey::Rsa { .. } => rsa_seed(ek)?,
        PublicKey::Ec { curve, point } => ecc_seed(*curve, point, ek)?,
        PublicKey::Ed25519(_) => return Err(CredentialError::Provider),
    };

    let key = kdfa(ek.hash, &seed, b"STORAGE", name.as_bytes(), ek.aes_bits);
    let mut identity = sized(secret);
    encrypt(&key, &mut identity)?;

    let bits = u16::try_from(limit * 8).unwrap_or(u16::MAX);
    let key = kdfa(ek.hash, &seed, b"INTEGRITY", &[], bits);
    let integrity = mac(ek.hash, &key, &[&identity, name.as_bytes()]);

    let mut id_object = sized(&integrity);
    id_object.extend_from_slice(&identity);
    Ok(Credential {
        id_object: sized(&id_object),
        encrypted_secret: sized(&encrypted_secret),
    })
}

/// A random seed and its OAEP encryption, label `IDENTITY` with its terminating zero.
fn rsa_seed(ek: &EkPublic) -> Result<(Vec<u8>, Vec<u8>), CredentialError> {
    let mut seed = vec![0; ek.hash.digest_len()];
    provider(rand::fill(&mut seed))?;
    let key = PublicEncryptingKey::from_der(&ek.key.to_spki_der());
    let key = key.map_err(|_refused| CredentialError::Provider)?;
    let key = provider(OaepPublicEncryptingKey::new(key))?;
    let algorithm = match ek.hash {
        HashAlgorithm::Sha384 => &rsa::OAEP_SHA384_MGF1SHA384,
        HashAlgorithm::Sha512 => &rsa::OAEP_SHA512_MGF1SHA512,
        _ => &rsa::OAEP_SHA256_MGF1SHA256,
    };
    let mut out = vec![0; key.ciphertext_size()];
    let written = provider(key.encrypt(algorithm, &seed, &mut out, Some(b"IDENTITY\0")))?.len();
    out.truncate(written);
    Ok((seed, out))
}

/// A seed agreed with an ephemeral key, and that key's `TPMS_ECC_POINT`.
fn ecc_seed(
    curve: Curve,
    ek_point: &[u8],
    ek: &EkPublic,
) -> Result<(Vec<u8>, Vec<u8>), CredentialError> {
    let algorithm = match curve {
        Curve::P256 => &agreement::ECDH_P256,
        Curve::P384 => &agreement::ECDH_P384,
        Curve::P521 => &agreement::ECDH_P521,
    };
    let ours = provider(agreement::PrivateKey::generate(algorithm))?;
    let our_point = provider(ours.compute_public_key())?;
    // Coordinates stay at the curve's full width, on the wire and in the derivation: a TPM that
    // pads and a verifier that does not agree 255 times of 256.
    let (x, y) = coordinates(curve, our_point.as_ref())?;
    let (ek_x, _) = coordinates(curve, ek_point)?;
    let peer = agreement::UnparsedPublicKey::new(algorithm, ek_point);
    let seed = agreement::agree(&ours, peer, CredentialError::Provider, |z| {
        Ok(kdfe(ek.hash, z, b"IDENTITY", x, ek_x))
    })?;
    let mut point = sized(x);
    point.extend_from_slice(&sized(y));
    Ok((seed, point))
}

fn coordinates(curve: Curve, point: &[u8]) -> Result<(&[u8], &[u8]), CredentialError> {
    point
        .get(1..)
        .and_then(|both| both.split_at_checked(curve.coordinate_len()))
        .ok_or(CredentialError::Provider)
}

fn provider<T>(result: Result<T, aws_lc_rs::error::Unspecified>) -> Result<T, CredentialError> {
    result.map_err(|_unspecified| CredentialError::Provider)
}

/// KDFa with an empty second context. `bits` is a multiple of 8.
fn kdfa(hash: HashAlgorithm, key: &[u8], label: &[u8], context: &[u8], bits: u16) -> Vec<u8> {
    let wanted = usize::from(bits / 8);
    let mut out = Vec::with_capacity(wanted + hash.digest_len());
    for counter in 1u32.. {
        if out.len() >= wanted {
            break;
        }
        let counter = counter.to_be_bytes();
        let bits = u32::from(bits).to_be_bytes();
        out.extend(mac(hash, key, &[&counter, label, &[0], context, &bits]));
    }
    out.truncate(wanted);
    out
}

/// KDFe for as many bits as the hash has: one round.
fn kdfe(hash: HashAlgorithm, z: &[u8], label: &[u8], party_u: &[u8], party_v: &[u8]) -> Vec<u8> {
    let counter = 1u32.to_be_bytes();
    hash.digest(&[&counter, z, label, &[0], party_u, party_v])
        .map(|digest| digest.as_slice().to_vec())
        .unwrap_or_default()
}

fn mac(hash: HashAlgorithm, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let algorithm = match hash {
        HashAlgorithm::Sha384 => hmac::HMAC_SHA384,
        HashAlgorithm::Sha512 => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let key = hmac::Key::new(algorithm, key);
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        context.update(part);
    }
    context.sign().as_ref().to_vec()
}

/// AES-CFB in place. The vector is zero, as the specification wants: a key is used once.
fn encrypt(key: &[u8], data: &mut [u8]) -> Result<(), CredentialError> {
    let algorithm = if key.len() == 16 {
        &cipher::AES_128
    } else {
        &cipher::AES_256
    };
    let key = provider(UnboundCipherKey::new(algorithm, key))?;
    let key = provider(EncryptingKey::cfb128(key))?;
    let vector = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    provider(key.less_safe_encrypt(data, vector)).map(|_vector| ())
}

/// A `TPM2B`: everything here is far below 64 KiB.
fn sized(content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let mut out = len.to_be_bytes().to_vec();
    out.extend_from_slice(content);
    out
}
