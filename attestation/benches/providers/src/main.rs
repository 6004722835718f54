//! Verifications per second on one core, three providers, the same keys and signatures.

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature as lc;
use aws_lc_rs::signature::KeyPair as _;
use p256::ecdsa::signature::Verifier as _;

const MESSAGE: [u8; 150] = [7; 150];
const SAMPLES: usize = 9;
const ROUNDS: u32 = 300;

/// Median of the rates of some samples.
fn per_second(mut verify: impl FnMut()) -> f64 {
    let mut rates: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                verify();
            }
            f64::from(ROUNDS) / start.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[SAMPLES / 2]
}

fn row(name: &str, rates: [f64; 3]) {
    let [aws_lc, ring, rust] = rates;
    println!(
        "{name:<10} aws-lc-rs {aws_lc:>8.0}/s   ring {ring:>8.0}/s   RustCrypto {rust:>8.0}/s"
    );
}

fn main() {
    let random = SystemRandom::new();

    let pair = lc::EcdsaKeyPair::generate(&lc::ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let point = pair.public_key().as_ref();
    let signature = pair.sign(&random, &MESSAGE).expect("a signature");
    let ours = lc::UnparsedPublicKey::new(&lc::ECDSA_P256_SHA256_FIXED, point);
    let rings =
        ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
    let rusts = p256::ecdsa::VerifyingKey::from_sec1_bytes(point).expect("a key");
    let parsed = p256::ecdsa::Signature::from_slice(signature.as_ref()).expect("a signature");
    let verified = "a good signature";
    row(
        "P-256",
        [
            per_second(|| ours.verify(&MESSAGE, signature.as_ref()).expect(verified)),
            per_second(|| rings.verify(&MESSAGE, signature.as_ref()).expect(verified)),
            per_second(|| rusts.verify(&MESSAGE, black_box(&parsed)).expect(verified)),
        ],
    );

    let pair = lc::EcdsaKeyPair::generate(&lc::ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
    let point = pair.public_key().as_ref();
    let signature = pair.sign(&random, &MESSAGE).expect("a signature");
    let ours = lc::UnparsedPublicKey::new(&lc::ECDSA_P384_SHA384_FIXED, point);
    let rings =
        ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P384_SHA384_FIXED, point);
    let rusts = p384::ecdsa::VerifyingKey::from_sec1_bytes(point).expect("a key");
    let parsed = p384::ecdsa::Signature::from_slice(signature.as_ref()).expect("a signature");
    row(
        "P-384",
        [
            per_second(|| ours.verify(&MESSAGE, signature.as_ref()).expect(verified)),
            per_second(|| rings.verify(&MESSAGE, signature.as_ref()).expect(verified)),
            per_second(|| rusts.verify(&MESSAGE, black_box(&parsed)).expect(verified)),
        ],
    );

    let pair = lc::RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let public = pair.public_key();
    let der = public.as_ref();
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&lc::RSA_PKCS1_SHA256, &random, &MESSAGE, &mut signature)
        .expect("a signature");
    let ours = lc::UnparsedPublicKey::new(&lc::RSA_PKCS1_2048_8192_SHA256, der);
    let rings =
        ring::signature::UnparsedPublicKey::new(&ring::signature::RSA_PKCS1_2048_8192_SHA256, der);
    use rsa::pkcs1::DecodeRsaPublicKey as _;
    let key = rsa::RsaPublicKey::from_pkcs1_der(der).expect("a key");
    let rusts = rsa::pkcs1v15::VerifyingKey::<rsa::sha2::Sha256>::new(key);
    let parsed = rsa::pkcs1v15::Signature::try_from(&signature[..]).expect("a signature");
    row(
        "RSA-2048",
        [
            per_second(|| ours.verify(&MESSAGE, &signature).expect(verified)),
            per_second(|| rings.verify(&MESSAGE, &signature).expect(verified)),
            per_second(|| rusts.verify(&MESSAGE, black_box(&parsed)).expect(verified)),
        ],
    );
}
