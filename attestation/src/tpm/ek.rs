//! EK certificates: the maker's word that a key lives in a TPM of its making.

use const_oid::ObjectIdentifier;

use crate::crypto::{KeyError, PublicKey};
use crate::error::ParseError;
use crate::ids::UnixTime;
use crate::x509::{Bundle, Certificate, PathRefused, find_path};

use super::credential::EkPublic;

/// `tcg-at-tpmManufacturer`
const TPM_MANUFACTURER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.1");
/// `tcg-at-tpmModel`
const TPM_MODEL: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.2");
/// `tcg-at-tpmVersion`
const TPM_VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.3");
/// `tcg-kp-EKCertificate`
const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");

/// Why a certificate is not accepted as an EK's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EkCertRefused {
    /// Not a certificate.
    #[error("malformed certificate")]
    Malformed(#[source] ParseError),
    /// A CA is not a TPM, wherever it chains to.
    #[error("a CA certificate in place of an EK certificate")]
    Ca,
    /// Its key is of a kind no EK has, or of a kind that is not accepted.
    #[error("the certified key cannot be used")]
    Key(#[source] KeyError),
    /// RSA outside 2048 to 4096 bits, or a key that can receive no secret.
    #[error("a key of kind {0} is no EK")]
    KeyKind(String),
    /// The certificate is for another purpose: an AK, a server.
    #[error("the certificate is for another purpose than an EK")]
    Purpose,
    /// The certificate is the maker's, and of another key than the EK presented.
    #[error("the certificate is of another key than the EK presented")]
    OtherKey,
    /// No certificate was presented.
    #[error("no EK certificate was presented")]
    Missing,
    /// There is no good path to an anchor.
    #[error("the certificate has no good path to a configured root")]
    Path(#[source] PathRefused),
}

impl EkCertRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Ca => "ca-as-ek",
            Self::Key(error) => error.code(),
            Self::KeyKind(_) => "unsupported-key",
            Self::Purpose => "not-an-ek-certificate",
            Self::OtherKey => "ek-key-mismatch",
            Self::Missing => "ek-certificate-missing",
            Self::Path(error) => error.code(),
        }
    }
}

/// An EK certificate with a good path to a configured root. Only [`EkChain::verify`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EkChain {
    path: Vec<Certificate>,
    key: PublicKey,
}

impl EkChain {
    /// Checks an EK certificate as it comes out of NV (DER with padding) or of a file (PEM;
    /// further certificates in it count as intermediates): that it is no CA's, certifies a key
    /// that can receive secrets, is not for another purpose, and has a path to one of `roots`
    /// in which every certificate is good `at` that time.
    pub fn verify(
        leaf: &[u8],
        intermediates: &[Certificate],
        roots: &[Certificate],
        at: UnixTime,
    ) -> Result<Self, EkCertRefused> {
        let (leaf, more) = read_leaf(leaf)?;
        let mut all = more;
        all.extend_from_slice(intermediates);
        let key = check_leaf(&leaf)?;
        let path = find_path(&leaf, &all, roots, at).map_err(EkCertRefused::Path)?;
        Ok(Self {
            path: path.into_iter().cloned().collect(),
            key,
        })
    }

    /// Checks what a node presents: the certificate from NV, what else stood beside it, and that
    /// the certified key is that of the EK.
    pub fn verify_for(
        ek: &EkPublic,
        certificates: &[Vec<u8>],
        intermediates: &[Certificate],
        roots: &[Certificate],
        at: UnixTime,
    ) -> Result<Self, EkCertRefused> {
        /// More than the on-die chain of any TPM known.
        const MAX_PRESENTED: usize = 16;
        let (leaf, rest) = certificates.split_first().ok_or(EkCertRefused::Missing)?;
        // What cannot be read among the rest cannot help, nor harm.
        let mut all: Vec<Certificate> = rest
            .iter()
            .filter_map(|bytes| Bundle::parse(bytes).ok())
            .flat_map(|bundle| bundle.certificates)
            .take(MAX_PRESENTED)
            .collect();
        all.extend_from_slice(intermediates);
        let chain = Self::verify(leaf, &all, roots, at)?;
        if chain.key() != ek.key() {
            return Err(EkCertRefused::OtherKey);
        }
        Ok(chain)
    }

    /// The path, EK certificate first, root last.
    #[must_use]
    pub fn path(&self) -> &[Certificate] {
        &self.path
    }

    /// The certified key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// What the maker says about the TPM.
    #[must_use]
    pub fn identity(&self) -> TpmIdentity {
        self.path.first().map(tpm_identity).unwrap_or_default()
    }
}

/// The TCG attributes of an EK certificate, raw.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TpmIdentity {
    /// For example `id:53544D20`, four characters in hex.
    pub manufacturer: Option<String>,
    /// For example `SLB 9665`.
    pub model: Option<String>,
    /// Firmware version when the certificate was made, for example `id:00490004`.
    pub version: Option<String>,
}

/// The TCG attributes, from `subjectAltName`, else from the subject. Unverified.
#[must_use]
pub fn tpm_identity(certificate: &Certificate) -> TpmIdentity {
    let alternative = certificate.alternative_directory_name();
    let attribute = |kind| {
        alternative
            .as_ref()
            .and_then(|name| name.attribute(kind))
            .or_else(|| certificate.subject().attribute(kind))
    };
    TpmIdentity {
        manufacturer: attribute(TPM_MANUFACTURER),
        model: attribute(TPM_MODEL),
        version: attribute(TPM_VERSION),
    }
}

/// The first certificate of PEM or the only one of DER, and what follows it.
pub fn read_leaf(bytes: &[u8]) -> Result<(Certificate, Vec<Certificate>), EkCertRefused> {
    // DER stands alone, with nothing but padding behind it.
    if bytes.first() == Some(&0x30) {
        let leaf = Certificate::parse_padded(bytes).map_err(EkCertRefused::Malformed)?;
        return Ok((leaf, Vec::new()));
    }
    let mut bundle = Bundle::parse(bytes).map_err(EkCertRefused::Malformed)?;
    let first_is_unreadable = bundle
        .unreadable
        .first()
        .is_some_and(|(place, _)| *place == 0);
    if first_is_unreadable {
        let (_, error) = bundle.unreadable.swap_remove(0);
        return Err(EkCertRefused::Malformed(error));
    }
    let mut certificates = bundle.certificates.into_iter();
    match certificates.next() {
        Some(leaf) => Ok((leaf, certificates.collect())),
        None => Err(EkCertRefused::Malformed(ParseError {
            structure: "PEM",
            field: "CERTIFICATE",
            offset: 0,
            fault: crate::error::Fault::Rule("is not there"),
        })),
    }
}

fn check_leaf(leaf: &Certificate) -> Result<PublicKey, EkCertRefused> {
    if leaf.is_ca() {
        return Err(EkCertRefused::Ca);
    }
    let key = leaf
        .key()
        .map_err(|error| EkCertRefused::Key(error.clone()))?;
    let usable = match key {
        PublicKey::Rsa { .. } => {
            let bits = key.rsa_bits().unwrap_or_default();
            (2048..=4096).contains(&bits)
        }
        PublicKey::Ec { .. } => true,
        PublicKey::Ed25519(_) => false,
    };
    if !usable {
        return Err(EkCertRefused::KeyKind(key.kind()));
    }
    let other_purpose = leaf
        .purposes()
        .is_some_and(|purposes| !purposes.contains(&EK_CERTIFICATE));
    if other_purpose || !leaf.may_receive_secrets() {
        return Err(EkCertRefused::Purpose);
    }
    Ok(key.clone())
}
