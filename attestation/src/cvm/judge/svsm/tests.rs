//! What an SVSM of the test's own says of a TPM, and each neighbour that is not believed.

use std::sync::LazyLock;

use super::*;
use crate::cvm::snp::tests::{Made, made, milan};
use crate::cvm::{Endorsements, Keys, judge};
use crate::fixture::SoftTpm;
use crate::ids::UnixTime;
use crate::x509::Certificate;

const AT: UnixTime = UnixTime(1_750_000_000_000);
const QUESTION: [u8; 64] = [5; 64];

static MILAN: LazyLock<Made> = LazyLock::new(|| made(&milan()));

/// `TPMT_PUBLIC` of an EK by the TCG's template, of so many bytes of modulus.
fn ek(last: u8, bytes: u16) -> Vec<u8> {
    let mut out = vec![0, 1, 0, 0x0b, 0, 3, 0, 0xb2, 0, 32];
    out.extend([3; 32]);
    out.extend([0, 6, 0, 128, 0, 0x43, 0, 0x10]);
    out.extend((bytes * 8).to_be_bytes());
    out.extend([0; 4]);
    out.extend(bytes.to_be_bytes());
    out.extend(vec![0xc1; usize::from(bytes) - 1]);
    out.push(last);
    out
}

struct Scene {
    manifest: Vec<u8>,
    /// What the SVSM was asked.
    question: Vec<u8>,
    /// What it keeps.
    keeps: Vec<u8>,
    over: Vec<(usize, Vec<u8>)>,
    /// Whose EK this TPM's is.
    ek: Sha256Digest,
}

impl Scene {
    fn new() -> Self {
        let own = ek(1, 256);
        Self {
            ek: Sha256Digest::of(&[&own]),
            manifest: own.clone(),
            question: QUESTION.to_vec(),
            keeps: own,
            over: Vec::new(),
        }
    }

    fn judge(&self) -> Judged {
        let data = HashAlgorithm::Sha512.digest(&[&self.question, &self.keeps]);
        let data = data.unwrap();
        let mut over: Vec<(usize, &[u8])> = vec![(0x50, data.as_slice())];
        over.extend(self.over.iter().map(|(at, what)| (*at, what.as_slice())));
        let hardware = [(milan().product, MILAN.root_key())];
        let mut endorsements = Endorsements::default().where_hardware_is(&hardware, "");
        let all = [&MILAN.key, &MILAN.ask, &MILAN.root].map(Certificate::clone);
        assert!(endorsements.add_certificates(Sha256Digest([1; 32]), all.to_vec()));
        let ak = SoftTpm::new().ak();
        judge(&Asked {
            kind: "svsm-vtpm",
            report: &MILAN.report_with(&over),
            table: &[],
            report_data: &QUESTION,
            manifest: &self.manifest,
            tpm: Some(Keys {
                ak: ak.key(),
                ek: &self.ek,
            }),
            endorsements: &endorsements,
            crls: &[],
            roots: &[],
            at: AT,
        })
    }
}

#[test]
fn an_svsm_speaks_for_its_tpm_and_each_forgery_is_refused() {
    type Row = (&'static str, fn(&mut Scene), &'static [&'static str]);
    let rows: &[Row] = &[
        ("as it is", |_| {}, &[]),
        (
            "of another TPM",
            |s| s.ek = Sha256Digest([9; 32]),
            &["cvm-vtpm-ek"],
        ),
        (
            "its manifest exchanged for this TPM's",
            |s| s.keeps = ek(3, 256),
            &["cvm-report-data"],
        ),
        (
            "for another question",
            |s| s.question = vec![6; 64],
            &["cvm-report-data"],
        ),
        (
            "asked for by the guest below",
            |s| s.over.push((0x30, vec![2])),
            &["cvm-vtpm-level"],
        ),
        (
            "no manifest",
            |s| {
                s.manifest.clear();
                s.keeps.clear();
            },
            &["cvm-malformed"],
        ),
        (
            "something behind it",
            |s| {
                s.manifest.push(0);
                s.keeps.push(0);
            },
            &["cvm-malformed"],
        ),
        (
            "a key that signs",
            |s| {
                s.manifest[7] = 0x72;
                s.manifest[5] = 5;
                s.keeps.clone_from(&s.manifest);
            },
            &["cvm-malformed"],
        ),
        // Asked a question that goes on with the head of a larger key, whose modulus ends as the EK of
        // the TPM that is kept: the processor would bind that, too.
        (
            "a larger key that ends in the true one",
            |s| {
                let head = ek(1, 512);
                let cut = head.len() - s.keeps.len();
                s.question.extend(&head[..cut]);
                s.manifest = [&head[..cut], &s.keeps].concat();
                s.ek = Sha256Digest::of(&[&s.manifest]);
            },
            &["cvm-malformed"],
        ),
    ];
    for (name, edit, want) in rows {
        let mut scene = Scene::new();
        edit(&mut scene);
        let judged = scene.judge();
        let codes: Vec<_> = judged.faults.iter().map(|fault| fault.code).collect();
        assert_eq!(codes, *want, "{name}: {:?}", judged.faults);
        assert_eq!(judged.proven(), want.is_empty(), "{name}");
        let named = judged.vtpm.is_some_and(|vtpm| vtpm.named && vtpm.fresh);
        assert!(named || !judged.proven(), "{name}");
    }
}
