//! SSH signatures over files: `ssh-keygen -Y sign`, OpenSSH's PROTOCOL.sshsig.
//!
//! The format is six fields, so it is read here, field by field and with offsets in its errors;
//! the arithmetic is the provider's.

mod key;
mod signature;
#[cfg(test)]
mod tests;

use bailiwick_attestation::{Fault, ParseError, Reader};

pub use key::{KeyFault, PublicKey};
pub use signature::{SIGNATURE_LIMIT, SignatureFault, SshSignature, dearmor};

/// RFC 4251 §5 `string`: four bytes of length, then that many bytes.
fn string<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], ParseError> {
    let (offset, len) = (reader.offset(), reader.u32(field)?);
    match usize::try_from(len) {
        Ok(len) => reader.take(field, len),
        Err(_) => Err(reader.fault_at(field, offset, Fault::Unsupported { found: len.into() })),
    }
}

/// A `string` that holds text.
fn text<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a str, ParseError> {
    let offset = reader.offset();
    let bytes = string(reader, field)?;
    std::str::from_utf8(bytes)
        .map_err(|_err| reader.fault_at(field, offset, Fault::Rule("is not UTF-8")))
}

/// RFC 4251 §5 `mpint`, positive and in its one shortest spelling; the magnitude, no sign byte.
fn mpint<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], ParseError> {
    let offset = reader.offset();
    let bytes = string(reader, field)?;
    let refuse = |rule| Err(reader.fault_at(field, offset, Fault::Rule(rule)));
    match bytes {
        [] | [0] => refuse("is zero"),
        [0, next, ..] if *next < 0x80 => refuse("has a second spelling (leading zero)"),
        [0, rest @ ..] => Ok(rest),
        [first, ..] if *first >= 0x80 => refuse("is negative"),
        _ => Ok(bytes),
    }
}
