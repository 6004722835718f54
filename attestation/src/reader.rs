//! Takes fields off the front of untrusted bytes; knows structure, field and offset of each.

use crate::error::{Fault, ParseError};

/// A cursor over one structure. Big-endian unless a method's name ends in `_le`.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    structure: &'static str,
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`, which claim to be a `structure`.
    #[must_use]
    pub const fn new(structure: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            structure,
            rest: bytes,
            offset: 0,
        }
    }

    /// Starts `offset` bytes into the structure, where another reader left it, under another name;
    /// at the end if it is shorter.
    #[must_use]
    pub fn starting(structure: &'static str, bytes: &'a [u8], offset: usize) -> Self {
        let offset = offset.min(bytes.len());
        Self {
            structure,
            rest: bytes.get(offset..).unwrap_or_default(),
            offset,
        }
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// What has not been taken yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error about `field` at the current offset.
    #[must_use]
    pub const fn fault(&self, field: &'static str, fault: Fault) -> ParseError {
        self.fault_at(field, self.offset, fault)
    }

    /// An error about `field`, which began at `offset`.
    #[must_use]
    pub const fn fault_at(&self, field: &'static str, offset: usize, fault: Fault) -> ParseError {
        ParseError {
            structure: self.structure,
            field,
            offset,
            fault,
        }
    }

    /// Exactly `len` bytes.
    pub fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], ParseError> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.fault(
                field,
                Fault::Truncated {
                    want: len,
                    left: self.rest.len(),
                },
            ));
        };
        self.rest = rest;
        self.offset += len;
        Ok(head)
    }

    /// Exactly `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ParseError> {
        self.array_ref(field).copied()
    }

    /// Exactly `N` bytes, where they stand.
    pub fn array_ref<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<&'a [u8; N], ParseError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.fault(
                field,
                Fault::Truncated {
                    want: N,
                    left: self.rest.len(),
                },
            ));
        };
        self.rest = rest;
        self.offset += N;
        Ok(head)
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, ParseError> {
        self.array::<1>(field).map(u8::from_be_bytes)
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, ParseError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, ParseError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, ParseError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// Eight bytes, little-endian.
    pub fn u64_le(&mut self, field: &'static str) -> Result<u64, ParseError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// Two bytes, little-endian.
    pub fn u16_le(&mut self, field: &'static str) -> Result<u16, ParseError> {
        self.array(field).map(u16::from_le_bytes)
    }

    /// Four bytes, little-endian.
    pub fn u32_le(&mut self, field: &'static str) -> Result<u32, ParseError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// A `u32` that can have one value only.
    pub fn expect_u32(&mut self, field: &'static str, want: u32) -> Result<(), ParseError> {
        let offset = self.offset;
        let found = self.u32(field)?;
        if found == want {
            return Ok(());
        }
        let fault = Fault::Mismatch {
            found: found.into(),
            want: want.into(),
        };
        Err(self.fault_at(field, offset, fault))
    }

    /// A `TPM2B`: two bytes of length, at most `limit`, then that many bytes.
    pub fn sized_u16(
        &mut self,
        size_field: &'static str,
        field: &'static str,
        limit: u16,
    ) -> Result<&'a [u8], ParseError> {
        let offset = self.offset;
        let len = self.u16(size_field)?;
        if len > limit {
            let fault = Fault::TooMany {
                found: len.into(),
                limit: limit.into(),
            };
            return Err(self.fault_at(size_field, offset, fault));
        }
        self.take(field, len.into())
    }

    /// Ends the structure: bytes that follow have no defined meaning and are refused.
    pub fn finish(self) -> Result<(), ParseError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(self.fault("end", Fault::Trailing(self.rest.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_structure_field_and_offset() {
        let mut r = Reader::new("TPMS_DEMO", &[0, 1, 2]);
        assert_eq!(r.u16("first").unwrap(), 1);
        assert_eq!(
            r.u16("second").unwrap_err().to_string(),
            "TPMS_DEMO.second at offset 2: needs 2 bytes, 1 left"
        );
        assert_eq!(
            r.finish().unwrap_err().to_string(),
            "TPMS_DEMO.end at offset 2: 1 bytes too many"
        );
    }

    #[test]
    fn sized_fields_are_bounded_before_they_are_taken() {
        let mut r = Reader::new("TPM2B_DEMO", &[0xff, 0xff]);
        assert_eq!(
            r.sized_u16("size", "buffer", 64).unwrap_err().to_string(),
            "TPM2B_DEMO.size at offset 0: 65535 exceeds the limit of 64"
        );
    }
}
