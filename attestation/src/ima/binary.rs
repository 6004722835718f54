//! `binary_runtime_measurements`: in the byte order of the kernel, which is little-endian on the
//! machines most people have, and everywhere with `ima_canonical_fmt`.

use super::template::{OLD_DIGEST, OLD_NAME, Template};
use super::{ByteOrder, Entry, ImaError};
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

/// Longest template name: `IMA_TEMPLATE_NAME_LEN_MAX`; a format of one's own may be longer.
const MAX_NAME: u32 = 255;
/// Longest template data: a buffer of `kexec` or a device mapper table; the kernel's own limit is
/// the page that shows it.
const MAX_DATA: u32 = 1 << 20;
/// Lengths of the hash of an entry, by hash of the list.
const HASHES: [usize; 4] = [20, 32, 48, 64];

/// How the entries of a list are laid out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    pub(super) order: ByteOrder,
    /// Bytes of the hash in each entry.
    pub(super) hash: usize,
}

/// Reads every entry to its last field; how they are laid out, and how many there are.
pub(super) fn check(bytes: &[u8]) -> Result<(Layout, usize), ImaError> {
    let order = order(bytes);
    let layout = Layout {
        order,
        hash: hash_len(bytes, order),
    };
    check_in(layout, bytes).map(|count| (layout, count))
}

/// The same, laid out as is known; how many entries there are.
pub(super) fn check_in(layout: Layout, bytes: &[u8]) -> Result<usize, ImaError> {
    let mut count = 0;
    let mut r = Reader::new("ima_measurements", bytes);
    let mut last = None;
    while !r.rest().is_empty() {
        entry(&mut r, layout, &mut last)
            .and_then(|(at, entry)| checked(at, &entry))
            .map_err(|fault| ImaError::Binary {
                entry: count + 1,
                fault,
            })?;
        count += 1;
    }
    Ok(count)
}

/// A register is below 24, so one of its bytes tells which end comes first.
fn order(bytes: &[u8]) -> ByteOrder {
    match bytes {
        [0, 0, 0, last, ..] if *last != 0 => ByteOrder::Big,
        _ => ByteOrder::Little,
    }
}

/// Length of the hash in each entry: the first after which a template's name follows, 20 if none.
fn hash_len(bytes: &[u8], order: ByteOrder) -> usize {
    let named = |len: &usize| {
        let mut r = Reader::starting("ima_measurements", bytes, 4 + len);
        name(&mut r, order).is_ok_and(|name| Template::from_name(name).is_some())
    };
    HASHES.into_iter().find(named).unwrap_or(20)
}

fn name<'a>(r: &mut Reader<'a>, order: ByteOrder) -> Result<&'a str, ParseError> {
    let at = r.offset();
    let bytes = name_bytes(r, order)?;
    std::str::from_utf8(bytes)
        .ok()
        .ok_or_else(|| r.fault_at("template_name", at + 4, Fault::Rule("is not UTF-8")))
}

fn name_bytes<'a>(r: &mut Reader<'a>, order: ByteOrder) -> Result<&'a [u8], ParseError> {
    let len = limited(r, order, "template_name_len", MAX_NAME)?;
    r.take("template_name", len)
}

/// The template of an entry, which nearly always is that of the entry before.
fn template<'a>(
    r: &mut Reader<'a>,
    order: ByteOrder,
    last: &mut Option<Template<'a>>,
) -> Result<Template<'a>, ParseError> {
    if let Some(last) = last {
        let mut ahead = r.clone();
        if name_bytes(&mut ahead, order)? == last.name().as_bytes() {
            *r = ahead;
            return Ok(*last);
        }
    }
    let at = r.offset();
    let Some(template) = Template::from_name(name(r, order)?) else {
        let fault = Fault::Rule("a template with fields of no known kind");
        return Err(r.fault_at("template_name", at, fault));
    };
    *last = Some(template);
    Ok(template)
}

fn limited(
    r: &mut Reader<'_>,
    order: ByteOrder,
    field: &'static str,
    limit: u32,
) -> Result<usize, ParseError> {
    let at = r.offset();
    let len = order.u32(r, field)?;
    let too_many = Fault::TooMany {
        found: len.into(),
        limit: limit.into(),
    };
    match usize::try_from(len) {
        Ok(fits) if len <= limit => Ok(fits),
        _ => Err(r.fault_at(field, at, too_many)),
    }
}

/// One entry, and where its template data begins. What the data holds is not looked at. `last` is the
/// template of the entry before.
pub(super) fn entry<'a>(
    r: &mut Reader<'a>,
    layout: Layout,
    last: &mut Option<Template<'a>>,
) -> Result<(usize, Entry<'a>), ParseError> {
    let order = layout.order;
    let at = r.offset();
    let pcr = order.u32(r, "pcr")?;
    if pcr >= 24 {
        return Err(r.fault_at("pcr", at, Fault::Unsupported { found: pcr.into() }));
    }
    let listed = r.take("template_hash", layout.hash)?;
    let template = template(r, order, last)?;
    let (at, data) = if template.is_old() {
        let (start, before) = (r.offset(), r.rest());
        r.take("template_data.d", OLD_DIGEST)?;
        let len = limited(r, order, "template_data.n_len", MAX_NAME)?;
        r.take("template_data.n", len)?;
        let data = before.get(..r.offset() - start).unwrap_or_default();
        (start, data)
    } else {
        let len = limited(r, order, "template_data_len", MAX_DATA)?;
        (r.offset(), r.take("template_data", len)?)
    };
    let entry = Entry {
        pcr,
        listed,
        template,
        data,
        order,
    };
    Ok((at, entry))
}

fn checked(at: usize, entry: &Entry<'_>) -> Result<(), ParseError> {
    if entry.template.is_old() {
        return Ok(());
    }
    let checked = entry.template.check(entry.data, entry.order);
    checked.map_err(|error| ParseError {
        offset: at.saturating_add(error.offset),
        ..error
    })
}

/// What the oldest template hashes: the digest, and the name in a field of fixed size.
pub(super) fn old(data: &[u8]) -> [u8; OLD_DIGEST + OLD_NAME] {
    let mut hashed = [0; OLD_DIGEST + OLD_NAME];
    let (digest, name) = data.split_at_checked(OLD_DIGEST).unwrap_or_default();
    let name = name.get(4..).unwrap_or_default();
    let bytes = digest.iter().chain(name.iter().take(OLD_NAME - 1));
    for (place, byte) in hashed.iter_mut().zip(bytes) {
        *place = *byte;
    }
    hashed
}

/// An entry as the kernel writes it.
pub(super) fn write(out: &mut Vec<u8>, layout: Layout, pcr: u32, hash: &[u8], template: &str) {
    out.extend(layout.order.bytes(pcr));
    out.extend(hash);
    out.extend(layout.order.len(template.len()));
    out.extend(template.as_bytes());
}
