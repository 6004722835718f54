//! TLS as every port of the collector speaks it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

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
}

/// TLS 1.3 with HTTP/2, the server's certificate and what clients must show.
pub fn server_config(
    certificate: &Path,
    key: &Path,
    auth: &ClientAuth<'_>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = read_certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
        path: key.to_owned(),
        fault: error.to_string(),
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Required(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add((*authority).clone())?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the look at the client's certificate.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
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
