//! An act that matters by itself: an enrolment, a policy, a retirement.

use super::{lines::Lines, receipt::LogEntryError};
use crate::ids::{Sha256Digest, UnixTime};

/// First line of every entry; another version is another line.
const HEADER: &str = "bailiwick act v1";
/// Longest subject: a node id, `ek-…`, or a kind of manifest.
const SUBJECT: usize = 200;

/// What was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ActKind {
    /// A TPM answered and got a certificate. Body: `Enrolment`, serialized.
    Enrolment,
    /// Approvers' manifest was applied. Body: the manifest.
    Policy,
    /// Approvers took a TPM out of service. Body: lines `ek …`, `manifest …`, `reason …`.
    Retirement,
    /// An operator revoked a transport certificate. Body: lines `ek …`, `certificate …`.
    Revocation,
    /// An operator let go of a held cause. Body: lines `cause …`, `by …`, `reason …`.
    Brake,
    /// Keys were destroyed. Body: the [`ErasureCertificate`](super::ErasureCertificate).
    Erasure,
    /// A node's verdict turned. Body: the [`Turn`](super::Turn).
    Verdict,
    /// A guest came back that another had followed: two run under one name. Body: the `Enrolment` it
    /// asked for, serialized, with its processor's report in it.
    Duplicate,
}

impl ActKind {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Enrolment,
        Self::Policy,
        Self::Retirement,
        Self::Revocation,
        Self::Brake,
        Self::Erasure,
        Self::Verdict,
        Self::Duplicate,
    ];

    /// The word in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enrolment => "enrolment",
            Self::Policy => "policy",
            Self::Retirement => "retirement",
            Self::Revocation => "revocation",
            Self::Brake => "brake",
            Self::Erasure => "erasure",
            Self::Verdict => "verdict",
            Self::Duplicate => "duplicate",
        }
    }

    /// The kind a word stands for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What the log commits to for one act. Plain lines: header, kind, subject, body, at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ActEntry {
    /// What was done.
    pub kind: ActKind,
    /// To which node (its id, or `ek-…`), or which manifest.
    pub subject: String,
    /// SHA-256 of the act's body.
    pub body: Sha256Digest,
    /// When, by the collector's clock.
    pub at: UnixTime,
}

impl ActEntry {
    /// The bytes that are hashed into the log.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        format!(
            "{HEADER}\nkind {}\nsubject {}\nbody {}\nat {}\n",
            self.kind.as_str(),
            self.subject,
            self.body,
            self.at.millis(),
        )
        .into_bytes()
    }

    /// Reads an entry back; only the one spelling [`ActEntry::to_bytes`] writes is accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogEntryError> {
        let mut lines = Lines::new(bytes, HEADER, "not an act of version 1")?;
        let kind = ActKind::from_word(lines.text("kind")?)
            .ok_or_else(|| lines.fail("not a kind of act"))?;
        let subject = lines.text("subject")?;
        if subject.is_empty() || subject.len() > SUBJECT || subject.chars().any(char::is_control) {
            return Err(lines.fail("not a subject"));
        }
        let entry = Self {
            kind,
            subject: subject.to_owned(),
            body: lines.digest("body")?,
            at: lines.time("at")?,
        };
        lines.finish(&entry.to_bytes())?;
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_act_has_one_spelling() {
        for kind in ActKind::ALL {
            let act = ActEntry {
                kind,
                subject: "gpu-01".to_owned(),
                body: Sha256Digest::of(&[b"body"]),
                at: UnixTime(1_800_000_000_123),
            };
            assert_eq!(ActEntry::parse(&act.to_bytes()), Ok(act));
        }
        let digest = "11".repeat(32);
        let good = format!("{HEADER}\nkind policy\nsubject world\nbody {digest}\nat 7\n");
        assert!(ActEntry::parse(good.as_bytes()).is_ok());
        let longest = good.replace("world", &"w".repeat(200));
        assert!(ActEntry::parse(longest.as_bytes()).is_ok());
        let upper = digest.replace('1', "A");
        let cases: &[(&str, String, &str)] = &[
            (
                "another header",
                good.replace("act v1", "act v2"),
                "log entry, line 1: not an act of version 1",
            ),
            (
                "a statement",
                good.replace("act v1", "statement v1"),
                "log entry, line 1: not an act of version 1",
            ),
            (
                "another kind",
                good.replace("policy", "gossip"),
                "log entry, line 2: not a kind of act",
            ),
            (
                "no subject",
                good.replace("subject world", "subject "),
                "log entry, line 3: not a subject",
            ),
            (
                "a subject too long",
                good.replace("world", &"w".repeat(201)),
                "log entry, line 3: not a subject",
            ),
            (
                "a subject with a bell",
                good.replace("world", "wo\u{7}rld"),
                "log entry, line 3: not a subject",
            ),
            (
                "another spelling",
                good.replace(&digest, &upper),
                "log entry, line 4: not a SHA-256 digest",
            ),
            (
                "leading zero",
                good.replace("at 7", "at 07"),
                "log entry, line 6: not the canonical spelling",
            ),
            (
                "no number",
                good.replace("at 7", "at x"),
                "log entry, line 5: not a decimal number",
            ),
            (
                "one line more",
                format!("{good}more\n"),
                "log entry, line 6: not the canonical spelling",
            ),
            (
                "cut",
                good.trim_end().to_owned(),
                "log entry, line 6: not the canonical spelling",
            ),
        ];
        for (name, text, want) in cases {
            let refused = ActEntry::parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused.to_string(), *want, "{name}");
        }
        assert!(ActEntry::parse(&[0xff]).is_err());
    }
}
