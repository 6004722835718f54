//! GPUs made in the test: a node whose GPUs prove themselves, and each neighbour that does not.

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
        self.challenge = challenge;
        let nonce = gpu_nonce(&challenge, self.case.tpm.ak().name().as_bytes());
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

#[test]
fn gpus_that_prove_themselves_are_affirmed_and_say_by_whose_word() {
    let mut node = Node::new();
    let result = node.result();
    assert_eq!(codes(&result), []);
    assert_eq!(result.status, Status::Affirming);
    let hardware = Provenance::HardwareSigned;
    let text = |text: &str| Value::Text(text.to_owned());
    for (name, want) in [
        ("gpu.hardware", Value::Flag(true)),
        ("gpu.reports", Value::Number(2)),
        ("gpu.age_seconds", Value::Number(0)),
        ("gpu.0.architecture", text("HOPPER")),
        ("gpu.1.driver", text("550.90.07")),
        ("gpu.0.vbios", text("96.00.9F.00.01")),
        ("gpu.0.mode", text("spt")),
        ("gpu.1.pdi", text("48b02d0000000002")),
        ("gpu.0.measurements", text("4 of 4 match")),
    ] {
        assert_eq!(claim(&result, name), Some((want, hardware)), "{name}");
    }
    assert!(result.shows("gpu.hardware"));
    let evidence = node.case.verify().unwrap();
    let certified = certified_gpus(&evidence, &node.case.endorsements, AT);
    assert_eq!(certified, ["PDI-48b02d0000000001", "PDI-48b02d0000000002"]);
}

#[test]
fn a_double_is_never_hardware() {
    // Under NVIDIA's root alone; under a root that somebody configured; played again.
    let mut pinned = Node::new();
    pinned.case.endorsements = Endorsements::default();
    let mut configured = Node::new();
    configured.trust(false);
    let mut replayed = Node::new();
    let other = Nonce::new([7; 32]);
    replayed.ask(other, &Said::hopper());
    replayed.challenge = ASKED;
    replayed.trust(true);
    for (name, mut node, more) in [
        ("no root", pinned, "chain-root"),
        ("another root", configured, ""),
        ("played again", replayed, "nonce-mismatch"),
    ] {
        let result = node.result();
        let codes = codes(&result);
        let refused = |code: &str| codes.contains(&(code.to_owned(), Finding::Refused));
        assert!(refused("not-hardware"), "{name}: {codes:?}");
        assert!(more.is_empty() || refused(more), "{name}: {codes:?}");
        assert_eq!(result.status, Status::Contraindicated, "{name}");
        let word = (Value::Flag(false), Provenance::SelfReported);
        assert_eq!(claim(&result, "gpu.hardware"), Some(word.clone()), "{name}");
        assert_eq!(claim(&result, "gpu.0.hardware"), Some(word), "{name}");
        assert!(!result.shows("gpu.hardware"), "{name}");
        let why = result
            .deviations()
            .find(|d| d.code == "not-hardware")
            .unwrap();
        assert!(why.found.contains("not hardware"), "{name}: {}", why.found);
        let evidence = node.case.verify().unwrap();
        let certified = certified_gpus(&evidence, &node.case.endorsements, AT);
        // One that is played again is somebody's GPU: two nodes that show it are an alert.
        assert_eq!(
            certified.len(),
            2 * usize::from(name == "played again"),
            "{name}"
        );
    }
}

#[test]
fn each_condition_of_the_profile_changes_the_verdict() {
    use Finding::{Refused, Unchecked};
    type Row<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, Finding)]);
    let rows: &[Row<'_>] = &[
        ("all as it may be", "", "", &[]),
        (
            "another mode",
            "\"spt\"",
            "\"ppcie\"",
            &[("gpu-mode", Refused)],
        ),
        ("either mode", "\"spt\"", "\"ppcie\", \"spt\"", &[]),
        (
            "another family",
            "\"hopper\"",
            "\"blackwell\"",
            &[("gpu-architecture", Refused)],
        ),
        (
            "a newer driver",
            "\"550.54\"",
            "\"550.90.08\"",
            &[("gpu-driver", Refused)],
        ),
        (
            "an older driver",
            "\"560.0\"",
            "\"550.90.07\"",
            &[("gpu-driver", Refused)],
        ),
        (
            "a newer VBIOS",
            "9F.00.01",
            "9F.00.02",
            &[("gpu-vbios", Refused)],
        ),
        (
            "more GPUs",
            "count = 2",
            "count = 8",
            &[("gpu-count", Refused)],
        ),
        (
            "fewer GPUs",
            "count = 2",
            "count = 1",
            &[("gpu-count", Refused)],
        ),
        (
            "other reference values",
            "count = 2",
            "count = 2\nrims = [\"abababababababababababababababababababababababababababababababab\"]",
            &[("rim-missing", Unchecked)],
        ),
        (
            "revocation",
            "count = 2",
            "count = 2\nrevocation_seconds = 86400",
            &[("revocation-unknown", Unchecked)],
        ),
    ];
    for (name, from, to, want) in rows {
        let mut node = Node::new();
        node.profile(from, to);
        let result = node.result();
        let want: Vec<_> = want
            .iter()
            .map(|(code, it)| ((*code).to_owned(), *it))
            .collect();
        assert_eq!(codes(&result), want, "{name}");
        let status = match want.first() {
            None => Status::Affirming,
            Some((_, Refused)) => Status::Contraindicated,
            Some(_) => Status::None,
        };
        assert_eq!(result.status, status, "{name}");
    }
}

#[test]
fn without_a_section_nothing_is_asked_and_what_is_said_is_shown() {
    let mut node = Node::new();
    node.case.profile = PROFILE.to_owned();
    node.case.endorsements = Endorsements::default();
    let result = node.result();
    assert_eq!((codes(&result), result.status), (vec![], Status::Affirming));
    let word = (Value::Flag(false), Provenance::SelfReported);
    assert_eq!(claim(&result, "gpu.hardware"), Some(word));
    // And a requirement by name finds it.
    node.case.profile.push_str(
        "[[require]]\nclaim = \"gpu.hardware\"\nis = true\nprovenance = \"hardware-signed\"\n",
    );
    assert_eq!(
        node.codes(),
        [("claim-provenance".to_owned(), Finding::Refused)]
    );
    // Without GPUs there is no part of the result about them.
    let mut without = Case::ordinary();
    without.profile = PROFILE.to_owned();
    assert!(!without.appraise().submods.contains_key("gpu"));
}

#[test]
fn what_is_not_there_or_did_not_answer_is_told_apart() {
    use Finding::{Refused, Unchecked};
    type Edit = fn(&mut Node);
    type Row<'a> = (&'a str, Edit, &'a [(&'a str, Finding)]);
    let rows: &[Row<'_>] = &[
        (
            "a GPU failed",
            |node| {
                node.reports.reports.truncate(1);
                node.gpus.truncate(1);
                node.reports.stopped = "GPU 1: lost".to_owned();
            },
            &[("gpu-not-proven", Refused), ("gpu-count", Refused)],
        ),
        (
            "one was left out",
            |node| node.reports.count = Some(3),
            &[("gpu-not-proven", Refused)],
        ),
        (
            "nobody counted",
            |node| node.reports.count = None,
            &[("gpu-not-proven", Refused)],
        ),
        (
            "torn down",
            |node| {
                node.reports.reports.clear();
                node.gpus.clear();
                node.reports.mode = Some(v1::GpuMode::default());
            },
            &[
                ("gpu-mode", Refused),
                ("gpu-not-proven", Refused),
                ("gpu-count", Refused),
            ],
        ),
        (
            "developers' mode",
            |node| {
                node.reports.mode.as_mut().unwrap().devtools = true;
            },
            &[("gpu-devtools", Refused)],
        ),
        (
            "developers' mode, allowed",
            |node| {
                node.reports.mode.as_mut().unwrap().devtools = true;
                node.profile("count = 2", "count = 2\ndevtools = true");
            },
            &[],
        ),
        (
            "one answers twice",
            |node| {
                node.gpus.pop();
                let again = node.reports.reports[0].report.clone();
                node.reports.reports[1].report = again;
                let first = &node.gpus[0];
                let copy = Made {
                    chain: crate::gpu::tests::made::Chain {
                        certificates: first.chain.certificates.clone(),
                        keys: Vec::new(),
                    },
                    bundle: first.bundle.clone(),
                    report: first.report.clone(),
                };
                node.gpus.push(copy);
            },
            &[("topology", Refused)],
        ),
        (
            "made for no challenge that is known",
            |node| {
                node.ask(Nonce::new([8; 32]), &Said::hopper());
                node.trust(true);
            },
            &[("gpu-unanchored", Unchecked)],
        ),
    ];
    for (name, edit, want) in rows {
        let mut node = Node::new();
        edit(&mut node);
        let want: Vec<_> = want
            .iter()
            .map(|(code, it)| ((*code).to_owned(), *it))
            .collect();
        assert_eq!(node.codes(), want, "{name}");
    }
    // No citation at all, and one of what nobody kept.
    let mut silent = Node::new().case;
    assert_eq!(
        codes(&silent.appraise()),
        [("gpu-missing".to_owned(), Refused)]
    );
    silent.statement.claims.push(v1::Claim {
        name: "nvml.reports".to_owned(),
        source: "nvml".to_owned(),
        value: Some(v1::claim::Value::Unavailable(
            "asked a moment ago".to_owned(),
        )),
    });
    assert_eq!(
        codes(&silent.appraise()),
        [("gpu-unavailable".to_owned(), Unchecked)]
    );
    let mut lost = Node::new();
    lost.cite();
    lost.case.logs.clear();
    assert_eq!(
        codes(&lost.case.appraise()),
        [("gpu-not-kept".to_owned(), Unchecked)]
    );
}

#[test]
fn reports_are_those_cited_and_kept_ones_will_do() {
    let mut node = Node::new();
    node.cite();
    let logs = std::mem::take(&mut node.case.logs);
    let mut verified = node.case.verify().unwrap();
    assert_eq!(verified.lacks().len(), 2);
    verified.keep("gpu", &logs[1].content.clone().into());
    assert_eq!(verified.lacks().len(), 2, "other bytes are left out");
    for log in &logs {
        verified.keep(&log.name, &log.content.clone().into());
    }
    assert_eq!(verified.lacks(), []);
    let result = node.case.appraise_verified(&verified);
    assert_eq!(result.status, Status::Affirming);
    // What comes along has to be what the statement cites.
    node.case.logs = logs;
    node.case.logs[0].content.push(0);
    assert!(matches!(
        node.case.verify(),
        Err(EvidenceRefused::Envelope { field: "logs", .. })
    ));
    node.case.logs[0].content.pop();
    node.case.statement.gpu = None;
    assert!(node.case.verify().is_err(), "and cited at all");
}

#[test]
fn a_report_ages_by_the_tpms_clock_and_ends_with_its_boot() {
    let mut node = Node::new();
    node.cite();
    let first = node.case.verify().unwrap();
    let anchored = Previous::after(&first, node.case.previous.as_ref());
    let anchor = anchored.gpu.unwrap();
    assert_eq!((anchor.challenge, anchor.clock_ms), (ASKED, 1000));
    // The next statement answers another challenge and cites the same.
    let answer = |node: &mut Node, clock: u64, reset: u32, anchor: Option<GpuAnchor>| {
        node.case.freshness = Freshness::Challenged(Nonce::new([9; 32]));
        node.case.tpm.clock.clock = clock;
        node.case.tpm.clock.reset_count = reset;
        let previous = node.case.previous.as_mut().unwrap();
        previous.gpu = anchor;
        previous.boot.reset_count = reset;
        previous.clock.reset_count = reset;
        let result = node.result();
        let evidence = node.case.verify().unwrap();
        let next = Previous::after(&evidence, node.case.previous.as_ref());
        (codes(&result), claim(&result, "gpu.age_seconds"), next.gpu)
    };
    let old = ("gpu-report-old".to_owned(), Finding::Refused);
    let unknown = ("gpu-unanchored".to_owned(), Finding::Unchecked);
    let seconds = |age| Some((Value::Number(age), Provenance::HardwareSigned));
    let limit = 5400 * 1000 + 1000;
    let rows = [
        (
            "an hour",
            3_601_000,
            7,
            Some(anchor),
            vec![],
            seconds(3600),
            Some(anchor),
        ),
        (
            "the last second",
            limit,
            7,
            Some(anchor),
            vec![],
            seconds(5400),
            Some(anchor),
        ),
        (
            "too old",
            limit + 1000,
            7,
            Some(anchor),
            vec![old],
            seconds(5401),
            Some(anchor),
        ),
        (
            "another boot",
            3_601_000,
            8,
            Some(anchor),
            vec![unknown.clone()],
            None,
            None,
        ),
        (
            "nobody knows it",
            3_601_000,
            7,
            None,
            vec![unknown.clone()],
            None,
            None,
        ),
        (
            "another report",
            3_601_000,
            7,
            Some(GpuAnchor {
                reports: Sha256Digest([0; 32]),
                ..anchor
            }),
            vec![unknown.clone()],
            None,
            None,
        ),
        (
            "another challenge",
            3_601_000,
            7,
            Some(GpuAnchor {
                challenge: Nonce::new([0; 32]),
                ..anchor
            }),
            vec![unknown],
            None,
            None,
        ),
    ];
    for (name, clock, reset, anchor, want, age, next) in rows {
        let got = answer(&mut node, clock, reset, anchor);
        assert_eq!(got, (want, age, next), "{name}");
    }
}

#[test]
fn what_the_driver_says_is_held_against_what_the_gpu_signed() {
    let said = |name: &str, value: &str| v1::Claim {
        name: name.to_owned(),
        source: "nvml".to_owned(),
        value: Some(v1::claim::Value::Text(value.to_owned())),
    };
    let rows = [
        ("nvml.driver-version", "550.90.07", "550.90.12", 2),
        ("nvidia.driver-version", "550.90.07", "580.65.06", 2),
        ("nvml.gpu.1.vbios", "96.00.9f.00.01", "96.00.9F.00.02", 1),
        ("nvml.gpu.0.pdi", "48b02d0000000001", "48b02d0000000003", 1),
    ];
    for (name, right, wrong, times) in rows {
        for (value, want) in [(right, 0), (wrong, times)] {
            let mut node = Node::new();
            for (number, uuid) in ["GPU-0", "GPU-1"].iter().enumerate() {
                let claim = said(&format!("nvml.gpu.{number}.uuid"), uuid);
                node.case.statement.claims.push(claim);
            }
            let count = v1::claim::Value::Number(2);
            node.case.statement.claims.push(v1::Claim {
                name: "nvml.gpus".to_owned(),
                source: "nvml".to_owned(),
                value: Some(count),
            });
            node.case.statement.claims.push(said(name, value));
            let result = node.result();
            let told = result.deviations().filter(|d| d.code == "gpu-disagreement");
            assert_eq!(told.count(), want, "{name} = {value}");
        }
    }
}

#[test]
fn measurements_and_their_signers_are_judged() {
    use Finding::{Refused, Unchecked};
    let one = |code: &str, finding| vec![(code.to_owned(), finding)];
    let mut other = Node::new();
    let mut said = Said::hopper();
    said.blocks[7].1 = vec![0xee; 48];
    other.ask(ASKED, &said);
    other.trust(true);
    assert_eq!(other.codes(), one("measurement-mismatch", Refused));

    let mut more = Node::new();
    let mut said = Said::hopper();
    said.blocks[41].1 = vec![0xee; 48];
    more.ask(ASKED, &said);
    more.trust(true);
    assert_eq!(more.codes(), one("uncovered-measurement", Finding::Warning));
    more.profile("count = 2", "count = 2\nuncovered = [41]");
    assert_eq!(more.codes(), []);

    let mut none = Node::new();
    none.case.endorsements = Endorsements::as_if_hardware(none.roots());
    assert_eq!(none.codes(), one("rim-missing", Unchecked));
    none.profile("count = 2", "count = 2\nmeasurements = false");
    assert_eq!(none.codes(), []);

    // 2028: the signer's certificate has run out, and a pin says that it counts on.
    let late = UnixTime::from_secs(1_830_000_000);
    let mut node = Node::new();
    let mut digests = Vec::new();
    let mut own = Endorsements::as_if_hardware(node.roots());
    for tag in [driver(), Tag::vbios(&[])] {
        let tag = node.values(tag);
        let rim = node.signer.rim(&tag);
        digests.push(Sha256Digest::of(&[rim.as_bytes()]).to_string());
        assert!(own.add_rim(rim.as_bytes(), late));
    }
    node.case.endorsements = own;
    assert_eq!(node.codes(), one("rim-signer-expired", Refused));
    let pins = format!("count = 2\nexpired_rims = true\nrims = {digests:?}");
    node.profile("count = 2", &pins);
    assert_eq!(node.codes(), []);
}

#[test]
fn firmware_is_named_by_drivers_that_can() {
    let mut node = Node::new();
    node.ask(ASKED, &Said::hopper().without(&[20]));
    node.trust(true);
    assert_eq!(
        node.codes(),
        [("fwid-not-reported".to_owned(), Finding::Refused)]
    );
    let mut old = Node::new();
    old.profile("550.54", "535.0");
    old.ask(
        ASKED,
        &Said::hopper().without(&[20]).with(3, b"535.86.09\0"),
    );
    old.trust(true);
    old.profile("count = 2", "count = 2\nmeasurements = false");
    assert_eq!(old.codes(), []);
}

#[test]
fn revocation_is_asked_for_each_ca_and_for_its_time() {
    // Responses are of 2026-01-01, an hour before.
    let node = |status: Option<Vec<u8>>| {
        let mut node = Node::new();
        node.case.now = UnixTime(AT.millis() + 3_600_000);
        node.case.statement.wall_time_ms += 3_600_000;
        node.profile("count = 2", "count = 2\nrevocation_seconds = 86400");
        for gpu in &node.gpus {
            for place in 1..4 {
                let chain = &gpu.chain;
                let says = Says {
                    subject: &chain.certificates[place],
                    issuer: &chain.certificates[place + 1],
                    serial: None,
                    status: match (&status, place) {
                        (Some(other), 2) => other.clone(),
                        _ => good(),
                    },
                    next: true,
                    by: &chain.keys[place + 1],
                    responder: None,
                    extension: Vec::new(),
                };
                let response = Response::parse(&says.der()).unwrap();
                node.case.endorsements.add_ocsp(response);
            }
        }
        node
    };
    let mut fresh = node(None);
    assert_eq!(fresh.codes(), []);
    fresh.profile("86400", "3600");
    assert_eq!(fresh.codes(), []);
    let unknown = ("revocation-unknown".to_owned(), Finding::Unchecked);
    fresh.profile("3600", "3599");
    assert_eq!(fresh.codes(), std::slice::from_ref(&unknown));
    let mut gone = node(Some(revoked(Some(1))));
    let bad = ("ocsp-revoked".to_owned(), Finding::Refused);
    assert_eq!(gone.codes(), [unknown, bad.clone()]);
    // What is known to be revoked counts, asked for or not.
    gone.profile("revocation_seconds = 86400", "");
    assert_eq!(gone.codes(), [bad]);
}
