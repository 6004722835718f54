//! `binary_runtime_measurements`: little-endian unless the kernel was told otherwise.

use std::borrow::Cow;

use super::template::{OLD_NAME, Template};
use super::{Entry, ImaError};
use crate::crypto::Digest;
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

/// Longest template name: `IMA_TEMPLATE_NAME_LEN_MAX`; a format of one's own may be longer.
const MAX_NAME: u32 = 255;
/// Longest template data: a buffer of `kexec` or a device mapper table; the kernel's own limit is
/// the page that shows it.
const MAX_DATA: u32 = 1 << 20;
/// Lengths of the hash of an entry, by hash of the list.
const HASHES: [usize; 4] = [20, 32, 48, 64];

pub(super) fn entries(bytes: &[u8]) -> Result<Vec<Entry<'_>>, ImaError> {
    let hash = hash_len(bytes);
    let mut entries = Vec::new();
    let mut r = Reader::new("ima_measurements", bytes);
    while !r.rest().is_empty() {
        let entry = entry(&mut r, hash).map_err(|fault| ImaError::Binary {
            entry: entries.len() + 1,
            fault,
        })?;
        entries.push(entry);
    }
    Ok(entries)
}

/// Length of the hash in each entry: the first after which a template's name follows, 20 if none.
fn hash_len(bytes: &[u8]) -> usize {
    let named = |len: &usize| {
        let mut r = Reader::starting("ima_measurements", bytes, 4 + len);
        name(&mut r).is_ok_and(|name| Template::from_name(name).is_some())
    };
    HASHES.into_iter().find(named).unwrap_or(20)
}

fn name<'a>(r: &mut Reader<'a>) -> Result<&'a str, ParseError> {
    let len = limited(r, "template_name_len", MAX_NAME)?;
    let at = r.offset();
    let bytes = r.take("template_name", len)?;
    std::str::from_utf8(bytes)
        .ok()
        .ok_or_else(|| r.fault_at("template_name", at, Fault::Rule("is not UTF-8")))
}

fn limited(r: &mut Reader<'_>, field: &'static str, limit: u32) -> Result<usize, ParseError> {
    let at = r.offset();
    let len = r.u32_le(field)?;
    let too_many = Fault::TooMany {
        found: len.into(),
        limit: limit.into(),
    };
    match usize::try_from(len) {
        Ok(fits) if len <= limit => Ok(fits),
        _ => Err(r.fault_at(field, at, too_many)),
    }
}

fn entry<'a>(r: &mut Reader<'a>, hash: usize) -> Result<Entry<'a>, ParseError> {
    let at = r.offset();
    let pcr = r.u32_le("pcr")?;
    if pcr >= 24 {
        return Err(r.fault_at("pcr", at, Fault::Unsupported { found: pcr.into() }));
    }
    let listed = Digest::from_slice(r.take("template_hash", hash)?).unwrap_or_default();
    let at = r.offset();
    let name = name(r)?;
    let Some(template) = Template::from_name(name) else {
        let fault = Fault::Rule("a template with fields of no known kind");
        return Err(r.fault_at("template_name", at, fault));
    };
    let data = if template.is_old() {
        let digest = r.take("template_data.d", 20)?;
        let len = limited(r, "template_data.n_len", MAX_NAME)?;
        let name = r.take("template_data.n", len)?;
        Cow::Owned(old(digest, name))
    } else {
        let len = limited(r, "template_data_len", MAX_DATA)?;
        let at = r.offset();
        let data = r.take("template_data", len)?;
        template.check(data).map_err(|error| ParseError {
            offset: at.saturating_add(error.offset),
            ..error
        })?;
        Cow::Borrowed(data)
    };
    Ok(Entry {
        pcr,
        listed,
        template,
        data,
    })
}

/// What the oldest template hashes: the digest, and the name in a field of fixed size.
pub(super) fn old(digest: &[u8], name: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(20 + OLD_NAME);
    data.extend_from_slice(digest);
    data.extend(name.iter().take(OLD_NAME - 1));
    data.resize(digest.len() + OLD_NAME, 0);
    data
}
