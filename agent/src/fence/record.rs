//! What was put in force, written down and extended into a PCR before it takes effect.
//!
//! The log is written first, then the PCR extended, then the effect follows: a quote never covers
//! an entry that the log lacks. What makes the host safer takes effect whatever the TPM says, and
//! is owed to the log; what opens something waits ([`Recorder::record`]).

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bailiwick_attestation::{
    Sha256Digest,
    crypto::{Digest, HashAlgorithm},
    fence_log::{self, Entry, EntryTooLong, Logged, LoggedGlass, MAX_LOG},
};
use tracing::{error, info, warn};

use super::register::{Register, RegisterError};
use crate::files::{make_private_folder, read_bounded, write_atomically};

/// How long the host may stay open for the log's sake.
const CLOSING: Duration = Duration::from_secs(1);
/// How long a policy waits: the TPM may be making a key for somebody else.
const OPENING: Duration = Duration::from_secs(15);
/// Between attempts to pay what is owed.
const RETRY: Duration = Duration::from_secs(5);

/// Why something is not in the log.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The TPM.
    #[error("PCR {index}")]
    Register {
        /// Which.
        index: u8,
        /// Why.
        #[source]
        source: RegisterError,
    },
    /// The file.
    #[error("{}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No entry can hold it.
    #[error(transparent)]
    Entry(#[from] EntryTooLong),
    /// It is as long as anybody reads; a reboot begins it anew.
    #[error("the fence log has reached {MAX_LOG} bytes; the next boot begins it anew")]
    Full,
}

/// Keeps the log. Without a register it keeps none, says so, and holds nothing up.
#[derive(Debug, Default)]
pub struct Recorder {
    journal: Option<Journal>,
}

#[derive(Debug)]
struct Journal {
    register: Box<dyn Register>,
    file: PathBuf,
    /// What is in force, or takes effect whatever the TPM says.
    wanted: Logged,
    /// What the log says, as far as the register holds it.
    logged: Logged,
    /// Bytes in the file.
    length: usize,
    /// The file is known to be as long as the register says, and `logged` is what it says.
    settled: bool,
    /// The register holds what no entry explains; only a reset of the TPM helps.
    broken: Option<String>,
    /// What the process before this one recorded of break-glass is wanted here, too.
    adopted: bool,
    /// Why the last attempt failed.
    trouble: Option<String>,
    retry: Option<Instant>,
}

impl Recorder {
    /// A log in `file`, which is to live exactly as long as the register: on a tmpfs.
    #[must_use]
    pub fn new(register: Box<dyn Register>, file: &Path) -> Self {
        Self {
            journal: Some(Journal {
                register,
                file: file.to_owned(),
                wanted: Logged::default(),
                logged: Logged::default(),
                length: 0,
                settled: false,
                broken: None,
                adopted: false,
                trouble: None,
                retry: None,
            }),
        }
    }

    /// Before something opens: an error means that it must not take effect.
    pub fn record(&mut self, entries: &[Entry]) -> Result<(), RecordError> {
        let Some(journal) = &mut self.journal else {
            return Ok(());
        };
        // What took effect unrecorded comes first, in its order.
        journal.pay(OPENING)?;
        let before = journal.wanted.clone();
        journal.want(entries);
        let outcome = journal.pay(OPENING);
        if outcome.is_err() {
            journal.wanted = before;
        }
        outcome
    }

    /// Before something closes: it takes effect in any case, and what could not be recorded is
    /// owed.
    pub fn note(&mut self, entries: &[Entry]) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        journal.want(entries);
        // Said once, and in every statement.
        drop(journal.pay(CLOSING));
    }

    /// Before studies are judged as if a lease stood: `uses` of this boot are what the log says
    /// from then on, by manifest, each with its end. An error means that none of it must take
    /// effect that was not in effect before. Answers what was said of uses before.
    pub fn record_glass(
        &mut self,
        uses: &BTreeMap<Sha256Digest, u64>,
    ) -> Result<BTreeMap<Sha256Digest, u64>, RecordError> {
        let Some(journal) = &mut self.journal else {
            return Ok(BTreeMap::new());
        };
        let opens = |journal: &Journal| {
            let known = &journal.wanted.break_glass;
            uses.iter().any(|(use_, end)| known.get(use_) != Some(end))
        };
        if opens(journal) {
            // It may be known to the log already: then nothing is extended.
            journal.pay(OPENING)?;
        }
        let before = std::mem::replace(&mut journal.wanted.break_glass, uses.clone());
        journal.adopted = true;
        let opens = uses.iter().any(|(use_, end)| before.get(use_) != Some(end));
        if !opens {
            // Nothing but what is over, or never was: owed, and nothing waits for it.
            if journal.settled {
                drop(journal.pay(CLOSING));
            }
            return Ok(before);
        }
        if let Err(error) = journal.pay(OPENING) {
            journal.wanted.break_glass = before;
            return Err(error);
        }
        Ok(before)
    }

    /// What [`Recorder::record_glass`] recorded last did not take effect.
    pub fn take_back_glass(&mut self, before: BTreeMap<Sha256Digest, u64>) {
        if let Some(journal) = &mut self.journal {
            journal.wanted.break_glass = before;
            drop(journal.pay(CLOSING));
        }
    }

    /// What is wanted now; for [`Recorder::take_back`].
    #[must_use]
    pub fn wanted(&self) -> Option<Logged> {
        self.journal.as_ref().map(|journal| journal.wanted.clone())
    }

    /// What was recorded last did not take effect: what was in force before still is.
    pub fn take_back(&mut self, before: Option<Logged>) {
        if let (Some(journal), Some(before)) = (&mut self.journal, before) {
            journal.wanted = before;
            drop(journal.pay(CLOSING));
        }
    }

    /// Pays what is owed, now and then.
    pub fn reconcile(&mut self) {
        if let Some(journal) = &mut self.journal
            && !journal.complete()
            && journal.retry.is_none_or(|retry| retry <= Instant::now())
        {
            drop(journal.pay(CLOSING));
        }
    }

    /// Whether what comes next can be recorded, as far as is known.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.journal.as_ref().is_none_or(Journal::complete)
    }

    /// Why the log does not say all that is in force.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let Some(journal) = &self.journal else {
            return Some("fence.measured is false: nothing is extended".to_owned());
        };
        if journal.broken.is_some() {
            return journal.broken.clone();
        }
        let owed = || "not all that is in force was extended yet".to_owned();
        (!journal.complete()).then(|| journal.trouble.clone().unwrap_or_else(owed))
    }
}

impl Journal {
    fn want(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.wanted.apply(entry);
        }
    }

    fn complete(&self) -> bool {
        self.settled && missing(&self.logged, &self.wanted).is_empty()
    }

    /// Makes the log say what is wanted.
    fn pay(&mut self, patience: Duration) -> Result<(), RecordError> {
        let outcome = self.try_pay(Instant::now() + patience);
        let trouble = outcome.as_ref().err().map(|error| in_words(error));
        if trouble != self.trouble {
            match &trouble {
                Some(why) => error!(why, "the fence log cannot be extended"),
                None => info!(file = %self.file.display(), "the fence log is complete"),
            }
            self.trouble = trouble;
        }
        self.retry = outcome.is_err().then(|| Instant::now() + RETRY);
        outcome
    }

    fn try_pay(&mut self, deadline: Instant) -> Result<(), RecordError> {
        let left = || deadline.saturating_duration_since(Instant::now());
        if !self.settled {
            self.settle(left())?;
        }
        for entry in missing(&self.logged, &self.wanted) {
            let bytes = entry.encode()?;
            if self.length.saturating_add(bytes.len()) > MAX_LOG {
                return Err(RecordError::Full);
            }
            // Until the register has it too, nobody knows where the log ends.
            self.settled = false;
            append(&self.file, &bytes).map_err(|source| self.file_error(source))?;
            let extended = self.register.extend(&bytes, left());
            extended.map_err(|source| self.register_error(source))?;
            self.length = self.length.saturating_add(bytes.len());
            self.logged.apply(&entry);
            self.settled = true;
        }
        Ok(())
    }

    /// Finds out how much of the file the register holds, and forgets the rest: an entry that was
    /// written and not extended, or the log of an earlier boot.
    fn settle(&mut self, patience: Duration) -> Result<(), RecordError> {
        let (file, ours) = match read_bounded(&self.file, MAX_LOG) {
            Ok(bytes) => (bytes, true),
            Err(err) if err.kind() == io::ErrorKind::NotFound => (Vec::new(), true),
            // Longer than any log of ours.
            Err(err) if err.kind() == io::ErrorKind::FileTooLarge => (Vec::new(), false),
            Err(source) => return Err(self.file_error(source)),
        };
        let value = self.register.value(patience);
        let value = value.map_err(|source| self.register_error(source))?;
        let held = held(&file, self.register.bank(), &value);
        let keep = held.as_ref().map_or(0, |(bytes, _)| *bytes);
        if held.is_none() {
            let index = self.register.index();
            let why = format!("PCR {index} holds what the log does not explain: {value}");
            if self.broken.is_none() {
                warn!(why, file = %self.file.display(), "the fence log does not replay");
            }
            self.broken = Some(why);
        } else {
            self.broken = None;
        }
        if keep != file.len() || !ours {
            let kept = file.get(..keep).unwrap_or_default();
            write_atomically(&self.file, kept).map_err(|source| self.file_error(source))?;
        }
        self.length = keep;
        self.logged = held.map(|(_, state)| state).unwrap_or_default();
        if !std::mem::replace(&mut self.adopted, true) {
            for (manifest, end) in &self.logged.break_glass {
                self.wanted.break_glass.entry(*manifest).or_insert(*end);
            }
        }
        self.settled = true;
        Ok(())
    }

    fn file_error(&self, source: io::Error) -> RecordError {
        RecordError::File {
            file: self.file.clone(),
            source,
        }
    }

    fn register_error(&self, source: RegisterError) -> RecordError {
        RecordError::Register {
            index: self.register.index(),
            source,
        }
    }
}

/// An error with its causes, for whoever is on call.
pub(super) fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// The part of a log that replays to `value`: its length, and what it says. `None`: no part does.
fn held(log: &[u8], bank: HashAlgorithm, value: &Digest) -> Option<(usize, Logged)> {
    let replayed = fence_log::replay(log, bank, value).ok()?;
    let bytes = fence_log::entries(log)
        .take(replayed.covered)
        .filter_map(Result::ok)
        .map(|(bytes, _)| bytes.len())
        .sum();
    Some((bytes, replayed.state))
}

/// The entries that make a log which says `logged` say `wanted`.
fn missing(logged: &Logged, wanted: &Logged) -> Vec<Entry> {
    let begin = wanted.begun.iter().cloned().map(Entry::Begin);
    let deny = wanted.denying.then_some(Entry::Deny);
    let programs = wanted
        .programs
        .iter()
        .map(|(hook, program)| Entry::Program {
            hook: hook.clone(),
            program: *program,
        });
    let world = wanted.world.map(Entry::World);
    let policy = wanted.policy.map(Entry::Policy);
    let uses = wanted.break_glass.iter();
    // A use that was recorded and took no effect: the log says so, too.
    let none = logged.break_glass.iter();
    let none =
        none.filter(|(manifest, end)| **end != 0 && !wanted.break_glass.contains_key(manifest));
    let none = none.map(|(manifest, _)| (manifest, &0));
    let glass = uses.chain(none).map(|(manifest, end)| {
        Entry::BreakGlass(LoggedGlass {
            manifest: *manifest,
            end_boot_ns: *end,
        })
    });
    begin
        .chain(deny)
        .chain(programs)
        .chain(world)
        .chain(policy)
        .chain(glass)
        .filter(|entry| !logged.says(entry))
        .collect()
}

fn append(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        make_private_folder(folder)?;
    }
    let mut out = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)?;
    out.write_all(bytes)
}

#[cfg(test)]
mod tests;
