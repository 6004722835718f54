//! Chains: which are accepted, and their neighbours.

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose};

use super::made::{AT, Chain, NAMES, chain, chain_of, five_keys, p384, params};
use crate::gpu::{Anchors, ChainRefused, check_chain, find_chain, outside_dates};
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::{Certificate, MAX_SIGNATURE_CHECKS};

fn plain() -> Chain {
    chain(|_, _, _| ())
}

fn codes(refused: &[ChainRefused]) -> Vec<&'static str> {
    refused.iter().map(ChainRefused::code).collect()
}

fn order(of: &Chain, places: &[usize]) -> Vec<Certificate> {
    places
        .iter()
        .map(|place| of.certificates[*place].clone())
        .collect()
}

#[test]
fn a_chain_is_accepted_and_its_neighbours_are_refused() {
    let (one, other) = (plain(), plain());
    let anchors = one.anchors();
    let foreign = |place: usize| {
        let mut mixed = one.certificates.clone();
        mixed[place] = other.certificates[place].clone();
        mixed
    };
    for (name, certificates, want) in [
        ("as made", one.certificates.clone(), &[][..]),
        ("nothing", Vec::new(), &["chain-length"]),
        (
            "without its root",
            order(&one, &[0, 1, 2, 3]),
            &["chain-length"],
        ),
        (
            "one too many",
            order(&one, &[0, 1, 2, 3, 4, 4]),
            &["chain-length"],
        ),
        (
            "two exchanged",
            order(&one, &[0, 2, 1, 3, 4]),
            &["chain-signature", "chain-signature", "chain-signature"],
        ),
        (
            "one twice",
            order(&one, &[0, 1, 1, 3, 4]),
            &["chain-signature"; 2],
        ),
        (
            "root first",
            order(&one, &[4, 3, 2, 1, 0]),
            &[
                "chain-signature",
                "chain-signature",
                "chain-signature",
                "chain-signature",
                "chain-signature",
                "chain-signature",
                "chain-root",
            ],
        ),
        ("leaf of another device", foreign(0), &["chain-signature"]),
        ("CA of another device", foreign(2), &["chain-signature"; 2]),
        (
            "root of the same name",
            foreign(4),
            &["chain-signature", "chain-root"],
        ),
        (
            "all of another root",
            other.certificates.clone(),
            &["chain-root"],
        ),
    ] {
        assert_eq!(
            codes(&check_chain(&certificates, 5, &anchors)),
            want,
            "{name}"
        );
    }
    assert_eq!(
        codes(&check_chain(&one.certificates, 4, &anchors)),
        ["chain-length"]
    );
    let nobody = Anchors::default();
    assert_eq!(
        codes(&check_chain(&one.certificates, 5, &nobody)),
        ["chain-root"]
    );
    let built_in = Anchors::device();
    assert_eq!(
        codes(&check_chain(&one.certificates, 5, &built_in)),
        ["chain-root"]
    );
}

#[test]
fn an_anchor_is_a_key_whatever_its_certificate() {
    let keys = five_keys();
    let one = chain_of(keys, |_, _, _| ());
    let again = chain_of(one.keys, |place, params, _| {
        if place == 4 {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.serial_number = Some(vec![7; 16].into());
        }
    });
    assert_ne!(one.certificates[4], again.certificates[4]);
    let anchors = Anchors::of(&one.certificates[4..]);
    assert_eq!(check_chain(&again.certificates, 5, &anchors), []);
}

#[test]
fn every_certificate_says_that_it_may_stand_where_it_does() {
    type Edit = fn(&mut CertificateParams);
    let not_ca: Edit = |params| params.is_ca = IsCa::NoCa;
    let usage: Edit = |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let critical: Edit = |params| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    let known: Edit = |params| {
        let extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        params.custom_extensions.push(extension);
    };
    let none: Edit = |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    // What is said of the chain, and of a path over the same certificates.
    let (bad, nowhere) = (&["chain-signature"][..], &["chain-root"][..]);
    for (name, at, edit, want, path) in [
        ("issuer that is no CA", 1, not_ca, bad, nowhere),
        ("a CA in the middle that is none", 3, not_ca, bad, nowhere),
        ("issuer that may not sign", 2, usage, bad, nowhere),
        ("critical extension on the leaf", 0, critical, bad, bad),
        ("critical extension on a CA", 2, critical, bad, nowhere),
        // A path needs the root's key, and no certificate of it.
        ("critical extension on the root", 4, critical, bad, &[]),
        ("extension that asks nothing", 2, known, &[], &[]),
        ("no CA allowed below, and none there", 1, none, &[], &[]),
        ("no CA allowed below, and one there", 2, none, bad, nowhere),
    ] {
        let made = chain(|place, params, _| {
            if place == at {
                edit(params);
            }
        });
        let refused = check_chain(&made.certificates, 5, &made.anchors());
        assert_eq!(codes(&refused), want, "{name}");
        let (leaf, others) = made.certificates.split_first().unwrap();
        let found = find_chain(leaf, others, &made.anchors(), AT);
        assert_eq!(codes(&found.err().unwrap_or_default()), path, "{name}");
    }
}

#[test]
fn keys_are_p384() {
    for place in 1..5 {
        let mut keys = five_keys();
        keys[place] = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let made = chain_of(keys, |_, _, _| ());
        let refused = check_chain(&made.certificates, 5, &made.anchors());
        assert!(codes(&refused).contains(&"chain-signature"), "{place}");
    }
}

#[test]
fn dates_are_of_every_certificate_and_both_ends_are_inside() {
    let (first, last) = (1_704_067_200, 1_735_689_600);
    for short in [0, 2] {
        let made = chain(|place, params, _| {
            if place == short {
                params.not_before = rcgen::date_time_ymd(2024, 1, 1);
                params.not_after = rcgen::date_time_ymd(2025, 1, 1);
            }
        });
        for (at, want) in [
            (first - 1, &["chain-not-yet-valid"][..]),
            (first, &[]),
            (last, &[]),
            (last + 1, &["chain-expired"]),
        ] {
            let refused = outside_dates(&made.certificates, UnixTime::from_secs(at));
            assert_eq!(codes(&refused), want, "{short} at {at}");
            let found = find_chain(
                &made.certificates[0],
                &made.certificates[1..],
                &made.anchors(),
                UnixTime::from_secs(at),
            );
            let refused = found.err().unwrap_or_default();
            assert_eq!(codes(&refused), want, "{short} at {at}");
        }
        let before_all = outside_dates(&made.certificates, UnixTime::from_secs(1));
        assert_eq!(codes(&before_all), ["chain-not-yet-valid"; 5]);
    }
}

#[test]
fn a_path_is_found_among_others_and_only_to_an_anchor() {
    let (one, other) = (plain(), plain());
    let anchors = one.anchors();
    let names = |places: &[usize]| -> Vec<String> {
        places
            .iter()
            .map(|place| NAMES[*place].to_owned())
            .collect()
    };
    let find = |leaf: &Certificate, others: &[Certificate]| {
        find_chain(leaf, others, &anchors, AT).map_err(|refused| codes(&refused))
    };
    let leaf = &one.certificates[0];
    let mut shuffled = order(&other, &[4, 3, 2, 1]);
    shuffled.extend(order(&one, &[3, 1, 2]));
    assert_eq!(find(leaf, &shuffled), Ok(names(&[0, 1, 2, 3, 4])));
    assert_eq!(find(leaf, &one.certificates), Ok(names(&[0, 1, 2, 3, 4])));
    assert_eq!(find(&one.certificates[3], &[]), Ok(names(&[3, 4])));
    assert_eq!(find(&one.certificates[4], &[]), Ok(names(&[4])));
    for (name, certificate, others) in [
        ("one missing", leaf, order(&one, &[1, 3, 4])),
        ("none given", leaf, Vec::new()),
        ("another's", leaf, order(&other, &[1, 2, 3, 4])),
        (
            "of another root",
            &other.certificates[0],
            order(&other, &[1, 2, 3, 4]),
        ),
        (
            "another root",
            &other.certificates[4],
            order(&one, &[1, 2, 3, 4]),
        ),
    ] {
        assert_eq!(
            find(certificate, &others),
            Err(vec!["chain-root"]),
            "{name}"
        );
    }
    let in_the_way = chain(|place, params, _| {
        if place == 2 {
            params.is_ca = IsCa::NoCa;
        }
    });
    let found = find_chain(
        &in_the_way.certificates[0],
        &in_the_way.certificates[1..],
        &in_the_way.anchors(),
        AT,
    );
    assert_eq!(codes(&found.unwrap_err()), ["chain-root"]);
}

#[test]
fn the_search_for_a_path_is_bounded() {
    // Forty CAs of one name, each of which could stand above any other.
    let made: Vec<Chain> = (0..40)
        .map(|_| {
            chain(|_, params, _| {
                params.distinguished_name = rcgen::DistinguishedName::new();
                params
                    .distinguished_name
                    .push(rcgen::DnType::CommonName, "one name");
            })
        })
        .collect();
    let all: Vec<Certificate> = made
        .iter()
        .flat_map(|chain| chain.certificates[1..].to_vec())
        .collect();
    let found = find_chain(&made[0].certificates[0], &all, &Anchors::rim(), AT);
    assert_eq!(codes(&found.unwrap_err()), ["chain-root"]);

    // Certificates that have the issuer's name cost a signature each, all others nothing.
    let one = plain();
    let find = |others: &[Certificate]| {
        let found = find_chain(&one.certificates[2], others, &one.anchors(), AT);
        codes(&found.err().unwrap_or_default())
    };
    let namesakes: Vec<Certificate> = (0..MAX_SIGNATURE_CHECKS)
        .map(|_| {
            let made = params(NAMES[3], true).self_signed(&p384()).unwrap();
            Certificate::parse(made.der()).unwrap()
        })
        .collect();
    let own = &one.certificates[3..4];
    assert_eq!(find(&[&namesakes[1..], own].concat()), [""; 0]);
    assert_eq!(find(&[&namesakes[..], own].concat()), ["chain-root"]);
    let stranger = order(&one, &[1; MAX_SIGNATURE_CHECKS + 1]);
    assert_eq!(find(&[&stranger, own].concat()), [""; 0]);
}

#[test]
fn the_built_in_keys_are_those_nvidia_published() {
    // SHA-256 of the SubjectPublicKeyInfo of the published certificates.
    for (anchors, want) in [
        (
            Anchors::device(),
            "a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4",
        ),
        (
            Anchors::rim(),
            "dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3",
        ),
    ] {
        let digests: Vec<String> = anchors
            .keys()
            .map(|key| Sha256Digest::of(&[&key.to_spki_der()]).to_string())
            .collect();
        assert_eq!(digests, [want], "{anchors}");
    }
}
