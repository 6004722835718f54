//! Public areas and the names computed from them.

use std::fmt;

use crate::crypto::{Curve, HashAlgorithm, PublicKey};
use crate::error::{Fault, ParseError};
use crate::ids::Sha256Digest;
use crate::reader::Reader;

const TPM_ALG_RSA: u16 = 0x0001;
const TPM_ALG_KEYEDHASH: u16 = 0x0008;
pub(super) const TPM_ALG_NULL: u16 = 0x0010;
const TPM_ALG_ECC: u16 = 0x0023;
const TPM_ALG_SYMCIPHER: u16 = 0x0025;

/// Bytes of the largest modulus, RSA-4096.
const MAX_RSA_KEY_BYTES: u16 = 512;
/// Bytes of the widest coordinate, of P-521.
const MAX_ECC_KEY_BYTES: u16 = 66;
/// Bytes of the longest digest, SHA-512.
pub(super) const MAX_DIGEST_BYTES: u16 = 64;
/// A name is two bytes of algorithm and a digest.
pub(super) const MAX_NAME_BYTES: u16 = 66;

/// `TPMA_OBJECT`: what the TPM will do with an object, and where it came from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ObjectAttributes(pub u32);

impl ObjectAttributes {
    /// Never leaves this TPM in a form another could load.
    pub const FIXED_TPM: Self = Self(1 << 1);
    /// Never gets another parent.
    pub const FIXED_PARENT: Self = Self(1 << 4);
    /// The TPM drew the private part itself.
    pub const SENSITIVE_DATA_ORIGIN: Self = Self(1 << 5);
    /// Signs only what the TPM made (or hashed itself and found harmless).
    pub const RESTRICTED: Self = Self(1 << 16);
    /// May decrypt.
    pub const DECRYPT: Self = Self(1 << 17);
    /// May sign.
    pub const SIGN: Self = Self(1 << 18);

    /// Every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A signing or key-exchange scheme fixed in a public area.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct KeyScheme {
    /// `TPM_ALG_ID` of the scheme: RSASSA `0x14`, RSAPSS `0x16`, ECDSA `0x18`, …
    pub algorithm: u16,
    /// Its hash; `None` for a scheme without one (RSAES) or with one that has no name here.
    pub hash: Option<HashAlgorithm>,
}

/// The symmetric cipher a storage key protects its children with.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SymmetricScheme {
    /// `TPM_ALG_ID` of the cipher, AES is `0x06`.
    pub algorithm: u16,
    /// Key size in bits.
    pub key_bits: u16,
    /// `TPM_ALG_ID` of the mode, CFB is `0x43`.
    pub mode: u16,
}

/// What kind of object a public area describes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PublicKind {
    /// An asymmetric key.
    Asymmetric {
        /// The key.
        key: PublicKey,
        /// `None`: any scheme the caller of the TPM names.
        scheme: Option<KeyScheme>,
        /// `None` for keys that are not storage keys.
        symmetric: Option<SymmetricScheme>,
    },
    /// An elliptic curve this crate does not know, by `TPM_ECC_CURVE`.
    OtherCurve(u16),
    /// A keyed hash or a symmetric key: has a name, signs no quote.
    Symmetric,
}

/// A `TPMT_PUBLIC`, kept as it was marshalled: its name is a hash over exactly these bytes.
///
/// Layout: TPM 2.0 Library r1.59, Part 2, `TPMT_PUBLIC`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Public {
    bytes: Vec<u8>,
    name_algorithm: Option<HashAlgorithm>,
    attributes: ObjectAttributes,
    auth_policy: Vec<u8>,
    kind: PublicKind,
}

impl Public {
    /// Reads one `TPMT_PUBLIC` to its last byte.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("TPMT_PUBLIC", bytes);
        let kind = r.u16("type")?;
        let name_algorithm = hash_or_null(&mut r, "nameAlg")?;
        let attributes = ObjectAttributes(r.u32("objectAttributes")?);
        let auth_policy = r.sized_u16("authPolicy.size", "authPolicy.buffer", MAX_DIGEST_BYTES)?;
        let kind = match kind {
            TPM_ALG_RSA => rsa(&mut r)?,
            TPM_ALG_ECC => ecc(&mut r)?,
            TPM_ALG_KEYEDHASH => keyed_hash(&mut r)?,
            TPM_ALG_SYMCIPHER => symmetric_cipher(&mut r)?,
            found => {
                let fault = Fault::Unsupported {
                    found: found.into(),
                };
                return Err(r.fault_at("type", 0, fault));
            }
        };
        r.finish()?;
        Ok(Self {
            bytes: bytes.to_vec(),
            name_algorithm,
            attributes,
            auth_policy: auth_policy.to_vec(),
            kind,
        })
    }

    /// Reads a `TPM2B_PUBLIC`: two bytes of length, then a `TPMT_PUBLIC` and nothing else.
    pub fn parse_sized(bytes: &[u8]) -> Result<Self, ParseError> {
        Self::parse(sized(bytes, "TPM2B_PUBLIC")?)
    }

    /// Reads either form. A `TPMT_PUBLIC` begins with its type, which is never its own length:
    /// the shortest asymmetric public area is longer than `TPM_ALG_ECC`, 35.
    pub fn parse_either(bytes: &[u8]) -> Result<Self, ParseError> {
        match bytes
            .first_chunk::<2>()
            .map(|head| u16::from_be_bytes(*head))
        {
            Some(TPM_ALG_RSA | TPM_ALG_ECC | TPM_ALG_KEYEDHASH | TPM_ALG_SYMCIPHER) => {
                Self::parse(bytes)
            }
            _ => Self::parse_sized(bytes),
        }
    }

    /// The bytes it was read from.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 over the marshalled public area: for an EK, what identifies the node.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.bytes])
    }

    /// The hash its name is made with; `None` for an object without a name.
    #[must_use]
    pub const fn name_algorithm(&self) -> Option<HashAlgorithm> {
        self.name_algorithm
    }

    /// What the TPM will do with the object.
    #[must_use]
    pub const fn attributes(&self) -> ObjectAttributes {
        self.attributes
    }

    /// Digest of the policy that authorizes its use; empty for none.
    #[must_use]
    pub fn auth_policy(&self) -> &[u8] {
        &self.auth_policy
    }

    /// The kind of object, and its key.
    #[must_use]
    pub const fn kind(&self) -> &PublicKind {
        &self.kind
    }

    /// The key, where there is one that can be used.
    #[must_use]
    pub const fn key(&self) -> Option<&PublicKey> {
        match &self.kind {
            PublicKind::Asymmetric { key, .. } => Some(key),
            PublicKind::OtherCurve(_) | PublicKind::Symmetric => None,
        }
    }

    /// `nameAlg ‖ H(TPMT_PUBLIC)`; `None` where `nameAlg` is null or cannot be computed.
    #[must_use]
    pub fn name(&self) -> Option<Name> {
        let algorithm = self.name_algorithm?;
        let digest = algorithm.digest(&[&self.bytes])?;
        let mut name = algorithm.tpm_id().to_be_bytes().to_vec();
        name.extend_from_slice(digest.as_slice());
        Some(Name(name))
    }
}

/// `TPM2B_NAME` without its length: what a TPM calls an object, `nameAlg ‖ digest`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(Vec<u8>);

impl Name {
    /// Reads a name: a known algorithm and a digest of its length.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("TPM2B_NAME", bytes);
        let algorithm = hash(&mut r, "nameAlg")?;
        r.take("digest", algorithm.digest_len())?;
        r.finish()?;
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What follows a `TPM2B` length that must cover the rest exactly.
pub(super) fn sized<'a>(bytes: &'a [u8], structure: &'static str) -> Result<&'a [u8], ParseError> {
    let mut r = Reader::new(structure, bytes);
    let content = r.sized_u16("size", "buffer", u16::MAX)?;
    r.finish()?;
    Ok(content)
}

/// A `TPMI_ALG_HASH` that has to be known.
pub(super) fn hash(r: &mut Reader<'_>, field: &'static str) -> Result<HashAlgorithm, ParseError> {
    let offset = r.offset();
    let id = r.u16(field)?;
    HashAlgorithm::from_tpm_id(id)
        .ok_or_else(|| r.fault_at(field, offset, Fault::Unsupported { found: id.into() }))
}

fn hash_or_null(
    r: &mut Reader<'_>,
    field: &'static str,
) -> Result<Option<HashAlgorithm>, ParseError> {
    let offset = r.offset();
    match r.u16(field)? {
        TPM_ALG_NULL => Ok(None),
        id => HashAlgorithm::from_tpm_id(id)
            .map(Some)
            .ok_or_else(|| r.fault_at(field, offset, Fault::Unsupported { found: id.into() })),
    }
}

/// `TPMT_SYM_DEF_OBJECT`.
fn symmetric(r: &mut Reader<'_>) -> Result<Option<SymmetricScheme>, ParseError> {
    let algorithm = r.u16("parameters.symmetric.algorithm")?;
    if algorithm == TPM_ALG_NULL {
        return Ok(None);
    }
    Ok(Some(SymmetricScheme {
        algorithm,
        key_bits: r.u16("parameters.symmetric.keyBits")?,
        mode: r.u16("parameters.symmetric.mode")?,
    }))
}

/// `TPMT_RSA_SCHEME`, `TPMT_ECC_SCHEME`: the details are as long as the scheme says.
fn scheme(r: &mut Reader<'_>, known: &[u16]) -> Result<Option<KeyScheme>, ParseError> {
    const RSAES: u16 = 0x0015;
    const ECDAA: u16 = 0x001a;
    let offset = r.offset();
    let algorithm = r.u16("parameters.scheme.scheme")?;
    if algorithm == TPM_ALG_NULL {
        return Ok(None);
    }
    if !known.contains(&algorithm) {
        let fault = Fault::Unsupported {
            found: algorithm.into(),
        };
        return Err(r.fault_at("parameters.scheme.scheme", offset, fault));
    }
    if algorithm == RSAES {
        return Ok(Some(KeyScheme {
            algorithm,
            hash: None,
        }));
    }
    let hash = HashAlgorithm::from_tpm_id(r.u16("parameters.scheme.details.hashAlg")?);
    if algorithm == ECDAA {
        r.u16("parameters.scheme.details.count")?;
    }
    Ok(Some(KeyScheme { algorithm, hash }))
}

fn rsa(r: &mut Reader<'_>) -> Result<PublicKind, ParseError> {
    // RSASSA, RSAES, RSAPSS, OAEP
    const SCHEMES: [u16; 4] = [0x0014, 0x0015, 0x0016, 0x0017];
    let symmetric = symmetric(r)?;
    let scheme = scheme(r, &SCHEMES)?;
    let bits_at = r.offset();
    let key_bits = r.u16("parameters.keyBits")?;
    // Zero stands for the default.
    let exponent = match r.u32("parameters.exponent")? {
        0 => 65537,
        other => other,
    };
    let modulus = r.sized_u16("unique.rsa.size", "unique.rsa.buffer", MAX_RSA_KEY_BYTES)?;
    let key = PublicKey::rsa(modulus, &exponent.to_be_bytes());
    let found = key.rsa_bits().unwrap_or_default();
    if found != usize::from(key_bits) {
        let fault = Fault::Rule("is not the size of the modulus");
        return Err(r.fault_at("parameters.keyBits", bits_at, fault));
    }
    Ok(PublicKind::Asymmetric {
        key,
        scheme,
        symmetric,
    })
}

fn ecc(r: &mut Reader<'_>) -> Result<PublicKind, ParseError> {
    // ECDSA, ECDH, ECDAA, SM2, ECSCHNORR, ECMQV
    const SCHEMES: [u16; 6] = [0x0018, 0x0019, 0x001a, 0x001b, 0x001c, 0x001d];
    let symmetric = symmetric(r)?;
    let scheme = scheme(r, &SCHEMES)?;
    let curve_id = r.u16("parameters.curveID")?;
    if r.u16("parameters.kdf.scheme")? != TPM_ALG_NULL {
        r.u16("parameters.kdf.details.hashAlg")?;
    }
    let unique_at = r.offset();
    let x = r.sized_u16(
        "unique.ecc.x.size",
        "unique.ecc.x.buffer",
        MAX_ECC_KEY_BYTES,
    )?;
    let y = r.sized_u16(
        "unique.ecc.y.size",
        "unique.ecc.y.buffer",
        MAX_ECC_KEY_BYTES,
    )?;
    let Some(curve) = Curve::from_tpm_id(curve_id) else {
        return Ok(PublicKind::OtherCurve(curve_id));
    };
    let Some(key) = PublicKey::ec_from_coordinates(curve, x, y) else {
        let fault = Fault::Rule("has a coordinate wider than the curve");
        return Err(r.fault_at("unique.ecc", unique_at, fault));
    };
    Ok(PublicKind::Asymmetric {
        key,
        scheme,
        symmetric,
    })
}

fn keyed_hash(r: &mut Reader<'_>) -> Result<PublicKind, ParseError> {
    const HMAC: u16 = 0x0005;
    const XOR: u16 = 0x000a;
    let offset = r.offset();
    match r.u16("parameters.scheme.scheme")? {
        TPM_ALG_NULL => {}
        HMAC => {
            r.u16("parameters.scheme.details.hashAlg")?;
        }
        XOR => {
            r.u16("parameters.scheme.details.hashAlg")?;
            r.u16("parameters.scheme.details.kdf")?;
        }
        found => {
            let fault = Fault::Unsupported {
                found: found.into(),
            };
            return Err(r.fault_at("parameters.scheme.scheme", offset, fault));
        }
    }
    r.sized_u16("unique.size", "unique.buffer", MAX_DIGEST_BYTES)?;
    Ok(PublicKind::Symmetric)
}

fn symmetric_cipher(r: &mut Reader<'_>) -> Result<PublicKind, ParseError> {
    symmetric(r)?;
    r.sized_u16("unique.size", "unique.buffer", MAX_DIGEST_BYTES)?;
    Ok(PublicKind::Symmetric)
}
