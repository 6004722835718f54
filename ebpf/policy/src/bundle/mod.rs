//! What approvers signed, byte for byte, and whether it may take effect.

mod check;
mod draft;
mod keys;
mod kinds;
mod refused;

use std::fmt;
use std::sync::Arc;

use bailiwick_attestation::proto::v1 as proto;
use bailiwick_attestation::{FileError, Sha256Digest};
use bailiwick_ebpf_common::{Plain, PolicyImage, WorldImage};

use crate::explain::Explainer;
use crate::image::{self, CgroupsRefused, set_cgroups};
use crate::manifest::Manifest;
use crate::model::Model;
use crate::world::World;
pub use draft::Draft;
pub use kinds::{Judged, Signed, Terms, Verified};
pub use refused::{IgnoredSignature, NotCounted, PolicyRefused};

/// Most bytes of all files together.
pub const BUNDLE_LIMIT: usize = 64 * 1024 * 1024;
/// Most signatures: every approver there may be could sign twice before this is an attack.
pub const SIGNATURES_LIMIT: usize = 64;

/// A manifest and its files as they travel. Nothing in it is trusted yet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bundle {
    /// Bytes of `manifest.toml`.
    pub manifest: Vec<u8>,
    /// Armored signatures over these bytes, in the order they came.
    pub signatures: Vec<Vec<u8>>,
    /// Path and content of each file, in the order they came.
    pub files: Vec<(String, Arc<Vec<u8>>)>,
}

/// The newest manifest of a kind that a node (or the collector) already has.
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

    /// When the world map was made, seconds since 1970; 0 where it does not tell.
    #[must_use]
    pub fn world_built(&self) -> u64 {
        self.compiled.world.built
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
        if world.built == 0 && model.profile.world.max_age_days.is_some() {
            return Err(FileError {
                file: "profile.toml".to_owned(),
                line: 1,
                key: "world.max_age_days".to_owned(),
                fault: "the world map does not say when it was made: no line of it is \
                        `# Generated: DATE`"
                    .to_owned(),
            });
        }
        let policy = image::compile(model, &world.codes, version, manifest_digest)?;
        model.warnings.extend(world.warnings.iter().cloned());
        model.warnings.extend(world.misses(model));
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

impl WorldSource {
    /// By the path under which a bundle lists it: `world.txt`, else as `world.csv`.
    #[must_use]
    pub fn of(path: &str, bytes: Vec<u8>) -> Self {
        let kind = match path {
            "world.txt" => WorldKind::GeoipDb,
            _ => WorldKind::Csv,
        };
        Self {
            kind,
            bytes: Arc::new(bytes),
        }
    }
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
            before: Vec::new(),
        }
    }
}
