//! From a report to AMD's root: signature, chip, versions, path.

use const_oid::ObjectIdentifier;
use der::Decode as _;
use der::asn1::OctetStringRef;

use super::report::{Product, Report, SigningKey};
use crate::crypto::{
    self, Curve, HashAlgorithm, PublicKey, SignatureScheme, VerifyError, ecdsa_der,
};
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::{Certificate, PathRefused, find_path};

/// AMD's root keys (ARK), by SHA-256 of the `SubjectPublicKeyInfo`; the certificates are published
/// at the KDS as `vcek/v1/PRODUCT/cert_chain`.
pub(crate) const ROOTS: [(Product, &str); 3] = [
    (
        Product::Milan,
        "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
    ),
    (
        Product::Genoa,
        "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
    ),
    (
        Product::Turin,
        "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
    ),
];

/// Extensions of VCEK and VLEK certificates: KDS specification, Table 8.
const HW_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");
const FMC_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const SPL: [(&str, ObjectIdentifier); 4] = [
    (
        "blSPL",
        ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1"),
    ),
    (
        "teeSPL",
        ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2"),
    ),
    (
        "snpSPL",
        ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3"),
    ),
    (
        "ucodeSPL",
        ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8"),
    ),
];

/// Whose key endorses the report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Endorsement {
    /// The chip's.
    Vcek,
    /// The cloud provider's.
    Vlek,
}

/// Why a report is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SnpRefused {
    /// Nothing that was given leads to a key of AMD.
    #[error("none of the certificates given has a root key of AMD that is built in")]
    Root,
    /// No good path.
    #[error("the path to AMD's root")]
    Path(#[from] PathRefused),
    /// The certificate's key is of another kind.
    #[error("the certificate's key is not ECDSA P-384")]
    Key,
    /// The bytes are not what was signed.
    #[error("the report's signature by that key")]
    Signature(#[source] VerifyError),
    /// The report says it was signed with something else.
    #[error("the report says it was signed with {found:?}, and the certificate is a {given:?}")]
    SigningKey {
        /// In the report.
        found: SigningKey,
        /// What was given.
        given: Endorsement,
    },
    /// An extension that such a certificate has to have.
    #[error("the certificate has no readable {0}")]
    Extension(&'static str),
    /// The certificate is of another chip.
    #[error("CHIP_ID: the report has {found}, the certificate is of {expected}")]
    ChipId {
        /// In the report, hex.
        found: String,
        /// In the certificate, hex.
        expected: String,
    },
    /// The key stands for other firmware than the report says.
    #[error("REPORTED_TCB.{part}: the report has {found}, the certificate is for {expected}")]
    Tcb {
        /// Its name in the certificate.
        part: &'static str,
        /// In the report.
        found: u8,
        /// In the certificate.
        expected: u64,
    },
    /// The processor is of another product line than the root.
    #[error("the report is of family {family:#x}, model {model:#x}, and the root of {root}")]
    Product {
        /// `CPUID_FAM_ID`
        family: u8,
        /// `CPUID_MOD_ID`
        model: u8,
        /// Whose root it is.
        root: &'static str,
    },
}

impl SnpRefused {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Root => "root-not-known",
            Self::Path(refused) => refused.code(),
            Self::Key => "key-kind",
            Self::Signature(_) => "report-signature",
            Self::SigningKey { .. } => "signing-key",
            Self::Extension(_) => "certificate-extension",
            Self::ChipId { .. } => "chip-id",
            Self::Tcb { .. } => "tcb",
            Self::Product { .. } => "product",
        }
    }
}

/// Checks a report against the certificate of the key that signed it. `chain` may hold whatever
/// stands between and the root's certificate, in any order; only AMD's own keys, which are built
/// in, are trusted. Every certificate has to be valid at `at`. All that is wrong is told.
pub fn verify(
    report: &Report<'_>,
    endorsement: Endorsement,
    certificate: &Certificate,
    chain: &[Certificate],
    at: UnixTime,
) -> Result<Product, Vec<SnpRefused>> {
    verify_under(&ROOTS, report, endorsement, certificate, chain, at)
}

pub(super) fn verify_under(
    roots: &[(Product, &str)],
    report: &Report<'_>,
    endorsement: Endorsement,
    certificate: &Certificate,
    chain: &[Certificate],
    at: UnixTime,
) -> Result<Product, Vec<SnpRefused>> {
    endorsed_under(roots, report, endorsement, certificate, chain, at).map(|(product, _)| product)
}

/// The same, with the path from the key to its root.
pub(crate) fn endorsed_under(
    roots: &[(Product, &str)],
    report: &Report<'_>,
    endorsement: Endorsement,
    certificate: &Certificate,
    chain: &[Certificate],
    at: UnixTime,
) -> Result<(Product, Vec<Certificate>), Vec<SnpRefused>> {
    let mut refused = Vec::new();
    if let Err(why) = signature(report, certificate) {
        refused.push(why);
    }
    let said = match report.signing_key {
        SigningKey::Vcek => Some(Endorsement::Vcek),
        SigningKey::Vlek => Some(Endorsement::Vlek),
        SigningKey::Unsigned | SigningKey::Reserved(_) => None,
    };
    if said != Some(endorsement) {
        refused.push(SnpRefused::SigningKey {
            found: report.signing_key,
            given: endorsement,
        });
    }
    let (product, path) = match root(roots, certificate, chain, at) {
        Ok(found) => found,
        Err(why) => {
            refused.push(why);
            return Err(refused);
        }
    };
    if let Some((family, model)) = report.cpuid
        && Product::of_cpuid(family, model) != Some(product)
    {
        refused.push(SnpRefused::Product {
            family,
            model,
            root: product.name(),
        });
    }
    refused.extend(owner(report, endorsement, certificate, product).err());
    refused.extend(versions(report, certificate, product));
    if refused.is_empty() {
        Ok((product, path))
    } else {
        Err(refused)
    }
}

/// The certificate is, by its own word, of a chip or of a provider.
pub(crate) fn is_key(certificate: &Certificate) -> bool {
    [HW_ID, CSP_ID]
        .into_iter()
        .any(|id| certificate.extension(id).is_some())
}

/// The certificate is, by its own word, of the key that such a report is signed with: of this chip, or
/// of a provider, for these firmware versions. What the word is worth, [`verify`] shows.
pub(crate) fn is_for(
    report: &Report<'_>,
    endorsement: Endorsement,
    certificate: &Certificate,
) -> bool {
    is_of_chip(report, endorsement, certificate)
        && versions(report, certificate, product(report)).is_empty()
}

/// Likewise, for whatever firmware versions.
pub(crate) fn is_of_chip(
    report: &Report<'_>,
    endorsement: Endorsement,
    certificate: &Certificate,
) -> bool {
    owner(report, endorsement, certificate, product(report)).is_ok()
}

/// The product line that a report says it is of. Before version 3 there was none whose versions lie
/// otherwise than Milan's.
pub(crate) fn product(report: &Report<'_>) -> Product {
    let told = report.cpuid;
    let known = told.and_then(|(family, model)| Product::of_cpuid(family, model));
    known.unwrap_or(Product::Milan)
}

/// The certificate's key signed the report, whosever it is.
pub(crate) fn signature(report: &Report<'_>, certificate: &Certificate) -> Result<(), SnpRefused> {
    let key = match certificate.key() {
        Ok(
            key @ PublicKey::Ec {
                curve: Curve::P384, ..
            },
        ) => key,
        _ => return Err(SnpRefused::Key),
    };
    let [r, s] = &report.signature;
    let scheme = SignatureScheme::Ecdsa(HashAlgorithm::Sha384);
    let verified = match ecdsa_der(r, s) {
        Some(der) => crypto::verify(key, scheme, report.signed, &der),
        None => Err(VerifyError::Mismatch),
    };
    verified.map_err(SnpRefused::Signature)
}

fn root(
    roots: &[(Product, &str)],
    certificate: &Certificate,
    chain: &[Certificate],
    at: UnixTime,
) -> Result<(Product, Vec<Certificate>), SnpRefused> {
    let known = |candidate: &Certificate| {
        let digest = Sha256Digest::of(&[candidate.spki_der()]).to_string();
        roots.iter().find(|(_, root)| *root == digest)
    };
    let anchors: Vec<Certificate> = chain
        .iter()
        .filter(|one| known(one).is_some())
        .cloned()
        .collect();
    if anchors.is_empty() {
        return Err(SnpRefused::Root);
    }
    let path = find_path(certificate, chain, &anchors, at)?;
    let (product, _) = path
        .last()
        .and_then(|last| known(last))
        .ok_or(SnpRefused::Root)?;
    let product = *product;
    Ok((product, path.into_iter().cloned().collect()))
}

/// The chip of the report, where it names one, is the one the certificate was issued for.
fn owner(
    report: &Report<'_>,
    endorsement: Endorsement,
    certificate: &Certificate,
    product: Product,
) -> Result<(), SnpRefused> {
    let extension = |id| {
        certificate
            .extension(id)
            .map(|found| found.value.as_slice())
    };
    if endorsement == Endorsement::Vlek {
        // A provider's key stands for all its chips.
        return match extension(CSP_ID) {
            Some(_) => Ok(()),
            None => Err(SnpRefused::Extension("cspID")),
        };
    }
    let id = extension(HW_ID).ok_or(SnpRefused::Extension("hwID"))?;
    let len = match product {
        Product::Turin => 8,
        Product::Milan | Product::Genoa => 64,
    };
    // The bytes themselves, as the KDS issues it; some wrap them once more.
    let id = match <&OctetStringRef>::from_der(id) {
        _ if id.len() == len => id,
        Ok(wrapped) if wrapped.as_bytes().len() == len => wrapped.as_bytes(),
        _ => return Err(SnpRefused::Extension("hwID")),
    };
    if report.hides_chip() {
        // Whose key it is that signed, the certificate alone says.
        return Ok(());
    }
    let (own, rest) = report.chip_id.split_at(len);
    if own == id && rest.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(SnpRefused::ChipId {
        found: hex::encode(report.chip_id),
        expected: hex::encode(id),
    })
}

/// The key was derived for just these firmware versions.
fn versions(report: &Report<'_>, certificate: &Certificate, product: Product) -> Vec<SnpRefused> {
    let number = |id| {
        let extension = certificate.extension(id)?;
        u64::from_der(&extension.value).ok()
    };
    let fmc = report.reported_tcb.fmc(product);
    let parts = report.reported_tcb.parts(product);
    let known = parts.into_iter().map(|(part, found)| {
        let id = SPL
            .iter()
            .find(|(name, _)| *name == part)
            .map(|(_, id)| *id);
        (part, found, id.and_then(number))
    });
    let fmc = fmc.map(|found| ("fmcSPL", found, number(FMC_SPL)));
    known
        .chain(fmc)
        .filter_map(|(part, found, expected)| match expected {
            None => Some(SnpRefused::Extension(part)),
            Some(expected) if expected == u64::from(found) => None,
            Some(expected) => Some(SnpRefused::Tcb {
                part,
                found,
                expected,
            }),
        })
        .collect()
}
