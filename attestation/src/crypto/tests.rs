use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self as lc, KeyPair as _};

use super::*;

const MESSAGE: &[u8] = b"what was signed";

/// A key and its signature over [`MESSAGE`].
struct Signed {
    name: &'static str,
    key: PublicKey,
    scheme: SignatureScheme,
    signature: Vec<u8>,
}

fn ecdsa(
    name: &'static str,
    curve: Curve,
    with: &'static lc::EcdsaSigningAlgorithm,
    hash: HashAlgorithm,
) -> Signed {
    let pair = lc::EcdsaKeyPair::generate(with).unwrap();
    Signed {
        name,
        key: PublicKey::Ec {
            curve,
            point: pair.public_key().as_ref().to_vec(),
        },
        scheme: SignatureScheme::Ecdsa(hash),
        signature: pair
            .sign(&SystemRandom::new(), MESSAGE)
            .unwrap()
            .as_ref()
            .to_vec(),
    }
}

fn rsa(
    name: &'static str,
    size: KeySize,
    with: &'static dyn lc::RsaEncoding,
    scheme: SignatureScheme,
) -> Signed {
    let pair = lc::RsaKeyPair::generate(size).unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(with, &SystemRandom::new(), MESSAGE, &mut signature)
        .unwrap();
    Signed {
        name,
        key: PublicKey::from_spki_der(spki.as_ref()).unwrap(),
        scheme,
        signature,
    }
}

/// One of every kind of key.
fn kinds() -> Vec<Signed> {
    use HashAlgorithm::{Sha256, Sha384, Sha512};
    let ed25519 = lc::Ed25519KeyPair::generate().unwrap();
    let ed25519 = Signed {
        name: "Ed25519",
        key: PublicKey::Ed25519(ed25519.public_key().as_ref().try_into().unwrap()),
        scheme: SignatureScheme::Ed25519,
        signature: ed25519.sign(MESSAGE).as_ref().to_vec(),
    };
    vec![
        ecdsa(
            "P-256",
            Curve::P256,
            &lc::ECDSA_P256_SHA256_ASN1_SIGNING,
            Sha256,
        ),
        ecdsa(
            "P-384",
            Curve::P384,
            &lc::ECDSA_P384_SHA384_ASN1_SIGNING,
            Sha384,
        ),
        ecdsa(
            "P-521",
            Curve::P521,
            &lc::ECDSA_P521_SHA512_ASN1_SIGNING,
            Sha512,
        ),
        rsa(
            "RSA-2048",
            KeySize::Rsa2048,
            &lc::RSA_PKCS1_SHA256,
            SignatureScheme::RsaPkcs1(Sha256),
        ),
        ed25519,
    ]
}

/// One of every kind and hash that is accepted.
fn all() -> Vec<Signed> {
    use HashAlgorithm::{Sha256, Sha384, Sha512};
    use KeySize::{Rsa2048, Rsa3072, Rsa4096};
    use SignatureScheme::{RsaPkcs1, RsaPss};
    let mut all = kinds();
    all.extend([
        ecdsa(
            "P-521, SHA-256",
            Curve::P521,
            &lc::ECDSA_P521_SHA256_ASN1_SIGNING,
            Sha256,
        ),
        ecdsa(
            "P-521, SHA-384",
            Curve::P521,
            &lc::ECDSA_P521_SHA384_ASN1_SIGNING,
            Sha384,
        ),
        rsa("RSA-3072", Rsa3072, &lc::RSA_PKCS1_SHA384, RsaPkcs1(Sha384)),
        rsa("RSA-4096", Rsa4096, &lc::RSA_PKCS1_SHA512, RsaPkcs1(Sha512)),
        rsa("PSS, SHA-256", Rsa2048, &lc::RSA_PSS_SHA256, RsaPss(Sha256)),
        rsa("PSS, SHA-384", Rsa2048, &lc::RSA_PSS_SHA384, RsaPss(Sha384)),
        rsa("PSS, SHA-512", Rsa2048, &lc::RSA_PSS_SHA512, RsaPss(Sha512)),
    ]);
    all
}

#[test]
fn signatures_verify_and_their_neighbours_do_not() {
    let all = all();
    for signed in &all {
        let Signed {
            name,
            key,
            scheme,
            signature,
        } = signed;
        assert_eq!(verify(key, *scheme, MESSAGE, signature), Ok(()), "{name}");
        assert_eq!(
            verify(key, *scheme, b"what was not signed", signature),
            Err(VerifyError::Mismatch),
            "{name}: other bytes"
        );
        let mut flipped = signature.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let short = &signature[..signature.len() - 1];
        let long = [signature, &[0][..]].concat();
        for (case, bytes) in [
            ("bit", &flipped[..]),
            ("short", short),
            ("long", &long),
            ("empty", &[]),
        ] {
            assert_eq!(
                verify(key, *scheme, MESSAGE, bytes),
                Err(VerifyError::Mismatch),
                "{name}: {case}"
            );
        }
    }
    // Every key with every other scheme and signature.
    for one in &all {
        for other in all.iter().filter(|other| other.name != one.name) {
            let refused = verify(&one.key, other.scheme, MESSAGE, &other.signature);
            assert!(refused.is_err(), "{} by {}", other.name, one.name);
        }
    }
}

#[test]
fn a_key_read_before_answers_as_one_that_was_not() {
    let all = all();
    let of_curves = |signed: &&Signed| matches!(signed.key, PublicKey::Ec { .. });
    assert_eq!(all.iter().filter(of_curves).count(), 5);
    for signed in &all {
        let prepared = PreparedKey::new(&signed.key, signed.scheme);
        assert_eq!(prepared.is_some(), of_curves(&signed), "{}", signed.name);
        let Some(prepared) = prepared else { continue };
        let asked = |scheme, message, signature: &[u8]| {
            let answer = prepared.verify(scheme, message, signature);
            let at_once = verify(&signed.key, scheme, message, signature);
            assert_eq!(answer, at_once, "{}", signed.name);
            answer
        };
        assert_eq!(asked(signed.scheme, MESSAGE, &signed.signature), Ok(()));
        let other = asked(signed.scheme, b"what was not signed", &signed.signature);
        assert_eq!(other, Err(VerifyError::Mismatch), "{}", signed.name);
        let mut flipped = signed.signature.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let flipped = asked(signed.scheme, MESSAGE, &flipped);
        assert_eq!(flipped, Err(VerifyError::Mismatch), "{}", signed.name);
        let kind = asked(SignatureScheme::Ed25519, MESSAGE, &signed.signature);
        assert_eq!(kind, Err(VerifyError::KeyKind), "{}", signed.name);
    }
    // With another hash than it was read for: no signature of such a key.
    let p256 = &all[0];
    let Some(prepared) = PreparedKey::new(&p256.key, p256.scheme) else {
        panic!("P-256");
    };
    let other = SignatureScheme::Ecdsa(HashAlgorithm::Sha384);
    let refused = prepared.verify(other, MESSAGE, &p256.signature);
    assert_eq!(refused, Err(VerifyError::KeyKind));
    // A point beside the curve is no key, whenever it is read.
    let beside = PublicKey::ec_from_coordinates(Curve::P256, &[1], &[1]).unwrap();
    assert!(PreparedKey::new(&beside, p256.scheme).is_none());
    let refused = verify(&beside, p256.scheme, MESSAGE, &p256.signature);
    assert_eq!(refused, Err(VerifyError::Mismatch));
}

#[test]
fn what_is_not_supported_says_so() {
    let all = kinds();
    let key = |name| &all.iter().find(|signed| signed.name == name).unwrap().key;
    let small = PublicKey::rsa(&[0xff; 128], &[1, 0, 1]);
    let large = PublicKey::rsa(&[0xff; 513], &[1, 0, 1]);
    let odd = PublicKey::rsa(&[0x7f; 256], &[1, 0, 1]);
    use HashAlgorithm::{Sha1, Sha3_256, Sha256};
    use SignatureScheme::{Ecdsa, Ed25519, RsaPkcs1, RsaPss};
    for (case, key, scheme, want) in [
        (
            "SHA-1, RSA",
            key("RSA-2048"),
            RsaPkcs1(Sha1),
            "sha1-signature",
        ),
        (
            "SHA-1, PSS",
            key("RSA-2048"),
            RsaPss(Sha1),
            "sha1-signature",
        ),
        ("SHA-1, ECDSA", key("P-256"), Ecdsa(Sha1), "sha1-signature"),
        ("SHA-3", key("P-256"), Ecdsa(Sha3_256), "unsupported-hash"),
        ("RSA-1024", &small, RsaPkcs1(Sha256), "unsupported-key-size"),
        ("RSA-4104", &large, RsaPkcs1(Sha256), "unsupported-key-size"),
        (
            "RSA-2047, PSS",
            &odd,
            RsaPss(Sha256),
            "unsupported-key-size",
        ),
        (
            "ECDSA by RSA",
            key("RSA-2048"),
            Ecdsa(Sha256),
            "signature-scheme",
        ),
        (
            "RSA by ECDSA",
            key("P-256"),
            RsaPkcs1(Sha256),
            "signature-scheme",
        ),
        (
            "Ed25519 by ECDSA",
            key("P-256"),
            Ed25519,
            "signature-scheme",
        ),
        ("not by this key", key("P-256"), Ecdsa(Sha256), "signature"),
    ] {
        assert_eq!(
            verify(key, scheme, MESSAGE, &[0; 64]).unwrap_err().code(),
            want,
            "{case}"
        );
    }
}

#[test]
fn keys_survive_the_way_to_der_and_back() {
    for signed in kinds() {
        let der = signed.key.to_spki_der();
        assert_eq!(
            PublicKey::from_spki_der(&der).unwrap(),
            signed.key,
            "{}",
            signed.name
        );
        assert!(
            PublicKey::from_spki_der(&der[..der.len() - 1]).is_err(),
            "{}",
            signed.name
        );
        let long = [&der[..], &[0]].concat();
        assert!(PublicKey::from_spki_der(&long).is_err(), "{}", signed.name);
    }
    let kinds: Vec<String> = kinds().iter().map(|signed| signed.key.kind()).collect();
    for kind in ["p-256", "p-384", "p-521", "rsa-2048", "ed25519"] {
        assert!(kinds.iter().any(|found| found == kind), "{kind}");
    }
}

#[test]
fn hashes_have_their_lengths_and_names() {
    for hash in HashAlgorithm::ALL {
        assert_eq!(HashAlgorithm::from_tpm_id(hash.tpm_id()), Some(hash));
        assert_eq!(HashAlgorithm::from_name(hash.name()), Some(hash));
        let digest = hash.digest(&[b"a", b"bc"]).unwrap();
        assert_eq!(digest.as_slice().len(), hash.digest_len(), "{hash}");
        assert_eq!(Some(digest), hash.digest(&[b"abc"]), "{hash}");
        // Short parts are hashed in one go, longer ones part by part.
        for len in [63, 64, 65, 300] {
            let part = vec![b'x'; len];
            let whole = hash.digest(&[&part.repeat(2)]);
            assert_eq!(hash.digest(&[&part, &part]), whole, "{hash} {len}");
        }
    }
    assert_eq!(HashAlgorithm::from_tpm_id(0x10), None);
    assert_eq!(
        HashAlgorithm::Sha1.digest(&[b"abc"]).unwrap().to_string(),
        "a9993e364706816aba3e25717850c26c9cd0d89d"
    );
}
