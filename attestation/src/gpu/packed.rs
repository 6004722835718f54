//! DER as operators bring it: as it stands, in base64, or in PEM.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Fault, ParseError};
use crate::x509::pem_blocks;

/// What a file is, how PEM labels it, and how long it may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed {
    pub(super) structure: &'static str,
    pub(super) label: &'static str,
    pub(super) most: usize,
}

impl Packed {
    /// The DER in a file, told apart by content: DER is not text.
    pub(super) fn der(self, bytes: &[u8]) -> Result<Cow<'_, [u8]>, ParseError> {
        let refuse = |fault| ParseError {
            structure: self.structure,
            field: "file",
            offset: 0,
            fault,
        };
        if bytes.len() > self.most {
            let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            return Err(refuse(Fault::TooMany {
                found: as_u64(bytes.len()),
                limit: as_u64(self.most),
            }));
        }
        if bytes.starts_with(b"-----BEGIN ") {
            let text = String::from_utf8_lossy(bytes);
            let block = pem_blocks(&text, self.label, 1)?.pop();
            let none = || refuse(Fault::Rule("has no block of this kind"));
            return block.map(Cow::Owned).ok_or_else(none);
        }
        let in_text = |byte: &u8| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'+' | b'/' | b'=')
                || byte.is_ascii_whitespace()
        };
        if bytes.is_empty() || !bytes.iter().all(in_text) {
            return Ok(Cow::Borrowed(bytes));
        }
        let packed: Vec<u8> = bytes
            .iter()
            .copied()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        match STANDARD.decode(packed) {
            Ok(der) => Ok(Cow::Owned(der)),
            Err(_) => Err(refuse(Fault::Rule("is neither DER nor base64 of it"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_der_or_text_around_it_and_no_longer_than_it_may_be() {
        let packed = Packed {
            structure: "Test",
            label: "TEST",
            most: 64,
        };
        let der = [0x30, 3, 2, 1, 7];
        let text = format!("-----BEGIN TEST-----\n{}\n-----END TEST-----\n", "MAMCAQc=");
        let (most, more) = ([0x80; 64], [0x80; 65]);
        type Row<'a> = (&'a str, &'a [u8], Result<&'a [u8], &'a str>);
        let rows: [Row<'_>; 7] = [
            ("DER", &der, Ok(&der)),
            ("base64", b"MAMC\nAQc=\n", Ok(&der)),
            ("PEM", text.as_bytes(), Ok(&der)),
            ("as long as may be", &most, Ok(&most)),
            ("longer", &more, Err("65")),
            ("no base64", b"MAMCAQ", Err("neither DER nor base64")),
            ("nothing", b"", Ok(b"")),
        ];
        for (name, file, want) in rows {
            match (packed.der(file), want) {
                (Ok(found), Ok(want)) => assert_eq!(&*found, want, "{name}"),
                (Err(refused), Err(want)) => {
                    assert!(refused.to_string().contains(want), "{name}: {refused}");
                }
                (found, want) => panic!("{name}: {found:?}, {want:?}"),
            }
        }
    }
}
