//! GPUs made in the test: a node whose GPUs prove themselves, and each neighbour that does not.

mod freshness;
mod guest;
mod place;
mod revocation;
mod roots;
mod verdict;

use prost::Message;

use super::*;
use crate::appraisal::{Finding, GpuAnchor, certified_gpus};
use crate::evidence::gpu_nonce;
use crate::gpu::rim::tests::made::{Signer, Tag};
use crate::gpu::tests::made::{Made, Said, device_of, five_keys};
use crate::gpu::tests::responses::{Says, good, revoked};
use crate::gpu::{Anchors, Response};
use crate::profile::{Provenance, Value};

/// 2026-01-01, when everything that is made counts.
const AT: UnixTime = UnixTime::from_secs(1_767_225_600);
const ASKED: Nonce = Nonce::new([6; 32]);
const GPU: &str = "[gpu]\ncount = 2\nmodes = [\"spt\"]\narchitectures = [\"hopper\"]\n\
                   driver_at_least = \"550.54\"\ndriver_below = \"560.0\"\n\
                   vbios_at_least = \"96.00.9F.00.01\"\n";

/// A node with GPUs under a root of the test, which is taken for NVIDIA's where nothing else is
/// said.
struct Node {
    case: Case,
    gpus: Vec<Made>,
    reports: v1::GpuReports,
    challenge: Nonce,
    signer: Signer,
}

impl Node {
    fn new() -> Self {
        let mut case = Case::ordinary();
        case.now = AT;
        case.statement.wall_time_ms = AT.millis();
        if let Some(previous) = &mut case.previous {
            previous.wall_time = AT;
        }
        case.profile = PROFILE.replace("[tpm]\n", &format!("{GPU}[tpm]\n"));
        let signer = Signer::new();
        let reports = v1::GpuReports {
            count: Some(2),
            mode: Some(v1::GpuMode {
                enabled: true,
                environment: 2,
                multi_gpu: Some(0),
                ready: Some(true),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut node = Self {
            case,
            gpus: Vec::new(),
            reports,
            challenge: ASKED,
            signer,
        };
        node.ask(ASKED, &Said::hopper());
        node.trust(true);
        node
    }

    /// Two GPUs that answer that challenge, saying this.
    fn ask(&mut self, challenge: Nonce, said: &Said) {
        let ak = self.case.tpm.ak();
        self.ask_for(challenge, said, ak.name().as_bytes());
    }

    /// The same for whoever signs under that name.
    fn ask_for(&mut self, challenge: Nonce, said: &Said, name: &[u8]) {
        self.challenge = challenge;
        let nonce = gpu_nonce(&challenge, name);
        let mut said = Said {
            nonce,
            ..said.clone()
        };
        // What no reference value covers is zero.
        for (index, value) in &mut said.blocks {
            if ![1, 2, 8, 22].contains(index) && value[0] == *index {
                *value = vec![0; 48];
            }
        }
        self.gpus = (1..=2)
            .map(|number| {
                let pdi = [0x48, 0xb0, 0x2d, 0, 0, 0, 0, number];
                device_of(five_keys(), "GH100", pdi, &said)
            })
            .collect();
        self.reports.reports = (0..)
            .zip(&self.gpus)
            .map(|(number, gpu)| v1::GpuReport {
                uuid: format!("GPU-{number}"),
                report: gpu.report.clone(),
            })
            .collect();
    }

    fn roots(&self) -> Anchors {
        let roots = self
            .gpus
            .iter()
            .map(|gpu| gpu.chain.certificates[4].clone());
        let mut all: Vec<_> = roots.collect();
        all.extend(self.signer.chain.last().cloned());
        Anchors::of(&all)
    }

    /// Trusts the roots of the test, and what they signed.
    fn trust(&mut self, hardware: bool) {
        let mut own = match hardware {
            true => Endorsements::as_if_hardware(self.roots()),
            false => Endorsements::under(self.roots()),
        };
        for tag in [driver(), Tag::vbios(&[])] {
            let tag = self.values(tag);
            assert!(own.add_rim(self.signer.rim(&tag).as_bytes(), AT));
        }
        self.case.endorsements = own;
    }

    /// Reference values as the made devices have them: block *n* is *n*, 48 times.
    fn values(&self, tag: Tag) -> Tag {
        let indices: &[u8] = match tag.version {
            "550.90.07" => &[7, 21],
            _ => &[0, 1],
        };
        let mut made = Tag {
            resources: Tag::driver(indices).resources,
            ..tag
        };
        for resource in &mut made.resources {
            resource.values = vec![[resource.index + 1; 48]];
        }
        made
    }

    fn cite(&mut self) {
        let chains = v1::GpuChains {
            chains: self.gpus.iter().map(pem_like).collect(),
        };
        let logs = [
            ("gpu", self.reports.encode_to_vec()),
            ("gpu-chains", chains.encode_to_vec()),
        ];
        self.case.statement.gpu = Some(v1::GpuCitation {
            reports: Sha256Digest::of(&[&logs[0].1]).0.to_vec(),
            chains: Sha256Digest::of(&[&logs[1].1]).0.to_vec(),
            challenge: self.challenge.as_bytes().to_vec(),
            asked_boot_ns: 1,
        });
        self.case.logs = logs
            .map(|(name, content)| v1::Log {
                name: name.to_owned(),
                content,
                ..v1::Log::default()
            })
            .into();
    }

    fn result(&mut self) -> AttestationResult {
        self.cite();
        self.case.appraise()
    }

    fn codes(&mut self) -> Vec<(String, Finding)> {
        codes(&self.result())
    }

    fn profile(&mut self, from: &str, to: &str) {
        assert!(self.case.profile.contains(from), "{from}");
        self.case.profile = self.case.profile.replace(from, to);
    }
}

fn driver() -> Tag {
    Tag::driver(&[])
}

/// DER, one behind the other, as a bundle reads it.
fn pem_like(made: &Made) -> Vec<u8> {
    made.chain
        .certificates
        .iter()
        .flat_map(|one| one.as_der().to_vec())
        .collect()
}

fn codes(result: &AttestationResult) -> Vec<(String, Finding)> {
    let gpus = result.deviations().filter(|d| d.claim.starts_with("gpu."));
    let mut codes: Vec<_> = gpus.map(|d| (d.code.clone(), d.finding)).collect();
    codes.dedup();
    codes
}

fn claim(result: &AttestationResult, name: &str) -> Option<(Value, Provenance)> {
    let claim = result.submods.get("gpu")?.claims.get(name)?;
    Some((claim.value.clone(), claim.provenance))
}
