//! PEM as it is found in the field: comments between the blocks, any line length.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Fault, ParseError};

/// Reads every block labelled `label` and leaves out other text and other labels.
///
/// More blocks than `limit` are refused. `offset` in an error counts from the start of the text.
pub fn pem_blocks(text: &str, label: &str, limit: usize) -> Result<Vec<Vec<u8>>, ParseError> {
    let begin = format!("-----BEGIN {label}-----");
    let end = format!("-----END {label}-----");
    let mut blocks = Vec::new();
    let mut offset = 0;
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(&begin) {
        let body_at = offset + before.len() + begin.len();
        let fault = |fault| ParseError {
            structure: "PEM",
            field: "block",
            offset: body_at,
            fault,
        };
        let Some((body, after)) = after.split_once(&end) else {
            return Err(fault(Fault::Rule("has no end")));
        };
        if blocks.len() == limit {
            let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            return Err(fault(Fault::TooMany {
                found: as_u64(limit).saturating_add(1),
                limit: as_u64(limit),
            }));
        }
        let packed: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let bytes = STANDARD.decode(packed);
        blocks.push(bytes.map_err(|_error| fault(Fault::Rule("is not base64")))?);
        offset = body_at + body.len() + end.len();
        rest = after;
    }
    Ok(blocks)
}
