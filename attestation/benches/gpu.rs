//! Verification of GPU evidence against the bare P-384 verifications it contains.
//!
//! Prints one JSON object. Ratios are of two medians of one run in one process; devices, reference
//! values and responses are made by the tests' generators, in the shape and size of real ones.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "../src/gpu/tests/made.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "the tests' generator, of which tests need more"
)]
mod made;
#[path = "../src/gpu/tests/responses.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "the tests' generator, of which tests need more"
)]
mod responses;
#[path = "../src/gpu/rim/tests/made.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "the tests' generator, of which tests need more"
)]
mod rims;

use std::{hint::black_box, io::Write, time::Instant};

use bailiwick_attestation::crypto::{HashAlgorithm, PublicKey, SignatureScheme, verify};
use bailiwick_attestation::gpu::rim::{self, Slot};
use bailiwick_attestation::gpu::{
    Anchors, Asked, Evidence, GoodSignatures, Pdi, Response, Topology, appraise,
};
use bailiwick_attestation::x509::Bundle;
use made::{AT, Made, NONCE, Said, device_of, five_keys, p384};
use responses::{Says, good, responder};
use rims::{Resource, Signer, Tag};

const SAMPLES: usize = 9;
/// P-384 verifications in one full verification: the report, four certificates below the root;
/// for each RIM the document and three certificates; for each response its responder and itself.
const CONTAINED: u32 = 1 + 4 + 2 * 4 + 3 * 2;
/// Calls in one sample of a verification.
const ROUNDS: u32 = 20;

/// Median seconds of one call.
fn median(rounds: u32, mut call: impl FnMut()) -> f64 {
    let mut all: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..rounds {
                call();
            }
            start.elapsed().as_secs_f64() / f64::from(rounds)
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all[SAMPLES / 2]
}

fn bare() -> f64 {
    let key = p384();
    let signature = rcgen::SigningKey::sign(&key, &[7; 150]).expect("a signature");
    let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
    let key = PublicKey::from_spki_der(&spki).expect("a key");
    let scheme = SignatureScheme::Ecdsa(HashAlgorithm::Sha384);
    median(200, || {
        verify(&key, scheme, &[7; 150], &signature).expect("a good signature");
    })
}

/// A tag of real size: 64 measurements of which those count that a real one has.
fn tag(mut tag: Tag, active: impl Fn(u8) -> bool, alternatives: usize) -> Tag {
    let resource = |index: u8| Resource {
        index,
        active: active(index),
        values: vec![[index; 48]; alternatives],
    };
    tag.resources = (0..64).map(resource).collect();
    tag
}

fn said() -> Said {
    let mut said = Said::hopper();
    said.blocks = (0..64).map(|index| (index + 1, vec![index; 48])).collect();
    said
}

/// One GPU and all that is brought for it, as bytes.
struct Brought {
    gpu: Made,
    chain: Vec<u8>,
    signer: Signer,
    rims: [(Slot, String); 2],
    responses: Vec<Vec<u8>>,
}

fn brought() -> Brought {
    let gpu = device_of(five_keys(), "GH100", [1; 8], &said());
    let signer = Signer::new();
    let driver = tag(Tag::driver(&[]), |n| n == 7 || (21..41).contains(&n), 1);
    let vbios = tag(Tag::vbios(&[]), |n| n < 13 && n != 7, 1);
    let rims = [
        (Slot::Driver, signer.rim(&driver)),
        (Slot::Vbios, signer.rim(&vbios)),
    ];
    let key = p384();
    let certificates = &gpu.chain.certificates;
    let responses: Vec<Vec<u8>> = (1..4)
        .map(|place| {
            let by = responder(&gpu.chain, place + 1, &key, |_| ());
            let says = Says {
                subject: &certificates[place],
                issuer: &certificates[place + 1],
                serial: None,
                status: good(),
                next: true,
                by: &key,
                responder: Some(&by),
                extension: Vec::new(),
            };
            says.der()
        })
        .collect();
    let parts = certificates.iter().map(|one| one.as_der());
    let chain = parts.collect::<Vec<&[u8]>>().concat();
    Brought {
        gpu,
        chain,
        signer,
        rims,
        responses,
    }
}

impl Brought {
    fn rims(&self) -> Vec<(Slot, rim::Checked)> {
        let anchors = self.signer.anchors();
        let rims = self.rims.iter();
        rims.map(|(slot, rim)| (*slot, rim::check(rim.as_bytes(), &anchors, AT)))
            .collect()
    }

    fn ocsp(&self) -> Vec<Response> {
        let responses = self.responses.iter();
        responses
            .map(|der| Response::parse(der).expect("a response"))
            .collect()
    }

    /// One report, with all that is known beside it.
    fn verify(
        &self,
        report: &[u8],
        anchors: &Anchors,
        rims: &[(Slot, rim::Checked)],
        ocsp: &[Response],
        memory: Option<&GoodSignatures>,
    ) {
        let chain = Bundle::parse(&self.chain).expect("a chain");
        let devices = [Evidence {
            report,
            chain: Some(&chain),
            stated_nonce: None,
        }];
        let answer = appraise(&Asked {
            devices: &devices,
            anchors,
            nonce: Some(NONCE),
            ocsp,
            crls: &[],
            rims,
            at: AT,
            memory,
        });
        let compared = answer.comparisons[0].as_ref().expect("a comparison");
        assert!(answer.devices[0].refused.is_empty() && compared.good());
        assert_eq!((answer.revocation.len(), compared.matched.len()), (3, 32));
        black_box(&answer);
    }
}

/// Report, chain, two RIMs and three responses, from bytes to answer.
fn full() -> f64 {
    let brought = brought();
    let anchors = brought.gpu.chain.anchors();
    median(ROUNDS, || {
        let (rims, ocsp) = (brought.rims(), brought.ocsp());
        brought.verify(&brought.gpu.report, &anchors, &rims, &ocsp, None);
    })
}

/// The same with a report that never came before, of a GPU whose chain did, beside documents that
/// were checked when they were brought: one signature is left to verify.
fn cached() -> f64 {
    let brought = brought();
    let anchors = brought.gpu.chain.anchors();
    let (rims, ocsp) = (brought.rims(), brought.ocsp());
    let memory = GoodSignatures::new(1024);
    let calls = u32::try_from(SAMPLES).expect("a small number") * ROUNDS;
    let key = &brought.gpu.chain.keys[0];
    let report = |number: u32| said().with(13, &number.to_be_bytes()).signed(key);
    let reports: Vec<Vec<u8>> = (0..calls).map(report).collect();
    let first = &brought.gpu.report;
    brought.verify(first, &anchors, &rims, &ocsp, Some(&memory));
    let before = memory.len();
    let mut next = reports.iter();
    let seconds = median(ROUNDS, || {
        let report = next.next().expect("a report for each call");
        brought.verify(report, &anchors, &rims, &ocsp, Some(&memory));
    });
    assert_eq!(memory.len() - before, reports.len(), "each was verified");
    seconds
}

/// Eight GPUs and four switches that name each other: reports, chains and topology.
fn node() -> f64 {
    let pdi = |n: u8| -> Pdi { [n, 2, 3, 4, 5, 6, 7, n] };
    let gpu_pdis: Vec<Pdi> = (1..=8).map(pdi).collect();
    let switch_pdis: Vec<Pdi> = (101..=104).map(pdi).collect();
    let links: Vec<u8> = switch_pdis
        .iter()
        .flat_map(|pdi| pdi.iter().rev().copied())
        .collect();
    let gpu = said().with(21, &[0xaa]).with(22, &links);
    let gpus = gpu_pdis
        .iter()
        .map(|pdi| device_of(five_keys(), "GH100", *pdi, &gpu));
    let switches = switch_pdis
        .iter()
        .map(|pdi| device_of(five_keys(), "LS_10", *pdi, &Said::switch(*pdi, &gpu_pdis)));
    let all: Vec<Made> = gpus.chain(switches).collect();
    let roots: Vec<_> = all
        .iter()
        .map(|made| made.chain.certificates[4].clone())
        .collect();
    let anchors = Anchors::of(&roots);
    let devices: Vec<Evidence<'_>> = all.iter().map(Made::evidence).collect();
    median(5, || {
        let answer = appraise(&Asked {
            devices: &devices,
            anchors: &anchors,
            nonce: Some(NONCE),
            ocsp: &[],
            crls: &[],
            rims: &[],
            at: AT,
            memory: None,
        });
        assert_eq!(answer.topology, Some(Topology::Whole));
        black_box(answer);
    })
}

/// Megabytes a second of the largest RIM that makes sense, signature and path included.
fn rim_rate() -> f64 {
    let signer = Signer::new();
    let large = signer.rim(&tag(Tag::driver(&[]), |_| true, 60));
    let anchors = signer.anchors();
    let seconds = median(5, || {
        let checked = rim::check(large.as_bytes(), &anchors, AT);
        assert!(checked.refusals.is_empty(), "{:?}", checked.refusals);
        black_box(checked);
    });
    let bytes = u32::try_from(large.len()).expect("a document of bounded size");
    f64::from(bytes) / 1e6 / seconds
}

fn main() {
    let report = serde_json::json!({
        "single_ratio": full() / (bare() * f64::from(CONTAINED)),
        "cached_chain_ratio": cached() / bare(),
        "node_8x4_ms": node() * 1e3,
        "rim_mb_per_s": rim_rate(),
    });
    writeln!(std::io::stdout(), "{report}").expect("stdout");
}
