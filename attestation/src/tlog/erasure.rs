//! What is left when keys were destroyed: a certificate, whose digest stands in the log.

use super::{lines::Lines, receipt::LogEntryError};
use crate::ids::{Sha256Digest, UnixTime};

/// First line; another version is another line.
const HEADER: &str = "bailiwick erasure v1";

/// Keys are gone from the collector's key store. Plain lines, so that a page of script reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ErasureCertificate {
    /// Whose.
    pub study: String,
    /// Of which subject buckets, comma-separated; `*`: of all.
    pub buckets: String,
    /// Of which retention class; `*`: of all.
    pub retention: String,
    /// SHA-256 of the manifest by which approvers said so.
    pub manifest: Sha256Digest,
    /// How many keys are gone.
    pub keys: u64,
    /// Which: SHA-256 over their ids, ascending.
    pub keys_digest: Sha256Digest,
    /// When.
    pub destroyed: UnixTime,
}

impl ErasureCertificate {
    /// The bytes that an act of the log is about.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        format!(
            "{HEADER}\nstudy {}\nbuckets {}\nretention {}\nmanifest {}\nkeys {}\nkeys-digest {}\n\
             destroyed {}\n",
            self.study,
            self.buckets,
            self.retention,
            self.manifest,
            self.keys,
            self.keys_digest,
            self.destroyed.millis(),
        )
        .into_bytes()
    }

    /// Reads an entry back; only the one spelling [`ErasureCertificate::to_bytes`] writes is accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogEntryError> {
        let mut lines = Lines::new(bytes, HEADER, "not an erasure certificate of version 1")?;
        let entry = Self {
            study: lines.text("study")?.to_owned(),
            buckets: lines.text("buckets")?.to_owned(),
            retention: lines.text("retention")?.to_owned(),
            manifest: lines.digest("manifest")?,
            keys: lines.number("keys")?,
            keys_digest: lines.digest("keys-digest")?,
            destroyed: lines.time("destroyed")?,
        };
        lines.finish(&entry.to_bytes())?;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::LogEntry;

    fn entry() -> ErasureCertificate {
        ErasureCertificate {
            study: "cardio".to_owned(),
            buckets: "b-01,b-02".to_owned(),
            retention: "*".to_owned(),
            manifest: Sha256Digest([4; 32]),
            keys: 3,
            keys_digest: Sha256Digest([5; 32]),
            destroyed: UnixTime(1_800_000_000_123),
        }
    }

    #[test]
    fn an_entry_has_one_spelling() {
        let bytes = entry().to_bytes();
        assert_eq!(ErasureCertificate::parse(&bytes), Ok(entry()));
        assert!(LogEntry::parse(&bytes).is_err(), "nor is it a statement's");
        let text = String::from_utf8(bytes).unwrap();
        let cases = [
            ("header", text.replace("v1", "v2"), 1),
            ("study", text.replace("study ", "name "), 2),
            ("manifest", text.replace("0404", "04"), 5),
            ("keys", text.replace("keys 3", "keys three"), 6),
            ("leading zero", text.replace("keys 3", "keys 03"), 9),
            ("digest", text.replace("keys-digest 05", "keys-digest 0"), 7),
            ("a line more", format!("{text}\n"), 9),
            (
                "a line short",
                text.replace("destroyed 1800000000123\n", ""),
                8,
            ),
        ];
        for (name, text, line) in cases {
            let refused = ErasureCertificate::parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused.line, line, "{name}");
        }
    }
}
