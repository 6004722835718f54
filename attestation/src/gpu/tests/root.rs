//! Certificates made here that can be roots, and those that cannot.

use base64::Engine as _;
use rcgen::{CustomExtension, IsCa, KeyPair, KeyUsagePurpose};

use super::made::{chain, chain_of, five_keys};
use crate::gpu::{MAX_ROOT_BYTES, Root};
use crate::ids::Sha256Digest;

#[test]
fn a_root_signed_itself_and_may_sign_others() {
    let made = chain(|_, _, _| ());
    let certificates: Vec<Vec<u8>> = made
        .certificates
        .iter()
        .map(|one| one.as_der().to_vec())
        .collect();
    let good = &certificates[4];
    let edited = |edit: fn(&mut rcgen::CertificateParams)| {
        let made = chain(|place, params, _| {
            if place == 4 {
                edit(params);
            }
        });
        made.certificates[4].as_der().to_vec()
    };
    let mut keys = five_keys();
    keys[4] = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let other_curve = chain_of(keys, |_, _, _| ()).certificates[4]
        .as_der()
        .to_vec();
    let mut unsigned = good.clone();
    *unsigned.last_mut().unwrap() ^= 1;
    let rows = [
        ("a root", good.clone(), None),
        (
            "a CA below it",
            certificates[3].clone(),
            Some("root-issued"),
        ),
        ("a leaf", certificates[0].clone(), Some("root-issued")),
        ("signed by another", unsigned, Some("root-signature")),
        ("on another curve", other_curve, Some("root-key")),
        (
            "no CA",
            edited(|params| params.is_ca = IsCa::ExplicitNoCa),
            Some("root-not-ca"),
        ),
        (
            "for lists alone",
            edited(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
            Some("root-key-usage"),
        ),
        (
            "with something that is not understood",
            edited(|params| {
                let mut odd = CustomExtension::from_oid_content(&[1, 2, 3], vec![4, 0]);
                odd.set_criticality(true);
                params.custom_extensions.push(odd);
            }),
            Some("root-critical-extension"),
        ),
        (
            "two of them",
            [&good[..], good].concat(),
            Some("root-malformed"),
        ),
        (
            "a byte short",
            good[..good.len() - 1].to_vec(),
            Some("root-malformed"),
        ),
        ("nothing", Vec::new(), Some("root-malformed")),
        (
            "too long",
            vec![0x30; MAX_ROOT_BYTES + 1],
            Some("root-malformed"),
        ),
    ];
    for (name, der, want) in rows {
        let found = Root::parse(&der).map_err(|why| why.code());
        assert_eq!(found.err(), want, "{name}");
    }
    let root = Root::parse(good).unwrap();
    assert_eq!(root.digest(), Sha256Digest::of(&[good]));
    assert_eq!(root.certificate(), &made.certificates[4]);
    assert!(!root.is_nvidias());
    let text = base64::engine::general_purpose::STANDARD.encode(good);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    for form in [text, pem] {
        assert_eq!(Root::parse(form.as_bytes()), Ok(root.clone()));
        assert_eq!(Root::document(form.as_bytes()).unwrap(), *good);
    }
}
