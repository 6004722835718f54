//! EK certificates of makers of our own.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::makers::*;
use super::*;
use crate::UnixTime;
use crate::x509::{Certificate, MAX_PATH, MAX_SIGNATURE_CHECKS};

#[test]
fn a_chain_is_accepted_and_its_neighbours_are_refused() {
    let (root, maker, ek) = path_with(same, same, same);
    let (stranger, namesake, _) = path_with(same, same, same);
    let mut signature = ek.der.clone();
    *signature.last_mut().unwrap() ^= 1;
    let mut signed = ek.der.clone();
    let at = signed.windows(2).position(|pair| pair == b"ek").unwrap();
    signed[at] ^= 1;
    for (case, leaf, between, roots, want) in [
        ("good", &ek.der, vec![&maker], vec![&root], "ok"),
        (
            "more than needed",
            &ek.der,
            vec![&namesake, &maker],
            vec![&stranger, &root],
            "ok",
        ),
        ("no intermediate", &ek.der, vec![], vec![&root], "no-path"),
        ("no root", &ek.der, vec![&maker], vec![], "no-path"),
        (
            "another root of the same name",
            &ek.der,
            vec![&maker],
            vec![&stranger],
            "signature",
        ),
        (
            "another maker of the same name",
            &ek.der,
            vec![&namesake],
            vec![&root],
            "signature",
        ),
        (
            "the root among the intermediates",
            &ek.der,
            vec![&maker, &root],
            vec![],
            "no-path",
        ),
        ("the maker as root", &ek.der, vec![], vec![&maker], "ok"),
        (
            "bit of the signature",
            &signature,
            vec![&maker],
            vec![&root],
            "signature",
        ),
        (
            "bit of what is signed",
            &signed,
            vec![&maker],
            vec![&root],
            "signature",
        ),
        ("itself as root", &ek.der, vec![], vec![&ek], "no-path"),
    ] {
        assert_eq!(outcome(leaf, &between, &roots), want, "{case}");
    }
}

#[test]
fn every_certificate_is_valid_at_that_time() {
    let early = date_time_ymd(2026, 1, 1);
    let late = date_time_ymd(2034, 1, 1);
    let narrow = |params: &mut CertificateParams| {
        params.not_before = early;
        params.not_after = late;
    };
    let first = u64::try_from(early.unix_timestamp()).unwrap();
    let last = u64::try_from(late.unix_timestamp()).unwrap();
    for (which, (root, maker, ek)) in [
        ("root", path_with(narrow, same, same)),
        ("intermediate", path_with(same, narrow, same)),
        ("EK certificate", path_with(same, same, narrow)),
    ] {
        for (at, want) in [
            (first - 1, "not-yet-valid"),
            (first, "ok"),
            (last, "ok"),
            (last + 1, "expired"),
        ] {
            let at = UnixTime::from_secs(at);
            assert_eq!(
                outcome_at(&ek.der, &[&maker], &[&root], at),
                want,
                "{which} at {at:?}"
            );
        }
    }
}

#[test]
fn issuers_are_cas_that_may_sign() {
    let no_ca = |params: &mut CertificateParams| {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    };
    let silent = |params: &mut CertificateParams| params.is_ca = IsCa::NoCa;
    let other_usage =
        |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let no_usage = |params: &mut CertificateParams| params.key_usages = vec![];
    for (case, (root, maker, ek), want) in [
        (
            "intermediate that is no CA",
            path_with(same, no_ca, same),
            "not-a-ca",
        ),
        (
            "intermediate that does not say",
            path_with(same, silent, same),
            "not-a-ca",
        ),
        (
            "root that is no CA",
            path_with(no_ca, same, same),
            "not-a-ca",
        ),
        (
            "intermediate for revocation",
            path_with(same, other_usage, same),
            "key-usage",
        ),
        (
            "root for revocation",
            path_with(other_usage, same, same),
            "key-usage",
        ),
        (
            "intermediate without usage",
            path_with(same, no_usage, same),
            "ok",
        ),
    ] {
        assert_eq!(outcome(&ek.der, &[&maker], &[&root]), want, "{case}");
    }
}

#[test]
fn path_lengths_count_the_cas_between() {
    let limited = |most: u8| {
        move |params: &mut CertificateParams| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(most));
        }
    };
    for (case, (root, maker, ek), want) in [
        ("root allows one", path_with(limited(1), same, same), "ok"),
        (
            "root allows none",
            path_with(limited(0), same, same),
            "path-length",
        ),
        (
            "intermediate allows none",
            path_with(same, limited(0), same),
            "ok",
        ),
    ] {
        assert_eq!(outcome(&ek.der, &[&maker], &[&root]), want, "{case}");
    }
    // A CA that renews its key issues to its own name, and that does not count.
    let old = {
        let mut params = ca("root");
        limited(0)(&mut params);
        root_of(params)
    };
    let renewed = issued(ca("root"), &old);
    let ek = issued(leaf(), &renewed);
    assert_eq!(
        outcome(&ek.der, &[&renewed], &[&old]),
        "ok",
        "a renewed key"
    );
}

#[test]
fn critical_extensions_are_understood_or_refused() {
    let extension = |critical: bool| {
        move |params: &mut CertificateParams| {
            let mut own = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            own.set_criticality(critical);
            params.custom_extensions.push(own);
        }
    };
    for (case, (root, maker, ek), want) in [
        (
            "on the EK certificate",
            path_with(same, same, extension(true)),
            "critical-extension",
        ),
        (
            "on the intermediate",
            path_with(same, extension(true), same),
            "critical-extension",
        ),
        (
            "on the root",
            path_with(extension(true), same, same),
            "critical-extension",
        ),
        (
            "not critical",
            path_with(same, extension(false), extension(false)),
            "ok",
        ),
    ] {
        assert_eq!(outcome(&ek.der, &[&maker], &[&root]), want, "{case}");
    }
}

#[test]
fn a_leaf_is_an_ek_and_nothing_else() {
    let purposes = |purposes: Vec<ExtendedKeyUsagePurpose>| {
        move |params: &mut CertificateParams| params.extended_key_usages = purposes
    };
    let usage = |usage: Vec<KeyUsagePurpose>| {
        move |params: &mut CertificateParams| params.key_usages = usage
    };
    let as_ca = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    let ak = ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3]);
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    for (case, (root, maker, ek), want) in [
        (
            "no purpose named",
            path_with(same, same, purposes(vec![])),
            "ok",
        ),
        (
            "an AK's",
            path_with(same, same, purposes(vec![ak])),
            "not-an-ek-certificate",
        ),
        (
            "a server's",
            path_with(same, same, purposes(vec![server])),
            "not-an-ek-certificate",
        ),
        ("a CA's", path_with(same, same, as_ca), "ca-as-ek"),
        (
            "a signing key's",
            path_with(same, same, usage(vec![KeyUsagePurpose::DigitalSignature])),
            "not-an-ek-certificate",
        ),
        (
            "an encryption key's",
            path_with(same, same, usage(vec![KeyUsagePurpose::KeyEncipherment])),
            "ok",
        ),
        (
            "a data encryption key's",
            path_with(same, same, usage(vec![KeyUsagePurpose::DataEncipherment])),
            "ok",
        ),
        (
            "usage not named",
            path_with(same, same, usage(vec![])),
            "ok",
        ),
    ] {
        assert_eq!(outcome(&ek.der, &[&maker], &[&root]), want, "{case}");
    }
    let root = root();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ek = issued_to(leaf(), ed25519, &root);
    assert_eq!(
        outcome(&ek.der, &[], &[&root]),
        "unsupported-key",
        "Ed25519"
    );
}

#[test]
fn old_algorithms_are_refused_by_name() {
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    let rsa = || {
        let algorithm = &rcgen::PKCS_RSA_SHA256;
        KeyPair::generate_rsa_for(algorithm, rcgen::RsaKeySize::_2048).unwrap()
    };
    let patched = |der: &[u8], from: u8, to: u8| {
        let mut der = der.to_vec();
        for at in 0..der.len() - 9 {
            if der[at..].starts_with(&RSA) && der[at + 8] == from {
                der[at + 8] = to;
            }
        }
        der
    };
    let params = ca("root");
    let signer = rsa();
    let root = Made {
        der: params.self_signed(&signer).unwrap().der().to_vec(),
        issuer: Issuer::new(params, signer),
    };
    let ek = issued_to(leaf(), rsa(), &root);
    // sha256WithRSAEncryption to sha1WithRSAEncryption, rsaEncryption to RSAES-OAEP.
    let sha1 = patched(&ek.der, 11, 5);
    let oaep = patched(&ek.der, 1, 7);
    assert_eq!(outcome(&ek.der, &[], &[&root]), "ok");
    assert_eq!(outcome(&sha1, &[], &[&root]), "sha1-signature");
    assert_eq!(outcome(&oaep, &[], &[&root]), "rsaes-oaep-key");
}

#[test]
fn an_anchor_is_a_key_and_a_name() {
    // The root's own certificate has run out; the maker renewed it with the same key.
    let (mut short, long) = (ca("root"), ca("root"));
    short.not_after = date_time_ymd(2026, 1, 1);
    let key_der = key().serialize_der();
    let again = || KeyPair::try_from(key_der.as_slice()).unwrap();
    let expired = Made {
        der: short.self_signed(&again()).unwrap().der().to_vec(),
        issuer: Issuer::new(short, again()),
    };
    let renewed = long.self_signed(&again()).unwrap().der().to_vec();
    let renewed = Made {
        der: renewed,
        issuer: Issuer::new(long, again()),
    };
    let ek = issued(leaf(), &expired);
    assert_eq!(outcome(&ek.der, &[], &[&expired]), "expired");
    assert_eq!(outcome(&ek.der, &[&renewed], &[&expired]), "ok");
    assert_eq!(
        outcome(&ek.der, &[&renewed], &[&root()]),
        "signature",
        "another key"
    );
    let cousin = ca("cousin");
    let cousin = Made {
        der: cousin.self_signed(&again()).unwrap().der().to_vec(),
        issuer: Issuer::new(cousin, again()),
    };
    let ek = issued(leaf(), &cousin);
    assert_eq!(outcome(&ek.der, &[], &[&cousin]), "ok");
    assert_eq!(
        outcome(&ek.der, &[&cousin], &[&renewed]),
        "no-path",
        "another name"
    );
}

#[test]
fn the_search_for_a_path_is_bounded() {
    let root = root();
    let mut chain = vec![];
    for depth in 0..MAX_PATH {
        let name = format!("ca-{depth}");
        let made = issued(ca(&name), chain.last().unwrap_or(&root));
        chain.push(made);
    }
    // Leaf, root and what is between.
    for (between, want) in [(MAX_PATH - 2, "ok"), (MAX_PATH - 1, "no-path")] {
        let ek = issued(leaf(), &chain[between - 1]);
        let between: Vec<&Made> = chain[..between].iter().collect();
        let code = outcome(&ek.der, &between, &[&root]);
        assert_eq!(code, want, "{} certificates", between.len() + 2);
    }

    let maker = issued(ca("maker"), &root);
    let ek = issued(leaf(), &maker);
    for (namesakes, want) in [
        (MAX_SIGNATURE_CHECKS - 2, "ok"),
        (MAX_SIGNATURE_CHECKS, "path-limit"),
    ] {
        let namesakes: Vec<Made> = (0..namesakes).map(|_| root_of(ca("maker"))).collect();
        let mut between: Vec<&Made> = namesakes.iter().collect();
        between.push(&maker);
        assert_eq!(
            outcome(&ek.der, &between, &[&root]),
            want,
            "{} namesakes",
            namesakes.len()
        );
    }
}

#[test]
fn a_certificate_is_of_the_ek_presented() {
    let root = root();
    let maker = issued(ca("maker"), &root);
    let pair = key();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
    let crate::crypto::PublicKey::Ec { point, .. } =
        crate::crypto::PublicKey::from_spki_der(&spki).unwrap()
    else {
        panic!("a point");
    };
    let mut area = vec![0x00, 0x23, 0x00, 0x0b];
    area.extend(EK.to_be_bytes());
    area.extend([
        0, 0, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10,
    ]);
    area.extend(sized(&point[1..33]));
    area.extend(sized(&point[33..]));
    let ek = EkPublic::new(Public::parse(&area).unwrap()).unwrap();

    let own = issued_to(leaf(), pair, &maker).der;
    let other = issued(leaf(), &maker).der;
    let roots = [root.certificate()];
    let verify = |presented: &[Vec<u8>], known: &[Certificate]| {
        let made = EkChain::verify_for(&ek, presented, known, &roots, NOW);
        made.map_or_else(|refused| refused.code(), |_| "ok")
    };
    let known = [maker.certificate()];
    assert_eq!(verify(std::slice::from_ref(&own), &known), "ok");
    assert_eq!(
        verify(&[own.clone(), maker.der.clone()], &[]),
        "ok",
        "from the TPM's own NV"
    );
    assert_eq!(
        verify(&[own.clone(), vec![1], maker.der.clone()], &[]),
        "ok",
        "with junk"
    );
    assert_eq!(verify(&[other], &known), "ek-key-mismatch");
    assert_eq!(verify(&[], &known), "ek-certificate-missing");
    assert_eq!(verify(&[own], &[]), "no-path");
}
