//! A generator of responses about revocation.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};

use super::made::{Chain, NAMES, SHA384, oid, params, tlv};
use bailiwick_attestation::crypto::{HashAlgorithm, PublicKey};
use bailiwick_attestation::x509::Certificate;

/// `ecdsa-with-SHA256`
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// `ecdsa-with-SHA384`
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
/// `id-pkix-ocsp-basic`
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// From then on it counts.
const MADE: &str = "20260101000000Z";
const NEXT: &str = "20260102000000Z";

/// What a response says, before it is written.
pub(crate) struct Says<'a> {
    pub(crate) subject: &'a Certificate,
    pub(crate) issuer: &'a Certificate,
    pub(crate) serial: Option<Vec<u8>>,
    pub(crate) status: Vec<u8>,
    pub(crate) next: bool,
    pub(crate) by: &'a KeyPair,
    pub(crate) responder: Option<&'a Certificate>,
    pub(crate) extension: Vec<u8>,
}

fn time(text: &str) -> Vec<u8> {
    tlv(0x18, &[text.as_bytes()])
}

fn sha(hash: HashAlgorithm, bytes: &[u8]) -> Vec<u8> {
    hash.digest(&[bytes]).unwrap().as_slice().to_vec()
}

fn point(certificate: &Certificate) -> Vec<u8> {
    match certificate.key().unwrap() {
        PublicKey::Ec { point, .. } => point.clone(),
        other => panic!("a point, not {other:?}"),
    }
}

impl Says<'_> {
    pub(crate) fn der(&self) -> Vec<u8> {
        let hash = HashAlgorithm::Sha384;
        let serial = self.serial.clone();
        let id = tlv(
            0x30,
            &[
                &tlv(0x30, &[&oid(SHA384)]),
                &tlv(4, &[&sha(hash, self.subject.issuer_der())]),
                &tlv(4, &[&sha(hash, &point(self.issuer))]),
                &tlv(
                    2,
                    &[&serial.unwrap_or_else(|| self.subject.serial().to_vec())],
                ),
            ],
        );
        let next = if self.next {
            tlv(0xa0, &[&time(NEXT)])
        } else {
            Vec::new()
        };
        let single = tlv(
            0x30,
            &[&id, &self.status, &time(MADE), &next, &self.extension],
        );
        let signer = self.responder.unwrap_or(self.issuer);
        let key_id = sha(HashAlgorithm::Sha1, &point(signer));
        let data = tlv(
            0x30,
            &[
                &tlv(0xa2, &[&tlv(4, &[&key_id])]),
                &time(MADE),
                &tlv(0x30, &[&single]),
            ],
        );
        let signature = rcgen::SigningKey::sign(self.by, &data).unwrap();
        let algorithm = if *self.by.algorithm() == rcgen::PKCS_ECDSA_P256_SHA256 {
            ECDSA_SHA256
        } else {
            ECDSA_SHA384
        };
        let certificates = match self.responder {
            Some(one) => tlv(0xa0, &[&tlv(0x30, &[one.as_der()])]),
            None => Vec::new(),
        };
        let basic = tlv(
            0x30,
            &[
                &data,
                &tlv(0x30, &[&oid(algorithm)]),
                &tlv(3, &[&[0], &signature]),
                &certificates,
            ],
        );
        let bytes = tlv(0x30, &[&oid(BASIC), &tlv(4, &[&basic])]);
        tlv(0x30, &[&[0x0a, 1, 0], &tlv(0xa0, &[&bytes])])
    }
}

pub(crate) fn good() -> Vec<u8> {
    vec![0x80, 0]
}

pub(crate) fn revoked(reason: Option<u8>) -> Vec<u8> {
    let reason = reason.map(|reason| tlv(0xa0, &[&[0x0a, 1, reason]]));
    tlv(0xa1, &[&time(MADE), &reason.unwrap_or_default()])
}

/// A responder that `issuer` certified, as edited.
pub(crate) fn responder(
    made: &Chain,
    issuer: usize,
    key: &KeyPair,
    edit: impl Fn(&mut CertificateParams),
) -> Certificate {
    let mut own = params("OCSP responder", false);
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    edit(&mut own);
    let mut above = params(NAMES[issuer], true);
    above.distinguished_name = rcgen::DistinguishedName::new();
    above
        .distinguished_name
        .push(rcgen::DnType::CommonName, NAMES[issuer]);
    let issuer = Issuer::from_params(&above, &made.keys[issuer]);
    let made = own.signed_by(key, &issuer).unwrap();
    Certificate::parse(made.der()).unwrap()
}
