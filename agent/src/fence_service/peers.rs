//! Peer entries, as told last: on disk, so that a restart forgets neither them nor what was seen.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use bailiwick_attestation::{DeploymentId, Sha256Digest, proto::v1::PeerEntries};
use bailiwick_policy::{
    model::Model,
    peers::{ENTRIES_LIMIT, Seen, own, verify},
};
use prost::Message;
use tracing::warn;

use super::{Core, CoreError, Enforcer, Peer};
use crate::{
    clock,
    files::{read_bounded, write_atomically},
    proto::fence::{
        ApplyPeers, Done, GetOwnPeers, OwnPeers, own_peers, response::Response as Answer,
    },
};

/// Longest file: entries of some 700 bytes each.
const MAX_FILE: usize = 16 << 20;

/// What `run` told, and what was made of it.
#[derive(Debug)]
pub(super) struct Peers {
    folder: PathBuf,
    /// Which boot this is.
    boot: [u8; 16],
    entries: PeerEntries,
    seen: Seen,
}

impl Peers {
    /// As kept. What cannot be read is as good as none: nodes sign again every few minutes. But
    /// without what was seen, older entries could come back, so nothing counts until newer ones do.
    pub(super) fn open(state_dir: &Path, boot: [u8; 16]) -> Self {
        let folder = state_dir.join("fence");
        let read = |name: &str| match read_bounded(&folder.join(name), MAX_FILE) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                warn!(%error, name, "kept peer entries cannot be read");
                Vec::new()
            }
        };
        let entries = PeerEntries::decode(read("peers").as_slice()).unwrap_or_default();
        let seen = String::from_utf8(read("peers.seen")).ok();
        let seen = seen.and_then(|text| Seen::from_text(&text));
        Self {
            boot,
            entries,
            seen: seen.unwrap_or_default(),
            folder,
        }
    }

    /// Replaces the entries; false if there are more than there may be.
    pub(super) fn replace(&mut self, entries: PeerEntries) -> bool {
        if entries.entries.len() > ENTRIES_LIMIT {
            return false;
        }
        self.entries = entries;
        true
    }

    /// Those that count under a policy, each until its end. What was seen is on disk before any
    /// of them takes effect.
    pub(super) fn counted(
        &mut self,
        model: &Model,
        deployment: &DeploymentId,
        now_boot_ns: u64,
    ) -> io::Result<Vec<Peer>> {
        let before = self.seen.clone();
        let (mut counted, mut refused) = (Vec::new(), Vec::new());
        for entry in &self.entries.entries {
            let end = verify(entry, model, deployment).and_then(|peer| {
                let end = self.seen.take(&peer, self.boot, now_boot_ns)?;
                Ok((peer, end))
            });
            match end {
                Ok((peer, end_boot_ns)) => {
                    counted.extend(peer.addresses().iter().map(|address| Peer {
                        study: peer.study().to_string(),
                        address: *address,
                        end_boot_ns,
                    }));
                }
                Err(why) => refused.push(why),
            }
        }
        if let Some(first) = refused.first() {
            let why = format!("{:#}", anyhow::Error::from(first.clone()));
            warn!(
                code = first.code(),
                why,
                count = refused.len(),
                "peer entries refused"
            );
        }
        if self.seen != before {
            let text = self.seen.to_text();
            write_atomically(&self.folder.join("peers.seen"), text.as_bytes())?;
        }
        Ok(counted)
    }

    /// For the next start.
    pub(super) fn keep(&self) -> io::Result<()> {
        write_atomically(&self.folder.join("peers"), &self.entries.encode_to_vec())
    }
}

impl<E: Enforcer> Core<E> {
    /// What this policy makes of the peer entries told last; of the one in force where none is
    /// given.
    pub(super) fn set_peers(&mut self, model: Option<&Model>) -> Result<(), CoreError> {
        let Some(model) = model.or_else(|| self.policy.as_ref().map(|policy| &policy.model)) else {
            return Ok(());
        };
        let now = clock::boot_time_ns();
        let counted = self.peers.counted(model, &self.settings.deployment, now);
        let peers = counted.map_err(|source| CoreError::Keep {
            file: self.kept("peers.seen"),
            source,
        })?;
        self.enforcer
            .set_peers(peers)
            .map_err(|err| CoreError::Enforce(Box::new(err)))
    }

    pub(super) fn own_peers(&mut self, ask: &GetOwnPeers) -> Result<OwnPeers, CoreError> {
        let ek = Sha256Digest::from_slice(&ask.ek_digest).ok_or(CoreError::Request(
            "GetOwnPeers.ek_digest must have 32 bytes",
        ))?;
        self.ek = Some(ek);
        let Some(policy) = &self.policy else {
            return Ok(OwnPeers::default());
        };
        let Some(node) = policy.model.inventory.by_ek(&ek) else {
            return Ok(OwnPeers::default());
        };
        let candidates: Vec<IpAddr> = ask
            .addresses
            .iter()
            .filter_map(|bytes| match bytes.len() {
                4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
                _ => <[u8; 16]>::try_from(bytes.as_slice())
                    .ok()
                    .map(IpAddr::from),
            })
            .collect();
        let own = own(&policy.model, node, &candidates);
        Ok(OwnPeers {
            node: node.name.to_string(),
            studies: own
                .into_iter()
                .map(|(study, addresses)| own_peers::Study {
                    study: study.into(),
                    addresses: addresses.into_iter().map(octets).collect(),
                })
                .collect(),
        })
    }

    pub(super) fn apply_peers(&mut self, apply: ApplyPeers) -> Result<Answer, CoreError> {
        if !self.peers.replace(apply.entries.unwrap_or_default()) {
            return Err(CoreError::Request(
                "ApplyPeers.entries has more than 8192 elements",
            ));
        }
        self.set_peers(None)?;
        self.peers.keep().map_err(|source| CoreError::Keep {
            file: self.kept("peers"),
            source,
        })?;
        Ok(Answer::Done(Done {}))
    }
}

/// Network order, 4 or 16 bytes.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
