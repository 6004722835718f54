//! Seals the private half of what happened, and forgets it when approvers say so.
//!
//! Keys per study, subject bucket and retention class ([`ring`]), kept in a file that only this
//! node's TPM opens, and wrapped for the collector's key store; the log says which keys there are.
//! Without a key nothing is sealed: then the private half is gone, never in the clear.

mod ring;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
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

use crate::{
    clock,
    files::{read_bounded, sync_folder, write_atomically},
    log::New,
    tpm::{Tpm, TpmError},
};

/// Longest file of keys: [`MAX_KEYS`] of some 200 bytes.
const MAX_FILE: usize = 4 << 20;

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
    tpm: Tpm,
    deployment: DeploymentId,
    file: PathBuf,
    master: [u8; 32],
    ring: Ring,
    store: Option<Store>,
}

impl Sealer {
    /// Reads the keys, or begins without one. A file that the TPM's master key does not open is
    /// another node's, or of a time before this one forgot: it is left out and written over.
    pub async fn open(
        tpm: Tpm,
        deployment: DeploymentId,
        state_dir: &Path,
    ) -> Result<Self, SealerError> {
        let file = state_dir.join("log-keys");
        let master = match tpm.secret().await? {
            Some(master) => master,
            None => {
                let master = random()?;
                tpm.keep_secret(master).await?;
                master
            }
        };
        let ring = match block_in_place(|| read(&file, &master))? {
            Some(ring) => ring,
            None => Ring::new(random()?),
        };
        Ok(Self {
            tpm,
            deployment,
            file,
            master,
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
        if let Err(why) = block_in_place(|| self.write(&self.file)) {
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
        if let Err(why) = block_in_place(|| self.write(&self.file)) {
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
        let master = random()?;
        let next = next_of(&self.file);
        let before = (self.master, std::mem::replace(&mut self.ring, ring));
        self.master = master;
        // In this order: cut off before the TPM has the new master key, the old file stands and
        // the erasure is applied again; cut off after, the new file is found under its other name.
        let written = block_in_place(|| self.write(&next));
        let kept = match written {
            Ok(()) => self
                .tpm
                .keep_secret(master)
                .await
                .map_err(SealerError::from),
            Err(why) => Err(why),
        };
        if let Err(why) = kept {
            (self.master, self.ring) = before;
            return Err(why);
        }
        block_in_place(|| settle(&next, &self.file))?;
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

    fn write(&self, file: &Path) -> Result<(), SealerError> {
        let nonce = random()?;
        let sealed = self.ring.seal(&self.master, nonce);
        write_atomically(file, &sealed.ok_or(SealerError::Provider)?).map_err(|source| {
            SealerError::File {
                file: file.to_owned(),
                source,
            }
        })
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

/// The keys, from the file or from the one that was to replace it.
fn read(file: &Path, master: &[u8; 32]) -> Result<Option<Ring>, SealerError> {
    let next = next_of(file);
    for (name, replaces) in [(file, false), (next.as_path(), true)] {
        let bytes = match read_bounded(name, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => {
                return Err(SealerError::File {
                    file: name.to_owned(),
                    source,
                });
            }
        };
        match Ring::open(master, &bytes) {
            Some(ring) => {
                if replaces {
                    settle(name, file)?;
                }
                return Ok(Some(ring));
            }
            None => warn!(file = %name.display(), "keys that this TPM does not open"),
        }
    }
    Ok(None)
}

fn next_of(file: &Path) -> PathBuf {
    file.with_extension("next")
}

fn settle(next: &Path, file: &Path) -> Result<(), SealerError> {
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    fs::rename(next, file)
        .and_then(|()| sync_folder(folder))
        .map_err(|source| SealerError::File {
            file: file.to_owned(),
            source,
        })
}

fn random<const N: usize>() -> Result<[u8; N], SealerError> {
    let mut out = [0; N];
    rand::fill(&mut out).map_err(|_unspecified| SealerError::Provider)?;
    Ok(out)
}
