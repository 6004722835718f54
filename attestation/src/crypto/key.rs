//! Public keys, from `SubjectPublicKeyInfo` and back.

use const_oid::ObjectIdentifier;
use der::asn1::{AnyRef, BitStringRef, UintRef};
use der::{Decode, Encode, Sequence};
use x509_cert::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use crate::error::ParseError;

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSAES_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// A curve of NIST's, with a fixed width for coordinates.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Curve {
    /// secp256r1
    P256,
    /// secp384r1
    P384,
    /// secp521r1
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// Bytes of one coordinate. Shorter ones are padded on the left, longer ones refused.
    #[must_use]
    pub const fn coordinate_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// `TPM_ECC_CURVE`.
    #[must_use]
    pub const fn tpm_id(self) -> u16 {
        match self {
            Self::P256 => 3,
            Self::P384 => 4,
            Self::P521 => 5,
        }
    }

    /// The curve with this `TPM_ECC_CURVE`.
    #[must_use]
    pub fn from_tpm_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| curve.tpm_id() == id)
    }

    /// `p-256`, `p-384`, `p-521`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "p-256",
            Self::P384 => "p-384",
            Self::P521 => "p-521",
        }
    }

    const fn oid(self) -> ObjectIdentifier {
        match self {
            Self::P256 => ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"),
            Self::P384 => ObjectIdentifier::new_unwrap("1.3.132.0.34"),
            Self::P521 => ObjectIdentifier::new_unwrap("1.3.132.0.35"),
        }
    }
}

/// A public key that can be compared; whether it lies on its curve is found out when it is used.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PublicKey {
    /// RSA.
    Rsa {
        /// Big-endian, without leading zeros.
        modulus: Vec<u8>,
        /// Big-endian, without leading zeros.
        exponent: Vec<u8>,
    },
    /// A point of an elliptic curve.
    Ec {
        /// The curve.
        curve: Curve,
        /// `04 ‖ x ‖ y`, coordinates at full width.
        point: Vec<u8>,
    },
    /// RFC 8032.
    Ed25519([u8; 32]),
}

/// Why bytes are not a public key that can be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// Not a `SubjectPublicKeyInfo`.
    #[error("malformed public key")]
    Malformed(#[source] ParseError),
    /// RSAES-OAEP: a key of the TPM 1.2 era that can answer no TPM 2.0 challenge.
    #[error("RSAES-OAEP keys belong to TPM 1.2 and are not accepted")]
    RsaesOaep,
    /// An algorithm or curve that is not supported, as dotted object identifier.
    #[error("public keys of kind {0} are not supported")]
    Unsupported(String),
}

impl KeyError {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::RsaesOaep => "rsaes-oaep-key",
            Self::Unsupported(_) => "unsupported-key",
        }
    }
}

#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

impl PublicKey {
    /// Reads one DER `SubjectPublicKeyInfo` to its last byte.
    pub fn from_spki_der(bytes: &[u8]) -> Result<Self, KeyError> {
        let spki = SubjectPublicKeyInfoRef::from_der(bytes).map_err(|e| malformed("der", &e))?;
        Self::from_spki(&spki)
    }

    /// Reads a `SubjectPublicKeyInfo` that has been taken apart.
    pub(crate) fn from_spki(spki: &SubjectPublicKeyInfoRef<'_>) -> Result<Self, KeyError> {
        let Some(key) = spki.subject_public_key.as_bytes() else {
            return Err(rule("subjectPublicKey", "is not a whole number of bytes"));
        };
        match spki.algorithm.oid {
            RSA_ENCRYPTION => {
                let rsa = RsaPublicKey::from_der(key).map_err(|e| malformed("RSAPublicKey", &e))?;
                Ok(Self::Rsa {
                    modulus: rsa.modulus.as_bytes().to_vec(),
                    exponent: rsa.exponent.as_bytes().to_vec(),
                })
            }
            EC_PUBLIC_KEY => {
                let named = spki
                    .algorithm
                    .parameters
                    .and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok())
                    .ok_or_else(|| rule("parameters", "name no curve"))?;
                let curve = Curve::ALL
                    .into_iter()
                    .find(|curve| curve.oid() == named)
                    .ok_or_else(|| KeyError::Unsupported(named.to_string()))?;
                if key.first() != Some(&4) || key.len() != 1 + 2 * curve.coordinate_len() {
                    return Err(rule("subjectPublicKey", "is not an uncompressed point"));
                }
                Ok(Self::Ec {
                    curve,
                    point: key.to_vec(),
                })
            }
            ED25519 => match key.try_into() {
                Ok(key) => Ok(Self::Ed25519(key)),
                Err(_) => Err(rule("subjectPublicKey", "is not 32 bytes")),
            },
            RSAES_OAEP => Err(KeyError::RsaesOaep),
            other => Err(KeyError::Unsupported(other.to_string())),
        }
    }

    /// A point from coordinates of any width up to the curve's; `None` where one is wider.
    #[must_use]
    pub fn ec_from_coordinates(curve: Curve, x: &[u8], y: &[u8]) -> Option<Self> {
        let width = curve.coordinate_len();
        let mut point = Vec::with_capacity(1 + 2 * width);
        point.push(4);
        for coordinate in [x, y] {
            let padding = width.checked_sub(coordinate.len())?;
            point.resize(point.len() + padding, 0);
            point.extend_from_slice(coordinate);
        }
        Some(Self::Ec { curve, point })
    }

    /// RSA from modulus and exponent, leading zeros dropped.
    #[must_use]
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Self {
        Self::Rsa {
            modulus: trimmed(modulus).to_vec(),
            exponent: trimmed(exponent).to_vec(),
        }
    }

    /// The two coordinates of a point.
    #[must_use]
    pub fn coordinates(&self) -> Option<(&[u8], &[u8])> {
        let Self::Ec { curve, point } = self else {
            return None;
        };
        point.get(1..)?.split_at_checked(curve.coordinate_len())
    }

    /// `rsa-2048`, `p-256`, `ed25519`.
    #[must_use]
    pub fn kind(&self) -> String {
        match self {
            Self::Rsa { modulus, .. } => format!("rsa-{}", bits(modulus)),
            Self::Ec { curve, .. } => curve.name().to_owned(),
            Self::Ed25519(_) => "ed25519".to_owned(),
        }
    }

    /// Size of an RSA modulus in bits, `None` for other keys.
    #[must_use]
    pub fn rsa_bits(&self) -> Option<usize> {
        match self {
            Self::Rsa { modulus, .. } => Some(bits(modulus)),
            Self::Ec { .. } | Self::Ed25519(_) => None,
        }
    }

    /// `subjectPublicKey` without the byte that counts unused bits: what identifiers of keys are
    /// hashes of.
    #[must_use]
    pub fn bits(&self) -> Vec<u8> {
        match self {
            Self::Rsa { modulus, exponent } => rsa_public_key_der(modulus, exponent),
            Self::Ec { point, .. } => point.clone(),
            Self::Ed25519(key) => key.to_vec(),
        }
    }

    /// DER `SubjectPublicKeyInfo`, what a certificate or a TLS stack wants.
    #[must_use]
    pub fn to_spki_der(&self) -> Vec<u8> {
        let (oid, curve) = match self {
            Self::Rsa { .. } => (RSA_ENCRYPTION, None),
            Self::Ec { curve, .. } => (EC_PUBLIC_KEY, Some(curve.oid())),
            Self::Ed25519(_) => (ED25519, None),
        };
        let key = self.bits();
        let parameters = match (&curve, self) {
            (Some(curve), _) => Some(AnyRef::from(curve)),
            (None, Self::Rsa { .. }) => Some(AnyRef::NULL),
            (None, _) => None,
        };
        let encode = || -> der::Result<Vec<u8>> {
            SubjectPublicKeyInfoRef {
                algorithm: AlgorithmIdentifierRef { oid, parameters },
                subject_public_key: BitStringRef::from_bytes(&key)?,
            }
            .to_der()
        };
        encode().expect("keys read from bounded structures are short enough for DER")
    }
}

fn rsa_public_key_der(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let encode = || -> der::Result<Vec<u8>> {
        RsaPublicKey {
            modulus: UintRef::new(modulus)?,
            exponent: UintRef::new(exponent)?,
        }
        .to_der()
    };
    encode().expect("keys read from bounded structures are short enough for DER")
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

fn bits(modulus: &[u8]) -> usize {
    let zeros = modulus.first().map_or(0, |byte| byte.leading_zeros());
    let zeros = usize::try_from(zeros).unwrap_or_default();
    (modulus.len() * 8).saturating_sub(zeros)
}

fn malformed(field: &'static str, error: &der::Error) -> KeyError {
    KeyError::Malformed(ParseError::from_der("SubjectPublicKeyInfo", field, error))
}

fn rule(field: &'static str, rule: &'static str) -> KeyError {
    KeyError::Malformed(ParseError {
        structure: "SubjectPublicKeyInfo",
        field,
        offset: 0,
        fault: crate::error::Fault::Rule(rule),
    })
}
