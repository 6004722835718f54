//! `ascii_runtime_measurements`: a line per entry, a blank before each field. The kernel writes
//! blanks in names as underscores before it hashes them, so that a line has one reading.

use std::borrow::Cow;

use super::binary::old;
use super::template::{Field, Template};
use super::{Entry, ImaError};
use crate::crypto::Digest;

pub(super) fn entries(bytes: &[u8]) -> Result<Vec<Entry<'static>>, ImaError> {
    let lines = bytes.split(|byte| *byte == b'\n');
    let mut entries = Vec::new();
    let mut ended = false;
    for (number, line) in (1..).zip(lines) {
        let fault = |(field, fault)| ImaError::Line {
            line: number,
            field,
            fault,
        };
        if line.is_empty() {
            // What follows the last line feed.
            ended = true;
            continue;
        }
        if ended {
            return Err(fault(("line", "follows an empty one")));
        }
        let text = std::str::from_utf8(line)
            .ok()
            .ok_or_else(|| fault(("line", "is not UTF-8")))?;
        entries.push(entry(text).map_err(fault)?);
    }
    match entries.is_empty() {
        true => Err(ImaError::Empty),
        false => Ok(entries),
    }
}

type Fault = (&'static str, &'static str);

fn entry(line: &str) -> Result<Entry<'static>, Fault> {
    // Registers below ten are written with a blank before them.
    let mut words = line.strip_prefix(' ').unwrap_or(line).split(' ');
    let mut next = |field| words.next().ok_or((field, "is absent"));
    let pcr: u32 = next("pcr")?.parse().ok().ok_or(("pcr", "is no number"))?;
    if pcr >= 24 {
        return Err(("pcr", "is not the index of a PCR"));
    }
    let listed = hex::decode(next("template_hash")?)
        .ok()
        .filter(|hash| matches!(hash.len(), 20 | 32 | 48 | 64))
        .and_then(|hash| Digest::from_slice(&hash))
        .ok_or(("template_hash", "is not the hex of a hash"))?;
    let name = next("template_name")?;
    let unknown = ("template_name", "a template with fields of no known kind");
    let template = Template::from_name(name).ok_or(unknown)?;
    let mut data = Vec::new();
    if template.is_old() {
        let digest = hex::decode(next("template_data.d")?)
            .ok()
            .filter(|digest| digest.len() == 20)
            .ok_or(("template_data.d", "is not the hex of 20 bytes"))?;
        data = old(&digest, next("template_data.n")?.as_bytes());
    } else {
        for field in template.fields() {
            let bytes = field.bytes_of(next("template_data")?)?;
            let len = u32::try_from(bytes.len())
                .ok()
                .ok_or(("template_data", "is longer than a field can be"))?;
            data.extend(len.to_le_bytes());
            data.extend(bytes);
        }
    }
    if words.next().is_some() {
        return Err(("template_data", "has more fields than the template"));
    }
    Ok(Entry {
        pcr,
        listed,
        template,
        data: Cow::Owned(data),
    })
}

impl Field {
    /// The bytes that are hashed for what the kernel shows.
    fn bytes_of(self, text: &str) -> Result<Vec<u8>, Fault> {
        let hex = |text: &str| {
            hex::decode(text)
                .ok()
                .ok_or(("template_data", "is not hexadecimal"))
        };
        let with_nul = |text: &str| [text.as_bytes(), &[0]].concat();
        match self {
            _ if text.is_empty() => Ok(Vec::new()),
            Self::Name | Self::Text => Ok(with_nul(text)),
            Self::Digest | Self::Bytes => hex(text),
            Self::TaggedDigest | Self::TypedDigest => {
                let (tag, digest) = text
                    .rsplit_once(':')
                    .ok_or(("template_data", "is no digest with its algorithm"))?;
                let mut bytes = with_nul(&format!("{tag}:"));
                bytes.extend(hex(digest)?);
                Ok(bytes)
            }
            Self::Word => {
                let number: u32 = text.parse().ok().ok_or(("template_data", "is no number"))?;
                Ok(number.to_le_bytes().to_vec())
            }
            Self::Half => {
                let number: u16 = text.parse().ok().ok_or(("template_data", "is no number"))?;
                Ok(number.to_le_bytes().to_vec())
            }
        }
    }
}
