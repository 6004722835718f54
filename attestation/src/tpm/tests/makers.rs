//! Makers of TPMs of our own, and what they issue.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::*;
use crate::UnixTime;
use crate::x509::Certificate;

/// 2030-01-01, inside every certificate's validity unless a test says otherwise.
pub(super) const NOW: UnixTime = UnixTime::from_secs(1_893_456_000);

/// A certificate and what it takes to issue others.
pub(super) struct Made {
    pub(super) der: Vec<u8>,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Made {
    pub(super) fn certificate(&self) -> Certificate {
        Certificate::parse(&self.der).unwrap()
    }
}

pub(super) fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2035, 1, 1);
    params
}

pub(super) fn ca(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

pub(super) fn leaf() -> CertificateParams {
    let mut params = named("ek");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    params
}

pub(super) fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(super) fn root_of(params: CertificateParams) -> Made {
    let key = key();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Made {
        der,
        issuer: Issuer::new(params, key),
    }
}

pub(super) fn root() -> Made {
    root_of(ca("root"))
}

pub(super) fn issued(params: CertificateParams, by: &Made) -> Made {
    issued_to(params, key(), by)
}

pub(super) fn issued_to(params: CertificateParams, key: KeyPair, by: &Made) -> Made {
    let der = params.signed_by(&key, &by.issuer).unwrap().der().to_vec();
    Made {
        der,
        issuer: Issuer::new(params, key),
    }
}

pub(super) fn outcome_at(
    leaf: &[u8],
    between: &[&Made],
    roots: &[&Made],
    at: UnixTime,
) -> &'static str {
    let all = |made: &[&Made]| -> Vec<Certificate> {
        made.iter().map(|made| made.certificate()).collect()
    };
    let verified = EkChain::verify(leaf, &all(between), &all(roots), at);
    verified.map_or_else(|refused| refused.code(), |_| "ok")
}

pub(super) fn outcome(leaf: &[u8], between: &[&Made], roots: &[&Made]) -> &'static str {
    outcome_at(leaf, between, roots, NOW)
}

/// A path through one intermediate, each of the three changed at will.
pub(super) fn path_with(
    root: impl FnOnce(&mut CertificateParams),
    middle: impl FnOnce(&mut CertificateParams),
    end: impl FnOnce(&mut CertificateParams),
) -> (Made, Made, Made) {
    let (mut top, mut between, mut ek) = (ca("root"), ca("maker"), leaf());
    root(&mut top);
    middle(&mut between);
    end(&mut ek);
    let top = root_of(top);
    let between = issued(between, &top);
    let ek = issued(ek, &between);
    (top, between, ek)
}

pub(super) fn same(_: &mut CertificateParams) {}
