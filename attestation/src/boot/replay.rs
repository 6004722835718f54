//! What each register holds after the events of the log, bank by bank.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Event, EventType};
use super::log::{EventLog, Format};
use super::userspace::UserspaceLog;
use crate::crypto::{Digest, HashAlgorithm};
use crate::tpm::PcrValues;

/// `EV_NO_ACTION` data that says from which locality the TPM was started, with one byte after it:
/// PFP 1.06, §10.4.5.3.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// Locality of `_TPM_Hash_Start`: PFP 1.06, §10.4.5.3.
const HCRTM_LOCALITY: u8 = 4;

/// Why a bank cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BankError {
    /// The header does not declare it.
    #[error("the log has no {0} bank")]
    Absent(HashAlgorithm),
    /// An event that extends carries no digest for it.
    #[error("the event at offset {offset}, {kind} of register {register}, has no {bank} digest")]
    Incomplete {
        /// The bank asked for.
        bank: HashAlgorithm,
        /// Of the first such event, bytes.
        offset: usize,
        /// Of the first such event.
        register: u32,
        /// Of the first such event.
        kind: EventType,
    },
    /// No bank has a digest in every event that extends.
    #[error("no bank has a digest in every event")]
    NoneComplete,
}

impl BankError {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Absent(_) => "bank-absent",
            Self::Incomplete { .. } => "bank-incomplete",
            Self::NoneComplete => "no-complete-bank",
        }
    }
}

/// One bank, replayed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Replay {
    /// The bank.
    pub bank: HashAlgorithm,
    /// Registers that were extended, with what they hold.
    pub values: BTreeMap<u32, Digest>,
    /// Registers with an event that has no digest in this bank: nobody can say what they hold.
    pub unknown: BTreeSet<u32>,
}

/// The locality the log names, and whether it came in time to count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct StartupLocality {
    pub(super) locality: u8,
    /// Where it stands, bytes.
    pub(super) offset: usize,
    /// Register 0 had been extended, or another had been named.
    pub(super) late: bool,
}

/// Every `StartupLocality` of the log.
pub(super) fn localities(log: &EventLog<'_>) -> Vec<StartupLocality> {
    let mut late = false;
    let mut found = Vec::new();
    for event in log.events() {
        if event.extends() {
            late |= event.register == 0;
        } else if let Some(locality) = locality(event) {
            found.push(StartupLocality {
                locality,
                offset: event.offset,
                late,
            });
            late = true;
        }
    }
    found
}

fn locality(event: &Event<'_>) -> Option<u8> {
    match event.data.strip_prefix(STARTUP_LOCALITY)? {
        [locality] => Some(*locality),
        _ => None,
    }
}

impl EventLog<'_> {
    /// The locality that PCR 0 starts at, if the log names one before the first event of PCR 0.
    #[must_use]
    pub fn startup_locality(&self) -> Option<u8> {
        let mut all = localities(self).into_iter();
        all.find(|found| !found.late).map(|found| found.locality)
    }

    /// The bank asked for, or the strongest that every extending event carries.
    pub fn choose(&self, wanted: Option<HashAlgorithm>) -> Result<HashAlgorithm, BankError> {
        if let Some(bank) = wanted {
            return self.complete(bank).map(|()| bank);
        }
        let mut banks: Vec<_> = self.banks().iter().filter_map(|bank| bank.hash()).collect();
        banks.retain(|bank| bank.digest(&[]).is_some() && self.complete(*bank).is_ok());
        let weight = |bank: &HashAlgorithm| (bank.digest_len(), bank.is_sha2());
        let strongest = banks.into_iter().max_by_key(weight);
        strongest.ok_or(BankError::NoneComplete)
    }

    fn complete(&self, bank: HashAlgorithm) -> Result<(), BankError> {
        if !self.banks().iter().any(|own| own.hash() == Some(bank)) {
            return Err(BankError::Absent(bank));
        }
        let mut extending = self.events().iter().filter(|event| event.extends());
        match extending.find(|event| self.digest(event, bank).is_none()) {
            None => Ok(()),
            Some(event) => Err(BankError::Incomplete {
                bank,
                offset: event.offset,
                register: event.register,
                kind: event.kind,
            }),
        }
    }

    /// Extends every register with its events, in order: `H(old ‖ digest)`. A register with an
    /// event that this bank does not carry has no value; the event is not skipped.
    #[must_use]
    pub fn replay(&self, bank: HashAlgorithm) -> Replay {
        let mut replay = Replay {
            bank,
            values: BTreeMap::new(),
            unknown: BTreeSet::new(),
        };
        for event in self.events().iter().filter(|event| event.extends()) {
            let register = event.register;
            if replay.unknown.contains(&register) {
                continue;
            }
            let old = replay.values.remove(&register);
            let old = old.unwrap_or_else(|| self.start(bank, register));
            let extended = self
                .digest(event, bank)
                .and_then(|digest| bank.digest(&[old.as_slice(), digest]));
            if let Some(value) = extended {
                replay.values.insert(register, value);
            } else {
                replay.unknown.insert(register);
            }
        }
        replay
    }

    /// The locality PCR 0 starts at: what the log names or, where it names none and the processor
    /// measured the first code itself, the one that measurement is made from.
    fn initial_locality(&self) -> Option<u8> {
        let mut extending = self.events().iter().filter(|event| event.extends());
        let first = extending.find(|event| event.register == 0);
        let hardware = first.is_some_and(|event| event.kind == EventType::EFI_HCRTM_EVENT);
        self.startup_locality()
            .or_else(|| hardware.then_some(HCRTM_LOCALITY))
    }

    /// What a register holds before its first event: zeroes, in PCR 0 the locality that started
    /// the TPM as its last byte (TPM 2.0 Library, Part 3, `TPM2_Startup`; Part 1, H-CRTM).
    pub(crate) fn start(&self, bank: HashAlgorithm, register: u32) -> Digest {
        let mut zero = vec![0; bank.digest_len()];
        if register == 0
            && self.format() != Format::Ccel
            && let (Some(locality), Some(last)) = (self.initial_locality(), zero.last_mut())
        {
            *last = locality;
        }
        Digest::from_slice(&zero).unwrap_or_default()
    }
}

/// A log against the values a TPM reported.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Compared {
    /// Registers that differ in some bank, or cannot be replayed in it.
    pub mismatched: BTreeSet<u32>,
    /// Registers that both sides have, over all banks.
    pub compared: usize,
}

/// Every bank of `values`, over the registers that both sides have. What user space measured after
/// the log counts where there is a log of it.
#[must_use]
pub fn compare(log: &EventLog<'_>, later: &UserspaceLog, values: &PcrValues) -> Compared {
    let mut replays: BTreeMap<HashAlgorithm, Replay> = BTreeMap::new();
    let mut compared = Compared::default();
    for (bank, index, value) in values.iter() {
        let replay = replays.entry(bank).or_insert_with(|| {
            let mut replay = log.replay(bank);
            later.extend(&mut replay);
            replay
        });
        let register = u32::from(index);
        let same = match replay.values.get(&register) {
            Some(replayed) => replayed.as_slice() == value.as_slice(),
            None if replay.unknown.contains(&register) => false,
            None => continue,
        };
        compared.compared += 1;
        if !same {
            compared.mismatched.insert(register);
        }
    }
    compared
}
