//! The attester's side of the node's log: its entries, its epochs, and what statements prove of it.

use bailiwick_attestation::{
    Sha256Digest,
    proto::v1::{BootBegan, EpochBegan, Evidence, LogBatch, Statement, Welcome, log_entry::What},
    tlog::Head,
};
use prost::Message;
use tokio::task::block_in_place;
use tracing::{error, info, warn};

use super::{AttestError, Attester, QUOTED};
use crate::{
    clock,
    log::{Found, New},
    spool::chain::Chain,
};

/// What the disk held when the agent started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    /// The node's place in its sequence was there.
    pub(super) chain: Option<Chain>,
    /// Statements were there.
    pub(super) statements: bool,
    /// The keys were there.
    pub(super) keys: bool,
    /// The log.
    pub(super) log: Found,
    /// Epoch of the log.
    pub(super) log_epoch: u64,
}

/// Whether the epoch goes on, and if not, why not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Epoch {
    /// It goes on.
    Goes,
    /// This node has no history: its first epoch begins.
    First,
    /// Its history is not whole: another epoch begins.
    Lost(&'static str),
}

/// Decides it. `epoch` is what chain and statements say; keys without a history had one once.
pub(super) fn epoch_on(disk: &Disk, epoch: u64) -> Epoch {
    let known = disk.chain.is_some() || disk.statements;
    match disk.log {
        Found::Lost(why) => Epoch::Lost(why),
        Found::Whole if !known => Epoch::Lost("its place in the sequence is gone"),
        Found::Whole if disk.log_epoch != epoch => Epoch::Lost("it was cut off at its beginning"),
        Found::Whole => Epoch::Goes,
        Found::Nothing if disk.statements => Epoch::Lost("its files are gone"),
        Found::Nothing => match disk.chain {
            // Cut off between making keys and chain and the first entry.
            Some(chain) if chain == Chain::default() => Epoch::First,
            Some(_) => Epoch::Lost("its files are gone"),
            None if disk.keys => Epoch::Lost("the disk was lost"),
            None => Epoch::First,
        },
    }
}

impl Attester {
    /// Appends entries to the log: on disk when this returns. False: those there was no room for
    /// are counted, and the next statement says so.
    pub fn record(&mut self, entries: &[New]) -> Result<bool, AttestError> {
        if entries.is_empty() {
            return Ok(true);
        }
        let (done, outcome) = block_in_place(|| self.log.append(entries));
        match outcome {
            Ok(()) => {
                self.log_was_full = false;
                Ok(true)
            }
            Err(why) if why.is_full() => {
                if !self.log_was_full {
                    error!(%why, "the node's log takes no more; the collector will see a gap");
                    self.log_was_full = true;
                }
                let all = u64::try_from(entries.len()).unwrap_or(u64::MAX);
                self.lost_events(all.saturating_sub(done))?;
                Ok(false)
            }
            Err(why) => Err(why.into()),
        }
    }

    /// Appends one entry about now.
    pub fn note(&mut self, what: What) -> Result<(), AttestError> {
        self.record(&[now(what)]).map(drop)
    }

    /// Whether entries can be appended: a lost log waits for what the collector holds of it, or
    /// for the first statement made without.
    #[must_use]
    pub const fn log_begun(&self) -> bool {
        self.epoch_wanted.is_none()
    }

    /// The batch of entries to send now, if none is under way.
    pub fn next_batch(&mut self) -> Result<Option<LogBatch>, AttestError> {
        Ok(block_in_place(|| self.log.next_batch())?)
    }

    /// The collector has every entry below.
    pub fn delivered(&mut self, epoch: u64, up_to: u64) -> Result<(), AttestError> {
        Ok(block_in_place(|| self.log.delivered(epoch, up_to))?)
    }

    /// The stream is gone.
    pub const fn disconnected(&mut self) {
        self.log.disconnected();
    }

    /// What the collector holds of this node: a lost log begins its epoch with it, and one whose
    /// last accepted statement was answered into the void catches up.
    pub fn welcome(&mut self, welcome: Welcome) -> Result<(), AttestError> {
        let head = welcome.log_root.as_slice().try_into().map(|root| Head {
            size: welcome.log_size,
            root: Sha256Digest(root),
        });
        let epoch = welcome.epoch;
        self.welcome = Some(welcome);
        if let Some(why) = self.epoch_wanted {
            return self.begin_epoch(why);
        }
        if let Ok(head) = head
            && self.log.had(epoch, &head)
        {
            block_in_place(|| self.log.covered(epoch, head.size))?;
        }
        Ok(())
    }

    /// Goes on under a number that cannot have been used: the history before is lost, or the
    /// collector knows another one (the disk was restored from a backup, or another machine has
    /// this one's keys). What was not delivered of the old log is given up.
    pub fn begin_epoch(&mut self, why: &str) -> Result<(), AttestError> {
        let lost = self.log.undelivered();
        if self.log.begun() && lost > 0 {
            self.lost_events(lost)?;
        }
        let held = self.welcome.as_ref();
        let held = held.filter(|welcome| !welcome.last_receipt.is_empty());
        let before = held.map_or(self.chain.epoch, |welcome| welcome.epoch);
        let epoch = before.max(self.chain.epoch).saturating_add(1);
        self.start_epoch(
            epoch.max(clock::now().secs()),
            EpochBegan {
                previous_epoch: Some(before),
                last_receipt: held.map(|h| h.last_receipt.clone()).unwrap_or_default(),
                reason: why.to_owned(),
            },
        )
    }

    /// The statement's log, proved to extend the last one accepted. What was accepted since the
    /// envelope was made decides, so this is done last.
    pub fn prove(&mut self, envelope: &mut Evidence) {
        let Ok(statement) = Statement::decode(envelope.statement.as_slice()) else {
            return;
        };
        let size = statement.log.map_or(0, |log| log.size);
        envelope.log_consistency = self.log.prove(statement.epoch, size);
        if self.named.len() >= QUOTED {
            self.named.pop_front();
        }
        let digest = Sha256Digest::of(&[&envelope.statement]);
        self.named.push_back((digest, statement.epoch, size));
    }

    /// A statement that [`Attester::prove`] saw was accepted.
    pub(super) fn covered(&mut self, digest: &Sha256Digest) -> Result<(), AttestError> {
        let Some(position) = self.named.iter().position(|(named, ..)| named == digest) else {
            return Ok(());
        };
        if let Some((_, epoch, size)) = self.named.remove(position) {
            block_in_place(|| self.log.covered(epoch, size))?;
        }
        Ok(())
    }

    /// After the files were read: goes on, begins the first epoch, or leaves the next one wanted.
    pub(super) fn settle_epoch(&mut self, epoch: Epoch) -> Result<(), AttestError> {
        match epoch {
            Epoch::Goes => {
                info!(
                    entries = self.log.head().size,
                    epoch = self.log.epoch(),
                    "the node's log"
                );
                if *self.log.boot() == self.boot_id {
                    return Ok(());
                }
                self.boot_began()
            }
            Epoch::First => self.start_epoch(
                0,
                EpochBegan {
                    reason: "first".to_owned(),
                    ..EpochBegan::default()
                },
            ),
            Epoch::Lost(why) => {
                warn!(why, "the node's log is lost; a new epoch begins");
                self.epoch_wanted = Some(why);
                Ok(())
            }
        }
    }

    fn start_epoch(&mut self, epoch: u64, first: EpochBegan) -> Result<(), AttestError> {
        self.chain.epoch = epoch;
        self.chain.sequence = 0;
        self.chain.previous = None;
        self.write_chain()?;
        block_in_place(|| self.log.begin(epoch))?;
        self.epoch_wanted = None;
        self.note(What::EpochBegan(first))?;
        self.boot_began()
    }

    fn boot_began(&mut self) -> Result<(), AttestError> {
        self.note(What::BootBegan(BootBegan {
            boot_id: self.boot_id.to_vec(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))?;
        Ok(block_in_place(|| self.log.booted(self.boot_id))?)
    }
}

/// Something that happened just now, with nothing personal in it.
fn now(what: What) -> New {
    New {
        what,
        sealed: Vec::new(),
        wall_time: clock::now(),
        boot_time_ns: clock::boot_time_ns(),
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::events::Entry;

    use super::*;

    #[test]
    fn a_history_goes_on_begins_or_is_lost() {
        let whole = Disk {
            chain: Some(Chain {
                epoch: 4,
                sequence: 7,
                ..Chain::default()
            }),
            statements: true,
            keys: true,
            log: Found::Whole,
            log_epoch: 4,
        };
        let blank = Disk {
            chain: None,
            statements: false,
            keys: false,
            log: Found::Nothing,
            log_epoch: 0,
        };
        let cases = [
            ("whole", whole, Epoch::Goes),
            (
                "receipts for everything",
                Disk {
                    statements: false,
                    ..whole
                },
                Epoch::Goes,
            ),
            (
                "chain from its statements",
                Disk {
                    chain: None,
                    ..whole
                },
                Epoch::Goes,
            ),
            (
                "log alone",
                Disk {
                    chain: None,
                    statements: false,
                    ..whole
                },
                Epoch::Lost("its place in the sequence is gone"),
            ),
            (
                "a hole",
                Disk {
                    log: Found::Lost("a hole"),
                    ..whole
                },
                Epoch::Lost("a hole"),
            ),
            (
                "log and chain gone, statements there",
                Disk {
                    log: Found::Nothing,
                    chain: None,
                    ..whole
                },
                Epoch::Lost("its files are gone"),
            ),
            (
                "log gone, statements there",
                Disk {
                    log: Found::Nothing,
                    ..whole
                },
                Epoch::Lost("its files are gone"),
            ),
            (
                "log gone, chain there",
                Disk {
                    log: Found::Nothing,
                    statements: false,
                    ..whole
                },
                Epoch::Lost("its files are gone"),
            ),
            (
                "another epoch's",
                Disk {
                    log_epoch: 3,
                    ..whole
                },
                Epoch::Lost("it was cut off at its beginning"),
            ),
            ("blank", blank, Epoch::First),
            (
                "cut off at the very first start",
                Disk {
                    chain: Some(Chain::default()),
                    keys: true,
                    ..blank
                },
                Epoch::First,
            ),
            (
                "keys and nothing else",
                Disk {
                    keys: true,
                    ..blank
                },
                Epoch::Lost("the disk was lost"),
            ),
        ];
        for (name, disk, want) in cases {
            assert_eq!(epoch_on(&disk, 4), want, "{name}");
        }
    }

    #[test]
    fn an_entry_about_now_can_be_read() {
        let new = now(What::EpochBegan(EpochBegan::default()));
        let bytes = Entry::compose((0, 0), new.wall_time, new.boot_time_ns, new.what);
        assert!(Entry::parse(&bytes).unwrap().boot_time_ns > 0);
    }
}
