//! What approvers signed, byte for byte, and whether it may take effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use bailiwick_attestation::proto::v1 as proto;
use bailiwick_attestation::{DeploymentId, FileError, Sha256Digest, UnixTime};

use crate::approvers::{Approvers, NotAnApprover, Validity};
use crate::manifest::{self, Manifest};
use crate::model::{Files, Model};
use crate::ssh::{SignatureFault, SshSignature};

/// Most bytes of all files together.
pub const BUNDLE_LIMIT: usize = 64 * 1024 * 1024;
/// Most signatures: every approver there may be could sign twice before this is an attack.
pub const SIGNATURES_LIMIT: usize = 64;

/// A policy as it travels. Nothing in it is trusted yet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bundle {
    /// Bytes of `manifest.toml`.
    pub manifest: Vec<u8>,
    /// Armored signatures over these bytes, in the order they came.
    pub signatures: Vec<Vec<u8>>,
    /// Path and content of each file, in the order they came.
    pub files: Vec<(String, Arc<Vec<u8>>)>,
}

/// The policy a node (or the collector) already has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InForce {
    /// Its version.
    pub version: u64,
    /// SHA-256 of its manifest.
    pub manifest_digest: Sha256Digest,
}

/// A policy that enough approvers signed, whole and sound. Only [`Bundle::verify`] and
/// [`Bundle::verify_in_force`] make one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifiedBundle {
    /// What was signed.
    pub manifest: Manifest,
    /// What it says; inventory, collector keys and profile included.
    pub model: Model,
    /// The world map's source.
    pub world: WorldSource,
    /// Who approved.
    pub signers: Vec<Signer>,
    /// Signatures that were not counted, and why.
    pub ignored: Vec<IgnoredSignature>,
    /// Past its `not_after`: only for a policy that is in force already.
    pub expired: bool,
}

impl VerifiedBundle {
    /// What a later bundle is compared with.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        InForce {
            version: self.manifest.version,
            manifest_digest: self.manifest.digest,
        }
    }
}

/// The world map as text, and which kind of text.
#[derive(Clone, Debug)]
pub struct WorldSource {
    /// How to read it.
    pub kind: WorldKind,
    /// The file's bytes, shared with the bundle.
    pub bytes: Arc<Vec<u8>>,
}

/// How the world map is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WorldKind {
    /// `world.csv`.
    Csv,
    /// `world.txt`, the text format of Tor's geoip files.
    GeoipDb,
}

/// Somebody who approved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signer {
    /// Principals of the approvers' line, comma-separated.
    pub principals: String,
    /// `SHA256:…` of the key.
    pub fingerprint: String,
}

/// A signature that was not counted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("signature {number}: {why}")]
pub struct IgnoredSignature {
    /// Its place in the bundle, from 1.
    pub number: usize,
    /// Why.
    pub why: NotCounted,
}

/// Why a signature was not counted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotCounted {
    /// It is no good, or its key may not approve.
    #[error(transparent)]
    Refused(#[from] NotAnApprover),
    /// Its signer has approved with another signature already.
    #[error("{0} has signed already and counts once")]
    SamePerson(String),
}

/// Why a policy does not take effect, and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PolicyRefused {
    /// There is no signature.
    #[error("no signature: sign manifest.toml with `ssh-keygen -Y sign -n {namespace}`")]
    Unsigned {
        /// What to sign for.
        namespace: String,
    },
    /// Too few persons signed.
    #[error(
        "{counted} of {threshold} approvals{}: have another approver sign",
        list(ignored)
    )]
    UnderSigned {
        /// Distinct persons with a good signature.
        counted: usize,
        /// How many it takes.
        threshold: u32,
        /// What was not counted.
        ignored: Vec<IgnoredSignature>,
    },
    /// Made for another deployment.
    #[error("made for deployment {found:?}, and this is {want:?}: sign one for {want:?}")]
    WrongDeployment {
        /// What it says.
        found: String,
        /// What it should say.
        want: DeploymentId,
    },
    /// No policy, or not for the fleet.
    #[error("{what} is {found:?}, and only {want:?} is accepted here")]
    WrongKind {
        /// `kind`, `scope` or `namespace`.
        what: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        want: String,
    },
    /// An older version.
    #[error(
        "version {found} is older than {current}, which is in force: to go back, sign the old \
         files as version {} or later", current.saturating_add(1)
    )]
    RolledBack {
        /// What it says.
        found: u64,
        /// What is in force.
        current: u64,
    },
    /// Two manifests of one version.
    #[error(
        "another policy of version {version} is in force ({current}): sign this one as version \
         {} with that digest as `previous`", version.saturating_add(1)
    )]
    VersionTaken {
        /// The version of both.
        version: u64,
        /// Manifest digest of the one in force.
        current: Sha256Digest,
    },
    /// The next version, and of another line.
    #[error(
        "names {found:?} as the policy before, and {current:?} is in force: make it anew from the \
         policy in force"
    )]
    WrongPrevious {
        /// What it says.
        found: Option<Sha256Digest>,
        /// What is in force.
        current: Sha256Digest,
    },
    /// Past its end.
    #[error(
        "expired at {not_after} (Unix seconds), and it is {now}: sign a new version with a later \
         not_after, or correct this machine's clock"
    )]
    Expired {
        /// Last second.
        not_after: u64,
        /// The present.
        now: u64,
    },
    /// A listed file did not come.
    #[error("{0} is listed in the manifest and missing: deliver the bundle whole")]
    FileMissing(String),
    /// A file that is not listed, or came twice.
    #[error("{0} is not listed in the manifest, or came twice: take it away, or list and sign it")]
    FileUnlisted(String),
    /// A file with other content.
    #[error("{path} has digest {found}, and {want} was signed: restore the file, or sign anew")]
    FileDigest {
        /// Which one.
        path: String,
        /// Of what came.
        found: Sha256Digest,
        /// Of what was signed.
        want: Sha256Digest,
    },
    /// More bytes or signatures than any policy has.
    #[error("{what}: {found} exceed the limit of {limit}: make the policy smaller")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much is read.
        limit: usize,
    },
    /// A file that does not say what it may say.
    #[error("{0}: correct it and sign anew")]
    Malformed(FileError),
}

fn list(ignored: &[IgnoredSignature]) -> String {
    ignored.iter().map(|entry| format!("; {entry}")).collect()
}

impl PolicyRefused {
    /// The refusal as a stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unsigned { .. } => "policy-unsigned",
            Self::UnderSigned { .. } => "policy-under-signed",
            Self::WrongDeployment { .. } => "policy-wrong-deployment",
            Self::WrongKind { .. } => "policy-wrong-kind",
            Self::RolledBack { .. } => "policy-rolled-back",
            Self::VersionTaken { .. } => "policy-version-taken",
            Self::WrongPrevious { .. } => "policy-wrong-previous",
            Self::Expired { .. } => "policy-expired",
            Self::FileMissing(_) => "policy-file-missing",
            Self::FileUnlisted(_) => "policy-file-unlisted",
            Self::FileDigest { .. } => "policy-file-digest",
            Self::TooLarge { .. } => "policy-too-large",
            Self::Malformed(_) => "policy-malformed",
        }
    }
}

impl Bundle {
    /// From what a caller read: the manifest, its signatures, and the other files by path.
    #[must_use]
    pub fn from_files(
        manifest: Vec<u8>,
        signatures: Vec<Vec<u8>>,
        files: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Self {
        let files = files
            .into_iter()
            .map(|(path, content)| (path, Arc::new(content)));
        Self {
            manifest,
            signatures,
            files: files.collect(),
        }
    }

    /// SHA-256 of the manifest's bytes: the bundle's name, trusted or not.
    #[must_use]
    pub fn manifest_digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.manifest])
    }

    /// Whether this may take effect now, where `current` is in force (`None`: nothing is known to
    /// be). The policy in force itself is accepted again, expired or not.
    pub fn verify(
        &self,
        approvers: &Approvers,
        deployment: &DeploymentId,
        now: UnixTime,
        current: Option<InForce>,
    ) -> Result<VerifiedBundle, PolicyRefused> {
        if current.is_some_and(|current| current.manifest_digest == self.manifest_digest()) {
            return self.verify_in_force(approvers, deployment, now);
        }
        let verified = self.check(approvers, deployment, now, Validity::At(now), |manifest| {
            if let Some(current) = current {
                moves_forward(manifest, &current)?;
            }
            if now > manifest.not_after {
                return Err(PolicyRefused::Expired {
                    not_after: manifest.not_after.secs(),
                    now: now.secs(),
                });
            }
            Ok(())
        })?;
        Ok(verified)
    }

    /// Reads a policy that was accepted before: at a restart, or for an appraisal of the past.
    /// Signatures and files are checked as ever; its own end and that of its signers' keys have
    /// been judged when it came, and only `expired` tells of them.
    pub fn verify_in_force(
        &self,
        approvers: &Approvers,
        deployment: &DeploymentId,
        now: UnixTime,
    ) -> Result<VerifiedBundle, PolicyRefused> {
        self.check(approvers, deployment, now, Validity::Settled, |_| Ok(()))
    }

    /// Signatures first: not a byte is parsed as policy that nobody signed.
    fn check(
        &self,
        approvers: &Approvers,
        deployment: &DeploymentId,
        now: UnixTime,
        validity: Validity,
        may_follow: impl FnOnce(&Manifest) -> Result<(), PolicyRefused>,
    ) -> Result<VerifiedBundle, PolicyRefused> {
        self.bounded()?;
        let (signers, ignored) = self.approved(approvers, deployment, validity)?;
        let manifest = Manifest::parse(&self.manifest).map_err(PolicyRefused::Malformed)?;
        if manifest.deployment != *deployment {
            return Err(PolicyRefused::WrongDeployment {
                found: manifest.deployment.to_string(),
                want: deployment.clone(),
            });
        }
        for (what, found, want) in [
            ("kind", &manifest.kind, manifest::KIND),
            ("scope", &manifest.scope, manifest::SCOPE),
        ] {
            if found != want {
                return Err(PolicyRefused::WrongKind {
                    what,
                    found: found.chars().take(80).collect(),
                    want: want.to_owned(),
                });
            }
        }
        may_follow(&manifest)?;
        let files = self.listed(&manifest)?;
        let (model, world) = read(&files).map_err(PolicyRefused::Malformed)?;
        Ok(VerifiedBundle {
            expired: now > manifest.not_after,
            manifest,
            model,
            world,
            signers,
            ignored,
        })
    }

    fn bounded(&self) -> Result<(), PolicyRefused> {
        let bytes = self
            .files
            .iter()
            .map(|(path, content)| path.len().saturating_add(content.len()));
        let counts = [
            (
                "bytes of manifest",
                self.manifest.len(),
                manifest::MANIFEST_LIMIT,
            ),
            ("signatures", self.signatures.len(), SIGNATURES_LIMIT),
            ("files", self.files.len(), manifest::FILES_LIMIT),
            ("bytes", bytes.fold(0, usize::saturating_add), BUNDLE_LIMIT),
        ];
        for (what, found, limit) in counts {
            if found > limit {
                return Err(PolicyRefused::TooLarge { what, found, limit });
            }
        }
        Ok(())
    }

    fn approved(
        &self,
        approvers: &Approvers,
        deployment: &DeploymentId,
        validity: Validity,
    ) -> Result<(Vec<Signer>, Vec<IgnoredSignature>), PolicyRefused> {
        let namespace = manifest::namespace(deployment);
        if self.signatures.is_empty() {
            return Err(PolicyRefused::Unsigned { namespace });
        }
        let mut persons = BTreeMap::new();
        let mut ignored = Vec::new();
        for (index, armored) in self.signatures.iter().enumerate() {
            let number = index.saturating_add(1);
            let approval = SshSignature::parse(armored)
                .map_err(NotAnApprover::from)
                .and_then(|sig| approvers.approve(&sig, &namespace, &self.manifest, validity));
            let why = match approval {
                Ok(approval) => {
                    let signer = Signer {
                        principals: approval.principals.clone(),
                        fingerprint: approval.fingerprint,
                    };
                    if let std::collections::btree_map::Entry::Vacant(slot) =
                        persons.entry(approval.person)
                    {
                        slot.insert(signer);
                        continue;
                    }
                    NotCounted::SamePerson(approval.principals)
                }
                Err(why) => why.into(),
            };
            ignored.push(IgnoredSignature { number, why });
        }
        let threshold = approvers.threshold();
        if usize::try_from(threshold).map_or(true, |threshold| persons.len() < threshold) {
            return Err(under_signed(persons.len(), threshold, ignored, deployment));
        }
        Ok((persons.into_values().collect(), ignored))
    }

    /// The files by path: all that are listed, none that is not, each as it was signed.
    fn listed(&self, manifest: &Manifest) -> Result<BTreeMap<&str, &Arc<Vec<u8>>>, PolicyRefused> {
        let mut files = BTreeMap::new();
        for (path, content) in &self.files {
            let known = manifest.files.contains_key(path);
            if !known || files.insert(path.as_str(), content).is_some() {
                return Err(PolicyRefused::FileUnlisted(
                    path.chars().take(200).collect(),
                ));
            }
        }
        for (path, want) in &manifest.files {
            let Some(content) = files.get(path.as_str()) else {
                return Err(PolicyRefused::FileMissing(path.clone()));
            };
            let found = Sha256Digest::of(&[content]);
            if found != *want {
                let (path, want) = (path.clone(), *want);
                return Err(PolicyRefused::FileDigest { path, found, want });
            }
        }
        Ok(files)
    }
}

/// Where nothing counted because all was signed for something else, that is what to say.
fn under_signed(
    counted: usize,
    threshold: u32,
    ignored: Vec<IgnoredSignature>,
    deployment: &DeploymentId,
) -> PolicyRefused {
    let elsewhere = ignored.iter().map(|entry| match &entry.why {
        NotCounted::Refused(NotAnApprover::Signature(SignatureFault::Namespace {
            found, ..
        })) => Some(found),
        _ => None,
    });
    if counted == 0
        && let Some(Some(found)) = elsewhere.reduce(|a, b| if a == b { a } else { None })
    {
        let parts: Vec<&str> = found.split('/').collect();
        return match parts.as_slice() {
            ["bailiwick", other, manifest::KIND] => PolicyRefused::WrongDeployment {
                found: (*other).to_owned(),
                want: deployment.clone(),
            },
            _ => PolicyRefused::WrongKind {
                what: "namespace",
                found: found.clone(),
                want: manifest::namespace(deployment),
            },
        };
    }
    PolicyRefused::UnderSigned {
        counted,
        threshold,
        ignored,
    }
}

/// Whether a manifest with another digest than the one in force may replace it.
fn moves_forward(manifest: &Manifest, current: &InForce) -> Result<(), PolicyRefused> {
    if manifest.version < current.version {
        return Err(PolicyRefused::RolledBack {
            found: manifest.version,
            current: current.version,
        });
    }
    if manifest.version == current.version {
        return Err(PolicyRefused::VersionTaken {
            version: manifest.version,
            current: current.manifest_digest,
        });
    }
    // A node that missed versions cannot know what lay between; the next one it can.
    let next = manifest.version == current.version.saturating_add(1);
    if next && manifest.previous != Some(current.manifest_digest) {
        return Err(PolicyRefused::WrongPrevious {
            found: manifest.previous,
            current: current.manifest_digest,
        });
    }
    Ok(())
}

fn read(files: &BTreeMap<&str, &Arc<Vec<u8>>>) -> Result<(Model, WorldSource), FileError> {
    let missing = |path: &str| FileError {
        file: manifest::MANIFEST.to_owned(),
        line: 1,
        key: "file".to_owned(),
        fault: format!("{path} is not listed, and every policy has one"),
    };
    let need = |path: &str| {
        files
            .get(path)
            .map(|bytes| bytes.as_slice())
            .ok_or_else(|| missing(path))
    };
    let studies: Vec<(&str, &[u8])> = files
        .iter()
        .filter(|(path, _)| path.starts_with("studies/"))
        .map(|(path, bytes)| (*path, bytes.as_slice()))
        .collect();
    let world = match (files.get("world.csv"), files.get("world.txt")) {
        (Some(bytes), None) => (WorldKind::Csv, bytes),
        (None, Some(bytes)) => (WorldKind::GeoipDb, bytes),
        (None, None) => return Err(missing("world.csv or world.txt")),
        (Some(_), Some(_)) => {
            let mut both = missing("");
            both.fault = "world.csv and world.txt are both listed; one is needed".to_owned();
            return Err(both);
        }
    };
    let model = Model::parse(&Files {
        studies: &studies,
        host_fence: need("host-fence.toml")?,
        sites: need("sites.toml")?,
        inventory: need("inventory.toml")?,
        collector: need("collector.toml")?,
        profile: need("profile.toml")?,
    })?;
    let world = WorldSource {
        kind: world.0,
        bytes: Arc::clone(world.1),
    };
    Ok((model, world))
}

impl From<proto::PolicyBundle> for Bundle {
    fn from(message: proto::PolicyBundle) -> Self {
        let files = message
            .files
            .into_iter()
            .map(|file| (file.path, file.content));
        Self::from_files(message.manifest, message.signatures, files)
    }
}

impl From<Bundle> for proto::PolicyBundle {
    fn from(bundle: Bundle) -> Self {
        let files = bundle
            .files
            .into_iter()
            .map(|(path, content)| proto::PolicyFile {
                path,
                content: Arc::unwrap_or_clone(content),
            });
        Self {
            manifest: bundle.manifest,
            signatures: bundle.signatures,
            files: files.collect(),
        }
    }
}
