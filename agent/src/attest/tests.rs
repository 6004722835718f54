use std::path::Path;

use bailiwick_attestation::{
    appraisal::VerifiedEvidence,
    events::Entry,
    evidence::Nonce,
    proto::v1::{LeaseTurned, log_entry::What},
    tlog::{Head, head_follows},
    tpm::{AkPublic, Public},
};

use bailiwick_attestation::evidence::tee_report_data;

use super::*;
use crate::{
    collect::tee::double::{Double, Play},
    tpm::{Tpm, testing::SoftTpm},
};

struct Scene {
    soft: SoftTpm,
    config: Config,
}

impl Scene {
    fn new() -> Self {
        let soft = SoftTpm::blank();
        let root = soft.path("host");
        std::fs::create_dir_all(root.join("sys/kernel/random")).unwrap();
        std::fs::copy(
            "/proc/sys/kernel/random/boot_id",
            root.join("sys/kernel/random/boot_id"),
        )
        .unwrap();
        let text = format!(
            "deployment = \"demo\"\nnode = \"gpu-01\"\nstate_dir = {:?}\n[collector]\n\
             enroll = \"a:1\"\nevidence = \"a:1\"\n[policy]\napprovers = \"a\"\nthreshold = 1\n\
             [host]\nproc = {root:?}\nsys = {root:?}\n[fence]\nlog = {:?}\n",
            soft.path("state"),
            soft.path("fence.log"),
        );
        let config = Config::parse(Path::new("agent.toml"), &text).unwrap();
        Self { soft, config }
    }

    fn open(&self) -> (Attester, Vec<Item>, AkPublic) {
        let tpm = Tpm::open(self.soft.settings()).unwrap();
        let ak = AkPublic::new(Public::parse(&tpm.identity().ak_public).unwrap()).unwrap();
        let host = Host::of(&self.config);
        let approvers = Sha256Digest([1; 32]);
        let (attester, kept) = Attester::open(&self.config, &tpm.into(), host, approvers).unwrap();
        (attester, kept, ak)
    }
}

fn challenged() -> Freshness {
    Freshness::Challenged(Nonce::new([7; 32]))
}

fn statement(envelope: &Evidence) -> Statement {
    Statement::decode(envelope.statement.as_slice()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_chain_verify_and_survive_a_restart() {
    let scene = Scene::new();
    let (mut attester, kept, ak) = scene.open();
    assert_eq!(kept, []);
    let facts = Facts::default();
    let first = attester.make(&facts, challenged(), true).await.unwrap();
    let second = attester.make(&facts, challenged(), true).await.unwrap();
    for made in [&first, &second] {
        let verified = VerifiedEvidence::verify(&made.envelope, &ak, &challenged()).unwrap();
        assert_eq!(verified.statement().digest, made.item.digest);
    }
    assert_eq!(statement(&first.envelope).previous, None);
    assert_eq!(
        statement(&second.envelope).previous,
        Some(first.item.digest.0.to_vec())
    );
    let (quoted, _) = attester.quoted();
    assert_eq!(quoted.len(), 2, "a lease may answer either");

    // As history: the same bytes, another nonce, another pair of clocks.
    let (receipt, number) = attester.unchallenged();
    let history = Freshness::Unchallenged {
        last_receipt: receipt,
        number,
    };
    let again = attester.requote(second.item, history).await.unwrap();
    assert_eq!(again.statement, second.envelope.statement);
    VerifiedEvidence::verify(&again, &ak, &history).unwrap();
    assert_eq!(attester.quoted().0.len(), 2);
    drop(attester);

    let (mut attester, kept, _) = scene.open();
    assert_eq!(kept, [first.item, second.item]);
    let third = attester.make(&facts, challenged(), true).await.unwrap();
    assert_eq!(statement(&third.envelope).sequence, 2);
    assert_eq!(statement(&third.envelope).epoch, 0);
    drop(attester);

    // A chain that is one statement behind, as after a crash between spool and chain.
    std::fs::remove_file(scene.soft.path("state/chain")).unwrap();
    let (mut attester, _, _) = scene.open();
    let fourth = attester.make(&facts, challenged(), true).await.unwrap();
    assert_eq!(statement(&fourth.envelope).sequence, 3);
    assert_eq!(
        statement(&fourth.envelope).previous,
        Some(third.item.digest.0.to_vec())
    );
}

/// The report is asked for behind the quote, over the same statement under the same challenge, and
/// names the AK; the statement after says that there was one.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_brings_its_processors_report_beside_each_quote() {
    let double = Double::start(Play::default());
    let mut scene = Scene::new();
    scene.config.tee.reports.clone_from(&double.root);
    let (mut attester, _, ak) = scene.open();
    let facts = Facts::default();
    let first = attester.make(&facts, challenged(), true).await.unwrap();
    let second = attester.make(&facts, challenged(), true).await.unwrap();
    let again = attester.requote(second.item, challenged()).await.unwrap();
    let said = |envelope: &Evidence| {
        let claims = statement(envelope).claims.into_iter();
        let mut said = claims.filter(|claim| claim.name == "tee.report");
        said.next().and_then(|claim| claim.value)
    };
    for envelope in [&first.envelope, &second.envelope, &again] {
        VerifiedEvidence::verify(envelope, &ak, &challenged()).unwrap();
        let name = ak.name();
        let data = tee_report_data(&challenged(), &envelope.statement, name.as_bytes());
        let report = envelope.tee.clone().and_then(|tee| tee.report).unwrap();
        let want = [&b"report of "[..], &data].concat();
        assert_eq!((report.kind.as_str(), report.report), ("sev-snp", want));
    }
    assert_eq!(said(&first.envelope), None);
    let text = Value::Text("sev-snp".to_owned());
    assert_eq!(said(&second.envelope), Some(text));
    // Kept with the statement, as it was.
    let kept = attester.kept(second.item.index.unwrap()).unwrap();
    assert_eq!(kept.tee, second.envelope.tee);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_log_is_a_new_epoch() {
    let scene = Scene::new();
    let (mut attester, _, _) = scene.open();
    let facts = Facts::default();
    attester.make(&facts, challenged(), true).await.unwrap();
    drop(attester);
    std::fs::remove_dir_all(scene.soft.path("state")).unwrap();
    let (mut attester, kept, _) = scene.open();
    assert_eq!(kept, []);
    let made = attester.make(&facts, challenged(), true).await.unwrap();
    let made = statement(&made.envelope);
    assert!(made.epoch > 0, "the AK is older than this log");
    assert_eq!((made.sequence, made.previous), (0, None));
}

fn head(envelope: &Evidence) -> Head {
    Head::of(&statement(envelope).log.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_names_the_log_and_proves_that_it_only_grew() {
    let scene = Scene::new();
    let (mut attester, _, _) = scene.open();
    let facts = Facts::default();
    let first = attester.make(&facts, challenged(), true).await.unwrap();
    assert_eq!(head(&first.envelope).size, 2, "epoch and boot");
    attester.note(lease()).unwrap();
    let mut second = attester.make(&facts, challenged(), true).await.unwrap();
    attester.prove(&mut first.envelope.clone());
    attester.prove(&mut second.envelope);
    let (before, after) = (head(&first.envelope), head(&second.envelope));
    assert_eq!(second.envelope.log_consistency, attester.log.prove(0, 3));
    attester.accepted(&first.item.digest).unwrap();
    // Accepted meanwhile: the proof begins there.
    attester.prove(&mut second.envelope);
    let proof = second.envelope.log_consistency.as_ref();
    assert_eq!(proof.unwrap().from_size, before.size);
    head_follows(&before, &after, proof).unwrap();
    drop(attester);

    // The same boot: nothing is added, and the proof still begins where it has to.
    let (mut attester, kept, _) = scene.open();
    let mut again = attester.kept(kept[1].index.unwrap()).unwrap();
    attester.prove(&mut again);
    head_follows(&before, &after, again.log_consistency.as_ref()).unwrap();
    // The answer to the second was lost: what the collector says it holds stands in for it.
    let welcome = Welcome {
        last_receipt: vec![5; 32],
        epoch: 0,
        log_size: after.size,
        log_root: after.root.0.to_vec(),
    };
    attester.welcome(welcome.clone()).unwrap();
    attester.note(lease()).unwrap();
    let mut third = attester.make(&facts, challenged(), true).await.unwrap();
    attester.prove(&mut third.envelope);
    let proof = third.envelope.log_consistency.as_ref();
    head_follows(&after, &head(&third.envelope), proof).unwrap();
    drop(attester);

    // Its files are gone: the next epoch says what the collector holds, and statements of before
    // are given up and counted.
    std::fs::remove_file(scene.soft.path("state/log")).unwrap();
    std::fs::remove_dir_all(scene.soft.path("state/spool/log")).unwrap();
    let (mut attester, kept, _) = scene.open();
    assert_eq!(kept, []);
    attester.note(lease()).unwrap();
    attester.welcome(welcome).unwrap();
    let fourth = attester.make(&facts, challenged(), true).await.unwrap();
    let told = statement(&fourth.envelope);
    assert!(told.epoch > 0 && told.sequence == 0, "{told:?}");
    let gaps: Vec<_> = told
        .gaps
        .iter()
        .map(|g| (g.what.as_str(), g.count))
        .collect();
    assert_eq!(gaps, [("statements", 3), ("events", 1)]);
    let batch = attester.next_batch().unwrap().unwrap();
    let entry = Entry::parse(&batch.entries[0].entry).unwrap();
    let What::EpochBegan(began) = entry.what else {
        panic!("{:?}", entry.what);
    };
    assert_eq!(
        (began.previous_epoch, began.last_receipt),
        (Some(0), vec![5; 32])
    );
}

fn lease() -> What {
    What::Lease(LeaseTurned {
        stands: true,
        end_boot_ns: 5,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_is_a_gap_in_the_next_statement() {
    let mut scene = Scene::new();
    scene.config.spool.max_bytes = 16 << 10;
    let (mut attester, _, _) = scene.open();
    let facts = Facts::default();
    let alone = |attester: &Attester| {
        let (last_receipt, number) = attester.unchallenged();
        Freshness::Unchallenged {
            last_receipt,
            number,
        }
    };
    let mut items = Vec::new();
    let full = loop {
        let freshness = alone(&attester);
        match attester.make(&facts, freshness, false).await {
            Ok(made) => items.push(made.item),
            Err(full) => break full,
        }
        assert!(items.len() < 100);
    };
    assert!(
        matches!(full, AttestError::Spool(SpoolError::Full { .. })),
        "{full:?}"
    );
    let freshness = alone(&attester);
    attester.make(&facts, freshness, false).await.unwrap_err();
    drop(attester);

    let (mut attester, kept, _) = scene.open();
    assert_eq!(kept, items, "nothing was overwritten");
    // With a connection it is worth sending all the same, and says what is missing.
    let made = attester.make(&facts, challenged(), true).await.unwrap();
    assert_eq!(made.item.index, None, "not kept");
    let told = statement(&made.envelope);
    let next = u64::try_from(items.len()).unwrap();
    assert_eq!(told.sequence, next, "what was not made took no number");
    let [gap] = told.gaps.as_slice() else {
        panic!("{:?}", told.gaps);
    };
    assert_eq!((gap.what.as_str(), gap.count), ("statements", 2));

    for item in items {
        attester.receipted(item, &receipt()).unwrap();
    }
    assert_eq!(
        attester.unchallenged(),
        (super::receipt::digest(&receipt()), 0)
    );
    let made = attester.make(&facts, challenged(), true).await.unwrap();
    assert!(made.item.index.is_some(), "room came back");
    assert_eq!(statement(&made.envelope).gaps, [], "told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_travel_once_and_again_when_they_change() {
    let mut scene = Scene::new();
    let root = scene.soft.path("host");
    let ima = root.join("kernel/security/ima/binary_runtime_measurements");
    std::fs::create_dir_all(ima.parent().unwrap()).unwrap();
    std::fs::write(&ima, b"one entry").unwrap();
    scene.config.host.sys = root;
    let (mut attester, _, _) = scene.open();
    let facts = Facts::default();
    let mut logs = Vec::new();
    for content in [None, None, Some(b"two entries")] {
        if let Some(content) = content {
            std::fs::write(&ima, content).unwrap();
        }
        let made = attester.make(&facts, challenged(), true).await.unwrap();
        attester.accepted(&made.item.digest).unwrap();
        let named = statement(&made.envelope).logs.len();
        logs.push((made.envelope.logs.len(), named));
    }
    assert_eq!(
        logs,
        [(1, 0), (0, 1), (1, 1)],
        "content sent, digests named"
    );
}

#[test]
fn counters_and_leases_are_no_change() {
    let facts = Facts::default();
    let mut moved = facts.clone();
    moved.fence.counters.insert("denied".to_owned(), 9);
    moved.fence.lease_end_boot_ns = 5;
    assert_eq!(change_digest(&moved), change_digest(&facts));
    let mut changed = facts.clone();
    changed.fence.fault = Some("a link is gone".to_owned());
    assert_ne!(change_digest(&changed), change_digest(&facts));
    let mut changed = facts.clone();
    changed.claims.push(unavailable("a", "b", "c"));
    assert_ne!(change_digest(&changed), change_digest(&facts));
}

fn receipt() -> Receipt {
    Receipt {
        statement_digest: vec![5; 32],
        log: "log.example/demo".to_owned(),
        entry: b"an entry".to_vec(),
        ..Receipt::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_receipt_travels_with_what_is_signed_under_it() {
    let scene = Scene::new();
    let (mut attester, _, _) = scene.open();
    let facts = Facts::default();
    let alone = |attester: &Attester| {
        let (last_receipt, number) = attester.unchallenged();
        Freshness::Unchallenged {
            last_receipt,
            number,
        }
    };
    let sent = |envelope: &Evidence| match &envelope.freshness {
        Some(evidence::Freshness::Unchallenged(unchallenged)) => unchallenged.receipt.clone(),
        other => panic!("{other:?}"),
    };
    let freshness = alone(&attester);
    let made = attester.make(&facts, freshness, false).await.unwrap();
    assert_eq!(sent(&made.envelope), [0; 0], "before the first");
    attester.receipted(made.item, &receipt()).unwrap();
    let freshness = alone(&attester);
    let made = attester.make(&facts, freshness, false).await.unwrap();
    assert_eq!(sent(&made.envelope), receipt().encode_to_vec());
    drop(attester);

    let (mut attester, _, _) = scene.open();
    let freshness = alone(&attester);
    let made = attester.make(&facts, freshness, false).await.unwrap();
    let kept = sent(&made.envelope);
    assert_eq!(kept, receipt().encode_to_vec(), "after a restart");
    // A file that is not what the node signs under is not shown for it.
    drop(attester);
    let other = Receipt {
        index: 1,
        ..receipt()
    };
    std::fs::write(scene.soft.path("state/receipt"), other.encode_to_vec()).unwrap();
    let (mut attester, _, _) = scene.open();
    let freshness = alone(&attester);
    let made = attester.make(&facts, freshness, false).await.unwrap();
    assert_eq!(sent(&made.envelope), [0; 0]);
}
