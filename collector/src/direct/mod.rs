//! What approvers signed: checked here, kept, and offered to nodes. The collector passes it on
//! and can add nothing: every node checks the signatures itself.

mod chunks;
mod director;
mod keys;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bailiwick_attestation::appraisal::Reference;
use bailiwick_attestation::gpu::Endorsements;
use bailiwick_attestation::profile::{Brake, Profile};
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest};
use bailiwick_policy::approvers::{Approvers, ApproversError, Chain};
use bailiwick_policy::bundle::{PolicyRefused, VerifiedBundle};
use bailiwick_policy::model::{CollectorKeys, LogKey, Node};

use crate::config;
use crate::record::StoreError;

pub use chunks::{BUNDLE_BYTES, Collect, CollectRefused, chunks};
pub use director::{Applied, Direction, Director, Manifests, Offered};
pub use keys::LeaseKeys;

/// The policy in force, if there is one.
pub type Current = Option<Arc<Policy>>;

/// A policy that met the threshold.
#[derive(Debug)]
pub struct Policy {
    verified: VerifiedBundle,
    chain: Arc<Chain>,
    /// Digests of approvers that nodes may still have: those before the set in force.
    approvers_before: Vec<Sha256Digest>,
    /// The serialized `PolicyBundle`, as nodes fetch it.
    bundle: Arc<Vec<u8>>,
    by_ek: HashMap<Sha256Digest, usize>,
    by_device: HashMap<String, usize>,
    /// TPMs out of service, and in what words.
    retired: HashMap<Sha256Digest, String>,
}

impl Policy {
    /// Wraps what was verified.
    #[must_use]
    pub fn new(verified: VerifiedBundle, chain: Arc<Chain>, bundle: Arc<Vec<u8>>) -> Self {
        let inventory = &verified.model.inventory;
        let nodes = || inventory.nodes.iter().enumerate();
        let by_ek = nodes().map(|(at, node)| (node.ek, at)).collect();
        let by_device = nodes()
            .flat_map(|(at, node)| node.devices.iter().map(move |id| (id.clone(), at)))
            .collect();
        let replaced = inventory.nodes.iter().filter_map(|node| node.replaces);
        let retired = inventory.retired.iter().map(|retired| retired.ek);
        let retired = retired
            .chain(replaced)
            .filter_map(|ek| Some((ek, inventory.retired(&ek)?)))
            .collect();
        Self {
            verified,
            approvers_before: chain.sets().skip(1).map(Approvers::digest).collect(),
            chain,
            bundle,
            by_ek,
            by_device,
            retired,
        }
    }

    /// What was signed.
    #[must_use]
    pub const fn verified(&self) -> &VerifiedBundle {
        &self.verified
    }

    /// The inventory's entry for a TPM.
    #[must_use]
    pub fn listed(&self, ek: &Sha256Digest) -> Option<&Node> {
        let at = *self.by_ek.get(ek)?;
        self.verified.model.inventory.nodes.get(at)
    }

    /// The inventory's entry that a device belongs to.
    #[must_use]
    pub fn device_owner(&self, device: &str) -> Option<&Node> {
        let at = *self.by_device.get(device)?;
        self.verified.model.inventory.nodes.get(at)
    }

    /// Whether approvers took this TPM out of service, and in what words.
    #[must_use]
    pub fn retired(&self, ek: &Sha256Digest) -> Option<&str> {
        self.retired.get(ek).map(String::as_str)
    }

    /// Whose signatures this policy bears.
    #[must_use]
    pub fn approvers(&self) -> &Approvers {
        self.chain.current()
    }

    /// The inventory's entry of this name.
    #[must_use]
    pub fn named(&self, name: &NodeId) -> Option<&Node> {
        self.verified.model.inventory.by_name(name)
    }

    /// Its version.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.verified.manifest.version
    }

    /// SHA-256 of its manifest.
    #[must_use]
    pub const fn manifest_digest(&self) -> Sha256Digest {
        self.verified.manifest.digest
    }

    /// Whose it is.
    #[must_use]
    pub const fn deployment(&self) -> &DeploymentId {
        &self.verified.manifest.deployment
    }

    /// Silence after which a node is stale, ms.
    #[must_use]
    pub fn max_silence_ms(&self, ek: &Sha256Digest) -> u64 {
        u64::from(self.profile(ek).max_silence_seconds) * 1000
    }

    /// Length of one lease of a node, ms.
    #[must_use]
    pub fn lease_ms(&self, ek: &Sha256Digest) -> u64 {
        u64::from(self.profile(ek).lease_seconds) * 1000
    }

    /// When a cause is held instead of the nodes that fail for it.
    #[must_use]
    pub const fn brake(&self) -> Brake {
        self.verified.model.profile.brake
    }

    /// The serialized `PolicyBundle`.
    #[must_use]
    pub fn bundle(&self) -> Arc<Vec<u8>> {
        Arc::clone(&self.bundle)
    }

    /// The profile that approvers signed for a node; for one that nobody listed, that of nodes with a TPM.
    #[must_use]
    pub fn profile(&self, ek: &Sha256Digest) -> &Profile {
        self.verified.model.profile_of(self.listed(ek))
    }

    /// The profile of guests without a TPM.
    #[must_use]
    pub fn profile_of_guests(&self) -> &Profile {
        let model = &self.verified.model;
        model.guest_profile.as_ref().unwrap_or(&model.profile)
    }

    /// What a node is held against; beside the policy, what vouches for GPUs and processors.
    #[must_use]
    pub fn reference<'a>(
        &'a self,
        ek: &Sha256Digest,
        endorsements: &'a Endorsements,
    ) -> Reference<'a> {
        Reference {
            endorsements,
            profile: self.profile(ek),
            version: self.version(),
            manifest: self.manifest_digest(),
            not_after: self.verified.manifest.not_after,
            approvers: self.chain.current().digest(),
            approvers_before: &self.approvers_before,
        }
    }

    /// Keys of the logs whose receipts count.
    #[must_use]
    pub fn logs(&self) -> &[LogKey] {
        &self.verified.model.collector.logs
    }

    /// The collector's own keys, as approvers list them.
    #[must_use]
    pub fn collector_keys(&self) -> &CollectorKeys {
        &self.verified.model.collector
    }
}

/// The inventory's name for a TPM, else `ek-` and 16 digits.
#[must_use]
pub fn node_name(policy: Option<&Policy>, ek: &Sha256Digest) -> String {
    match policy.and_then(|policy| policy.listed(ek)) {
        Some(node) => node.name.to_string(),
        None => pending_name(ek),
    }
}

/// What a TPM is called that nobody has signed for.
#[must_use]
pub fn pending_name(ek: &Sha256Digest) -> String {
    let digits: String = ek.to_string().chars().take(16).collect();
    format!("ek-{digits}")
}

/// Why a policy was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The approvers' rules were not met, or the files are wrong.
    #[error(transparent)]
    Refused(#[from] PolicyRefused),
    /// The bytes are not a `PolicyBundle`.
    #[error("the upload is not a PolicyBundle: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// It could not be kept.
    #[error("the policy could not be stored")]
    Store(#[from] StoreError),
    /// The check itself did not run to its end.
    #[error("the policy could not be checked: {0}")]
    Check(#[from] tokio::task::JoinError),
}

/// The approvers' file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApproversFileError {
    /// It cannot be read.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It does not say what it should.
    #[error(transparent)]
    Content(#[from] ApproversError),
}

/// Reads the approvers this collector was installed with.
pub fn approvers(config: &config::Policy) -> Result<Approvers, ApproversFileError> {
    read_approvers(&config.approvers, config.threshold)
}

/// Reads an `allowed_signers` file.
pub fn read_approvers(path: &Path, threshold: u32) -> Result<Approvers, ApproversFileError> {
    let bytes = std::fs::read(path).map_err(|source| ApproversFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(Approvers::parse(
        &path.display().to_string(),
        &bytes,
        threshold,
    )?)
}
