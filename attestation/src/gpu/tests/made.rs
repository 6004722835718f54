//! A generator of device chains in the shape of NVIDIA's, under a root of the test.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::gpu::Anchors;
use crate::ids::UnixTime;
use crate::x509::Certificate;

/// 2026-01-01, when all of it is valid.
pub(super) const AT: UnixTime = UnixTime::from_secs(1_767_225_600);
/// Common names, leaf first.
pub(super) const NAMES: [&str; 5] = [
    "GH100 A01 GSP FMC LF",
    "GH100 A01 GSP BROM",
    "NVIDIA GH100 Provisioner ICA 1",
    "NVIDIA GH100 Identity",
    "Test Device Identity CA",
];

/// A chain and all its keys, leaf first.
pub(super) struct Chain {
    pub(super) certificates: Vec<Certificate>,
    pub(super) keys: Vec<KeyPair>,
}

impl Chain {
    /// Its own root is what is trusted.
    pub(super) fn anchors(&self) -> Anchors {
        Anchors::of(&self.certificates[4..])
    }
}

pub(super) fn p384() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap()
}

pub(super) fn five_keys() -> Vec<KeyPair> {
    (0..5).map(|_| p384()).collect()
}

pub(super) fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 10, 17);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }
    params
}

/// A chain with those keys; `edit` sees what each certificate will say, by its place.
pub(super) fn chain_of(
    keys: Vec<KeyPair>,
    edit: impl Fn(usize, &mut CertificateParams, &[KeyPair]),
) -> Chain {
    let all: Vec<CertificateParams> = NAMES
        .iter()
        .enumerate()
        .map(|(place, name)| {
            let mut params = params(name, place > 0);
            edit(place, &mut params, &keys);
            params
        })
        .collect();
    let certificates = (0..5).map(|place| {
        let above = (place + 1).min(4);
        let issuer = Issuer::from_params(&all[above], &keys[above]);
        let made = all[place].signed_by(&keys[place], &issuer).unwrap();
        Certificate::parse(made.der()).unwrap()
    });
    Chain {
        certificates: certificates.collect(),
        keys,
    }
}

pub(super) fn chain(edit: impl Fn(usize, &mut CertificateParams, &[KeyPair])) -> Chain {
    chain_of(five_keys(), edit)
}
