use std::net::Ipv4Addr;

use bailiwick_attestation::{Term, x509::Certificate};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm as RcgenAlgorithm,
};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer, server::WebPkiClientVerifier};
use tokio::{io::AsyncWriteExt, net::TcpListener};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    signer::testing::{Machine, processor},
    tpm::testing::SoftTpm,
};

/// A certificate authority of a test's own.
struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two authorities of one name would differ by a signature only.
        let name = hex::encode(key.public_key_raw());
        params
            .distinguished_name
            .push(DnType::CommonName, &name[..40]);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        usage: ExtendedKeyUsagePurpose,
        days_left: i64,
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(10);
        params.not_after = now + time::Duration::days(days_left);
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }
}

/// A P-256 point that lives elsewhere.
struct Point(Vec<u8>);

impl Point {
    fn of(tpm: &Tpm) -> Self {
        let (x, y) = tpm.identity().transport_point;
        Self([&[4], x.as_slice(), &y].concat())
    }
}

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static RcgenAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A server that demands a certificate of `nodes` and speaks first.
async fn server(
    own: &Authority,
    nodes: &Authority,
) -> (
    Endpoint,
    Sha256Digest,
    tokio::task::JoinHandle<Vec<Vec<u8>>>,
) {
    let key = KeyPair::generate().unwrap();
    let pin = Sha256Digest::of(&[&key.subject_public_key_info()]);
    let certificate = own.issue(&key, ExtendedKeyUsagePurpose::ServerAuth, 10);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(nodes.certificate.clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![certificate, own.certificate.clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(tcp).await else {
            return Vec::new();
        };
        stream.write_all(b"settings").await.unwrap();
        stream.flush().await.unwrap();
        let (_, session) = stream.get_ref();
        let certificates = session.peer_certificates().unwrap();
        certificates.iter().map(|cert| cert.to_vec()).collect()
    });
    let endpoint = Endpoint {
        host: "127.0.0.1".to_owned(),
        port,
    };
    (endpoint, pin, seen)
}

fn collector(endpoint: &Endpoint) -> Collector {
    Collector {
        enroll: endpoint.clone(),
        evidence: endpoint.clone(),
        ca_file: None,
        spki_pin: None,
    }
}

struct Case {
    soft: SoftTpm,
    tpm: Tpm,
    own: Authority,
    nodes: Authority,
}

impl Case {
    fn new() -> Self {
        let soft = SoftTpm::blank();
        Self {
            tpm: Tpm::open(soft.settings()).unwrap(),
            soft,
            own: Authority::new(),
            nodes: Authority::new(),
        }
    }

    fn ca_file(&self, authority: &Authority) -> PathBuf {
        let file = self.soft.path("ca.pem");
        std::fs::write(&file, &authority.pem).unwrap();
        file
    }

    fn chain(&self, authority: &Authority, days_left: i64) -> Vec<CertificateDer<'static>> {
        let key = Point::of(&self.tpm);
        vec![authority.issue(&key, ExtendedKeyUsagePurpose::ClientAuth, days_left)]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tpms_key_answers_the_handshake() {
    let case = Case::new();
    let chain = case.chain(&case.nodes, 10);
    for by_pin in [false, true] {
        let (endpoint, pin, seen) = server(&case.own, &case.nodes).await;
        let mut collector = collector(&endpoint);
        if by_pin {
            collector.spki_pin = Some(pin);
        } else {
            collector.ca_file = Some(case.ca_file(&case.own));
        }
        let config = evidence_config(&collector, &[], &case.tpm, chain.clone()).unwrap();
        let mut connection = connect(&endpoint, config).await.unwrap();
        let mut first = [0; 8];
        connection.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"settings", "what was read early is not lost");
        assert_eq!(seen.await.unwrap(), [chain[0].to_vec()], "pin: {by_pin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_guests_boot_answers_the_handshake() {
    let (own, nodes) = (Authority::new(), Authority::new());
    let machine = Machine::new(processor());
    let guest = machine.guest([1; 16]);
    let point = Point(guest.spki()[guest.spki().len() - 65..].to_vec());
    let chain = vec![nodes.issue(&point, ExtendedKeyUsagePurpose::ClientAuth, 10)];
    let (endpoint, pin, seen) = server(&own, &nodes).await;
    let mut collector = collector(&endpoint);
    collector.spki_pin = Some(pin);
    let config = evidence_config(&collector, &[], guest.clone(), chain.clone()).unwrap();
    connect(&endpoint, config).await.unwrap();
    assert_eq!(seen.await.unwrap(), [chain[0].to_vec()]);
    // In the next boot it is a certificate for nobody.
    let next = machine.guest([2; 16]);
    let refused = evidence_config(&collector, &[], next, chain).unwrap_err();
    assert!(matches!(refused, TlsError::Certificate(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_certificate_reads_as_refused() {
    let case = Case::new();
    let stranger = Authority::new();
    let cases = [
        (
            "of another authority",
            case.chain(&stranger, 10),
            AlertDescription::UnknownCA,
        ),
        (
            "expired",
            case.chain(&case.nodes, -1),
            AlertDescription::CertificateExpired,
        ),
    ];
    for (name, chain, want) in cases {
        let (endpoint, pin, _seen) = server(&case.own, &case.nodes).await;
        let mut collector = collector(&endpoint);
        collector.spki_pin = Some(pin);
        let config = evidence_config(&collector, &[], &case.tpm, chain).unwrap();
        match connect(&endpoint, config).await.unwrap_err() {
            ConnectError::Refused { alert, .. } => assert_eq!(alert, want, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let (endpoint, pin, _seen) = server(&case.own, &case.nodes).await;
    let mut collector = collector(&endpoint);
    collector.spki_pin = Some(pin);
    let config = enrolment_config(&collector, &[]).unwrap();
    let refused = connect(&endpoint, config).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("refused this node's certificate: CertificateRequired"),
        "none at all: {refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_collector_gets_nothing() {
    let case = Case::new();
    let (endpoint, mut pin, _seen) = server(&case.own, &case.nodes).await;
    assert!(matches!(
        enrolment_config(&collector(&endpoint), &[]),
        Err(TlsError::NoTrust)
    ));
    pin.0[0] ^= 1;
    let mut pinned = collector(&endpoint);
    pinned.spki_pin = Some(pin);
    let refused = connect(&endpoint, enrolment_config(&pinned, &[]).unwrap()).await;
    assert!(
        matches!(refused, Err(ConnectError::Handshake { .. })),
        "another key"
    );

    let (endpoint, _, _seen) = server(&case.own, &case.nodes).await;
    let mut other = collector(&endpoint);
    other.ca_file = Some(case.ca_file(&Authority::new()));
    let refused = connect(&endpoint, enrolment_config(&other, &[]).unwrap()).await;
    assert!(
        matches!(refused, Err(ConnectError::Handshake { .. })),
        "another CA"
    );

    std::fs::write(case.soft.path("ca.pem"), "nothing").unwrap();
    assert!(matches!(
        enrolment_config(&other, &[]),
        Err(TlsError::CaFile { .. })
    ));
}

/// Whatever the machine was configured with, from the first policy that lists CAs on it is the
/// policy that says.
#[tokio::test(flavor = "multi_thread")]
async fn the_cas_that_approvers_list_count_and_no_others() {
    let case = Case::new();
    let chain = case.chain(&case.nodes, 10);
    let stranger = Authority::new();
    let listed = |authority: &Authority, revoked: Option<u64>| {
        let certificate = Certificate::parse(&authority.certificate).unwrap();
        CaKey {
            spki: Sha256Digest::of(&[certificate.spki_der()]),
            term: Term {
                revoked: revoked.map(bailiwick_attestation::UnixTime),
                ..Term::default()
            },
        }
    };
    let (own, other) = (listed(&case.own, None), listed(&stranger, None));
    let revoked = listed(&case.own, Some(1));
    type Row<'a> = (&'a str, Option<&'a Authority>, Vec<CaKey>, Option<&'a str>);
    let rows: &[Row<'_>] = &[
        ("configured", Some(&case.own), vec![own.clone()], None),
        (
            "rotated: another is configured",
            Some(&stranger),
            vec![other.clone(), own.clone()],
            None,
        ),
        (
            "rotated: a pin is configured",
            None,
            vec![own.clone()],
            None,
        ),
        (
            "configured and not listed",
            Some(&case.own),
            vec![other.clone()],
            Some("ca-not-listed"),
        ),
        (
            "configured and revoked",
            Some(&case.own),
            vec![revoked.clone()],
            Some("ca-key-revoked"),
        ),
        (
            "of a stranger, where another is configured and listed",
            Some(&stranger),
            vec![other.clone()],
            Some("ca-not-listed"),
        ),
        (
            "revoked, beside its successor",
            Some(&case.own),
            vec![revoked.clone(), other],
            Some("ca-key-revoked"),
        ),
        (
            "pinned and revoked",
            None,
            vec![revoked],
            Some("ca-key-revoked"),
        ),
    ];
    for (name, configured, listed, want) in rows {
        let (endpoint, pin, _seen) = server(&case.own, &case.nodes).await;
        let mut collector = collector(&endpoint);
        match configured {
            Some(authority) => collector.ca_file = Some(case.ca_file(authority)),
            None => collector.spki_pin = Some(pin),
        }
        let config = evidence_config(&collector, listed, &case.tpm, chain.clone()).unwrap();
        let refused = connect(&endpoint, config).await.err();
        match (refused, want) {
            (None, None) => {}
            (Some(ConnectError::Handshake { source, .. }), Some(code)) => {
                assert!(source.to_string().contains(code), "{name}: {source}");
            }
            (refused, _) => panic!("{name}: {refused:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_key_is_not_used() {
    let case = Case::new();
    let key = KeyPair::generate().unwrap();
    let chain = vec![
        case.nodes
            .issue(&key, ExtendedKeyUsagePurpose::ClientAuth, 10),
    ];
    let mut collector = collector(&Endpoint {
        host: "localhost".to_owned(),
        port: 1,
    });
    collector.spki_pin = Some(Sha256Digest([0; 32]));
    let refused = evidence_config(&collector, &[], &case.tpm, chain).unwrap_err();
    assert!(matches!(refused, TlsError::Certificate(_)), "{refused:?}");
}

#[test]
fn signatures_are_minimal_der() {
    let mut small = [0; 32];
    small[31] = 1;
    let high = [0xff; 32];
    let der = ecdsa_der(&small, &high);
    assert_eq!(&der[..8], [0x30, 38, 0x02, 1, 1, 0x02, 33, 0]);
    assert_eq!(der.len(), 40);
    assert_eq!(der_integer(&[0; 32]), [0x02, 1, 0]);
}
