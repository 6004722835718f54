//! Fence events on their way: from the fence process to the disk to the collector, one batch at a
//! time, each with the number this node gave it.

use std::collections::VecDeque;

use bailiwick_attestation::proto::v1::{EventBatch, FenceEvent};
use prost::Message;
use tokio::task::block_in_place;
use tracing::{error, warn};

use crate::{
    config::Config,
    spool::{Spool, SpoolError},
};

/// Events asked of the fence at once, and thereby in a batch.
pub(super) const BATCH: u32 = 512;

/// Batches the collector has not confirmed.
#[derive(Debug)]
pub(super) struct EventQueue {
    spool: Spool,
    /// Spool index and the number after the batch's last event, oldest first.
    waiting: VecDeque<(u64, u64)>,
    under_way: bool,
    was_full: bool,
}

impl EventQueue {
    pub(super) fn open(config: &Config) -> Result<Self, SpoolError> {
        let dir = config.spool_dir().join("events");
        let (spool, recovered) = Spool::open(&dir, config.spool.max_bytes / 4)?;
        if recovered.lost_records > 0 {
            error!(
                batches = recovered.lost_records,
                "the event spool is damaged"
            );
        }
        let indices: Vec<u64> = spool.kept().collect();
        let mut waiting = VecDeque::new();
        for index in indices {
            if let Some(batch) = read(&spool, index)? {
                waiting.push_back((index, end(&batch)));
            }
        }
        Ok(Self {
            spool,
            waiting,
            under_way: false,
            was_full: false,
        })
    }

    /// Keeps a batch that begins with number `first`. False: it could not be kept and is lost.
    pub(super) fn keep(&mut self, first: u64, mut events: Vec<FenceEvent>) -> bool {
        for (index, event) in (first..).zip(&mut events) {
            event.index = index;
        }
        let batch = EventBatch {
            first_index: first,
            events,
        };
        let record = batch.encode_to_vec();
        match block_in_place(|| self.spool.append(&record)) {
            Ok(index) => {
                self.waiting.push_back((index, end(&batch)));
                self.was_full = false;
                true
            }
            Err(why) => {
                if !self.was_full {
                    error!(%why, "fence events are not kept any more");
                    self.was_full = true;
                }
                false
            }
        }
    }

    /// The batch to send now, if none is under way.
    pub(super) fn next(&mut self) -> Option<EventBatch> {
        if self.under_way {
            return None;
        }
        while let Some((index, _)) = self.waiting.front().copied() {
            match read(&self.spool, index) {
                Ok(Some(batch)) => {
                    self.under_way = true;
                    return Some(batch);
                }
                Ok(None) => {}
                Err(why) => warn!(%why, "a batch of events cannot be read"),
            }
            self.waiting.pop_front();
        }
        None
    }

    /// The collector has every event below this number.
    pub(super) fn accepted(&mut self, up_to: u64) {
        while let Some((index, end)) = self.waiting.front().copied() {
            if end > up_to {
                break;
            }
            self.under_way = false;
            self.waiting.pop_front();
            if let Err(why) = block_in_place(|| self.spool.forget(index)) {
                warn!(%why, "a batch of events will be sent twice");
            }
        }
    }

    /// The stream is gone: the batch under way is sent again on the next one.
    pub(super) fn disconnected(&mut self) {
        self.under_way = false;
    }
}

fn read(spool: &Spool, index: u64) -> Result<Option<EventBatch>, SpoolError> {
    let record = spool.read(index)?;
    Ok(record.and_then(|record| EventBatch::decode(record.as_slice()).ok()))
}

fn end(batch: &EventBatch) -> u64 {
    let count = u64::try_from(batch.events.len()).unwrap_or(u64::MAX);
    batch.first_index.saturating_add(count)
}
