//! Breaks each guarded function in every way cargo-mutants knows; a named test must notice.
//!
//! The table in `tests/README.md` is the list: what it names is broken, and the tests it names
//! are all that may save it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cmd::{self, step};
use crate::{build, install, paths};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only guarded functions whose file or name contains this
    filter: Option<String>,
}

/// One row of the table: ``| row | `package::test` … | `file.rs` `function` … |``.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Row {
    tests: Vec<String>,
    guarded: Vec<(String, String)>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let readme = paths::root().join("tests/README.md");
    let text = fs::read_to_string(&readme).with_context(|| format!("read {}", readme.display()))?;
    let mut rows = rows(&text)?;
    if let Some(filter) = &args.filter {
        for row in &mut rows {
            row.guarded
                .retain(|(file, function)| file.contains(filter) || function.contains(filter));
        }
        rows.retain(|row| !row.guarded.is_empty());
    }
    if rows.is_empty() {
        bail!("{} names no guarded function", readme.display());
    }
    install::for_mutants()?;
    build::kernel_side()?;
    let listed = listed_tests()?;
    let mut survivors = Vec::new();
    let groups = groups(&rows, &packages()?)?;
    for (package, group) in &groups {
        step(format_args!(
            "{package}: {} guarded functions, {} tests",
            group.guarded.len(),
            group.tests.len()
        ));
        let out = paths::target().join("mutants").join(package);
        fs::create_dir_all(&out).with_context(|| format!("make {}", out.display()))?;
        let mut mutants = cmd::cargo();
        mutants
            .args([
                "mutants",
                "--no-shuffle",
                "--colors",
                "never",
                "--test-tool",
                "nextest",
            ])
            .arg("--output")
            .arg(&out)
            // The copy that is broken has no `target/`.
            .env("BAILIWICK_BPF_OBJECT", paths::bpf_object())
            .env("PATH", cmd::path_with_tools()?);
        for (file, function) in &group.guarded {
            mutants.args(["--file", file, "--re", &pattern(file, function)]);
        }
        let of_tests = group
            .tests
            .iter()
            .filter_map(|test| test.split("::").next());
        for package in of_tests.collect::<BTreeSet<_>>() {
            mutants.args(["--test-package", package]);
        }
        mutants.args(["--", "-E", &selection(&group.tests, &listed)?]);
        let noticed = cmd::run(&mut mutants).is_ok();
        let word = if noticed {
            "no survivor"
        } else {
            "not all noticed"
        };
        cmd::result(format_args!(
            "{package:<24} {:>3} functions: {word}",
            group.guarded.len()
        ))?;
        if !noticed {
            survivors.push(format!(
                "{package} (see target/mutants/{package}/mutants.out)"
            ));
        }
    }
    if survivors.is_empty() {
        Ok(())
    } else {
        bail!("not all mutants were noticed: {}", survivors.join(", "))
    }
}

/// What is broken together: the guarded functions of one package.
#[derive(Debug, Default)]
struct Group {
    guarded: BTreeSet<(String, String)>,
    tests: BTreeSet<String>,
}

/// Tests beside the code are built in seconds, whole-system tests are not: where a row names
/// both, those of the function's own package have to notice by themselves.
fn groups(rows: &[Row], packages: &[(String, String)]) -> Result<BTreeMap<String, Group>> {
    let mut groups = BTreeMap::<String, Group>::new();
    for row in rows {
        for (file, function) in &row.guarded {
            let owner = packages
                .iter()
                .find(|(dir, _)| file.starts_with(&format!("{dir}/")));
            let (_, package) = owner.with_context(|| format!("{file} is in no package"))?;
            let group = groups.entry(package.clone()).or_default();
            group.guarded.insert((file.clone(), function.clone()));
            let own = |test: &&String| test.split("::").next() == Some(package);
            let beside: Vec<_> = row.tests.iter().filter(own).collect();
            let noticing = if beside.is_empty() {
                row.tests.iter().collect()
            } else {
                beside
            };
            group.tests.extend(noticing.into_iter().cloned());
        }
    }
    Ok(groups)
}

/// Folder and name of every package, the deepest folder first.
fn packages() -> Result<Vec<(String, String)>> {
    let text = cmd::output(cmd::cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let word = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let manifest = word("manifest_path");
        let dir = Path::new(&manifest)
            .parent()
            .and_then(|dir| dir.strip_prefix(paths::root()).ok());
        if let Some(dir) = dir {
            found.push((dir.display().to_string(), word("name")));
        }
    }
    found.sort_by_key(|(dir, _)| std::cmp::Reverse(dir.len()));
    Ok(found)
}

/// Fails unless every test and every function that the table names is there; returns how many.
pub(crate) fn check_table() -> Result<u64> {
    let readme = paths::root().join("tests/README.md");
    let text = fs::read_to_string(&readme).with_context(|| format!("read {}", readme.display()))?;
    let listed = listed_tests()?;
    let mut rows_seen = 0;
    for row in rows(&text)? {
        rows_seen += 1;
        for test in &row.tests {
            resolve(test, &listed)?;
        }
        for (file, function) in &row.guarded {
            let source = fs::read_to_string(paths::root().join(file))
                .with_context(|| format!("{} names {file}", readme.display()))?;
            let bare = function.rsplit("::").next().unwrap_or(function);
            if !source.contains(&format!("fn {bare}")) {
                bail!(
                    "{} names {function}, which is not in {file}",
                    readme.display()
                );
            }
        }
    }
    Ok(rows_seen)
}

/// Every test of the workspace: nextest's name of the binary, a space, the test's.
fn listed_tests() -> Result<String> {
    cmd::output(
        cmd::cargo()
            .args([
                "nextest",
                "list",
                "--workspace",
                "--message-format",
                "oneline",
            ])
            .env("PATH", cmd::path_with_tools()?),
    )
}

/// Binary and name of a test that the table calls `package::path`; a binary's name is part of the
/// path where the test is not beside the code.
fn resolve<'a>(test: &str, listed: &'a str) -> Result<(&'a str, &'a str)> {
    let (package, path) = test
        .split_once("::")
        .with_context(|| format!("{test} names no package"))?;
    let end = format!("::{path}");
    let found = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(binary, name)| {
            binary.split("::").next() == Some(package)
                && format!("{binary}::{name}").ends_with(&end)
        });
    found.with_context(|| format!("tests/README.md names the test {test}, which is not there"))
}

/// The rows of the table whose head is `| row | test | guarded function |`.
fn rows(text: &str) -> Result<Vec<Row>> {
    let is_head = |line: &&str| {
        line.split('|').map(str::trim).collect::<Vec<_>>()
            == ["", "row", "test", "guarded function", ""]
    };
    let table = text.lines().skip_while(|line| !is_head(line)).skip(2);
    let mut rows = Vec::new();
    for line in table.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.split('|').collect();
        let [_, _, tests, guarded, _] = cells.as_slice() else {
            bail!("tests/README.md: not three columns: {line}");
        };
        let guarded = ticked(guarded);
        let pairs = guarded.chunks(2).map(|pair| match pair {
            [file, function] => Ok((file.clone(), function.clone())),
            _ => bail!("tests/README.md: a guarded function is `file` `function`: {line}"),
        });
        rows.push(Row {
            tests: ticked(tests),
            guarded: pairs.collect::<Result<_>>()?,
        });
    }
    Ok(rows)
}

/// What stands between back-ticks.
fn ticked(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// cargo-mutants names a mutant `FILE:LINE:COLUMN: replace … in FUNCTION`.
fn pattern(file: &str, function: &str) -> String {
    let literal = |text: &str| {
        text.replace('.', r"\.")
            .replace('<', r"\<")
            .replace('>', r"\>")
    };
    format!(r"^{}:\d+:\d+: .*\b{}\b", literal(file), literal(function))
}

/// The tests as nextest selects them.
fn selection(tests: &BTreeSet<String>, listed: &str) -> Result<String> {
    let one = |test: &String| {
        resolve(test, listed)
            .map(|(binary, name)| format!("(binary_id(={binary}) & test(={name}))"))
    };
    Ok(tests
        .iter()
        .map(one)
        .collect::<Result<Vec<_>>>()?
        .join(" | "))
}

#[cfg(test)]
mod unit {
    use super::{Row, rows};

    #[test]
    fn the_table_is_read() {
        let head = "words\n| row | test | guarded function |\n|---|---|---|\n";
        let row = |tests: &[&str], guarded: &[(&str, &str)]| Row {
            tests: tests.iter().map(|t| (*t).into()).collect(),
            guarded: guarded
                .iter()
                .map(|(a, b)| ((*a).into(), (*b).into()))
                .collect(),
        };
        let cases = [
            (
                "one",
                "| r | `p::t` | `a.rs` `f` |\n",
                Some(vec![row(&["p::t"], &[("a.rs", "f")])]),
            ),
            (
                "two of each",
                "| r | `p::t`, `q::u` | `a.rs` `f`, `b.rs` `T::g` |\n\n| not | the | table |\n",
                Some(vec![row(
                    &["p::t", "q::u"],
                    &[("a.rs", "f"), ("b.rs", "T::g")],
                )]),
            ),
            ("a function without file", "| r | `p::t` | `f` |\n", None),
            (
                "a column too many",
                "| r | `p::t` | `a.rs` `f` | x |\n",
                None,
            ),
        ];
        for (name, table, want) in cases {
            assert_eq!(rows(&format!("{head}{table}")).ok(), want, "{name}");
        }
    }
}
