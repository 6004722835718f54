//! `bailiwick verify` of what a guest said: from the auditor's own approvers and endorsements, offline.

use bailiwick_attestation::appraisal::Status as Word;
use bailiwick_attestation::gpu::Endorsements;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{DeploymentId, UnixTime};
use bailiwick_collector::direct::read_approvers;
use bailiwick_collector::endorsements;
use bailiwick_collector::verify::{Anchors, Outcome, Report, verify};
use bailiwick_policy::approvers::Approvers;
use prost::Message as _;

use crate::client::client;
use crate::guest::{Key, Scene};

struct Auditor {
    deployment: DeploymentId,
    approvers: Approvers,
    endorsements: Endorsements,
}

impl Auditor {
    fn verify(&self, stored: &v1::StoredStatement) -> Report {
        verify(
            stored,
            &Anchors {
                deployment: &self.deployment,
                approvers: &self.approvers,
                roots: &[],
                intermediates: &[],
                iak_roots: &[],
                iak_intermediates: &[],
                endorsements: &self.endorsements,
                keys: None,
            },
        )
    }
}

async fn stored(scene: &Scene) -> v1::StoredStatement {
    let request = v1::GetStatementRequest {
        node: "guest-01".to_owned(),
        digest: Vec::new(),
    };
    let mut operator = scene.stand.operator().await;
    let answer = operator.get_statement(request).await.unwrap();
    answer.into_inner().statement.unwrap()
}

fn guest(stored: &mut v1::StoredStatement) -> &mut v1::GuestEnrolment {
    let enrolment = stored.enrolment.as_mut().unwrap();
    enrolment.guest.as_mut().unwrap()
}

fn report(stored: &mut v1::StoredStatement) -> &mut Vec<u8> {
    let evidence = guest(stored).evidence.as_mut().unwrap();
    &mut evidence.report.as_mut().unwrap().report
}

/// The checks that came out so.
fn of(report: &Report, outcome: Outcome) -> Vec<&'static str> {
    let checks = report.checks.iter();
    let checks = checks.filter(|check| check.outcome == outcome);
    checks.map(|check| check.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guests_statement_is_appraised_again_and_what_was_changed_is_noticed() {
    let scene = Scene::new().await;
    let mut node = scene.joined("guest-01", 1).await;
    assert_eq!(node.said(|_| {}).await, "affirming");
    let good = stored(&scene).await;
    let auditor = Auditor {
        deployment: DeploymentId::new("demo").unwrap(),
        approvers: read_approvers(&scene.stand.dir.path().join("allowed"), 1).unwrap(),
        endorsements: endorsements::read(&scene.store, UnixTime(good.received_ms))
            .unwrap()
            .endorsements,
    };
    let told = auditor.verify(&good);
    assert_eq!(told.outcome(), Outcome::Ok, "{:#?}", told.checks);
    assert_eq!(
        (told.verdict, told.node.as_deref(), told.ak.as_str()),
        (Some(Word::Affirming), Some("guest-01"), "processor")
    );
    let names: Vec<_> = told.checks.iter().map(|check| check.name).collect();
    let want = [
        "policy",
        "enrolment",
        "inventory",
        "report",
        "result",
        "keys",
        "receipt",
    ];
    assert_eq!(names, want);

    let thief = Key::new();
    type Edit<'a> = &'a dyn Fn(&mut v1::StoredStatement);
    let rows: [(&str, Edit<'_>, &str); 8] = [
        (
            "the key",
            &|it| {
                let request = guest(it).request.as_mut().unwrap();
                request.transport_spki = thief.spki();
            },
            "enrolment",
        ),
        ("the nonce", &|it| guest(it).nonce[0] ^= 1, "enrolment"),
        ("the launch", &|it| report(it)[0x90] ^= 1, "enrolment"),
        (
            "the running guest",
            &|it| report(it)[0x140] ^= 1,
            "enrolment",
        ),
        (
            "the name",
            &|it| {
                let request = guest(it).request.as_mut().unwrap();
                request.node = "guest-02".to_owned();
            },
            "enrolment",
        ),
        (
            "the deployment",
            &|it| {
                let request = guest(it).request.as_mut().unwrap();
                request.deployment = "other".to_owned();
            },
            "enrolment",
        ),
        (
            "a TPM beside it",
            &|it| {
                let enrolment = it.enrolment.as_mut().unwrap();
                enrolment.request = Some(v1::EnrollRequest::default());
            },
            "enrolment",
        ),
        (
            "the statement",
            &|it| it.evidence.as_mut().unwrap().statement[10] ^= 1,
            "report",
        ),
    ];
    for (row, edit, check) in rows {
        let mut changed = good.clone();
        edit(&mut changed);
        let told = auditor.verify(&changed);
        // What hangs on it is told otherwise, too.
        let first = of(&told, Outcome::Refused).first().copied();
        assert_eq!(first, Some(check), "{row}: {:#?}", told.checks);
        assert!(!told.verified, "{row}");
    }
    // Without what vouches for processors nothing is refused, and nothing shown.
    let bare = Auditor {
        endorsements: Endorsements::default(),
        ..auditor
    };
    let mut unheld = good.clone();
    guest(&mut unheld)
        .evidence
        .as_mut()
        .unwrap()
        .certificates
        .clear();
    let told = bare.verify(&unheld);
    assert_eq!(told.outcome(), Outcome::Undecided, "{:#?}", told.checks);
    assert_eq!(of(&told, Outcome::Undecided), ["enrolment"]);

    // The program says the same.
    let file = scene.stand.dir.path().join("statement");
    std::fs::write(&file, good.encode_to_vec()).unwrap();
    let approvers = scene.stand.dir.path().join("allowed");
    let words = [
        "verify",
        file.to_str().unwrap(),
        "--approvers",
        approvers.to_str().unwrap(),
        "--threshold",
        "1",
        "--deployment",
        "demo",
        "--endorsements",
        scene.store.to_str().unwrap(),
    ];
    let told = client(&words, None).await;
    let text = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told.status.code(), Some(0), "{text}");
    assert!(text.contains("\nak: processor\n"), "{text}");
}
