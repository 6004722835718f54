use bailiwick_attestation::events::Entry;
use bailiwick_attestation::evidence::log_name;
use bailiwick_attestation::proto::v1::{self, log_entry::What};
use bailiwick_attestation::tlog::{
    ActKind, Frontier, NoteSigner, Turn, verify_act, verify_receipt,
};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use rcgen::{KeyPair, PKCS_ED25519};
use sqlx::Row as _;
use tempfile::TempDir;

use super::*;
use crate::place::{ShownPlace, Surroundings};

mod guests;

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
        lease_ended: None,
        fence: FenceFacts::default(),
        gap: None,
        devices: None,
        gpus: Vec::new(),
        place: ShownPlace {
            tag: Err("geotag-absent".into()),
            around: Surroundings::default(),
            affirmed: true,
        },
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
    // The enrolment is a leaf of its own, before them; so is the verdict's turn, after the first.
    let want: Vec<u64> = (1..2).chain(3..52).collect();
    assert_eq!(indexes, want);
    assert_eq!(store.head().size, 52);

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
        let verified = verify_receipt(&receipt, &digest, signer.verifier(), Some(52)).unwrap();
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
    assert_eq!(first.unwrap(), 1);
    assert!(matches!(again, Err(StoreError::Conflict)));
    // Between them the verdict's turn.
    assert_eq!(second.unwrap(), 3);
    assert_eq!(store.head().size, 4);
}

#[tokio::test]
async fn an_act_is_a_leaf_of_its_own_and_proves_itself() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    store.enrolment_insert(enrolment(1)).await.unwrap();
    let act = |kind, subject: &str, ek, body: &[u8]| NewAct {
        kind,
        subject: subject.to_owned(),
        ek,
        actor: "first".to_owned(),
        body: body.to_vec(),
        now: UnixTime(7),
    };
    let policy = act(ActKind::Policy, "policy", None, b"manifest");
    assert_eq!(store.act_insert(policy).await.unwrap(), 1);
    let gone = act(ActKind::Retirement, "gpu-01", Some(EK), b"sold");
    store.node_revoke(gone).await.unwrap();
    let row = store.node_get(&EK).await.unwrap().unwrap();
    assert_eq!(row.revoked, Some(UnixTime(7)), "retired is revoked");

    type Row<'a> = (Option<Sha256Digest>, Option<ActKind>, &'a [&'a str]);
    let cases: &[Row<'_>] = &[
        (None, None, &["retirement", "policy", "enrolment"]),
        (Some(EK), None, &["retirement", "enrolment"]),
        (None, Some(ActKind::Policy), &["policy"]),
        (Some(EK), Some(ActKind::Policy), &[]),
        (Some(Sha256Digest([9; 32])), None, &[]),
    ];
    for (ek, kind, want) in cases {
        let acts = store.act_list(ek.as_ref(), *kind, 10).await.unwrap();
        let kinds: Vec<&str> = acts.iter().map(|act| act.kind.as_str()).collect();
        assert_eq!(kinds, *want, "{ek:?} {kind:?}");
        for act in acts {
            let digest = Sha256Digest::of(&[&act.body]);
            let receipt = act.receipt.unwrap();
            let verifier = fixture.signer();
            let proved = verify_act(&receipt, &digest, verifier.verifier(), Some(3)).unwrap();
            assert_eq!(proved.entry.kind.as_str(), act.kind);
            assert_eq!(proved.entry.subject, act.subject);
        }
    }
    assert_eq!(store.act_list(None, None, 1).await.unwrap().len(), 1);
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
async fn each_turn_of_verdict_is_a_leaf_of_its_own_and_proves_itself() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    store.enrolment_insert(enrolment(1)).await.unwrap();
    let pending = crate::direct::pending_name(&EK);
    // It enrolled before it was listed, and is named by the first statement after.
    let turns = [
        (Verdict::None, pending.as_str(), ""),
        (Verdict::Affirming, "gpu-01", "gpu-01"),
        (Verdict::Affirming, "gpu-01", "gpu-01"),
        (Verdict::Contraindicated, "gpu-01", "gpu-01"),
    ];
    for (sequence, (verdict, subject, listed)) in (0u64..).zip(turns) {
        let mut new = statement(sequence, verdict, 100 * (sequence + 1));
        new.subject = subject.to_owned();
        store.statement_insert(new).await.unwrap();
        let row = store.node_get(&EK).await.unwrap().unwrap();
        assert_eq!(row.listed_name, listed, "{sequence}");
    }
    for at in [1000, 1001] {
        let stale = store.stale_begin(EK, UnixTime(at), "silent".into());
        stale.await.unwrap();
    }
    // History turns nothing.
    let mut history = statement(4, Verdict::Affirming, 1100);
    history.challenged = false;
    store.statement_insert(history).await.unwrap();
    let by = |sequence: u64| Some(Sha256Digest::of(&[&sequence.to_be_bytes()]));
    let want = [
        (1000, "gpu-01", "contraindicated", "stale", None),
        (400, "gpu-01", "affirming", "contraindicated", by(3)),
        (200, "gpu-01", "none", "affirming", by(1)),
    ];
    let acts = store.act_list(Some(&EK), Some(ActKind::Verdict), 10).await;
    let acts = acts.unwrap();
    assert_eq!(acts.len(), want.len());
    let size = store.head().size;
    // An enrolment, five statements, three turns.
    assert_eq!(size, 9);
    for (act, (at, subject, from, to, statement)) in acts.into_iter().zip(want) {
        let turn = Turn::parse(&act.body).unwrap();
        let wanted = Turn {
            ek: EK,
            from: from.to_owned(),
            to: to.to_owned(),
            statement,
        };
        assert_eq!(turn, wanted);
        let digest = Sha256Digest::of(&[&act.body]);
        let signer = fixture.signer();
        let receipt = act.receipt.unwrap();
        let proved = verify_act(&receipt, &digest, signer.verifier(), Some(size)).unwrap();
        assert_eq!(proved.entry.kind, ActKind::Verdict);
        assert_eq!(proved.entry.subject, subject);
        assert_eq!(proved.entry.at, UnixTime(at));
    }
}

#[tokio::test]
async fn a_node_taken_back_has_no_lease_in_the_record_and_is_granted_none() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    store.enrolment_insert(enrolment(1)).await.unwrap();
    let granting = |sequence: u64| NewStatement {
        lease_until: Some(UnixTime(5000)),
        ..statement(sequence, Verdict::Affirming, 100 * (sequence + 1))
    };
    let lease = || async {
        let row = store.node_get(&EK).await.unwrap().unwrap();
        (row.lease_until, row.lease_ended)
    };
    store.statement_insert(granting(0)).await.unwrap();
    assert_eq!(lease().await, (Some(UnixTime(5000)), String::new()));
    let gone = NewAct {
        kind: ActKind::Retirement,
        subject: "gpu-01".to_owned(),
        ek: Some(EK),
        actor: "approvers".to_owned(),
        body: b"sold".to_vec(),
        now: UnixTime(200),
    };
    store.node_revoke(gone.clone()).await.unwrap();
    assert_eq!(lease().await, (None, "retirement".to_owned()));
    // A statement that was being judged meanwhile.
    store.statement_insert(granting(1)).await.unwrap();
    assert_eq!(lease().await.0, None, "too late");
    store.enrolment_insert(enrolment(300)).await.unwrap();
    store.statement_insert(granting(2)).await.unwrap();
    assert_eq!(lease().await, (Some(UnixTime(5000)), String::new()));
    // One that had run out was not ended by it.
    let later = NewAct {
        now: UnixTime(6000),
        ..gone
    };
    store.node_revoke(later).await.unwrap();
    assert_eq!(lease().await, (None, String::new()));
}

/// Entries `first..end` of an epoch; `salt` makes them another log's.
fn entries(epoch: u64, first: u64, end: u64, salt: u64) -> Vec<NewEntry> {
    (first..end)
        .map(|index| {
            let what = if index == 0 {
                What::EpochBegan(v1::EpochBegan::default())
            } else {
                What::Denial(v1::Denial {
                    study: "cardio".into(),
                    count: salt,
                    ..v1::Denial::default()
                })
            };
            let entry = Entry::compose((epoch, index), UnixTime(1), index, what);
            NewEntry {
                parsed: Entry::parse(&entry).unwrap(),
                entry,
                sealed: Vec::new(),
            }
        })
        .collect()
}

fn head(epoch: u64, size: u64, salt: u64) -> v1::LogHead {
    let mut edge = Frontier::empty();
    for new in entries(epoch, 0, size, salt) {
        edge.push(new.parsed.leaf);
    }
    edge.head().to_proto()
}

/// A store with one node, and what its log can be asked.
struct Logged(Store, #[expect(dead_code, reason = "its folder")] Fixture);

impl Logged {
    async fn new() -> Self {
        let fixture = Fixture::new();
        let (store, _writer) = fixture.open().await;
        store.enrolment_insert(enrolment(1)).await.unwrap();
        Self(store, fixture)
    }

    async fn deliver(&self, entries: Vec<NewEntry>) {
        let stored = self.0.entries_insert(EK, entries, UnixTime(10));
        stored.await.unwrap();
    }

    async fn told(&self, sequence: u64, epoch: u64, log: v1::LogHead) {
        let mut new = statement(sequence, Verdict::Affirming, 10 + sequence);
        (new.epoch, new.newest.epoch, new.newest.log) = (epoch, epoch, Some(log));
        self.0.statement_insert(new).await.unwrap();
    }

    /// How many entries are stored, how many of them proven.
    async fn proven(&self) -> (usize, usize) {
        let all = EntryFilter {
            ek: Some(&EK),
            study: "",
            kind: "",
            from: UnixTime(0),
            to: UnixTime(100),
            limit: 1000,
        };
        let all = self.0.entry_list(&all).await.unwrap();
        (all.len(), all.iter().filter(|entry| entry.proven).count())
    }

    async fn fault(&self) -> Option<String> {
        let row = self.0.node_get(&EK).await.unwrap().unwrap();
        row.log_fault.map(|(_, what)| what)
    }

    async fn gap(&self) -> Option<String> {
        let row = self.0.node_get(&EK).await.unwrap().unwrap();
        row.gap.map(|(_, what)| what)
    }
}

#[tokio::test]
async fn entries_are_kept_once_and_held_against_the_root_told() {
    let logged = Logged::new().await;
    logged.deliver(entries(0, 0, 3, 1)).await;
    assert_eq!(logged.proven().await, (3, 0), "no statement yet");
    logged.told(0, 0, head(0, 3, 1)).await;
    assert_eq!(logged.proven().await, (3, 3));
    // The statement first, the entries in two parts after it, one of them twice.
    logged.told(1, 0, head(0, 7, 1)).await;
    logged.deliver(entries(0, 2, 5, 1)).await;
    assert_eq!(logged.proven().await, (5, 3), "not all are here");
    logged.deliver(entries(0, 4, 9, 1)).await;
    assert_eq!(
        logged.proven().await,
        (9, 7),
        "and no further than was told"
    );
    // The next epoch counts from 0 again.
    logged.told(2, 5, head(5, 2, 1)).await;
    logged.deliver(entries(5, 0, 2, 1)).await;
    assert_eq!(logged.proven().await, (11, 9));
    assert_eq!((logged.fault().await, logged.gap().await), (None, None));

    let study = EntryFilter {
        ek: None,
        study: "neuro",
        kind: "event",
        from: UnixTime(0),
        to: UnixTime(100),
        limit: 10,
    };
    assert!(logged.0.entry_list(&study).await.unwrap().is_empty());
    let cardio = EntryFilter {
        study: "cardio",
        ..study
    };
    assert_eq!(logged.0.entry_list(&cardio).await.unwrap().len(), 9);
}

#[tokio::test]
async fn an_altered_or_a_missing_entry_is_told() {
    // Delivered otherwise than the statement's root has it.
    let logged = Logged::new().await;
    logged.told(0, 0, head(0, 4, 1)).await;
    logged.deliver(entries(0, 0, 4, 2)).await;
    assert_eq!(logged.proven().await, (4, 0));
    let fault = logged.fault().await.unwrap();
    assert!(fault.contains("entries 0 to 4 are not those"), "{fault}");

    // The same the other way round.
    let logged = Logged::new().await;
    logged.deliver(entries(0, 0, 4, 2)).await;
    logged.told(0, 0, head(0, 4, 1)).await;
    assert_eq!(logged.proven().await, (4, 0));
    assert!(logged.fault().await.is_some());

    // Delivered twice, with another content the second time.
    let logged = Logged::new().await;
    logged.deliver(entries(0, 0, 4, 1)).await;
    logged.deliver(entries(0, 3, 4, 1)).await;
    assert_eq!(logged.fault().await, None);
    logged.deliver(entries(0, 3, 4, 2)).await;
    let fault = logged.fault().await.unwrap();
    assert!(fault.contains("entry 3 came again"), "{fault}");

    // A hole.
    let logged = Logged::new().await;
    logged.deliver(entries(0, 0, 4, 1)).await;
    logged.deliver(entries(0, 6, 8, 1)).await;
    let gap = logged.gap().await.unwrap();
    assert_eq!(gap, "2 entries before number 6 never came");
    logged.told(0, 0, head(0, 4, 1)).await;
    logged.told(1, 0, head(0, 8, 1)).await;
    assert_eq!(
        logged.proven().await,
        (6, 4),
        "what is behind a hole is not proven"
    );
    assert_eq!(logged.fault().await, None, "missing is not altered");
}

#[tokio::test]
async fn more_leaves_than_are_folded_at_once_are_proven() {
    let logged = Logged::new().await;
    logged.deliver(entries(0, 0, 4096, 1)).await;
    logged.deliver(entries(0, 4096, 5000, 1)).await;
    logged.told(0, 0, head(0, 5000, 1)).await;
    assert_eq!(logged.fault().await, None);
    logged.told(1, 0, head(0, 5000, 1)).await;
    let row = sqlx::query("SELECT proven FROM node_logs")
        .fetch_one(&logged.0.readers)
        .await
        .unwrap();
    assert_eq!(row.get::<i64, _>(0), 5000);
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

#[tokio::test]
async fn the_brake_goes_on_after_a_restart_where_it_stopped() {
    use crate::standing::Brakes;
    let fixture = Fixture::new();
    let rule = bailiwick_attestation::profile::Brake::default();
    let mut brakes = Brakes::default();
    let node = |n: u8| Sha256Digest([n; 32]);
    {
        let (store, _writer) = fixture.open().await;
        for n in 0..6 {
            brakes.loss(node(n), "a", &rule, 100, UnixTime(1_000));
            store.brakes_change(brakes.take_changes()).await.unwrap();
        }
        brakes.loss(node(9), "b", &rule, 100, UnixTime(1_000));
        brakes.loss(node(8), "c", &rule, 100, UnixTime(1_000));
        brakes.restored(&node(0));
        brakes.restored(&node(8));
        store.brakes_change(brakes.take_changes()).await.unwrap();
    }
    assert_eq!(brakes.held(), ["a"].into());
    {
        let (store, _writer) = fixture.open().await;
        let kept = store.brake_list().await.unwrap();
        assert_eq!(kept, *brakes.causes());
        brakes
            .confirm("a", "alice", "a bad rollout", UnixTime(2_000))
            .unwrap();
        store.brakes_change(brakes.take_changes()).await.unwrap();
    }
    let (store, _writer) = fixture.open().await;
    assert_eq!(store.brake_list().await.unwrap(), *brakes.causes());
    brakes.forget(&rule, UnixTime(9_000_000));
    store.brakes_change(brakes.take_changes()).await.unwrap();
    assert!(store.brake_list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_log_that_came_along_once_is_found_by_its_digest() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    store.enrolment_insert(enrolment(1)).await.unwrap();
    let log = |name: &str, content: &[u8]| v1::Log {
        name: name.to_owned(),
        content: content.to_vec(),
        ..v1::Log::default()
    };
    let (boot, fence) = (log("boot", b"what was booted"), log("fence", b"rules"));
    for sequence in 0..2 {
        let mut new = statement(sequence, Verdict::Affirming, 10 + sequence);
        new.evidence.logs = vec![boot.clone(), fence.clone()];
        store.statement_insert(new).await.unwrap();
    }
    let of = |log: &v1::Log| Sha256Digest::of(&[&log.content]);
    let kept = store.log_kept(&EK, &of(&boot)).await.unwrap();
    assert_eq!(kept, Some(boot.clone()));
    // It travels with every statement, and is never asked for.
    assert_eq!(store.log_kept(&EK, &of(&fence)).await.unwrap(), None);
    let other = Sha256Digest([8; 32]);
    assert_eq!(store.log_kept(&other, &of(&boot)).await.unwrap(), None);
    assert_eq!(store.log_kept(&EK, &other).await.unwrap(), None);
}

#[tokio::test]
async fn a_log_in_parts_is_found_by_the_name_of_its_last() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    store.enrolment_insert(enrolment(1)).await.unwrap();
    let mut sent: Vec<v1::Log> = Vec::new();
    let mut follows = Vec::new();
    for sequence in 0..70_u8 {
        let part = v1::Log {
            name: "ima".to_owned(),
            content: vec![sequence; 3],
            follows: std::mem::take(&mut follows),
        };
        follows = log_name(&part).as_bytes().to_vec();
        let number = u64::from(sequence);
        let mut new = statement(number, Verdict::Affirming, 10 + number);
        new.evidence.logs = vec![part.clone()];
        store.statement_insert(new).await.unwrap();
        sent.insert(0, part);
    }
    let of = |index: usize| log_name(&sent[index]);
    let found = store.log_parts(&EK, &of(67)).await.unwrap();
    assert_eq!(found, sent[67..], "back to the one that is whole");
    let other = Sha256Digest([8; 32]);
    assert_eq!(store.log_parts(&EK, &other).await.unwrap(), []);
    assert_eq!(store.log_parts(&other, &of(67)).await.unwrap(), []);
    // What a node once sent costs no more than this to read.
    let found = store.log_parts(&EK, &of(0)).await.unwrap();
    assert_eq!(found, sent[..64]);
    // By its content alone a part is found by nobody.
    let content = Sha256Digest::of(&[&sent[67].content]);
    assert_eq!(store.log_parts(&EK, &content).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_while_it_is_written_has_its_receipt() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for at in 0..200 {
                let act = NewAct {
                    kind: ActKind::Policy,
                    subject: "policy".to_owned(),
                    ek: None,
                    actor: "alice".to_owned(),
                    body: at.to_string().into_bytes(),
                    now: UnixTime(at),
                };
                store.act_insert(act).await.unwrap();
            }
        }
    });
    while !writing.is_finished() {
        let acts = store.act_list(None, Some(ActKind::Policy), 1).await;
        drop(acts.unwrap());
    }
    writing.await.unwrap();
    // What no head covers is waited for, and not for ever.
    let beyond = store.receipt_at(Sha256Digest([1; 32]), 1000).await;
    assert!(matches!(beyond, Err(StoreError::Forked)), "{beyond:?}");
}
