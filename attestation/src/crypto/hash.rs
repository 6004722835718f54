//! Hash algorithms by the identifier the TPM gives them.

use std::fmt;

use arrayvec::ArrayVec;
use aws_lc_rs::digest;

use super::sm3;

/// A hash algorithm, `TPM_ALG_ID` of the TCG Algorithm Registry r1.34.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum HashAlgorithm {
    /// `TPM_ALG_SHA1`: read and replayed, never accepted under a signature.
    Sha1,
    /// `TPM_ALG_SHA256`
    Sha256,
    /// `TPM_ALG_SHA384`
    Sha384,
    /// `TPM_ALG_SHA512`
    Sha512,
    /// `TPM_ALG_SM3_256`: PCR banks of this kind are replayed, and nothing else is hashed with it.
    Sm3_256,
    /// `TPM_ALG_SHA3_256`
    Sha3_256,
    /// `TPM_ALG_SHA3_384`
    Sha3_384,
    /// `TPM_ALG_SHA3_512`
    Sha3_512,
}

impl HashAlgorithm {
    /// Every algorithm that can be named.
    pub const ALL: [Self; 8] = [
        Self::Sha1,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Sm3_256,
        Self::Sha3_256,
        Self::Sha3_384,
        Self::Sha3_512,
    ];

    /// `TPM_ALG_ID`.
    #[must_use]
    pub const fn tpm_id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
            Self::Sm3_256 => 0x0012,
            Self::Sha3_256 => 0x0027,
            Self::Sha3_384 => 0x0028,
            Self::Sha3_512 => 0x0029,
        }
    }

    /// The algorithm with this `TPM_ALG_ID`.
    #[must_use]
    pub fn from_tpm_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.tpm_id() == id)
    }

    /// The name `tpm2-tools` and our own files use: `sha256`, `sha3_256`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sm3_256 => "sm3_256",
            Self::Sha3_256 => "sha3_256",
            Self::Sha3_384 => "sha3_384",
            Self::Sha3_512 => "sha3_512",
        }
    }

    /// The algorithm of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.name() == name)
    }

    /// One of the SHA-2 family, which every TPM and every tool has.
    #[must_use]
    pub const fn is_sha2(self) -> bool {
        matches!(self, Self::Sha256 | Self::Sha384 | Self::Sha512)
    }

    /// Bytes in a digest.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sm3_256 | Self::Sha3_256 => 32,
            Self::Sha384 | Self::Sha3_384 => 48,
            Self::Sha512 | Self::Sha3_512 => 64,
        }
    }

    /// Hashes the parts as if they were one; `None` for what this build cannot compute, which is
    /// nothing at present.
    #[must_use]
    pub fn digest(self, parts: &[&[u8]]) -> Option<Digest> {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
            Self::Sm3_256 => return Digest::from_slice(&sm3::digest(parts)),
            Self::Sha3_256 => &digest::SHA3_256,
            Self::Sha3_384 => &digest::SHA3_384,
            Self::Sha3_512 => &digest::SHA3_512,
        };
        let hash = match parts {
            [whole] => digest::digest(algorithm, whole),
            parts => joined(parts).map_or_else(
                || {
                    let mut context = digest::Context::new(algorithm);
                    for part in parts {
                        context.update(part);
                    }
                    context.finish()
                },
                |short| digest::digest(algorithm, &short),
            ),
        };
        Digest::from_slice(hash.as_ref())
    }
}

impl HashAlgorithm {
    /// What a register holds after it was extended: `H(value ‖ extension)`, in place. `None`, and
    /// nothing changed, for what this build cannot compute.
    pub fn extend(self, value: &mut Digest, extension: &[u8]) -> Option<()> {
        let mut both = [0; SHORT];
        let (old, len) = (value.as_slice(), self.digest_len());
        let end = old.len().checked_add(extension.len())?;
        let short = both.get_mut(..end).filter(|_| old.len() == len);
        match (self, short) {
            (Self::Sha256, Some(short)) => {
                let (before, after) = short.split_at_mut(len);
                before.copy_from_slice(old);
                after.copy_from_slice(extension);
                let hash = digest::digest(&digest::SHA256, short);
                value.0.copy_from_slice(hash.as_ref());
            }
            _ => *value = self.digest(&[old, extension])?,
        }
        Some(())
    }
}

/// Two of the longest digests: what a register is extended with. Hashing in one go is half the
/// work of hashing part by part for so few bytes.
const SHORT: usize = 128;

fn joined(parts: &[&[u8]]) -> Option<ArrayVec<u8, SHORT>> {
    let mut all = ArrayVec::new();
    for part in parts {
        all.try_extend_from_slice(part).ok()?;
    }
    Some(all)
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The output of a hash, 0 to 64 bytes. Lower-case hex in text.
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Digest(ArrayVec<u8, 64>);

impl Digest {
    /// The bytes as a digest, or `None` where there are more than 64.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        ArrayVec::try_from(bytes).ok().map(Self)
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 128];
        let length = self.0.len().saturating_mul(2);
        let text = text.get_mut(..length).ok_or(fmt::Error)?;
        hex::encode_to_slice(&self.0, text).map_err(|_length| fmt::Error)?;
        f.write_str(str::from_utf8(text).map_err(|_not_text| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
