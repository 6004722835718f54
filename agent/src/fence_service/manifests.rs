//! What approvers signed beside the policy: who they are now, the world map, break-glass, erasure.
//!
//! The newest manifest of each kind lies in the state folder, as it came, and is verified again at
//! every start. Approvers lie there as a chain from those in the machine's own configuration.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use bailiwick_attestation::{
    DeploymentId, Sha256Digest, UnixTime,
    proto::v1::{Held, PolicyBundle},
};
use bailiwick_policy::{
    approvers::{Approvers, Chain},
    bundle::{Bundle, InForce, Judged, Terms, Verified, WorldSource},
    content::Erasure,
    kind::Kind,
};
use prost::Message;
use tracing::{error, info};

use super::{core::CoreError, policy::carries_world};
use crate::{
    files::{read_bounded, write_atomically},
    floor::Floor,
    ipc::MAX_FRAME,
    proto::fence::state,
};

/// Kinds of which the newest is kept and nothing else.
const NEWEST: [Kind; 3] = [Kind::World, Kind::BreakGlass, Kind::Erasure];

/// Everything kept, the policy's own bundle excepted.
#[derive(Debug)]
pub(super) struct Manifests {
    folder: PathBuf,
    deployment: DeploymentId,
    chain: Chain,
    /// The changes as they came, oldest first.
    changes: Vec<PolicyBundle>,
    newest: BTreeMap<Kind, InForce>,
    /// What the newest erasure says, for whoever holds the keys.
    erasure: Option<state::Erasure>,
    /// What is kept and no good.
    faults: Vec<String>,
}

impl Manifests {
    /// Reads back what was kept. What is no good any more is said aloud and left out: then less is
    /// allowed, never more.
    pub(super) fn open(
        folder: &Path,
        deployment: &DeploymentId,
        first: Approvers,
        now: UnixTime,
    ) -> Self {
        let mut manifests = Self {
            folder: folder.to_owned(),
            deployment: deployment.clone(),
            chain: Chain::new(first),
            changes: Vec::new(),
            newest: BTreeMap::new(),
            erasure: None,
            faults: Vec::new(),
        };
        if let Err(why) = manifests.restore_chain(now) {
            manifests.fault(Kind::Approvers, why);
        }
        for kind in NEWEST {
            match manifests.restore(kind, now) {
                Ok(None) => {}
                Ok(Some(verified)) => manifests.note(&verified),
                Err(why) => manifests.fault(kind, why),
            }
        }
        manifests
    }

    fn fault(&mut self, kind: Kind, why: CoreError) {
        let why = format!("{:#}", anyhow::Error::from(why));
        error!(%kind, why, "what was kept of this kind is no good");
        self.faults.push(format!("kept {kind}: {why}"));
    }

    /// Where the newest of a kind lies.
    pub(super) fn file(&self, kind: Kind) -> PathBuf {
        match kind {
            Kind::Policy => self.folder.join("policy"),
            other => self.folder.join("kept").join(other.as_str()),
        }
    }

    /// The message kept of a kind.
    pub(super) fn read(&self, kind: Kind) -> Result<Option<PolicyBundle>, CoreError> {
        let file = self.file(kind);
        let bytes = match read_bounded(&file, MAX_FRAME) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CoreError::Keep { file, source }),
        };
        let message = PolicyBundle::decode(bytes.as_slice()).map_err(|err| CoreError::Keep {
            file,
            source: io::Error::new(io::ErrorKind::InvalidData, err),
        })?;
        Ok(Some(message))
    }

    fn restore_chain(&mut self, now: UnixTime) -> Result<(), CoreError> {
        let Some(mut newest) = self.read(Kind::Approvers)? else {
            return Ok(());
        };
        let mut changes = std::mem::take(&mut newest.before);
        changes.push(newest);
        let bundles: Vec<Bundle> = changes.iter().cloned().map(Bundle::from).collect();
        let first = self.chain.current().clone();
        self.chain =
            Chain::restore(first, &self.deployment, now, &bundles).map_err(CoreError::policy)?;
        self.changes = changes;
        info!(
            version = self.chain.in_force().version,
            digest = %self.chain.current().digest(),
            "approvers in force"
        );
        Ok(())
    }

    fn restore(&self, kind: Kind, now: UnixTime) -> Result<Option<Verified>, CoreError> {
        let Some(message) = self.read(kind)? else {
            return Ok(None);
        };
        let bundle = Bundle::from(message);
        let verified = self.settled(kind, &bundle, None, now)?;
        Ok(Some(verified))
    }

    /// The policy that was accepted last, its tables compiled.
    pub(super) fn policy(&self, now: UnixTime) -> Result<Option<Verified>, CoreError> {
        let Some(message) = self.read(Kind::Policy)? else {
            return Ok(None);
        };
        let bundle = Bundle::from(message);
        let world = match carries_world(&bundle) {
            true => None,
            false => self.world(now)?,
        };
        self.settled(Kind::Policy, &bundle, world.as_ref(), now)
            .map(Some)
    }

    /// Reads what was accepted before.
    pub(super) fn settled(
        &self,
        kind: Kind,
        bundle: &Bundle,
        world: Option<&WorldSource>,
        now: UnixTime,
    ) -> Result<Verified, CoreError> {
        self.chain
            .settled(kind, bundle, &self.deployment, world, now)
            .map_err(CoreError::policy)
    }

    /// Whether a manifest may take effect now, by the approvers in force.
    pub(super) fn judge(
        &self,
        kind: Kind,
        bundle: &Bundle,
        current: Option<InForce>,
        world: Option<&WorldSource>,
        now: UnixTime,
    ) -> Result<Verified, CoreError> {
        let terms = Terms {
            approvers: self.chain.current(),
            deployment: &self.deployment,
            now,
            judged: Judged::New(current),
            world,
        };
        bundle.open(kind, &terms).map_err(CoreError::policy)
    }

    /// Takes changes of approvers, the newest with those before it.
    pub(super) fn take_approvers(
        &mut self,
        mut message: PolicyBundle,
        now: UnixTime,
    ) -> Result<(), CoreError> {
        let mut offered = std::mem::take(&mut message.before);
        offered.push(message);
        let bundles: Vec<Bundle> = offered.iter().cloned().map(Bundle::from).collect();
        let chain = self
            .chain
            .extended(&bundles, &self.deployment, now)
            .map_err(CoreError::policy)?;
        let new = chain
            .changes()
            .len()
            .saturating_sub(self.chain.changes().len());
        let skip = offered.len().saturating_sub(new);
        let mut changes = self.changes.clone();
        changes.extend(offered.into_iter().skip(skip));
        let mut kept = changes.clone();
        if let Some(mut newest) = kept.pop() {
            newest.before = kept;
            self.keep(Kind::Approvers, &newest)?;
        }
        self.chain = chain;
        self.changes = changes;
        info!(
            version = self.chain.in_force().version,
            digest = %self.chain.current().digest(),
            "approvers in force"
        );
        Ok(())
    }

    /// Keeps a manifest of a kind that needs nothing else. What it says is applied by whoever asks
    /// for it.
    pub(super) fn take(
        &mut self,
        message: PolicyBundle,
        verified: &Verified,
    ) -> Result<(), CoreError> {
        self.keep(verified.manifest().kind, &message)?;
        self.note(verified);
        info!(
            kind = %verified.manifest().kind,
            version = verified.manifest().version,
            manifest = %verified.manifest().digest,
            "manifest kept"
        );
        Ok(())
    }

    fn note(&mut self, verified: &Verified) {
        let manifest = verified.manifest();
        let newest = InForce {
            version: manifest.version,
            manifest_digest: manifest.digest,
        };
        self.newest.insert(manifest.kind, newest);
        if let Verified::Erasure(signed) = verified {
            let Erasure {
                study,
                buckets,
                retention,
                ..
            } = &signed.content;
            self.erasure = Some(state::Erasure {
                manifest_digest: manifest.digest.0.to_vec(),
                study: study.to_string(),
                buckets: buckets.iter().flatten().cloned().collect(),
                retention: retention.clone(),
            });
        }
    }

    fn keep(&self, kind: Kind, message: &PolicyBundle) -> Result<(), CoreError> {
        let file = self.file(kind);
        write_atomically(&file, &message.encode_to_vec())
            .map_err(|source| CoreError::Keep { file, source })
    }

    /// The newest of a kind.
    pub(super) fn newest(&self, kind: Kind) -> Option<InForce> {
        self.newest.get(&kind).copied()
    }

    /// What the newest erasure says.
    pub(super) fn erasure(&self) -> Option<&state::Erasure> {
        self.erasure.as_ref()
    }

    /// The map of the newest world manifest, from disk: it has tens of megabytes.
    pub(super) fn world(&self, now: UnixTime) -> Result<Option<WorldSource>, CoreError> {
        if !self.newest.contains_key(&Kind::World) {
            return Ok(None);
        }
        Ok(match self.restore(Kind::World, now)? {
            Some(Verified::World(signed)) => Some(signed.content),
            _ => None,
        })
    }

    /// Who may sign now.
    pub(super) fn current(&self) -> &Approvers {
        self.chain.current()
    }

    /// Their digest.
    pub(super) fn approvers_digest(&self) -> Sha256Digest {
        self.chain.current().digest()
    }

    /// What a change of approvers has to follow.
    pub(super) fn approvers(&self) -> InForce {
        self.chain.in_force()
    }

    /// What is kept and no good, and whatever lies behind what the TPM remembers.
    pub(super) fn faults(&self, floor: &Floor) -> Vec<String> {
        let behind = floor.approvers_fault(self.approvers());
        self.faults.iter().cloned().chain(behind).collect()
    }

    /// The newest of each kind but `policy`, for the collector.
    pub(super) fn held(&self) -> Vec<Held> {
        let held = |kind: Kind, newest: InForce| Held {
            kind: kind.as_str().to_owned(),
            version: newest.version,
            manifest_digest: newest.manifest_digest.0.to_vec(),
        };
        let approvers = self.approvers();
        let changed = (approvers.version > 0).then(|| held(Kind::Approvers, approvers));
        let others = self
            .newest
            .iter()
            .map(|(kind, newest)| held(*kind, *newest));
        changed.into_iter().chain(others).collect()
    }
}
