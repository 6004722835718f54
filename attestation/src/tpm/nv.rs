//! `TPM2_NV_Certify`: the AK's word on what stands in an area of its TPM's memory, and on who may
//! still write there.

use std::fmt;

use crate::crypto::{HashAlgorithm, VerifyError};
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

use super::ak::AkPublic;
use super::attest::{Attest, AttestKind, Attested, QualifyingData};
use super::public::{MAX_DIGEST_BYTES, hash};
use super::signature::Signature;

/// `TPM_HT_NV_INDEX`, the first byte of every NV index's handle.
const NV_INDEX: u32 = 0x01;

/// `TPMA_NV`.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct NvAttributes(pub u32);

impl NvAttributes {
    /// Nobody may write; with [`Self::WRITE_DEFINE`] until the index is deleted.
    pub const WRITE_LOCKED: Self = Self(1 << 11);
    /// Once locked, locked for good.
    pub const WRITE_DEFINE: Self = Self(1 << 13);
    /// Written at least once.
    pub const WRITTEN: Self = Self(1 << 29);
    /// The next restart takes [`Self::WRITTEN`] away.
    pub const CLEAR_STCLEAR: Self = Self(1 << 27);
    /// `TPM_NT`: counters, bit fields, extend and PIN indices have a number here.
    pub const TYPE: Self = Self(0xf << 4);

    /// Every bit of `bits` is set.
    #[must_use]
    pub const fn contains(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// Some bit of `bits` is set.
    #[must_use]
    pub const fn any(self, bits: Self) -> bool {
        self.0 & bits.0 != 0
    }
}

impl fmt::Debug for NvAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TPMA_NV({:#010x})", self.0)
    }
}

/// What defines an NV index, and what has become of it: its name is a hash over this.
///
/// Layout: TPM 2.0 Library r1.59, Part 2, `TPMS_NV_PUBLIC`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NvPublic<'a> {
    bytes: &'a [u8],
    /// Handle.
    pub index: u32,
    /// `nameAlg`.
    pub name_algorithm: HashAlgorithm,
    /// How it may be used, and whether it is written and locked.
    pub attributes: NvAttributes,
    /// Bytes of its data area.
    pub data_size: u16,
}

impl<'a> NvPublic<'a> {
    /// Reads one marshalled `TPMS_NV_PUBLIC` to its last byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("TPMS_NV_PUBLIC", bytes);
        let index = r.u32("nvIndex")?;
        if index >> 24 != NV_INDEX {
            let fault = Fault::Rule("is not the handle of an NV index");
            return Err(r.fault_at("nvIndex", 0, fault));
        }
        let name_algorithm = hash(&mut r, "nameAlg")?;
        let attributes = NvAttributes(r.u32("attributes")?);
        r.sized_u16("authPolicy.size", "authPolicy.buffer", MAX_DIGEST_BYTES)?;
        let data_size = r.u16("dataSize")?;
        r.finish()?;
        Ok(Self {
            bytes,
            index,
            name_algorithm,
            attributes,
            data_size,
        })
    }

    /// What the TPM calls it: `nameAlg ‖ H(TPMS_NV_PUBLIC)`; `None` for a hash that is not
    /// computed here.
    #[must_use]
    pub fn name(&self) -> Option<Vec<u8>> {
        let digest = self.name_algorithm.digest(&[self.bytes])?;
        let mut name = self.name_algorithm.tpm_id().to_be_bytes().to_vec();
        name.extend(digest.as_slice());
        Some(name)
    }
}

/// Why a certified area was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NvRefused {
    /// The bytes are not a `TPMS_NV_PUBLIC`, a `TPMS_ATTEST` or a `TPMT_SIGNATURE`.
    #[error("malformed certification of an NV index")]
    Malformed(#[source] ParseError),
    /// Scheme or hash is not the one the AK is fixed to.
    #[error("the signature's scheme or hash is not the AK's")]
    Scheme,
    /// The signature is not the AK's over these bytes, or could not be checked.
    #[error("signature not accepted under the AK")]
    Signature(#[source] VerifyError),
    /// An attestation of another type, however well signed.
    #[error("the TPM attested a {}, not an NV index", .0.name())]
    Type(AttestKind),
    /// Made for another statement or another challenge.
    #[error("the certification answers another question")]
    QualifyingData,
    /// Another index was certified, or this one with other attributes.
    #[error("another NV index was certified than the one presented")]
    Name,
    /// Not the index that was asked for.
    #[error("NV index {found:#010x}, not {want:#010x}")]
    Index {
        /// As presented.
        found: u32,
        /// As asked for.
        want: u32,
    },
    /// A part of the area, or more than it has.
    #[error("{found} bytes from {offset} of an area of {size}")]
    Part {
        /// Bytes certified.
        found: usize,
        /// Where they begin.
        offset: u16,
        /// Bytes of the area.
        size: u16,
    },
    /// Whoever may write there still can, or will be able to.
    #[error("the NV index {0}")]
    Unlocked(&'static str),
}

impl NvRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "nv-malformed",
            Self::Scheme => "nv-signature-scheme",
            Self::Signature(_) => "nv-signature",
            Self::Type(_) => "nv-type",
            Self::QualifyingData => "nv-qualifying-data",
            Self::Name => "nv-name",
            Self::Index { .. } => "nv-index",
            Self::Part { .. } => "nv-part",
            Self::Unlocked(_) => "nv-unlocked",
        }
    }
}

/// What stands in an area of the AK's TPM that nobody can write any more without deleting it.
/// Only [`CertifiedNv::verify`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertifiedNv {
    contents: Vec<u8>,
}

impl CertifiedNv {
    /// Checks, in this order: scheme and hash are the AK's, signature, type, qualifying data, that
    /// the name certified is the name of `public`, its handle, that the whole of it was certified,
    /// and that it is written and locked for good.
    pub fn verify(
        index: u32,
        public: &[u8],
        attest: &[u8],
        signature: &[u8],
        ak: &AkPublic,
        want: &QualifyingData,
    ) -> Result<Self, NvRefused> {
        let attest = Attest::parse(attest).map_err(NvRefused::Malformed)?;
        let signature = Signature::parse(signature).map_err(NvRefused::Malformed)?;
        let public = NvPublic::parse(public).map_err(NvRefused::Malformed)?;
        if !ak.allows(&signature) {
            return Err(NvRefused::Scheme);
        }
        ak.verify(&signature, attest.signed)
            .map_err(NvRefused::Signature)?;
        let Attested::Nv {
            name,
            offset,
            contents,
        } = attest.attested
        else {
            return Err(NvRefused::Type(attest.kind));
        };
        if attest.extra_data != want.as_slice() {
            return Err(NvRefused::QualifyingData);
        }
        if public.name().as_deref() != Some(name) {
            return Err(NvRefused::Name);
        }
        if public.index != index {
            let (found, want) = (public.index, index);
            return Err(NvRefused::Index { found, want });
        }
        if offset != 0 || contents.len() != usize::from(public.data_size) {
            return Err(NvRefused::Part {
                found: contents.len(),
                offset,
                size: public.data_size,
            });
        }
        locked(public.attributes)?;
        Ok(Self {
            contents: contents.to_vec(),
        })
    }

    /// The whole of it.
    #[must_use]
    pub fn contents(&self) -> &[u8] {
        &self.contents
    }
}

fn locked(attributes: NvAttributes) -> Result<(), NvRefused> {
    for (bits, fault) in [
        (NvAttributes::WRITTEN, "was never written"),
        (NvAttributes::WRITE_DEFINE, "cannot be locked for good"),
        (NvAttributes::WRITE_LOCKED, "is not locked"),
    ] {
        if !attributes.contains(bits) {
            return Err(NvRefused::Unlocked(fault));
        }
    }
    if attributes.any(NvAttributes::TYPE) || attributes.any(NvAttributes::CLEAR_STCLEAR) {
        return Err(NvRefused::Unlocked("is not an ordinary one"));
    }
    Ok(())
}
