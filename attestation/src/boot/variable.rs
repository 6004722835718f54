//! `UEFI_VARIABLE_DATA`: a UEFI variable as firmware measures it.

use crate::error::{Fault, ParseError};
use crate::reader::Reader;

/// Longest name, UTF-16 units. Firmware uses some dozens.
const MAX_NAME: u64 = 1024;

/// One variable, borrowed from an event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UefiVariable<'a> {
    /// `VariableName`: the GUID, bytes as in memory.
    pub guid: [u8; 16],
    /// `UnicodeName`; what is not UTF-16 is replaced.
    pub name: String,
    /// `VariableData`.
    pub value: &'a [u8],
}

impl<'a> UefiVariable<'a> {
    /// `EFI_GLOBAL_VARIABLE`: UEFI 2.10, §3.3.
    pub const GLOBAL: [u8; 16] = [
        0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b,
        0x8c,
    ];

    /// Reads `UEFI_VARIABLE_DATA` (PFP 1.06, §10.2.6) to its last byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("UEFI_VARIABLE_DATA", bytes);
        let guid = r.array("VariableName")?;
        let at = r.offset();
        let units = r.u64_le("UnicodeNameLength")?;
        if units > MAX_NAME {
            let fault = Fault::TooMany {
                found: units,
                limit: MAX_NAME,
            };
            return Err(r.fault_at("UnicodeNameLength", at, fault));
        }
        let at = r.offset();
        let len = r.u64_le("VariableDataLength")?;
        let Ok(len) = usize::try_from(len) else {
            let fault = Fault::Unsupported { found: len };
            return Err(r.fault_at("VariableDataLength", at, fault));
        };
        let units = usize::try_from(units).unwrap_or_default();
        let name = r.take("UnicodeName", units * 2)?;
        let name = name.chunks_exact(2).map(|unit| match unit {
            [low, high] => u16::from_le_bytes([*low, *high]),
            _ => 0,
        });
        let name = char::decode_utf16(name)
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        let value = r.take("VariableData", len)?;
        r.finish()?;
        Ok(Self { guid, name, value })
    }
}
