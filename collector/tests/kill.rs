//! SIGKILL at any moment: whatever was acknowledged is there, proves itself, and follows on.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{NoteSigner, verify_receipt};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_collector::place::{ShownPlace, Surroundings};
use bailiwick_collector::record::{
    FenceFacts, NewEnrolment, NewStatement, Store, StoreError, Verdict,
};
use rcgen::{KeyPair, PKCS_ED25519};

/// Set in the process that is killed: the folder to write to.
const VICTIM: &str = "BAILIWICK_TEST_VICTIM";
const EK: Sha256Digest = Sha256Digest([7; 32]);
/// Writers at once, so that commits hold several statements.
const WRITERS: u64 = 8;

fn signer(dir: &Path) -> NoteSigner {
    let key = std::fs::read(dir.join("log.der")).unwrap();
    NoteSigner::from_pkcs8("log.example/demo", &key).unwrap()
}

async fn open(dir: &Path) -> Store {
    Store::open(&dir.join("collector.db"), signer(dir))
        .await
        .unwrap()
        .0
}

fn digest(sequence: u64) -> Sha256Digest {
    Sha256Digest::of(&[&sequence.to_be_bytes()])
}

fn statement(sequence: u64) -> NewStatement {
    NewStatement {
        ek: EK,
        subject: "gpu-01".into(),
        epoch: 0,
        sequence,
        digest: digest(sequence),
        evidence: v1::Evidence {
            statement: vec![0x5a; 3000],
            ..v1::Evidence::default()
        },
        verdict: Verdict::Affirming,
        reasons: Vec::new(),
        result: b"{}".to_vec(),
        received: UnixTime(sequence),
        manifest_digest: None,
        enrolment: v1::Enrolment::default(),
        ak_name: Vec::new(),
        previous: None,
        newest: v1::PreviousStatement::default(),
        policy_version: 0,
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

/// Leaves that are no statement's: the enrolment, and the first verdict.
const OTHERS: u64 = 2;

/// Not a test by itself: what the test below starts and kills.
#[tokio::test]
async fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else {
        return;
    };
    let store = open(Path::new(&dir)).await;
    // Nothing was said of the node before the first statement.
    let first = store.head().size.saturating_sub(OTHERS);
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            for round in 0u64.. {
                let sequence = first + round * WRITERS + writer;
                store.statement_insert(statement(sequence)).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {sequence}").unwrap();
                out.flush().unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    std::fs::write(dir.path().join("log.der"), key.serialize_der()).unwrap();
    let store = open(dir.path()).await;
    let enrolment = NewEnrolment {
        ek: EK,
        claimed_name: "gpu-01".into(),
        ak_name: Vec::new(),
        certificate: Sha256Digest([1; 32]),
        certificate_not_after: UnixTime(1),
        enrolment: v1::Enrolment::default(),
        now: UnixTime(0),
    };
    store.enrolment_insert(enrolment).await.unwrap();
    drop(store);

    let mut acknowledged = Vec::new();
    let mut seen = 0;
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(VICTIM, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        for line in lines {
            let line = line.unwrap();
            // The harness writes a word of its own in front of the first line.
            let Some((_, number)) = line.split_once("acknowledged ") else {
                continue;
            };
            acknowledged.push(number.parse::<u64>().unwrap());
            heard += 1;
            if heard == 20 * round {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success());

        let store = open(dir.path()).await;
        let head = store.head();
        assert!(head.size >= seen, "the log shrank");
        seen = head.size;
        let signer = signer(dir.path());
        for sequence in &acknowledged {
            let digest = digest(*sequence);
            let row = store.statement_get(&EK, &digest).await.unwrap();
            let row = row.unwrap_or_else(|| panic!("{sequence} was acknowledged and is lost"));
            let receipt = store.receipt(&row).await.unwrap();
            verify_receipt(&receipt, &digest, signer.verifier(), Some(seen)).unwrap();
        }
        // Written, killed before the answer, sent again: it is there once.
        let last = acknowledged.last().copied().unwrap();
        let again = store.statement_insert(statement(last)).await;
        assert!(matches!(again, Err(StoreError::Conflict)));
        let unique: std::collections::BTreeSet<_> = acknowledged.iter().collect();
        assert_eq!(unique.len(), acknowledged.len());
        // Gaps in what was written would make the next round's numbers collide.
        let node = store.node_get(&EK).await.unwrap().unwrap();
        assert_eq!(node.statements, seen - OTHERS);
        drop(store);
        fill(dir.path(), &acknowledged).await;
        acknowledged = (0..open(dir.path()).await.head().size - OTHERS).collect();
    }
}

/// Writes what the killed writers had not come to, so that numbers and log are level again.
async fn fill(dir: &Path, acknowledged: &[u64]) {
    let store = open(dir).await;
    let end = acknowledged.iter().max().copied().unwrap_or(0) + 2 * WRITERS;
    for sequence in 0..=end {
        match store.statement_insert(statement(sequence)).await {
            Ok(_) | Err(StoreError::Conflict) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
