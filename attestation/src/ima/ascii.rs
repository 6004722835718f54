//! `ascii_runtime_measurements`: a line per entry, a blank before each field. The kernel writes
//! blanks in names as underscores before it hashes them, so that a line has one reading. It is
//! turned into what the binary form would have been.

use super::binary::{self, Layout};
use super::template::{Field, OLD_DIGEST, Template};
use super::{ByteOrder, ImaError};

/// The list in binary form, how it is laid out, and how many entries it has.
pub(super) fn to_binary(
    bytes: &[u8],
    order: ByteOrder,
) -> Result<(Vec<u8>, Layout, usize), ImaError> {
    let mut layout = Layout { order, hash: 0 };
    // Half of it is hexadecimal, and what is added to an entry is less than that saves.
    let mut out = Vec::with_capacity(bytes.len());
    let mut count = 0;
    let mut ended = false;
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
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
        entry(&mut out, &mut layout, line).map_err(fault)?;
        count += 1;
    }
    match count {
        0 => Err(ImaError::Empty),
        _ => Ok((out, layout, count)),
    }
}

type Fault = (&'static str, &'static str);

/// What is left of a line, word by word; `None` once the last has been taken.
struct Words<'l>(Option<&'l [u8]>);

impl<'l> Words<'l> {
    fn next(&mut self) -> Option<&'l [u8]> {
        let rest = self.0?;
        let Some(end) = rest.iter().position(|byte| *byte == b' ') else {
            self.0 = None;
            return Some(rest);
        };
        let (word, rest) = rest.split_at_checked(end)?;
        self.0 = rest.get(1..);
        Some(word)
    }

    fn must(&mut self, field: &'static str) -> Result<&'l [u8], Fault> {
        self.next().ok_or((field, "is absent"))
    }
}

fn entry(out: &mut Vec<u8>, layout: &mut Layout, line: &[u8]) -> Result<(), Fault> {
    // Registers below ten are written with a blank before them.
    let mut words = Words(Some(line.strip_prefix(b" ").unwrap_or(line)));
    let pcr: u32 = number(words.must("pcr")?).ok_or(("pcr", "is no number"))?;
    if pcr >= 24 {
        return Err(("pcr", "is not the index of a PCR"));
    }
    let listed = hex::decode(words.must("template_hash")?)
        .ok()
        .filter(|hash| matches!(hash.len(), 20 | 32 | 48 | 64))
        .ok_or(("template_hash", "is not the hex of a hash"))?;
    if layout.hash == 0 {
        layout.hash = listed.len();
    } else if layout.hash != listed.len() {
        return Err(("template_hash", "is of another length than the first"));
    }
    let unknown = ("template_name", "a template with fields of no known kind");
    let name = std::str::from_utf8(words.must("template_name")?).ok();
    let template = name.and_then(Template::from_name).ok_or(unknown)?;
    binary::write(out, *layout, pcr, &listed, template.name());
    if template.is_old() {
        let digest = hex::decode(words.must("template_data.d")?)
            .ok()
            .filter(|digest| digest.len() == OLD_DIGEST)
            .ok_or(("template_data.d", "is not the hex of 20 bytes"))?;
        // The kernels that wrote this left blanks in names as they were.
        let name = words.0.ok_or(("template_data.n", "is absent"))?;
        out.extend(digest);
        out.extend(layout.order.len(name.len()));
        out.extend(name);
        return Ok(());
    }
    let start = out.len();
    out.extend([0; 4]);
    for field in template.fields() {
        // Some tool may have cut off the blanks at the end of a line.
        let word = match words.next() {
            None if field.may_be_empty() => &[],
            None => return Err(("template_data", "is absent")),
            Some(word) => word,
        };
        let at = out.len();
        out.extend([0; 4]);
        field.bytes_of(word, layout.order, out)?;
        let len = layout.order.len(out.len() - at - 4);
        out.splice(at..at + 4, len);
    }
    if words.0.is_some() {
        return Err(("template_data", "has more fields than the template"));
    }
    let len = layout.order.len(out.len() - start - 4);
    out.splice(start..start + 4, len);
    Ok(())
}

fn number<N: std::str::FromStr>(word: &[u8]) -> Option<N> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

impl Field {
    /// The bytes that are hashed for what the kernel shows.
    fn bytes_of(self, word: &[u8], order: ByteOrder, out: &mut Vec<u8>) -> Result<(), Fault> {
        let not_hex = ("template_data", "is not hexadecimal");
        let hex = |text: &[u8]| hex::decode(text).ok().ok_or(not_hex);
        let no_number = ("template_data", "is no number");
        match self {
            _ if word.is_empty() && self.may_be_empty() => {}
            Self::Name | Self::Text => {
                out.extend(word);
                out.push(0);
            }
            Self::Digest
            | Self::Signature
            | Self::EvmSignature
            | Self::Modsig
            | Self::Buffer
            | Self::Bytes => out.extend(hex(word)?),
            Self::TaggedDigest | Self::TypedDigest | Self::ModsigDigest => {
                let colon = word.iter().rposition(|byte| *byte == b':');
                let (tag, digest) = colon
                    .and_then(|colon| word.split_at_checked(colon + 1))
                    .ok_or(("template_data", "is no digest with its algorithm"))?;
                out.extend(tag);
                out.push(0);
                out.extend(hex(digest)?);
            }
            Self::Owner | Self::Group => {
                out.extend(order.bytes(number(word).ok_or(no_number)?));
            }
            Self::Mode => {
                let mode: u16 = number(word).ok_or(no_number)?;
                out.extend(match order {
                    ByteOrder::Little => mode.to_le_bytes(),
                    ByteOrder::Big => mode.to_be_bytes(),
                });
            }
        }
        Ok(())
    }
}
