//! What `bailiwick-collector init` makes: keys and certificates in a state folder of its own.
//!
//! | file | what |
//! |---|---|
//! | `identity.toml` | deployment, id of the lease key, origin of the log |
//! | `ca.pem`, `ca.key` | signs the server's certificate and the nodes' transport certificates |
//! | `server.pem`, `server.key` | the collector's own certificate |
//! | `operator-ca.pem`, `operator-ca.key` | signs the certificates of whoever may ask |
//! | `outward-ca.pem`, `outward-ca.key` | signs what others believe of an affirmed node |
//! | `operators/NAME.pem`, `.key` | one such person |
//! | `lease.key`, `log.key` | Ed25519: standing, and checkpoints of the log |
//! | `lease-keys/ID.key` | more keys for standing: the policy in force says which one signs |
//! | `log-keys/ID.key` | more keys of the same log: all that the policy lists sign |
//! | `cas/ID/` | more CAs with a server certificate each: the first that the policy lists is shown |
//! | `key-stores/ID.key` | P-256: for whom nodes wrap the keys of what they seal |

mod ca;
mod lease_keys;
mod more_keys;
mod renew;

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bailiwick_attestation::standing::LeaseSigner;
use bailiwick_attestation::tlog::NoteSigner;
use bailiwick_attestation::{DeploymentId, IdError, NodeId, UnixTime};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use crate::keys;

pub(crate) use ca::OutwardLeaf;
pub use ca::{Authority, CaError, Kind, NodeCertificate};

/// Why the state folder could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The folder was initialised before; its keys are in use and are not overwritten.
    #[error("{0}: exists already; a collector's keys are never overwritten")]
    Exists(PathBuf),
    /// A file could not be written or read.
    #[error("{path}: cannot be {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// `written` or `read`.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {fault}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// The folder was made before there were outward certificates.
    #[error(
        "{dir}: holds no outward CA (outward-ca.pem, outward-ca.key); make it with \
         `bailiwick-collector init-outward --dir {dir}`"
    )]
    NoOutward {
        /// The state folder.
        dir: PathBuf,
    },
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] IdError),
    /// A certificate could not be made.
    #[error("certificate authority")]
    Ca(#[from] CaError),
}

/// What the keys in the state folder are called.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The installation this collector belongs to.
    pub deployment: DeploymentId,
    /// Name of the lease key in the signed policy.
    pub lease_key_id: String,
    /// Origin of the log: the key name in its checkpoints.
    pub log_origin: String,
}

/// A state folder that `init` made.
#[derive(Clone, Debug)]
pub struct StateDir {
    dir: PathBuf,
}

/// What `init` says when it is done.
#[derive(Debug, Serialize)]
pub struct Made {
    /// The state folder.
    pub state_dir: PathBuf,
    /// The certificate agents and operators verify this collector with.
    pub ca: PathBuf,
    /// The certificate others verify outward certificates with.
    pub outward_ca: PathBuf,
    /// Certificate of the first operator.
    pub operator_certificate: PathBuf,
    /// Key of the first operator.
    pub operator_key: PathBuf,
    /// Content for the policy file `collector.toml`, to be signed by the approvers.
    pub collector_toml: String,
}

/// What to initialise.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The folder to make.
    pub dir: PathBuf,
    /// The installation.
    pub deployment: DeploymentId,
    /// Names and addresses agents and operators reach this collector by.
    pub names: Vec<String>,
    /// The first operator.
    pub operator: NodeId,
    /// Origin of the log.
    pub log_origin: String,
    /// Name of the lease key.
    pub lease_key_id: String,
}

/// Makes a state folder. Nothing is overwritten: a folder that holds an identity is refused.
pub fn init(plan: &Plan, now: UnixTime) -> Result<Made, InitError> {
    let state = StateDir::at(&plan.dir);
    if state.identity_path().exists() {
        return Err(InitError::Exists(state.identity_path()));
    }
    make_dir(&plan.dir)?;
    make_dir(&plan.dir.join("operators"))?;
    let identity = Identity {
        deployment: plan.deployment.clone(),
        lease_key_id: plan.lease_key_id.clone(),
        log_origin: plan.log_origin.clone(),
    };

    let authority = state.make_authority(&identity.deployment, Kind::Transport, now)?;
    let server = authority.issue_server(&plan.names, now)?;
    write_new(&state.path("server.pem"), server.certificate.as_bytes())?;
    write_new(&state.path("server.key"), server.key.as_bytes())?;
    state.make_authority(&identity.deployment, Kind::Operators, now)?;
    state.make_authority(&identity.deployment, Kind::Outward, now)?;
    for name in ["lease.key", "log.key"] {
        write_new(&state.path(name), ca::ed25519_key()?.as_bytes())?;
    }
    state.init_key_store()?;
    // Last: a folder without it counts as not made.
    let text = toml::to_string(&identity).map_err(|error| InitError::Content {
        path: state.identity_path(),
        fault: error.to_string(),
    })?;
    write_new(&state.identity_path(), text.as_bytes())?;
    let (operator_certificate, operator_key) = state.issue_operator(&plan.operator, now)?;
    Ok(Made {
        ca: state.path(Kind::Transport.certificate_file()),
        outward_ca: state.path(Kind::Outward.certificate_file()),
        operator_certificate,
        operator_key,
        collector_toml: state.collector_toml(&identity)?,
        state_dir: plan.dir.clone(),
    })
}

impl StateDir {
    /// The folder at `dir`, which may not have been made yet.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// A file in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn identity_path(&self) -> PathBuf {
        self.path("identity.toml")
    }

    /// What the keys are called.
    pub fn identity(&self) -> Result<Identity, InitError> {
        let path = self.identity_path();
        let text = read(&path)?;
        toml::from_str(&text).map_err(|error| InitError::Content {
            path,
            fault: error.to_string(),
        })
    }

    /// Makes the outward CA in a folder of a time before there was one; answers where its
    /// certificate lies. One that is there already is refused.
    pub fn init_outward(&self, now: UnixTime) -> Result<PathBuf, InitError> {
        let identity = self.identity()?;
        let certificate = self.path(Kind::Outward.certificate_file());
        if certificate.exists() {
            return Err(InitError::Exists(certificate));
        }
        self.make_authority(&identity.deployment, Kind::Outward, now)?;
        Ok(certificate)
    }

    /// Folder of the private keys of key stores.
    #[must_use]
    pub fn key_stores(&self) -> PathBuf {
        self.path(keys::FOLDER)
    }

    /// Makes one more key store, and answers with what the policy file `collector.toml` has to
    /// say of it, before those it is to replace: nodes wrap for the first.
    pub fn init_key_store(&self) -> Result<String, InitError> {
        make_dir(&self.key_stores())?;
        let pem = ca::p256_key()?;
        let folder = self.key_stores();
        let (id, point) =
            keys::public_of(&folder.display().to_string(), pem.as_bytes()).map_err(|error| {
                InitError::Content {
                    path: folder.clone(),
                    fault: error.to_string(),
                }
            })?;
        write_new(&folder.join(format!("{id}.key")), pem.as_bytes())?;
        Ok(key_store_toml(&id, &point))
    }

    /// What the policy file says of the key stores there are, the newest first.
    fn key_stores_toml(&self) -> Result<String, InitError> {
        let folder = self.key_stores();
        let fail = |source| InitError::File {
            path: folder.clone(),
            what: "read",
            source,
        };
        let listing = match std::fs::read_dir(&folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut stores = Vec::new();
        for entry in listing {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "key") {
                continue;
            }
            let made = entry.metadata().and_then(|metadata| metadata.modified());
            let pem = read(&path)?;
            let (id, point) = keys::public_of(&path.display().to_string(), pem.as_bytes())
                .map_err(|error| InitError::Content {
                    path: path.clone(),
                    fault: error.to_string(),
                })?;
            stores.push((made.map_err(fail)?, key_store_toml(&id, &point)));
        }
        stores.sort_unstable();
        Ok(stores.into_iter().rev().map(|(_, text)| text).collect())
    }

    /// One of the three certificate authorities.
    pub fn authority(&self, kind: Kind) -> Result<Authority, InitError> {
        let identity = self.identity()?;
        let (certificate, key) = (
            self.path(kind.certificate_file()),
            self.path(kind.key_file()),
        );
        if kind == Kind::Outward && !certificate.exists() && !key.exists() {
            return Err(InitError::NoOutward {
                dir: self.dir.clone(),
            });
        }
        let (certificate, key) = (read(&certificate)?, read(&key)?);
        Ok(Authority::load(
            &identity.deployment,
            kind,
            &certificate,
            &key,
        )?)
    }

    /// The key that signs leases, PKCS#8.
    pub fn lease_key(&self) -> Result<Vec<u8>, InitError> {
        self.pkcs8("lease.key")
    }

    /// The key that signs checkpoints, PKCS#8.
    pub fn log_key(&self) -> Result<Vec<u8>, InitError> {
        self.pkcs8("log.key")
    }

    /// Issues a certificate to one more operator; a name that has one is refused.
    pub fn issue_operator(
        &self,
        name: &NodeId,
        now: UnixTime,
    ) -> Result<(PathBuf, PathBuf), InitError> {
        let issued = self.authority(Kind::Operators)?.issue_operator(name, now)?;
        let certificate = self.path(&format!("operators/{name}.pem"));
        let key = self.path(&format!("operators/{name}.key"));
        write_new(&key, issued.key.as_bytes())?;
        write_new(&certificate, issued.certificate.as_bytes())?;
        Ok((certificate, key))
    }

    /// What the policy file `collector.toml` has to say for nodes to believe this collector.
    pub fn collector_toml(&self, identity: &Identity) -> Result<String, InitError> {
        let content = |name: &str, fault: String| InitError::Content {
            path: self.path(name),
            fault,
        };
        let lease = LeaseSigner::from_pkcs8(&identity.lease_key_id, &self.lease_key()?)
            .and_then(|signer| signer.public())
            .map_err(|error| content("lease.key", error.to_string()))?;
        let log = NoteSigner::from_pkcs8(&identity.log_origin, &self.log_key()?)
            .map_err(|error| content("log.key", error.to_string()))?;
        let lease = BASE64_STANDARD.encode(lease.ed25519);
        Ok(format!(
            "[[lease_key]]\nid = \"{}\"\ned25519 = \"{lease}\"\n\n{}{}{}",
            identity.lease_key_id,
            more_keys::log_toml(&log),
            self.first_ca_toml()?,
            self.key_stores_toml()?
        ))
    }

    fn make_authority(
        &self,
        deployment: &DeploymentId,
        kind: Kind,
        now: UnixTime,
    ) -> Result<Authority, InitError> {
        let issued = Authority::make(deployment, kind, now)?;
        write_new(&self.path(kind.key_file()), issued.key.as_bytes())?;
        write_new(
            &self.path(kind.certificate_file()),
            issued.certificate.as_bytes(),
        )?;
        Ok(Authority::load(
            deployment,
            kind,
            &issued.certificate,
            &issued.key,
        )?)
    }

    fn pkcs8(&self, name: &str) -> Result<Vec<u8>, InitError> {
        let path = self.path(name);
        let pem = read(&path)?;
        match PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(der) => Ok(der.secret_pkcs8_der().to_vec()),
            Err(error) => Err(InitError::Content {
                path,
                fault: error.to_string(),
            }),
        }
    }
}

fn key_store_toml(id: &str, point: &[u8; 65]) -> String {
    let p256 = BASE64_STANDARD.encode(point);
    format!("\n[[key_store]]\nid = \"{id}\"\np256 = \"{p256}\"\n")
}

fn make_dir(path: &Path) -> Result<(), InitError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(InitError::File {
            path: path.to_owned(),
            what: "made",
            source,
        }),
    }
}

/// Writes a file that must not exist, readable by its owner alone, and waits for the disk.
fn write_new(path: &Path, content: &[u8]) -> Result<(), InitError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    match write() {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(InitError::Exists(path.to_owned()))
        }
        Err(source) => Err(InitError::File {
            path: path.to_owned(),
            what: "written",
            source,
        }),
    }
}

fn read(path: &Path) -> Result<String, InitError> {
    std::fs::read_to_string(path).map_err(|source| InitError::File {
        path: path.to_owned(),
        what: "read",
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn plan(dir: &Path) -> Plan {
        Plan {
            dir: dir.join("state"),
            deployment: DeploymentId::new("demo").unwrap(),
            names: vec!["collector.example".into(), "127.0.0.1".into()],
            operator: NodeId::new("first").unwrap(),
            log_origin: "collector.example/bailiwick/demo".into(),
            lease_key_id: "lease-1".into(),
        }
    }

    #[test]
    fn makes_everything_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixTime::from_secs(1_800_000_000);
        let made = init(&plan(dir.path()), now).unwrap();
        for file in [
            "identity.toml",
            "ca.key",
            "server.key",
            "operator-ca.key",
            "outward-ca.key",
            "lease.key",
            "log.key",
            "operators/first.key",
        ] {
            let mode = std::fs::metadata(made.state_dir.join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        assert!(
            made.collector_toml
                .contains("collector.example/bailiwick/demo+")
        );
        let before = std::fs::read(made.state_dir.join("lease.key")).unwrap();
        assert!(matches!(
            init(&plan(dir.path()), now),
            Err(InitError::Exists(_))
        ));
        let after = std::fs::read(made.state_dir.join("lease.key")).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn a_folder_without_outward_ca_says_so_and_gets_one_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixTime::from_secs(1_800_000_000);
        let made = init(&plan(dir.path()), now).unwrap();
        let state = StateDir::at(&made.state_dir);
        assert!(matches!(state.init_outward(now), Err(InitError::Exists(_))));
        std::fs::remove_file(&made.outward_ca).unwrap();
        let half = state.authority(Kind::Outward).unwrap_err();
        assert!(matches!(half, InitError::File { .. }), "{half}");
        // A key without its certificate is somebody's loss to look at, not to write over.
        assert!(matches!(state.init_outward(now), Err(InitError::Exists(_))));
        std::fs::remove_file(state.path("outward-ca.key")).unwrap();
        let none = state.authority(Kind::Outward).unwrap_err().to_string();
        assert!(
            none.contains("bailiwick-collector init-outward --dir"),
            "{none}"
        );
        state.authority(Kind::Transport).unwrap();
        assert_eq!(state.init_outward(now).unwrap(), made.outward_ca);
        state.authority(Kind::Outward).unwrap();
    }

    #[test]
    fn an_operator_is_named_once() {
        let dir = tempfile::tempdir().unwrap();
        let now = UnixTime::from_secs(1_800_000_000);
        let made = init(&plan(dir.path()), now).unwrap();
        let state = StateDir::at(&made.state_dir);
        let second = NodeId::new("second").unwrap();
        state.issue_operator(&second, now).unwrap();
        assert!(matches!(
            state.issue_operator(&second, now),
            Err(InitError::Exists(_))
        ));
    }
}
