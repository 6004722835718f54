//! Roots that an operator brings beside NVIDIA's, which are built in.
//!
//! A file in a folder vouches for nothing: a root counts where approvers name its digest in a
//! profile, for what they name it for. What it vouches for is never hardware.

use std::borrow::Cow;

use const_oid::ObjectIdentifier;

use crate::error::ParseError;
use crate::ids::Sha256Digest;
use crate::x509::Certificate;

use super::packed::Packed;
use super::path::{Anchors, is_p384, signed_by};

/// Longest file that is read: NVIDIA's roots have 600 bytes.
pub const MAX_ROOT_BYTES: usize = 16 * 1024;

const FILE: Packed = Packed {
    structure: "Certificate",
    label: "CERTIFICATE",
    most: MAX_ROOT_BYTES,
};

/// Why a file is no root.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RootRefused {
    /// Not one certificate.
    #[error("malformed root certificate")]
    Malformed(#[from] ParseError),
    /// Somebody else vouches for it: not a root.
    #[error("{subject:?} was issued by {issuer:?}, and is no root")]
    Issued {
        /// Its label.
        subject: String,
        /// Label of its issuer.
        issuer: String,
    },
    /// Its key is of a kind that neither devices nor signers of reference values have.
    #[error("the key of {0:?} is not P-384")]
    Key(String),
    /// It did not sign itself.
    #[error("{0:?} did not sign itself")]
    Signature(String),
    /// It does not say that it is a CA.
    #[error("{0:?} is no CA")]
    NotCa(String),
    /// Its key may not sign certificates.
    #[error("the key of {0:?} may not sign certificates")]
    KeyUsage(String),
    /// It has a critical extension that is not understood.
    #[error("{subject:?} has the critical extension {id}, which is not understood")]
    CriticalExtension {
        /// Its label.
        subject: String,
        /// What it is.
        id: ObjectIdentifier,
    },
}

impl RootRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "root-malformed",
            Self::Issued { .. } => "root-issued",
            Self::Key(_) => "root-key",
            Self::Signature(_) => "root-signature",
            Self::NotCa(_) => "root-not-ca",
            Self::KeyUsage(_) => "root-key-usage",
            Self::CriticalExtension { .. } => "root-critical-extension",
        }
    }
}

/// A certificate that can be a root, which says nothing on whether anybody trusts it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Root {
    certificate: Certificate,
    digest: Sha256Digest,
}

impl Root {
    /// Reads one certificate to its last byte, from DER, base64 or PEM: self-signed, a CA that may
    /// sign certificates, with a key on P-384.
    pub fn parse(file: &[u8]) -> Result<Self, RootRefused> {
        let der = Self::document(file)?;
        let certificate = Certificate::parse(&der)?;
        let subject = || certificate.subject().label();
        if !certificate.is_self_issued() {
            let issuer = certificate.issuer().label();
            return Err(RootRefused::Issued {
                subject: subject(),
                issuer,
            });
        }
        let Some(key) = certificate.key().ok().filter(|key| is_p384(key)) else {
            return Err(RootRefused::Key(subject()));
        };
        if !signed_by(&certificate, key, None) {
            return Err(RootRefused::Signature(subject()));
        }
        if !certificate.is_ca() {
            return Err(RootRefused::NotCa(subject()));
        }
        if !certificate.may_sign_certificates() {
            return Err(RootRefused::KeyUsage(subject()));
        }
        if let Some(id) = certificate.unknown_critical() {
            let subject = subject();
            return Err(RootRefused::CriticalExtension { subject, id });
        }
        let digest = Sha256Digest::of(&[&der]);
        Ok(Self {
            certificate,
            digest,
        })
    }

    /// The DER in a file, whatever its form: what a digest is of, and what is kept.
    pub fn document(file: &[u8]) -> Result<Cow<'_, [u8]>, RootRefused> {
        Ok(FILE.der(file)?)
    }

    /// SHA-256 of the DER: what a profile names.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Its key is one of NVIDIA's that are built in. It adds nothing to them.
    #[must_use]
    pub fn is_nvidias(&self) -> bool {
        Anchors::device().hold(&self.certificate) || Anchors::rim().hold(&self.certificate)
    }
}
