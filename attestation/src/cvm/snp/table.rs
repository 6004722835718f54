//! The table of certificates that a host hands its guest beside a report.

use crate::error::{Fault, ParseError};
use crate::reader::Reader;
use crate::x509::Certificate;

/// Longest table that is read: key, ASK, ARK and a list take some eight kilobytes, and kernels hand over
/// sixteen.
pub const MAX_TABLE: usize = 32 * 1024;
/// Most entries: four kinds are defined.
const MAX_ENTRIES: usize = 16;
const STRUCTURE: &str = "cert_table";

/// What the table holds, in its order.
///
/// Layout: SEV-ES Guest-Hypervisor Communication Block Standardization 2.03, §4.1.8.1: entries of a
/// GUID, an offset and a length, up to one of zeroes; the contents lie behind. GUIDs are not looked
/// at: hosts write them in either byte order, and a certificate says itself what it is of. All of it
/// is the host's word, and worth what the signatures in it are.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Those of the contents that are certificates.
    pub certificates: Vec<Certificate>,
    /// How many are something else.
    pub others: usize,
}

impl Table {
    /// Reads a table; an empty one has no bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut table = Self::default();
        let mut r = Reader::new(STRUCTURE, bytes);
        if bytes.is_empty() {
            return Ok(table);
        }
        if bytes.len() > MAX_TABLE {
            return Err(r.fault("end", too_many(bytes.len(), MAX_TABLE)));
        }
        for entry in 0_usize.. {
            let guid: [u8; 16] = r.array("guid")?;
            let at = r.offset();
            let offset = r.u32_le("offset")?;
            let length = r.u32_le("length")?;
            if guid == [0; 16] {
                return Ok(table);
            }
            if entry >= MAX_ENTRIES {
                return Err(r.fault_at("guid", at, too_many(entry, MAX_ENTRIES)));
            }
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let content = bytes.get(start..).and_then(|rest| rest.get(..length));
            let Some(content) = content else {
                let want = start.saturating_add(length);
                let left = bytes.len();
                return Err(r.fault_at("offset", at, Fault::Truncated { want, left }));
            };
            match Certificate::parse_padded(content) {
                Ok(certificate) => table.certificates.push(certificate),
                Err(_) => table.others += 1,
            }
        }
        Ok(table)
    }
}

fn too_many(found: usize, limit: usize) -> Fault {
    let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    Fault::TooMany {
        found: as_u64(found),
        limit: as_u64(limit),
    }
}
