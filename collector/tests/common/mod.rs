//! A collector in this process: port 0, a folder of its own.
#![expect(
    dead_code,
    clippy::unwrap_used,
    reason = "every test binary uses a part of it; a fixture that fails is a failed test"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::NoteSigner;
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest, UnixTime};
use bailiwick_collector::clock;
use bailiwick_collector::config::Config;
use bailiwick_collector::init::{self, Kind, NodeCertificate, Plan, StateDir};
use bailiwick_collector::keys::{KeyStores, Keys};
use bailiwick_collector::record::{NewEnrolment, Store};
use bailiwick_collector::run::{Checked, Running};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A state folder, and a configuration for it.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) config: Config,
}

/// A client's certificate chain and key.
pub(crate) struct Client {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let approvers = dir.path().join("allowed_signers");
        // A key nobody has: no policy will ever be in force here.
        let line = "nobody ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ\n";
        std::fs::write(&approvers, line).unwrap();
        let plan = Plan {
            dir: dir.path().join("state"),
            deployment: DeploymentId::new("demo").unwrap(),
            names: vec!["127.0.0.1".into()],
            operator: NodeId::new("first").unwrap(),
            log_origin: "log.example/demo".into(),
            lease_key_id: "lease-1".into(),
        };
        init::init(&plan, clock::now()).unwrap();
        let text = format!(
            "state_dir = {:?}\n[listen]\nenroll = \"127.0.0.1:0\"\nevidence = \"127.0.0.1:0\"\nquery = \"127.0.0.1:0\"\n[policy]\napprovers = {approvers:?}\nthreshold = 1\n",
            plan.dir
        );
        let config = Config::parse(Path::new("test"), &text).unwrap();
        Self { dir, config }
    }

    pub(crate) fn state(&self) -> StateDir {
        StateDir::at(&self.config.state_dir)
    }

    pub(crate) async fn start(&self) -> Running {
        Running::start(Checked::new(self.config.clone()).unwrap())
            .await
            .unwrap()
    }

    pub(crate) async fn store(&self) -> Store {
        let key = self.state().log_key().unwrap();
        let signer = NoteSigner::from_pkcs8("log.example/demo", &key).unwrap();
        let path = self.state().path("collector.db");
        Store::open(&path, signer).await.unwrap().0
    }

    pub(crate) async fn keys(&self) -> Keys {
        let stores = KeyStores::read(&self.state().key_stores()).unwrap();
        let deployment = DeploymentId::new("demo").unwrap();
        let path = self.state().path("keys.db");
        Keys::open(&path, stores, deployment).await.unwrap()
    }

    pub(crate) fn operator(&self) -> Client {
        let file = |name: &str| self.state().path(name);
        Client {
            chain: vec![CertificateDer::from_pem_file(file("operators/first.pem")).unwrap()],
            key: PrivateKeyDer::from_pem_file(file("operators/first.key")).unwrap(),
        }
    }

    /// A node whose enrolment is written straight into the store. Its keys are software: it gets
    /// as far as the stream and can make no evidence.
    pub(crate) async fn node(&self, name: &str, life_ms: u64) -> Client {
        let now = clock::now();
        let ek = Sha256Digest::of(&[name.as_bytes()]);
        let (ak, transport) = (key(), key());
        let ak_public = ak_public(ak.der_bytes());
        let ak_name = [
            &[0, 0x0b],
            Sha256Digest::of(&[&ak_public]).as_bytes().as_slice(),
        ]
        .concat();
        let not_after = UnixTime::from_secs((now.millis() + life_ms).div_ceil(1000));
        let authority = self.state().authority(Kind::Transport).unwrap();
        let certificate = authority
            .issue_node(
                &NodeCertificate {
                    ek_digest: ek,
                    ak_name: ak_name.clone(),
                    public_point: transport.der_bytes().to_vec(),
                    not_after,
                },
                now,
            )
            .unwrap();
        let request = v1::EnrollRequest {
            ak_public,
            ..v1::EnrollRequest::default()
        };
        let enrolment = NewEnrolment {
            ek,
            claimed_name: name.into(),
            ak_name,
            certificate: Sha256Digest::of(&[&certificate]),
            certificate_not_after: not_after,
            enrolment: v1::Enrolment {
                request: Some(request),
                ..v1::Enrolment::default()
            },
            now,
        };
        self.store()
            .await
            .enrolment_insert(enrolment)
            .await
            .unwrap();
        Client {
            chain: vec![certificate],
            key: PrivatePkcs8KeyDer::from(transport.serialize_der()).into(),
        }
    }

    /// A TLS connection, with or without a certificate.
    pub(crate) async fn connect(
        &self,
        to: SocketAddr,
        client: Option<Client>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.state().path("ca.pem")).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(client) => builder
                .with_client_auth_cert(client.chain, client.key)
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(to).await?;
        let name = ServerName::IpAddress(to.ip().into());
        TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// `TPMT_PUBLIC` of a restricted ECDSA P-256 key.
fn ak_public(point: &[u8]) -> Vec<u8> {
    let (x, y) = point[1..].split_at(32);
    let mut out = vec![0x00, 0x23, 0x00, 0x0b];
    out.extend(0x0005_0072u32.to_be_bytes());
    out.extend([
        0, 0, 0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0x00, 0x03, 0x00, 0x10,
    ]);
    for coordinate in [x, y] {
        out.extend([0, 32]);
        out.extend(coordinate);
    }
    out
}

/// A raw gRPC call: what is sent is exactly `frames`, and the stream stays open if `end` is false.
/// Answers with the gRPC status, or an error where there was none.
pub(crate) async fn call(
    tls: TlsStream<TcpStream>,
    path: &str,
    frames: &[&[u8]],
    end: bool,
) -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
    let (mut client, connection) = h2::client::handshake(tls).await?;
    tokio::spawn(async move { drop(connection.await) });
    let request = http::Request::post(format!("https://127.0.0.1{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    futures_ready(&mut client).await?;
    let (response, mut body) = client.send_request(request, false)?;
    for (at, frame) in frames.iter().enumerate() {
        body.send_data(frame.to_vec().into(), end && at + 1 == frames.len())?;
    }
    let response = response.await?;
    let status = |headers: &http::HeaderMap| {
        headers
            .get("grpc-status")
            .and_then(|status| status.to_str().ok()?.parse().ok())
    };
    if let Some(status) = status(response.headers()) {
        return Ok(status);
    }
    let mut answers = response.into_body();
    while let Some(chunk) = answers.data().await {
        let len = chunk?.len();
        answers.flow_control().release_capacity(len)?;
    }
    let trailers = answers.trailers().await?.unwrap_or_default();
    status(&trailers).ok_or_else(|| "no gRPC status".into())
}

async fn futures_ready(
    client: &mut h2::client::SendRequest<bytes::Bytes>,
) -> Result<(), h2::Error> {
    std::future::poll_fn(|cx| client.poll_ready(cx)).await
}
