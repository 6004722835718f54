//! Evidence that is not what it claims to be, and what becomes of it.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod stand;

use std::sync::Arc;

use bailiwick_agent::channel::{self, ChannelError};
use bailiwick_agent::outward::{Outward, OutwardRefused};
use bailiwick_agent::tls::{self, ConnectError};
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::proto::v1::{self, collector_message, node_message};
use bailiwick_attestation::standing::{LeaseKey, LeaseTerms, QuotedAt, verify_lease};
use bailiwick_attestation::tlog::{NoteVerifier, verify_receipt};
use bailiwick_attestation::tpm::Attest;
use bailiwick_collector::clock;
use bailiwick_collector::record::NodeRow;
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use stand::{Came, Conversation, Machine, Stand, entry};

/// A listed, enrolled machine and the policy it says it enforces.
async fn ready() -> (Stand, Machine, v1::Enrolled, Sha256Digest) {
    let mut stand = Stand::new().await;
    let mut machine = stand.machine("gpu-01");
    let manifest = stand.apply(&entry("gpu-01", &machine)).await;
    stand.meet(&mut machine);
    let enrolled = machine.enroll(&stand.maker).await;
    (stand, machine, enrolled, manifest)
}

/// The statement that follows one.
fn after(before: &v1::Statement) -> v1::Statement {
    v1::Statement {
        sequence: before.sequence + 1,
        previous: Some(
            Sha256Digest::of(&[&before.encode_to_vec()])
                .as_bytes()
                .to_vec(),
        ),
        ..before.clone()
    }
}

async fn lease(stream: &mut Conversation) -> v1::Lease {
    loop {
        match stream.next().await.unwrap() {
            collector_message::Message::Lease(lease) => return lease,
            collector_message::Message::Policy(_) => {}
            other => panic!("{other:?} in place of a lease"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_affirmed_node_gets_receipt_and_lease() {
    let (stand, machine, enrolled, manifest) = ready().await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let statement = machine.statement(&stand, Some(manifest));
    let bytes = statement.encode_to_vec();
    let evidence = machine.quote(&bytes, stream.nonce).await;
    let Came::Accepted(accepted, receipt) = stream.evidence(evidence.clone()).await.unwrap() else {
        panic!("refused");
    };
    assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);

    // Receipt and lease verify under the keys that approvers signed.
    let text = std::fs::read(stand.dir.path().join("policy/manifest.toml")).unwrap();
    assert_eq!(Sha256Digest::of(&[&text]), manifest);
    let store = stand.store().await;
    let row = store.policy_get(&manifest).await.unwrap().unwrap();
    let bundle = v1::PolicyBundle::decode(row.bundle.as_slice()).unwrap();
    let file = |path: &str| {
        let found = bundle.files.iter().find(|file| file.path == path);
        found.unwrap().content.clone()
    };
    let keys = toml::from_str::<toml::Value>(&String::from_utf8(file("collector.toml")).unwrap());
    let keys = keys.unwrap();
    let vkey = keys["log"][0]["vkey"].as_str().unwrap();
    let log = NoteVerifier::parse(vkey).unwrap();
    let digest = Sha256Digest::of(&[&bytes]);
    let proved = verify_receipt(&receipt, &digest, &log, None).unwrap();
    assert_eq!(proved.entry.verdict, "affirming");
    assert_eq!(proved.entry.subject, "gpu-01");

    let granted = lease(&mut stream).await;
    let ed25519 = keys["lease_key"][0]["ed25519"].as_str().unwrap();
    let ed25519 = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, ed25519).unwrap();
    let keys = [LeaseKey {
        id: "lease-1".into(),
        ed25519: ed25519.try_into().unwrap(),
        term: bailiwick_attestation::Term::default(),
    }];
    let Some(v1::evidence::Signer::TpmQuote(quote)) = &evidence.signer else {
        panic!("no quote");
    };
    let clock = Attest::parse(&quote.attest).unwrap().clock_info;
    let (deployment, node) = (
        machine.config.deployment.clone(),
        machine.config.node.clone(),
    );
    let terms = LeaseTerms {
        deployment: &deployment,
        node: &node,
        ak_name: &machine.tpm.identity().ak_name,
        reset_count: clock.reset_count,
        statements: &[QuotedAt {
            statement: digest,
            clock_ms: clock.clock,
            boot_time_ns: evidence.quoted_boot_time_ns,
        }],
        in_force: None,
        now: bailiwick_attestation::UnixTime(0),
    };
    let verified = verify_lease(&granted, &keys, &terms).unwrap();
    let length = verified.end_boot_ns() - evidence.quoted_boot_time_ns;
    assert_eq!(length, 300_000_000_000);

    // Refused: the lease ends at once.
    let mut broken = after(&statement);
    broken.fence.as_mut().unwrap().mode = v1::fence_state::Mode::Absent.into();
    let evidence = machine.quote(&broken.encode_to_vec(), stream.nonce).await;
    let Came::Accepted(accepted, _) = stream.evidence(evidence).await.unwrap() else {
        panic!("refused");
    };
    assert_eq!(accepted.verdict, "contraindicated");
    let ended = v1::LeaseBody::decode(lease(&mut stream).await.body.as_slice()).unwrap();
    assert_eq!(ended.until_clock_ms, 0);
}

async fn outward(stream: &mut Conversation) -> v1::OutwardCertificate {
    drop(lease(stream).await);
    match stream.next().await.unwrap() {
        collector_message::Message::Outward(outward) => outward,
        other => panic!("{other:?} in place of an outward certificate"),
    }
}

/// Whether somebody who trusts the CA in this file of the collector's believes the leaf now.
fn believed(stand: &Stand, ca: &str, leaf: &[u8]) -> bool {
    let file = stand.dir.path().join("state").join(ca);
    let mut roots = rustls::RootCertStore::empty();
    let authority = rustls::pki_types::CertificateDer::from_pem_file(file).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let now = rustls::pki_types::UnixTime::now();
    let verifier = verifier.build().unwrap();
    verifier.verify_client_cert(&leaf.into(), &[], now).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outward_certificate_exists_only_while_appraisal_affirms() {
    let (stand, machine, enrolled, manifest) = ready().await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let first = machine.statement(&stand, Some(manifest));
    let evidence = machine.quote(&first.encode_to_vec(), stream.nonce).await;
    assert_eq!(stream.evidence(evidence).await.unwrap().code(), "accepted");
    let certificate = outward(&mut stream).await;
    let leaf = certificate.certificate_chain[0].clone();
    assert!(believed(&stand, "outward-ca.pem", &leaf));
    assert!(!believed(&stand, "ca.pem", &leaf));
    assert!(!believed(&stand, "operator-ca.pem", &leaf));

    // The agent takes it: it is for the key in this TPM, and another machine's agent does not.
    let keep = |name: &str, tpm| {
        let (dir, now) = (stand.dir.path().join(name), clock::now());
        let mut kept = Outward::open(&dir, tls::transport_spki(tpm), now);
        kept.replace(&certificate, now)
    };
    keep("kept", &machine.tpm).unwrap();
    let other = stand.machine("gpu-02");
    let refused = keep("other", &other.tpm).unwrap_err();
    assert!(matches!(refused, OutwardRefused::Key), "{refused}");

    // The evidence port has an authority of its own: with this chain, and the very key of the
    // enrolled node, nobody is let in.
    let chain = certificate.certificate_chain.iter();
    let chain = chain.map(|der| der.clone().into()).collect();
    let tls = tls::evidence_config(&machine.config.collector, &[], &machine.tpm, chain).unwrap();
    let closed = channel::open(&machine.config.collector.evidence, tls).await;
    let Err(ChannelError::Connect(ConnectError::Refused { alert, .. })) = closed else {
        panic!("{closed:?}");
    };
    assert_eq!(alert, rustls::AlertDescription::UnknownCA);

    // Affirmed again, with more than half of its life left: a lease, and no other certificate.
    let second = after(&first);
    let evidence = machine.quote(&second.encode_to_vec(), stream.nonce).await;
    assert_eq!(stream.evidence(evidence).await.unwrap().code(), "accepted");
    drop(lease(&mut stream).await);

    // Refused: the lease ends, and nothing follows before the next answer.
    let mut broken = after(&second);
    broken.fence.as_mut().unwrap().mode = v1::fence_state::Mode::Absent.into();
    let evidence = machine.quote(&broken.encode_to_vec(), stream.nonce).await;
    stream.send(node_message::Message::Evidence(evidence)).await;
    let verdict = match stream.next().await.unwrap() {
        collector_message::Message::Accepted(accepted) => accepted.verdict,
        other => panic!("{other:?} after a lease"),
    };
    assert_eq!(verdict, "contraindicated");
    let receipt = stream.next().await.unwrap();
    assert!(matches!(receipt, collector_message::Message::Receipt(_)));
    let ended = v1::LeaseBody::decode(lease(&mut stream).await.body.as_slice()).unwrap();
    assert_eq!(ended.until_clock_ms, 0);
    let mended = v1::Statement {
        fence: second.fence.clone(),
        ..after(&broken)
    };
    let evidence = machine.quote(&mended.encode_to_vec(), stream.nonce).await;
    stream.send(node_message::Message::Evidence(evidence)).await;
    let next = stream.next().await.unwrap();
    assert!(
        matches!(next, collector_message::Message::Accepted(_)),
        "{next:?} after a contraindicated statement"
    );
    let receipt = stream.next().await.unwrap();
    assert!(matches!(receipt, collector_message::Message::Receipt(_)));

    // Restored: the node threw the first one away, so it gets another at once.
    let again = outward(&mut stream).await;
    assert_ne!(again.certificate_chain[0], leaf);
    assert!(believed(
        &stand,
        "outward-ca.pem",
        &again.certificate_chain[0]
    ));
}

/// Each of these is tried with a challenge of its own; none leaves a row.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_that_does_not_verify_is_refused_by_name() {
    let (stand, machine, enrolled, manifest) = ready().await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let statement = machine.statement(&stand, Some(manifest)).encode_to_vec();
    type Edit = fn(&mut v1::Evidence);
    fn quote(evidence: &mut v1::Evidence) -> &mut v1::TpmQuote {
        match &mut evidence.signer {
            Some(v1::evidence::Signer::TpmQuote(quote)) => quote,
            _ => panic!("no quote"),
        }
    }
    let cases: [(&str, Edit, &str); 9] = [
        (
            "statement changed by one byte",
            |evidence| *evidence.statement.last_mut().unwrap() ^= 1,
            "nonce",
        ),
        (
            // The same message with an unknown field added: other bytes, other digest.
            "statement re-encoded",
            |evidence| evidence.statement.extend([0xf8, 0x07, 0x01]),
            "nonce",
        ),
        (
            "registers relabelled",
            |evidence| {
                let values = &mut evidence.pcrs[0].values;
                values[1].index = 2;
            },
            "pcr-missing",
        ),
        (
            "a register's value changed",
            |evidence| evidence.pcrs[0].values[0].digest[0] ^= 1,
            "pcr-digest",
        ),
        (
            "quote changed by one byte",
            |evidence| *quote(evidence).attest.last_mut().unwrap() ^= 1,
            "signature",
        ),
        (
            "signature changed by one byte",
            |evidence| *quote(evidence).signature.last_mut().unwrap() ^= 1,
            "signature",
        ),
        (
            "quote cut short",
            |evidence| {
                let attest = &mut quote(evidence).attest;
                attest.truncate(attest.len() - 1);
            },
            "malformed",
        ),
        (
            "no signer",
            |evidence| evidence.signer = None,
            "evidence-malformed",
        ),
        (
            "a log nobody asked for",
            |evidence| {
                evidence.logs.push(v1::Log {
                    name: "diary".into(),
                    content: Vec::new(),
                    ..v1::Log::default()
                });
            },
            "evidence-malformed",
        ),
    ];
    for (name, edit, want) in cases {
        let mut evidence = machine.quote(&statement, stream.nonce).await;
        edit(&mut evidence);
        let came = stream.evidence(evidence).await.unwrap();
        assert_eq!(came.code(), want, "{name}");
    }
    // A certification by the same AK in place of a quote, over the very same data.
    let mut evidence = machine.quote(&statement, stream.nonce).await;
    let bound = Attest::parse(&quote(&mut evidence).attest)
        .unwrap()
        .extra_data
        .to_vec();
    let certified = machine
        .tpm
        .certify_transport(bound.try_into().unwrap())
        .await;
    let certified = certified.unwrap();
    *quote(&mut evidence) = v1::TpmQuote {
        attest: certified.attest,
        signature: certified.signature,
    };
    let came = stream.evidence(evidence).await.unwrap();
    assert_eq!(came.code(), "type", "a quote of another type");

    // What was refused left nothing: the honest statement is still the first.
    let evidence = machine.quote(&statement, stream.nonce).await;
    assert_eq!(stream.evidence(evidence).await.unwrap().code(), "accepted");
    let row = stand
        .store()
        .await
        .node_get(&machine.ek())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.statements, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_evidence_gains_nothing() {
    let (stand, machine, enrolled, manifest) = ready().await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let first = machine.statement(&stand, Some(manifest));
    let second = after(&first);
    let used = stream.nonce;
    let evidence = machine.quote(&first.encode_to_vec(), used).await;
    let Came::Accepted(_, receipt) = stream.evidence(evidence.clone()).await.unwrap() else {
        panic!("refused");
    };
    drop(lease(&mut stream).await);

    // The very same again: the answer may have got lost. It is the same row, and no new lease.
    let Came::Accepted(_, again) = stream.evidence(evidence.clone()).await.unwrap() else {
        panic!("refused");
    };
    assert_eq!(again.index, receipt.index);

    // A used challenge, honestly quoted.
    let replay = machine.quote(&second.encode_to_vec(), used).await;
    assert_eq!(
        stream.evidence(replay).await.unwrap().code(),
        "nonce-unknown"
    );

    // An old quote under the new challenge's name, with the new statement.
    let mut relabelled = evidence;
    relabelled.statement = second.encode_to_vec();
    let nonce = stream.nonce.as_bytes().to_vec();
    relabelled.freshness = Some(v1::evidence::Freshness::Nonce(nonce));
    assert_eq!(stream.evidence(relabelled).await.unwrap().code(), "nonce");

    // Another first statement, and one that follows another history.
    let other = v1::Statement {
        wall_time_ms: 1,
        ..first.clone()
    };
    let forked = machine.quote(&other.encode_to_vec(), stream.nonce).await;
    assert_eq!(
        stream.evidence(forked).await.unwrap().code(),
        "sequence-forked"
    );
    let forked = machine
        .quote(&after(&other).encode_to_vec(), stream.nonce)
        .await;
    assert_eq!(
        stream.evidence(forked).await.unwrap().code(),
        "sequence-forked"
    );

    let honest = machine.quote(&second.encode_to_vec(), stream.nonce).await;
    assert_eq!(stream.evidence(honest).await.unwrap().code(), "accepted");
    let row = stand
        .store()
        .await
        .node_get(&machine.ek())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.statements, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nodes_certificate_speaks_for_its_own_node_alone() {
    let (stand, machine, enrolled, manifest) = ready().await;
    let other = stand.machine("gpu-02");
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let foreign = other.enroll(&stand.maker).await;
    let mut others = other.stream(&foreign).await.unwrap();
    let statement = machine.statement(&stand, Some(manifest)).encode_to_vec();

    // Good evidence of one node on the stream of another: its challenge is not this one's.
    let evidence = machine.quote(&statement, stream.nonce).await;
    assert_eq!(
        others.evidence(evidence).await.unwrap().code(),
        "nonce-unknown"
    );
    // With a challenge of that stream: the AK is not that node's.
    let evidence = machine.quote(&statement, others.nonce).await;
    assert_eq!(others.evidence(evidence).await.unwrap().code(), "signature");
    let evidence = machine.quote(&statement, stream.nonce).await;
    assert_eq!(stream.evidence(evidence).await.unwrap().code(), "accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_nodes_evidence_is_kept_and_earns_nothing() {
    let stand = Stand::new().await;
    let machine = stand.machine("gpu-01");
    let enrolled = machine.enroll(&stand.maker).await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let statement = machine.statement(&stand, None);
    let evidence = machine
        .quote(&statement.encode_to_vec(), stream.nonce)
        .await;
    let Came::Accepted(accepted, _) = stream.evidence(evidence).await.unwrap() else {
        panic!("refused");
    };
    assert_eq!(accepted.verdict, "none");
    // No lease came: the next answer follows at once.
    let next = after(&statement);
    let evidence = machine.quote(&next.encode_to_vec(), stream.nonce).await;
    assert_eq!(stream.evidence(evidence).await.unwrap().code(), "accepted");
    let row = stand
        .store()
        .await
        .node_get(&machine.ek())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((row.statements, row.lease_until), (2, None));
}

/// What the collector keeps about the machine.
async fn row(stand: &Stand, machine: &Machine) -> NodeRow {
    let store = stand.store().await;
    store.node_get(&machine.ek()).await.unwrap().unwrap()
}

/// Sends a statement and says what came of it; leases and offers on the way are passed over.
async fn say(machine: &Machine, stream: &mut Conversation, statement: &v1::Statement) -> String {
    let evidence = machine
        .quote(&statement.encode_to_vec(), stream.nonce)
        .await;
    stream.evidence(evidence).await.unwrap().code().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_told() {
    let (stand, machine, enrolled, manifest) = ready().await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let first = machine.statement(&stand, Some(manifest));
    let second = after(&first);
    assert_eq!(say(&machine, &mut stream, &first).await, "accepted");
    assert_eq!(say(&machine, &mut stream, &second).await, "accepted");
    assert_eq!(row(&stand, &machine).await.gap, None);

    let mut later = after(&second);
    later.sequence = 6;
    assert_eq!(say(&machine, &mut stream, &later).await, "accepted");
    let (_, gap) = row(&stand, &machine).await.gap.unwrap();
    assert_eq!(gap, "4 statements before number 6 are missing");
    // What was skipped does not come back under the log that has gone on.
    let mut skipped = after(&second);
    skipped.sequence = 3;
    assert_eq!(
        say(&machine, &mut stream, &skipped).await,
        "sequence-behind"
    );

    // A log that was lost begins another epoch, and there is no way back to the one before.
    let mut epoch = first.clone();
    epoch.epoch = 1;
    assert_eq!(say(&machine, &mut stream, &epoch).await, "accepted");
    let (_, gap) = row(&stand, &machine).await.gap.unwrap();
    assert_eq!(gap, "it began epoch 1 after epoch 0");
    let old = after(&later);
    assert_eq!(say(&machine, &mut stream, &old).await, "sequence-behind");
    let mut ahead = after(&old);
    ahead.sequence = 9;
    assert_eq!(say(&machine, &mut stream, &ahead).await, "sequence-behind");
    assert_eq!(row(&stand, &machine).await.statements, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_statement_that_is_not_the_first_is_a_gap() {
    let (stand, machine, enrolled, manifest) = ready().await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let mut late = after(&machine.statement(&stand, Some(manifest)));
    late.sequence = 5;
    assert_eq!(say(&machine, &mut stream, &late).await, "accepted");
    let (_, gap) = row(&stand, &machine).await.gap.unwrap();
    assert_eq!(gap, "its first statement here is number 5");
}
