//! What PCR 10 holds after the list, and after how much of it it held a value.

use super::binary::Layout;
use super::{Entry, IMA_PCR, List};
use crate::crypto::{Digest, HashAlgorithm};

/// Bytes of SHA-1: what early kernels had for every bank.
const SHA1_LEN: usize = 20;
/// As long as the longest digest: what a bank begins with, and what a violation extends.
const ZEROES: [u8; 64] = [0; 64];
const ONES: [u8; 64] = [0xff; 64];

/// What a bank is extended with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extended {
    /// The bank's own hash of the template data: Linux 5.8 and later.
    Native,
    /// SHA-1 of it and zeroes: earlier kernels, and later ones for a hash they could not allocate.
    PaddedSha1,
}

/// The register after a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Replayed {
    /// What it holds.
    pub value: Digest,
    /// Entries of other registers that were passed over.
    pub elsewhere: usize,
}

/// The first place at which the register held a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Matched {
    /// Entries of the list up to there, those of other registers counted.
    pub at: usize,
    /// How the bank was extended.
    pub extended: Extended,
}

/// How far a list has been replayed: what the register holds after so many entries. From here it
/// goes on without those before, for which the value stands: another list that leads to it would be
/// a collision of the bank's hash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Position {
    pub(super) layout: Layout,
    bank: HashAlgorithm,
    extended: Extended,
    value: Digest,
    at: usize,
}

impl Position {
    /// Before the first entry; `None` for a bank the provider cannot compute.
    fn start(layout: Layout, bank: HashAlgorithm, extended: Extended) -> Option<Self> {
        bank.digest(&[])?;
        Some(Self {
            layout,
            bank,
            extended,
            value: Digest::from_slice(ZEROES.get(..bank.digest_len())?)?,
            at: 0,
        })
    }

    /// The smallest part of the list after which PCR 10 held `quoted`: a list may run ahead of a
    /// quote. The bank's own hash is tried first, then what earlier kernels extended.
    #[must_use]
    pub fn find(list: &List<'_>, bank: HashAlgorithm, quoted: &[u8]) -> Option<Self> {
        // In a bank of SHA-1 both are the same, and neither finds what the other does not.
        let kinds = [Extended::Native, Extended::PaddedSha1];
        let starts = kinds.map(|extended| Self::start(list.layout, bank, extended));
        starts
            .into_iter()
            .flatten()
            .find_map(|start| start.run(list, quoted))
    }

    /// The same, from here on: `more` is what the list holds after this place.
    #[must_use]
    pub fn advance(&self, more: &List<'_>, quoted: &[u8]) -> Option<Self> {
        if self.value.as_slice() == quoted {
            return Some(self.clone());
        }
        self.clone().run(more, quoted)
    }

    /// Entries up to here, those of other registers counted.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.at
    }

    fn run(mut self, list: &List<'_>, quoted: &[u8]) -> Option<Self> {
        for entry in list.entries() {
            if self.extend(&entry)? && self.value.as_slice() == quoted {
                return Some(self);
            }
        }
        None
    }

    /// `H(old ‖ extension)`; whether the entry is of this register.
    fn extend(&mut self, entry: &Entry<'_>) -> Option<bool> {
        self.at += 1;
        if entry.pcr != IMA_PCR {
            return Some(false);
        }
        let extension = extension(self.bank, self.extended, entry)?;
        self.bank.extend(&mut self.value, extension.as_slice())?;
        Some(true)
    }
}

/// What one entry extends a bank with; `None` for a bank the provider cannot compute.
fn extension(bank: HashAlgorithm, extended: Extended, entry: &Entry<'_>) -> Option<Digest> {
    let len = bank.digest_len();
    match extended {
        Extended::Native if entry.is_violation() => Digest::from_slice(ONES.get(..len)?),
        Extended::Native => entry.hash(bank),
        // A violation was as short as every other extension, and padded like them.
        Extended::PaddedSha1 if entry.is_violation() => {
            let ones = ONES.iter().take(SHA1_LEN.min(len)).copied();
            let padded: Vec<u8> = ones.chain(ZEROES).take(len).collect();
            Digest::from_slice(&padded)
        }
        Extended::PaddedSha1 => entry.padded(len),
    }
}

/// PCR 10 after the whole list, each entry hashed with the bank's own hash; `None` for a bank the
/// provider cannot compute.
#[must_use]
pub fn replay(list: &List<'_>, bank: HashAlgorithm) -> Option<Replayed> {
    let mut position = Position::start(list.layout, bank, Extended::Native)?;
    let mut elsewhere = 0;
    for entry in list.entries() {
        if !position.extend(&entry)? {
            elsewhere += 1;
        }
    }
    Some(Replayed {
        value: position.value,
        elsewhere,
    })
}

/// Where [`Position::find`] ends, and how the bank was extended.
#[must_use]
pub fn match_pcr(list: &List<'_>, bank: HashAlgorithm, quoted: &[u8]) -> Option<Matched> {
    let found = Position::find(list, bank, quoted)?;
    Some(Matched {
        at: found.at,
        extended: found.extended,
    })
}
