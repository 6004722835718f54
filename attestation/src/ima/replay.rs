//! What PCR 10 holds after the list, and after how much of it it held a value.

use super::{Entry, IMA_PCR, List};
use crate::crypto::{Digest, HashAlgorithm};

/// Bytes of SHA-1: what early kernels had for every bank.
const SHA1_LEN: usize = 20;

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

/// What one entry extends a bank with; `None` for a bank the provider cannot compute.
fn extension(bank: HashAlgorithm, extended: Extended, entry: &Entry<'_>) -> Option<Digest> {
    let len = bank.digest_len();
    match extended {
        Extended::Native if entry.is_violation() => Digest::from_slice(&vec![0xff; len]),
        Extended::Native => entry.hash(bank),
        // A violation was as short as every other extension, and padded like them.
        Extended::PaddedSha1 if entry.is_violation() => {
            let mut ones = vec![0xff; SHA1_LEN.min(len)];
            ones.resize(len, 0);
            Digest::from_slice(&ones)
        }
        Extended::PaddedSha1 => entry.padded(len),
    }
}

/// PCR 10 of a bank, entry by entry: `H(old ‖ extension)`, from zeroes.
fn values<'l>(
    list: &'l List<'_>,
    bank: HashAlgorithm,
    extended: Extended,
) -> impl Iterator<Item = (usize, Digest)> + 'l {
    let zero = Digest::from_slice(&vec![0; bank.digest_len()]).unwrap_or_default();
    let entries = (1..).zip(list.entries());
    let own = entries.filter(|(_, entry)| entry.pcr == IMA_PCR);
    own.scan(zero, move |value, (at, entry)| {
        let extension = extension(bank, extended, &entry)?;
        *value = bank.digest(&[value.as_slice(), extension.as_slice()])?;
        Some((at, value.clone()))
    })
}

/// PCR 10 after the whole list, each entry hashed with the bank's own hash; `None` for a bank the
/// provider cannot compute.
#[must_use]
pub fn replay(list: &List<'_>, bank: HashAlgorithm) -> Option<Replayed> {
    let zero = bank.digest(&[]).map(|_| vec![0; bank.digest_len()])?;
    let (mut own, mut value) = (0, Digest::from_slice(&zero)?);
    for (_, after) in values(list, bank, Extended::Native) {
        own += 1;
        value = after;
    }
    Some(Replayed {
        value,
        elsewhere: list.len() - own,
    })
}

/// The smallest part of the list after which PCR 10 held `quoted`: a list may run ahead of a
/// quote. The bank's own hash is tried first, then what earlier kernels extended.
#[must_use]
pub fn match_pcr(list: &List<'_>, bank: HashAlgorithm, quoted: &[u8]) -> Option<Matched> {
    let find = |extended| {
        let mut values = values(list, bank, extended);
        let (at, _) = values.find(|(_, value)| value.as_slice() == quoted)?;
        Some(Matched { at, extended })
    };
    // In a bank of SHA-1 both are the same, and neither finds what the other does not.
    find(Extended::Native).or_else(|| find(Extended::PaddedSha1))
}
