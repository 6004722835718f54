//! The claims of a statement, read without what is only shown to people.

use std::collections::{BTreeMap, btree_map::Entry};

use prost::{DecodeError, Message, bytes::Bytes};

use super::StatementRefused;
use crate::proto::v1;

/// Most claims in a statement; an ordinary node makes about a hundred.
const MAX_CLAIMS: usize = 4096;
/// Longest claim name.
const MAX_NAME: usize = 256;

/// Claims the appraiser makes itself; a node that uses the names would speak for it.
const RESERVED: [&str; 7] = [
    "tpm.",
    "fence.",
    "policy.",
    "node.",
    "evidence.",
    "geo.",
    "gpu.",
];

/// What a node says of one named fact.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClaimValue {
    /// Text as the source spells it.
    Text(String),
    /// A count, size or version number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Bytes, for example a digest.
    Data(Vec<u8>),
    /// It could not be read, and why. Not the same as a claim that was never made.
    Unavailable(String),
}

/// [`v1::Statement`], whose claims do not copy their source: it is the longest part of most, and
/// appraisal has no use for it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Statement {
    #[prost(uint32, tag = "1")]
    pub(super) format: u32,
    #[prost(string, tag = "2")]
    pub(super) deployment: String,
    #[prost(string, tag = "3")]
    pub(super) node: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) boot_id: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub(super) epoch: u64,
    #[prost(uint64, tag = "6")]
    pub(super) sequence: u64,
    #[prost(bytes = "vec", optional, tag = "7")]
    pub(super) previous: Option<Vec<u8>>,
    #[prost(uint64, tag = "8")]
    pub(super) wall_time_ms: u64,
    #[prost(uint64, tag = "9")]
    pub(super) boot_time_ns: u64,
    #[prost(bytes = "vec", tag = "10")]
    pub(super) approvers_digest: Vec<u8>,
    #[prost(message, optional, tag = "11")]
    pub(super) policy: Option<v1::PolicyState>,
    #[prost(message, optional, tag = "12")]
    pub(super) fence: Option<v1::FenceState>,
    #[prost(message, repeated, tag = "13")]
    pub(super) claims: Vec<Claim>,
    #[prost(message, repeated, tag = "14")]
    pub(super) logs: Vec<v1::LogDigest>,
    #[prost(message, repeated, tag = "15")]
    pub(super) gaps: Vec<v1::Gap>,
    #[prost(message, optional, tag = "16")]
    pub(super) log: Option<v1::LogHead>,
    #[prost(message, optional, tag = "110")]
    pub(super) gpu: Option<v1::GpuCitation>,
    #[prost(bytes = "vec", tag = "111")]
    pub(super) guest_key: Vec<u8>,
}

/// [`v1::Claim`], its source where it lies in the statement.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Claim {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    source: Bytes,
    #[prost(oneof = "v1::claim::Value", tags = "3, 4, 5, 6, 7")]
    value: Option<v1::claim::Value>,
}

/// Reads what [`v1::Statement`] reads. Of a source that is written twice, which only a stranger's
/// encoder does, the last one counts here too, and the others are not looked at.
pub(super) fn decode(bytes: &[u8]) -> Result<Statement, DecodeError> {
    let statement = Statement::decode(Bytes::copy_from_slice(bytes))?;
    let sources = statement.claims.iter().map(|claim| &claim.source);
    if sources.clone().all(|source| str::from_utf8(source).is_ok()) {
        return Ok(statement);
    }
    // It says where in its own words.
    v1::Statement::decode(bytes)?;
    Ok(statement)
}

/// Facts by name.
pub(super) fn read(raw: Vec<Claim>) -> Result<BTreeMap<String, ClaimValue>, StatementRefused> {
    if raw.len() > MAX_CLAIMS {
        let fault = "has more than 4096 elements";
        return Err(StatementRefused::Field {
            field: "claims",
            fault,
        });
    }
    let mut out = BTreeMap::new();
    for (index, claim) in raw.into_iter().enumerate() {
        let refuse = |name: &str, fault| {
            let name = name.chars().take(80).collect();
            Err(StatementRefused::Claim { index, name, fault })
        };
        let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        if claim.name.is_empty() || claim.name.len() > MAX_NAME || !claim.name.bytes().all(plain) {
            return refuse(
                &claim.name,
                "a name is 1 to 256 of a-z, 0-9, '.', '_' and '-'",
            );
        }
        if RESERVED.iter().any(|prefix| claim.name.starts_with(prefix)) {
            return refuse(
                &claim.name,
                "the appraiser's own names are not the node's to use",
            );
        }
        let value = match claim.value {
            Some(v1::claim::Value::Text(text)) => ClaimValue::Text(text),
            Some(v1::claim::Value::Number(number)) => ClaimValue::Number(number),
            Some(v1::claim::Value::Flag(flag)) => ClaimValue::Flag(flag),
            Some(v1::claim::Value::Data(data)) => ClaimValue::Data(data),
            Some(v1::claim::Value::Unavailable(why)) => ClaimValue::Unavailable(why),
            None => return refuse(&claim.name, "has no value; what could not be read says why"),
        };
        match out.entry(claim.name) {
            Entry::Vacant(place) => place.insert(value),
            Entry::Occupied(other) => return refuse(other.key(), "is made twice"),
        };
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(source: &[u8]) -> Vec<u8> {
        let claim = |name: &str, value| v1::Claim {
            name: name.to_owned(),
            source: "/proc/version".to_owned(),
            value: Some(value),
        };
        let raw = v1::Statement {
            format: 1,
            deployment: "demo".to_owned(),
            node: "gpu-01".to_owned(),
            boot_id: vec![1; 16],
            epoch: 2,
            sequence: 3,
            previous: Some(vec![2; 32]),
            wall_time_ms: 4,
            boot_time_ns: 5,
            approvers_digest: vec![3; 32],
            policy: Some(v1::PolicyState {
                version: 6,
                ..Default::default()
            }),
            fence: Some(v1::FenceState {
                root: "/sys/fs/cgroup".to_owned(),
                ..Default::default()
            }),
            claims: vec![
                claim("a", v1::claim::Value::Text("6.12".to_owned())),
                claim("b", v1::claim::Value::Number(0)),
                claim("c", v1::claim::Value::Flag(true)),
                claim("d", v1::claim::Value::Data(vec![0xff; 3])),
                claim("e", v1::claim::Value::Unavailable("no".to_owned())),
            ],
            logs: vec![v1::LogDigest {
                name: "boot".to_owned(),
                ..Default::default()
            }],
            gaps: vec![v1::Gap {
                reason: "full".to_owned(),
                ..Default::default()
            }],
            log: Some(v1::LogHead {
                size: 7,
                ..Default::default()
            }),
            gpu: Some(v1::GpuCitation {
                asked_boot_ns: 8,
                ..Default::default()
            }),
            guest_key: vec![9; 32],
        };
        let mut bytes = raw.encode_to_vec();
        let at = bytes
            .windows(13)
            .position(|window| window == b"/proc/version")
            .unwrap();
        bytes[at..at + source.len()].copy_from_slice(source);
        bytes
    }

    #[test]
    fn every_field_of_a_statement_is_read() {
        let bytes = statement(b"/proc/version");
        assert_eq!(decode(&bytes).unwrap().encode_to_vec(), bytes);
        let whole = v1::Statement::decode(bytes.as_slice()).unwrap();
        assert_eq!(whole.encode_to_vec(), bytes, "the two agree on all fields");
    }

    #[test]
    fn a_source_that_is_no_text_is_refused_in_the_words_of_the_whole() {
        let bytes = statement(b"/proc\xff");
        let want = v1::Statement::decode(bytes.as_slice()).unwrap_err();
        assert_eq!(decode(&bytes), Err(want));
    }
}
