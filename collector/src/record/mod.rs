//! What is kept: SQLite, one writer with group commit, and the log inside the same transaction.
//!
//! *Accepted* is said after the commit that holds the row (`synchronous=FULL`), so a process that
//! dies loses nothing it acknowledged. A checkpoint is signed only over a head read back after
//! its commit: however late, it is of the one lineage.

mod acts;
mod brakes;
mod entries;
mod error;
mod flows;
mod gpus;
mod guests;
mod log;
mod migrate;
mod nodes;
mod places;
mod policies;
mod reads;
mod rows;
mod signers;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::time::Duration;

use bailiwick_attestation::UnixTime;
use bailiwick_policy::model::CollectorKeys;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use acts::{ACTS_LIMIT, NewAct};
pub use entries::{EntryFilter, NewEntry, StoredEntry};
pub use error::StoreError;
pub use flows::{FlowFilter, FlowRow, FlowSpan};
pub use gpus::ShownGpu;
pub use guests::Admitted;
pub use log::SignedHead;
pub use rows::{
    AlertChange, AlertRow, FenceFacts, Interval, NewAlert, NewEnrolment, NewPolicy, NewStatement,
    NodeRow, PolicyRow, StatementRow, Verdict,
};
pub use signers::LogSigners;
use writer::{Job, Outcome, Write};

/// Writes waiting for the writer; a caller beyond that waits, which holds back its node.
const WRITES: usize = 1024;
/// Connections that read.
const READERS: u32 = 4;
/// A head is signed some milliseconds after what it covers is committed.
const SIGNED_WITHIN: Duration = Duration::from_secs(5);

/// The store. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    readers: SqlitePool,
    writes: mpsc::Sender<Job>,
    head: watch::Receiver<SignedHead>,
    signers: LogSigners,
}

impl Store {
    /// Opens or makes the database, brings it to this version's schema and starts the writer.
    ///
    /// The writer ends when the last clone of the store is gone.
    pub async fn open(
        path: &Path,
        signers: impl Into<LogSigners>,
    ) -> Result<(Self, JoinHandle<Result<(), StoreError>>), StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let mut connection = migrate::connect(&options).await?;
        migrate::run(&mut connection).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.create_if_missing(false).read_only(true))
            .await?;
        let signers = signers.into();
        let first = log::read_head(&mut connection, &signers).await?;
        let (head_sender, head) = watch::channel(first);
        let (writes, jobs) = mpsc::channel(WRITES);
        let task = tokio::spawn(writer::run(connection, signers.clone(), jobs, head_sender));
        let store = Self {
            readers,
            writes,
            head,
            signers,
        };
        Ok((store, task))
    }

    /// The newest signed head of the log.
    #[must_use]
    pub fn head(&self) -> SignedHead {
        self.head.borrow().clone()
    }

    /// The newest head that covers the leaf at `index`. A row is there to be read a moment before
    /// the head over it is signed.
    async fn head_over(&self, index: u64) -> Result<SignedHead, StoreError> {
        let mut heads = self.head.clone();
        let covering = heads.wait_for(|head| head.size > index);
        match tokio::time::timeout(SIGNED_WITHIN, covering).await {
            Ok(Ok(head)) => Ok(head.clone()),
            // Nobody signs any more, or there is no such leaf.
            Ok(Err(_)) | Err(_) => Err(StoreError::Forked),
        }
    }

    /// The log's keys.
    #[must_use]
    pub const fn signers(&self) -> &LogSigners {
        &self.signers
    }

    /// Has the log signed by the keys that approvers list; answers once the newest head is.
    pub async fn follow_keys(
        &self,
        listed: &CollectorKeys,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        if self.signers.follow(listed, now) {
            self.write(Write::Sign).await?;
        }
        Ok(())
    }

    /// Hands one write to the writer and waits for its commit.
    async fn write(&self, write: Write) -> Result<Outcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writes
            .send(Job { write, reply })
            .await
            .map_err(|_closed| StoreError::Stopped)?;
        answer.await.map_err(|_closed| StoreError::Stopped)?
    }
}
