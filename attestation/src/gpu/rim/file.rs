//! The forms in which a RIM is kept: XML, base64 of it, and the answer of NVIDIA's RIM service.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::xml::MAX_XML;
use crate::error::{Fault, ParseError};

/// Longest file that is read: the largest document in base64, line ends and JSON around it.
pub const MAX_RIM_FILE: usize = 2 * MAX_XML;

/// What the service answers. The digest it adds is of the document, which is signed anyway.
#[derive(Deserialize)]
struct Answer {
    rim: String,
}

/// The document inside a file.
pub(super) fn document(bytes: &[u8]) -> Result<Cow<'_, [u8]>, ParseError> {
    if bytes.len() > MAX_RIM_FILE {
        let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        return Err(fault(Fault::TooMany {
            found: as_u64(bytes.len()),
            limit: as_u64(MAX_RIM_FILE),
        }));
    }
    let content = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let content = content.trim_ascii_start();
    match content.first() {
        // White space before a document matters only where a declaration follows; the reader of
        // the document says so.
        Some(b'<') => Ok(Cow::Borrowed(bytes)),
        Some(b'{') => match serde_json::from_slice::<Answer>(content) {
            Ok(answer) => unpacked(answer.rim.as_bytes()),
            Err(_) => Err(fault(Fault::Rule("is not the JSON of the RIM service"))),
        },
        _ => unpacked(content),
    }
}

fn unpacked(text: &[u8]) -> Result<Cow<'static, [u8]>, ParseError> {
    let packed: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    match STANDARD.decode(packed) {
        Ok(document) => Ok(Cow::Owned(document)),
        Err(_) => Err(fault(Fault::Rule("is neither XML nor base64 of it"))),
    }
}

fn fault(fault: Fault) -> ParseError {
    ParseError {
        structure: "RIM",
        field: "file",
        offset: 0,
        fault,
    }
}
