//! The table in `tests/README.md`: what must hold, the tests that say so, the functions that see
//! to it.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::{cmd, paths};

/// One row of the table: ``| row | `package::test` … | `file.rs` `function` … |``.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Row {
    pub(super) tests: Vec<String>,
    pub(super) guarded: Vec<(String, String)>,
}

/// The table as it stands.
pub(super) fn read() -> Result<Vec<Row>> {
    let readme = paths::root().join("tests/README.md");
    let text = fs::read_to_string(&readme).with_context(|| format!("read {}", readme.display()))?;
    rows(&text)
}

/// Fails unless every test and every function that the table names is there; returns how many.
pub(crate) fn check_table() -> Result<u64> {
    let listed = listed_tests()?;
    let mut rows_seen = 0;
    for row in read()? {
        rows_seen += 1;
        for test in &row.tests {
            resolve(test, &listed)?;
        }
        for (file, function) in &row.guarded {
            let source = fs::read_to_string(paths::root().join(file))
                .with_context(|| format!("tests/README.md names {file}"))?;
            let bare = function.rsplit("::").next().unwrap_or(function);
            if !source.contains(&format!("fn {bare}")) {
                bail!("tests/README.md names {function}, which is not in {file}");
            }
        }
    }
    Ok(rows_seen)
}

/// Every test of the workspace: nextest's name of the binary, a space, the test's.
pub(super) fn listed_tests() -> Result<String> {
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
pub(super) fn resolve<'a>(test: &str, listed: &'a str) -> Result<(&'a str, &'a str)> {
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
pub(super) fn rows(text: &str) -> Result<Vec<Row>> {
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
