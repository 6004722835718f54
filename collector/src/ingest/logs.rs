//! Logs of nodes, as far as they need not be read twice: what they showed is remembered, and the next
//! statement is read on from there.
//!
//! It is a memory and no record. Whatever is not remembered (this collector started, the profile
//! changed, a node booted) is read whole from what was stored, to the same result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bailiwick_attestation::appraisal::{LogsRead, VerifiedEvidence, asks_logs};
use bailiwick_attestation::{Sha256Digest, UnixTime};

use crate::direct::Policy;
use crate::record::{Store, StoreError};

/// Nodes whose logs are remembered, some KiB each. Of more than these some are read whole each time.
const NODES: usize = 16 * 1024;
/// Logs without which the node's other words are looked at all the same.
const REPLAYED: [&str; 3] = ["boot", "ima", "userspace"];

/// What the logs of nodes showed, by EK.
#[derive(Debug, Default)]
pub struct LogsKnown(Mutex<HashMap<Sha256Digest, Arc<LogsRead>>>);

impl LogsKnown {
    fn get(&self, ek: &Sha256Digest) -> Option<Arc<LogsRead>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(ek).cloned()
    }

    /// Remembers what the logs of a statement showed that is on disk; nothing where nobody read them.
    pub(super) fn put(&self, ek: Sha256Digest, read: Option<Arc<LogsRead>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(read) = read else {
            known.remove(&ek);
            return;
        };
        if known.len() >= NODES
            && !known.contains_key(&ek)
            && let Some(other) = known.keys().next().copied()
        {
            known.remove(&other);
        }
        known.insert(ek, read);
    }

    /// Gives the evidence the logs that it names, where they are stored, and reads what the policy
    /// asks of them. Answers which the node has to send whole: nobody has what they go on from.
    pub(super) async fn complete(
        &self,
        store: &Store,
        verified: &mut VerifiedEvidence,
        ek: &Sha256Digest,
        policy: Option<&Policy>,
        now: UnixTime,
    ) -> Result<Vec<String>, StoreError> {
        let asking = policy.filter(|policy| asks_logs(policy.profile()));
        let judging = asking.filter(|policy| policy.listed(ek).is_some());
        let known = judging.and_then(|_| self.get(ek));
        let read_on = match (&known, judging) {
            (Some(known), Some(policy)) => verified.read_logs(policy.profile(), now, Some(known)),
            _ => false,
        };
        let mut kept = Vec::new();
        for (name, digest) in verified.lacks() {
            let replayed = REPLAYED.contains(&name);
            // What GPUs say is shown whether it is asked for or not.
            if !replayed || (asking.is_some() && !read_on) {
                kept.extend(store.log_parts(ek, &digest).await?);
            }
        }
        verified.keep_all(&kept);
        if read_on {
            return Ok(Vec::new());
        }
        if let Some(policy) = judging {
            verified.read_logs(policy.profile(), now, None);
        }
        let lacks = verified.lacks().into_iter();
        let lacks = lacks.filter(|(name, _)| asking.is_some() && REPLAYED.contains(name));
        Ok(lacks.map(|(name, _)| name.to_owned()).collect())
    }
}
