//! Quotes: from bytes to PCR values the TPM stands behind.

use crate::crypto::{Digest, HashAlgorithm, VerifyError};
use crate::error::ParseError;

use super::ak::AkPublic;
use super::attest::{Attest, AttestKind, Attested, ClockInfo, QualifyingData};
use super::pcr::{PcrSelection, PcrValues};
use super::signature::Signature;

/// Why a quote was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QuoteRefused {
    /// The bytes are not a `TPMS_ATTEST`.
    #[error("malformed attestation")]
    Malformed(#[source] ParseError),
    /// The bytes are not a `TPMT_SIGNATURE`.
    #[error("malformed signature")]
    MalformedSignature(#[source] ParseError),
    /// An attestation of another type, however well signed.
    #[error("the TPM attested a {}, not a quote", .0.name())]
    Type(AttestKind),
    /// Scheme or hash is not the one the AK is fixed to.
    #[error("the signature's scheme or hash is not the AK's")]
    Scheme,
    /// The signature is not the AK's over these bytes, or could not be checked.
    #[error("signature not accepted under the enrolled AK")]
    Signature(#[source] VerifyError),
    /// The quote answers another challenge.
    #[error("the quote answers another challenge")]
    Nonce,
    /// No PCR is selected.
    #[error("the quote selects no PCR and so says nothing")]
    EmptySelection,
}

impl QuoteRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::MalformedSignature(_) => "malformed",
            Self::Type(_) => "type",
            Self::Scheme => "signature-scheme",
            Self::Signature(error) => error.code(),
            Self::Nonce => "nonce",
            Self::EmptySelection => "empty-selection",
        }
    }
}

/// Why PCR values are not those of a quote.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PcrRefused {
    /// The quote covers a register for which no value was given under that label.
    #[error("the quote covers {bank} PCR {index}, for which no value was given")]
    Missing {
        /// The bank.
        bank: HashAlgorithm,
        /// The register.
        index: u8,
    },
    /// The values hash to something else than what the TPM signed.
    #[error("the PCR values hash to {computed}, the TPM signed {quoted}")]
    Digest {
        /// What the values given hash to, in hex.
        computed: String,
        /// What the quote holds, in hex.
        quoted: String,
    },
    /// The hash of the signature is one that cannot be computed here.
    #[error("digests of {0} cannot be computed")]
    Hash(HashAlgorithm),
}

impl PcrRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "pcr-missing",
            Self::Digest { .. } => "pcr-digest",
            Self::Hash(_) => "unsupported-hash",
        }
    }
}

/// A well-formed quote. Nothing in it is trusted yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quote<'a> {
    attest: Attest<'a>,
    selection: PcrSelection,
    digest: Digest,
}

impl<'a> Quote<'a> {
    /// Reads one marshalled `TPMS_ATTEST` of type quote to its last byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, QuoteRefused> {
        Self::from_attest(Attest::parse(bytes).map_err(QuoteRefused::Malformed)?)
    }

    /// Takes an attestation that is a quote.
    pub fn from_attest(attest: Attest<'a>) -> Result<Self, QuoteRefused> {
        let Attested::Quote { selection, digest } = &attest.attested else {
            return Err(QuoteRefused::Type(attest.kind));
        };
        Ok(Self {
            selection: selection.clone(),
            digest: digest.clone(),
            attest,
        })
    }

    /// Everything the attestation says, unverified.
    #[must_use]
    pub const fn attest(&self) -> &Attest<'a> {
        &self.attest
    }

    /// What it claims to select, unverified.
    #[must_use]
    pub const fn selection(&self) -> &PcrSelection {
        &self.selection
    }

    /// Compares values against the quoted digest: for whoever has no key to check the quote with.
    ///
    /// `hash` is the hash of the signature scheme, not the bank's.
    pub fn compare(&self, hash: HashAlgorithm, values: &PcrValues) -> Result<(), PcrRefused> {
        compare(&self.selection, &self.digest, hash, values).map(|_| ())
    }

    /// The digest over the selected values, unverified.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Checks, in this order: scheme and hash are the AK's; the signature over the raw bytes
    /// (magic and type were read by [`Self::parse`] and lie in them); the challenge; that
    /// something was selected at all.
    ///
    /// `signature` is a `TPMT_SIGNATURE`.
    pub fn verify(
        self,
        ak: &AkPublic,
        signature: &[u8],
        want: &QualifyingData,
    ) -> Result<VerifiedQuote<'a>, QuoteRefused> {
        let signature = Signature::parse(signature).map_err(QuoteRefused::MalformedSignature)?;
        if !ak.allows(&signature) {
            return Err(QuoteRefused::Scheme);
        }
        ak.verify(&signature, self.attest.signed)
            .map_err(QuoteRefused::Signature)?;
        if self.attest.extra_data != want.as_slice() {
            return Err(QuoteRefused::Nonce);
        }
        if self.selection.is_empty() {
            return Err(QuoteRefused::EmptySelection);
        }
        Ok(VerifiedQuote {
            hash: signature.hash(),
            quote: self,
        })
    }
}

/// A quote our AK signed in answer to our challenge. Only [`Quote::verify`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedQuote<'a> {
    quote: Quote<'a>,
    hash: HashAlgorithm,
}

impl VerifiedQuote<'_> {
    /// The TPM's clock when it signed.
    #[must_use]
    pub const fn clock_info(&self) -> ClockInfo {
        self.quote.attest.clock_info
    }

    /// The vendor's number for the TPM's firmware.
    #[must_use]
    pub const fn firmware_version(&self) -> u64 {
        self.quote.attest.firmware_version
    }

    /// The registers the TPM signed for, and the only labels their values may have.
    #[must_use]
    pub const fn selection(&self) -> &PcrSelection {
        &self.quote.selection
    }

    /// Binds values to the quote: looks each selected register up under its signed label, and
    /// compares the hash over them with what the TPM signed. Other values given are left out of
    /// the result, since the TPM said nothing of them.
    pub fn pcrs(&self, values: &PcrValues) -> Result<BoundPcrs, PcrRefused> {
        let quote = &self.quote;
        compare(&quote.selection, &quote.digest, self.hash, values).map(BoundPcrs)
    }
}

/// PCR values a verified quote covers, labelled by the signed selection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BoundPcrs(PcrValues);

impl BoundPcrs {
    /// The value of one register; `None`: the quote does not cover it.
    #[must_use]
    pub fn get(&self, bank: HashAlgorithm, index: u8) -> Option<&Digest> {
        self.0.get(bank, index)
    }

    /// All values, by bank and index.
    pub fn iter(&self) -> impl Iterator<Item = (HashAlgorithm, u8, &Digest)> {
        self.0.iter()
    }
}

fn compare(
    selection: &PcrSelection,
    quoted: &Digest,
    hash: HashAlgorithm,
    values: &PcrValues,
) -> Result<PcrValues, PcrRefused> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut bound = PcrValues::new();
    for (bank, index) in selection.registers() {
        let missing = PcrRefused::Missing { bank, index };
        let value = values.get(bank, index).ok_or(missing)?;
        parts.push(value.as_slice());
        bound.put(bank, index, value.clone());
    }
    let computed = hash.digest(&parts).ok_or(PcrRefused::Hash(hash))?;
    if computed != *quoted {
        return Err(PcrRefused::Digest {
            computed: computed.to_string(),
            quoted: quoted.to_string(),
        });
    }
    Ok(bound)
}
