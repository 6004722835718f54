//! One certificate, its signed bytes kept as they came.

use const_oid::ObjectIdentifier;
use der::asn1::{BitStringRef, OctetStringRef};
use der::{Decode, Tag, TagNumber};
use x509_cert::ext::pkix::ExtendedKeyUsage;
use x509_cert::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use x509_cert::time::Time;

use crate::crypto::{self, HashAlgorithm, KeyError, PublicKey, SignatureScheme, VerifyError};
use crate::error::{Fault, ParseError};
use crate::ids::UnixTime;

use super::der::{Walk, context};
use super::name::Name;

/// Largest certificate that is read. EK certificates have 1 to 2 KiB, NV indices hold at most 4.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// Extensions in one certificate; real ones have up to fifteen.
const MAX_EXTENSIONS: usize = 64;

const STRUCTURE: &str = "Certificate";

/// `basicConstraints`
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
/// `keyUsage`
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// `extKeyUsage`
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// `subjectAltName`
pub const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// `certificatePolicies`: what a maker promises about its process; no policy is asked for here.
const CERTIFICATE_POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.32");

/// Extensions that may be critical, because they are looked at (or ask nothing of us).
const UNDERSTOOD: [ObjectIdentifier; 5] = [
    BASIC_CONSTRAINTS,
    KEY_USAGE,
    EXTENDED_KEY_USAGE,
    SUBJECT_ALT_NAME,
    CERTIFICATE_POLICIES,
];

/// An extension as it stands in the certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Extension {
    /// What it is.
    pub id: ObjectIdentifier,
    /// Whoever does not understand it must refuse the certificate.
    pub critical: bool,
    /// DER of its value.
    pub value: Vec<u8>,
}

/// `BasicConstraints`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct BasicConstraints {
    ca: bool,
    path_length: Option<u32>,
}

/// `keyCertSign` in the first byte of `KeyUsage`.
const KEY_CERT_SIGN: u8 = 0x04;
/// `cRLSign`, beside it.
const CRL_SIGN: u8 = 0x02;
/// `keyEncipherment`, `dataEncipherment`, `keyAgreement`.
const RECEIVES: u8 = 0x20 | 0x10 | 0x08;

/// How a certificate or a revocation list is signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum SignatureAlgorithm {
    Known(SignatureScheme),
    Other(ObjectIdentifier),
}

impl SignatureAlgorithm {
    pub(super) fn verify(
        &self,
        key: &PublicKey,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureRefused> {
        match self {
            Self::Known(scheme) => {
                crypto::verify(key, *scheme, message, signature).map_err(SignatureRefused::Verify)
            }
            Self::Other(id) => Err(SignatureRefused::Algorithm(*id)),
        }
    }
}

/// A well-formed X.509 certificate. Nothing in it is trusted yet.
///
/// Layout: RFC 5280. Names are read by this crate and the rest by `x509-cert`, whose `Name`
/// refuses a `SET OF` out of order; the signature is checked over the bytes as they came.
#[derive(Clone, Debug)]
pub struct Certificate {
    der: Vec<u8>,
    tbs: Vec<u8>,
    signature_algorithm: SignatureAlgorithm,
    signature: Vec<u8>,
    serial: Vec<u8>,
    issuer: Name,
    issuer_der: Vec<u8>,
    subject: Name,
    subject_der: Vec<u8>,
    not_before: UnixTime,
    not_after: UnixTime,
    spki: Vec<u8>,
    key: Result<PublicKey, KeyError>,
    extensions: Vec<Extension>,
    basic_constraints: Option<BasicConstraints>,
    /// The first byte of the bit string: `digitalSignature` is the highest bit.
    key_usage: Option<u8>,
    extended_key_usage: Option<Vec<ObjectIdentifier>>,
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl Certificate {
    /// Reads one DER certificate to its last byte.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut walk = start(bytes)?;
        let der = walk.raw("certificate")?;
        walk.finish("certificate")?;
        parse(der)
    }

    /// Reads a certificate as it comes out of an NV index: the index is larger than the
    /// certificate, and the rest is all `0x00` or all `0xff`.
    pub fn parse_padded(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut walk = start(bytes)?;
        let der = walk.raw("certificate")?;
        let rest = bytes.get(der.len()..).unwrap_or_default();
        let all = |padding: u8| rest.iter().all(|byte| *byte == padding);
        if !all(0x00) && !all(0xff) {
            return Err(walk.rule("padding", "is neither all 0x00 nor all 0xff"));
        }
        parse(der)
    }

    /// Reads the first of certificates that stand one after the other, and gives what follows.
    pub(super) fn parse_first(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let mut walk = Walk::new(STRUCTURE, bytes)?;
        let der = walk.raw("certificate")?;
        let rest = bytes.get(der.len()..).unwrap_or_default();
        Ok((Self::parse(der)?, rest))
    }

    /// The bytes it was read from, without padding.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// The number its issuer gave it, as it stands: big-endian, a zero byte first where the
    /// highest bit of the number is set. Not every issuer encodes it as DER wants.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// DER of the issuer's name, as it stands: what OCSP hashes.
    #[must_use]
    pub fn issuer_der(&self) -> &[u8] {
        &self.issuer_der
    }

    /// Who vouches for it.
    #[must_use]
    pub const fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// Whom it is about.
    #[must_use]
    pub const fn subject(&self) -> &Name {
        &self.subject
    }

    /// DER of that name, as it stands.
    #[must_use]
    pub fn subject_der(&self) -> &[u8] {
        &self.subject_der
    }

    /// First moment of validity.
    #[must_use]
    pub const fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// Last moment of validity.
    #[must_use]
    pub const fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The key it certifies, or why that key cannot be used.
    pub const fn key(&self) -> Result<&PublicKey, &KeyError> {
        self.key.as_ref()
    }

    /// DER of its `SubjectPublicKeyInfo`, as it stands.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// Issued by whoever it is about; says nothing on the signature.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// It says that it is a CA.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.basic_constraints.as_ref().is_some_and(|b| b.ca)
    }

    /// Most CAs allowed between it and a leaf.
    #[must_use]
    pub fn path_length(&self) -> Option<u32> {
        self.basic_constraints.as_ref().and_then(|b| b.path_length)
    }

    /// Its key may sign certificates: it says so, or does not restrict usage.
    #[must_use]
    pub fn may_sign_certificates(&self) -> bool {
        self.key_usage
            .is_none_or(|usage| usage & KEY_CERT_SIGN != 0)
    }

    /// Its key may sign revocation lists: it says so, or does not restrict usage.
    #[must_use]
    pub fn may_sign_revocation_lists(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage & CRL_SIGN != 0)
    }

    /// Its key may be used to share secrets with it: it says so, or does not restrict usage.
    #[must_use]
    pub fn may_receive_secrets(&self) -> bool {
        self.key_usage.is_none_or(|usage| usage & RECEIVES != 0)
    }

    /// Purposes its key is limited to; `None`: not limited.
    #[must_use]
    pub fn purposes(&self) -> Option<&[ObjectIdentifier]> {
        self.extended_key_usage.as_deref()
    }

    /// All extensions, in order.
    #[must_use]
    pub fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    /// The extension of that kind.
    #[must_use]
    pub fn extension(&self, id: ObjectIdentifier) -> Option<&Extension> {
        self.extensions.iter().find(|extension| extension.id == id)
    }

    /// The first critical extension nobody here understands.
    #[must_use]
    pub fn unknown_critical(&self) -> Option<ObjectIdentifier> {
        self.extensions
            .iter()
            .find(|extension| extension.critical && !UNDERSTOOD.contains(&extension.id))
            .map(|extension| extension.id)
    }

    /// The first `directoryName` of `subjectAltName`, where EK certificates keep maker and model.
    #[must_use]
    pub fn alternative_directory_name(&self) -> Option<Name> {
        let extension = self.extension(SUBJECT_ALT_NAME)?;
        let mut walk = Walk::new("subjectAltName", &extension.value).ok()?;
        let mut names = walk.enter("generalNames", Tag::Sequence).ok()?;
        while let Some(tag) = names.peek() {
            if tag == context(4) {
                let mut name = names.enter("directoryName", tag).ok()?;
                return Name::read(&mut name).ok();
            }
            names.any("generalName").ok()?;
        }
        None
    }

    /// Checks that `issuer_key` signed these bytes.
    pub fn verify_signature(&self, issuer_key: &PublicKey) -> Result<(), SignatureRefused> {
        self.signature_algorithm
            .verify(issuer_key, &self.tbs, &self.signature)
    }
}

/// Why a certificate's signature was not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignatureRefused {
    /// An algorithm that is not supported.
    #[error("signatures of kind {0} are not supported")]
    Algorithm(ObjectIdentifier),
    /// Not checked, or checked and not by that key.
    #[error(transparent)]
    Verify(VerifyError),
}

fn start(bytes: &[u8]) -> Result<Walk<'_>, ParseError> {
    let refuse = |fault| ParseError {
        structure: STRUCTURE,
        field: "certificate",
        offset: 0,
        fault,
    };
    if bytes.len() > MAX_CERTIFICATE_BYTES {
        let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        return Err(refuse(Fault::TooMany {
            found: as_u64(bytes.len()),
            limit: as_u64(MAX_CERTIFICATE_BYTES),
        }));
    }
    // TCG PC Client Specific Implementation 1.21 put `10 01 00 len16 10 02`-like stored-cert
    // headers in front; such a certificate is of the TPM 1.2 era, whose keys are refused anyway.
    if bytes.starts_with(&[0x10, 0x01]) {
        return Err(refuse(Fault::Rule(
            "begins with the header of a TPM 1.2 certificate",
        )));
    }
    Walk::new(STRUCTURE, bytes)
}

fn parse(der: &[u8]) -> Result<Certificate, ParseError> {
    let mut outer = Walk::new(STRUCTURE, der)?;
    let mut certificate = outer.enter("certificate", Tag::Sequence)?;
    let mut peek_tbs = certificate.clone();
    let tbs_der = peek_tbs.raw("tbsCertificate")?;
    let mut tbs = certificate.enter("tbsCertificate", Tag::Sequence)?;
    let outer_algorithm = certificate.raw("signatureAlgorithm")?;
    let signature: BitStringRef<'_> = certificate.read("signatureValue")?;
    let Some(signature) = signature.as_bytes() else {
        return Err(certificate.rule("signatureValue", "is not a whole number of bytes"));
    };
    certificate.finish("signatureValue")?;

    let version = version(&mut tbs)?;
    // Any integer: some makers pad theirs, and nothing here depends on it.
    let (serial_tag, serial) = tbs.any("serialNumber")?;
    if serial_tag != Tag::Integer {
        return Err(tbs.rule("serialNumber", "is not an integer"));
    }
    let inner_algorithm = tbs.raw("signature")?;
    if inner_algorithm != outer_algorithm {
        return Err(tbs.rule("signature", "differs from signatureAlgorithm"));
    }
    let issuer_der = tbs.raw("issuer")?;
    let issuer = Name::parse(STRUCTURE, issuer_der)?;
    let mut validity = tbs.enter("validity", Tag::Sequence)?;
    let not_before = time(&mut validity, "notBefore")?;
    let not_after = time(&mut validity, "notAfter")?;
    validity.finish("validity")?;
    let subject_der = tbs.raw("subject")?;
    let subject = Name::parse(STRUCTURE, subject_der)?;
    let mut peek_spki = tbs.clone();
    let spki = peek_spki.raw("subjectPublicKeyInfo")?;
    let key =
        PublicKey::from_spki(&tbs.read::<SubjectPublicKeyInfoRef<'_>>("subjectPublicKeyInfo")?);
    for unique_id in [1, 2] {
        if tbs.at_context(TagNumber(unique_id)) {
            tbs.any("uniqueID")?;
        }
    }
    let extensions = extensions(&mut tbs, version)?;
    tbs.finish("tbsCertificate")?;

    Ok(Certificate {
        basic_constraints: find(&extensions, BASIC_CONSTRAINTS)
            .map(basic_constraints)
            .transpose()?,
        key_usage: find(&extensions, KEY_USAGE).map(key_usage).transpose()?,
        extended_key_usage: find(&extensions, EXTENDED_KEY_USAGE)
            .map(purposes)
            .transpose()?,
        der: der.to_vec(),
        tbs: tbs_der.to_vec(),
        signature_algorithm: signature_algorithm(outer_algorithm)?,
        signature: signature.to_vec(),
        serial: serial.to_vec(),
        issuer,
        issuer_der: issuer_der.to_vec(),
        subject,
        subject_der: subject_der.to_vec(),
        not_before,
        not_after,
        spki: spki.to_vec(),
        key,
        extensions,
    })
}

/// 0 for version 1, which is never written out.
fn version(tbs: &mut Walk<'_>) -> Result<u8, ParseError> {
    if !tbs.at_context(TagNumber(0)) {
        return Ok(0);
    }
    let mut tagged = tbs.enter("version", context(0))?;
    let version = tagged.read("version")?;
    tagged.finish("version")?;
    if !(1..=2).contains(&version) {
        return Err(tbs.rule("version", "is not one that X.509 has"));
    }
    Ok(version)
}

pub(super) fn time(walk: &mut Walk<'_>, field: &'static str) -> Result<UnixTime, ParseError> {
    let time: Time = walk.read(field)?;
    Ok(UnixTime::from_secs(time.to_unix_duration().as_secs()))
}

fn extensions(tbs: &mut Walk<'_>, version: u8) -> Result<Vec<Extension>, ParseError> {
    if tbs.is_empty() {
        return Ok(Vec::new());
    }
    if version != 2 {
        return Err(tbs.rule("extensions", "belong to version 3 alone"));
    }
    let mut tagged = tbs.enter("extensions", context(3))?;
    let found = extension_list(&mut tagged)?;
    tagged.finish("extensions")?;
    Ok(found)
}

/// `Extensions`
pub(super) fn extension_list(walk: &mut Walk<'_>) -> Result<Vec<Extension>, ParseError> {
    let mut found: Vec<Extension> = Vec::new();
    let mut list = walk.enter("extensions", Tag::Sequence)?;
    while !list.is_empty() {
        let mut one = list.enter("extension", Tag::Sequence)?;
        let id = one.read("extension.extnID")?;
        let critical = match one.peek() {
            Some(Tag::Boolean) => one.boolean("extension.critical")?,
            _ => false,
        };
        let value: &OctetStringRef = one.read("extension.extnValue")?;
        if found.len() == MAX_EXTENSIONS {
            return Err(one.rule("extensions", "are more than any real certificate has"));
        }
        if found.iter().any(|earlier| earlier.id == id) {
            return Err(one.rule("extension.extnID", "stands twice"));
        }
        one.finish("extension")?;
        found.push(Extension {
            id,
            critical,
            value: value.as_bytes().to_vec(),
        });
    }
    Ok(found)
}

fn find(extensions: &[Extension], id: ObjectIdentifier) -> Option<&[u8]> {
    let found = extensions.iter().find(|extension| extension.id == id);
    found.map(|extension| extension.value.as_slice())
}

/// Also reads what DER would have left out: `cA FALSE`.
fn basic_constraints(der: &[u8]) -> Result<BasicConstraints, ParseError> {
    let mut outer = Walk::new("basicConstraints", der)?;
    let mut walk = outer.enter("basicConstraints", Tag::Sequence)?;
    let ca = match walk.peek() {
        Some(Tag::Boolean) => walk.boolean("cA")?,
        _ => false,
    };
    let path_length = match walk.peek() {
        Some(Tag::Integer) => Some(walk.read("pathLenConstraint")?),
        _ => None,
    };
    walk.finish("basicConstraints")?;
    outer.finish("basicConstraints")?;
    Ok(BasicConstraints { ca, path_length })
}

fn key_usage(der: &[u8]) -> Result<u8, ParseError> {
    let mut walk = Walk::new("keyUsage", der)?;
    let bits: BitStringRef<'_> = walk.read("keyUsage")?;
    walk.finish("keyUsage")?;
    Ok(bits.raw_bytes().first().copied().unwrap_or_default())
}

fn purposes(der: &[u8]) -> Result<Vec<ObjectIdentifier>, ParseError> {
    match ExtendedKeyUsage::from_der(der) {
        Ok(usage) => Ok(usage.0),
        Err(error) => Err(ParseError::from_der("extKeyUsage", "extnValue", &error)),
    }
}

pub(super) fn signature_algorithm(der: &[u8]) -> Result<SignatureAlgorithm, ParseError> {
    use HashAlgorithm::{Sha1, Sha256, Sha384, Sha512};
    use SignatureScheme::{Ecdsa, Ed25519, RsaPkcs1, RsaPss};
    let algorithm = AlgorithmIdentifierRef::from_der(der)
        .map_err(|error| ParseError::from_der(STRUCTURE, "signatureAlgorithm", &error))?;
    let scheme = match algorithm.oid.to_string().as_str() {
        "1.2.840.113549.1.1.5" => RsaPkcs1(Sha1),
        "1.2.840.113549.1.1.11" => RsaPkcs1(Sha256),
        "1.2.840.113549.1.1.12" => RsaPkcs1(Sha384),
        "1.2.840.113549.1.1.13" => RsaPkcs1(Sha512),
        "1.2.840.113549.1.1.10" => match pss_hash(&algorithm) {
            Some(hash) => RsaPss(hash),
            None => return Ok(SignatureAlgorithm::Other(algorithm.oid)),
        },
        "1.2.840.10045.4.1" => Ecdsa(Sha1),
        "1.2.840.10045.4.3.2" => Ecdsa(Sha256),
        "1.2.840.10045.4.3.3" => Ecdsa(Sha384),
        "1.2.840.10045.4.3.4" => Ecdsa(Sha512),
        "1.3.101.112" => Ed25519,
        _ => return Ok(SignatureAlgorithm::Other(algorithm.oid)),
    };
    Ok(SignatureAlgorithm::Known(scheme))
}

/// The hash of `RSASSA-PSS-params`; MGF1 is with the same hash in every certificate seen, and the
/// verification assumes so. Absent, it stands for SHA-1.
fn pss_hash(algorithm: &AlgorithmIdentifierRef<'_>) -> Option<HashAlgorithm> {
    let parameters = algorithm.parameters?;
    let mut walk = Walk::new("RSASSA-PSS-params", parameters.value()).ok()?;
    if !walk.at_context(TagNumber(0)) {
        return Some(HashAlgorithm::Sha1);
    }
    let mut tagged = walk.enter("hashAlgorithm", context(0)).ok()?;
    let hash: AlgorithmIdentifierRef<'_> = tagged.read("hashAlgorithm").ok()?;
    match hash.oid.to_string().as_str() {
        "2.16.840.1.101.3.4.2.1" => Some(HashAlgorithm::Sha256),
        "2.16.840.1.101.3.4.2.2" => Some(HashAlgorithm::Sha384),
        "2.16.840.1.101.3.4.2.3" => Some(HashAlgorithm::Sha512),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
