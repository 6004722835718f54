//! Two running guests under one name: the newer one has it, and the older one does not come back.

use std::time::{Duration, Instant};

use bailiwick_attestation::evidence::guest_id;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::ActKind;
use tonic::Code;

use crate::guest::{Guest, Key, Scene, code};

/// Alerts of this name that fire.
async fn firing(scene: &Scene, name: &str) -> Vec<v1::Alert> {
    let mut operator = scene.stand.operator().await;
    let request = v1::ListAlertsRequest::default();
    let alerts = operator.list_alerts(request).await.unwrap().into_inner();
    let mut alerts = alerts.alerts;
    alerts.retain(|alert| alert.name == name);
    alerts
}

async fn alerted(scene: &Scene) -> Vec<v1::Alert> {
    let begun = Instant::now();
    loop {
        let found = firing(scene, "BailiwickGuestTwice").await;
        if !found.is_empty() || begun.elapsed() > Duration::from_secs(30) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn duplicates(scene: &Scene) -> Vec<v1::Act> {
    let mut operator = scene.stand.operator().await;
    let request = v1::ListActsRequest {
        node: "guest-01".to_owned(),
        kind: ActKind::Duplicate.as_str().to_owned(),
        limit: 0,
    };
    let acts = operator.list_acts(request).await.unwrap();
    acts.into_inner().acts
}

async fn refused(scene: &Scene, guest: &Guest) -> (Code, String) {
    let refused = guest.enroll(scene).await.unwrap_err();
    (refused.code(), code(&refused).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_running_guest_has_a_name_and_the_one_before_does_not_come_back() {
    let scene = Scene::new().await;
    let mut first = scene.joined("guest-01", 1).await;
    assert_eq!(first.said(|_| {}).await, "affirming");
    let granted = first.lease().await;

    let mut second = scene.joined("guest-01", 2).await;
    let ended = first.lease().await;
    assert_eq!(
        (ended.until_clock_ms, &*ended.reason, &ended.ak_name),
        (0, "guest-taken-over", &granted.ak_name)
    );
    assert_eq!(code(&first.ended().await), "guest-taken-over");
    let store = scene.stand.store().await;
    let id = guest_id(&"guest-01".to_owned().try_into().unwrap());
    let row = store.node_get(&id).await.unwrap().unwrap();
    assert_eq!(
        (row.lease_until, &*row.lease_ended),
        (None, "guest-taken-over")
    );
    assert_eq!(row.twice, None, "one that is followed and gone is no fault");
    // It has no log of the first one's: it begins an epoch, as a node does that lost its log.
    assert_eq!(
        second
            .said(|it| it.statement.epoch = 1)
            .await
            .split(':')
            .next(),
        Some("none"),
        "and an approver has to look"
    );

    // With its old key, with a new one: its processor says that it is the one that was followed.
    let superseded = (Code::FailedPrecondition, "guest-superseded".to_owned());
    assert_eq!(refused(&scene, &first).await, superseded);
    first.key = Key::new();
    assert_eq!(refused(&scene, &first).await, superseded);
    assert_eq!(alerted(&scene).await.len(), 1);
    assert_eq!(refused(&scene, &first).await, superseded);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let alerts = firing(&scene, "BailiwickGuestTwice").await;
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0].severity, "critical");
    assert!(alerts[0].summary.contains(&"01".repeat(32)), "{alerts:?}");
    assert_eq!(duplicates(&scene).await.len(), 1, "one leaf of the log");
    // The second one's stream has not noticed anything.
    second.key = second.key.clone();
    let said = second.said(|it| it.statement.epoch = 1).await;
    assert!(said.contains("epoch-unacknowledged"), "{said}");

    // A launch anew is neither of them.
    let third = scene.joined("guest-01", 3).await;
    drop(third);
    assert_eq!(code(&second.ended().await), "guest-taken-over");
    assert_eq!(refused(&scene, &second).await, superseded);
    assert_eq!(duplicates(&scene).await.len(), 2, "each once");
}

/// Two names are two guests, whatever runs on one chip.
#[tokio::test(flavor = "multi_thread")]
async fn guests_of_two_names_do_not_meet() {
    let scene = Scene::new().await;
    let mut first = scene.joined("guest-01", 1).await;
    let mut other = scene.guest("guest-02", 2);
    other.launched.host_data = [4; 32];
    let enrolled = other.enroll(&scene).await.unwrap();
    other.connect(&scene, &enrolled).await.unwrap();
    assert_eq!(first.said(|_| {}).await, "affirming");
    assert_eq!(other.said(|_| {}).await, "affirming");
    assert_eq!(firing(&scene, "BailiwickGuestTwice").await, []);
}
