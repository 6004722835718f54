//! The initial attestation key: the maker's word that an AK lives in a device of its making.
//!
//! Where a maker provides one, an IAK is a restricted signing key of the endorsement hierarchy with
//! a certificate that names the device (TCG "TPM 2.0 Keys for Device Identity and Attestation").
//! Certifying the AK (`TPM2_Certify`), it says without anybody's challenge that both are in one
//! TPM. It says nothing of the EK: what joins the two is the device's serial number, in the
//! certificate and in the signed inventory.

use const_oid::ObjectIdentifier;

use crate::crypto::KeyError;
use crate::error::ParseError;
use crate::ids::UnixTime;
use crate::x509::{Certificate, PathRefused, find_path};

use super::ak::{AkPublic, AkRefused};
use super::attest::QualifyingData;
use super::certify::{CertifyRefused, certified};
use super::public::Public;

/// `id-at-serialNumber`: the device's, as its maker counts.
const SERIAL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.5");
/// `tcg-kp-AIKCertificate`
const AIK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");
/// Most certificates presented; a maker's chain has four at most.
const MAX_PRESENTED: usize = 16;

/// Why no maker vouches for an AK.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IakRefused {
    /// The node presents none.
    #[error("no IAK was presented")]
    Missing,
    /// More certificates than any honest chain has.
    #[error("more than {MAX_PRESENTED} IAK certificates")]
    TooMany,
    /// The IAK's or the AK's public area, or the leaf, cannot be read.
    #[error("malformed {0}")]
    Malformed(&'static str, #[source] ParseError),
    /// The key is none that a TPM keeps to itself and signs its own statements with.
    #[error("the IAK is no attestation key")]
    Key(#[source] AkRefused),
    /// A CA is no device.
    #[error("a CA certificate in place of an IAK's")]
    Ca,
    /// The certificate's key cannot be used.
    #[error("the certified key cannot be used")]
    CertifiedKey(#[source] KeyError),
    /// The certificate is for another purpose: an EK, a server.
    #[error("the certificate is for another purpose than an attestation key")]
    Purpose,
    /// The certificate is the maker's, and of another key.
    #[error("the certificate is of another key than the IAK presented")]
    OtherKey,
    /// There is no good path to an anchor.
    #[error("the IAK certificate has no good path to a configured root")]
    Path(#[source] PathRefused),
    /// The IAK did not certify this AK for this.
    #[error("the IAK does not certify this AK")]
    Certify(#[source] CertifyRefused),
}

impl IakRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing => "iak-missing",
            Self::TooMany => "iak-too-many",
            Self::Malformed(..) => "iak-malformed",
            Self::Key(_) | Self::CertifiedKey(_) => "iak-key",
            Self::Ca => "ca-as-iak",
            Self::Purpose => "not-an-iak-certificate",
            Self::OtherKey => "iak-key-mismatch",
            Self::Path(error) => error.code(),
            Self::Certify(refused) => refused.code(),
        }
    }
}

/// What a node presents.
#[derive(Clone, Copy, Debug)]
pub struct IakClaim<'a> {
    /// `TPMT_PUBLIC` of the IAK.
    pub public: &'a [u8],
    /// DER, leaf first.
    pub certificates: &'a [Vec<u8>],
    /// `TPMS_ATTEST` of `TPM2_Certify` of the AK by the IAK.
    pub attest: &'a [u8],
    /// `TPMT_SIGNATURE` over it.
    pub signature: &'a [u8],
}

/// An IAK with a good path to a configured root that certified the AK. Only [`Iak::verify`] makes
/// one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Iak {
    path: Vec<Certificate>,
}

impl Iak {
    /// Checks, in this order: the IAK is a restricted signing key fixed to its TPM; its
    /// certificate is no CA's, for no other purpose, over this key, and has a path to one of
    /// `roots` in which every certificate is good `at` that time; it certified `ak` in answer to
    /// `want`.
    pub fn verify(
        claim: &IakClaim<'_>,
        ak: &AkPublic,
        want: &QualifyingData,
        intermediates: &[Certificate],
        roots: &[Certificate],
        at: UnixTime,
    ) -> Result<Self, IakRefused> {
        let (leaf, rest) = claim
            .certificates
            .split_first()
            .ok_or(IakRefused::Missing)?;
        if claim.certificates.len() > MAX_PRESENTED {
            return Err(IakRefused::TooMany);
        }
        let public =
            Public::parse(claim.public).map_err(|error| IakRefused::Malformed("IAK", error))?;
        let iak = AkPublic::new(public).map_err(IakRefused::Key)?;
        let leaf = Certificate::parse_padded(leaf)
            .map_err(|error| IakRefused::Malformed("IAK certificate", error))?;
        check_leaf(&leaf, &iak)?;
        // What cannot be read among the rest cannot help, nor harm.
        let mut all: Vec<Certificate> = rest
            .iter()
            .filter_map(|der| Certificate::parse_padded(der).ok())
            .collect();
        all.extend_from_slice(intermediates);
        let path = find_path(&leaf, &all, roots, at).map_err(IakRefused::Path)?;
        certified(ak.public(), claim.attest, claim.signature, &iak, want)
            .map_err(IakRefused::Certify)?;
        Ok(Self {
            path: path.into_iter().cloned().collect(),
        })
    }

    /// The device's serial number by its certificate, where it has one.
    #[must_use]
    pub fn serial(&self) -> Option<String> {
        self.path
            .first()
            .and_then(|leaf| leaf.subject().attribute(SERIAL_NUMBER))
    }

    /// The path, IAK certificate first, root last.
    #[must_use]
    pub fn path(&self) -> &[Certificate] {
        &self.path
    }
}

fn check_leaf(leaf: &Certificate, iak: &AkPublic) -> Result<(), IakRefused> {
    if leaf.is_ca() {
        return Err(IakRefused::Ca);
    }
    let key = leaf
        .key()
        .map_err(|error| IakRefused::CertifiedKey(error.clone()))?;
    let other_purpose = leaf
        .purposes()
        .is_some_and(|purposes| !purposes.contains(&AIK_CERTIFICATE));
    if other_purpose {
        return Err(IakRefused::Purpose);
    }
    if key != iak.key() {
        return Err(IakRefused::OtherKey);
    }
    Ok(())
}
