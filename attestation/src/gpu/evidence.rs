//! Files in which evidence is passed around: NVIDIA's JSON, and reports as bytes or hex.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::{Fault, ParseError};

use super::report::MAX_REPORT_BYTES;

/// Longest file of evidence that is read: sixty-four devices of 24 KiB of base64 each, and some.
pub const MAX_EVIDENCE_BYTES: usize = 2 * 1024 * 1024;
/// Devices in one file. A machine has twelve.
const MAX_DEVICES: usize = 64;
/// Longest file of one report: hex, with line ends.
pub const MAX_REPORT_FILE: usize = 3 * MAX_REPORT_BYTES;

/// The evidence of one device, as a file has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredEvidence {
    /// The family it is said to be of: a label, the signed data say what it is.
    pub architecture: Option<String>,
    /// The nonce that it is said to answer.
    pub nonce: Option<[u8; 32]>,
    /// The report.
    pub report: Vec<u8>,
    /// Its certificates, in a form that [`crate::x509::Bundle`] reads.
    pub chain: Vec<u8>,
}

/// Members of the JSON that say nothing signed (versions of software, for instance) are passed by.
#[derive(Deserialize)]
struct Raw {
    arch: Option<String>,
    nonce: Option<String>,
    evidence: String,
    certificate: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Many(Vec<Raw>),
    One(Raw),
    /// What `bailiwick-agent probe gpu` prints.
    Collected {
        evidence: Vec<Raw>,
    },
}

/// Reads a JSON file: a list of devices, one, or what the agent's probe prints.
pub fn parse_evidence(bytes: &[u8]) -> Result<Vec<StoredEvidence>, ParseError> {
    limit(bytes, "file", MAX_EVIDENCE_BYTES)?;
    let file: File = match serde_json::from_slice(bytes) {
        Ok(file) => file,
        Err(_) => return Err(rule("file", "is not JSON with evidence and certificate")),
    };
    let raw = match file {
        File::Many(raw) | File::Collected { evidence: raw } => raw,
        File::One(raw) => vec![raw],
    };
    if raw.is_empty() {
        return Err(rule("file", "holds no device"));
    }
    if raw.len() > MAX_DEVICES {
        return Err(rule("file", "holds more devices than any machine has"));
    }
    raw.into_iter().map(stored).collect()
}

fn stored(raw: Raw) -> Result<StoredEvidence, ParseError> {
    let nonce = match raw.nonce {
        None => None,
        Some(text) => {
            let mut nonce = [0; 32];
            let decoded = hex::decode_to_slice(text.as_bytes(), &mut nonce);
            if decoded.is_err() {
                return Err(rule("nonce", "is not 32 bytes of hex"));
            }
            Some(nonce)
        }
    };
    Ok(StoredEvidence {
        architecture: raw.arch,
        nonce,
        report: packed(&raw.evidence, "evidence")?,
        chain: if raw.certificate.contains("-----BEGIN") {
            raw.certificate.into_bytes()
        } else {
            packed(&raw.certificate, "certificate")?
        },
    })
}

/// Base64; or hex, which older collectors wrote: the base64 of a report, whose fourth byte is
/// `0xff`, or of PEM has other characters than hex digits among its first five.
fn packed(text: &str, field: &'static str) -> Result<Vec<u8>, ParseError> {
    let text: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    if text.iter().all(u8::is_ascii_hexdigit)
        && let Ok(bytes) = hex::decode(&text)
    {
        return Ok(bytes);
    }
    match STANDARD.decode(&text) {
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(rule(field, "is neither base64 nor hex")),
    }
}

/// The bytes of a report in a file: as they are, or as hex. A report is never text: its first
/// byte is a control character.
pub fn unpack_report(bytes: &[u8]) -> Result<Cow<'_, [u8]>, ParseError> {
    limit(bytes, "report", MAX_REPORT_FILE)?;
    let is_text = |byte: &u8| byte.is_ascii_hexdigit() || byte.is_ascii_whitespace();
    if !bytes.iter().all(is_text) {
        return Ok(Cow::Borrowed(bytes));
    }
    let digits: Vec<u8> = bytes
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    match hex::decode(digits) {
        Ok(report) => Ok(Cow::Owned(report)),
        Err(_) => Err(rule("report", "is hex with half a byte")),
    }
}

fn limit(bytes: &[u8], field: &'static str, limit: usize) -> Result<(), ParseError> {
    if bytes.len() <= limit {
        return Ok(());
    }
    let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    Err(ParseError {
        structure: "evidence",
        field,
        offset: 0,
        fault: Fault::TooMany {
            found: as_u64(bytes.len()),
            limit: as_u64(limit),
        },
    })
}

const fn rule(field: &'static str, rule: &'static str) -> ParseError {
    ParseError {
        structure: "evidence",
        field,
        offset: 0,
        fault: Fault::Rule(rule),
    }
}
