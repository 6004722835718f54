//! TLS as every port of the collector speaks it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::crypto::PublicKey;
use bailiwick_attestation::x509::Certificate;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::cas::{self, HeldCa};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file.
    #[error("{path}: {fault}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// rustls refuses the combination.
    #[error("TLS configuration")]
    Config(#[from] rustls::Error),
    /// The client verifier cannot be built.
    #[error("client certificates: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// What a client must show.
#[derive(Debug)]
pub enum ClientAuth<'a> {
    /// Nothing: enrolment proves itself by what only the TPM can answer.
    None,
    /// A certificate of this authority.
    Required(&'a CertificateDer<'static>),
    /// A node's, of one of these; none: nobody comes in.
    Nodes(&'a [&'a HeldCa]),
}

/// What one port shows and whom it lets in, for as long as no policy says otherwise.
#[derive(Debug)]
pub struct Door {
    /// None: nobody.
    pub(super) config: Option<Arc<ServerConfig>>,
    /// Which authorities nodes' certificates may be of.
    nodes: Vec<(Sha256Digest, PublicKey)>,
}

impl Door {
    /// With the server certificate of this CA.
    pub fn new(shown: &HeldCa, auth: &ClientAuth<'_>) -> Result<Self, TlsError> {
        let mut nodes = Vec::new();
        if let ClientAuth::Nodes(cas) = auth {
            if cas.is_empty() {
                return Ok(Self {
                    config: None,
                    nodes,
                });
            }
            for ca in *cas {
                if let Ok(certificate) = Certificate::parse(ca.authority.certificate())
                    && let Ok(key) = certificate.key()
                {
                    nodes.push((ca.spki, key.clone()));
                }
            }
        }
        Ok(Self {
            config: Some(server_config(shown, auth)?),
            nodes,
        })
    }

    /// Which of them issued a certificate.
    #[must_use]
    pub fn issuer(&self, certificate: &[u8]) -> Option<Sha256Digest> {
        cas::issuer(certificate, &self.nodes)
    }
}

/// TLS 1.3 with HTTP/2, the server's certificate and what clients must show.
fn server_config(shown: &HeldCa, auth: &ClientAuth<'_>) -> Result<Arc<ServerConfig>, TlsError> {
    let (certificate, key) = (&shown.server_certificate, &shown.server_key);
    let mut chain = read_certificates(certificate)?;
    // Whoever knows the CA by its digest alone finds it here.
    chain.push(shown.authority.certificate().clone());
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
        path: key.clone(),
        fault: error.to_string(),
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Required(authority) => {
            builder.with_client_cert_verifier(clients([*authority], provider)?)
        }
        ClientAuth::Nodes(cas) => {
            let authorities = cas.iter().map(|ca| ca.authority.certificate());
            builder.with_client_cert_verifier(clients(authorities, provider)?)
        }
    };
    let mut config = builder.with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the look at the client's certificate.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn clients<'a>(
    authorities: impl IntoIterator<Item = &'a CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
}

/// Every certificate of a PEM file; none at all is an error.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |fault: String| TlsError::File {
        path: path.to_owned(),
        fault,
    };
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refuse(error.to_string()))?;
    if chain.is_empty() {
        return Err(refuse("holds no certificate".to_owned()));
    }
    Ok(chain)
}
