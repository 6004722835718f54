//! Walks DER that may not be canonical where it does not matter, and knows where it is.
//!
//! The decoder for lengths, integers and times is the `der` crate's, which is strict. Only the
//! order inside a `SET OF` and the byte of a `BOOLEAN` are left alone: makers of TPMs got them wrong
//! and signed them.

use der::asn1::AnyRef;
use der::{Decode, Reader as _, SliceReader, Tag, TagNumber, Tagged};

use crate::error::{Fault, ParseError};

/// A cursor over the content of one constructed value.
#[derive(Clone)]
pub(crate) struct Walk<'a> {
    structure: &'static str,
    reader: SliceReader<'a>,
    /// Where the content begins, from the start of the outermost structure.
    base: usize,
}

impl<'a> Walk<'a> {
    /// Starts at the first byte of `bytes`, which claim to be a `structure`.
    pub(crate) fn new(structure: &'static str, bytes: &'a [u8]) -> Result<Self, ParseError> {
        let reader = SliceReader::new(bytes)
            .map_err(|error| ParseError::from_der(structure, "length", &error))?;
        Ok(Self {
            structure,
            reader,
            base: 0,
        })
    }

    fn position(&self) -> usize {
        usize::try_from(u32::from(self.reader.position())).unwrap_or_default()
    }

    fn wrong(&self, field: &'static str, error: &der::Error) -> ParseError {
        let mut found = ParseError::from_der(self.structure, field, error);
        found.offset += self.base;
        found
    }

    /// An error about `field` at the current offset.
    pub(crate) fn rule(&self, field: &'static str, rule: &'static str) -> ParseError {
        ParseError {
            structure: self.structure,
            field,
            offset: self.base + self.position(),
            fault: Fault::Rule(rule),
        }
    }

    /// Reads a value of a type the `der` crate knows.
    pub(crate) fn read<T: Decode<'a, Error = der::Error>>(
        &mut self,
        field: &'static str,
    ) -> Result<T, ParseError> {
        match self.reader.decode() {
            Ok(value) => Ok(value),
            Err(error) => Err(self.wrong(field, &error)),
        }
    }

    /// The next value, tag and length included, as it stands.
    pub(crate) fn raw(&mut self, field: &'static str) -> Result<&'a [u8], ParseError> {
        match self.reader.tlv_bytes() {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(self.wrong(field, &error)),
        }
    }

    /// The next value, whatever its tag.
    pub(crate) fn any(&mut self, field: &'static str) -> Result<(Tag, &'a [u8]), ParseError> {
        let any: AnyRef<'a> = self.read(field)?;
        Ok((any.tag(), any.value()))
    }

    /// A `BOOLEAN`. DER has one byte for TRUE; some makers have another, which BER reads as TRUE too.
    pub(crate) fn boolean(&mut self, field: &'static str) -> Result<bool, ParseError> {
        let start = self.clone();
        match self.any(field)? {
            (Tag::Boolean, [byte]) => Ok(*byte != 0),
            _ => Err(start.rule(field, "is no truth value of one byte")),
        }
    }

    /// Steps into a value with that tag.
    pub(crate) fn enter(&mut self, field: &'static str, tag: Tag) -> Result<Walk<'a>, ParseError> {
        let start = self.base + self.position();
        let (found, content) = self.any(field)?;
        if found != tag {
            return Err(ParseError {
                structure: self.structure,
                field,
                offset: start,
                fault: Fault::Der(found.unexpected_error(Some(tag))),
            });
        }
        let mut inner = Walk::new(self.structure, content)?;
        inner.base = self.base + self.position().saturating_sub(content.len());
        Ok(inner)
    }

    /// The tag of the next value, if there is one.
    pub(crate) fn peek(&self) -> Option<Tag> {
        Tag::peek(&self.reader).ok()
    }

    /// The next value has that context-specific tag.
    pub(crate) fn at_context(&self, number: TagNumber) -> bool {
        matches!(self.peek(), Some(Tag::ContextSpecific { number: found, .. }) if found == number)
    }

    /// Nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.reader.is_finished()
    }

    /// Ends the structure.
    pub(crate) fn finish(self, field: &'static str) -> Result<(), ParseError> {
        if self.is_empty() {
            return Ok(());
        }
        Err(self.rule(field, "is followed by bytes that belong to nothing"))
    }
}

/// The constructed context-specific tag of that number.
pub(crate) const fn context(number: u32) -> Tag {
    Tag::ContextSpecific {
        constructed: true,
        number: TagNumber(number),
    }
}
