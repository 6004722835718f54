//! A stored statement in an auditor's hands: it verifies with the auditor's own anchors, and
//! whatever was changed in it since is noticed.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod stand;

use bailiwick_attestation::DeploymentId;
use bailiwick_attestation::appraisal::Status;
use bailiwick_attestation::gpu::Endorsements;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::x509::Bundle;
use bailiwick_collector::direct::read_approvers;
use bailiwick_collector::verify::{Anchors, Outcome, Report, verify};
use bailiwick_policy::approvers::Approvers;
use prost::Message as _;
use stand::{Maker, Stand, entry};

/// Anchors an auditor might bring.
struct Auditor {
    deployment: DeploymentId,
    approvers: Approvers,
    root: String,
}

impl Auditor {
    fn verify(&self, stored: &v1::StoredStatement) -> Report {
        let roots = Bundle::parse(self.root.as_bytes()).unwrap().certificates;
        verify(
            stored,
            &Anchors {
                keys: None,
                endorsements: &Endorsements::default(),
                deployment: &self.deployment,
                approvers: &self.approvers,
                roots: &roots,
                intermediates: &[],
                iak_roots: &[],
                iak_intermediates: &[],
            },
        )
    }
}

/// An affirmed statement as the collector hands it out, with the AK confirmed or not.
async fn stored(confirmed: bool) -> (Stand, v1::StoredStatement, Auditor) {
    let mut stand = Stand::new().await;
    let mut machine = stand.machine("gpu-01");
    let inventory = if confirmed {
        stand.confirmed("gpu-01", &machine)
    } else {
        // That an AK stands in a signed inventory does not say that anybody challenged it.
        format!("{}ak = \"{}\"\n", entry("gpu-01", &machine), machine.ak())
    };
    let manifest = stand.apply(&inventory).await;
    stand.meet(&mut machine);
    let enrolled = machine.enroll(&stand.maker).await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let statement = machine.statement(&stand, Some(manifest)).encode_to_vec();
    let evidence = machine.quote(&statement, stream.nonce).await;
    let came = stream.evidence(evidence).await.unwrap();
    assert_eq!(came.code(), "accepted");
    let request = v1::GetStatementRequest {
        node: "gpu-01".into(),
        digest: Vec::new(),
    };
    let mut operator = stand.operator().await;
    let answer = operator.get_statement(request).await.unwrap().into_inner();
    let auditor = Auditor {
        deployment: DeploymentId::new("demo").unwrap(),
        approvers: read_approvers(&stand.dir.path().join("allowed"), 1).unwrap(),
        root: stand.maker.root.clone(),
    };
    (stand, answer.statement.unwrap(), auditor)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_statement_verifies_with_the_auditors_own_anchors() {
    for (confirmed, ak) in [(false, "collector's word"), (true, "confirmed by alice")] {
        let (_stand, stored, auditor) = stored(confirmed).await;
        let report = auditor.verify(&stored);
        assert_eq!(report.outcome(), Outcome::Ok, "{:#?}", report.checks);
        assert!(report.verified);
        assert_eq!(report.verdict, Some(Status::Affirming));
        assert_eq!(report.node.as_deref(), Some("gpu-01"));
        assert_eq!(report.ak, ak);
        let names: Vec<_> = report.checks.iter().map(|check| check.name).collect();
        let want = [
            "policy",
            "ek",
            "inventory",
            "quote",
            "result",
            "keys",
            "receipt",
        ];
        assert_eq!(names, want);
    }
}

/// The checks that refused.
fn refused(report: &Report) -> Vec<&'static str> {
    let refused = |check: &&bailiwick_collector::verify::Check| check.outcome == Outcome::Refused;
    let checks = report.checks.iter().filter(refused);
    checks.map(|check| check.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_changed_since_is_noticed() {
    type Edit = fn(&mut v1::StoredStatement);
    let (_stand, good, auditor) = stored(false).await;
    let cases: [(&str, Edit, &[&str]); 13] = [
        (
            "statement",
            |s| s.evidence.as_mut().unwrap().statement[10] ^= 1,
            &["quote"],
        ),
        (
            "register value",
            |s| s.evidence.as_mut().unwrap().pcrs[0].values[0].digest[0] ^= 1,
            &["quote"],
        ),
        (
            "verdict",
            |s| {
                let text = String::from_utf8(s.result.clone()).unwrap();
                s.result = text.replace("affirming", "warning").into_bytes();
            },
            &["result"],
        ),
        ("result that is none", |s| s.result.clear(), &["result"]),
        (
            "time of receipt",
            |s| s.received_ms += 60_000,
            &["result", "receipt"],
        ),
        (
            "log entry",
            |s| *s.receipt.as_mut().unwrap().entry.last_mut().unwrap() = b'x',
            &["receipt"],
        ),
        (
            "checkpoint",
            |s| {
                let note = &mut s.receipt.as_mut().unwrap().checkpoint;
                let at = note.len() - 10;
                note[at] = if note[at] == b'A' { b'B' } else { b'A' };
            },
            &["receipt"],
        ),
        (
            "inventory",
            |s| {
                let files = &mut s.policy.as_mut().unwrap().files;
                let file = files.iter_mut().find(|file| file.path == "inventory.toml");
                file.unwrap().content.push(b'\n');
            },
            &["policy", "result", "receipt"],
        ),
        (
            "signature of the policy",
            |s| s.policy.as_mut().unwrap().signatures.clear(),
            &["policy", "result", "receipt"],
        ),
        (
            "chain of the EK as recorded",
            |s| s.enrolment.as_mut().unwrap().ek_chain[0][20] ^= 1,
            &["ek"],
        ),
        (
            "certificate of the EK as presented",
            |s| {
                let request = s.enrolment.as_mut().unwrap().request.as_mut();
                *request.unwrap().ek_certificates[0].last_mut().unwrap() ^= 1;
            },
            &["ek"],
        ),
        (
            "AK that could lie",
            |s| {
                let request = s.enrolment.as_mut().unwrap().request.as_mut();
                request.unwrap().ak_public[5] ^= 1;
            },
            &["ak"],
        ),
        (
            "EK",
            |s| {
                let request = s.enrolment.as_mut().unwrap().request.as_mut();
                *request.unwrap().ek_public.last_mut().unwrap() ^= 1;
            },
            &["ek", "result", "receipt"],
        ),
    ];
    for (name, edit, want) in cases {
        let mut stored = good.clone();
        edit(&mut stored);
        let report = auditor.verify(&stored);
        assert!(!report.verified, "{name}");
        assert_eq!(refused(&report), want, "{name}: {:#?}", report.checks);
    }
    // What is missing is undecided, not refused.
    let cases: [(&str, Edit); 3] = [
        ("no receipt", |s| s.receipt = None),
        ("no evidence", |s| s.evidence = None),
        ("another format", |s| s.format = 2),
    ];
    for (name, edit) in cases {
        let mut stored = good.clone();
        edit(&mut stored);
        let report = auditor.verify(&stored);
        assert_eq!(report.outcome(), Outcome::Undecided, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_own_trust_anchors_are_not_believed() {
    let (_stand, stored, auditor) = stored(false).await;
    let other = Stand::new().await;
    let cases = [
        (
            "another maker",
            Auditor {
                root: Maker::new("maker").root,
                deployment: auditor.deployment.clone(),
                approvers: auditor.approvers.clone(),
            },
            vec!["ek"],
        ),
        (
            "other approvers",
            Auditor {
                root: auditor.root.clone(),
                deployment: auditor.deployment.clone(),
                approvers: read_approvers(&other.dir.path().join("allowed"), 1).unwrap(),
            },
            vec!["policy", "result", "keys"],
        ),
        (
            "another deployment",
            Auditor {
                root: auditor.root.clone(),
                deployment: DeploymentId::new("other").unwrap(),
                approvers: auditor.approvers.clone(),
            },
            vec!["policy", "deployment", "result", "keys"],
        ),
    ];
    for (name, auditor, want) in cases {
        let report = auditor.verify(&stored);
        assert_eq!(refused(&report), want, "{name}: {:#?}", report.checks);
    }
}
