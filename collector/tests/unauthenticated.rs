//! Whoever has no right to call is told nothing, for every RPC there is: the list comes from the
//! service definition, so a new RPC without a row here fails.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use bailiwick_attestation::{DeploymentId, UnixTime};
use bailiwick_collector::direct::{Director, LeaseKeys, read_approvers};
use bailiwick_collector::endorsements::Endorsed;
use bailiwick_collector::ingest::Streams;
use bailiwick_collector::proto::query_service_server::QueryServiceServer;
use bailiwick_collector::query::{KeysHeld, Query};
use bailiwick_collector::standing::Standing;
use common::{Client, Fixture, call};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

/// Which certificate an RPC asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Needs {
    /// None: it proves itself by what only a TPM can answer, or a guest's processor.
    Nothing,
    Node,
    Operator,
}

const RPCS: &[(&str, Needs)] = &[
    ("EnrollService/Begin", Needs::Nothing),
    ("EnrollService/Finish", Needs::Nothing),
    ("EnrollService/BeginGuest", Needs::Nothing),
    ("EnrollService/FinishGuest", Needs::Nothing),
    ("EvidenceService/Attest", Needs::Node),
    ("EvidenceService/FetchPolicy", Needs::Node),
    ("QueryService/ListNodes", Needs::Operator),
    ("QueryService/GetNode", Needs::Operator),
    ("QueryService/ListEvents", Needs::Operator),
    ("QueryService/ListFlows", Needs::Operator),
    ("QueryService/ListDestinations", Needs::Operator),
    ("QueryService/ListKeys", Needs::Operator),
    ("QueryService/GetEntry", Needs::Operator),
    ("QueryService/ListCollectorKeys", Needs::Operator),
    ("QueryService/ListAlerts", Needs::Operator),
    ("QueryService/GetStatement", Needs::Operator),
    ("QueryService/ApplyPolicy", Needs::Operator),
    ("QueryService/ShowPolicy", Needs::Operator),
    ("QueryService/PolicyStatus", Needs::Operator),
    ("QueryService/Challenge", Needs::Operator),
    ("QueryService/RevokeNode", Needs::Operator),
    ("QueryService/ListEnrolments", Needs::Operator),
    ("QueryService/RelayActivation", Needs::Operator),
    ("QueryService/ListActs", Needs::Operator),
    ("QueryService/ShowBrake", Needs::Operator),
    ("QueryService/ConfirmBrake", Needs::Operator),
    ("QueryService/ListEvidence", Needs::Operator),
    ("QueryService/PlanProfile", Needs::Operator),
];

const PROTOS: &[&str] = &[
    include_str!("../../attestation/proto/bailiwick/v1/enroll.proto"),
    include_str!("../../attestation/proto/bailiwick/v1/evidence.proto"),
    include_str!("../../attestation/proto/bailiwick/v1/record.proto"),
];

/// An empty message.
const EMPTY: &[u8] = &[0; 5];
const UNAUTHENTICATED: u32 = 16;

/// `Service/Method` of every RPC of the service definition.
fn defined() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for proto in PROTOS {
        let mut service = "";
        for line in proto.lines() {
            let line = line.trim();
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.split([' ', '{']).next().unwrap();
            }
            if let Some(rest) = line.strip_prefix("rpc ") {
                let method = rest.split('(').next().unwrap();
                all.insert(format!("{service}/{method}"));
            }
        }
    }
    all
}

#[test]
fn every_rpc_has_a_row() {
    let rows: BTreeSet<String> = RPCS.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
    assert_eq!(rows, defined());
}

#[tokio::test]
async fn nobody_is_served_without_the_right_certificate() {
    let fixture = Fixture::new();
    let node = fixture.node("gpu-01", 600_000).await;
    let running = fixture.start().await;
    let stranger = Fixture::new();
    let again = |client: &Client| Client {
        chain: client.chain.clone(),
        key: client.key.clone_key(),
    };
    for (rpc, needs) in RPCS {
        let path = format!("/bailiwick.v1.{rpc}");
        let (port, wrong) = match needs {
            Needs::Nothing => continue,
            Needs::Node => (
                running.bound.evidence,
                [
                    None,
                    Some(fixture.operator()),
                    Some(stranger.node("x", 600_000).await),
                ],
            ),
            Needs::Operator => (
                running.bound.query,
                [None, Some(again(&node)), Some(stranger.operator())],
            ),
        };
        for (at, client) in wrong.into_iter().enumerate() {
            // TLS 1.3: the refusal may come with the handshake or with the first bytes.
            if let Ok(tls) = fixture.connect(port, client).await {
                let answer = call(tls, &path, &[EMPTY], true).await;
                assert!(answer.is_err(), "{rpc}, wrong client {at}: {answer:?}");
            }
        }
        // The other ports do not know the RPC at all.
        let elsewhere = fixture.connect(running.bound.enroll, None).await.unwrap();
        let answer = call(elsewhere, &path, &[EMPTY], true).await;
        assert_eq!(answer.unwrap(), 12, "{rpc} on the enrolment port");
    }
    running.stop().await;
}

/// A port that forgot to ask for certificates must not open the service behind it.
#[tokio::test]
async fn the_services_ask_too() {
    let fixture = Fixture::new();
    let approvers = read_approvers(&fixture.config.policy.approvers, 1).unwrap();
    let store = fixture.store().await;
    let deployment = DeploymentId::new("demo").unwrap();
    let opened = Director::open(approvers, deployment, store.clone(), UnixTime(0)).await;
    let query = Query {
        standing: Standing::open(&store).await.unwrap(),
        store,
        director: Arc::new(opened.unwrap()),
        streams: Streams::default(),
        trust: Arc::default(),
        endorsements: Arc::new(Endorsed::open(None, UnixTime(0)).unwrap()),
        keys: fixture.keys().await,
        held: KeysHeld {
            leases: Arc::new(LeaseKeys::new(Vec::new()).unwrap()),
            cas: Arc::new(fixture.state().cas().unwrap()),
        },
    };
    for (rpc, needs) in RPCS {
        if *needs != Needs::Operator {
            continue;
        }
        let body = http_body_util::Full::from(EMPTY);
        let request = http::Request::post(format!("/bailiwick.v1.{rpc}"))
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(body))
            .unwrap();
        let server = QueryServiceServer::new(query.clone());
        let response = server.oneshot(request).await.unwrap();
        let header = response.headers().get("grpc-status").cloned();
        let status = match header {
            Some(status) => status,
            None => {
                let collected = response.into_body().collect().await.unwrap();
                collected.trailers().unwrap()["grpc-status"].clone()
            }
        };
        assert_eq!(status, UNAUTHENTICATED.to_string(), "{rpc}");
    }
}
