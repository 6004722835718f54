//! Every way in which cargo-mutants would break a file.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::cmd;

/// One way to break a guarded function.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Mutant {
    pub(super) package: String,
    pub(super) file: String,
    /// With its type, without type parameters.
    pub(super) function: String,
    /// What cargo-mutants calls it: place, change and function.
    pub(super) name: String,
    pub(super) genre: Genre,
    /// What is replaced, the end not included.
    pub(super) from: Place,
    pub(super) to: Place,
    pub(super) replacement: String,
}

/// What kind of place is broken.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Genre {
    Body,
    Binary,
    Unary,
    Arm,
    Guard,
    Field,
    /// One that a later cargo-mutants knows and we do not.
    Other,
}

/// Line and column, from one on; a column is a character.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// All mutants of these files.
pub(super) fn of_files(files: &BTreeSet<&str>) -> Result<Vec<Mutant>> {
    let mut list = cmd::cargo();
    list.args(["mutants", "--list", "--json"])
        .env("PATH", cmd::path_with_tools()?);
    for file in files {
        list.args(["--file", file]);
    }
    parse(&cmd::output(&mut list)?)
}

/// What cargo-mutants lists.
fn parse(json: &str) -> Result<Vec<Mutant>> {
    let list: Vec<Value> = serde_json::from_str(json).context("cargo mutants --list --json")?;
    list.iter().map(mutant).collect()
}

fn mutant(value: &Value) -> Result<Mutant> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&value["name"]);
    let place = |value: &Value| {
        place(value).with_context(|| format!("cargo mutants --list --json: no place: {name}"))
    };
    Ok(Mutant {
        package: text(&value["package"]),
        file: text(&value["file"]),
        function: without_parameters(&text(&value["function"]["function_name"])),
        genre: genre(value["genre"].as_str().unwrap_or_default()),
        from: place(&value["span"]["start"])?,
        to: place(&value["span"]["end"])?,
        replacement: text(&value["replacement"]),
        name,
    })
}

fn genre(word: &str) -> Genre {
    match word {
        "FnValue" => Genre::Body,
        "BinaryOperator" => Genre::Binary,
        "UnaryOperator" => Genre::Unary,
        "MatchArm" => Genre::Arm,
        "MatchArmGuard" => Genre::Guard,
        "StructField" => Genre::Field,
        _ => Genre::Other,
    }
}

fn place(value: &Value) -> Option<Place> {
    let number = |key: &str| usize::try_from(value[key].as_u64()?).ok();
    Some(Place {
        line: number("line")?,
        column: number("column")?,
    })
}

/// `Quote<'a>::verify` is in the table as `Quote::verify`, or as `verify`.
fn without_parameters(function: &str) -> String {
    let mut depth = 0_u32;
    let mut bare = String::new();
    for letter in function.chars() {
        match letter {
            '<' => depth = depth.saturating_add(1),
            '>' => depth = depth.saturating_sub(1),
            _ if depth == 0 => bare.push(letter),
            _ => {}
        }
    }
    bare
}

impl Mutant {
    pub(super) fn breaks(&self, file: &str, function: &str) -> bool {
        self.file == file
            && (self.function == function || self.function.ends_with(&format!("::{function}")))
    }

    /// Its name without line and column, which an edit elsewhere in the file moves.
    pub(super) fn change(&self) -> &str {
        let place = format!("{}:{}:{}: ", self.file, self.from.line, self.from.column);
        self.name.strip_prefix(&place).unwrap_or(&self.name)
    }

    /// What it replaces in its file.
    pub(super) fn range(&self, lines: &Lines) -> Option<Range<usize>> {
        Some(lines.byte(self.from)?..lines.byte(self.to)?)
    }
}

/// Where the lines of a text begin.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let after_each = text.match_indices('\n').map(|(at, _)| at.saturating_add(1));
        Self {
            text,
            starts: [0].into_iter().chain(after_each).collect(),
        }
    }

    /// The offset of a place; none if the text is shorter.
    pub(super) fn byte(&self, place: Place) -> Option<usize> {
        let start = *self.starts.get(place.line.checked_sub(1)?)?;
        let line = self.text.get(start..)?;
        let skipped = place.column.checked_sub(1)?;
        let mut letters = line.char_indices().map(|(at, _)| at).chain([line.len()]);
        start.checked_add(letters.nth(skipped)?)
    }
}

#[cfg(test)]
mod unit {
    use super::{Genre, Lines, Mutant, Place, parse};

    fn listed(function: &str) -> String {
        format!(
            r#"{{"package": "p", "file": "a.rs", "name": "a.rs:1:2: replace x with y",
                 "genre": "BinaryOperator", "replacement": "!=", "function": {function},
                 "span": {{"start": {{"line": 1, "column": 2}}, "end": {{"line": 1, "column": 4}}}}}}"#
        )
    }

    #[test]
    fn a_mutant_is_of_the_function_that_the_table_names() {
        let named = r#"{"function_name": "Quote<'a, B<C>>::verify"}"#;
        let json = format!("[{}, {}]", listed(named), listed("null"));
        let [mutant, of_none]: [Mutant; 2] = parse(&json).unwrap().try_into().unwrap();
        let cases = [
            ("a.rs", "Quote::verify", true),
            ("a.rs", "verify", true),
            ("a.rs", "erify", false),
            ("a.rs", "Other::verify", false),
            ("b.rs", "verify", false),
        ];
        for (file, function, want) in cases {
            assert_eq!(mutant.breaks(file, function), want, "{file} {function}");
            assert!(!of_none.breaks(file, function), "{file} {function}");
        }
        assert_eq!(mutant.genre, Genre::Binary);
        assert_eq!(mutant.change(), "replace x with y");
    }

    #[test]
    fn a_mutant_without_a_place_is_an_error() {
        assert!(parse(r#"[{"package": "p", "file": "a.rs", "name": "b"}]"#).is_err());
    }

    #[test]
    fn places_are_offsets() {
        let lines = Lines::of("ab\nä·c\n");
        let cases = [
            (1, 1, Some(0)),
            (1, 3, Some(2)),
            (2, 1, Some(3)),
            (2, 3, Some(7)),
            (3, 1, Some(9)),
            (4, 1, None),
            (0, 1, None),
        ];
        for (line, column, want) in cases {
            assert_eq!(lines.byte(Place { line, column }), want, "{line}:{column}");
        }
    }
}
