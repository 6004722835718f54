//! Certificates that no longer count: what their issuer says, and until when that is news.

use std::collections::BTreeSet;

use const_oid::ObjectIdentifier;
use der::Tag;
use der::asn1::BitStringRef;

use super::certificate::{
    Certificate, SignatureAlgorithm, SignatureRefused, extension_list, signature_algorithm, time,
};
use super::der::{Walk, context};
use super::name::Name;
use crate::error::ParseError;
use crate::ids::{Sha256Digest, UnixTime};

const STRUCTURE: &str = "CertificateList";

/// Extensions of a list that say nothing on whom it covers: `authorityKeyIdentifier`, `cRLNumber`.
const HARMLESS: [ObjectIdentifier; 2] = [
    ObjectIdentifier::new_unwrap("2.5.29.35"),
    ObjectIdentifier::new_unwrap("2.5.29.20"),
];

/// A well-formed list of revoked certificates. Nothing in it is trusted yet.
///
/// Layout: RFC 5280, §5. Lists that cover only part of an issuer's certificates, or other
/// issuers' too, say so in critical extensions and are refused; on hold counts as revoked.
#[derive(Clone, Debug)]
pub struct RevocationList {
    digest: Sha256Digest,
    tbs: Vec<u8>,
    signature_algorithm: SignatureAlgorithm,
    signature: Vec<u8>,
    issuer: Name,
    this_update: UnixTime,
    next_update: UnixTime,
    revoked: BTreeSet<Vec<u8>>,
}

/// Why a list says nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ListRefused {
    /// Of somebody else.
    #[error("the list is by {found:?}, not by {expected:?}")]
    Issuer {
        /// Label of the issuer in the list.
        found: String,
        /// Label of the certificate it was held against.
        expected: String,
    },
    /// The issuer's key may not sign such lists.
    #[error("the key of {0:?} may not sign revocation lists")]
    KeyUsage(String),
    /// The issuer did not sign this.
    #[error("the signature by the key of {issuer:?}")]
    Signature {
        /// Its label.
        issuer: String,
        /// What is wrong with it.
        #[source]
        reason: Option<SignatureRefused>,
    },
}

impl ListRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Issuer { .. } => "crl-issuer",
            Self::KeyUsage(_) => "key-usage",
            Self::Signature { .. } => "crl-signature",
        }
    }
}

impl RevocationList {
    /// Reads one DER list to its last byte. What it may cost is bounded by its size, which is the
    /// caller's to limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut outer = Walk::new(STRUCTURE, bytes)?;
        let mut list = outer.enter("certificateList", Tag::Sequence)?;
        outer.finish("certificateList")?;
        let tbs_der = list.clone().raw("tbsCertList")?;
        let mut tbs = list.enter("tbsCertList", Tag::Sequence)?;
        let outer_algorithm = list.raw("signatureAlgorithm")?;
        let signature: BitStringRef<'_> = list.read("signatureValue")?;
        let Some(signature) = signature.as_bytes() else {
            return Err(list.rule("signatureValue", "is not a whole number of bytes"));
        };
        list.finish("signatureValue")?;

        if tbs.peek() == Some(Tag::Integer) {
            let version: u8 = tbs.read("version")?;
            if version != 1 {
                return Err(tbs.rule("version", "is not one that lists have"));
            }
        }
        if tbs.raw("signature")? != outer_algorithm {
            return Err(tbs.rule("signature", "differs from signatureAlgorithm"));
        }
        let issuer = Name::parse(STRUCTURE, tbs.raw("issuer")?)?;
        let this_update = time(&mut tbs, "thisUpdate")?;
        if !matches!(tbs.peek(), Some(Tag::UtcTime | Tag::GeneralizedTime)) {
            return Err(tbs.rule(
                "nextUpdate",
                "is missing: nothing tells how long this is news",
            ));
        }
        let next_update = time(&mut tbs, "nextUpdate")?;
        let revoked = match tbs.peek() {
            Some(Tag::Sequence) => revoked(&mut tbs)?,
            _ => BTreeSet::new(),
        };
        if !tbs.is_empty() {
            let mut tagged = tbs.enter("crlExtensions", context(0))?;
            understood(&mut tagged, "crlExtensions")?;
            tagged.finish("crlExtensions")?;
        }
        tbs.finish("tbsCertList")?;
        Ok(Self {
            digest: Sha256Digest::of(&[bytes]),
            tbs: tbs_der.to_vec(),
            signature_algorithm: signature_algorithm(outer_algorithm)?,
            signature: signature.to_vec(),
            issuer,
            this_update,
            next_update,
            revoked,
        })
    }

    /// SHA-256 of all of it.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// How many certificates it names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.revoked.len()
    }

    /// It names none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }

    /// Whose certificates it is about.
    #[must_use]
    pub const fn issuer(&self) -> &Name {
        &self.issuer
    }

    /// When it was made.
    #[must_use]
    pub const fn this_update(&self) -> UnixTime {
        self.this_update
    }

    /// When there is a newer one at the latest.
    #[must_use]
    pub const fn next_update(&self) -> UnixTime {
        self.next_update
    }

    /// The issuer of the list took that certificate back. Says nothing on certificates of others.
    #[must_use]
    pub fn names(&self, certificate: &Certificate) -> bool {
        *certificate.issuer() == self.issuer
            && self.revoked.contains(without_zeros(certificate.serial()))
    }

    /// Checks that `issuer` made the list; whether `issuer` is to be believed is for the path.
    pub fn verify(&self, issuer: &Certificate) -> Result<(), ListRefused> {
        let label = || issuer.subject().label();
        if *issuer.subject() != self.issuer {
            return Err(ListRefused::Issuer {
                found: self.issuer.label(),
                expected: label(),
            });
        }
        if !issuer.may_sign_revocation_lists() {
            return Err(ListRefused::KeyUsage(label()));
        }
        let refused = |reason| ListRefused::Signature {
            issuer: label(),
            reason,
        };
        let Ok(key) = issuer.key() else {
            return Err(refused(None));
        };
        self.signature_algorithm
            .verify(key, &self.tbs, &self.signature)
            .map_err(|reason| refused(Some(reason)))
    }
}

fn revoked(tbs: &mut Walk<'_>) -> Result<BTreeSet<Vec<u8>>, ParseError> {
    let mut list = tbs.enter("revokedCertificates", Tag::Sequence)?;
    let mut revoked = BTreeSet::new();
    while !list.is_empty() {
        let mut entry = list.enter("revokedCertificates.entry", Tag::Sequence)?;
        let field = "revokedCertificates.userCertificate";
        let (tag, serial) = entry.any(field)?;
        if tag != Tag::Integer {
            return Err(entry.rule(field, "is not an integer"));
        }
        revoked.insert(without_zeros(serial).to_vec());
        time(&mut entry, "revokedCertificates.revocationDate")?;
        if !entry.is_empty() {
            understood(&mut entry, "revokedCertificates.crlEntryExtensions")?;
        }
        entry.finish("revokedCertificates.entry")?;
    }
    Ok(revoked)
}

/// Not every issuer writes a number in as few bytes as DER wants.
fn without_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}

/// No extension narrows or widens what the list is about.
fn understood(walk: &mut Walk<'_>, field: &'static str) -> Result<(), ParseError> {
    let at = walk.clone();
    let odd = extension_list(walk)?
        .into_iter()
        .find(|extension| extension.critical && !HARMLESS.contains(&extension.id));
    match odd {
        Some(_) => Err(at.rule(field, "has a critical extension that is not understood")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    };

    use super::*;

    struct Made {
        ca: Certificate,
        issuer: Issuer<'static, KeyPair>,
    }

    fn made(name: &str, usages: &[KeyUsagePurpose]) -> Made {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = usages.to_vec();
        let der = params.self_signed(&key).unwrap();
        let mut all = params.clone();
        all.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Made {
            ca: Certificate::parse(der.der()).unwrap(),
            issuer: Issuer::new(all, key),
        }
    }

    fn ca() -> Made {
        made(
            "CA",
            &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
        )
    }

    fn leaf(made: &Made, serial: &[u8]) -> Certificate {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(serial));
        let der = params.signed_by(&key, &made.issuer).unwrap();
        Certificate::parse(der.der()).unwrap()
    }

    fn list(made: &Made, serials: &[&[u8]]) -> Vec<u8> {
        let date = rcgen::date_time_ymd(2026, 1, 1);
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date,
            reason_code: Some(rcgen::RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date,
            next_update: rcgen::date_time_ymd(2026, 2, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&made.issuer).unwrap();
        list.der().to_vec()
    }

    #[test]
    fn a_list_names_what_its_issuer_took_back() {
        let ca = ca();
        let read = RevocationList::parse(&list(&ca, &[&[5], &[0x80, 7]])).unwrap();
        read.verify(&ca.ca).unwrap();
        assert_eq!(read.this_update().secs(), 1_767_225_600);
        assert_eq!(read.next_update().secs(), 1_769_904_000);
        for (serial, want) in [
            (&[5][..], true),
            (&[0x80, 7], true),
            (&[6], false),
            (&[5, 0], false),
        ] {
            assert_eq!(read.names(&leaf(&ca, serial)), want, "{serial:?}");
        }
        // The same number under another name is another certificate.
        let other = made("other", &[KeyUsagePurpose::KeyCertSign]);
        assert!(!read.names(&leaf(&other, &[5])));
        let none = RevocationList::parse(&list(&ca, &[])).unwrap();
        assert!(!none.names(&leaf(&ca, &[5])));
    }

    #[test]
    fn a_list_is_believed_of_its_issuer_alone() {
        let ours = ca();
        let bytes = list(&ours, &[&[5]]);
        let code = |bytes: &[u8], by: &Made| {
            let read = RevocationList::parse(bytes).unwrap();
            read.verify(&by.ca).map_err(|why| why.code())
        };
        assert_eq!(code(&bytes, &ours), Ok(()));
        assert_eq!(code(&bytes, &ca()), Err("crl-signature"));
        let named = made("somebody else", &[KeyUsagePurpose::CrlSign]);
        assert_eq!(code(&bytes, &named), Err("crl-issuer"));
        let mut changed = bytes.clone();
        let serial = bytes.windows(3).position(|w| w == [2, 1, 5]).unwrap();
        changed[serial + 2] = 6;
        assert_eq!(code(&changed, &ours), Err("crl-signature"));
        let certificates_only = made("CA", &[KeyUsagePurpose::KeyCertSign]);
        assert_eq!(
            code(&list(&certificates_only, &[]), &certificates_only),
            Err("key-usage")
        );
    }

    #[test]
    fn malformed_lists_say_where() {
        let ca = ca();
        let good = list(&ca, &[&[5]]);
        for cut in 0..good.len() {
            assert!(RevocationList::parse(&good[..cut]).is_err(), "{cut}");
        }
        let error = |bytes: &[u8]| RevocationList::parse(bytes).unwrap_err().to_string();
        let longer = error(&[&good[..], &[0]].concat());
        assert!(
            longer.contains("CertificateList.certificateList"),
            "{longer}"
        );
        // cRLNumber made the critical issuingDistributionPoint, in place.
        let scoped = {
            let mut params = CertificateRevocationListParams {
                this_update: rcgen::date_time_ymd(2026, 1, 1),
                next_update: rcgen::date_time_ymd(2026, 2, 1),
                crl_number: SerialNumber::from_slice(&[1]),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            params.issuing_distribution_point = Some(rcgen::CrlIssuingDistributionPoint {
                distribution_point: rcgen::CrlDistributionPoint {
                    uris: vec!["http://ca.example/part.crl".to_owned()],
                },
                scope: Some(rcgen::CrlScope::CaCertsOnly),
            });
            params.signed_by(&ca.issuer).unwrap().der().to_vec()
        };
        let scoped = error(&scoped);
        assert!(
            scoped.contains("crlExtensions") && scoped.contains("critical"),
            "{scoped}"
        );
    }
}
