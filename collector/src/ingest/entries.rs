//! Entries of a node's log: read whole, recorded once, acknowledged when they are on disk. Keys that
//! travel beside them go elsewhere, before the entries they open.

use bailiwick_attestation::events::{Entry, EntryRefused, MAX_SEALED};
use bailiwick_attestation::proto::v1::{self, collector_message, log_entry::What};
use tonic::Status;
use tracing::error;

use super::service;
use super::stream::Stream;
use crate::clock;
use crate::keys::{KeysError, wrapped_as_said};
use crate::record::NewEntry;

/// Most entries in one batch; an agent sends a few hundred.
const ENTRIES: usize = 4096;

/// A batch that no honest node sends.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
enum BatchRefused {
    #[error("entries-too-many: LogBatch.entries has more than {ENTRIES} elements")]
    TooMany,
    #[error("entry-malformed: LogBatch.entries[{0}].{1}")]
    Malformed(usize, EntryRefused),
    #[error("entry-malformed: LogBatch.entries[{0}].sealed exceeds {MAX_SEALED} bytes")]
    Sealed(usize),
    #[error("entry-malformed: LogBatch.entries[{0}].sealed is not the key its entry says")]
    Key(usize),
    #[error("entries-out-of-order: LogBatch.entries[{0}] is entry {1} of epoch {2}")]
    Order(usize, u64, u64),
}

/// Reads a batch: consecutive entries of one epoch.
fn read(batch: v1::LogBatch) -> Result<Vec<NewEntry>, BatchRefused> {
    if batch.entries.len() > ENTRIES {
        return Err(BatchRefused::TooMany);
    }
    let mut next = batch.first_index;
    let mut entries = Vec::with_capacity(batch.entries.len());
    for (at, logged) in batch.entries.into_iter().enumerate() {
        let parsed = Entry::parse(&logged.entry).map_err(|why| BatchRefused::Malformed(at, why))?;
        if logged.sealed.len() > MAX_SEALED {
            return Err(BatchRefused::Sealed(at));
        }
        if let What::KeyMade(made) = &parsed.what
            && !made.key_store.is_empty()
            && !wrapped_as_said(made, &logged.sealed)
        {
            return Err(BatchRefused::Key(at));
        }
        if (parsed.epoch, parsed.index) != (batch.epoch, next) {
            return Err(BatchRefused::Order(at, parsed.index, parsed.epoch));
        }
        next = next.saturating_add(1);
        entries.push(NewEntry {
            parsed,
            entry: logged.entry,
            sealed: logged.sealed,
        });
    }
    Ok(entries)
}

impl Stream {
    /// True if the batch was worth something. A malformed one ends the stream.
    pub(super) async fn entries(&self, batch: v1::LogBatch) -> Result<bool, Status> {
        let epoch = batch.epoch;
        let first = batch.first_index;
        let entries =
            read(batch).map_err(|refused| Status::invalid_argument(refused.to_string()))?;
        let up_to_index = entries
            .last()
            .map_or(first, |last| last.parsed.index.saturating_add(1));
        let some = !entries.is_empty();
        let mut entries = entries;
        let erased = self.take_keys(&mut entries).await?;
        let stored = self
            .shared
            .store
            .entries_insert(self.peer.ek_digest, entries, clock::now());
        stored.await.map_err(service::store)?;
        for erased in erased {
            let gone =
                self.shared
                    .keys
                    .destroy_with_node(&self.peer.ek_digest, &erased, clock::now());
            gone.await.map_err(|why| keys_failed(&why))?;
        }
        self.send(collector_message::Message::LogAccepted(v1::LogAccepted {
            epoch,
            up_to_index,
        }))
        .await?;
        Ok(some)
    }
}

impl Stream {
    /// Moves keys to where keys are, so that none stands in the record; answers with what the
    /// node says it destroyed.
    async fn take_keys(&self, entries: &mut [NewEntry]) -> Result<Vec<v1::KeysErased>, Status> {
        let mut erased = Vec::new();
        for entry in entries {
            match &entry.parsed.what {
                What::KeyMade(made) if !made.key_store.is_empty() => {
                    let wrapped = std::mem::take(&mut entry.sealed);
                    let keys = &self.shared.keys;
                    let kept = keys.insert(&self.peer.ek_digest, made, &wrapped, clock::now());
                    kept.await.map_err(|why| keys_failed(&why))?;
                }
                What::KeysErased(keys) => erased.push(keys.clone()),
                _ => {}
            }
        }
        Ok(erased)
    }
}

/// The keys could not be kept or destroyed: the node did nothing wrong and sends them again.
fn keys_failed(why: &KeysError) -> Status {
    error!(error = %service::error_chain(why), "the keys failed");
    Status::unavailable("keys-failed: the collector could not write its keys; try again")
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::UnixTime;

    use super::*;

    fn logged(epoch: u64, index: u64) -> v1::LoggedEntry {
        let what = What::Lease(v1::LeaseTurned::default());
        v1::LoggedEntry {
            entry: Entry::compose((epoch, index), UnixTime(1), 2, what),
            sealed: vec![7; MAX_SEALED],
        }
    }

    fn batch() -> v1::LogBatch {
        v1::LogBatch {
            epoch: 3,
            first_index: 5,
            entries: vec![logged(3, 5), logged(3, 6)],
        }
    }

    #[test]
    fn a_batch_is_consecutive_entries_of_one_epoch() {
        let read_whole = read(batch()).unwrap();
        let indices: Vec<u64> = read_whole.iter().map(|new| new.parsed.index).collect();
        assert_eq!(indices, [5, 6]);
        type Edit = fn(&mut v1::LogBatch);
        let cases: &[(&str, Edit, &str)] = &[
            (
                "a hole",
                |b| b.entries[1] = logged(3, 7),
                "entries-out-of-order: ",
            ),
            (
                "twice",
                |b| b.entries[1] = logged(3, 5),
                "entries-out-of-order: ",
            ),
            (
                "another epoch",
                |b| b.entries[1] = logged(4, 6),
                "entries-out-of-order: ",
            ),
            (
                "another start",
                |b| b.first_index = 4,
                "entries-out-of-order: ",
            ),
            (
                "another epoch said",
                |b| b.epoch = 4,
                "entries-out-of-order: ",
            ),
            (
                "no entry",
                |b| b.entries[1].entry.clear(),
                "entry-malformed: LogBatch.entries[1].LogEntry.format",
            ),
            (
                "endless seal",
                |b| b.entries[0].sealed.push(0),
                "entry-malformed: LogBatch.entries[0].sealed",
            ),
            (
                "too many",
                |b| b.entries = vec![logged(3, 5); ENTRIES + 1],
                "entries-too-many: ",
            ),
        ];
        for (name, edit, want) in cases {
            let mut bad = batch();
            edit(&mut bad);
            let refused = read(bad).unwrap_err().to_string();
            assert!(refused.starts_with(want), "{name}: {refused}");
        }
        let made = |sealed: Vec<u8>, digest: Vec<u8>| {
            let what = What::KeyMade(v1::KeyMade {
                key_id: vec![1; 16],
                key_store: "keys-1".into(),
                wrapped_digest: digest,
                ..v1::KeyMade::default()
            });
            read(v1::LogBatch {
                entries: vec![v1::LoggedEntry {
                    entry: Entry::compose((3, 5), UnixTime(1), 2, what),
                    sealed,
                }],
                ..batch()
            })
        };
        let key = vec![4; bailiwick_attestation::events::WRAPPED];
        let digest = bailiwick_attestation::Sha256Digest::of(&[&key]).0.to_vec();
        assert!(made(key.clone(), digest.clone()).is_ok());
        assert_eq!(made(key, vec![0; 32]).unwrap_err(), BatchRefused::Key(0));
        assert_eq!(made(Vec::new(), digest).unwrap_err(), BatchRefused::Key(0));
        let most = v1::LogBatch {
            entries: (0u64..4096).map(|n| logged(3, 5 + n)).collect(),
            ..batch()
        };
        assert_eq!(read(most).unwrap().len(), ENTRIES);
    }
}
