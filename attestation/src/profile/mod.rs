//! The validated stack a node is held against: which PCRs a quote covers, what they may hold,
//! which claims must be there, with what value and from how good a source.
//!
//! A profile is a signed TOML file. It is parsed whole into checked types; what it does not
//! demand is recorded and not judged, and what it demands and does not get is a deviation.

mod cvm;
mod diff;
mod draft;
mod gpu;
mod ima;
mod merge;
mod provenance;
mod raw;
mod strict;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use cvm::{CvmProfile, VtpmProfile};
pub use diff::{Difference, Way, diff};
pub use draft::{Demand, Draft, Seen, Why, draft};
pub use gpu::{GpuProfile, Versions};
pub use merge::{MergeRefused, Merged, merge};
pub use provenance::{Provenance, UnknownProvenance};
pub use strict::{Revoked, Strict, StrictSet};

use crate::boot::Quirk;
use crate::ima::KnownFiles;
use crate::term::{Lapsed, Term};
use crate::toml_file::{FileError, TomlFile};
use crate::{Sha256Digest, UnixTime};

/// Most bytes of a profile: some hundred requirements, and the digests of some ten thousand files.
pub const PROFILE_LIMIT: usize = 4 * 1024 * 1024;

/// What a node must show to have standing, and how long that lasts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Profile {
    /// Name for people: 1 to 63 of `a-z 0-9 - .`.
    pub name: String,
    /// Seconds of standing that one affirming result grants; 1 to 86,400.
    pub lease_seconds: u32,
    /// Seconds without a statement after which the node is stale; 1 to 604,800.
    pub max_silence_seconds: u32,
    /// What the quote must cover.
    pub tpm: TpmProfile,
    /// The boot event log; `None`: nothing of it is judged unless a requirement asks for it.
    pub boot: Option<BootProfile>,
    /// The measurement list of the kernel; `None`: likewise.
    pub ima: Option<ImaProfile>,
    /// The fence's own log; `None`: what the statement says of the fence is all there is.
    pub fence: Option<FenceProfile>,
    /// GPUs; `None`: what they say is recorded, and nothing is asked of it.
    pub gpu: Option<GpuProfile>,
    /// The confidential guest the node runs in; `None`: what its processor says is recorded, and nothing
    /// is asked of it unless a requirement does.
    pub cvm: Option<CvmProfile>,
    /// How far the node's clock may be off.
    pub time: TimeProfile,
    /// Digests that count for nothing, whatever else allows them.
    pub revoked: BTreeMap<Vec<u8>, Revoked>,
    /// What has to be measured before root can lie; `None`: claims about the fence are root's word.
    pub strict: Option<Strict>,
    /// What must be claimed; each claim is named once.
    pub requirements: Vec<Requirement>,
    /// Which world map may be used, and for how long.
    pub world: WorldProfile,
    /// When a cause is held instead of the nodes that fail for it.
    pub brake: Brake,
    /// SHA-256 of the profile's bytes as signed.
    pub digest: Sha256Digest,
}

/// Which world map a policy wants.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct WorldProfile {
    /// SHA-256 of the one file that will do; `None`: any that approvers sign.
    pub digest: Option<Sha256Digest>,
    /// Days after which a map is old, from the date it bears; 1 to 3,650. `None`: never.
    pub max_age_days: Option<u32>,
}

impl WorldProfile {
    /// How many days old a map of this date is, if that is more than there may be.
    #[must_use]
    pub fn overdue(&self, built_secs: u64, now: UnixTime) -> Option<u64> {
        let days = now.secs().saturating_sub(built_secs) / 86_400;
        (days > u64::from(self.max_age_days?)).then_some(days)
    }
}

/// Of one cause, more losses of standing than this hold the network's part of them back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Brake {
    /// Share of the nodes in standing, percent; 1 to 100.
    pub share_percent: u32,
    /// Losses within this time count together; 1 to 86,400.
    pub window_seconds: u32,
    /// Fewer nodes than this are no matter of the fleet; 1 to 100,000.
    pub min_nodes: u32,
}

impl Default for Brake {
    fn default() -> Self {
        Self {
            share_percent: 5,
            window_seconds: 600,
            min_nodes: 5,
        }
    }
}

/// What the quote must cover and what the registers may hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TpmProfile {
    /// The one bank that is judged.
    pub bank: Bank,
    /// PCRs (0 to 23) that the quote must select; at least one, unless the processor is asked (`[cvm]`):
    /// a guest without a TPM has none.
    pub require: BTreeSet<u8>,
    /// Allowed values of a PCR, lower-case hex, each as long as the bank's digests and good in its
    /// time; keys are all in `require`. A PCR without an entry is recorded, not judged.
    pub values: BTreeMap<u8, Vec<Alternative>>,
}

/// Highest PCR that may hold the fence's log: those above are not cleared by a reset alone.
pub const FENCE_PCR_MAX: u8 = 15;

/// Where the fence's own log is extended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FenceProfile {
    /// 0 to [`FENCE_PCR_MAX`]; the quote must cover it.
    pub pcr: u8,
}

/// What the boot event log has to show.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BootProfile {
    /// Defects of this platform's firmware that are excused, each by its name.
    pub quirks: Vec<Quirk>,
    /// PCRs that need not replay: firmware that leaves events out of its log. Everything that the
    /// log says of them is then its word alone.
    pub unreplayable: BTreeSet<u8>,
}

/// What the kernel's measurement list has to show.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ImaProfile {
    /// Files that changed while they were measured; `None`: any number. Default: none at all.
    pub max_violations: Option<u64>,
    /// What may be measured; `None`: anything.
    pub files: Option<FilesProfile>,
}

/// Which measured files are known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FilesProfile {
    /// Digests and keys.
    pub known: KnownFiles,
    /// What is not known is refused; otherwise it is a warning. What is revoked, or signed wrongly,
    /// is refused either way.
    pub refuse_unknown: bool,
}

/// How far a statement's wall time may be from the collector's, seconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimeProfile {
    /// Beyond this it is worth a look; default 300.
    pub warn_skew_seconds: u32,
    /// Beyond this nothing said of time can be checked; default 3600.
    pub max_skew_seconds: u32,
}

impl Default for TimeProfile {
    fn default() -> Self {
        Self {
            warn_skew_seconds: 300,
            max_skew_seconds: 3600,
        }
    }
}

/// PCR bank: TCG Algorithm Registry, `TPM_ALG_ID`. SHA-1 is never appraised.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Bank {
    /// `TPM_ALG_SHA256`.
    Sha256,
    /// `TPM_ALG_SHA384`.
    Sha384,
}

impl Bank {
    /// `TPM_ALG_ID`.
    #[must_use]
    pub const fn algorithm(self) -> u16 {
        match self {
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
        }
    }

    /// Bytes of one digest.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    /// The word used in profiles and results.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
        }
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One claim that must be there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Requirement {
    /// Dotted name, as statements and logs spell it.
    pub claim: String,
    /// What it must say.
    pub expected: Expected,
    /// The weakest source that will do.
    pub minimum: Provenance,
}

/// What a claim must say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Expected {
    /// Exactly this.
    Is(Value),
    /// One of these; never empty.
    OneOf(Vec<Value>),
    /// A number not below this.
    AtLeast(u64),
    /// One of these, each in its time; never empty. Old and new are both good while an update
    /// rolls out, and what was good once can be taken back.
    Any(Vec<Alternative>),
}

/// A value that is good for a time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alternative {
    /// What the claim may say.
    pub value: Value,
    /// What people call it, `6.8.0-45`.
    pub name: Option<String>,
    /// When.
    pub term: Term,
}

/// Whether a claim is as expected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Met {
    /// It is.
    Yes,
    /// It would be at another time.
    NotNow(Lapsed),
    /// It is not.
    No,
}

impl Expected {
    /// Whether `found` is as expected at `now`. Types are never converted: `"1"` is not `1`.
    #[must_use]
    pub fn met_by(&self, found: &Value, now: UnixTime) -> Met {
        let met = match self {
            Self::Is(value) => value == found,
            Self::OneOf(values) => values.contains(found),
            Self::AtLeast(least) => matches!(found, Value::Number(n) if n >= least),
            Self::Any(all) => return any_met(all, found, now),
        };
        if met { Met::Yes } else { Met::No }
    }

    /// The known value that is most like what was found, with where they part: of texts the one
    /// that shares most words, as command lines do. Digests are like nothing.
    #[must_use]
    pub fn nearest(&self, found: &Value) -> Option<String> {
        let Value::Text(found) = found else {
            return None;
        };
        let known: Vec<(&Value, String)> = match self {
            Self::Is(value) => vec![(value, String::new())],
            Self::OneOf(values) => values.iter().map(|value| (value, String::new())).collect(),
            Self::Any(all) => all
                .iter()
                .map(|one| (&one.value, one.described()))
                .collect(),
            Self::AtLeast(_) => Vec::new(),
        };
        let words: BTreeSet<&str> = found.split([' ', ',']).collect();
        let of = |value: &'_ Value| match value {
            Value::Text(text) => text.split([' ', ',']).map(str::to_owned).collect(),
            _ => BTreeSet::<String>::new(),
        };
        let shared = |value: &Value| {
            let known = of(value);
            known
                .iter()
                .filter(|word| words.contains(word.as_str()))
                .count()
        };
        let (value, described) = known.into_iter().max_by_key(|(value, _)| shared(value))?;
        if shared(value) == 0 {
            return None;
        }
        let known = of(value);
        let gone: Vec<&str> = known
            .iter()
            .map(String::as_str)
            .filter(|word| !words.contains(word))
            .collect();
        let new: Vec<&str> = words
            .iter()
            .copied()
            .filter(|word| !known.contains(*word))
            .collect();
        Some(format!(
            "nearest known{described}: without {}, with {}",
            listed(&new),
            listed(&gone)
        ))
    }
}

/// Whether one of the alternatives is `found`, and good at `now`.
#[must_use]
pub fn any_met(all: &[Alternative], found: &Value, now: UnixTime) -> Met {
    let own = all.iter().filter(|one| one.value == *found);
    let mut terms = own.map(|one| one.term.counts(now));
    match terms.next() {
        None => Met::No,
        Some(Err(lapsed)) if terms.all(|term| term.is_err()) => Met::NotNow(lapsed),
        Some(_) => Met::Yes,
    }
}

impl Alternative {
    fn described(&self) -> String {
        let name = self.name.as_ref().map(|name| format!(" {name}"));
        let until = self.term.not_after;
        let until = until.map(|until| format!(" (until {})", moment(until)));
        name.unwrap_or_default() + &until.unwrap_or_default()
    }
}

fn listed(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        words => format!("{:?}", words.join(" ")),
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(value) => write!(f, "{value}"),
            Self::OneOf(values) => {
                f.write_str("one of ")?;
                for (i, value) in values.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{value}")?;
                }
                Ok(())
            }
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::Any(all) => {
                f.write_str("one of ")?;
                for (i, one) in all.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{}{}", one.value, one.described())?;
                }
                Ok(())
            }
        }
    }
}

/// A claim's value as a profile can name it. Claims made of bytes are compared as lower-case hex
/// text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// Words.
    Text(String),
    /// Counts and versions.
    Number(u64),
    /// Yes or no.
    Flag(bool),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

impl Profile {
    /// Reads one profile to its last byte; `file` is the name to blame.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, FileError> {
        let source = TomlFile::new(file, bytes, PROFILE_LIMIT)?;
        raw::check(&source, source.parse()?, Sha256Digest::of(&[bytes]))
    }
}

/// Whether a claim can be named in a profile: 1 to 128 of `a-z 0-9 . _ - /`.
fn claim_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
    (1..=128).contains(&name.len()) && name.bytes().all(plain)
}

/// RFC 3339, whole seconds.
pub(crate) fn moment(at: UnixTime) -> String {
    let since = std::time::Duration::from_secs(at.secs());
    match der::DateTime::from_unix_duration(since) {
        Ok(moment) => moment.to_string(),
        Err(_) => format!("{} s after 1970", at.secs()),
    }
}
