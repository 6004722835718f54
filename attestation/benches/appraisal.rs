//! Appraisal of one steady statement against a bare P-256 verification of the same provider.
//!
//! Prints one JSON object; the ratio is what counts, since both run in the same process.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[expect(dead_code, reason = "what it certifies beside quotes serves tests")]
#[path = "../src/fixture.rs"]
mod fixture;

use std::{hint::black_box, io::Write, time::Instant};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    },
};
use bailiwick_attestation::{
    DeploymentId, NodeId, Sha256Digest, UnixTime,
    appraisal::{AkWord, GeoWord, Reference, Status, Subject, TpmKind, VerifiedEvidence, appraise},
    evidence::{Freshness, Nonce},
    profile::Profile,
};

const ROUNDS: u32 = 100;
const SAMPLES: usize = 201;

/// Microseconds of one call, over [`ROUNDS`] of them.
fn micros(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        call();
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn main() {
    let tpm = fixture::SoftTpm::new();
    let ak = tpm.ak();
    let freshness = Freshness::Challenged(Nonce::new([6; 32]));
    let statement = fixture::encode(&fixture::statement(5, Some(Sha256Digest([9; 32]))));
    let evidence = tpm.evidence(&statement, &freshness);
    let (deployment, node) = (
        DeploymentId::new("demo").expect("a name"),
        NodeId::new("gpu-01").expect("a name"),
    );
    let subject = Subject {
        deployment: &deployment,
        node: Some(&node),
        jurisdiction: None,
        ek: &Sha256Digest([0; 32]),
        signer: (&ak).into(),
        guest: None,
        tpm: TpmKind::Chip,
        ak_word: &AkWord::Collector,
        listed_ak: None,
        chassis_serial: None,
        devices: &[],
        foreign_devices: &[],
        epoch: 0,
        endorsed_until: None,
        receipt: None,
        geotag: &GeoWord::Absent,
    };
    let profile = Profile::parse("profile.toml", fixture::PROFILE.as_bytes()).expect("a profile");
    let endorsements = bailiwick_attestation::gpu::Endorsements::default();
    let reference = Reference {
        profile: &profile,
        version: 2,
        manifest: Sha256Digest([4; 32]),
        not_after: UnixTime(2_000_000_000_000),
        approvers: Sha256Digest([3; 32]),
        approvers_before: &[],
        endorsements: &endorsements,
    };
    let previous = fixture::previous(&tpm);
    let whole = || {
        let verified = VerifiedEvidence::verify(&evidence, &ak, &freshness).expect("good evidence");
        appraise(
            &verified,
            &subject,
            Some(&reference),
            Some(&previous),
            UnixTime(1_800_000_000_000),
        )
    };
    assert_eq!(
        whole().status,
        Status::Affirming,
        "the benchmark must measure the good path"
    );

    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let message = [7; 150];
    let signature = pair
        .sign(&SystemRandom::new(), &message)
        .expect("a signature");
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref());
    // By turns, and the ratio of each turn: what else runs meets both alike.
    let turns: Vec<[f64; 2]> = (0..SAMPLES)
        .map(|_| {
            let bare = micros(|| {
                key.verify(&message, signature.as_ref())
                    .expect("a good signature")
            });
            let whole = micros(|| {
                black_box(whole());
            });
            [bare, whole]
        })
        .collect();
    let of = |figure: fn(&[f64; 2]) -> f64| median(turns.iter().map(figure).collect());
    let (bare, whole) = (of(|turn| turn[0]), of(|turn| turn[1]));
    let ratio = of(|[bare, whole]| whole / bare);
    let report = serde_json::json!({
        "appraisal": {
            "statement_bytes": statement.len(),
            "p256_verify_us": bare,
            "appraise_us": whole,
            "ratio": ratio,
        }
    });
    writeln!(std::io::stdout(), "{report}").expect("stdout");
}
