//! New certificates over keys that stay: whoever pinned a key, or holds one, notices nothing.

use std::path::{Path, PathBuf};

use bailiwick_attestation::{NodeId, UnixTime};

use super::{InitError, Kind, StateDir, read};

impl StateDir {
    /// Renews the server's certificate for these names, under every CA there is and over its key;
    /// the daemon reads it when it starts.
    pub fn renew_server(&self, names: &[String], now: UnixTime) -> Result<PathBuf, InitError> {
        for ca in self.cas()?.held() {
            let key = read(&ca.server_key)?;
            let issued = ca.authority.renew_server(names, &key, now)?;
            replace(&ca.server_certificate, &issued)?;
        }
        Ok(self.path("server.pem"))
    }

    /// Renews an operator's certificate over his or her key. Whoever has none is refused.
    pub fn renew_operator(&self, name: &NodeId, now: UnixTime) -> Result<PathBuf, InitError> {
        let key = read(&self.path(&format!("operators/{name}.key")))?;
        let issued = self
            .authority(Kind::Operators)?
            .renew_operator(name, &key, now)?;
        replace(&self.path(&format!("operators/{name}.pem")), &issued)
    }
}

/// Another file in place of this one, or this one as it was.
fn replace(path: &Path, content: &str) -> Result<PathBuf, InitError> {
    let new = path.with_extension("pem.new");
    let fail = |source| InitError::File {
        path: path.to_owned(),
        what: "replace",
        source,
    };
    std::fs::write(&new, content).map_err(fail)?;
    std::fs::File::open(&new)
        .and_then(|file| file.sync_all())
        .map_err(fail)?;
    std::fs::rename(&new, path).map_err(fail)?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::DeploymentId;
    use bailiwick_attestation::x509::Certificate;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::init::{Plan, init};

    fn certificate(path: &Path) -> Certificate {
        let der = CertificateDer::from_pem_file(path).unwrap();
        Certificate::parse(&der).unwrap()
    }

    #[test]
    fn a_renewed_certificate_is_later_and_over_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let then = UnixTime(1_800_000_000_000);
        let operator = NodeId::new("first").unwrap();
        let made = init(
            &Plan {
                dir: dir.path().join("state"),
                deployment: DeploymentId::new("demo").unwrap(),
                names: vec!["collector.example".into()],
                operator: operator.clone(),
                log_origin: "log.example/demo".into(),
                lease_key_id: "lease-1".into(),
            },
            then,
        )
        .unwrap();
        let state = StateDir::at(&made.state_dir);
        let later = UnixTime(then.millis() + 1000 * 3600 * 24 * 300);
        let cases = [
            ("server.pem", Kind::Transport),
            ("operators/first.pem", Kind::Operators),
        ];
        let before = cases.map(|(file, _)| certificate(&state.path(file)));
        let names = ["collector.example".to_owned(), "10.0.0.1".to_owned()];
        state.renew_server(&names, later).unwrap();
        state.renew_operator(&operator, later).unwrap();
        for ((file, kind), before) in cases.into_iter().zip(before) {
            let after = certificate(&state.path(file));
            assert!(after.not_after() > before.not_after(), "{file}");
            assert_eq!(after.spki_der(), before.spki_der(), "{file}");
            let authority = state.authority(kind).unwrap();
            let issuer = Certificate::parse(authority.certificate()).unwrap();
            after.verify_signature(issuer.key().unwrap()).unwrap();
        }
        let unknown = NodeId::new("second").unwrap();
        assert!(state.renew_operator(&unknown, later).is_err());
    }
}
