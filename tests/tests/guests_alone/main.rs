//! Confidential guests without a TPM before a real collector: a processor of the test's making signs for
//! them, and each attack on what they enrol and attest with is tried.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

#[path = "../chip/mod.rs"]
mod chip;
#[path = "../client/mod.rs"]
mod client;
mod guest;
mod planned;
#[path = "../stand/mod.rs"]
mod stand;
mod twice;
mod verified;

use bailiwick_agent::proto::v1::enroll_service_client::EnrollServiceClient;
use bailiwick_attestation::evidence::guest_id;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::proto::v1::enrolled::State;
use chip::Chip;
use client::client;
use guest::{Guest, Key, Scene, code};
use prost::Message as _;
use serde_json::Value;
use stand::{Came, entry};
use tonic::Code;
use tonic::transport::Channel;

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_enrols_and_attests_by_its_processors_report_alone() {
    let scene = Scene::new().await;
    let mut guest = scene.guest("guest-01", 1);
    let enrolled = guest.enroll(&scene).await.unwrap();
    assert_eq!(
        (enrolled.state(), enrolled.node.as_str()),
        (State::Enrolled, "guest-01")
    );
    guest.connect(&scene, &enrolled).await.unwrap();
    for (boot_ns, clock_ms) in [(9_000_000_000, 9_000), (12_000_999_999, 12_000)] {
        guest.boot_ns = boot_ns;
        let came = guest.say(|_| {}).await;
        let Came::Accepted(accepted, _) = came else {
            panic!("{came:?}");
        };
        assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);
        let body = guest.lease().await;
        let want = v1::LeaseBody {
            deployment: "demo".to_owned(),
            node: "guest-01".to_owned(),
            ak_name: guest.key.signer(None).name(),
            reset_count: 0,
            until_clock_ms: clock_ms + 300_000,
            statement_digest: accepted.statement_digest.clone(),
            manifest_digest: scene.policy.as_bytes().to_vec(),
            reason: "affirming".to_owned(),
            quoted_clock_ms: clock_ms,
            quoted_boot_time_ns: boot_ns,
            gpus_proven: false,
        };
        assert_eq!(body, want);
        if boot_ns == 9_000_000_000 {
            // What others believe of it is for the key that it drew.
            let outward = guest.outward().await;
            let leaf = &outward.certificate_chain[0];
            let point = guest.key.point();
            assert!(leaf.windows(point.len()).any(|part| part == point));
        }
    }

    let config = scene.stand.client_config();
    let told = client(&["enroll", "list", "--output", "json"], Some(&config)).await;
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let rows: Vec<Value> = serde_json::from_slice(&told.stdout).unwrap();
    let row = |name: &str| rows.iter().find(|row| row["node"] == name).unwrap().clone();
    let (own, other) = (row("guest-01"), row("guest-02"));
    assert_eq!(
        (&own["guest"], &own["ak"]),
        (&true.into(), &"processor".into())
    );
    assert_eq!(
        (&other["guest"], &other["state"]),
        (&true.into(), &"never-enrolled".into())
    );
    // Approving one is no challenge, and what to sign is told.
    let policy = scene.stand.dir.path().join("policy");
    let key = scene.stand.dir.path().join("approver");
    let words = [
        "enroll",
        "approve",
        "guest-01",
        "--policy",
        policy.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
        "--deployment",
        "demo",
    ];
    let told = client(&words, Some(&config)).await;
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let text = String::from_utf8(told.stderr).unwrap();
    for part in ["guest-no-tpm", "[[guest]]", &scene.chip.name()] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let mut operator = scene.stand.operator().await;
    let relayed = operator
        .relay_activation(v1::RelayActivationRequest {
            node: "guest-01".to_owned(),
            credential_blob: vec![1],
            encrypted_secret: vec![1],
        })
        .await;
    assert_eq!(code(&relayed.unwrap_err()), "guest-no-tpm");
}

/// The agent of a guest starts again: another key, and the same guest, whose log goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_of_one_boot_and_the_log_goes_on_under_the_next() {
    let scene = Scene::new().await;
    let mut guest = scene.joined("guest-01", 1).await;
    assert_eq!(guest.said(|_| {}).await, "affirming");
    // Something to look at keeps what stands in the boot it was granted in.
    let skewed = |it: &mut guest::Words| it.statement.wall_time_ms -= 3_600_000;
    let store = scene.stand.store().await;
    let id = guest_id(&"guest-01".to_owned().try_into().unwrap());
    let until = async || store.node_get(&id).await.unwrap().unwrap().lease_until;
    let granted = until().await.unwrap();
    assert!(guest.said(skewed).await.starts_with("warning"));
    let kept = until().await.unwrap();
    assert!(kept > granted);
    let older = guest.key.clone();
    guest.key = Key::new();
    let enrolled = guest.enroll(&scene).await.unwrap();
    assert_eq!(code(&guest.ended().await), "node-re-enrolled");
    guest.connect(&scene, &enrolled).await.unwrap();
    assert!(guest.said(skewed).await.starts_with("warning"));
    assert_eq!(until().await, Some(kept), "under another key there is none");
    // Whatever the older key says counts no more.
    let came = guest
        .say(|it| it.statement.guest_key = older.digest().as_bytes().to_vec())
        .await;
    assert_eq!(came.code(), "guest-key");
    assert_eq!(guest.said(|_| {}).await, "affirming");
    // The same key in another boot is a key that somebody took along.
    let came = guest.say(|it| it.statement.boot_id = vec![8; 16]).await;
    let Came::Accepted(accepted, _) = came else {
        panic!("{came:?}");
    };
    let reasons = accepted.reasons.join("\n");
    assert_eq!(accepted.verdict, "contraindicated", "{reasons}");
    assert!(reasons.contains("guest-key-outlived-boot"), "{reasons}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attack_on_an_enrolment_is_refused() {
    let mut scene = Scene::new().await;
    let node = scene.stand.machine("gpu-01");
    scene.inventory += &entry("gpu-01", &node);
    scene.apply().await;
    let good = scene.guest("guest-01", 1);
    let (denied, later) = (Code::FailedPrecondition, Code::Unavailable);

    // What the processor says is right, and of another guest than the one listed.
    let mut table: Vec<(&str, Guest, Code, &str)> = Vec::new();
    let mut other = |row, code, edit: &dyn Fn(&mut Guest)| {
        let mut guest = scene.guest("guest-01", 1);
        edit(&mut guest);
        table.push((row, guest, denied, code));
    };
    other("another launch", "guest-launch", &|it| {
        it.launched.measurement = [9; 48];
    });
    other("an unlisted chip", "guest-chip", &|it| {
        it.chip = scene.other_chip.clone();
    });
    other("an unlisted name", "guest-unlisted", &|it| {
        it.name = "guest-99".to_owned();
    });
    other("the name of a TPM's node", "guest-of-tpm-node", &|it| {
        it.name = "gpu-01".to_owned();
    });
    other("a guest its host reads", "cvm-debug", &|it| {
        it.launched.policy = 1 << 19;
    });
    other("from a less privileged level", "cvm-vmpl", &|it| {
        it.launched.vmpl = 2;
    });
    other("a chip somebody made himself", "cvm-root", &|it| {
        it.chip = Chip::new();
    });
    other(
        "a chip of that name, by its host's word",
        "cvm-signature",
        &|it| {
            it.table = Some(it.chip.table.clone());
            it.chip = Chip::new();
        },
    );
    // Not found wrong: somebody has to bring what it is checked with.
    let mut unheld = scene.guest("guest-01", 1);
    unheld.table = Some(Vec::new());
    table.push((
        "no certificate of its chip",
        unheld,
        later,
        "cvm-key-missing",
    ));
    for (row, guest, status, want) in table {
        let refused = guest.enroll(&scene).await.unwrap_err();
        assert_eq!(
            (refused.code(), code(&refused)),
            (status, want),
            "{row}: {refused}"
        );
    }
    // What to sign is told, in the words of an inventory.
    let mut unlisted = scene.guest("guest-99", 1);
    unlisted.launched.host_data = [3; 32];
    let told = unlisted.enroll(&scene).await.unwrap_err();
    for part in [
        "[[guest]]\nname = \"guest-99\"",
        &format!("chips = [\"{}\"]", scene.chip.name()),
        &format!("measurement = \"{}\"", "06".repeat(48)),
        &format!("host_data = \"{}\"", "03".repeat(32)),
    ] {
        assert!(told.message().contains(part), "{part}: {}", told.message());
    }

    // A good report, for another question, another key, another session, or a second time.
    let mut port = good.enroller(&scene).await;
    let first = begin(&mut port, &good).await;
    let second = begin(&mut port, &good).await;
    let thief = Key::new();
    let rows = [
        ("an old nonce", good.proof(&second, &first.nonce, &good.key)),
        ("a report for another key", {
            let asked = begin(&mut port, &good).await;
            good.proof(&asked, &asked.nonce, &thief)
        }),
        ("a report for a statement", {
            let asked = begin(&mut port, &good).await;
            good.proof_over(&asked, &[5; 64])
        }),
    ];
    for (row, proof) in rows {
        let refused = port.finish_guest(proof).await.unwrap_err();
        let got = (refused.code(), code(&refused));
        assert_eq!(got, (denied, "cvm-report-data"), "{row}");
    }
    let mut changed = good.proof(&first, &first.nonce, &good.key);
    changed.session = second.session.clone();
    let over = port.finish_guest(changed).await.unwrap_err();
    assert_eq!(code(&over), "session-unknown", "one attempt each");
    let proof = good.proof(&first, &first.nonce, &good.key);
    port.finish_guest(proof.clone()).await.unwrap();
    let again = port.finish_guest(proof).await.unwrap_err();
    assert_eq!(code(&again), "session-unknown");
    // The last level that the profile allows.
    let mut last = scene.guest("guest-01", 1);
    last.launched.vmpl = 1;
    last.enroll(&scene).await.unwrap();
    // As a TPM, under the name of a guest.
    let mut posing = scene.stand.machine("guest-01");
    scene.stand.meet(&mut posing);
    let request = posing.request(&scene.stand.maker).await;
    let refused = posing.enroll_as(request, &posing.tpm).await.unwrap_err();
    assert_eq!(code(&refused), "ek-not-of-node");
}

async fn begin(port: &mut EnrollServiceClient<Channel>, guest: &Guest) -> v1::GuestChallenge {
    let begun = port.begin_guest(guest.request()).await;
    begun.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attack_on_a_statement_is_refused() {
    let scene = Scene::new().await;
    let mut guest = scene.joined("guest-01", 1).await;
    let node = scene.stand.machine("gpu-01");
    assert_eq!(guest.said(|_| {}).await, "affirming");

    let mut kept = None;
    assert_eq!(
        guest.said(|it| kept = Some(it.freshness)).await,
        "affirming"
    );
    let stale = guest.say(|it| it.freshness = kept.unwrap()).await;
    assert_eq!(stale.code(), "nonce-unknown");
    // The nonce is this one, and the report was made for the one before.
    let stale = guest.say(|it| it.asked = kept).await;
    assert_eq!(stale.code(), "cvm-report-data");

    let key = Key::new();
    let other = guest
        .say(|it| it.statement.guest_key = key.digest().as_bytes().to_vec())
        .await;
    assert_eq!(other.code(), "guest-key");
    let none = guest.say(|it| it.statement.guest_key.clear()).await;
    assert_eq!(none.code(), "guest-key");

    // A real quote by some TPM in the place of the report.
    let statement = guest.next().encode_to_vec();
    let quoted = node.quote(&statement, guest.stream().nonce).await;
    let swapped = guest.stream().evidence(quoted).await.unwrap();
    assert_eq!(swapped.code(), "signer-kind");

    // Good in itself, and of another guest of the same launch, of another launch, or by nobody's chip.
    type Edit = fn(&mut guest::Words, &Scene);
    let rows: [(&str, Edit, &str); 4] = [
        (
            "another running guest",
            |it, _| it.launched.id = [2; 32],
            "guest-instance",
        ),
        (
            "another launch",
            |it, _| it.launched.measurement = [9; 48],
            "guest-launch",
        ),
        (
            "another chip",
            |it, scene| {
                it.chip = scene.other_chip.clone();
                it.table = scene.other_chip.table.clone();
            },
            "guest-chip",
        ),
        ("nobody's chip", |it, _| it.chip = Chip::new(), "cvm-"),
    ];
    for (row, edit, want) in rows {
        let came = guest.say(|it| edit(it, &scene)).await;
        let Came::Accepted(accepted, _) = came else {
            panic!("{row}: {came:?}");
        };
        let reasons = accepted.reasons.join("\n");
        assert_eq!(accepted.verdict, "contraindicated", "{row}: {reasons}");
        assert!(reasons.contains(want), "{row}: {reasons}");
        assert_eq!(guest.lease().await.until_clock_ms, 0, "{row}");
    }
    assert_eq!(guest.said(|_| {}).await, "affirming");
    // Nothing vouches for its key: no lease is granted, and the one that stands is not ended.
    let came = guest.say(|it| it.table = Vec::new()).await;
    let Came::Accepted(accepted, _) = came else {
        panic!("{came:?}");
    };
    let reasons = accepted.reasons.join("\n");
    assert_eq!(accepted.verdict, "none", "{reasons}");
    assert!(reasons.contains("cvm-key-missing"), "{reasons}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_certificate_opens_nothing_without_its_key() {
    let scene = Scene::new().await;
    let mut guest = scene.guest("guest-01", 1);
    let enrolled = guest.enroll(&scene).await.unwrap();
    let own = guest.key.clone();
    guest.key = Key::new();
    let refused = guest.connect(&scene, &enrolled).await;
    assert!(refused.is_err(), "a certificate is no secret");
    guest.key = own;
    guest.connect(&scene, &enrolled).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_retired_enrols_no_more_and_its_lease_is_over() {
    let mut scene = Scene::new().await;
    let mut guest = scene.joined("guest-01", 1).await;
    assert_eq!(guest.said(|_| {}).await, "affirming");
    let granted = guest.lease().await;
    let id = guest_id(&"guest-01".to_owned().try_into().unwrap());
    let other = scene.entry("guest-02", [4; 32]);
    let gone = format!(
        "{other}[[retired]]\nname = \"guest-01\"\nek = \"{id}\"\nat = \"2026-01-01T00:00:00Z\"\n\
         reason = \"over\"\n"
    );
    scene.stand.bring(&gone).await;
    let ended = guest.lease().await;
    assert_eq!(
        (ended.until_clock_ms, &*ended.reason, ended.reset_count),
        (0, "node-retired", 0)
    );
    assert_eq!(ended.quoted_clock_ms, granted.quoted_clock_ms);
    assert_eq!(ended.ak_name, granted.ak_name);
    assert_eq!(code(&guest.ended().await), "node-retired");
    let refused = guest.enroll(&scene).await.unwrap_err();
    assert_eq!(code(&refused), "node-retired");
}
