//! Which node is connected by which stream. TLS looks once, so whatever ends a certificate's
//! worth has to reach the streams it opened.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bailiwick_attestation::Sha256Digest;
use tokio::sync::{mpsc, watch};

/// Commands waiting for one stream; with more the caller is told that it is busy.
const COMMANDS: usize = 4;

/// Why a stream is closed from this side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closed {
    /// The node opened another one.
    Replaced,
    /// The node enrolled again.
    ReEnrolled,
    /// Its certificate was revoked.
    Revoked,
}

impl Closed {
    /// Stable word for scripts.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Replaced => "stream-replaced",
            Self::ReEnrolled => "node-re-enrolled",
            Self::Revoked => "certificate-revoked",
        }
    }
}

/// Open streams, at most one per TPM.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: HashMap<Sha256Digest, Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    closed: watch::Sender<Option<Closed>>,
    challenge: mpsc::Sender<()>,
}

/// The stream's own end. Dropped with the stream.
#[derive(Debug)]
pub struct Registration {
    streams: Streams,
    ek: Sha256Digest,
    number: u64,
    /// Becomes `Some` when the stream must end.
    pub closed: watch::Receiver<Option<Closed>>,
    /// A message means: challenge the node now.
    pub challenge: mpsc::Receiver<()>,
}

impl Streams {
    /// Enters a stream; an older one of the same TPM is closed.
    #[must_use]
    pub fn open(&self, ek: Sha256Digest) -> Registration {
        let (closed_sender, closed) = watch::channel(None);
        let (challenge_sender, challenge) = mpsc::channel(COMMANDS);
        let mut table = self.table();
        table.next += 1;
        let number = table.next;
        let entry = Entry {
            number,
            closed: closed_sender,
            challenge: challenge_sender,
        };
        if let Some(older) = table.open.insert(ek, entry) {
            older.closed.send_replace(Some(Closed::Replaced));
        }
        drop(table);
        Registration {
            streams: self.clone(),
            ek,
            number,
            closed,
            challenge,
        }
    }

    /// Closes the TPM's stream, if there is one.
    pub fn close(&self, ek: &Sha256Digest, why: Closed) {
        if let Some(entry) = self.table().open.remove(ek) {
            entry.closed.send_replace(Some(why));
        }
    }

    /// Has the TPM challenged at once. False if it is not connected, or busy with others.
    #[must_use]
    pub fn challenge(&self, ek: &Sha256Digest) -> bool {
        self.table()
            .open
            .get(ek)
            .is_some_and(|entry| entry.challenge.try_send(()).is_ok())
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // Nothing panics while it holds the lock, and a map is whole between statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut table = self.streams.table();
        if table
            .open
            .get(&self.ek)
            .is_some_and(|entry| entry.number == self.number)
        {
            table.open.remove(&self.ek);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EK: Sha256Digest = Sha256Digest([1; 32]);

    #[test]
    fn one_stream_per_tpm_and_each_end_has_its_reason() {
        let streams = Streams::default();
        let first = streams.open(EK);
        let mut second = streams.open(EK);
        assert_eq!(*first.closed.borrow(), Some(Closed::Replaced));
        // The first one's end must not take the second out of the table.
        drop(first);
        assert!(streams.challenge(&EK));
        assert_eq!(second.challenge.try_recv(), Ok(()));
        streams.close(&EK, Closed::ReEnrolled);
        assert_eq!(*second.closed.borrow(), Some(Closed::ReEnrolled));
        assert!(!streams.challenge(&EK));
    }
}
