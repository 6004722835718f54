//! A guest before a service that plays the collector's.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::Ipv4Addr,
    path::Path,
    sync::Mutex,
    task::{Context, Poll},
};

use bailiwick_attestation::{
    NodeId, Sha256Digest,
    proto::v1::{Enrolled, GuestChallenge, enrolled::State},
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, PublicKeyData as _};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;

use super::*;
use crate::{
    collect::tee::double::Play,
    enroll,
    signer::{
        Signer,
        testing::{Machine, processor},
    },
};

const NONCE: [u8; 32] = [9; 32];
const SESSION: &[u8] = b"a session";

/// What it was asked, and what it answers at the end.
#[derive(Clone)]
struct Played {
    begun: Arc<Mutex<Vec<GuestRequest>>>,
    finished: Arc<Mutex<Vec<GuestProof>>>,
    nonce: Vec<u8>,
    answer: Result<Enrolled, Status>,
}

struct Begin(Played);
struct Finish(Played);

impl UnaryService<GuestRequest> for Begin {
    type Response = GuestChallenge;
    type Future = Ready<Result<Response<GuestChallenge>, Status>>;

    fn call(&mut self, request: Request<GuestRequest>) -> Self::Future {
        let mut begun = self.0.begun.lock().unwrap();
        begun.push(request.into_inner());
        ready(Ok(Response::new(GuestChallenge {
            session: SESSION.to_vec(),
            nonce: self.0.nonce.clone(),
        })))
    }
}

impl UnaryService<GuestProof> for Finish {
    type Response = Enrolled;
    type Future = Ready<Result<Response<Enrolled>, Status>>;

    fn call(&mut self, request: Request<GuestProof>) -> Self::Future {
        let mut finished = self.0.finished.lock().unwrap();
        finished.push(request.into_inner());
        ready(self.0.answer.clone().map(Response::new))
    }
}

impl NamedService for Played {
    const NAME: &'static str = "bailiwick.v1.EnrollService";
}

impl Service<http::Request<Body>> for Played {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let played = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/bailiwick.v1.EnrollService/BeginGuest" => {
                    let codec = ProstCodec::<GuestChallenge, GuestRequest>::default();
                    Grpc::new(codec).unary(Begin(played), request).await
                }
                "/bailiwick.v1.EnrollService/FinishGuest" => {
                    let codec = ProstCodec::<Enrolled, GuestProof>::default();
                    Grpc::new(codec).unary(Finish(played), request).await
                }
                other => panic!("{other}"),
            })
        })
    }
}

/// Listens, and answers with the port and the pin of its key.
async fn serve(played: Played) -> (u16, Sha256Digest, JoinHandle<()>) {
    let key = KeyPair::generate().unwrap();
    let pin = Sha256Digest::of(&[&key.subject_public_key_info()]);
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key).unwrap();
    let private = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (streams, incoming) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if streams.send(acceptor.accept(tcp).await).await.is_err() {
                return;
            }
        }
    });
    let served = tokio::spawn(async move {
        let incoming = ReceiverStream::new(incoming);
        let server = Server::builder().add_service(played);
        server.serve_with_incoming(incoming).await.unwrap();
    });
    (port, pin, served)
}

struct Outcome {
    enrolled: Result<Enrolment, EnrollError>,
    begun: Vec<GuestRequest>,
    finished: Vec<GuestProof>,
    spki: Vec<u8>,
}

async fn outcome(play: Play, nonce: &[u8], answer: Result<Enrolled, Status>) -> Outcome {
    let played = Played {
        begun: Arc::default(),
        finished: Arc::default(),
        nonce: nonce.to_vec(),
        answer,
    };
    let (port, pin, served) = serve(played.clone()).await;
    let machine = Machine::new(play);
    let text = format!(
        "deployment = \"demo\"\nnode = \"guest-01\"\nsigner = \"tee\"\n[collector]\n\
         enroll = \"127.0.0.1:{port}\"\nevidence = \"127.0.0.1:{port}\"\nspki_pin = \"{pin}\"\n\
         [policy]\napprovers = \"a\"\nthreshold = 1\n",
    );
    let config = Config::parse(Path::new("agent.toml"), &text).unwrap();
    let guest = machine.guest([1; 16]);
    let spki = guest.spki().to_vec();
    let hardware = Hardware {
        chassis_serial: "C-1".to_owned(),
        devices: vec!["GPU-a".to_owned()],
    };
    let enrolled = enroll::enroll(&config, &[], &Signer::from(guest), hardware).await;
    served.abort();
    Outcome {
        enrolled,
        begun: std::mem::take(&mut *played.begun.lock().unwrap()),
        finished: std::mem::take(&mut *played.finished.lock().unwrap()),
        spki,
    }
}

fn good() -> Enrolled {
    Enrolled {
        state: State::Enrolled.into(),
        node: "guest-01".to_owned(),
        certificate_chain: vec![vec![1]],
        certificate_not_after_ms: 5,
        ..Enrolled::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_enrols_with_a_report_for_its_key_and_the_collectors_nonce() {
    let play = Play {
        certificates: Some(b"a table".to_vec()),
        ..processor()
    };
    let out = outcome(play, &NONCE, Ok(good())).await;
    let enrolled = out.enrolled.unwrap();
    assert_eq!(enrolled.node, Some(NodeId::new("guest-01").unwrap()));
    let [begun] = out.begun.as_slice() else {
        panic!("{:?}", out.begun);
    };
    let said = (begun.deployment.as_str(), begun.node.as_str());
    assert_eq!(said, ("demo", "guest-01"));
    assert_eq!(begun.transport_spki, out.spki);
    assert_eq!(
        (begun.chassis_serial.as_str(), begun.devices.len()),
        ("C-1", 1)
    );
    let [proof] = out.finished.as_slice() else {
        panic!("{:?}", out.finished);
    };
    assert_eq!(proof.session, SESSION);
    let tee = proof.evidence.as_ref().unwrap();
    let report = tee.report.as_ref().unwrap();
    let deployment = bailiwick_attestation::DeploymentId::new("demo").unwrap();
    let key = Sha256Digest::of(&[&out.spki]);
    let data = guest_transport_data(&deployment, &Nonce::new(NONCE), &key);
    assert_eq!(
        (report.kind.as_str(), &report.report[0x50..0x90]),
        ("sev-snp", &data[..])
    );
    assert_eq!(tee.certificates, b"a table");
    assert!(tee.manifest.is_empty() && tee.unavailable.is_empty() && tee.refused.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_not_enrol_a_guest_and_why_is_told_apart() {
    let refuses = Play {
        refuses: true,
        ..processor()
    };
    let nobody = Play {
        provider: Some("arm_cca_guest"),
        ..processor()
    };
    let unlisted = Status::failed_precondition("guest-unlisted: sign this entry");
    let unchecked = Status::unavailable("guest-unchecked: no certificate of the chip's key");
    let store = Status::unavailable("store-failed: try again");
    let no_ca = Status::unavailable("no-ca: approvers list no CA of this collector that counts");
    type Row = (
        &'static str,
        Play,
        usize,
        Result<Enrolled, Status>,
        &'static str,
    );
    let rows: [Row; 7] = [
        (
            "processor, refused",
            refuses,
            32,
            Ok(good()),
            "the processor refused",
        ),
        (
            "processor, not asked",
            nobody,
            32,
            Ok(good()),
            "the processor could not be asked",
        ),
        (
            "collector, refused",
            processor(),
            32,
            Err(unlisted),
            "refused: guest-unlisted: sign this entry",
        ),
        (
            "collector, could not check",
            processor(),
            32,
            Err(unchecked),
            "the collector could not check: guest-unchecked: no certificate of the chip's key",
        ),
        (
            "collector, failed",
            processor(),
            32,
            Err(store),
            "the collector failed",
        ),
        (
            "collector, without a CA",
            processor(),
            32,
            Err(no_ca),
            "the collector failed",
        ),
        (
            "no nonce",
            processor(),
            31,
            Ok(good()),
            "the collector's answer: a nonce that does not have 32 bytes",
        ),
    ];
    for (name, play, length, answer, want) in rows {
        let out = outcome(play, &NONCE[..length], answer).await;
        let why = out.enrolled.unwrap_err();
        assert_eq!(why.to_string(), want, "{name}");
        // A report was sent where there was one, and nothing else was.
        let asked = name.starts_with("collector");
        assert_eq!(out.finished.len(), usize::from(asked), "{name}");
    }
}

#[test]
fn a_connection_that_broke_is_no_word_of_the_collectors() {
    let status = Status::from_error(Box::new(std::io::Error::other("reset")));
    assert!(!matches!(failed(status), EnrollError::Unchecked(_)));
    let mut broken = Status::unavailable("tcp connect error");
    broken.set_source(Arc::new(std::io::Error::other("reset")));
    assert!(matches!(failed(broken), EnrollError::Rpc(_)));
}
