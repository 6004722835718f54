//! Who is who after a loss: epochs, retirement, replaced boards, cleared TPMs, and an approver's
//! own challenge through the collector. Every TPM is a software TPM, every port the real one.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod stand;

use bailiwick_attestation::proto::v1::enrolled::State;
use bailiwick_attestation::proto::v1::{
    self, activation_answer::Answer, collector_message::Message, node_message,
};
use bailiwick_attestation::tlog::{ActKind, NoteVerifier, verify_act};
use bailiwick_attestation::tpm::{EkPublic, Public, make_credential};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use prost::Message as _;
use stand::{Conversation, Machine, Stand, entry};
use tonic::{Code, Status};

/// The stable word a refusal begins with.
fn code(refused: &Status) -> &str {
    refused.message().split(':').next().unwrap()
}

/// Codes of the deviations in what the collector said to a statement.
async fn say(machine: &Machine, stream: &mut Conversation, statement: &v1::Statement) -> String {
    let evidence = machine
        .quote(&statement.encode_to_vec(), stream.nonce)
        .await;
    match stream.evidence(evidence).await.unwrap() {
        stand::Came::Accepted(accepted, _) => {
            format!("{}: {}", accepted.verdict, accepted.reasons.join("; "))
        }
        stand::Came::Refused(refused) => refused.code,
    }
}

/// The statement after `before`.
fn after(before: &v1::Statement) -> v1::Statement {
    let digest = Sha256Digest::of(&[&before.encode_to_vec()]);
    v1::Statement {
        sequence: before.sequence + 1,
        previous: Some(digest.as_bytes().to_vec()),
        ..before.clone()
    }
}

/// Today a second statement of the new epoch must not earn what the first did not.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_epoch_waits_for_an_approver() {
    let mut stand = Stand::new().await;
    let mut machine = stand.machine("gpu-01");
    let listed = entry("gpu-01", &machine);
    let manifest = stand.apply(&listed).await;
    stand.meet(&mut machine);
    let enrolled = machine.enroll(&stand.maker).await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let first = machine.statement(&stand, Some(manifest));
    assert_eq!(say(&machine, &mut stream, &first).await, "affirming: ");

    let mut lost = machine.statement(&stand, Some(manifest));
    lost.epoch = 7;
    for number in 0..3 {
        let said = say(&machine, &mut stream, &lost).await;
        assert!(said.starts_with("none: "), "{number}: {said}");
        assert!(said.contains("epoch-unacknowledged"), "{number}: {said}");
        lost = after(&lost);
    }
    let row = stand.store().await.node_get(&machine.ek()).await.unwrap();
    assert!(
        row.unwrap().lease_until.is_some(),
        "what was granted runs out"
    );

    // One number too low acknowledges nothing.
    for (epoch, affirmed) in [(6, false), (7, true)] {
        let manifest = stand.apply(&format!("{listed}epoch = {epoch}\n")).await;
        stand.meet(&mut machine);
        let mut stream = machine.stream(&enrolled).await.unwrap();
        lost.policy = machine.statement(&stand, Some(manifest)).policy;
        let said = say(&machine, &mut stream, &lost).await;
        assert_eq!(said == "affirming: ", affirmed, "{epoch}: {said}");
        lost = after(&lost);
    }
}

/// `TPM2_Clear` leaves the EK and takes AK and counters: the past comes back to mind by the EK.
#[tokio::test(flavor = "multi_thread")]
async fn a_cleared_tpm_enrols_and_is_caught() {
    let mut stand = Stand::new().await;
    let mut machine = stand.machine("gpu-01");
    let manifest = stand.apply(&entry("gpu-01", &machine)).await;
    stand.meet(&mut machine);
    let enrolled = machine.enroll(&stand.maker).await;
    // What a cleared TPM needs until its next quote, its clock must be behind by.
    while machine.tpm.quote([0; 32]).await.unwrap().clock.clock_ms < 15_000 {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let first = machine.statement(&stand, Some(manifest));
    assert_eq!(say(&machine, &mut stream, &first).await, "affirming: ");
    drop(stream);

    let (ek, ak) = (machine.ek(), machine.ak());
    let machine = machine.cleared();
    assert_eq!(machine.ek(), ek, "the EK outlives TPM2_Clear");
    assert_ne!(machine.ak(), ak, "the AK does not");
    let enrolled = machine.enroll(&stand.maker).await;
    assert_eq!(enrolled.state(), State::Enrolled);
    let mut stream = machine.stream(&enrolled).await.unwrap();
    // A clean past under the old epoch, and the next of the old chain, by the new AK.
    let mut past = machine.statement(&stand, Some(manifest));
    past.wall_time_ms = 1;
    for clean in [past, after(&first)] {
        let said = say(&machine, &mut stream, &clean).await;
        assert_eq!(said, "sequence-forked");
    }
    let mut fresh = machine.statement(&stand, Some(manifest));
    fresh.epoch = 1;
    fresh.boot_id = vec![8; 16];
    let said = say(&machine, &mut stream, &fresh).await;
    assert!(said.starts_with("contraindicated: "), "{said}");
    assert!(said.contains("tpm-cleared"), "{said}");
    let said = say(&machine, &mut stream, &after(&fresh)).await;
    assert!(said.starts_with("none: "), "{said}");
    assert!(said.contains("epoch-unacknowledged"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_tpm_is_out_and_stays_out() {
    let mut stand = Stand::new().await;
    let mut machine = stand.machine("gpu-01");
    stand.apply(&entry("gpu-01", &machine)).await;
    stand.meet(&mut machine);
    let enrolled = machine.enroll(&stand.maker).await;
    drop(machine.stream(&enrolled).await.unwrap());

    let retired = format!(
        "[[retired]]\nname = \"gpu-01\"\nek = \"{}\"\nat = \"2026-01-01T00:00:00Z\"\nreason = \"sold\"\n",
        machine.ek()
    );
    stand.apply(&retired).await;
    stand.meet(&mut machine);
    let Err(refused) = machine.stream(&enrolled).await else {
        panic!("a retired TPM still has its stream");
    };
    assert_eq!(
        (refused.code(), code(&refused)),
        (Code::PermissionDenied, "node-retired")
    );
    let request = machine.request(&stand.maker).await;
    let refused = machine.enroll_as(request, &machine.tpm).await.unwrap_err();
    assert_eq!(code(&refused), "node-retired");
    // The record says so, and its certificate is revoked.
    let mut operator = stand.operator().await;
    let acts = loop {
        let request = v1::ListActsRequest {
            kind: ActKind::Retirement.as_str().to_owned(),
            ..v1::ListActsRequest::default()
        };
        let acts = operator.list_acts(request).await.unwrap().into_inner().acts;
        if !acts.is_empty() {
            break acts;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let body = String::from_utf8(acts[0].body.clone()).unwrap();
    assert!(body.contains("reason gpu-01 was retired: sold"), "{body}");
    let row = stand.store().await.node_get(&machine.ek()).await.unwrap();
    assert!(row.unwrap().revoked.is_some());
    // Back in service, it enrols again.
    stand.apply(&entry("gpu-01", &machine)).await;
    stand.meet(&mut machine);
    assert_eq!(machine.enroll(&stand.maker).await.state(), State::Enrolled);
}

/// The next lease, past whatever else the collector says.
async fn next_lease(stream: &mut Conversation) -> v1::LeaseBody {
    loop {
        if let Message::Lease(lease) = stream.next().await.unwrap() {
            return v1::LeaseBody::decode(lease.body.as_slice()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_taken_back_is_told_that_its_lease_is_over() {
    for why in ["node-retired", "certificate-revoked"] {
        let mut stand = Stand::new().await;
        let mut machine = stand.machine("gpu-01");
        // It enrols before anybody lists it, as every first node of an installation does.
        let enrolled = machine.enroll(&stand.maker).await;
        assert_eq!(enrolled.state(), State::Pending);
        let manifest = stand.apply(&entry("gpu-01", &machine)).await;
        stand.meet(&mut machine);
        let mut stream = machine.stream(&enrolled).await.unwrap();
        let first = machine.statement(&stand, Some(manifest));
        assert_eq!(say(&machine, &mut stream, &first).await, "affirming: ");
        let granted = next_lease(&mut stream).await;
        assert!(granted.until_clock_ms > granted.quoted_clock_ms, "{why}");
        if why == "node-retired" {
            let retired = format!(
                "[[retired]]\nname = \"gpu-01\"\nek = \"{}\"\nat = \"2026-01-01T00:00:00Z\"\n\
                 reason = \"sold\"\n",
                machine.ek()
            );
            stand.bring(&retired).await;
        } else {
            let mut operator = stand.operator().await;
            let request = v1::RevokeNodeRequest {
                node: "gpu-01".into(),
            };
            operator.revoke_node(request).await.unwrap();
        }
        // Over the lease it has, by the statement that it answers: a node believes it.
        let ended = next_lease(&mut stream).await;
        let want = v1::LeaseBody {
            until_clock_ms: 0,
            reason: why.to_owned(),
            manifest_digest: ended.manifest_digest.clone(),
            ..granted
        };
        assert_eq!(ended, want);
        let closed = loop {
            if let Err(status) = stream.next().await {
                break status;
            }
        };
        assert_eq!(code(&closed), why);
        let row = stand.store().await.node_get(&machine.ek()).await.unwrap();
        assert_eq!(row.unwrap().lease_until, None, "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_board_needs_an_entry_that_names_the_old() {
    let mut stand = Stand::new().await;
    let (mut old, mut new) = (stand.machine("gpu-01"), stand.machine("gpu-01-new"));
    new.config.node = old.config.node.clone();
    stand.apply(&entry("gpu-01", &old)).await;
    stand.meet(&mut old);
    old.enroll(&stand.maker).await;

    let listed = entry("gpu-01", &new);
    let cases = [
        ("names nothing", String::new(), Some("replaces-missing")),
        (
            "names a third",
            format!("replaces = \"{}\"\n", "ab".repeat(32)),
            Some("replaces-missing"),
        ),
        (
            "names the old",
            format!("replaces = \"{}\"\n", old.ek()),
            None,
        ),
    ];
    for (name, replaces, want) in cases {
        stand.apply(&format!("{listed}{replaces}")).await;
        stand.meet(&mut new);
        let request = new.request(&stand.maker).await;
        let came = new.enroll_as(request, &new.tpm).await;
        assert_eq!(came.as_ref().err().map(code), want, "{name}");
    }
    stand.meet(&mut old);
    let request = old.request(&stand.maker).await;
    let refused = old.enroll_as(request, &old.tpm).await.unwrap_err();
    assert_eq!(code(&refused), "node-retired");
}

/// The node's end of an approver's challenge, as the agent answers it.
async fn answer(machine: &Machine, stream: &mut Conversation) {
    let activation = loop {
        if let Message::Activation(activation) = stream.next().await.unwrap() {
            break activation;
        }
    };
    let opened = machine
        .tpm
        .activate(activation.credential_blob, activation.encrypted_secret)
        .await;
    let answer = v1::ActivationAnswer {
        id: activation.id,
        answer: Some(match opened {
            Ok(secret) => Answer::Secret(secret),
            Err(why) => Answer::Refused(why.to_string()),
        }),
    };
    stream.send(node_message::Message::Activation(answer)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_passes_a_challenge_and_its_answer() {
    let stand = Stand::new().await;
    let machine = stand.machine("gpu-01");
    let enrolled = machine.enroll(&stand.maker).await;
    let identity = machine.tpm.identity();
    let ek = EkPublic::new(Public::parse(&identity.ek_public).unwrap()).unwrap();
    let ak = Public::parse(&identity.ak_public).unwrap();
    let name = ak.name().unwrap();
    let secret = [9; 32];
    let relay = |blob: &[u8], encrypted: &[u8]| v1::RelayActivationRequest {
        node: "gpu-01".into(),
        credential_blob: blob.to_vec(),
        encrypted_secret: encrypted.to_vec(),
    };
    let good = make_credential(&ek, &name, &secret).unwrap();
    let mut operator = stand.operator().await;
    let request = relay(&good.id_object, &good.encrypted_secret);
    let refused = operator.relay_activation(request.clone()).await;
    assert_eq!(code(&refused.unwrap_err()), "node-unreachable");

    let mut stream = machine.stream(&enrolled).await.unwrap();
    let (answered, ()) = tokio::join!(
        operator.relay_activation(request),
        answer(&machine, &mut stream)
    );
    let answered = answered.unwrap().into_inner();
    assert_eq!(answered.answer, Some(Answer::Secret(secret.to_vec())));

    // For another AK, the TPM itself refuses.
    let other = stand.machine("gpu-02");
    let other = Public::parse(&other.tpm.identity().ak_public).unwrap();
    let foreign = make_credential(&ek, &other.name().unwrap(), &secret).unwrap();
    let request = relay(&foreign.id_object, &foreign.encrypted_secret);
    let (answered, ()) = tokio::join!(
        operator.relay_activation(request),
        answer(&machine, &mut stream)
    );
    let answered = answered.unwrap().into_inner().answer;
    assert!(matches!(answered, Some(Answer::Refused(_))), "{answered:?}");

    for (name, blob, encrypted) in [
        ("no blob", vec![], vec![1]),
        ("no secret", vec![1], vec![]),
        ("a blob too long", vec![0; 1025], vec![1]),
        ("a secret too long", vec![1], vec![0; 1025]),
    ] {
        let refused = operator.relay_activation(relay(&blob, &encrypted)).await;
        assert_eq!(code(&refused.unwrap_err()), "credential-length", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolments_are_listed_recorded_and_proved() {
    let mut stand = Stand::new().await;
    let (mut listed, mut pending) = (stand.machine("gpu-01"), stand.machine("gpu-02"));
    let absent = format!(
        "[[node]]\nname = \"gpu-03\"\nek = \"{}\"\njurisdiction = \"DE\"\n",
        "ab".repeat(32)
    );
    let gone = format!(
        "[[retired]]\nname = \"gpu-04\"\nek = \"{}\"\nat = \"2026-01-01T00:00:00Z\"\nreason = \"sold\"\n",
        "cd".repeat(32)
    );
    let confirmed = stand.confirmed("gpu-01", &listed);
    stand.apply(&format!("{confirmed}{absent}{gone}")).await;
    for machine in [&mut listed, &mut pending] {
        stand.meet(machine);
        machine.enroll(&stand.maker).await;
    }
    let mut operator = stand.operator().await;
    let answer = operator.list_enrolments(v1::ListEnrolmentsRequest {}).await;
    let rows: Vec<_> = answer
        .unwrap()
        .into_inner()
        .enrolments
        .into_iter()
        .map(|row| (row.claimed, row.node, row.state, row.ak))
        .collect();
    let pending_name = format!("ek-{}", &pending.ek().to_string()[..16]);
    let row = |claimed: &str, node: &str, state: &str, ak: &str| {
        (
            claimed.to_owned(),
            node.to_owned(),
            state.to_owned(),
            ak.to_owned(),
        )
    };
    let mut want = vec![
        row("gpu-01", "gpu-01", "enrolled", "confirmed by alice"),
        row("gpu-02", &pending_name, "pending", "collector's word"),
        row("", "gpu-03", "never-enrolled", ""),
        row("", "gpu-04", "retired", ""),
    ];
    want.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(rows, want);
    let nodes = operator.list_nodes(v1::ListNodesRequest::default()).await;
    let nodes = nodes.unwrap().into_inner().nodes;
    let states: Vec<_> = nodes.iter().map(|n| n.state.as_str()).collect();
    assert!(states.contains(&"never-enrolled"), "{states:?}");

    // An enrolment is a leaf of its own, provable to whoever has the log's key.
    let request = v1::ListActsRequest {
        node: "gpu-01".into(),
        kind: "enrolment".into(),
        limit: 0,
    };
    let acts = operator.list_acts(request).await.unwrap().into_inner().acts;
    let [act] = acts.as_slice() else {
        panic!("{} enrolments", acts.len());
    };
    let body = v1::Enrolment::decode(act.body.as_slice()).unwrap();
    assert_eq!(body.node, "gpu-01");
    let digest = Sha256Digest::of(&[&act.body]);
    let verifier = NoteVerifier::parse(&stand.log_vkey()).unwrap();
    let receipt = act.receipt.as_ref().unwrap();
    let proved = verify_act(receipt, &digest, &verifier, None).unwrap();
    assert_eq!(proved.entry.at, UnixTime(body.activated_ms));
    let mut edited = act.body.clone();
    edited[3] ^= 1;
    let digest = Sha256Digest::of(&[&edited]);
    assert!(verify_act(receipt, &digest, &verifier, None).is_err());
}
