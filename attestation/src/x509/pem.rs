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

/// One block, as RFC 7468 writes it: 64 characters a line.
#[must_use]
pub fn pem_block(label: &str, bytes: &[u8]) -> String {
    let packed = STANDARD.encode(bytes);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = packed.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for length in [0_usize, 1, 47, 48, 49, 96, 1000] {
            let bytes = vec![0x5a; length];
            let text = pem_block("CERTIFICATE", &bytes);
            assert!(text.lines().all(|line| line.len() <= 64), "{length}");
            let read = pem_blocks(&text, "CERTIFICATE", 1).unwrap();
            assert_eq!(read, [bytes], "{length}");
        }
    }
}
