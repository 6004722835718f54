//! PCR selections and PCR values.

use std::collections::BTreeMap;

use arrayvec::ArrayVec;

use crate::crypto::{Digest, HashAlgorithm};
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

use super::public::hash;

/// Banks in one selection: `HASH_COUNT` of the reference implementation.
const MAX_BANKS: usize = 16;
/// Bytes of one bitmap: `PCR_SELECT_MAX` allows 32 registers, real TPMs have 24.
const MAX_SELECT_BYTES: u8 = 4;
/// One more than the highest index a selection can name.
pub const PCR_COUNT: u8 = 32;

/// The registers chosen in one bank.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BankSelection {
    /// The bank.
    pub bank: HashAlgorithm,
    /// Bit `n` set: PCR `n` is chosen.
    pub bitmap: u32,
}

impl BankSelection {
    /// Chosen indices, rising.
    pub fn indices(&self) -> impl Iterator<Item = u8> + use<> {
        let bitmap = self.bitmap;
        (0..PCR_COUNT).filter(move |index| bitmap & (1 << index) != 0)
    }
}

/// `TPML_PCR_SELECTION`: banks in the order in which their values are hashed.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct PcrSelection {
    banks: ArrayVec<BankSelection, MAX_BANKS>,
}

impl PcrSelection {
    /// Reads one `TPML_PCR_SELECTION` to its last byte.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("TPML_PCR_SELECTION", bytes);
        let selection = Self::read(&mut r, "pcrSelections")?;
        r.finish()?;
        Ok(selection)
    }

    pub(super) fn read(r: &mut Reader<'_>, field: &'static str) -> Result<Self, ParseError> {
        let offset = r.offset();
        let count = r.u32(field)?;
        let mut banks = ArrayVec::new();
        if usize::try_from(count).map_or(true, |count| count > MAX_BANKS) {
            return Err(too_many(r, field, offset, count));
        }
        for _ in 0..count {
            let bank = hash(r, "pcrSelections.hash")?;
            let at = r.offset();
            let len = r.u8("pcrSelections.sizeofSelect")?;
            if len > MAX_SELECT_BYTES {
                let fault = Fault::TooMany {
                    found: len.into(),
                    limit: MAX_SELECT_BYTES.into(),
                };
                return Err(r.fault_at("pcrSelections.sizeofSelect", at, fault));
            }
            let bytes = r.take("pcrSelections.pcrSelect", len.into())?;
            let bitmap = bitmap(bytes);
            banks.push(BankSelection { bank, bitmap });
        }
        Ok(Self { banks })
    }

    /// A selection of one bank.
    #[must_use]
    pub fn of(bank: HashAlgorithm, indices: &[u8]) -> Self {
        let bitmap = indices
            .iter()
            .filter(|index| **index < PCR_COUNT)
            .fold(0, |bitmap, index| bitmap | 1 << index);
        let mut banks = ArrayVec::new();
        banks.push(BankSelection { bank, bitmap });
        Self { banks }
    }

    /// Banks in signed order, those without any register left out.
    pub fn banks(&self) -> impl Iterator<Item = BankSelection> + '_ {
        self.banks.iter().copied().filter(|bank| bank.bitmap != 0)
    }

    /// Every register chosen, in the order in which values are hashed.
    pub fn registers(&self) -> impl Iterator<Item = (HashAlgorithm, u8)> + '_ {
        self.banks()
            .flat_map(|bank| bank.indices().map(move |index| (bank.bank, index)))
    }

    /// Nothing is chosen: a quote over it is genuine and proves nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.banks().next().is_none()
    }

    /// This register is chosen.
    #[must_use]
    pub fn contains(&self, bank: HashAlgorithm, index: u8) -> bool {
        self.registers().any(|register| register == (bank, index))
    }

    /// `TPML_PCR_SELECTION`, three bytes of bitmap per bank, as TPMs write it.
    #[must_use]
    pub fn marshal(&self) -> Vec<u8> {
        let count = u32::try_from(self.banks.len()).unwrap_or_default();
        let mut out = count.to_be_bytes().to_vec();
        for bank in &self.banks {
            let wide = bank.bitmap >> 24 != 0;
            let bytes = bank.bitmap.to_le_bytes();
            out.extend_from_slice(&bank.bank.tpm_id().to_be_bytes());
            out.push(if wide { 4 } else { 3 });
            out.extend(bytes.iter().take(if wide { 4 } else { 3 }));
        }
        out
    }
}

fn bitmap(bytes: &[u8]) -> u32 {
    let mut whole = [0; 4];
    for (to, from) in whole.iter_mut().zip(bytes) {
        *to = *from;
    }
    u32::from_le_bytes(whole)
}

fn too_many(r: &Reader<'_>, field: &'static str, offset: usize, found: u32) -> ParseError {
    let fault = Fault::TooMany {
        found: found.into(),
        limit: u64::try_from(MAX_BANKS).unwrap_or(u64::MAX),
    };
    r.fault_at(field, offset, fault)
}

/// Why a value cannot stand in a set of PCR values.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PcrValueError {
    /// No TPM has this register.
    #[error("{bank} PCR {index}: indices end at 31")]
    Index {
        /// The bank.
        bank: HashAlgorithm,
        /// The index given.
        index: u32,
    },
    /// A digest of another length than the bank's.
    #[error("{bank} PCR {index}: {found} bytes where the bank has {want}")]
    Length {
        /// The bank.
        bank: HashAlgorithm,
        /// The register.
        index: u8,
        /// Bytes given.
        found: usize,
        /// Bytes of the bank's digest.
        want: usize,
    },
    /// Two values for one register.
    #[error("{bank} PCR {index}: given twice")]
    Twice {
        /// The bank.
        bank: HashAlgorithm,
        /// The register.
        index: u8,
    },
}

impl PcrValueError {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "pcr-values"
    }
}

/// PCR values as somebody presents them: labels and all only a claim, until a quote binds them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PcrValues(BTreeMap<(HashAlgorithm, u8), Digest>);

impl PcrValues {
    /// No values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one value; refuses a second one for the same register.
    pub fn insert(
        &mut self,
        bank: HashAlgorithm,
        index: u32,
        value: &[u8],
    ) -> Result<(), PcrValueError> {
        let small = u8::try_from(index).ok().filter(|index| *index < PCR_COUNT);
        let Some(small) = small else {
            return Err(PcrValueError::Index { bank, index });
        };
        let want = bank.digest_len();
        let length = PcrValueError::Length {
            bank,
            index: small,
            found: value.len(),
            want,
        };
        if value.len() != want {
            return Err(length);
        }
        let value = Digest::from_slice(value).ok_or(length)?;
        match self.0.insert((bank, small), value) {
            None => Ok(()),
            Some(_) => Err(PcrValueError::Twice { bank, index: small }),
        }
    }

    /// Adds a value that was checked before; a register selected twice has one value.
    pub(super) fn put(&mut self, bank: HashAlgorithm, index: u8, value: Digest) {
        self.0.insert((bank, index), value);
    }

    /// One value.
    #[must_use]
    pub fn get(&self, bank: HashAlgorithm, index: u8) -> Option<&Digest> {
        self.0.get(&(bank, index))
    }

    /// All values, by bank and index.
    pub fn iter(&self) -> impl Iterator<Item = (HashAlgorithm, u8, &Digest)> {
        self.0
            .iter()
            .map(|((bank, index), value)| (*bank, *index, value))
    }

    /// No values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
