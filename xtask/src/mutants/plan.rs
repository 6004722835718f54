//! Which mutants there are, which are asked for, and who may notice each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::list::{self, Lines, Mutant};
use super::results::digest;
use super::rewrite::Id;
use super::source::{self, Source};
use super::table::{self, Row};
use crate::{cmd, paths};

/// File and name of a guarded function.
pub(super) type Guarded = (String, String);

/// A mutant of a guarded function.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) mutant: Mutant,
    pub(super) id: Id,
    /// The same as long as its function reads the same.
    pub(super) key: String,
    /// As the table calls them.
    pub(super) tests: BTreeSet<String>,
}

/// A file with guarded functions.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) source: Source,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) entries: Vec<Entry>,
    pub(super) files: BTreeMap<String, Text>,
}

/// Every mutant of every function of the rows; a function that has none is an error.
pub(super) fn plan(rows: &[Row]) -> Result<Plan> {
    let guarded: BTreeSet<&Guarded> = rows.iter().flat_map(|row| &row.guarded).collect();
    let names: BTreeSet<&str> = guarded.iter().map(|(file, _)| &**file).collect();
    let mut mutants = list::of_files(&names)?;
    for (file, function) in &guarded {
        if !mutants.iter().any(|mutant| mutant.breaks(file, function)) {
            bail!("tests/README.md names `{file}` `{function}`, which cannot be broken");
        }
    }
    mutants.retain(|mutant| {
        let mut guarded = guarded.iter();
        guarded.any(|(file, function)| mutant.breaks(file, function))
    });
    mutants.sort_by(|one, other| (&one.file, one.from).cmp(&(&other.file, other.from)));
    let mut files = BTreeMap::new();
    for name in names {
        let path = paths::root().join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("read {name}"))?;
        let source = source::read(&text).with_context(|| name.to_owned())?;
        files.insert(name.to_owned(), Text { text, source });
    }
    Ok(Plan {
        entries: entries(mutants, &files, rows)?,
        files,
    })
}

fn entries(
    mutants: Vec<Mutant>,
    files: &BTreeMap<String, Text>,
    rows: &[Row],
) -> Result<Vec<Entry>> {
    let mut taken = BTreeSet::from([0]);
    let mut alike: BTreeMap<String, u32> = BTreeMap::new();
    let mut entries = Vec::new();
    for mutant in mutants {
        let file = files.get(&mutant.file);
        let file = file.with_context(|| format!("{} was not asked for", mutant.file))?;
        let around = mutant
            .range(&Lines::of(&file.text))
            .and_then(|range| file.source.function_around(&range));
        let function = around.with_context(|| format!("{}: in no function", mutant.name))?;
        let change = digest(&[&mutant.file, &function.tokens, mutant.change()]);
        // `==` may stand there twice.
        let before = alike.entry(format!("{change:016x}")).or_default();
        let key = format!("{change:016x}-{before}");
        *before = before.saturating_add(1);
        let mut id = u32::try_from(digest(&[&key]) >> 32).unwrap_or(1);
        while !taken.insert(id) {
            id = id.wrapping_add(1);
        }
        let named = rows.iter().filter(|row| row.names(&mutant));
        entries.push(Entry {
            tests: named.flat_map(|row| &row.tests).cloned().collect(),
            mutant,
            id,
            key,
        });
    }
    Ok(entries)
}

impl Row {
    fn names(&self, mutant: &Mutant) -> bool {
        let mut guarded = self.guarded.iter();
        guarded.any(|(file, function)| mutant.breaks(file, function))
    }
}

/// The guarded functions that the command line leaves.
pub(super) fn asked_for(
    rows: &[Row],
    filter: Option<&str>,
    since: Option<&str>,
) -> Result<BTreeSet<Guarded>> {
    let all = rows.iter().flat_map(|row| &row.guarded);
    let mut asked: BTreeSet<Guarded> = all
        .filter(|(file, function)| {
            filter.is_none_or(|part| file.contains(part) || function.contains(part))
        })
        .cloned()
        .collect();
    if let Some(reference) = since {
        let then = Then::at(reference)?;
        let mut kept = BTreeSet::new();
        for guarded in asked {
            if then.differs(&guarded)? {
                kept.insert(guarded);
            }
        }
        asked = kept;
    }
    Ok(asked)
}

/// The repository as it was.
#[derive(Debug)]
struct Then {
    reference: String,
    guarded: BTreeSet<Guarded>,
}

impl Then {
    fn at(reference: &str) -> Result<Self> {
        let commit = format!("{reference}^{{commit}}");
        let found = cmd::output(cmd::command("git").args(["rev-parse", "--verify", &commit]))?;
        let reference = found.trim().to_owned();
        let table = shown(&reference, "tests/README.md")?.unwrap_or_default();
        let rows = table::rows(&table)?;
        Ok(Self {
            reference,
            guarded: rows.into_iter().flat_map(|row| row.guarded).collect(),
        })
    }

    /// Whether it reads otherwise now, or was not guarded then.
    fn differs(&self, guarded: &Guarded) -> Result<bool> {
        let (file, function) = guarded;
        if !self.guarded.contains(guarded) {
            return Ok(true);
        }
        let Some(then) = shown(&self.reference, file)? else {
            return Ok(true);
        };
        let now = fs::read_to_string(paths::root().join(file));
        let now = now.with_context(|| format!("tests/README.md names {file}"))?;
        differs(&then, &now, function).with_context(|| file.clone())
    }
}

/// Whether the functions of this name differ.
fn differs(then: &str, now: &str, function: &str) -> Result<bool> {
    let name = function.rsplit("::").next().unwrap_or(function);
    let of = |text: &str| -> Result<Vec<String>> {
        let all = source::read(text)?.functions.into_iter();
        let named = all.filter(|function| function.name == name);
        Ok(named.map(|function| function.tokens).collect())
    };
    Ok(then != now && of(then)? != of(now)?)
}

/// A file as it was; none if it was not there.
fn shown(reference: &str, file: &str) -> Result<Option<String>> {
    let mut list = cmd::command("git");
    list.args(["ls-tree", "--name-only", reference, "--", file]);
    if cmd::output(&mut list)?.trim().is_empty() {
        return Ok(None);
    }
    cmd::output(cmd::command("git").args(["show", &format!("{reference}:{file}")])).map(Some)
}

/// How the tests read: by package and name of a function, what its text comes to.
#[derive(Debug)]
pub(super) struct TestTexts(BTreeMap<String, BTreeMap<String, u64>>);

impl TestTexts {
    pub(super) fn of_workspace() -> Result<Self> {
        let mut metadata = cmd::cargo();
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
        let json: serde_json::Value =
            serde_json::from_str(&cmd::output(&mut metadata)?).context("cargo metadata")?;
        let mut all = BTreeMap::new();
        for package in json["packages"].as_array().into_iter().flatten() {
            let text = |key: &str| {
                let text = package[key].as_str();
                text.with_context(|| format!("cargo metadata: a package without {key}"))
            };
            let manifest = Path::new(text("manifest_path")?);
            let folder = manifest.parent().context("a manifest has a folder")?;
            let mut functions = BTreeMap::new();
            read_folder(folder, &mut functions)?;
            all.insert(text("name")?.to_owned(), functions);
        }
        Ok(Self(all))
    }

    /// What the text of a test comes to; zero, if no function has its name.
    pub(super) fn digest(&self, test: &str) -> u64 {
        let (package, path) = test.split_once("::").unwrap_or((test, ""));
        let name = path.rsplit("::").next().unwrap_or(path);
        let functions = self.0.get(package);
        let digest = functions.and_then(|functions| functions.get(name));
        digest.copied().unwrap_or_default()
    }
}

/// Adds every function of every file; those of one name come to one number.
fn read_folder(folder: &Path, functions: &mut BTreeMap<String, u64>) -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        paths.push(
            entry
                .with_context(|| format!("list {}", folder.display()))?
                .path(),
        );
    }
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_folder(&path, functions)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path);
            let text = text.with_context(|| format!("read {}", path.display()))?;
            let source = source::read(&text).with_context(|| path.display().to_string())?;
            for function in source.functions {
                let sum = functions.entry(function.name).or_default();
                *sum = digest(&[&sum.to_string(), &function.tokens]);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod unit {
    use super::differs;

    #[test]
    fn a_function_differs_by_what_it_does() {
        let then = "/// A.\nfn f() { g(1) }\nimpl A { fn h() {} }";
        let cases = [
            ("the same", then, "f", false),
            (
                "words and lines alone",
                "/// B.\nfn f() {\n    // c\n    g(1)\n}\nimpl A { fn h() {} }",
                "f",
                false,
            ),
            ("another value", "fn f() { g(2) }", "f", true),
            (
                "a neighbour",
                "fn f() { g(1) }\nimpl A { fn h() { g(2) } }",
                "f",
                false,
            ),
            (
                "a method",
                "fn f() { g(1) }\nimpl A { fn h() { g(2) } }",
                "A::h",
                true,
            ),
            ("gone", "", "f", true),
        ];
        for (name, now, function, want) in cases {
            assert_eq!(differs(then, now, function).unwrap(), want, "{name}");
        }
    }
}
