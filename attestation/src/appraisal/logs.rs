//! What the logs of a boot show under a profile, and how that is carried from one statement to the
//! next, so that of a list that only grows only what is new is replayed and judged.
//!
//! Nothing is decided by what was carried that the whole logs would not decide: it goes on only
//! where TPM, boot, epoch, profile and registers are the same, where no key's or file's time has
//! begun or ended, and where the new entries lead from a value that an earlier quote held to the one
//! that this quote holds. Where any of that is not so there is no verdict, and the logs are read
//! whole.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Boot, boot, claims, ima,
    result::{AppraisedClaim, Deviation, Finding},
    verify::VerifiedEvidence,
};
use crate::{
    ids::{Sha256Digest, UnixTime},
    ima::Aggregate,
    profile::Profile,
    term::Term,
};

/// Most characters of a log's own words in a deviation.
const WORDS: usize = 400;
/// Code of what rests on registers which nobody signed.
pub(super) const UNSIGNED: &str = "registers-unsigned";
/// Why nobody did, in words.
pub(super) const NO_TPM: &str = "no TPM, so nobody signed a register";
/// Registers that boot logs are held against.
const REGISTERS: u8 = 16;

/// Claims made of logs, by name.
pub(super) type Claims = BTreeMap<String, AppraisedClaim>;

/// What one log shows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Part {
    /// Nobody has it.
    pub(super) absent: bool,
    pub(super) claims: Claims,
    pub(super) deviations: Vec<Deviation>,
    /// Digests in it that the profile takes back, and what they were extended into.
    pub(super) revoked: Vec<(String, Vec<u8>)>,
    /// Some entry is the agent's own program, as the profile names it.
    pub(super) agent: bool,
    /// What its first entry says of the registers; `None`: it is another.
    pub(super) aggregate: Option<Aggregate>,
}

impl Part {
    pub(super) fn deviate(
        &mut self,
        claim: &str,
        finding: Finding,
        code: &str,
        expected: &str,
        found: String,
    ) {
        self.deviations.push(Deviation {
            claim: claim.to_owned(),
            finding,
            code: code.to_owned(),
            expected: expected.to_owned(),
            found: found.chars().take(WORDS).collect(),
            provenance: None,
        });
    }

    pub(super) fn refuse(&mut self, claim: &str, code: &str, expected: &str, found: String) {
        self.deviate(claim, Finding::Refused, code, expected, found);
    }

    /// There are no registers that the log could be held against: it may be as it should be, and is
    /// the node's word.
    pub(super) fn unsigned(&mut self, claim: &str, expected: &str) {
        let finding = Finding::Unchecked;
        self.deviate(claim, finding, UNSIGNED, expected, NO_TPM.to_owned());
    }
}

/// What boot logs and measurement list show of one statement's boot, under one profile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogsRead {
    basis: Basis,
    pub(super) boot: Arc<Part>,
    pub(super) ima: Part,
    /// Where the list can be read on; `None` where it has to be read whole.
    list: Option<ima::Progress>,
}

impl LogsRead {
    /// Reads the logs whole.
    pub(super) fn of(evidence: &VerifiedEvidence, profile: &Profile, at: UnixTime) -> Self {
        let basis = Basis::of(evidence, profile, at);
        let boot = Arc::new(boot::read(evidence, profile));
        let (ima, list) = ima::Against::new(evidence, profile, at).read();
        Self {
            basis,
            boot,
            ima,
            list,
        }
    }

    /// Reads on from what these logs showed. `None`: something is not as it was, or is not shown by
    /// what came since.
    pub(super) fn advance(
        &self,
        evidence: &VerifiedEvidence,
        profile: &Profile,
        at: UnixTime,
    ) -> Option<Self> {
        if !self.basis.holds(&Basis::bare(evidence, profile, at)) || self.boot.absent {
            return None;
        }
        let (ima, list) = match &self.list {
            Some(list) => {
                let (ima, list) = ima::Against::new(evidence, profile, at).read_on(list)?;
                (ima, Some(list))
            }
            // What nothing depends on is not missed; what could not be read once is read again.
            None if !ima::wanted(profile) => (self.ima.clone(), None),
            None => return None,
        };
        Some(Self {
            basis: self.basis.clone(),
            boot: Arc::clone(&self.boot),
            ima,
            list,
        })
    }

    /// With the names of the logs it was read from: without them nothing is known to go on from it.
    pub(super) fn named(&self, evidence: &VerifiedEvidence) -> Self {
        let mut named = self.clone();
        named.basis.logs = evidence.boot_logs();
        named.list = named.list.and_then(|list| list.named(evidence.list_name()));
        named
    }

    /// Whether it answers for this profile at that time.
    pub(super) fn is_under(&self, profile: &Profile, at: UnixTime) -> bool {
        self.basis.profile == profile.digest && self.basis.span.holds(at)
    }
}

/// Everything but the list that a reading depends on.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Basis {
    ak: Sha256Digest,
    reset_count: u32,
    boot_id: [u8; 16],
    epoch: u64,
    profile: Sha256Digest,
    /// Over the registers that boot logs explain: whatever else changed, a reading of them stands.
    registers: Sha256Digest,
    /// Names of the boot event log and of what user space measured.
    logs: [Option<Sha256Digest>; 2],
    span: Span,
}

impl Basis {
    fn of(evidence: &VerifiedEvidence, profile: &Profile, at: UnixTime) -> Self {
        Self {
            span: Span::around(at, profile),
            ..Self::bare(evidence, profile, at)
        }
    }

    /// Its span is the moment alone.
    fn bare(evidence: &VerifiedEvidence, profile: &Profile, at: UnixTime) -> Self {
        let bank = claims::hash_of(profile.tpm.bank);
        let fence = profile.fence.map(|fence| fence.pcr);
        let own = |index: &u8| *index != boot::IMA_PCR && Some(*index) != fence;
        let mut registers = Vec::with_capacity(1024);
        for index in (0..REGISTERS).filter(own) {
            if let Some(value) = evidence.register(bank, index) {
                registers.push(index);
                registers.extend(value.as_slice());
            }
        }
        for held in evidence.rtmrs().into_iter().flatten() {
            registers.extend(held.as_slice());
        }
        Self {
            ak: evidence.ak,
            reset_count: Boot::of(evidence).reset_count,
            boot_id: evidence.statement.boot_id,
            epoch: evidence.statement.epoch,
            profile: profile.digest,
            registers: Sha256Digest::of(&[&registers]),
            logs: evidence.boot_logs(),
            span: Span {
                from: at,
                until: None,
            },
        }
    }

    /// `now` is a bare one.
    fn holds(&self, now: &Self) -> bool {
        let same = Self {
            span: self.span,
            ..now.clone()
        };
        *self == same && self.span.holds(now.span.from)
    }
}

/// A time within which no file or key of the profile begins or ends to count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Span {
    from: UnixTime,
    /// First moment after it; `None`: no end.
    until: Option<UnixTime>,
}

impl Span {
    fn around(at: UnixTime, profile: &Profile) -> Self {
        let mut span = Self {
            from: UnixTime(0),
            until: None,
        };
        let files = profile.ima.as_ref().and_then(|ima| ima.files.as_ref());
        let Some(files) = files else { return span };
        let listed = files.known.files.values().flatten().map(|file| file.term);
        for term in listed.chain(files.known.keys.iter().map(|key| key.term)) {
            span.narrow(at, &term);
        }
        span
    }

    /// Somebody who revokes a key is believed from then on, whatever the date: that is no turn.
    fn narrow(&mut self, at: UnixTime, term: &Term) {
        for turn in [term.not_before, term.not_after].into_iter().flatten() {
            if turn <= at {
                self.from = self.from.max(turn);
            } else {
                self.until = Some(self.until.map_or(turn, |until| until.min(turn)));
            }
        }
    }

    fn holds(&self, at: UnixTime) -> bool {
        self.from <= at && self.until.is_none_or(|until| at < until)
    }
}
