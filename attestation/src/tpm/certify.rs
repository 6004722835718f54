//! `TPM2_Certify`: the AK's word that a key lives in the same TPM.

use crate::crypto::{PublicKey, VerifyError};
use crate::error::ParseError;

use super::ak::AkPublic;
use super::attest::{Attest, AttestKind, Attested, QualifyingData};
use super::public::{Name, ObjectAttributes, Public};
use super::signature::Signature;

/// Why a certified key was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertifyRefused {
    /// The bytes are not a `TPMS_ATTEST`.
    #[error("malformed attestation")]
    Malformed(#[source] ParseError),
    /// The bytes are not a `TPMT_SIGNATURE`.
    #[error("malformed signature")]
    MalformedSignature(#[source] ParseError),
    /// An attestation of another type, however well signed.
    #[error("the TPM attested a {}, not a key", .0.name())]
    Type(AttestKind),
    /// Scheme or hash is not the one the AK is fixed to.
    #[error("the signature's scheme or hash is not the AK's")]
    Scheme,
    /// The signature is not the AK's over these bytes, or could not be checked.
    #[error("signature not accepted under the AK")]
    Signature(#[source] VerifyError),
    /// Made for another purpose or another exchange.
    #[error("the certification answers another question")]
    QualifyingData,
    /// Another object was certified.
    #[error("another key was certified than the one presented")]
    Name,
    /// An attribute a key of this purpose needs is not set.
    #[error("the certified key lacks the attribute {0}")]
    Lacks(&'static str),
    /// An attribute a key of this purpose must not have is set.
    #[error("the certified key has the attribute {0}")]
    Has(&'static str),
    /// Not an RSA or ECC key of a supported kind.
    #[error("the certified object is not a key that can be used")]
    Key,
}

impl CertifyRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::MalformedSignature(_) => "certify-malformed",
            Self::Type(_) => "certify-type",
            Self::Scheme => "certify-signature-scheme",
            Self::Signature(_) => "certify-signature",
            Self::QualifyingData => "certify-qualifying-data",
            Self::Name => "certify-name",
            Self::Lacks(_) | Self::Has(_) => "certify-key-attributes",
            Self::Key => "certify-key",
        }
    }
}

/// A key for signing that a checked AK certified: it lives in the AK's TPM and never leaves it.
/// Only [`CertifiedKey::verify`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertifiedKey {
    public: Public,
    key: PublicKey,
    name: Name,
}

impl CertifiedKey {
    /// Checks, in this order: scheme and hash are the AK's, signature, type, qualifying data,
    /// that the name certified is the name of `public`, and that `public` is a signing key fixed
    /// to the TPM, drawn by it, and free to sign a TLS handshake (not restricted).
    pub fn verify(
        public: Public,
        attest: &[u8],
        signature: &[u8],
        ak: &AkPublic,
        want: &QualifyingData,
    ) -> Result<Self, CertifyRefused> {
        let own = certified(&public, attest, signature, ak, want)?;
        check_attributes(public.attributes())?;
        let key = public.key().cloned().ok_or(CertifyRefused::Key)?;
        Ok(Self {
            public,
            key,
            name: own,
        })
    }

    /// The key itself; [`PublicKey::to_spki_der`] is what its certificate holds.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
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
}

/// Whether `signer` certified, in answer to `want`, the object that `public` describes: scheme and
/// hash, signature, type, qualifying data, name. What kind of object it may be is for the caller.
pub(super) fn certified(
    public: &Public,
    attest: &[u8],
    signature: &[u8],
    signer: &AkPublic,
    want: &QualifyingData,
) -> Result<Name, CertifyRefused> {
    let attest = Attest::parse(attest).map_err(CertifyRefused::Malformed)?;
    let signature = Signature::parse(signature).map_err(CertifyRefused::MalformedSignature)?;
    if !signer.allows(&signature) {
        return Err(CertifyRefused::Scheme);
    }
    signer
        .verify(&signature, attest.signed)
        .map_err(CertifyRefused::Signature)?;
    let Attested::Certify { name, .. } = attest.attested else {
        return Err(CertifyRefused::Type(attest.kind));
    };
    if attest.extra_data != want.as_slice() {
        return Err(CertifyRefused::QualifyingData);
    }
    let own = public.name().filter(|own| own.as_bytes() == name);
    own.ok_or(CertifyRefused::Name)
}

fn check_attributes(attributes: ObjectAttributes) -> Result<(), CertifyRefused> {
    for (bit, name) in [
        (ObjectAttributes::SIGN, "sign"),
        (ObjectAttributes::FIXED_TPM, "fixedTPM"),
        (ObjectAttributes::FIXED_PARENT, "fixedParent"),
        (
            ObjectAttributes::SENSITIVE_DATA_ORIGIN,
            "sensitiveDataOrigin",
        ),
    ] {
        if !attributes.contains(bit) {
            return Err(CertifyRefused::Lacks(name));
        }
    }
    for (bit, name) in [
        (ObjectAttributes::RESTRICTED, "restricted"),
        (ObjectAttributes::DECRYPT, "decrypt"),
    ] {
        if attributes.contains(bit) {
            return Err(CertifyRefused::Has(name));
        }
    }
    Ok(())
}
