//! Which node is connected by which stream. TLS looks once, so whatever ends a certificate's
//! worth has to reach the streams it opened.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::proto::v1;
use bailiwick_policy::kind::Kind;
use tokio::sync::{mpsc, oneshot, watch};

/// Commands waiting for one stream; with more the caller is told that it is busy.
const COMMANDS: usize = 4;

/// Why a stream is closed from this side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closed {
    /// The node opened another one.
    Replaced,
    /// The node enrolled again.
    ReEnrolled,
    /// Another running guest enrolled under its name.
    TakenOver,
    /// Its certificate was revoked.
    Revoked,
    /// Approvers took it out of service.
    Retired,
    /// The CA of its certificate may count no more: it has to show it again.
    Authority,
}

/// What a stream is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Challenge the node now.
    Challenge,
    /// Hand the node a credential; its answer goes to whoever waits.
    Activate(v1::Activation, oneshot::Sender<v1::ActivationAnswer>),
}

impl Closed {
    /// Stable word for scripts.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Replaced => "stream-replaced",
            Self::ReEnrolled => "node-re-enrolled",
            Self::TakenOver => "guest-taken-over",
            Self::Revoked => "certificate-revoked",
            Self::Retired => "node-retired",
            Self::Authority => "certificate-authority-changed",
        }
    }

    /// A person took the node, or its certificate, back: what standing it has is over, too.
    #[must_use]
    pub fn ends_standing(self) -> bool {
        match self {
            Self::Revoked | Self::Retired => true,
            // The one that took over may have standing already.
            Self::TakenOver | Self::Replaced | Self::ReEnrolled | Self::Authority => false,
        }
    }

    /// It hears last that its lease is over.
    #[must_use]
    pub fn ends_lease(self) -> bool {
        self.ends_standing() || matches!(self, Self::TakenOver)
    }
}

/// Open streams, at most one per TPM.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: HashMap<Sha256Digest, Entry>,
    /// Versions each node last said it has, also once its stream is gone.
    has: HashMap<Sha256Digest, BTreeMap<Kind, u64>>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// SHA-256 of the certificate it was opened with.
    certificate: Sha256Digest,
    closed: watch::Sender<Option<Closed>>,
    commands: mpsc::Sender<Command>,
}

/// The stream's own end. Dropped with the stream.
#[derive(Debug)]
pub struct Registration {
    streams: Streams,
    ek: Sha256Digest,
    number: u64,
    /// Becomes `Some` when the stream must end.
    pub closed: watch::Receiver<Option<Closed>>,
    /// What the stream is asked to do.
    pub commands: mpsc::Receiver<Command>,
}

impl Streams {
    /// Enters a stream; an older one of the same TPM is closed.
    #[must_use]
    pub fn open(&self, ek: Sha256Digest, certificate: Sha256Digest) -> Registration {
        let (closed_sender, closed) = watch::channel(None);
        let (command_sender, commands) = mpsc::channel(COMMANDS);
        let mut table = self.table();
        table.next += 1;
        let number = table.next;
        let entry = Entry {
            number,
            certificate,
            closed: closed_sender,
            commands: command_sender,
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
            commands,
        }
    }

    /// Closes the TPM's stream, if there is one.
    pub fn close(&self, ek: &Sha256Digest, why: Closed) {
        if let Some(entry) = self.table().open.remove(ek) {
            entry.closed.send_replace(Some(why));
        }
    }

    /// Closes the TPM's stream if it was opened with another certificate than the one in force: whoever
    /// enrolled may have been followed by the next before it comes to this.
    pub fn close_older(&self, ek: &Sha256Digest, in_force: &Sha256Digest, why: Closed) {
        let mut table = self.table();
        let older = |entry: &Entry| entry.certificate != *in_force;
        if table.open.get(ek).is_some_and(older)
            && let Some(entry) = table.open.remove(ek)
        {
            entry.closed.send_replace(Some(why));
        }
    }

    /// Closes every stream.
    pub fn close_all(&self, why: Closed) {
        for (_, entry) in self.table().open.drain() {
            entry.closed.send_replace(Some(why));
        }
    }

    /// Has the TPM challenged at once. False if it is not connected, or busy with others.
    #[must_use]
    pub fn challenge(&self, ek: &Sha256Digest) -> bool {
        self.command(ek, Command::Challenge)
    }

    /// Has the TPM's stream do something. False if it is not connected, or busy with others.
    #[must_use]
    pub fn command(&self, ek: &Sha256Digest, command: Command) -> bool {
        self.table()
            .open
            .get(ek)
            .is_some_and(|entry| entry.commands.try_send(command).is_ok())
    }

    /// The node said which manifests it has.
    pub fn says(&self, ek: Sha256Digest, has: BTreeMap<Kind, u64>) {
        self.table().has.insert(ek, has);
    }

    /// Which versions it last said it has, if it said so since this process began.
    #[must_use]
    pub fn has(&self, ek: &Sha256Digest) -> Option<BTreeMap<Kind, u64>> {
        self.table().has.get(ek).cloned()
    }

    /// Whether the TPM has a stream.
    #[must_use]
    pub fn connected(&self, ek: &Sha256Digest) -> bool {
        self.table().open.contains_key(ek)
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
    const CERTIFICATE: Sha256Digest = Sha256Digest([8; 32]);

    #[test]
    fn what_a_person_took_back_ends_standing_and_what_a_node_does_itself_ends_none() {
        for (why, standing, lease) in [
            (Closed::Retired, true, true),
            (Closed::Revoked, true, true),
            (Closed::TakenOver, false, true),
            (Closed::Replaced, false, false),
            (Closed::ReEnrolled, false, false),
            (Closed::Authority, false, false),
        ] {
            let ends = (why.ends_standing(), why.ends_lease());
            assert_eq!(ends, (standing, lease), "{}", why.code());
        }
    }

    #[test]
    fn one_stream_per_tpm_and_each_end_has_its_reason() {
        let streams = Streams::default();
        let first = streams.open(EK, CERTIFICATE);
        let mut second = streams.open(EK, CERTIFICATE);
        assert_eq!(*first.closed.borrow(), Some(Closed::Replaced));
        // The first one's end must not take the second out of the table.
        drop(first);
        assert!(streams.challenge(&EK));
        assert!(matches!(second.commands.try_recv(), Ok(Command::Challenge)));
        // Somebody slow, whom this one has followed.
        streams.close_older(&EK, &CERTIFICATE, Closed::ReEnrolled);
        assert!(second.closed.borrow().is_none());
        streams.close_older(&EK, &Sha256Digest([9; 32]), Closed::ReEnrolled);
        assert_eq!(*second.closed.borrow(), Some(Closed::ReEnrolled));
        let third = streams.open(EK, CERTIFICATE);
        streams.close(&EK, Closed::Revoked);
        assert_eq!(*third.closed.borrow(), Some(Closed::Revoked));
        assert!(!streams.challenge(&EK));
        let others = [2, 3].map(|byte| streams.open(Sha256Digest([byte; 32]), CERTIFICATE));
        streams.close_all(Closed::Authority);
        for other in others {
            assert_eq!(*other.closed.borrow(), Some(Closed::Authority));
        }
    }
}
