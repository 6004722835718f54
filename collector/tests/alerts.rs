//! Alerts against a receiver that speaks HTTP: told once, told again, told the end; neither a
//! restart nor a receiver that is away changes that.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::sync::{Arc, Mutex};

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::NoteSigner;
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest, UnixTime};
use bailiwick_collector::alert::Alerts;
use bailiwick_collector::alert::send::Sender;
use bailiwick_collector::config;
use bailiwick_collector::direct::{Direction, LeaseKeys};
use bailiwick_collector::init::{Plan, StateDir, init};
use bailiwick_collector::place::{ShownPlace, Surroundings};
use bailiwick_collector::record::{
    AlertChange, AlertRow, FenceFacts, NewAlert, NewEnrolment, NewStatement, Store, Verdict,
};
use bailiwick_collector::standing::Standing;
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What was posted, as (`alertname`, `startsAt`, `endsAt`).
type Posts = Arc<Mutex<Vec<Value>>>;

/// A receiver of Alertmanager's API v2 on a free port.
async fn receiver(status: &'static str) -> (String, Posts) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let posts = Posts::default();
    let seen = Arc::clone(&posts);
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut request = Vec::new();
                let body = loop {
                    let mut chunk = [0; 4096];
                    let read = tcp.read(&mut chunk).await.unwrap();
                    request.extend_from_slice(&chunk[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    let length = head
                        .lines()
                        .find_map(|line| {
                            line.to_lowercase()
                                .strip_prefix("content-length: ")?
                                .parse()
                                .ok()
                        })
                        .unwrap_or(0usize);
                    if body.len() >= length {
                        assert!(head.starts_with("POST /api/v2/alerts "), "{head}");
                        break body.to_owned();
                    }
                };
                let alerts: Vec<Value> = serde_json::from_str(&body).unwrap();
                seen.lock().unwrap().extend(alerts);
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                tcp.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    (url, posts)
}

fn row(resolved: Option<u64>) -> AlertRow {
    AlertRow {
        id: 1,
        alert: NewAlert {
            name: "BailiwickNodeStale".into(),
            node: "gpu-01".into(),
            labels: r#"{"alertname":"BailiwickNodeStale","node":"gpu-01","severity":"critical"}"#
                .into(),
            severity: "critical".into(),
            summary: "gpu-01 is silent".into(),
        },
        since: UnixTime(1_800_000_000_000),
        resolved: resolved.map(UnixTime),
        notified: None,
    }
}

fn config(urls: Vec<String>) -> config::Alert {
    config::Alert {
        alertmanagers: urls,
        resend_seconds: 60,
        runbook_url: Some("https://runbooks.example/".into()),
        ..config::Alert::default()
    }
}

#[tokio::test]
async fn every_receiver_is_told_with_an_end_four_intervals_away() {
    let (first, first_posts) = receiver("200 OK").await;
    let (second, second_posts) = receiver("200 OK").await;
    let sender = Sender::new(&config(vec![first, format!("{second}/")]));
    let now = UnixTime(1_800_000_010_000);
    sender.post(&[&row(None)], now).await.unwrap();
    for posts in [first_posts, second_posts] {
        let posts = posts.lock().unwrap();
        let alert = &posts[0];
        assert_eq!(alert["labels"]["alertname"], "BailiwickNodeStale");
        assert_eq!(alert["startsAt"], "2027-01-15T08:00:00Z");
        assert_eq!(alert["endsAt"], "2027-01-15T08:04:10Z");
        assert_eq!(alert["annotations"]["summary"], "gpu-01 is silent");
        assert_eq!(
            alert["annotations"]["runbook_url"],
            "https://runbooks.example/BailiwickNodeStale"
        );
    }
    let over = row(Some(1_800_000_020_000));
    let now = UnixTime(1_800_000_021_000);
    let (third, posts) = receiver("200 OK").await;
    let sender = Sender::new(&config(vec![third]));
    sender.post(&[&over], now).await.unwrap();
    assert_eq!(posts.lock().unwrap()[0]["endsAt"], "2027-01-15T08:00:21Z");
}

#[tokio::test]
async fn a_receiver_that_is_away_or_refuses_does_not_keep_the_others_from_it() {
    let (good, posts) = receiver("200 OK").await;
    let (bad, _) = receiver("500 Oops").await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    for (name, other) in [("away", away), ("refuses", bad)] {
        let sender = Sender::new(&config(vec![other.clone(), good.clone()]));
        let told = sender
            .post(&[&row(None)], UnixTime(1_800_000_000_000))
            .await;
        let error = told.unwrap_err().to_string();
        assert!(error.starts_with(&other), "{name}: {error}");
    }
    assert_eq!(posts.lock().unwrap().len(), 2);
}

async fn store(dir: &TempDir, key: &KeyPair) -> Store {
    let signer = NoteSigner::from_pkcs8("log.example/demo", &key.serialize_der()).unwrap();
    Store::open(&dir.path().join("collector.db"), signer)
        .await
        .unwrap()
        .0
}

/// The loop over a store, with nobody to tell.
async fn alerts(dir: &TempDir, store: &Store) -> Alerts {
    let state = dir.path().join("state");
    let plan = Plan {
        dir: state.clone(),
        deployment: DeploymentId::new("demo").unwrap(),
        names: vec!["127.0.0.1".into()],
        operator: NodeId::new("first").unwrap(),
        log_origin: "log.example/demo".into(),
        lease_key_id: "lease-1".into(),
    };
    init(&plan, UnixTime(1_800_000_000_000)).unwrap();
    Alerts {
        standing: Standing::open(store).await.unwrap(),
        store: store.clone(),
        policy: watch::channel(Direction::default()).1,
        clock: watch::channel(None).1,
        lease_keys: Arc::new(LeaseKeys::new(Vec::new()).unwrap()),
        cas: Arc::new(StateDir::at(&state).cas().unwrap()),
        config: config(Vec::new()),
        started: UnixTime(0),
    }
}

fn enrolled(number: u8) -> NewEnrolment {
    NewEnrolment {
        ek: Sha256Digest([number; 32]),
        claimed_name: format!("gpu-0{number}"),
        ak_name: vec![0, 11, number],
        certificate: Sha256Digest([number; 32]),
        certificate_not_after: UnixTime(u64::from(u32::MAX)),
        enrolment: v1::Enrolment::default(),
        now: UnixTime(1),
    }
}

/// A statement of that TPM that cites a report of one GPU.
fn showing(number: u8, gpu: &str, received: u64) -> NewStatement {
    let digest = Sha256Digest::of(&[&[number], &received.to_be_bytes()]);
    NewStatement {
        ek: Sha256Digest([number; 32]),
        subject: format!("gpu-0{number}"),
        epoch: 0,
        sequence: received,
        digest,
        evidence: v1::Evidence::default(),
        verdict: Verdict::Affirming,
        reasons: Vec::new(),
        result: b"{}".to_vec(),
        received: UnixTime(received),
        manifest_digest: None,
        enrolment: v1::Enrolment::default(),
        ak_name: vec![0, 11, number],
        previous: None,
        newest: v1::PreviousStatement::default(),
        policy_version: 0,
        challenged: true,
        lease_until: None,
        lease_ended: None,
        fence: FenceFacts::default(),
        gap: None,
        devices: Some(vec![gpu.to_owned()]),
        gpus: vec![gpu.to_owned()],
        place: ShownPlace {
            tag: Err("geotag-absent".into()),
            around: Surroundings::default(),
            affirmed: true,
        },
    }
}

/// Two hosts of one attacker take turns with one GPU: at no moment do both claim it.
#[tokio::test]
async fn one_gpu_at_two_nodes_is_an_alert_until_it_is_over() {
    const GPU: &str = "PDI-48b02d0000000001";
    const OTHER: &str = "PDI-48b02d0000000002";
    const MINUTE: u64 = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let store = store(&dir, &key).await;
    let alerts = alerts(&dir, &store).await;
    let firing = async |at: u64| {
        alerts.evaluate(UnixTime(at)).await.unwrap();
        let all = store.alert_list(false).await.unwrap();
        let twice = all.into_iter().map(|row| row.alert);
        let twice = twice.filter(|alert| alert.name == "BailiwickDeviceTwice");
        twice.collect::<Vec<NewAlert>>()
    };
    for number in [1, 2] {
        store.enrolment_insert(enrolled(number)).await.unwrap();
    }
    let show = async |number, gpu, at| {
        store
            .statement_insert(showing(number, gpu, at))
            .await
            .unwrap();
    };
    show(1, GPU, MINUTE).await;
    show(2, OTHER, MINUTE).await;
    assert_eq!(firing(2 * MINUTE).await, []);
    // The first node shows another one by now, the second what the first had.
    show(1, OTHER, 30 * MINUTE).await;
    show(2, GPU, 31 * MINUTE).await;
    let raised = firing(32 * MINUTE).await;
    let labels: Vec<Value> = raised
        .iter()
        .map(|alert| serde_json::from_str(&alert.labels).unwrap())
        .collect();
    let mut devices: Vec<&str> = labels
        .iter()
        .map(|label| label["device"].as_str().unwrap())
        .collect();
    devices.sort_unstable();
    assert_eq!(devices, [GPU, OTHER], "one alert for each device");
    assert!(labels.iter().all(|label| {
        let node = label["node"].as_str().unwrap();
        label["severity"] == "critical" && node.split(',').count() == 2
    }));
    // Each stays with one: over two hours after the other node's last.
    assert_eq!(firing((120 + 1) * MINUTE).await.len(), 2);
    let left = firing((120 + 1) * MINUTE + 1).await;
    assert_eq!(left.len(), 0, "{left:?}");
}

#[tokio::test]
async fn a_restart_neither_forgets_nor_repeats() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let first = store(&dir, &key).await;
    let alert = row(None).alert;
    let raise = AlertChange::Raise(alert.clone(), UnixTime(1000));
    first.alerts_change(vec![raise.clone()]).await.unwrap();
    let open = first.alert_list_open().await.unwrap();
    let told = AlertChange::Notified(open[0].id, UnixTime(2000), false);
    first.alerts_change(vec![told]).await.unwrap();
    drop(first);

    let second = store(&dir, &key).await;
    let open = second.alert_list_open().await.unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].notified, Some(UnixTime(2000)));
    // Raised again by an engine that does not know better: it is the same alert.
    second.alerts_change(vec![raise]).await.unwrap();
    assert_eq!(second.alert_list_open().await.unwrap().len(), 1);

    // With no node wanting it, it is over, and stays open until somebody was told.
    let alerts = alerts(&dir, &second).await;
    alerts.evaluate(UnixTime(5000)).await.unwrap();
    let open = second.alert_list_open().await.unwrap();
    assert_eq!(open[0].resolved, Some(UnixTime(5000)));
    assert_eq!(open[0].notified, None);
    assert!(second.alert_list(false).await.unwrap().is_empty());
    let told = AlertChange::Notified(open[0].id, UnixTime(6000), true);
    second.alerts_change(vec![told]).await.unwrap();
    assert!(second.alert_list_open().await.unwrap().is_empty());
    assert_eq!(second.alert_list(true).await.unwrap().len(), 1);
}
