//! Signature verification through this crate, key parsing included: what quotes (P-256, RSA) and
//! GPU evidence (P-384) will cost. Prints one JSON object.
//!
//! How other providers compare: `benches/providers`.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::{io::Write, time::Instant};

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use bailiwick_attestation::crypto::{Curve, HashAlgorithm, PublicKey, SignatureScheme, verify};

const MESSAGE: [u8; 150] = [7; 150];
const ROUNDS: u32 = 500;
const SAMPLES: usize = 9;

/// Median of the rates of some samples.
fn per_second(key: &PublicKey, scheme: SignatureScheme, signature: &[u8]) -> f64 {
    let mut rates: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                verify(key, scheme, &MESSAGE, signature).expect("a good signature");
            }
            f64::from(ROUNDS) / start.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[SAMPLES / 2].round()
}

fn ecdsa(curve: Curve, algorithm: &'static EcdsaSigningAlgorithm, hash: HashAlgorithm) -> f64 {
    let pair = EcdsaKeyPair::generate(algorithm).expect("a key");
    let point = pair.public_key().as_ref().to_vec();
    let key = PublicKey::Ec { curve, point };
    let signature = pair
        .sign(&SystemRandom::new(), &MESSAGE)
        .expect("a signature");
    per_second(&key, SignatureScheme::Ecdsa(hash), signature.as_ref())
}

fn rsa() -> f64 {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("a public key");
    let key = PublicKey::from_spki_der(spki.as_ref()).expect("a public key");
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        &MESSAGE,
        &mut signature,
    )
    .expect("a signature");
    let scheme = SignatureScheme::RsaPkcs1(HashAlgorithm::Sha256);
    per_second(&key, scheme, &signature)
}

fn main() {
    let p256 = ecdsa(
        Curve::P256,
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        HashAlgorithm::Sha256,
    );
    let p384 = ecdsa(
        Curve::P384,
        &ECDSA_P384_SHA384_ASN1_SIGNING,
        HashAlgorithm::Sha384,
    );
    let rsa = rsa();
    let report = serde_json::json!({
        "verify_per_second": {
            "p256": p256,
            "p384": p384,
            "rsa2048": rsa,
            "p256_over_p384": p256 / p384,
        }
    });
    writeln!(std::io::stdout(), "{report}").expect("stdout");
}
