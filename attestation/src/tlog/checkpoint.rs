//! C2SP `tlog-checkpoint`: origin, size and root of a log as the text of a signed note.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::note::{NoteError, NoteSigner, NoteVerifier, SignedNote};
use crate::ids::Sha256Digest;

/// What a log commits to at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// Name of the log, without scheme: `log.example/bailiwick/eu/2026`.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Sha256Digest,
}

/// Why a checkpoint is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CheckpointError {
    /// The note is malformed, or not signed by the log's key.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The note's text is not a checkpoint.
    #[error("checkpoint, line {line}: {fault}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// The rule it breaks.
        fault: &'static str,
    },
}

impl Checkpoint {
    /// The text a log signs.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            STANDARD.encode(self.root.as_bytes())
        )
    }

    /// Reads the text of a note. Extension lines are allowed and passed over.
    pub fn from_text(text: &str) -> Result<Self, CheckpointError> {
        let refuse = |line, fault| Err(CheckpointError::Malformed { line, fault });
        let mut lines = text.split('\n');
        let origin = match lines.next() {
            Some(origin) if !origin.is_empty() => origin.to_owned(),
            _ => return refuse(1, "no origin"),
        };
        let digits = lines.next().unwrap_or_default();
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        let leading_zero = digits.len() > 1 && digits.starts_with('0');
        let size = match digits.parse() {
            Ok(size) if plain && !leading_zero => size,
            _ => return refuse(2, "the size is not a plain decimal number"),
        };
        let root = STANDARD
            .decode(lines.next().unwrap_or_default())
            .ok()
            .and_then(|bytes| Sha256Digest::from_slice(&bytes));
        let Some(root) = root else {
            return refuse(3, "the root is not base64 of 32 bytes");
        };
        if !text.ends_with('\n') {
            return refuse(3, "the last line does not end");
        }
        Ok(Self { origin, size, root })
    }

    /// The signed note.
    pub fn sign(&self, signer: &NoteSigner) -> Result<String, NoteError> {
        signer.sign(&self.to_text())
    }

    /// Reads a note, checks the log's signature and that origin and key agree.
    pub fn verify(note: &[u8], log: &NoteVerifier) -> Result<Self, CheckpointError> {
        let checkpoint = Self::from_text(SignedNote::parse(note)?.verify(log)?)?;
        if checkpoint.origin != log.name() {
            return Err(CheckpointError::Malformed {
                line: 1,
                fault: "origin of another log",
            });
        }
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_faults_name_the_line() {
        let checkpoint = Checkpoint {
            origin: "log.example/eu".to_owned(),
            size: 20_852_163,
            root: Sha256Digest([7; 32]),
        };
        let text = checkpoint.to_text();
        assert_eq!(Checkpoint::from_text(&text).unwrap(), checkpoint);
        let extended = format!("{text}an extension line\n");
        assert_eq!(Checkpoint::from_text(&extended).unwrap(), checkpoint);

        let not_a_number = "checkpoint, line 2: the size is not a plain decimal number";
        let cases = [
            ("empty", String::new(), "checkpoint, line 1: no origin"),
            ("sign", text.replace("\n2", "\n+2"), not_a_number),
            ("zero", text.replace("\n2", "\n02"), not_a_number),
            (
                "root",
                text.replace("BwcH", "BwcH!"),
                "checkpoint, line 3: the root is not base64 of 32 bytes",
            ),
            (
                "cut",
                text.trim_end().to_owned(),
                "checkpoint, line 3: the last line does not end",
            ),
        ];
        for (name, text, want) in cases {
            assert_eq!(
                Checkpoint::from_text(&text).unwrap_err().to_string(),
                want,
                "{name}"
            );
        }
    }
}
