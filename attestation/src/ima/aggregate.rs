//! `boot_aggregate`: the kernel's hash over the registers it found when it started, the first
//! entry of a list and, where `kexec` carries the list over, the first of every kernel after it.

use super::Entry;
use crate::crypto::{Digest, HashAlgorithm};

/// Name of the entry.
const NAME: &[u8] = b"boot_aggregate";
/// Registers under it: `ima_calc_boot_aggregate_tfm`. Those of boot loaders count from Linux 5.8
/// on, and never in SHA-1, so that both kinds can be told apart.
const REGISTERS: [u8; 2] = [FIRMWARE, 10];
/// One more than the last register of firmware.
const FIRMWARE: u8 = 8;

/// What the entry says of the registers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Aggregate {
    /// They are what the kernel found, those of boot loaders too.
    Same,
    /// Those of firmware are, 0 to 7; older kernels look at no others.
    SameFirmware,
    /// They are not.
    Other,
    /// The kernel had no TPM, or none of its banks suited it.
    Zero,
    /// It is of another bank, or a register is not known.
    Unchecked,
}

/// Whether an entry has that name. A file may have it too, which then is not what it says.
#[must_use]
pub fn is_aggregate(entry: &Entry<'_>) -> bool {
    entry.file_name() == Some(NAME)
}

/// Holds a `boot_aggregate` against the registers of a bank; `None` where the entry is another.
#[must_use]
pub fn boot_aggregate<'p>(
    entry: &Entry<'_>,
    bank: HashAlgorithm,
    register: impl Fn(u8) -> Option<&'p Digest>,
) -> Option<Aggregate> {
    let digest = entry.file_digest().filter(|_| is_aggregate(entry))?;
    if digest.digest.iter().all(|byte| *byte == 0) {
        return Some(Aggregate::Zero);
    }
    if digest.algorithm != bank.name() {
        return Some(Aggregate::Unchecked);
    }
    let mut known = false;
    for end in REGISTERS {
        let values: Option<Vec<&[u8]>> = (0..end)
            .map(|index| register(index).map(Digest::as_slice))
            .collect();
        let Some(values) = values else { continue };
        known = true;
        let hash = bank.digest(&values);
        if hash.is_some_and(|hash| hash.as_slice() == digest.digest) {
            return Some(match end {
                FIRMWARE => Aggregate::SameFirmware,
                _ => Aggregate::Same,
            });
        }
    }
    // Without the registers of boot loaders nobody can tell which of the two it is not.
    let all = register(8).is_some() && register(9).is_some();
    Some(match known && all {
        true => Aggregate::Other,
        false => Aggregate::Unchecked,
    })
}
