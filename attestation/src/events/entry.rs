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
/// Most flows counted in one entry, so that it stays within its bound.
pub const MAX_FLOWS: usize = 128;
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
            What::Denial(ref denial) if denial.sampled > 0 => "sample",
            What::Denial(_) => "event",
            What::Policy(_) => "policy",
            What::Lease(_) => "lease",
            What::BreakGlass(_) => "break-glass",
            What::KeyMade(_) => "key",
            What::KeysErased(_) => "erasure",
            What::Flows(_) => "flows",
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
                ("denial.device", &denial.device),
                ("denial.change", &denial.change),
            ] {
                name(field, text)?;
            }
            if (denial.verdict == "allow") != (denial.sampled > 0) {
                return rule("denial.sampled", "goes with the verdict `allow` alone");
            }
            if denial.others && denial.sealing.is_some() {
                return rule("denial.others", "stands for many, and has no private half");
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
        What::Flows(counted) => flows(counted),
    }
}

fn flows(counted: &v1::FlowsCounted) -> Result<(), EntryRefused> {
    if counted.flows.len() > MAX_FLOWS {
        return rule("flows.flows", "has more than 128 elements");
    }
    if counted.to_boot_ns < counted.from_boot_ns || counted.to_ms < counted.from_ms {
        return rule("flows.to_ms", "is before the time it counts from");
    }
    for flow in &counted.flows {
        name("flows.flows.study", &flow.study)?;
        name("flows.flows.jurisdiction", &flow.jurisdiction)?;
        if !matches!(flow.direction.as_str(), "egress" | "ingress") {
            return rule("flows.flows.direction", "is neither egress nor ingress");
        }
        if flow.packets == 0 || i64::try_from(flow.packets.max(flow.bytes)).is_err() {
            return rule("flows.flows.packets", "is 0, or exceeds 2^63 - 1");
        }
    }
    if i64::try_from(counted.other_packets.max(counted.other_bytes)).is_err() {
        return rule("flows.other_packets", "exceeds 2^63 - 1");
    }
    Ok(())
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

    fn sample() -> v1::Denial {
        v1::Denial {
            verdict: "allow".to_owned(),
            sampled: 100,
            ..denial()
        }
    }

    fn flows_of(count: u64) -> v1::FlowsCounted {
        let flow = |packets| v1::flows_counted::Flow {
            study: "cardio".to_owned(),
            jurisdiction: "DE".to_owned(),
            direction: "egress".to_owned(),
            packets,
            bytes: 100 * packets,
        };
        v1::FlowsCounted {
            from_boot_ns: 5,
            to_boot_ns: 9,
            from_ms: 1,
            to_ms: 1,
            flows: (1..=count).map(flow).collect(),
            ..v1::FlowsCounted::default()
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
            (4, What::Denial(sample()), "sample"),
            (5, What::Flows(flows_of(128)), "flows"),
            (
                6,
                What::KeysErased(v1::KeysErased {
                    manifest_digest: vec![1; 32],
                    key_ids: vec![vec![2; 16]; MAX_KEYS],
                }),
                "erasure",
            ),
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
                "escape in what was changed",
                |e| of(e).change.push('\u{1b}'),
                "LogEntry.denial.change: ",
            ),
            (
                "long device",
                |e| of(e).device = "x".repeat(257),
                "LogEntry.denial.device: ",
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
                "a sample that was denied",
                |e| of(e).sampled = 1,
                "LogEntry.denial.sampled: goes with",
            ),
            (
                "allowed, and no sample",
                |e| of(e).verdict = "allow".to_owned(),
                "LogEntry.denial.sampled: goes with",
            ),
            (
                "many with one private half",
                |e| of(e).others = true,
                "LogEntry.denial.others: stands for",
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
        type Miscount = fn(&mut v1::FlowsCounted);
        let miscounts: &[(&str, Miscount, &str)] = &[
            ("many", |f| *f = flows_of(129), "flows: has more"),
            ("none passed", |f| f.flows[0].packets = 0, "packets: is 0"),
            (
                "beyond",
                |f| f.flows[0].bytes = 1 << 63,
                "packets: is 0, or exceeds",
            ),
            (
                "sideways",
                |f| f.flows[0].direction = "out".to_owned(),
                "direction: is neither",
            ),
            (
                "back in time",
                |f| f.to_boot_ns = 4,
                "to_ms: is before the time",
            ),
            (
                "back by the wall clock",
                |f| f.to_ms = 0,
                "to_ms: is before",
            ),
            (
                "others beyond",
                |f| f.other_bytes = 1 << 63,
                "other_packets: exceeds",
            ),
            (
                "escape",
                |f| f.flows[0].jurisdiction.push('\n'),
                "jurisdiction: has",
            ),
        ];
        for (name, edit, want) in miscounts {
            let mut counted = flows_of(2);
            edit(&mut counted);
            let bytes = entry(7, What::Flows(counted)).encode_to_vec();
            let refused = Entry::parse(&bytes).unwrap_err().to_string();
            assert!(refused.contains(want), "{name}: {refused}");
        }
        let receipt = What::EpochBegan(v1::EpochBegan {
            last_receipt: vec![0; 31],
            ..v1::EpochBegan::default()
        });
        let refused = Entry::parse(&entry(0, receipt).encode_to_vec()).unwrap_err();
        assert!(refused.to_string().contains("last_receipt"), "{refused}");
        // Filled up by a field that is newer than this version.
        let mut long = entry(7, What::Denial(denial())).encode_to_vec();
        let left = MAX_ENTRY - long.len() - 4;
        long.extend([0xa2, 0x06]);
        prost::encode_length_delimiter(left, &mut long).unwrap();
        long.resize(MAX_ENTRY, 0);
        assert!(Entry::parse(&long).is_ok());
        long.push(0);
        let found = MAX_ENTRY + 1;
        assert_eq!(Entry::parse(&long), Err(EntryRefused::TooLong { found }));
        assert!(matches!(
            Entry::parse(&[0xff]),
            Err(EntryRefused::Decode(_))
        ));
    }
}
