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
        let asking = policy.filter(|policy| asks_logs(policy.profile(ek)));
        let judging = asking.filter(|policy| policy.listed(ek).is_some());
        let known = judging.and_then(|_| self.get(ek));
        let read_on = known.as_ref().zip(judging).is_some_and(|(known, policy)| {
            verified.read_logs(policy.profile(ek), now, Some(known))
        });
        let mut kept = Vec::new();
        for (name, digest) in verified.lacks() {
            if is_read(name, asking.is_some(), read_on) {
                kept.extend(store.log_parts(ek, &digest).await?);
            }
        }
        verified.keep_all(&kept);
        if read_on {
            return Ok(Vec::new());
        }
        if let Some(policy) = judging {
            verified.read_logs(policy.profile(ek), now, None);
        }
        let lacks = verified.lacks().into_iter();
        let lacks = lacks.filter(|(name, _)| is_asked_for(name, asking.is_some()));
        Ok(lacks.map(|(name, _)| name.to_owned()).collect())
    }
}

/// Whether a log is read from what was stored: one that is replayed, where the policy asks and memory
/// does not do. What GPUs say is shown whether it is asked for or not.
fn is_read(log: &str, asked: bool, read_on: bool) -> bool {
    !REPLAYED.contains(&log) || (asked && !read_on)
}

/// Whether the node has to send a log whole that nobody has.
fn is_asked_for(log: &str, asked: bool) -> bool {
    asked && REPLAYED.contains(&log)
}

#[cfg(test)]
mod tests {
    use super::{is_asked_for, is_read};

    #[test]
    fn what_is_replayed_is_read_and_asked_for_where_a_policy_asks() {
        // Log; asked for by the policy, memory was enough; read from the store, asked of the node.
        let rows = [
            ("ima", (false, false), (false, false)),
            ("ima", (false, true), (false, false)),
            ("ima", (true, false), (true, true)),
            ("ima", (true, true), (false, true)),
            ("boot", (true, false), (true, true)),
            ("userspace", (true, false), (true, true)),
            ("gpu", (false, false), (true, false)),
            ("gpu", (false, true), (true, false)),
            ("gpu", (true, false), (true, false)),
            ("gpu", (true, true), (true, false)),
            ("gpu-chains", (true, true), (true, false)),
        ];
        for (log, (asked, read_on), want) in rows {
            let found = (is_read(log, asked, read_on), is_asked_for(log, asked));
            assert_eq!(found, want, "{log}, asked {asked}, read on {read_on}");
        }
    }
}
