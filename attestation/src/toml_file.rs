//! TOML files that people write and sign: every complaint names file, line and key.

use std::cell::OnceCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::DeserializeOwned;

/// A line of a file that does not say what it may say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileError {
    /// Path as the bundle or the caller names it.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Dotted key nearest to the fault, for example `allow.jurisdictions`; empty at the top.
    pub key: String,
    /// What is wrong, in a reader's words.
    pub fault: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.fault)
    }
}

impl std::error::Error for FileError {}

/// Where something stands in a file: what a complaint or an explanation points at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Path as the bundle or the caller names it.
    pub file: Arc<str>,
    /// Line, counted from 1.
    pub line: usize,
    /// Dotted key nearest to it; empty at the top.
    pub key: String,
}

impl Place {
    /// A complaint about what stands here.
    pub fn error(&self, fault: impl Into<String>) -> FileError {
        FileError {
            file: self.file.to_string(),
            line: self.line,
            key: self.key.clone(),
            fault: fault.into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        Ok(())
    }
}

/// One TOML file: the name to blame and the text to read.
#[derive(Debug)]
pub struct TomlFile<'a> {
    path: Arc<str>,
    text: &'a str,
    /// Built when the first place is asked for.
    lines: OnceCell<Vec<Line<'a>>>,
}

/// Where a line begins, and the table and key in force when it ends.
#[derive(Debug)]
struct Line<'a> {
    start: usize,
    table: &'a str,
    key: &'a str,
}

impl<'a> TomlFile<'a> {
    /// Takes bytes that may be no text at all; `limit` is the most that is read.
    pub fn new(path: &str, bytes: &'a [u8], limit: usize) -> Result<Self, FileError> {
        let refuse = |line, fault| {
            Err(FileError {
                file: path.to_owned(),
                line,
                key: String::new(),
                fault,
            })
        };
        if bytes.len() > limit {
            let fault = format!("{} bytes exceed the limit of {limit}", bytes.len());
            return refuse(1, fault);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self {
                path: path.into(),
                text,
                lines: OnceCell::new(),
            }),
            Err(err) => {
                let good = bytes.get(..err.valid_up_to()).unwrap_or_default();
                let line = good
                    .iter()
                    .filter(|b| **b == b'\n')
                    .count()
                    .saturating_add(1);
                refuse(line, "is not UTF-8".to_owned())
            }
        }
    }

    /// Reads the whole file into `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FileError> {
        toml::from_str(self.text).map_err(|err| {
            let start = err.span().map_or(0, |span| span.start);
            let (line, table, mut key) = self.locate(start);
            if err.message().starts_with("missing field") {
                // The span is the table's, so the first key in it is not to blame.
                key = "";
            }
            let fault = err.message().replace('\n', "; ");
            self.name(line, table, key).error(fault)
        })
    }

    /// Where the bytes in `span` stand.
    #[must_use]
    pub fn place(&self, span: Range<usize>) -> Place {
        let (line, table, key) = self.locate(span.start);
        self.name(line, table, key)
    }

    /// A complaint about the bytes in `span`.
    pub fn error(&self, span: Range<usize>, fault: impl Into<String>) -> FileError {
        self.place(span).error(fault)
    }

    fn name(&self, line: usize, table: &str, key: &str) -> Place {
        let dot = if table.is_empty() || key.is_empty() {
            ""
        } else {
            "."
        };
        Place {
            file: Arc::clone(&self.path),
            line,
            key: format!("{table}{dot}{key}"),
        }
    }

    /// Line, table and key at a byte offset.
    fn locate(&self, offset: usize) -> (usize, &'a str, &'a str) {
        let lines = self.lines.get_or_init(|| index(self.text));
        let number = lines.partition_point(|line| line.start <= offset);
        match number.checked_sub(1).and_then(|last| lines.get(last)) {
            Some(line) => (number, line.table, line.key),
            None => (1, "", ""),
        }
    }
}

/// The parser has no key for what it has not understood, so the text is asked: the last table
/// header and the last assignment up to each line.
fn index(text: &str) -> Vec<Line<'_>> {
    let (mut table, mut key) = ("", "");
    let mut start = 0_usize;
    let mut lines = Vec::new();
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if let Some(rest) = trimmed.strip_prefix('[') {
            // A line of a multi-line array may begin with '[' too; it names no table.
            let name = rest.trim_start_matches('[').split(']').next().unwrap_or("");
            if is_key(name) {
                (table, key) = (name.trim(), "");
            }
        } else if let Some((name, _)) = trimmed.split_once('=')
            && is_key(name)
        {
            key = name.trim();
        }
        lines.push(Line { start, table, key });
        start = start.saturating_add(line.len());
    }
    lines
}

/// Whether the text could be a dotted key, quoted parts included.
fn is_key(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty()
        && text.len() <= 128
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'' | ' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the refusals are looked at")]
    struct Probe {
        name: String,
        #[serde(default)]
        allow: std::collections::BTreeMap<String, Vec<String>>,
    }

    #[test]
    fn complaints_name_file_line_and_key() {
        let cases: &[(&str, &[u8], &str)] = &[
            ("no text", b"a\n\xff", "p.toml:2: is not UTF-8"),
            (
                "too long",
                &[b' '; 101],
                "p.toml:1: 101 bytes exceed the limit of 100",
            ),
            ("nothing", b"", "p.toml:1: missing field `name`"),
            (
                "unknown key",
                b"name = 'a'\n\nnmae = 'b'\n",
                "p.toml:3: nmae: unknown field `nmae`, expected `name` or `allow`",
            ),
            (
                "wrong type in a table",
                b"name = 'a'\n[allow]\nx = [\n 'a',\n 7,\n]\n",
                "p.toml:5: allow.x: invalid type: integer `7`, expected a string",
            ),
            (
                "cut short",
                b"name = ",
                "p.toml:1: name: string values must be quoted, expected literal string",
            ),
            (
                "twice",
                b"name = 'a'\nname = 'b'",
                "p.toml:2: name: duplicate key",
            ),
        ];
        for (name, bytes, want) in cases {
            let got = TomlFile::new("p.toml", bytes, 100)
                .and_then(|file| file.parse::<Probe>())
                .unwrap_err();
            assert_eq!(got.to_string(), *want, "{name}");
        }
    }
}
