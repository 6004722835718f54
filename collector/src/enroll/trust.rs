//! Which TPMs are real: the makers' roots, as configured.

use std::path::PathBuf;

use bailiwick_attestation::x509::{Bundle, Certificate};

use tracing::warn;

use crate::config;

/// A file of certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EkTrustError {
    /// It cannot be read.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It holds no certificate.
    #[error("{path}: {fault}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
}

/// Roots and intermediates of TPM makers.
#[derive(Clone, Debug, Default)]
pub struct EkTrust {
    /// Whom a path must end at.
    pub roots: Vec<Certificate>,
    /// What it may pass through.
    pub intermediates: Vec<Certificate>,
    /// Whom the path of an IAK must end at.
    pub iak_roots: Vec<Certificate>,
    /// What it may pass through.
    pub iak_intermediates: Vec<Certificate>,
}

impl EkTrust {
    /// Reads every configured file whole.
    pub fn load(config: &config::Enroll) -> Result<Self, EkTrustError> {
        Ok(Self {
            roots: read_all(&config.ek_roots)?,
            intermediates: read_all(&config.ek_intermediates)?,
            iak_roots: read_all(&config.iak_roots)?,
            iak_intermediates: read_all(&config.iak_intermediates)?,
        })
    }
}

/// Reads certificates from files of PEM or DER; a file without one that can be read is an error.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Certificate>, EkTrustError> {
    let mut all = Vec::new();
    for path in paths {
        let bytes = std::fs::read(path).map_err(|source| EkTrustError::Read {
            path: path.clone(),
            source,
        })?;
        let refuse = |fault: String| EkTrustError::Content {
            path: path.clone(),
            fault,
        };
        let bundle = Bundle::parse(&bytes).map_err(|error| refuse(error.to_string()))?;
        // One odd certificate among a hundred makers' does not make the others useless.
        for (place, error) in &bundle.unreadable {
            warn!(path = %path.display(), place, %error, "certificate passed over");
        }
        if bundle.certificates.is_empty() {
            return Err(refuse("holds no certificate".to_owned()));
        }
        all.extend(bundle.certificates);
    }
    Ok(all)
}
