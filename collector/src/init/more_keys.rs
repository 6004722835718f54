//! The next log key and the next CA, beside those there are: approvers say which one counts.

use bailiwick_attestation::tlog::NoteSigner;
use bailiwick_attestation::x509::Certificate;
use bailiwick_attestation::{NodeId, Sha256Digest, UnixTime};

use super::{Authority, Identity, InitError, Kind, StateDir, ca, make_dir, read, write_new};
use crate::cas::{Cas, HeldCa};
use crate::record::LogSigners;

const LOG_KEYS: &str = "log-keys";
const CAS: &str = "cas";
/// What `collector.toml` calls the CA that `init` made.
const FIRST_CA: &str = "ca-1";

impl StateDir {
    /// Every key that may sign checkpoints, the one `init` made first.
    pub fn log_signers(&self, identity: &Identity) -> Result<LogSigners, InitError> {
        let first = self.log_signer("log.key", identity)?;
        let mut later = Vec::new();
        for name in self.names(LOG_KEYS)? {
            if name.ends_with(".key") {
                later.push(self.log_signer(&format!("{LOG_KEYS}/{name}"), identity)?);
            }
        }
        Ok(LogSigners::new(first, later))
    }

    /// Makes one more log key, and says what `collector.toml` of the policy has to say for it to
    /// count. The log stays the same.
    pub fn add_log_key(&self, id: &NodeId) -> Result<String, InitError> {
        let identity = self.identity()?;
        let name = format!("{LOG_KEYS}/{id}.key");
        make_dir(&self.path(LOG_KEYS))?;
        write_new(&self.path(&name), ca::ed25519_key()?.as_bytes())?;
        let signer = self.log_signer(&name, &identity)?;
        Ok(log_toml(&signer))
    }

    /// Every CA of servers and nodes, the one `init` made first.
    pub fn cas(&self) -> Result<Cas, InitError> {
        let first = self.held_ca(FIRST_CA, "")?;
        let mut later = Vec::new();
        for id in self.names(CAS)? {
            later.push(self.held_ca(&id, &format!("{CAS}/{id}/"))?);
        }
        Ok(Cas { first, later })
    }

    /// Makes one more CA with a server certificate for these names under it, and says what
    /// `collector.toml` of the policy has to say for it to count.
    pub fn add_ca(
        &self,
        id: &NodeId,
        names: &[String],
        now: UnixTime,
    ) -> Result<String, InitError> {
        let identity = self.identity()?;
        let folder = self.path(&format!("{CAS}/{id}"));
        if id.as_str() == FIRST_CA || folder.exists() {
            return Err(InitError::Exists(folder));
        }
        make_dir(&self.path(CAS))?;
        // Under its own name only when it is whole: `run` reads whatever lies there.
        let new = self.path(&format!("{CAS}.{id}.new"));
        make_dir(&new)?;
        let issued = Authority::make(&identity.deployment, Kind::Transport, now)?;
        let authority = Authority::load(
            &identity.deployment,
            Kind::Transport,
            &issued.certificate,
            &issued.key,
        )?;
        let server = authority.issue_server(names, now)?;
        for (name, content) in [
            ("ca.pem", &issued.certificate),
            ("ca.key", &issued.key),
            ("server.pem", &server.certificate),
            ("server.key", &server.key),
        ] {
            write_new(&new.join(name), content.as_bytes())?;
        }
        std::fs::rename(&new, &folder).map_err(|source| InitError::File {
            path: folder.clone(),
            what: "made",
            source,
        })?;
        Ok(ca_toml(
            &self.held_ca(id.as_str(), &format!("{CAS}/{id}/"))?,
        ))
    }

    /// What the policy file says of the first CA.
    pub(super) fn first_ca_toml(&self) -> Result<String, InitError> {
        Ok(ca_toml(&self.held_ca(FIRST_CA, "")?))
    }

    fn held_ca(&self, id: &str, folder: &str) -> Result<HeldCa, InitError> {
        let identity = self.identity()?;
        let path = |name: &str| self.path(&format!("{folder}{name}"));
        let (certificate, key) = (read(&path("ca.pem"))?, read(&path("ca.key"))?);
        let authority = Authority::load(&identity.deployment, Kind::Transport, &certificate, &key)?;
        let parsed = Certificate::parse(authority.certificate());
        let spki = parsed.map(|certificate| Sha256Digest::of(&[certificate.spki_der()]));
        Ok(HeldCa {
            id: id.to_owned(),
            spki: spki.map_err(|error| InitError::Content {
                path: path("ca.pem"),
                fault: error.to_string(),
            })?,
            authority,
            server_certificate: path("server.pem"),
            server_key: path("server.key"),
        })
    }

    fn log_signer(&self, name: &str, identity: &Identity) -> Result<NoteSigner, InitError> {
        NoteSigner::from_pkcs8(&identity.log_origin, &self.pkcs8(name)?).map_err(|error| {
            InitError::Content {
                path: self.path(name),
                fault: error.to_string(),
            }
        })
    }

    /// What lies in a folder, sorted; nothing where there is none.
    fn names(&self, folder: &str) -> Result<Vec<String>, InitError> {
        let path = self.path(folder);
        if !path.is_dir() {
            return Ok(Vec::new());
        }
        let failed = |source| InitError::File {
            path: path.clone(),
            what: "read",
            source,
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

pub(super) fn log_toml(signer: &NoteSigner) -> String {
    let verifier = signer.verifier();
    let origin = verifier.name();
    format!("[[log]]\norigin = \"{origin}\"\nvkey = \"{verifier}\"\n")
}

fn ca_toml(ca: &HeldCa) -> String {
    format!("\n[[ca]]\nid = \"{}\"\nspki = \"{}\"\n", ca.id, ca.spki)
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::DeploymentId;
    use bailiwick_policy::model::CollectorKeys;

    use super::*;
    use crate::init::{Plan, init};

    #[test]
    fn the_next_keys_stand_beside_the_first_and_the_policy_can_list_them() {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixTime(1_800_000_000_000);
        let names = vec!["collector.example".to_owned()];
        let made = init(
            &Plan {
                dir: dir.path().join("state"),
                deployment: DeploymentId::new("demo").unwrap(),
                names: names.clone(),
                operator: NodeId::new("first").unwrap(),
                log_origin: "log.example/demo".into(),
                lease_key_id: "lease-1".into(),
            },
            now,
        )
        .unwrap();
        let state = StateDir::at(&made.state_dir);
        let identity = state.identity().unwrap();
        let id = |name| NodeId::new(name).unwrap();
        let mut text = made.collector_toml.clone();
        text.push_str(&state.add_log_key(&id("log-2")).unwrap());
        text.push_str(&state.add_ca(&id("ca-2"), &names, now).unwrap());
        let listed = CollectorKeys::parse(text.as_bytes()).unwrap();
        let held = state.log_signers(&identity).unwrap();
        let vkeys: Vec<String> = listed.logs.iter().map(|log| log.vkey.clone()).collect();
        assert_eq!(held.vkeys(), vkeys);
        let cas = state.cas().unwrap();
        let held: Vec<_> = cas.held().map(|ca| (ca.id.clone(), ca.spki)).collect();
        let listed: Vec<_> = listed
            .cas
            .iter()
            .map(|ca| (ca.id.clone(), ca.spki))
            .collect();
        assert_eq!(held, listed);
        assert_ne!(held[0].1, held[1].1);
        for ca in cas.held() {
            let pem = std::fs::read_to_string(&ca.server_certificate).unwrap();
            let server = bailiwick_attestation::x509::Bundle::parse(pem.as_bytes()).unwrap();
            let issuer = Certificate::parse(ca.authority.certificate()).unwrap();
            let server = &server.certificates[0];
            server.verify_signature(issuer.key().unwrap()).unwrap();
            let key = issuer.key().unwrap().clone();
            let found = crate::cas::issuer(server.as_der(), &[(Sha256Digest([9; 32]), key)]);
            assert_eq!(found, Some(Sha256Digest([9; 32])));
        }
        let other = Certificate::parse(cas.later[0].authority.certificate()).unwrap();
        let key = other.key().unwrap().clone();
        let first = cas.first.authority.certificate();
        assert_eq!(crate::cas::issuer(first, &[(cas.later[0].spki, key)]), None);
        for taken in [
            state.add_log_key(&id("log-2")).unwrap_err(),
            state.add_ca(&id("ca-2"), &names, now).unwrap_err(),
            state.add_ca(&id("ca-1"), &names, now).unwrap_err(),
        ] {
            assert!(matches!(taken, InitError::Exists(_)), "{taken}");
        }
    }
}
