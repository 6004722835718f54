//! TLS towards the collector: its certificate checked against what was configured, ours signed by
//! a key that never leaves the TPM, or by the one of this boot in a guest that has none.
//!
//! With TLS 1.3 a client's handshake is over before the server has looked at its certificate, and
//! a refusal would surface as some failed RPC. So [`connect`] waits for the server's first bytes
//! (an HTTP/2 server speaks first) and reports the alert that comes instead.

mod authority;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bailiwick_attestation::{
    Sha256Digest,
    crypto::{Curve, PublicKey},
};
use rustls::{
    AlertDescription, ClientConfig, RootCertStore, SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, pem::PemObject as _},
    sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) use authority::listed;
pub use authority::{CaKey, CaRefused};
use authority::{CollectorVerifier, Configured};

use crate::{
    config::{Collector, Endpoint},
    tpm::Tpm,
};

/// For each of: TCP connection, handshake, the server's first bytes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Nothing to recognise the collector by.
    #[error("neither collector.ca_file nor collector.spki_pin is configured: not enrolling")]
    NoTrust,
    /// The CA file.
    #[error("{file}: {fault}")]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// The certificate is not for this node's key, or rustls refuses it.
    #[error("the client certificate cannot be used")]
    Certificate(#[source] rustls::Error),
    /// rustls refuses the combination.
    #[error("TLS configuration")]
    Config(#[source] rustls::Error),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The network.
    #[error("connect to {endpoint}")]
    Tcp {
        /// Where to.
        endpoint: Endpoint,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The collector is not who it should be, or does not speak our TLS.
    #[error("TLS handshake with {endpoint}")]
    Handshake {
        /// Where to.
        endpoint: Endpoint,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The collector looked at our certificate and refused it.
    #[error("{endpoint} refused this node's certificate: {alert:?}")]
    Refused {
        /// Where to.
        endpoint: Endpoint,
        /// What it said.
        alert: AlertDescription,
    },
    /// Nothing came in time.
    #[error("{endpoint} did not answer in {PATIENCE:?}")]
    Timeout {
        /// Where to.
        endpoint: Endpoint,
    },
}

/// Configuration without a client certificate: enrolment. `listed`: whom approvers name, as far as
/// the fence has a policy.
pub fn enrolment_config(
    collector: &Collector,
    listed: &[CaKey],
) -> Result<Arc<ClientConfig>, TlsError> {
    let config = verifying(collector, listed)?.with_no_client_auth();
    Ok(finished(config))
}

/// Configuration with the certificate that enrolment gave: evidence.
pub fn evidence_config(
    collector: &Collector,
    listed: &[CaKey],
    signer: impl Into<crate::signer::Signer>,
    chain: Vec<CertificateDer<'static>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let key = signer.into().tls_key();
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(TlsError::Certificate)?;
    let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(certified));
    let config = verifying(collector, listed)?.with_client_cert_resolver(resolver);
    Ok(finished(config))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Without resumption every connection shows the certificate and the key's signature.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

type Verifying = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn verifying(collector: &Collector, listed: &[CaKey]) -> Result<Verifying, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let configured = match (&collector.ca_file, collector.spki_pin) {
        (Some(file), _) => Configured::Roots(roots(file)?),
        (None, Some(pin)) => Configured::Pin(pin),
        (None, None) => return Err(TlsError::NoTrust),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Config)?;
    let verifier = CollectorVerifier {
        configured,
        listed: listed.to_vec(),
        provider,
    };
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn roots(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |fault: String| TlsError::CaFile {
        file: file.to_owned(),
        fault,
    };
    let roots = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|err| refuse(err.to_string()))?;
    if roots.is_empty() {
        return Err(refuse("holds no certificate".to_owned()));
    }
    for root in &roots {
        RootCertStore::empty()
            .add(root.clone())
            .map_err(|err| refuse(err.to_string()))?;
    }
    Ok(roots)
}

/// The transport key, as rustls wants a private key. There is no private key here.
#[derive(Clone, Debug)]
struct TpmKey {
    tpm: Tpm,
    spki: SubjectPublicKeyInfoDer<'static>,
}

/// The transport key in the TPM, as rustls wants a private key.
pub(crate) fn tpm_key(tpm: &Tpm) -> Arc<dyn SigningKey> {
    Arc::new(TpmKey::new(tpm))
}

impl TpmKey {
    fn new(tpm: &Tpm) -> Self {
        Self {
            tpm: tpm.clone(),
            spki: SubjectPublicKeyInfoDer::from(transport_spki(tpm)),
        }
    }
}

/// `SubjectPublicKeyInfo` of the transport key, DER: what certificates for this node certify.
#[must_use]
pub fn transport_spki(tpm: &Tpm) -> Vec<u8> {
    let (x, y) = tpm.identity().transport_point;
    PublicKey::ec_from_coordinates(Curve::P256, &x, &y)
        .map(|key| key.to_spki_der())
        .unwrap_or_default()
}

impl SigningKey for TpmKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()).into())
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.spki.clone())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl From<Box<TpmKey>> for Box<dyn Signer> {
    fn from(key: Box<TpmKey>) -> Self {
        key
    }
}

impl Signer for TpmKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let digest = Sha256Digest::of(&[message]);
        let (r, s) = self
            .tpm
            .sign_transport(digest.0)
            .map_err(|err| rustls::Error::General(err.to_string()))?;
        Ok(ecdsa_der(&r, &s))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// `Ecdsa-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }`; two P-256 scalars stay below the
/// lengths that need more than one byte.
pub fn ecdsa_der(r: &[u8; 32], s: &[u8; 32]) -> Vec<u8> {
    let mut body = der_integer(r);
    body.extend(der_integer(s));
    tlv(0x30, &body)
}

fn der_integer(scalar: &[u8; 32]) -> Vec<u8> {
    let zeros = scalar
        .iter()
        .take(31)
        .take_while(|byte| **byte == 0)
        .count();
    let (_, minimal) = scalar.split_at(zeros);
    let negative = minimal.first().is_some_and(|first| *first >= 0x80);
    let mut content = Vec::with_capacity(33);
    content.extend(negative.then_some(0));
    content.extend_from_slice(minimal);
    tlv(0x02, &content)
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(u8::try_from(content.len()));
    out.extend_from_slice(content);
    out
}

/// Connects, and returns once the server has spoken or refused.
pub async fn connect(
    endpoint: &Endpoint,
    config: Arc<ClientConfig>,
) -> Result<Connection, ConnectError> {
    let late = || ConnectError::Timeout {
        endpoint: endpoint.clone(),
    };
    let tcp_failed = |source| ConnectError::Tcp {
        endpoint: endpoint.clone(),
        source,
    };
    let address = (endpoint.host.as_str(), endpoint.port);
    let tcp = timeout(PATIENCE, TcpStream::connect(address))
        .await
        .map_err(|_elapsed| late())?
        .map_err(tcp_failed)?;
    tcp.set_nodelay(true).map_err(tcp_failed)?;
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|err| tcp_failed(io::Error::new(io::ErrorKind::InvalidInput, err)))?;
    let mut stream = timeout(PATIENCE, TlsConnector::from(config).connect(name, tcp))
        .await
        .map_err(|_elapsed| late())?
        .map_err(|source| classify(endpoint, source))?;
    let mut first = vec![0; 4096];
    let read = timeout(PATIENCE, stream.read(&mut first))
        .await
        .map_err(|_elapsed| late())?
        .map_err(|source| classify(endpoint, source))?;
    if read == 0 {
        return Err(classify(endpoint, io::ErrorKind::UnexpectedEof.into()));
    }
    first.truncate(read);
    Ok(Connection { first, stream })
}

fn classify(endpoint: &Endpoint, source: io::Error) -> ConnectError {
    let endpoint = endpoint.clone();
    let alert = source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .and_then(|error| match error {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        });
    match alert {
        Some(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError),
        ) => ConnectError::Refused { endpoint, alert },
        _ => ConnectError::Handshake { endpoint, source },
    }
}

/// An established connection; gives back the server's first bytes before the rest.
#[derive(Debug)]
pub struct Connection {
    first: Vec<u8>,
    stream: TlsStream<TcpStream>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        let rest = self.first.split_off(count);
        buf.put_slice(&self.first);
        self.first = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
