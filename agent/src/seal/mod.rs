//! Seals the private half of what happened, and forgets it when approvers say so.
//!
//! Keys per study, subject bucket and retention class ([`ring`]), kept in a file that only this
//! node's TPM opens, and wrapped for the collector's key store; the log says which keys there are.
//! Where there is no TPM, no file holds a key: they live as long as the process, and the next one draws
//! others ([`keeper`]). Without a key nothing is sealed: then the private half is gone, never in the
//! clear.

mod keeper;
mod ring;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use aws_lc_rs::rand;
use bailiwick_attestation::{
    DeploymentId, Sha256Digest, UnixTime,
    events::{BucketKey, KeyId, KeyTerms, hpke::POINT},
    proto::v1::{Denial, DenialPrivate, FenceEvent, KeyMade, KeysErased, Sealing, log_entry::What},
};
use prost::Message;
use tokio::task::block_in_place;
use tracing::{error, info, warn};

pub use ring::{MAX_KEYS, NO_STUDY, Ring, RingKey};

use self::keeper::Keeper;
use crate::{
    clock,
    log::New,
    tpm::{Tpm, TpmError},
};

/// The class of what has no rule of its own.
const RETENTION: &str = "default";

/// Why nothing can be sealed, or a key not destroyed.
#[derive(Debug, thiserror::Error)]
pub enum SealerError {
    /// The master key.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The file of keys.
    #[error("{file}")]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No randomness, or no cipher.
    #[error("the cryptographic provider failed")]
    Provider,
}

/// For whom keys are wrapped: the first key store of the policy in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Store {
    /// Its name.
    pub id: String,
    /// Its public key.
    pub p256: [u8; POINT],
}

/// What approvers want forgotten.
pub trait Erasure {
    /// The manifest that says so.
    fn manifest(&self) -> Sha256Digest;
    /// Whether it means a key of this study, bucket and retention class.
    fn names(&self, study: &str, bucket: &str, retention: &str) -> bool;
}

/// The keys, while they can be used.
#[derive(Debug)]
pub struct Sealer {
    deployment: DeploymentId,
    keeper: Keeper,
    ring: Ring,
    store: Option<Store>,
}

impl Sealer {
    /// Reads the keys, or begins without one: there is none where there is no TPM. A file that the
    /// TPM's master key does not open is another node's, or of a time before this one forgot: it is
    /// left out and written over.
    pub async fn open(
        tpm: impl Into<Option<Tpm>>,
        deployment: DeploymentId,
        state_dir: &Path,
    ) -> Result<Self, SealerError> {
        let (keeper, ring) = match tpm.into() {
            Some(tpm) => Keeper::with_tpm(tpm, state_dir).await?,
            None => Keeper::without(state_dir)?,
        };
        Ok(Self {
            deployment,
            keeper,
            ring,
            store: None,
        })
    }

    /// The keys there are.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Names the key store; answers with entries for the keys it has not been given yet.
    pub fn wrap_for(&mut self, store: Option<Store>) -> Vec<New> {
        self.store = store;
        let Some(store) = &self.store else {
            return Vec::new();
        };
        let keys: Vec<RingKey> = self.ring.unwrapped(&store.id).cloned().collect();
        let made = keys.iter().filter_map(|key| self.made(key));
        made.collect()
    }

    /// The entries of [`Sealer::wrap_for`] are in the log.
    pub fn wrapped(&mut self) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let ids: Vec<KeyId> = self.ring.unwrapped(&store.id).map(|key| key.id).collect();
        if ids.is_empty() {
            return;
        }
        self.ring.wrapped(&ids, &store.id);
        if let Err(why) = block_in_place(|| self.keeper.keep(&self.ring)) {
            // They are wrapped once more after a restart; the collector knows them already.
            warn!(%why, "which keys are wrapped is not kept");
        }
    }

    /// The log took not all of these entries: keys among them are told again.
    pub fn not_told(&mut self, entries: &[New]) {
        let ids: Vec<KeyId> = entries
            .iter()
            .filter_map(|new| match &new.what {
                What::KeyMade(key) => KeyId::from_slice(&key.key_id),
                _ => None,
            })
            .collect();
        self.ring.not_wrapped(&ids);
    }

    /// Entries for what the fence told, as it happened: each denial with its private half sealed,
    /// and before them the keys made for it.
    pub fn entries(&mut self, events: &[FenceEvent]) -> Vec<New> {
        let known = self.ring.clone();
        let mut made = Vec::new();
        let mut entries = Vec::with_capacity(events.len());
        for event in events {
            let sealed = self.seal(event, &mut made);
            entries.push(entry(event, sealed));
        }
        if made.is_empty() {
            return entries;
        }
        // On disk before anything sealed with them is.
        if let Err(why) = block_in_place(|| self.keeper.keep(&self.ring)) {
            error!(%why, "new keys could not be kept: private halves are given up");
            self.ring = known;
            return events.iter().map(|event| entry(event, None)).collect();
        }
        let mut out: Vec<New> = made.iter().filter_map(|key| self.made(key)).collect();
        out.append(&mut entries);
        out
    }

    /// Destroys the keys an erasure names: out of the file, and every older copy of it silenced by
    /// a new master key in the TPM. Answers with the log's entry; `None`: it was applied before.
    pub async fn erase(
        &mut self,
        erasure: &(dyn Erasure + Sync),
    ) -> Result<Option<New>, SealerError> {
        let manifest = erasure.manifest();
        if self.ring.applied(&manifest) {
            return Ok(None);
        }
        let meant = |key: &RingKey| erasure.names(&key.study, &key.bucket, &key.retention);
        let (ring, gone) = self.ring.without(manifest, meant);
        self.keeper.replace(&ring).await?;
        self.ring = ring;
        self.keeper.settle()?;
        info!(keys = gone.len(), %manifest, "keys destroyed");
        let entry = What::KeysErased(KeysErased {
            manifest_digest: manifest.0.to_vec(),
            key_ids: gone.iter().map(|id| id.0.to_vec()).collect(),
        });
        Ok(Some(now(entry, Vec::new())))
    }

    /// The private half, sealed, and how it hangs on the entry; `None` where there is none.
    fn seal(&mut self, event: &FenceEvent, made: &mut Vec<RingKey>) -> Option<(Sealing, Vec<u8>)> {
        if event.others || event.flows.is_some() {
            return None;
        }
        let study = match event.study.as_str() {
            "" => NO_STUDY,
            study => study,
        };
        let bucket = self.ring.bucket(study, &subject(event));
        if self.ring.find(study, &bucket, RETENTION).is_none() {
            let key = RingKey {
                id: KeyId(random().ok()?),
                study: study.to_owned(),
                bucket: bucket.clone(),
                retention: RETENTION.to_owned(),
                key: BucketKey::new(random().ok()?),
                wrapped_for: self
                    .store
                    .as_ref()
                    .map(|s| s.id.clone())
                    .unwrap_or_default(),
            };
            if !self.ring.add(key.clone()) {
                return None;
            }
            made.push(key);
        }
        let key = self.ring.find(study, &bucket, RETENTION)?;
        let private = DenialPrivate {
            cgroup_id: event.cgroup_id,
            cgroup: event.cgroup.clone(),
            source: event.source.clone(),
            destination: event.destination.clone(),
            source_port: event.source_port,
            destination_port: event.destination_port,
            uid: event.uid,
            executable: event.executable.clone(),
            pid: event.pid,
            command: event.command.clone(),
        };
        key.key
            .seal(key.id, random().ok()?, &private.encode_to_vec())
            .ok()
    }

    /// The log's entry about a key, and beside it the key, wrapped for the key store.
    fn made(&self, key: &RingKey) -> Option<New> {
        let (store, wrapped) = match &self.store {
            None => (String::new(), Vec::new()),
            Some(store) => {
                let terms = KeyTerms {
                    deployment: self.deployment.as_str(),
                    id: key.id,
                    study: &key.study,
                    bucket: &key.bucket,
                    retention: &key.retention,
                };
                let wrapped = key.key.wrap(&terms, &store.p256, &random().ok()?);
                (store.id.clone(), wrapped.ok()?)
            }
        };
        let entry = What::KeyMade(KeyMade {
            key_id: key.id.0.to_vec(),
            study: key.study.clone(),
            bucket: key.bucket.clone(),
            retention: key.retention.clone(),
            key_store: store,
            wrapped_digest: Sha256Digest::of(&[&wrapped]).0.to_vec(),
        });
        Some(now(entry, wrapped))
    }
}

/// Whose key seals it: the user's, where the kernel knows one, else the cgroup's.
fn subject(event: &FenceEvent) -> Vec<u8> {
    match event.uid {
        Some(uid) => format!("uid {uid}").into_bytes(),
        None => event.cgroup.clone().into_bytes(),
    }
}

/// What the fence told, as it stands in the log: nothing in it says who or where to.
#[must_use]
pub fn entry(event: &FenceEvent, sealed: Option<(Sealing, Vec<u8>)>) -> New {
    let (sealing, sealed) = sealed.unzip();
    let what = match &event.flows {
        Some(flows) => What::Flows(flows.clone()),
        None => What::Denial(Denial {
            study: event.study.clone(),
            direction: event.direction.clone(),
            protocol: event.protocol,
            jurisdiction: event.jurisdiction.clone(),
            rule: event.rule.clone(),
            verdict: event.verdict.clone(),
            hook: event.hook.clone(),
            count: event.count,
            sealing,
            device: event.device.clone(),
            bytes: event.bytes,
            until_boot_ns: event.until_boot_ns,
            sampled: event.sampled,
            others: event.others,
            change: event.change.clone(),
        }),
    };
    New {
        what,
        sealed: sealed.unwrap_or_default(),
        wall_time: UnixTime(event.wall_time_ms),
        boot_time_ns: event.boot_time_ns,
    }
}

fn now(what: What, sealed: Vec<u8>) -> New {
    New {
        what,
        sealed,
        wall_time: clock::now(),
        boot_time_ns: clock::boot_time_ns(),
    }
}

fn random<const N: usize>() -> Result<[u8; N], SealerError> {
    let mut out = [0; N];
    rand::fill(&mut out).map_err(|_unspecified| SealerError::Provider)?;
    Ok(out)
}
