//! One entry of a node's log, read once into a form that cannot be wrong.

use prost::Message;

use crate::{
    ids::{Sha256Digest, UnixTime},
    proto::v1::{self, log_entry::What},
    tlog::leaf_hash,
};

/// Longest entry. An ordinary denial has some 200 bytes.
pub const MAX_ENTRY: usize = 16 * 1024;
/// Longest sealed half, or wrapped key, beside an entry.
pub const MAX_SEALED: usize = 16 * 1024;
/// Longest name or reason in an entry.
const MAX_NAME: usize = 256;
/// Most keys erased at once, so that the entry stays within its bound.
const MAX_KEYS: usize = 512;
/// The format this version writes and reads.
const FORMAT: u32 = 1;

/// Bytes that are no entry of a node's log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EntryRefused {
    /// Longer than any honest entry.
    #[error("LogEntry: {found} bytes exceed the limit of {MAX_ENTRY}")]
    TooLong {
        /// Bytes given.
        found: usize,
    },
    /// Not a protocol buffer of this shape.
    #[error("LogEntry: {0}")]
    Decode(String),
    /// A field that breaks a rule of the format.
    #[error("LogEntry.{field}: {fault}")]
    Field {
        /// Which.
        field: &'static str,
        /// The rule.
        fault: &'static str,
    },
}

impl EntryRefused {
    /// Stable word for answers, logs and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "entry-malformed"
    }
}

/// A well-formed entry. Whether it stands in the log is for the log's root to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its leaf: SHA-256(0x00 ‖ the bytes as sent).
    pub leaf: Sha256Digest,
    /// Epoch of the log.
    pub epoch: u64,
    /// Place in it, from 0.
    pub index: u64,
    /// The node's word about when it happened, UTC.
    pub wall_time: UnixTime,
    /// `CLOCK_BOOTTIME` when it happened, ns.
    pub boot_time_ns: u64,
    /// What happened.
    pub what: What,
}

impl Entry {
    /// Reads the bytes as they are hashed.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryRefused> {
        if bytes.len() > MAX_ENTRY {
            return Err(EntryRefused::TooLong { found: bytes.len() });
        }
        let raw =
            v1::LogEntry::decode(bytes).map_err(|error| EntryRefused::Decode(error.to_string()))?;
        if raw.format != FORMAT {
            return rule("format", "is not 1");
        }
        let Some(what) = raw.what else {
            return rule("what", "is absent or newer than this version");
        };
        if (raw.index == 0) != matches!(what, What::EpochBegan(_)) {
            return rule("index", "0 is where an epoch begins, and nothing else does");
        }
        if i64::try_from(raw.index).is_err() || i64::try_from(raw.epoch).is_err() {
            return rule("index", "index or epoch exceeds 2^63 - 1");
        }
        check(&what)?;
        Ok(Self {
            leaf: leaf_hash(bytes),
            epoch: raw.epoch,
            index: raw.index,
            wall_time: UnixTime(raw.wall_time_ms),
            boot_time_ns: raw.boot_time_ns,
            what,
        })
    }

    /// The bytes of an entry, as they are hashed and sent. `parse` reads what comes out.
    #[must_use]
    pub fn compose(
        (epoch, index): (u64, u64),
        wall_time: UnixTime,
        boot_time_ns: u64,
        what: What,
    ) -> Vec<u8> {
        v1::LogEntry {
            format: FORMAT,
            epoch,
            index,
            wall_time_ms: wall_time.millis(),
            boot_time_ns,
            what: Some(what),
        }
        .encode_to_vec()
    }

    /// One word for what happened.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.what {
            What::EpochBegan(_) => "epoch",
            What::BootBegan(_) => "boot",
            What::Denial(_) => "event",
            What::Policy(_) => "policy",
            What::Lease(_) => "lease",
            What::BreakGlass(_) => "break-glass",
            What::KeyMade(_) => "key",
            What::KeysErased(_) => "erasure",
        }
    }
}

fn rule<T>(field: &'static str, fault: &'static str) -> Result<T, EntryRefused> {
    Err(EntryRefused::Field { field, fault })
}

fn check(what: &What) -> Result<(), EntryRefused> {
    match what {
        What::EpochBegan(epoch) => {
            if !matches!(epoch.last_receipt.len(), 0 | 32) {
                return rule("epoch_began.last_receipt", "must have 32 bytes, or none");
            }
            name("epoch_began.reason", &epoch.reason)
        }
        What::BootBegan(boot) => {
            length("boot_began.boot_id", &boot.boot_id, 16)?;
            name("boot_began.agent_version", &boot.agent_version)
        }
        What::Denial(denial) => {
            for (field, text) in [
                ("denial.study", &denial.study),
                ("denial.direction", &denial.direction),
                ("denial.jurisdiction", &denial.jurisdiction),
                ("denial.rule", &denial.rule),
                ("denial.verdict", &denial.verdict),
                ("denial.hook", &denial.hook),
            ] {
                name(field, text)?;
            }
            let Some(sealing) = &denial.sealing else {
                return Ok(());
            };
            length("denial.sealing.key_id", &sealing.key_id, 16)?;
            length("denial.sealing.salt", &sealing.salt, 16)?;
            length("denial.sealing.commitment", &sealing.commitment, 32)
        }
        What::Policy(policy) => {
            name("policy.kind", &policy.kind)?;
            length("policy.manifest_digest", &policy.manifest_digest, 32)
        }
        What::Lease(_) => Ok(()),
        What::BreakGlass(used) => length("break_glass.manifest_digest", &used.manifest_digest, 32),
        What::KeyMade(key) => {
            length("key_made.key_id", &key.key_id, 16)?;
            name("key_made.study", &key.study)?;
            name("key_made.bucket", &key.bucket)?;
            name("key_made.retention", &key.retention)?;
            name("key_made.key_store", &key.key_store)?;
            length("key_made.wrapped_digest", &key.wrapped_digest, 32)
        }
        What::KeysErased(erased) => {
            length("keys_erased.manifest_digest", &erased.manifest_digest, 32)?;
            if erased.key_ids.len() > MAX_KEYS {
                return rule("keys_erased.key_ids", "has more than 512 elements");
            }
            let mut all = erased.key_ids.iter();
            all.try_for_each(|id| length("keys_erased.key_ids", id, 16))
        }
    }
}

fn length(field: &'static str, bytes: &[u8], want: usize) -> Result<(), EntryRefused> {
    if bytes.len() == want {
        return Ok(());
    }
    rule(field, "has another length")
}

/// Names end up in tables and terminals: bounded, and without control characters.
fn name(field: &'static str, text: &str) -> Result<(), EntryRefused> {
    if text.len() > MAX_NAME || text.chars().any(char::is_control) {
        return rule(field, "has more than 256 bytes, or control characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial() -> v1::Denial {
        v1::Denial {
            study: "cardio".to_owned(),
            rule: "jurisdiction".to_owned(),
            count: 3,
            sealing: Some(v1::Sealing {
                key_id: vec![1; 16],
                salt: vec![2; 16],
                commitment: vec![3; 32],
            }),
            ..v1::Denial::default()
        }
    }

    fn entry(index: u64, what: What) -> v1::LogEntry {
        v1::LogEntry {
            format: 1,
            epoch: 2,
            index,
            wall_time_ms: 5,
            boot_time_ns: 6,
            what: Some(what),
        }
    }

    fn key() -> v1::KeyMade {
        v1::KeyMade {
            key_id: vec![1; 16],
            wrapped_digest: vec![2; 32],
            ..v1::KeyMade::default()
        }
    }

    #[test]
    fn what_is_composed_is_read_and_its_leaf_is_over_the_very_bytes() {
        let began = What::EpochBegan(v1::EpochBegan::default());
        let kinds: &[(u64, What, &str)] = &[
            (0, began, "epoch"),
            (
                1,
                What::BootBegan(v1::BootBegan {
                    boot_id: vec![1; 16],
                    ..v1::BootBegan::default()
                }),
                "boot",
            ),
            (2, What::Denial(denial()), "event"),
            (3, What::KeyMade(key()), "key"),
        ];
        for (index, what, kind) in kinds {
            let bytes = Entry::compose((2, *index), UnixTime(5), 6, what.clone());
            let read = Entry::parse(&bytes).unwrap();
            assert_eq!((read.epoch, read.index, read.kind()), (2, *index, *kind));
            assert_eq!((read.wall_time, read.boot_time_ns), (UnixTime(5), 6));
            assert_eq!(read.leaf, Sha256Digest::of(&[&[0], &bytes]));
        }
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        type Edit = fn(&mut v1::LogEntry);
        fn of(entry: &mut v1::LogEntry) -> &mut v1::Denial {
            match &mut entry.what {
                Some(What::Denial(denial)) => denial,
                other => panic!("{other:?}"),
            }
        }
        fn sealing(entry: &mut v1::LogEntry) -> &mut v1::Sealing {
            of(entry).sealing.as_mut().unwrap()
        }
        let cases: &[(&str, Edit, &str)] = &[
            ("format", |e| e.format = 2, "LogEntry.format: is not 1"),
            ("nothing", |e| e.what = None, "LogEntry.what: "),
            (
                "no epoch before it",
                |e| e.index = 0,
                "LogEntry.index: 0 is",
            ),
            (
                "an epoch in the middle",
                |e| e.what = Some(What::EpochBegan(v1::EpochBegan::default())),
                "LogEntry.index: 0 is",
            ),
            ("beyond", |e| e.index = 1 << 63, "LogEntry.index: index or"),
            ("epoch", |e| e.epoch = 1 << 63, "LogEntry.index: index or"),
            (
                "long name",
                |e| of(e).rule = "x".repeat(257),
                "LogEntry.denial.rule: ",
            ),
            (
                "escape",
                |e| of(e).study.push('\u{1b}'),
                "LogEntry.denial.study: ",
            ),
            (
                "key",
                |e| sealing(e).key_id.push(0),
                "LogEntry.denial.sealing.key_id: has another length",
            ),
            (
                "salt",
                |e| sealing(e).salt.clear(),
                "LogEntry.denial.sealing.salt: has another length",
            ),
            (
                "commitment",
                |e| sealing(e).commitment.truncate(31),
                "LogEntry.denial.sealing.commitment: has another length",
            ),
            (
                "boot id",
                |e| e.what = Some(What::BootBegan(v1::BootBegan::default())),
                "LogEntry.boot_began.boot_id: has another length",
            ),
            (
                "manifest",
                |e| e.what = Some(What::Policy(v1::PolicyApplied::default())),
                "LogEntry.policy.manifest_digest: has another length",
            ),
            (
                "wrapped",
                |e| {
                    let mut bad = key();
                    bad.wrapped_digest.clear();
                    e.what = Some(What::KeyMade(bad));
                },
                "LogEntry.key_made.wrapped_digest: has another length",
            ),
            (
                "break-glass",
                |e| e.what = Some(What::BreakGlass(v1::BreakGlassUsed::default())),
                "LogEntry.break_glass.manifest_digest: has another length",
            ),
            (
                "many keys",
                |e| {
                    e.what = Some(What::KeysErased(v1::KeysErased {
                        manifest_digest: vec![0; 32],
                        key_ids: vec![vec![0; 16]; 513],
                    }));
                },
                "LogEntry.keys_erased.key_ids: has more",
            ),
            (
                "short key",
                |e| {
                    e.what = Some(What::KeysErased(v1::KeysErased {
                        manifest_digest: vec![0; 32],
                        key_ids: vec![vec![0; 15]],
                    }));
                },
                "LogEntry.keys_erased.key_ids: has another length",
            ),
        ];
        for (name, edit, want) in cases {
            let mut bad = entry(7, What::Denial(denial()));
            edit(&mut bad);
            let refused = Entry::parse(&bad.encode_to_vec()).unwrap_err();
            assert!(refused.to_string().starts_with(want), "{name}: {refused}");
        }
        let receipt = What::EpochBegan(v1::EpochBegan {
            last_receipt: vec![0; 31],
            ..v1::EpochBegan::default()
        });
        let refused = Entry::parse(&entry(0, receipt).encode_to_vec()).unwrap_err();
        assert!(refused.to_string().contains("last_receipt"), "{refused}");
        let long = vec![0; MAX_ENTRY + 1];
        let found = MAX_ENTRY + 1;
        assert_eq!(Entry::parse(&long), Err(EntryRefused::TooLong { found }));
        assert!(matches!(
            Entry::parse(&[0xff]),
            Err(EntryRefused::Decode(_))
        ));
    }
}
