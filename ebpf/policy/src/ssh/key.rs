//! Public keys that may approve, and what each kind's signature covers.

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use bailiwick_attestation::{Fault, ParseError, Reader};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::{SignatureFault, mpint, string, text};

/// A public key as OpenSSH writes it: RFC 4253 §6.6, RFC 5656, RFC 8709, PROTOCOL.u2f.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey {
    blob: Vec<u8>,
    material: Material,
}

/// What is inside.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Material {
    Ed25519 {
        point: Vec<u8>,
        application: Option<String>,
    },
    P256 {
        point: Vec<u8>,
        application: Option<String>,
    },
    P384 {
        point: Vec<u8>,
    },
    Rsa {
        exponent: Vec<u8>,
        modulus: Vec<u8>,
    },
}

/// Why a key cannot approve.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyFault {
    /// The bytes are no key.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// A kind that is not used here.
    #[error(
        "{0:?} keys cannot approve: use ssh-ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, \
         ssh-rsa of 2048 bits or more, sk-ssh-ed25519@openssh.com or \
         sk-ecdsa-sha2-nistp256@openssh.com"
    )]
    Kind(String),
    /// An RSA key that is too small to trust or too large to be meant.
    #[error("an RSA key of {0} bits; 2048 to 8192 are accepted")]
    RsaSize(usize),
}

/// Bits that a number of big-endian bytes without leading zeros has.
fn bits(number: &[u8]) -> usize {
    let top: usize = number
        .first()
        .map_or(0, |first| first.leading_zeros())
        .try_into()
        .unwrap_or(0);
    number.len().saturating_mul(8).saturating_sub(top)
}

impl PublicKey {
    /// Reads one key blob to its last byte. Every key has one spelling here.
    pub fn parse(blob: &[u8]) -> Result<Self, KeyFault> {
        let mut r = Reader::new("ssh public key", blob);
        let kind = text(&mut r, "type")?;
        let material = match kind {
            "ssh-ed25519" => Material::Ed25519 {
                point: ed25519(&mut r)?,
                application: None,
            },
            "sk-ssh-ed25519@openssh.com" => Material::Ed25519 {
                point: ed25519(&mut r)?,
                application: Some(text(&mut r, "application")?.to_owned()),
            },
            "ecdsa-sha2-nistp256" => Material::P256 {
                point: point(&mut r, "nistp256", 32)?,
                application: None,
            },
            "sk-ecdsa-sha2-nistp256@openssh.com" => Material::P256 {
                point: point(&mut r, "nistp256", 32)?,
                application: Some(text(&mut r, "application")?.to_owned()),
            },
            "ecdsa-sha2-nistp384" => Material::P384 {
                point: point(&mut r, "nistp384", 48)?,
            },
            "ssh-rsa" => {
                let exponent = mpint(&mut r, "e")?.to_vec();
                let modulus = mpint(&mut r, "n")?.to_vec();
                if !(2048..=8192).contains(&bits(&modulus)) {
                    return Err(KeyFault::RsaSize(bits(&modulus)));
                }
                Material::Rsa { exponent, modulus }
            }
            other => return Err(KeyFault::Kind(other.chars().take(80).collect())),
        };
        r.finish()?;
        Ok(Self {
            blob: blob.to_vec(),
            material,
        })
    }

    /// The words before the base64 in an `allowed_signers` line.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.material {
            Material::Ed25519 {
                application: None, ..
            } => "ssh-ed25519",
            Material::Ed25519 { .. } => "sk-ssh-ed25519@openssh.com",
            Material::P256 {
                application: None, ..
            } => "ecdsa-sha2-nistp256",
            Material::P256 { .. } => "sk-ecdsa-sha2-nistp256@openssh.com",
            Material::P384 { .. } => "ecdsa-sha2-nistp384",
            Material::Rsa { .. } => "ssh-rsa",
        }
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = digest::digest(&SHA256, &self.blob);
        format!("SHA256:{}", STANDARD_NO_PAD.encode(digest))
    }

    /// Whether whoever holds the one private key holds the other: the same point or modulus,
    /// under whatever type, application or exponent.
    #[must_use]
    pub fn same_holder(&self, other: &Self) -> bool {
        match (&self.material, &other.material) {
            (Material::Ed25519 { point: a, .. }, Material::Ed25519 { point: b, .. })
            | (Material::P256 { point: a, .. }, Material::P256 { point: b, .. })
            | (Material::P384 { point: a }, Material::P384 { point: b })
            | (Material::Rsa { modulus: a, .. }, Material::Rsa { modulus: b, .. }) => a == b,
            _ => false,
        }
    }

    /// Checks the innermost signature: `signature` is the `string signature` of SSHSIG, `message`
    /// what it is said to cover.
    pub(super) fn verify(&self, signature: &[u8], message: &[u8]) -> Result<(), SignatureFault> {
        let mut r = Reader::new("ssh signature", signature);
        let algorithm = text(&mut r, "algorithm")?;
        let blob = string(&mut r, "blob")?;
        let other = || SignatureFault::Algorithm {
            found: algorithm.chars().take(80).collect(),
            key: self.kind(),
        };
        if !matches!(self.material, Material::Rsa { .. }) && algorithm != self.kind() {
            return Err(other());
        }
        let message = match &self.material {
            Material::Ed25519 {
                application: Some(application),
                ..
            }
            | Material::P256 {
                application: Some(application),
                ..
            } => {
                let flags = r.u8("flags")?;
                let counter = r.u32("counter")?;
                // PROTOCOL.u2f: bit 0, user presence. A signature nobody touched the key for
                // could be made by whoever sits in the machine it is plugged into.
                if flags & 1 == 0 {
                    return Err(SignatureFault::NobodyPresent);
                }
                let mut covered = digest::digest(&SHA256, application.as_bytes())
                    .as_ref()
                    .to_vec();
                covered.push(flags);
                covered.extend(counter.to_be_bytes());
                covered.extend(digest::digest(&SHA256, message).as_ref());
                covered
            }
            _ => message.to_vec(),
        };
        r.finish()?;
        match &self.material {
            Material::Ed25519 { point, .. } => check(&ED25519, point, &message, blob),
            Material::P256 { point, .. } => {
                check(&ECDSA_P256_SHA256_FIXED, point, &message, &fixed(blob, 32)?)
            }
            Material::P384 { point } => {
                check(&ECDSA_P384_SHA384_FIXED, point, &message, &fixed(blob, 48)?)
            }
            Material::Rsa { exponent, modulus } => {
                let parameters = match algorithm {
                    "rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
                    "rsa-sha2-512" => &RSA_PKCS1_2048_8192_SHA512,
                    _ => return Err(other()),
                };
                // RFC 8332 says as long as the modulus; OpenSSH strips leading zeros.
                let signature = padded(blob, modulus.len()).ok_or(SignatureFault::DoesNotVerify)?;
                let key = RsaPublicKeyComponents {
                    n: modulus,
                    e: exponent,
                };
                key.verify(parameters, &message, &signature)
                    .map_err(|_err| SignatureFault::DoesNotVerify)
            }
        }
    }
}

fn check(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureFault> {
    UnparsedPublicKey::new(algorithm, key)
        .verify(message, signature)
        .map_err(|_err| SignatureFault::DoesNotVerify)
}

fn ed25519(r: &mut Reader<'_>) -> Result<Vec<u8>, ParseError> {
    let offset = r.offset();
    let point = string(r, "pk")?;
    if point.len() != 32 {
        return Err(r.fault_at("pk", offset, Fault::Rule("is not 32 bytes")));
    }
    Ok(point.to_vec())
}

/// An uncompressed point: 4, x, y. SEC 1 §2.3.3; OpenSSH writes no other form.
fn point(r: &mut Reader<'_>, curve: &str, size: usize) -> Result<Vec<u8>, ParseError> {
    let offset = r.offset();
    if text(r, "curve")? != curve {
        return Err(r.fault_at("curve", offset, Fault::Rule("is not the type's curve")));
    }
    let offset = r.offset();
    let point = string(r, "Q")?;
    let len = size.saturating_mul(2).saturating_add(1);
    if point.len() != len || point.first() != Some(&4) {
        return Err(r.fault_at("Q", offset, Fault::Rule("is no uncompressed point")));
    }
    Ok(point.to_vec())
}

/// `mpint r`, `mpint s` as two numbers of `size` bytes. RFC 5656 §3.1.2.
pub(super) fn fixed(blob: &[u8], size: usize) -> Result<Vec<u8>, SignatureFault> {
    let mut r = Reader::new("ssh ECDSA signature", blob);
    let first = mpint(&mut r, "r")?;
    let second = mpint(&mut r, "s")?;
    r.finish()?;
    let mut out = padded(first, size).ok_or(SignatureFault::DoesNotVerify)?;
    out.extend(padded(second, size).ok_or(SignatureFault::DoesNotVerify)?);
    Ok(out)
}

/// Zeros in front up to `size` bytes; `None` where it is longer already.
pub(super) fn padded(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; size.checked_sub(number.len())?];
    out.extend(number);
    Some(out)
}
