//! A node's verdict that turned: what it was, what it is, and by which statement.

use super::{lines::Lines, receipt::LogEntryError};
use crate::ids::Sha256Digest;

/// First line; another version is another line.
const HEADER: &str = "bailiwick verdict v1";
/// Where no statement turned it: the node said nothing for too long.
const SILENCE: &str = "silence";
/// Longest word for a verdict.
const WORD: usize = 32;

/// What an act of kind `verdict` is about. Plain lines, so that a page of script reads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Turn {
    /// The node's TPM.
    pub ek: Sha256Digest,
    /// What was concluded before: `none` before the first.
    pub from: String,
    /// What is concluded now.
    pub to: String,
    /// SHA-256 of the statement that turned it; `None`: silence did.
    pub statement: Option<Sha256Digest>,
}

impl Turn {
    /// The bytes that an act of the log is about.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let by = self.statement.map(|digest| digest.to_string());
        format!(
            "{HEADER}\nek {}\nfrom {}\nto {}\nstatement {}\n",
            self.ek,
            self.from,
            self.to,
            by.as_deref().unwrap_or(SILENCE),
        )
        .into_bytes()
    }

    /// Reads one back; only the one spelling [`Turn::to_bytes`] writes is accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogEntryError> {
        let mut lines = Lines::new(bytes, HEADER, "not a turn of verdict of version 1")?;
        let ek = lines.digest("ek")?;
        let from = word(&mut lines, "from")?;
        let to = word(&mut lines, "to")?;
        if from == to {
            return Err(lines.fail("no turn: it was so before"));
        }
        let statement = match lines.text("statement")? {
            SILENCE => None,
            digest => Some(
                Sha256Digest::try_from(digest.to_owned())
                    .map_err(|_digest| lines.fail("not a SHA-256 digest"))?,
            ),
        };
        let turn = Self {
            ek,
            from,
            to,
            statement,
        };
        lines.finish(&turn.to_bytes())?;
        Ok(turn)
    }
}

fn word(lines: &mut Lines<'_>, name: &'static str) -> Result<String, LogEntryError> {
    let text = lines.text(name)?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
    if text.is_empty() || text.len() > WORD || !text.bytes().all(plain) {
        return Err(lines.fail("not a verdict"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_has_one_spelling() {
        let turn = Turn {
            ek: Sha256Digest([4; 32]),
            from: "affirming".to_owned(),
            to: "contraindicated".to_owned(),
            statement: Some(Sha256Digest([5; 32])),
        };
        let silent = Turn {
            to: "stale".to_owned(),
            statement: None,
            ..turn.clone()
        };
        let longest = Turn {
            from: "a".repeat(32),
            ..turn.clone()
        };
        for good in [&turn, &silent, &longest] {
            assert_eq!(Turn::parse(&good.to_bytes()).as_ref(), Ok(good));
        }
        let text = String::from_utf8(turn.to_bytes()).unwrap();
        let cases = [
            ("header", text.replace("v1", "v2"), 1),
            ("ek", text.replace("ek 0404", "ek 04"), 2),
            ("from", text.replace("from affirming", "from Affirming"), 3),
            ("no word", text.replace("from affirming", "from "), 3),
            (
                "a long word",
                text.replace("from affirming", &format!("from {}", "a".repeat(33))),
                3,
            ),
            (
                "to what it was",
                text.replace("contraindicated", "affirming"),
                4,
            ),
            ("statement", text.replace("statement 05", "statement 0"), 5),
            ("a line more", format!("{text}more\n"), 6),
            ("cut", text.trim_end().to_owned(), 6),
        ];
        for (name, text, line) in cases {
            let refused = Turn::parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused.line, line, "{name}");
        }
        assert!(Turn::parse(&[0xff]).is_err());
    }
}
