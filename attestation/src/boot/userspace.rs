//! What systemd measured after the firmware's log ended: `/run/log/systemd/tpm2-measure.log`.
//!
//! A sequence of JSON texts (RFC 7464), close to the TCG's Canonical Event Log in JSON: register,
//! digests, and what was measured in words. Like the firmware's log it is a claim until a register
//! replays, and its words count where the digest is their hash.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::replay::Replay;
use crate::crypto::{Digest, HashAlgorithm};

/// What begins a record.
const RECORD: u8 = 0x1e;
/// Most records: phases, disks and logins of a boot, for years.
const MAX_RECORDS: usize = 4096;
/// Longest record, bytes; real ones have some hundred.
const MAX_RECORD: usize = 16 * 1024;
/// One more than the highest register.
const REGISTERS: u8 = 24;
/// The register that phases of the boot are measured into.
const PHASES: u8 = 11;

/// Longest log that is read, bytes.
pub const MAX_USERSPACE_LOG: usize = 1 << 20;

/// Why bytes are not such a log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UserspaceLogError {
    /// More bytes or records than any boot has.
    #[error("{found} {what} exceed the limit of {limit}")]
    TooMany {
        /// Bytes or records.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// The most that is read.
        limit: usize,
    },
    /// Something stands before the first record.
    #[error("the log does not begin with a record")]
    Start,
    /// A record that is none.
    #[error("record {record}, {field}: {fault}")]
    Record {
        /// From 1.
        record: usize,
        /// Member of the record.
        field: &'static str,
        /// What is wrong.
        fault: String,
    },
}

impl UserspaceLogError {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooMany { .. } => "userspace-log-too-long",
            Self::Start | Self::Record { .. } => "userspace-log-malformed",
        }
    }
}

/// One measurement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserspaceEvent {
    /// The register it was extended into.
    pub register: u8,
    /// What with, by bank; of banks without a name here, nothing.
    pub digests: BTreeMap<HashAlgorithm, Digest>,
    /// `phase`, `filesystem`, `machine-id`: what systemd says it is.
    pub kind: Option<String>,
    /// What was measured, in words, or what it was made of where that is secret.
    pub text: Option<String>,
}

/// The log read whole. Nothing in it is believed yet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct UserspaceLog {
    /// In the order in which registers were extended; what went into an NV index is left out.
    pub events: Vec<UserspaceEvent>,
}

#[derive(Deserialize)]
struct RawRecord {
    pcr: Option<u8>,
    nv_index: Option<u32>,
    digests: Vec<RawDigest>,
    content_type: Option<String>,
    content: Option<RawContent>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDigest {
    hash_alg: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContent {
    string: Option<String>,
    event_type: Option<String>,
}

impl UserspaceLog {
    /// Reads every record. An empty log is one: nothing has been measured yet.
    pub fn parse(bytes: &[u8]) -> Result<Self, UserspaceLogError> {
        if bytes.len() > MAX_USERSPACE_LOG {
            return Err(UserspaceLogError::TooMany {
                what: "bytes",
                found: bytes.len(),
                limit: MAX_USERSPACE_LOG,
            });
        }
        let mut records = bytes.split(|byte| *byte == RECORD);
        // What stands before the first mark, which is nothing.
        if !records.next().unwrap_or_default().trim_ascii().is_empty() {
            return Err(UserspaceLogError::Start);
        }
        let mut log = Self::default();
        let mut numbered = (1..).zip(records).peekable();
        while let Some((number, record)) = numbered.next() {
            if number > MAX_RECORDS {
                return Err(UserspaceLogError::TooMany {
                    what: "records",
                    found: number,
                    limit: MAX_RECORDS,
                });
            }
            let last = numbered.peek().is_none();
            if last && !record.ends_with(b"\n") {
                // It was still being written.
                break;
            }
            let event = event(record).map_err(|(field, fault)| UserspaceLogError::Record {
                record: number,
                field,
                fault,
            })?;
            log.events.extend(event);
        }
        Ok(log)
    }

    /// The events of one register, in order.
    pub fn of(&self, register: u8) -> impl Iterator<Item = &UserspaceEvent> {
        let events = self.events.iter();
        events.filter(move |event| event.register == register)
    }

    /// Extends the registers of a replay by these events. A register that an event extends in
    /// banks other than this one has no value any more.
    pub fn extend(&self, replay: &mut Replay) {
        let zero = Digest::from_slice(&vec![0; replay.bank.digest_len()]).unwrap_or_default();
        for event in &self.events {
            let register = u32::from(event.register);
            if replay.unknown.contains(&register) {
                continue;
            }
            let old = replay
                .values
                .remove(&register)
                .unwrap_or_else(|| zero.clone());
            match event.after(replay.bank, &old) {
                Some(value) => {
                    replay.values.insert(register, value);
                }
                None => {
                    replay.unknown.insert(register);
                }
            }
        }
    }

    /// How many events of a register lead from one value to another; `None`: no number does.
    #[must_use]
    pub fn leads(
        &self,
        bank: HashAlgorithm,
        register: u8,
        from: &Digest,
        to: &Digest,
    ) -> Option<usize> {
        let mut value = from.clone();
        if value == *to {
            return Some(0);
        }
        for (count, event) in (1..).zip(self.of(register)) {
            value = event.after(bank, &value)?;
            if value == *to {
                return Some(count);
            }
        }
        None
    }

    /// The phases among the first events of their register, as far as their words were measured.
    #[must_use]
    pub fn phases(&self, bank: HashAlgorithm, events: usize) -> Vec<&str> {
        let proven = self.of(PHASES).take(events).filter_map(|event| {
            let text = event.text.as_deref()?;
            let hash = bank.digest(&[text.as_bytes()])?;
            let phase = event.kind.as_deref().is_none_or(|kind| kind == "phase");
            (phase && event.digests.get(&bank) == Some(&hash)).then_some(text)
        });
        proven.collect()
    }
}

impl UserspaceEvent {
    fn after(&self, bank: HashAlgorithm, value: &Digest) -> Option<Digest> {
        let digest = self.digests.get(&bank)?;
        bank.digest(&[value.as_slice(), digest.as_slice()])
    }
}

type Fault = (&'static str, String);

fn event(record: &[u8]) -> Result<Option<UserspaceEvent>, Fault> {
    if record.len() > MAX_RECORD {
        let fault = format!("{} bytes exceed the limit of {MAX_RECORD}", record.len());
        return Err(("record", fault));
    }
    let Some(record) = record.strip_suffix(b"\n") else {
        return Err(("record", "has no end".to_owned()));
    };
    let raw: RawRecord =
        serde_json::from_slice(record).map_err(|error| ("record", error.to_string()))?;
    let register = match (raw.pcr, raw.nv_index) {
        (Some(register), None) if register < REGISTERS => register,
        (None, Some(_)) => return Ok(None),
        _ => return Err(("pcr", "is not the index of a PCR".to_owned())),
    };
    let mut digests = BTreeMap::new();
    for one in &raw.digests {
        let bytes = hex::decode(&one.digest)
            .ok()
            .ok_or_else(|| ("digests.digest", "is not hexadecimal".to_owned()))?;
        let Some(bank) = HashAlgorithm::from_name(&one.hash_alg) else {
            continue;
        };
        let digest = Digest::from_slice(&bytes).filter(|_| bytes.len() == bank.digest_len());
        let digest = digest.ok_or_else(|| {
            let fault = format!("is not as long as a {bank} digest");
            ("digests.digest", fault)
        })?;
        if digests.insert(bank, digest).is_some() {
            return Err(("digests.hashAlg", format!("names {bank} twice")));
        }
    }
    // What others write into such a log says other things in its content.
    let systemd = raw.content_type.is_none_or(|kind| kind == "systemd");
    let (text, kind) = match raw.content.filter(|_| systemd) {
        Some(content) => (content.string, content.event_type),
        None => (None, None),
    };
    Ok(Some(UserspaceEvent {
        register,
        digests,
        kind,
        text,
    }))
}
