//! Why a quote is not believed.

use super::collateral::TcbStatus;
use crate::crypto::VerifyError;
use crate::error::ParseError;
use crate::x509::{ListRefused, PathRefused};

/// Why a quote, or what is said about it, is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TdxRefused {
    /// Nothing that was given leads to Intel's root.
    #[error("{0}: none of the certificates has the key of Intel's root, which is built in")]
    Root(&'static str),
    /// No good path.
    #[error("{what}: the path to Intel's root")]
    Path {
        /// Which certificates.
        what: &'static str,
        /// What is wrong on it.
        #[source]
        reason: Box<PathRefused>,
    },
    /// The attestation key did not sign this.
    #[error("the quote's signature by its attestation key")]
    QuoteSignature(#[source] VerifyError),
    /// The quoting enclave vouches for another attestation key.
    #[error(
        "qe_report.REPORTDATA: the quoting enclave bound {found}, the attestation key is {expected}"
    )]
    AttestationKey {
        /// In the enclave's report.
        found: String,
        /// Of key and authentication data.
        expected: String,
    },
    /// The processor's key did not sign the report on the quoting enclave.
    #[error("the signature of the quoting enclave's report by the PCK")]
    QeReportSignature(#[source] VerifyError),
    /// The key in the certificate is of another kind.
    #[error("{0}: the certificate's key is not ECDSA P-256")]
    Key(&'static str),
    /// A certificate of Intel's for another purpose.
    #[error("the certificate of {0:?} is none of a processor's key (PCK)")]
    NotPck(String),
    /// The certificate does not say which processor it is of.
    #[error("the PCK certificate's description of its processor")]
    PckExtension(#[source] Option<ParseError>),
    /// Signed with a key that Intel has for another purpose.
    #[error("{what} is signed by {found:?}, which is not the key for that")]
    Signer {
        /// Which part of the collateral.
        what: &'static str,
        /// Label of the signer.
        found: String,
    },
    /// Intel did not sign this text.
    #[error("{what}: the signature")]
    TextSignature {
        /// Which part of the collateral.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        reason: VerifyError,
    },
    /// A revocation list that says nothing.
    #[error("{what}: the revocation list")]
    List {
        /// Which part of the collateral.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        reason: Box<ListRefused>,
    },
    /// Signed by Intel, and no such text.
    #[error("{0} cannot be read")]
    Malformed(&'static str, #[source] ParseError),
    /// Not good yet.
    #[error("{what} is not good before {from}, seconds since 1970")]
    NotYetValid {
        /// Which part of the collateral.
        what: &'static str,
        /// When it begins.
        from: u64,
    },
    /// Not good any more: nobody fetched a newer one, or somebody keeps an old one.
    #[error("{what} was good until {until}, seconds since 1970")]
    Stale {
        /// Which part of the collateral.
        what: &'static str,
        /// When it ended.
        until: u64,
    },
    /// Of another platform, another purpose or another issuer.
    #[error("{what}: found {found}, expected {expected}")]
    Collateral {
        /// Which part of the collateral.
        what: &'static str,
        /// What it is for.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// Taken back by its issuer.
    #[error("{subject:?}, serial number {serial}, is revoked")]
    Revoked {
        /// Label of the certificate.
        subject: String,
        /// Its serial number, hexadecimal.
        serial: String,
    },
    /// Another enclave than Intel's quoting enclave.
    #[error("qe_report.{field}: found {found}, the quoting enclave has {expected}")]
    QeIdentity {
        /// Member of the report.
        field: &'static str,
        /// In the report, under the mask.
        found: String,
        /// What the identity says.
        expected: String,
    },
    /// A TDX module that Intel does not list.
    #[error("body.{field}: found {found}, listed is {expected}")]
    Module {
        /// Member of the body.
        field: &'static str,
        /// In the body, under the mask.
        found: String,
        /// What the TCB info says.
        expected: String,
    },
    /// Older than everything that is listed.
    #[error("{what}: no level that is listed is as low as {found}")]
    Level {
        /// Whose level.
        what: &'static str,
        /// Its version.
        found: String,
    },
    /// Intel takes this firmware to be broken.
    #[error("{what}: the level of this firmware is {status:?}")]
    TcbRevoked {
        /// Whose level.
        what: &'static str,
        /// As listed.
        status: TcbStatus,
    },
}

impl TdxRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Root(_) => "root-not-known",
            Self::Path { reason, .. } => reason.code(),
            Self::QuoteSignature(_) => "quote-signature",
            Self::AttestationKey { .. } => "attestation-key",
            Self::QeReportSignature(_) => "qe-report-signature",
            Self::Key(_) => "key-type",
            Self::NotPck(_) => "pck-certificate",
            Self::PckExtension(_) => "certificate-extension",
            Self::Signer { .. } => "collateral-signer",
            Self::TextSignature { .. } => "collateral-signature",
            Self::List { reason, .. } => reason.code(),
            Self::Malformed(..) => "collateral-malformed",
            Self::NotYetValid { .. } => "collateral-not-yet-valid",
            Self::Stale { .. } => "collateral-expired",
            Self::Collateral { .. } => "collateral-mismatch",
            Self::Revoked { .. } => "certificate-revoked",
            Self::QeIdentity { .. } => "qe-identity",
            Self::Module { .. } => "tdx-module",
            Self::Level { .. } => "tcb-not-listed",
            Self::TcbRevoked { .. } => "tcb-revoked",
        }
    }
}
