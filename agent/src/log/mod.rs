//! The node's own log: an RFC 6962 tree over what happened here, across boots.
//!
//! An entry counts once it is on disk; only then may a statement name the log's size and root.
//! What was appended and is not yet both delivered and covered by an accepted statement lies in a
//! spool, one record per batch. Of everything before, the node keeps the right edge of the tree at
//! the last size the collector accepted ([`kept::Kept`]): enough to go on and to prove that it
//! does. The spool's bound and [`MAX_LEAVES`] bound both; where there is no room an entry is
//! refused, the caller counts it, and the next statement says so.
//!
//! A log that was lost or does not reach what a statement named begins a new epoch.

mod kept;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
};

use bailiwick_attestation::{
    Sha256Digest, UnixTime,
    events::Entry,
    proto::v1::{LogBatch, LogConsistency, LoggedEntry, log_entry::What},
    tlog::{Frontier, Head, Tail, leaf_hash},
};
use prost::Message;

use crate::spool::{Spool, SpoolError};
use kept::{Batch, Kept, KeptFile, Restored, restore};

/// Most leaves the collector has not accepted a statement over: 2 MiB of hashes.
pub const MAX_LEAVES: usize = 1 << 16;

/// Where a record is closed and the next one begun.
const RECORD: usize = 1 << 20;

/// Why an entry was not appended, or the log not read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The entries' spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The right edge could not be read or kept.
    #[error("the edge of the node's log")]
    Kept(#[source] io::Error),
    /// No statement over so many entries was accepted.
    #[error("{MAX_LEAVES} entries wait for a statement to be accepted")]
    Leaves,
    /// No epoch has begun: nothing may stand before its first entry.
    #[error("the node's log has no epoch yet")]
    NotBegun,
}

impl LogError {
    /// No room: worth a gap, and not the end of the agent.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(
            self,
            Self::Leaves | Self::NotBegun | Self::Spool(SpoolError::Full { .. })
        )
    }
}

/// Something to append.
#[derive(Clone, Debug, PartialEq)]
pub struct New {
    /// What happened.
    pub what: What,
    /// What travels beside the entry, sealed; empty where there is nothing.
    pub sealed: Vec<u8>,
    /// When, UTC.
    pub wall_time: UnixTime,
    /// When, `CLOCK_BOOTTIME`.
    pub boot_time_ns: u64,
}

/// A batch in the spool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Waiting {
    record: u64,
    first: u64,
    end: u64,
}

/// The log.
#[derive(Debug)]
pub struct NodeLog {
    spool: Spool,
    file: KeptFile,
    kept: Kept,
    tail: Tail,
    waiting: VecDeque<Waiting>,
    /// The collector has every entry below.
    delivered: u64,
    under_way: bool,
}

/// What was found on disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found {
    /// Nothing: no log was ever here, or all of it is gone.
    Nothing,
    /// The log, to its last entry.
    Whole,
    /// A log that is not whole, and why.
    Lost(&'static str),
}

impl NodeLog {
    /// Opens the log. `named`: epoch and size of the newest statement kept, which the log has to
    /// reach. Anything but [`Found::Whole`] wants [`NodeLog::begin`] before the first entry.
    pub fn open(
        edge: &Path,
        spool: &Path,
        max_bytes: u64,
        named: Option<(u64, u64)>,
    ) -> Result<(Self, Found), LogError> {
        let (file, kept) = KeptFile::open(edge).map_err(LogError::Kept)?;
        let (spool, _) = Spool::open(spool, max_bytes)?;
        let records: Vec<u64> = spool.kept().collect();
        let (mut batches, mut waiting) = (Vec::new(), VecDeque::new());
        for record in records {
            // Whatever cannot be read leaves a hole, and a hole is found below.
            if let Some(batch) = read(&spool, record).unwrap_or_default() {
                batches.push(Batch {
                    epoch: batch.epoch,
                    first: batch.first_index,
                    leaves: leaves(&batch),
                });
                waiting.push_back(Waiting {
                    record,
                    first: batch.first_index,
                    end: end(&batch),
                });
            }
        }
        let (found, kept, tail) = match restore(kept, &batches, named) {
            Restored::Nothing => (Found::Nothing, Kept::default(), Tail::default()),
            Restored::Whole(kept, tail) => (Found::Whole, kept, tail),
            Restored::Lost(why, kept) => (Found::Lost(why), kept, Tail::default()),
        };
        let mut log = Self {
            spool,
            file,
            tail,
            delivered: 0,
            under_way: false,
            waiting,
            kept,
        };
        if found == Found::Whole {
            log.drop_other_epochs(&batches)?;
        }
        Ok((log, found))
    }

    /// Begins an epoch: what was there before is let go of. The caller appends the first entry,
    /// an `EpochBegan`, next. Cut off in between, it is begun again.
    pub fn begin(&mut self, epoch: u64) -> Result<(), LogError> {
        self.keep(Kept {
            epoch,
            edge: Frontier::empty(),
            ..self.kept.clone()
        })?;
        self.tail = Tail::default();
        self.delivered = 0;
        self.under_way = false;
        while let Some(waiting) = self.waiting.pop_front() {
            self.spool.forget(waiting.record)?;
        }
        Ok(())
    }

    /// Whether there is a first entry.
    #[must_use]
    pub const fn begun(&self) -> bool {
        self.tail.size() > 0
    }

    /// Epoch of the entries.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.kept.epoch
    }

    /// Size and root, as a statement names them.
    #[must_use]
    pub fn head(&self) -> Head {
        self.tail.head()
    }

    /// Entries not delivered yet.
    #[must_use]
    pub const fn undelivered(&self) -> u64 {
        self.tail.size().saturating_sub(self.delivered)
    }

    /// Boot whose first entry is in the log.
    #[must_use]
    pub const fn boot(&self) -> &[u8; 16] {
        &self.kept.boot_id
    }

    /// The first entry of this boot is in the log.
    pub fn booted(&mut self, boot_id: [u8; 16]) -> Result<(), LogError> {
        self.keep(Kept {
            boot_id,
            ..self.kept.clone()
        })
    }

    /// Appends entries, in order: on disk when this returns. Answers how many; fewer than given
    /// only with an error that says why the rest was not.
    pub fn append(&mut self, entries: &[New]) -> (u64, Result<(), LogError>) {
        let mut done = 0;
        let mut rest = entries;
        while !rest.is_empty() {
            match self.append_record(rest) {
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or_default();
                    done += count;
                }
                Err(why) => return (u64::try_from(done).unwrap_or(u64::MAX), Err(why)),
            }
        }
        (u64::try_from(done).unwrap_or(u64::MAX), Ok(()))
    }

    fn append_record(&mut self, entries: &[New]) -> Result<usize, LogError> {
        let begins = matches!(
            entries.first().map(|new| &new.what),
            Some(What::EpochBegan(_))
        );
        if begins == self.begun() {
            return Err(LogError::NotBegun);
        }
        let room = MAX_LEAVES.saturating_sub(self.tail.leaves());
        let first = self.tail.size();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for (index, new) in (first..).zip(entries.iter().take(room)) {
            let entry = Entry::compose(
                (self.kept.epoch, index),
                new.wall_time,
                new.boot_time_ns,
                new.what.clone(),
            );
            bytes += entry.len() + new.sealed.len();
            if bytes > RECORD && !batch.is_empty() {
                break;
            }
            batch.push(LoggedEntry {
                entry,
                sealed: new.sealed.clone(),
            });
        }
        if batch.is_empty() {
            return Err(LogError::Leaves);
        }
        let batch = LogBatch {
            epoch: self.kept.epoch,
            first_index: first,
            entries: batch,
        };
        let record = self.spool.append(&batch.encode_to_vec())?;
        self.waiting.push_back(Waiting {
            record,
            first,
            end: end(&batch),
        });
        for leaf in leaves(&batch) {
            self.tail.push(leaf);
        }
        Ok(batch.entries.len())
    }

    /// Proof that the log of `size` entries extends the last one the collector accepted; `None`
    /// where that is not kept, or is of another epoch.
    #[must_use]
    pub fn prove(&self, epoch: u64, size: u64) -> Option<LogConsistency> {
        if epoch != self.kept.epoch {
            return None;
        }
        self.tail.consistency(self.tail.base().size(), size)
    }

    /// The collector accepted a statement over so many entries: the edge moves there.
    pub fn covered(&mut self, epoch: u64, size: u64) -> Result<(), LogError> {
        if epoch != self.kept.epoch || size <= self.tail.base().size() {
            return Ok(());
        }
        let Some(edge) = self.tail.at(size) else {
            return Ok(());
        };
        // The edge first: entries before it are let go of only once it is on disk.
        self.keep(Kept {
            edge,
            ..self.kept.clone()
        })?;
        self.tail.advance(size);
        self.let_go()
    }

    /// Whether `head` is this log, at a size that is still kept.
    #[must_use]
    pub fn had(&self, epoch: u64, head: &Head) -> bool {
        epoch == self.kept.epoch && self.tail.at(head.size).is_some_and(|at| at.head() == *head)
    }

    /// The batch to send now, if none is under way.
    pub fn next_batch(&mut self) -> Result<Option<LogBatch>, LogError> {
        if self.under_way {
            return Ok(None);
        }
        let next = self
            .waiting
            .iter()
            .find(|waiting| waiting.end > self.delivered);
        let Some(next) = next else { return Ok(None) };
        let batch = read(&self.spool, next.record)?;
        self.under_way = batch.is_some();
        Ok(batch)
    }

    /// The collector has every entry below `up_to`.
    pub fn delivered(&mut self, epoch: u64, up_to: u64) -> Result<(), LogError> {
        if epoch != self.kept.epoch {
            return Ok(());
        }
        self.under_way = false;
        self.delivered = self.delivered.max(up_to.min(self.tail.size()));
        self.let_go()
    }

    /// The stream is gone: the batch under way is sent again on the next one.
    pub const fn disconnected(&mut self) {
        self.under_way = false;
    }

    fn let_go(&mut self) -> Result<(), LogError> {
        let needed_from = self.delivered.min(self.tail.base().size());
        while let Some(oldest) = self.waiting.front().copied()
            && oldest.end <= needed_from
        {
            self.waiting.pop_front();
            self.spool.forget(oldest.record)?;
        }
        Ok(())
    }

    fn drop_other_epochs(&mut self, batches: &[Batch]) -> Result<(), LogError> {
        let all = std::mem::take(&mut self.waiting);
        for (waiting, batch) in all.into_iter().zip(batches) {
            if batch.epoch == self.kept.epoch {
                self.waiting.push_back(waiting);
            } else {
                self.spool.forget(waiting.record)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, kept: Kept) -> Result<(), LogError> {
        self.file.write(&kept).map_err(LogError::Kept)?;
        self.kept = kept;
        Ok(())
    }
}

fn read(spool: &Spool, record: u64) -> Result<Option<LogBatch>, SpoolError> {
    let record = spool.read(record)?;
    Ok(record.and_then(|record| LogBatch::decode(record.as_slice()).ok()))
}

fn leaves(batch: &LogBatch) -> Vec<Sha256Digest> {
    let entries = batch.entries.iter();
    entries.map(|logged| leaf_hash(&logged.entry)).collect()
}

fn end(batch: &LogBatch) -> u64 {
    let count = u64::try_from(batch.entries.len()).unwrap_or(u64::MAX);
    batch.first_index.saturating_add(count)
}

/// Where the log's files are.
#[must_use]
pub(crate) fn edge_file(state_dir: &Path) -> PathBuf {
    state_dir.join("log")
}
