//! From a log to the value of a PCR, and to what was put in force.

use std::collections::BTreeMap;

use super::{
    MAX_LOG,
    entry::{Begun, Entry, LoggedGlass, LoggedPolicy, Program, entries},
};
use crate::{
    Fault, ParseError, Sha256Digest,
    crypto::{Digest, HashAlgorithm},
};

/// What was put in force last, entry after entry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Logged {
    /// The fence process that took charge last.
    pub begun: Option<Begun>,
    /// By hook.
    pub programs: BTreeMap<String, Program>,
    /// The world image.
    pub world: Option<Sha256Digest>,
    /// The policy; `None` while all is denied, or before anything was said of it.
    pub policy: Option<LoggedPolicy>,
    /// It was said that all is denied, and nothing else since.
    pub denying: bool,
    /// Uses of break-glass in this boot, by manifest: when each is over, on the boot clock, ns.
    pub break_glass: BTreeMap<Sha256Digest, u64>,
}

impl Logged {
    /// Takes one entry in.
    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Begin(begun) => self.begun = Some(begun.clone()),
            Entry::Program { hook, program } => {
                self.programs.insert(hook.clone(), *program);
            }
            Entry::Deny => {
                self.denying = true;
                self.world = None;
                self.policy = None;
            }
            Entry::World(digest) => self.world = Some(*digest),
            Entry::Policy(policy) => {
                self.denying = false;
                self.policy = Some(*policy);
            }
            Entry::BreakGlass(glass) => {
                self.break_glass.insert(glass.manifest, glass.end_boot_ns);
            }
        }
    }

    /// The use of break-glass that ends last, of those that are not over at a moment of the boot
    /// clock, ns.
    #[must_use]
    pub fn broken_glass(&self, now_boot_ns: u64) -> Option<LoggedGlass> {
        let uses = self.break_glass.iter().map(|(manifest, end)| LoggedGlass {
            manifest: *manifest,
            end_boot_ns: *end,
        });
        uses.filter(|glass| now_boot_ns < glass.end_boot_ns)
            .max_by_key(|glass| glass.end_boot_ns)
    }

    /// It says already what the entry would say.
    #[must_use]
    pub fn says(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Begin(begun) => self.begun.as_ref() == Some(begun),
            Entry::Program { hook, program } => self.programs.get(hook) == Some(program),
            Entry::Deny => self.denying && self.world.is_none(),
            Entry::World(digest) => self.world == Some(*digest),
            Entry::Policy(policy) => self.policy == Some(*policy),
            Entry::BreakGlass(glass) => {
                self.break_glass.get(&glass.manifest) == Some(&glass.end_boot_ns)
            }
        }
    }
}

/// Why a log shows nothing of the quoted PCR.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FenceLogRefused {
    /// No agent writes so much.
    #[error("FenceLog: {found} bytes exceed the limit of {MAX_LOG}")]
    TooLong {
        /// Bytes given.
        found: usize,
    },
    /// An entry that is none, before the quoted value was reached.
    #[error("malformed fence log")]
    Malformed(#[source] ParseError),
    /// The log ends, perhaps within an entry, before the quoted value was reached.
    #[error("{entries} entries do not replay to the quoted {bank} value {quoted}")]
    DoesNotReplay {
        /// Whole entries in the log.
        entries: usize,
        /// The bank.
        bank: HashAlgorithm,
        /// The value in the quote.
        quoted: Digest,
    },
    /// A bank that cannot be computed here.
    #[error("no log replays to a bank of {0}")]
    Bank(HashAlgorithm),
}

impl FenceLogRefused {
    /// Stable word for results and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } | Self::Malformed(_) => "fence-log-malformed",
            Self::DoesNotReplay { .. } | Self::Bank(_) => "fence-log-does-not-replay",
        }
    }
}

/// A log, as far as a quoted PCR covers it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Replayed {
    /// What was put in force last.
    pub state: Logged,
    /// Entries covered. Later ones were not in the PCR yet, and are nothing.
    pub covered: usize,
    entries: Vec<Entry>,
}

impl Replayed {
    /// Whether `test` holds of what was in force after any of the covered entries, the last
    /// one aside.
    pub fn held_before(&self, mut test: impl FnMut(&Logged) -> bool) -> bool {
        let mut state = Logged::default();
        let (_, earlier) = self.entries.split_last().unzip();
        earlier.unwrap_or_default().iter().any(|entry| {
            state.apply(entry);
            test(&state)
        })
    }
}

/// A PCR's value after a reset; `None` for a bank that cannot be computed here.
#[must_use]
pub fn zero(bank: HashAlgorithm) -> Option<Digest> {
    // No profile judges such a bank, so no agent extends one.
    if bank == HashAlgorithm::Sm3_256 {
        return None;
    }
    let zeroes = [0; 64];
    Digest::from_slice(zeroes.split_at_checked(bank.digest_len())?.0)
}

/// The value after `TPM2_PCR_Event` with these bytes: `H(value ‖ H(event))`.
#[must_use]
pub fn extend(bank: HashAlgorithm, value: &Digest, event: &[u8]) -> Option<Digest> {
    let measured = bank.digest(&[event])?;
    bank.digest(&[value.as_slice(), measured.as_slice()])
}

/// Replays a log up to the quoted value. What follows may run ahead of the quote; it is not
/// looked at.
pub fn replay(
    log: &[u8],
    bank: HashAlgorithm,
    quoted: &Digest,
) -> Result<Replayed, FenceLogRefused> {
    if log.len() > MAX_LOG {
        return Err(FenceLogRefused::TooLong { found: log.len() });
    }
    let mut value = zero(bank).ok_or(FenceLogRefused::Bank(bank))?;
    let mut replayed = Replayed {
        state: Logged::default(),
        covered: 0,
        entries: Vec::new(),
    };
    let mut rest = entries(log);
    while value != *quoted {
        let ended = FenceLogRefused::DoesNotReplay {
            entries: replayed.covered,
            bank,
            quoted: quoted.clone(),
        };
        let (bytes, entry) = match rest.next() {
            None => return Err(ended),
            // Torn: cut off in the middle of a write.
            Some(Err(ParseError {
                fault: Fault::Truncated { .. },
                field: "length" | "content",
                ..
            })) => return Err(ended),
            Some(Err(error)) => return Err(FenceLogRefused::Malformed(error)),
            Some(Ok(taken)) => taken,
        };
        value = extend(bank, &value, bytes).ok_or(FenceLogRefused::Bank(bank))?;
        replayed.state.apply(&entry);
        replayed.entries.push(entry);
        replayed.covered = replayed.covered.saturating_add(1);
    }
    Ok(replayed)
}
