//! What `inspect` found, and how it is printed.

use std::error::Error;
use std::io::Write as _;

use bailiwick_attestation::ParseError;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Exit, Output};

/// Something wrong, or worth knowing.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    /// Stable, kebab-case.
    code: &'static str,
    /// Where in which structure, if it is the bytes that are wrong.
    structure: Option<&'static str>,
    field: Option<&'static str>,
    offset: Option<usize>,
    /// For a person.
    detail: String,
}

impl Finding {
    /// A finding in words.
    pub(super) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            structure: None,
            field: None,
            offset: None,
            detail: detail.into(),
        }
    }

    /// A finding at a place: field of a structure that begins `offset` bytes into the file.
    pub(super) fn at(
        code: &'static str,
        structure: &'static str,
        field: &'static str,
        offset: Option<usize>,
        detail: String,
    ) -> Self {
        Self {
            code,
            structure: Some(structure),
            field: Some(field),
            offset,
            detail,
        }
    }

    /// Says which of several inputs it is about.
    pub(super) fn prefix(&mut self, what: &str) {
        self.detail = format!("{what}: {}", self.detail);
    }

    /// A refusal of the library: its text with all causes, and the place if it knows one.
    pub(super) fn from_error(code: &'static str, error: &(dyn Error + 'static)) -> Self {
        let mut found = Self::new(code, error.to_string());
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(place) = error.downcast_ref::<ParseError>() {
                found.structure = Some(place.structure);
                found.field = Some(place.field);
                found.offset = Some(place.offset);
            }
            cause = error.source();
            if let Some(next) = cause {
                found.detail = format!("{}: {next}", found.detail);
            }
        }
        found
    }
}

/// What one piece of evidence is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Refused,
    Undecided,
}

/// The answer of `inspect`.
#[derive(Debug)]
pub(super) struct Report {
    kind: &'static str,
    undecided: bool,
    refusals: Vec<Finding>,
    warnings: Vec<Finding>,
    facts: Map<String, Value>,
    /// What a person is shown in place of the facts.
    lines: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Printed<'a> {
    kind: &'a str,
    verdict: Verdict,
    refusals: &'a [Finding],
    warnings: &'a [Finding],
    facts: &'a Map<String, Value>,
}

impl Report {
    /// Nothing found yet.
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            undecided: false,
            refusals: Vec::new(),
            warnings: Vec::new(),
            facts: Map::new(),
            lines: None,
        }
    }

    /// Shows a person these lines in place of the facts, which are too many.
    pub(super) fn show(&mut self, lines: Vec<String>) {
        self.lines = Some(lines);
    }

    /// The evidence is not accepted.
    pub(super) fn refuse(&mut self, finding: Finding) {
        self.refusals.push(finding);
    }

    /// Accepted all the same.
    pub(super) fn warn(&mut self, finding: Finding) {
        self.warnings.push(finding);
    }

    /// Something needed for a verdict was not given.
    pub(super) fn undecided(&mut self, finding: Finding) {
        self.undecided = true;
        self.warnings.push(finding);
    }

    /// Codes of all that was found: refusals, then warnings.
    #[cfg(test)]
    pub(super) fn codes(&self) -> Vec<&'static str> {
        let all = self.refusals.iter().chain(&self.warnings);
        all.map(|finding| finding.code).collect()
    }

    /// States a fact.
    pub(super) fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    fn verdict(&self) -> Verdict {
        if !self.refusals.is_empty() {
            Verdict::Refused
        } else if self.undecided {
            Verdict::Undecided
        } else {
            Verdict::Ok
        }
    }

    /// The verdict as exit code.
    pub(super) fn exit(&self) -> Exit {
        match self.verdict() {
            Verdict::Ok => Exit::Good,
            Verdict::Refused => Exit::Refused,
            Verdict::Undecided => Exit::CouldNotTell,
        }
    }

    /// Prints to stdout.
    pub(super) fn print(&self, output: Output) -> anyhow::Result<()> {
        let text = match output {
            Output::Json => serde_json::to_string_pretty(&Printed {
                kind: self.kind,
                verdict: self.verdict(),
                refusals: &self.refusals,
                warnings: &self.warnings,
                facts: &self.facts,
            })?,
            Output::Table => self.table(),
        };
        writeln!(std::io::stdout().lock(), "{text}")?;
        Ok(())
    }

    fn table(&self) -> String {
        let verdict = match self.verdict() {
            Verdict::Ok => "ok",
            Verdict::Refused => "REFUSED",
            Verdict::Undecided => "undecided",
        };
        let mut lines = vec![format!("{}: {verdict}", self.kind)];
        for (mark, findings) in [("refused", &self.refusals), ("warning", &self.warnings)] {
            for found in findings {
                lines.push(format!(
                    "  {mark:<9} {:<22} {}",
                    found.code,
                    printable(&found.detail)
                ));
            }
        }
        if let Some(shown) = &self.lines {
            lines.extend(shown.iter().map(|line| format!("  {}", printable(line))));
            return lines.join("\n");
        }
        let width = self.facts.keys().map(String::len).max().unwrap_or_default();
        for (name, value) in &self.facts {
            lines.push(format!("  {name:<width$}  {}", plain(value)));
        }
        lines.join("\n")
    }
}

/// A value as a person writes it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            items.join(", ")
        }
        other => other.to_string(),
    }
}

/// Text from evidence must not drive the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
