use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{NoteSigner, verify_receipt};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use rcgen::{KeyPair, PKCS_ED25519};
use tempfile::TempDir;

use super::*;

const EK: Sha256Digest = Sha256Digest([7; 32]);

struct Fixture {
    dir: TempDir,
    key: Vec<u8>,
}

impl Fixture {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            key: key.serialize_der(),
        }
    }

    fn signer(&self) -> NoteSigner {
        NoteSigner::from_pkcs8("log.example/demo", &self.key).unwrap()
    }

    async fn open(&self) -> (Store, JoinHandle<Result<(), StoreError>>) {
        Store::open(&self.dir.path().join("collector.db"), self.signer())
            .await
            .unwrap()
    }
}

fn enrolment(now: u64) -> NewEnrolment {
    NewEnrolment {
        ek: EK,
        claimed_name: "gpu-01".into(),
        ak_name: vec![0, 11, 1],
        certificate: Sha256Digest([1; 32]),
        certificate_not_after: UnixTime(now + 1000),
        enrolment: v1::Enrolment::default(),
        now: UnixTime(now),
    }
}

fn statement(sequence: u64, verdict: Verdict, received: u64) -> NewStatement {
    let digest = Sha256Digest::of(&[&sequence.to_be_bytes()]);
    NewStatement {
        ek: EK,
        subject: "gpu-01".into(),
        epoch: 0,
        sequence,
        digest,
        evidence: v1::Evidence::default(),
        verdict,
        reasons: vec![format!("reason {sequence}")],
        result: b"{}".to_vec(),
        received: UnixTime(received),
        manifest_digest: None,
        enrolment: v1::Enrolment::default(),
        ak_name: vec![0, 11, 1],
        previous: None,
        newest: v1::PreviousStatement {
            digest: digest.as_bytes().to_vec(),
            sequence,
            ..v1::PreviousStatement::default()
        },
        policy_version: 1,
        challenged: true,
        lease_until: None,
        fence: FenceFacts::default(),
        gap: None,
    }
}

#[tokio::test]
async fn every_receipt_verifies_under_one_lineage() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    store.enrolment_insert(enrolment(1)).await.unwrap();
    let mut waiting = Vec::new();
    for sequence in 0..50 {
        let store = store.clone();
        waiting.push(tokio::spawn(async move {
            store
                .statement_insert(statement(sequence, Verdict::Affirming, 10 + sequence))
                .await
        }));
    }
    let mut indexes = Vec::new();
    for task in waiting {
        indexes.push(task.await.unwrap().unwrap());
    }
    indexes.sort_unstable();
    assert_eq!(indexes, (0..50).collect::<Vec<u64>>());
    assert_eq!(store.head().size, 50);

    // After a restart the head is the same and old rows still prove themselves.
    let before = store.head();
    drop(store);
    let (store, _writer) = fixture.open().await;
    assert_eq!(
        (store.head().size, store.head().root),
        (before.size, before.root)
    );
    let signer = fixture.signer();
    for sequence in 0..50u64 {
        let digest = Sha256Digest::of(&[&sequence.to_be_bytes()]);
        let row = store.statement_get(&EK, &digest).await.unwrap().unwrap();
        let receipt = store.receipt(&row).await.unwrap();
        let verified = verify_receipt(&receipt, &digest, signer.verifier(), Some(50)).unwrap();
        assert_eq!(verified.entry.sequence, sequence);
    }
}

#[tokio::test]
async fn one_bad_write_takes_nobody_with_it() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    store.enrolment_insert(enrolment(1)).await.unwrap();
    let first = store.statement_insert(statement(0, Verdict::Affirming, 10));
    let mut again = statement(0, Verdict::Affirming, 11);
    again.digest = Sha256Digest([9; 32]);
    let again = store.statement_insert(again);
    let second = store.statement_insert(statement(1, Verdict::Affirming, 12));
    let (first, again, second) = tokio::join!(first, again, second);
    assert_eq!(first.unwrap(), 0);
    assert!(matches!(again, Err(StoreError::Conflict)));
    assert_eq!(second.unwrap(), 1);
    assert_eq!(store.head().size, 2);
}

#[tokio::test]
async fn intervals_change_with_the_verdict_alone() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    store.enrolment_insert(enrolment(1)).await.unwrap();
    let turns = [
        Verdict::Affirming,
        Verdict::Affirming,
        Verdict::Contraindicated,
        Verdict::Affirming,
    ];
    for (sequence, verdict) in (0u64..).zip(turns) {
        store
            .statement_insert(statement(sequence, verdict, 100 * (sequence + 1)))
            .await
            .unwrap();
    }
    store
        .stale_begin(EK, UnixTime(1000), "silent".into())
        .await
        .unwrap();
    let mut history = statement(4, Verdict::Contraindicated, 1100);
    history.challenged = false;
    store.statement_insert(history).await.unwrap();

    let spans: Vec<_> = store
        .interval_list(&EK, None)
        .await
        .unwrap()
        .into_iter()
        .map(|i| (i.verdict, i.from.millis(), i.to.map(UnixTime::millis)))
        .collect();
    let want = [
        ("stale", 1000, None),
        ("affirming", 400, Some(1000)),
        ("contraindicated", 300, Some(400)),
        ("affirming", 100, Some(300)),
    ];
    let want: Vec<_> = want
        .iter()
        .map(|(v, f, t)| (v.to_string(), *f, *t))
        .collect();
    assert_eq!(spans, want);
    let then = store.interval_list(&EK, Some(UnixTime(350))).await.unwrap();
    assert_eq!(then.len(), 1);
    assert_eq!(then[0].verdict, "contraindicated");
    let row = store.node_get(&EK).await.unwrap().unwrap();
    assert_eq!(row.verdict, Verdict::Stale);
    assert_eq!(row.statements, 5);
}

#[tokio::test]
async fn events_are_kept_once_and_a_lost_log_counts_anew() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    store.enrolment_insert(enrolment(1)).await.unwrap();
    let event = |index, boot_time_ns| v1::FenceEvent {
        index,
        boot_time_ns,
        study: "cardio".into(),
        ..v1::FenceEvent::default()
    };
    let batch = vec![event(0, 5), event(1, 6)];
    for _ in 0..2 {
        store
            .events_insert(EK, batch.clone(), UnixTime(10))
            .await
            .unwrap();
    }
    store
        .events_insert(EK, vec![event(0, 99)], UnixTime(11))
        .await
        .unwrap();
    let all = store
        .event_list(Some(&EK), "", UnixTime(0), UnixTime(100), 10)
        .await
        .unwrap();
    assert_eq!(all.len(), 3);
    let other = store
        .event_list(None, "neuro", UnixTime(0), UnixTime(100), 10)
        .await
        .unwrap();
    assert!(other.is_empty());
}

#[tokio::test]
async fn a_head_moved_by_another_hand_is_noticed() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    store.enrolment_insert(enrolment(1)).await.unwrap();
    store
        .statement_insert(statement(0, Verdict::Affirming, 10))
        .await
        .unwrap();
    let path = fixture.dir.path().join("collector.db");
    let mut other = migrate::connect(&SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    sqlx::query("UPDATE log_head SET root = zeroblob(32)")
        .execute(&mut other)
        .await
        .unwrap();
    let next = store.statement_insert(statement(1, Verdict::Affirming, 11));
    assert!(matches!(next.await, Err(StoreError::Stopped)));
    drop(store);
    let reopened = Store::open(&path, fixture.signer()).await;
    assert!(matches!(reopened, Err(StoreError::Forked)));
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused() {
    let fixture = Fixture::new();
    drop(fixture.open().await);
    let path = fixture.dir.path().join("collector.db");
    let mut other = migrate::connect(&SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', 1, x'00', 0)",
    )
    .execute(&mut other)
    .await
    .unwrap();
    let reopened = Store::open(&path, fixture.signer()).await;
    assert!(matches!(reopened, Err(StoreError::Migrate(_))));
}
