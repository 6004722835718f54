//! What approvers signed, byte for byte, and whether it may take effect.

mod draft;
mod refused;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bailiwick_attestation::proto::v1 as proto;
use bailiwick_attestation::{DeploymentId, FileError, Sha256Digest, UnixTime};
use bailiwick_ebpf_common::{Plain, PolicyImage, WorldImage};

use crate::approvers::{Approvers, NotAnApprover, Validity};
use crate::explain::Explainer;
use crate::image::{self, CgroupsRefused, set_cgroups};
use crate::manifest::{self, Manifest};
use crate::model::{Files, Model};
use crate::ssh::{SignatureFault, SshSignature};
use crate::world::World;
pub use draft::Draft;
pub use refused::{IgnoredSignature, NotCounted, PolicyRefused};

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
    /// What the kernel is given, ready but for the cgroups of this host.
    compiled: Arc<Compiled>,
    /// Who approved.
    pub signers: Vec<Signer>,
    /// Signatures that were not counted, and why.
    pub ignored: Vec<IgnoredSignature>,
    /// Past its `not_after`: only for a policy that is in force already.
    pub expired: bool,
}

const fn in_force(manifest: &Manifest) -> InForce {
    InForce {
        version: manifest.version,
        manifest_digest: manifest.digest,
    }
}

/// What stays of a policy once the kernel has its tables, tens of megabytes less: whom it is about
/// and whose words count.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SettledPolicy {
    /// What was signed.
    pub manifest: Manifest,
    /// What it says; inventory, collector keys and profile included.
    pub model: Model,
}

impl SettledPolicy {
    /// What a later bundle is compared with.
    #[must_use]
    pub const fn in_force(&self) -> InForce {
        in_force(&self.manifest)
    }
}

impl VerifiedBundle {
    /// What a later bundle is compared with.
    #[must_use]
    pub const fn in_force(&self) -> InForce {
        in_force(&self.manifest)
    }

    /// Lets go of source and tables of the world map.
    #[must_use]
    pub fn settle(self) -> SettledPolicy {
        SettledPolicy {
            manifest: self.manifest,
            model: self.model,
        }
    }

    /// The world map for the kernel.
    #[must_use]
    pub fn world_image(&self) -> Box<WorldImage> {
        self.compiled.world.image(self.manifest.version)
    }

    /// The studies for the kernel, with this host's cgroups: id, and number in
    /// [`image::subjects`].
    pub fn policy_image(&self, cgroups: &[(u64, u32)]) -> Result<Box<PolicyImage>, CgroupsRefused> {
        let mut image = PolicyImage::zeroed();
        image
            .bytes_mut()
            .copy_from_slice(self.compiled.policy.bytes());
        set_cgroups(&mut image, cgroups)?;
        Ok(image)
    }

    /// What can be asked about this policy; `world` is its [`VerifiedBundle::world_image`].
    #[must_use]
    pub fn explainer<'a>(&'a self, world: &'a WorldImage) -> Explainer<'a> {
        Explainer {
            model: &self.model,
            world,
            policy: &self.compiled.policy,
        }
    }
}

/// Both tables, as small as they can be.
struct Compiled {
    world: World,
    policy: Box<PolicyImage>,
}

impl Compiled {
    /// What does not fit the kernel's tables is refused with the bundle, not at a node.
    fn of(
        model: &mut Model,
        source: &WorldSource,
        version: u64,
        manifest_digest: &Sha256Digest,
    ) -> Result<Self, FileError> {
        let world = World::compile(source, &model.sites)?;
        let policy = image::compile(model, &world.codes, version, manifest_digest)?;
        model.warnings.extend(world.warnings.iter().cloned());
        Ok(Self { world, policy })
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = Sha256Digest(self.policy.header.digest);
        f.debug_struct("Compiled")
            .field("ranges", &self.world.ranges)
            .field("policy", &digest)
            .finish_non_exhaustive()
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
        let (mut model, world) = read(&files).map_err(PolicyRefused::Malformed)?;
        let compiled = Compiled::of(&mut model, &world, manifest.version, &manifest.digest)
            .map_err(PolicyRefused::Malformed)?;
        Ok(VerifiedBundle {
            compiled: Arc::new(compiled),
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
