//! What was judged, a line of JSON each, below `target/mutants`: it need not be judged again.
//!
//! A mutant is known by its function's text, so an edit of the function makes it a new one. That a
//! test noticed it counts as long as the row names that test and the test reads as it did.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::paths;

/// What is known of a mutant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Word {
    /// By this test of the table, whose text has this digest.
    Noticed {
        by: String,
        digest: u64,
    },
    DoesNotBuild,
    /// It has to be built by itself, and is not judged yet.
    Alone,
    /// Never believed: a test may notice by now.
    NotNoticed,
}

/// The file of results.
#[derive(Debug)]
pub(super) struct Results {
    known: BTreeMap<String, Word>,
    alone: BTreeSet<String>,
    file: Mutex<File>,
}

/// A number for a text, the same tomorrow: of these it is enough that two seldom meet.
pub(super) fn digest(parts: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

impl Results {
    /// What is known; nothing, if all is to be judged again.
    pub(super) fn open(again: bool) -> Result<Self> {
        let path = path();
        let dir = path.parent().context("a file has a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let text = match fs::read_to_string(&path) {
            _ if again => String::new(),
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let known = read(&text);
        let alone = known.iter().filter(|(_, word)| *word == Word::Alone);
        Ok(Self {
            alone: alone.map(|(key, _)| key.clone()).collect(),
            known: known.into_iter().collect(),
            file: Mutex::new(file.with_context(|| format!("open {}", path.display()))?),
        })
    }

    pub(super) fn of(&self, key: &str) -> Option<&Word> {
        self.known.get(key)
    }

    /// Whether it has to be built by itself.
    pub(super) fn is_alone(&self, key: &str) -> bool {
        self.alone.contains(key)
    }

    /// Adds a line; the last one counts.
    pub(super) fn add(&self, key: &str, name: &str, word: &Word) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{}", line(key, name, word)).context("write what was judged")
    }
}

fn path() -> PathBuf {
    paths::target().join("mutants/results.jsonl")
}

fn line(key: &str, name: &str, word: &Word) -> Value {
    let mut line = json!({"key": key, "name": name, "word": match word {
        Word::Noticed { .. } => "noticed",
        Word::DoesNotBuild => "does not build",
        Word::Alone => "alone",
        Word::NotNoticed => "not noticed",
    }});
    if let Word::Noticed { by, digest } = word {
        line["by"] = json!(by);
        line["digest"] = json!(digest);
    }
    line
}

/// All lines; one cut off by an interruption is nothing.
fn read(text: &str) -> Vec<(String, Word)> {
    let lines = text.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let word = match line["word"].as_str()? {
            "noticed" => Word::Noticed {
                by: line["by"].as_str()?.to_owned(),
                digest: line["digest"].as_u64()?,
            },
            "does not build" => Word::DoesNotBuild,
            "alone" => Word::Alone,
            "not noticed" => Word::NotNoticed,
            _ => return None,
        };
        Some((line["key"].as_str()?.to_owned(), word))
    });
    lines.collect()
}

#[cfg(test)]
mod unit {
    use super::{Word, digest, line, read};

    #[test]
    fn what_was_written_is_read() {
        let noticed = Word::Noticed {
            by: "p::t".into(),
            digest: u64::MAX,
        };
        let lines = [
            line("a", "x", &Word::Alone).to_string(),
            line("a", "x", &noticed).to_string(),
            line("b", "y", &Word::DoesNotBuild).to_string(),
            line("c", "z", &Word::NotNoticed).to_string(),
            "{\"key\": \"d\", \"wo".to_owned(),
        ];
        let want = [
            ("a".to_owned(), noticed),
            ("b".to_owned(), Word::DoesNotBuild),
            ("c".to_owned(), Word::NotNoticed),
        ];
        let mut read = read(&lines.join("\n"));
        assert_eq!(read.remove(0), ("a".to_owned(), Word::Alone));
        assert_eq!(read, want);
    }

    #[test]
    fn a_digest_tells_parts_from_one_another() {
        assert_eq!(digest(&["a", "b"]), digest(&["a", "b"]));
        assert_ne!(digest(&["a", "b"]), digest(&["ab", ""]));
    }
}
