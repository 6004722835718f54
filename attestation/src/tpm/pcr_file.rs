//! PCR values in the forms people keep them in.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::crypto::HashAlgorithm;
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

use super::pcr::{PcrSelection, PcrValueError, PcrValues};

/// Why a file does not hold PCR values.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PcrFileError {
    /// Neither JSON, nor the YAML or the serialized form of tpm2-tools.
    #[error("not PCR values in a form that is known")]
    Form,
    /// Broken JSON, or JSON of another shape than `{"sha256": {"0": "hex"}}`.
    #[error("line {line}, column {column} of the JSON: {fault}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        fault: String,
    },
    /// A line that is neither a bank nor `index: 0xHEX`.
    #[error("line {line}: {fault}")]
    Line {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        fault: &'static str,
    },
    /// A bank, an index or a value that is not one.
    #[error("{bank} {index}: {fault}")]
    Entry {
        /// The bank as given.
        bank: String,
        /// The index as given.
        index: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// Broken serialized form.
    #[error("malformed PCR file")]
    Serialized(#[source] ParseError),
    /// A value that cannot be its register's.
    #[error(transparent)]
    Value(#[from] PcrValueError),
}

impl PcrValues {
    /// Reads the values from a file's bytes: JSON `{"sha256": {"0": "hex", …}}`, the YAML of
    /// `tpm2_pcrread`, or the serialized form of `tpm2_quote` and `tpm2_pcrread -o`.
    ///
    /// The labels are whatever the file says; only a quote's selection makes them more than that.
    pub fn parse_file(bytes: &[u8]) -> Result<Self, PcrFileError> {
        if let Ok(text) = std::str::from_utf8(bytes)
            && !bytes.contains(&0)
        {
            return if text.trim_start().starts_with('{') {
                json(text)
            } else {
                yaml(text)
            };
        }
        Self::parse_serialized(bytes)
    }

    /// Reads the serialized form of tpm2-tools: C structures of a little-endian machine,
    /// `TPML_PCR_SELECTION`, a count, and that many `TPML_DIGEST` of eight places each.
    pub fn parse_serialized(bytes: &[u8]) -> Result<Self, PcrFileError> {
        let mut r = Reader::new("tpm2-tools PCR file", bytes);
        let registers = serialized_selection(&mut r).map_err(PcrFileError::Serialized)?;
        let digests = serialized_digests(&mut r).map_err(PcrFileError::Serialized)?;
        if registers.len() != digests.len() {
            let fault = r.fault(
                "pcrs",
                Fault::Rule("holds more or fewer values than selected"),
            );
            return Err(PcrFileError::Serialized(fault));
        }
        r.finish().map_err(PcrFileError::Serialized)?;
        let mut values = Self::new();
        for ((bank, index), digest) in registers.into_iter().zip(digests) {
            values.insert(bank, index.into(), digest)?;
        }
        Ok(values)
    }
}

fn serialized_selection(r: &mut Reader<'_>) -> Result<Vec<(HashAlgorithm, u8)>, ParseError> {
    /// `TPM2_NUM_PCR_BANKS` of tpm2-tss.
    const PLACES: u32 = 16;
    let count = r.u32_le("selection.count")?;
    if count > PLACES {
        let fault = Fault::TooMany {
            found: count.into(),
            limit: PLACES.into(),
        };
        return Err(r.fault_at("selection.count", 0, fault));
    }
    let mut registers = Vec::new();
    for place in 0..PLACES {
        let at = r.offset();
        let id = r.u16_le("selection.pcrSelections.hash")?;
        let len = r.u8("selection.pcrSelections.sizeofSelect")?;
        let select: [u8; 4] = r.array("selection.pcrSelections.pcrSelect")?;
        r.u8("selection.pcrSelections.padding")?;
        if place >= count {
            continue;
        }
        let Some(bank) = HashAlgorithm::from_tpm_id(id) else {
            let fault = Fault::Unsupported { found: id.into() };
            return Err(r.fault_at("selection.pcrSelections.hash", at, fault));
        };
        let Some(select) = select.get(..usize::from(len)) else {
            let fault = Fault::TooMany {
                found: len.into(),
                limit: 4,
            };
            return Err(r.fault_at("selection.pcrSelections.sizeofSelect", at, fault));
        };
        let bits = (0u8..).zip(select);
        let indices: Vec<u8> = bits
            .flat_map(|(byte, bits)| {
                (0u8..8).filter_map(move |bit| (bits & (1 << bit) != 0).then_some(byte * 8 + bit))
            })
            .collect();
        registers.extend(PcrSelection::of(bank, &indices).registers());
    }
    Ok(registers)
}

fn serialized_digests<'a>(r: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, ParseError> {
    /// Every PCR of every bank, eight to a list, is the most tpm2-tools can write.
    const LISTS: u32 = 64;
    /// `TPML_DIGEST` holds eight.
    const PLACES: u32 = 8;
    let limited = |r: &mut Reader<'a>, field, limit: u32| {
        let at = r.offset();
        let found = r.u32_le(field)?;
        if found > limit {
            let fault = Fault::TooMany {
                found: found.into(),
                limit: limit.into(),
            };
            return Err(r.fault_at(field, at, fault));
        }
        Ok(found)
    };
    let lists = limited(r, "pcrs.count", LISTS)?;
    let mut digests = Vec::new();
    for _ in 0..lists {
        let count = limited(r, "pcrs.pcr_values.count", PLACES)?;
        for place in 0..PLACES {
            let at = r.offset();
            let len = r.u16_le("pcrs.pcr_values.digests.size")?;
            let buffer = r.take("pcrs.pcr_values.digests.buffer", 64)?;
            if place >= count {
                continue;
            }
            let Some(digest) = buffer.get(..usize::from(len)) else {
                let fault = Fault::TooMany {
                    found: len.into(),
                    limit: 64,
                };
                return Err(r.fault_at("pcrs.pcr_values.digests.size", at, fault));
            };
            digests.push(digest);
        }
    }
    Ok(digests)
}

/// A JSON object with its keys in order, so that a key given twice is seen twice.
struct Pairs<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
            type Value = Pairs<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

fn json(text: &str) -> Result<PcrValues, PcrFileError> {
    let banks: Pairs<Pairs<String>> =
        serde_json::from_str(text).map_err(|error| PcrFileError::Json {
            line: error.line(),
            column: error.column(),
            fault: error.to_string(),
        })?;
    let mut values = PcrValues::new();
    for (bank_name, registers) in banks.0 {
        let bank = HashAlgorithm::from_name(&bank_name.to_ascii_lowercase());
        let bank = bank.ok_or_else(|| refuse(&bank_name, "", "no bank has that name"))?;
        for (index, value) in registers.0 {
            entry(&mut values, bank, &index, &value)?;
        }
    }
    Ok(values)
}

fn entry(
    values: &mut PcrValues,
    bank: HashAlgorithm,
    index_text: &str,
    value: &str,
) -> Result<(), PcrFileError> {
    let refuse = |fault| refuse(bank.name(), index_text, fault);
    let index = decimal(index_text).ok_or_else(|| refuse("is not the index of a PCR"))?;
    let value = hex_value(value).ok_or_else(|| refuse("the value is not hexadecimal"))?;
    values.insert(bank, index, &value)?;
    Ok(())
}

fn refuse(bank: &str, index: &str, fault: &'static str) -> PcrFileError {
    PcrFileError::Entry {
        bank: bank.chars().take(40).collect(),
        index: index.chars().take(40).collect(),
        fault,
    }
}

/// The subset of YAML that `tpm2_pcrread` prints: banks, below them `index: 0xHEX`.
fn yaml(text: &str) -> Result<PcrValues, PcrFileError> {
    let mut values = PcrValues::new();
    let mut bank = None;
    let mut seen = false;
    for (number, line) in (1..).zip(text.lines()) {
        let refuse = |fault| PcrFileError::Line {
            line: number,
            fault,
        };
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() || line == "---" || line == "pcrs:" {
            continue;
        }
        let (key, value) = line
            .split_once(':')
            .ok_or_else(|| refuse("is neither a bank nor `index: 0xHEX`"))?;
        let (key, value) = (key.trim(), value.trim());
        if value.is_empty() {
            let name = key.to_ascii_lowercase();
            let known = HashAlgorithm::from_name(&name);
            bank = Some(known.ok_or_else(|| refuse("no bank has that name"))?);
            seen = true;
            continue;
        }
        let bank = bank.ok_or_else(|| refuse("has a value before any bank"))?;
        let index = decimal(key).ok_or_else(|| refuse("does not begin with a PCR's index"))?;
        let value = hex_value(value).ok_or_else(|| refuse("the value is not hexadecimal"))?;
        values.insert(bank, index, &value)?;
    }
    if seen {
        Ok(values)
    } else {
        Err(PcrFileError::Form)
    }
}

/// Digits only: no sign, no leading zero.
fn decimal(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn hex_value(text: &str) -> Option<Vec<u8>> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    hex::decode(digits).ok()
}
