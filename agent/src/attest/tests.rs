use std::path::Path;

use bailiwick_attestation::{
    appraisal::VerifiedEvidence,
    evidence::Nonce,
    tpm::{AkPublic, Public},
};

use super::*;
use crate::tpm::testing::SoftTpm;

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
             [host]\nproc = {root:?}\nsys = {root:?}\n",
            soft.path("state"),
        );
        let config = Config::parse(Path::new("agent.toml"), &text).unwrap();
        Self { soft, config }
    }

    fn open(&self) -> (Attester, Vec<Item>, AkPublic) {
        let tpm = Tpm::open(self.soft.settings()).unwrap();
        let ak = AkPublic::new(Public::parse(&tpm.identity().ak_public).unwrap()).unwrap();
        let host = Host::new(&self.config.host);
        let (attester, kept) =
            Attester::open(&self.config, tpm, host, Sha256Digest([1; 32])).unwrap();
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
        attester.receipted(item, Sha256Digest([5; 32])).unwrap();
    }
    assert_eq!(attester.unchallenged(), (Sha256Digest([5; 32]), 0));
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
        attester.accepted(&made.item.digest);
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
