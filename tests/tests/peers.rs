//! Addresses of a study, from the node that signed for them to the nodes that share the study:
//! what the collector passes on, what it leaves out, and what it cannot make.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod stand;

use std::time::{Duration, Instant};

use bailiwick_agent::tls::ecdsa_der;
use bailiwick_attestation::evidence::transport_binding;
use bailiwick_attestation::proto::v1::{self, collector_message, fence_state, node_message};
use bailiwick_attestation::{DeploymentId, Sha256Digest};
use bailiwick_collector::clock;
use bailiwick_policy::peers::signed_bytes;
use prost::Message as _;
use stand::{Conversation, Machine, Stand, entry};

/// What a node's agent makes, with the keys of a real TPM; `name` and `address` as the test likes.
async fn signed(machine: &Machine, name: &str, address: [u8; 4], issued_ms: u64) -> v1::PeerEntry {
    let identity = machine.tpm.identity().clone();
    let deployment = DeploymentId::new("demo").unwrap();
    let binding = transport_binding(&deployment, &machine.ek());
    let certified = machine.tpm.certify_transport(binding.0).await.unwrap();
    let body = v1::PeerBody {
        deployment: "demo".to_owned(),
        node: name.to_owned(),
        study: "cardio".to_owned(),
        addresses: vec![address.to_vec()],
        issued_ms,
        lasts_ms: 600_000,
    }
    .encode_to_vec();
    let digest = Sha256Digest::of(&[&signed_bytes(&body)]);
    let (r, s) = machine.tpm.sign_transport(digest.0).unwrap();
    v1::PeerEntry {
        body,
        signature: ecdsa_der(&r, &s),
        key_public: identity.transport_public,
        key_attest: certified.attest,
        key_signature: certified.signature,
        ak_public: identity.ak_public,
    }
}

async fn tell(stream: &Conversation, entries: &[v1::PeerEntry]) {
    let entries = entries.to_vec();
    let peers = v1::PeerEntries { entries };
    stream.send(node_message::Message::Peers(peers)).await;
}

/// The next list of peers that names these nodes; other messages pass by.
async fn until_told(stream: &mut Conversation, want: &[&str]) -> v1::PeerEntries {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if let collector_message::Message::Peers(told) = stream.next().await.unwrap() {
            let bodies = told.entries.iter().map(|entry| entry.body.as_slice());
            let mut nodes: Vec<String> = bodies
                .map(|body| v1::PeerBody::decode(body).unwrap().node)
                .collect();
            nodes.sort();
            if nodes == want {
                return told;
            }
        }
    }
    panic!("{want:?} were not told");
}

/// Reads until nothing has come for longer than lists are held back.
async fn settle(stream: &mut Conversation) {
    let quiet = Duration::from_millis(2_500);
    while tokio::time::timeout(quiet, stream.next()).await.is_ok() {}
}

/// Sends a statement and waits for its verdict.
async fn state(stream: &mut Conversation, machine: &Machine, statement: &v1::Statement) -> String {
    let evidence = machine
        .quote(&statement.encode_to_vec(), stream.nonce)
        .await;
    stream.send(node_message::Message::Evidence(evidence)).await;
    loop {
        if let collector_message::Message::Accepted(accepted) = stream.next().await.unwrap() {
            return accepted.verdict;
        }
    }
}

fn listed(name: &str, machine: &Machine, range: &str) -> String {
    let entry = entry(name, machine);
    format!(
        "{entry}ak = \"{}\"\naddresses = [\"{range}\"]\n",
        machine.ak()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_told_of_peers_in_standing_and_of_what_they_signed_alone() {
    let mut stand = Stand::new().await;
    let (mut one, mut two) = (stand.machine("gpu-01"), stand.machine("gpu-02"));
    let inventory = [
        listed("gpu-01", &one, "10.9.1.0/25"),
        listed("gpu-02", &two, "10.9.1.128/25"),
    ];
    let manifest = stand.apply(&inventory.concat()).await;
    stand.meet(&mut one);
    stand.meet(&mut two);
    let (first, second) = (
        one.enroll(&stand.maker).await,
        two.enroll(&stand.maker).await,
    );
    let mut to_one = one.stream(&first).await.unwrap();
    let mut to_two = two.stream(&second).await.unwrap();
    let now = clock::now().millis();
    let mine = signed(&one, "gpu-01", [10, 9, 1, 5], now).await;
    let theirs = signed(&two, "gpu-02", [10, 9, 1, 200], now).await;
    tell(&to_one, std::slice::from_ref(&mine)).await;
    tell(&to_two, std::slice::from_ref(&theirs)).await;

    // Signed for, and worth nothing before the node has standing.
    let statement = one.statement(&stand, Some(manifest));
    assert_eq!(state(&mut to_one, &one, &statement).await, "affirming");
    let told = until_told(&mut to_two, &["gpu-01"]).await;
    assert_eq!(told.entries, std::slice::from_ref(&mine), "byte for byte");
    let other = two.statement(&stand, Some(manifest));
    assert_eq!(state(&mut to_two, &two, &other).await, "affirming");
    until_told(&mut to_one, &["gpu-02"]).await;

    // Whatever else node two brings: another's address, another's name, another's entry.
    let forged = [
        theirs.clone(),
        signed(&two, "gpu-02", [10, 9, 1, 6], now + 1).await,
        signed(&two, "gpu-01", [10, 9, 1, 6], now + 1).await,
        mine.clone(),
    ];
    for forged in &forged[1..] {
        tell(&to_two, std::slice::from_ref(forged)).await;
        // The list it had is replaced by what is good of this one: nothing.
        until_told(&mut to_one, &[]).await;
        tell(&to_two, &forged_with(&theirs, forged)).await;
        let told = until_told(&mut to_one, &["gpu-02"]).await;
        assert_eq!(told.entries, std::slice::from_ref(&theirs));
    }

    // Node one is refused: its peers are told so within moments, and again once it is restored.
    let refused = v1::Statement {
        sequence: 1,
        previous: Some(Sha256Digest::of(&[&statement.encode_to_vec()]).0.to_vec()),
        fence: Some(v1::FenceState {
            mode: fence_state::Mode::Absent.into(),
            ..v1::FenceState::default()
        }),
        ..statement.clone()
    };
    settle(&mut to_two).await;
    assert_eq!(state(&mut to_one, &one, &refused).await, "contraindicated");
    until_told(&mut to_two, &[]).await;
    let mended = v1::Statement {
        sequence: 2,
        previous: Some(Sha256Digest::of(&[&refused.encode_to_vec()]).0.to_vec()),
        ..statement.clone()
    };
    assert_eq!(state(&mut to_one, &one, &mended).await, "affirming");
    until_told(&mut to_two, &["gpu-01"]).await;
    stand.stop().await;
}

fn forged_with(good: &v1::PeerEntry, forged: &v1::PeerEntry) -> [v1::PeerEntry; 2] {
    [forged.clone(), good.clone()]
}
