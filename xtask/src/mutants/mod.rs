//! Breaks each guarded function in every way cargo-mutants knows; a named test must notice.
//!
//! The table in `tests/README.md` is the list: what it names is broken, and the tests it names
//! are all that may notice. The tests of the function's own package are asked first. What they
//! let pass goes to the other tests of the function's rows, which take longer to build and to run.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

pub(crate) use self::table::check_table;
use self::table::{Row, listed_tests, resolve};
use crate::cmd::{self, step};
use crate::{build, install, paths};

/// Seconds for the tests of one mutant: longer than nextest lets one of them hang, which it then
/// counts as a failure.
const PATIENCE: &str = "900";

/// These start the programs as they were built, and nothing broken is in them: what they would
/// notice, a test beside the function has to notice as well.
const STARTS_PROGRAMS: [&str; 3] = [
    "bailiwick-tests::agent_service",
    "bailiwick-tests::node",
    "bailiwick-tests::spine",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only guarded functions whose file or name contains this
    filter: Option<String>,
}

/// Tests, as nextest lists them: binary and name.
type Tests = BTreeSet<(String, String)>;

/// One way to break a guarded function.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Mutant {
    package: String,
    file: String,
    /// With its type, without type parameters.
    function: String,
    /// What cargo-mutants calls it: place, change and function.
    name: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let rows = asked_for(table::read()?, args.filter.as_deref());
    if rows.is_empty() {
        bail!("tests/README.md names no such function");
    }
    install::for_mutants()?;
    build::kernel_side()?;
    let mutants = mutants(&rows)?;
    let listed = listed_tests()?;
    let (mut own, mut rest) = (BTreeMap::new(), BTreeMap::new());
    for mutant in &mutants {
        let (beside, elsewhere) = tests_of(mutant, &rows, &listed)?;
        rest.insert(mutant, elsewhere);
        let round: &mut (Vec<&Mutant>, Tests) = own.entry(&mutant.package).or_default();
        round.0.push(mutant);
        round.1.extend(beside);
    }

    let mut left = Vec::new();
    for (package, (mutants, tests)) in own {
        step(format_args!("{package}: its own tests"));
        left.extend(unnoticed(mutants, &tests)?);
    }
    let mut groups: BTreeMap<&Tests, Vec<&Mutant>> = BTreeMap::new();
    for mutant in left {
        groups.entry(&rest[mutant]).or_default().push(mutant);
    }
    let mut survivors = Vec::new();
    for (tests, mutants) in groups {
        step(format_args!("{} mutants: tests elsewhere", mutants.len()));
        survivors.extend(unnoticed(mutants, tests)?);
    }
    if !survivors.is_empty() {
        let names: Vec<&str> = survivors.iter().map(|mutant| &*mutant.name).collect();
        bail!("no test notices:\n{}", names.join("\n"));
    }
    cmd::result(format_args!("no survivor of {} mutants", mutants.len()))
}

/// The rows, with those of their functions that the filter leaves.
fn asked_for(mut rows: Vec<Row>, filter: Option<&str>) -> Vec<Row> {
    for row in &mut rows {
        row.guarded.retain(|(file, function)| {
            filter.is_none_or(|part| file.contains(part) || function.contains(part))
        });
    }
    rows.retain(|row| !row.guarded.is_empty());
    rows
}

/// Every mutant of every function of the rows; a function that has none is an error.
fn mutants(rows: &[Row]) -> Result<BTreeSet<Mutant>> {
    let guarded: BTreeSet<_> = rows.iter().flat_map(|row| &row.guarded).collect();
    let mut list = cmd::cargo();
    list.args(["mutants", "--list", "--json"])
        .env("PATH", cmd::path_with_tools()?);
    for (file, _) in &guarded {
        list.args(["--file", file]);
    }
    let all = parse(&cmd::output(&mut list)?)?;
    let mut mutants = BTreeSet::new();
    for (file, function) in guarded {
        let before = mutants.len();
        let broken = all.iter().filter(|mutant| mutant.breaks(file, function));
        mutants.extend(broken.cloned());
        if mutants.len() == before {
            bail!("tests/README.md names `{file}` `{function}`, which cannot be broken");
        }
    }
    Ok(mutants)
}

/// What cargo-mutants lists.
fn parse(json: &str) -> Result<Vec<Mutant>> {
    let list: Vec<Value> = serde_json::from_str(json).context("cargo mutants --list --json")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mutant = |value: &Value| Mutant {
        package: text(&value["package"]),
        file: text(&value["file"]),
        function: without_parameters(&text(&value["function"]["function_name"])),
        name: text(&value["name"]),
    };
    Ok(list.iter().map(mutant).collect())
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
    fn breaks(&self, file: &str, function: &str) -> bool {
        self.file == file
            && (self.function == function || self.function.ends_with(&format!("::{function}")))
    }
}

/// The tests of the rows that name its function: of its own package, and of others.
fn tests_of(mutant: &Mutant, rows: &[Row], listed: &str) -> Result<(Tests, Tests)> {
    let named = |row: &&Row| {
        let mut guarded = row.guarded.iter();
        guarded.any(|(file, function)| mutant.breaks(file, function))
    };
    let mut tests = Tests::new();
    for test in rows.iter().filter(named).flat_map(|row| &row.tests) {
        let (binary, name) = resolve(test, listed)?;
        if !STARTS_PROGRAMS.contains(&binary) {
            tests.insert((binary.to_owned(), name.to_owned()));
        }
    }
    Ok(tests
        .into_iter()
        .partition(|(binary, _)| package(binary) == mutant.package))
}

/// Package of a binary as nextest names it.
fn package(binary: &str) -> &str {
    binary.split("::").next().unwrap_or(binary)
}

/// Breaks one after the other, in a copy; returns those that the tests let pass.
fn unnoticed<'a>(mutants: Vec<&'a Mutant>, tests: &Tests) -> Result<Vec<&'a Mutant>> {
    if tests.is_empty() {
        return Ok(mutants);
    }
    let out = paths::target().join("mutants");
    let mut cargo = cmd::cargo();
    cargo
        .args(["mutants", "--no-shuffle", "--colors", "never"])
        .args(["--caught", "--test-tool", "nextest"])
        .args(["--baseline", "skip", "--timeout", PATIENCE])
        .arg("--output")
        .arg(&out)
        // A copy is as new as the change in it, so what was built of another is built again; what
        // they depend on is not.
        .env("CARGO_TARGET_DIR", out.join("build"))
        // The copy has no `target/`.
        .env("BAILIWICK_BPF_OBJECT", paths::bpf_object())
        .env("PATH", cmd::path_with_tools()?);
    for mutant in &mutants {
        let exact = format!("^{}$", literal(&mutant.name));
        cargo.args(["--file", &mutant.file]).args(["--re", &exact]);
    }
    let packages: BTreeSet<&str> = tests.iter().map(|(b, _)| package(b)).collect();
    for package in &packages {
        cargo.args(["--test-package", package]);
    }
    let targets: BTreeSet<String> = tests.iter().map(|(b, _)| target(b)).collect();
    for target in &targets {
        cargo.arg(format!("--cargo-arg={target}"));
    }
    cargo
        .args(["--", "--fail-fast", "-E"])
        .arg(selection(tests));

    // cargo-mutants would look for these tests in the package of the mutants.
    let mut unbroken = cmd::cargo();
    unbroken.args(["nextest", "run"]).args(&targets);
    for package in &packages {
        unbroken.args(["--package", package]);
    }
    unbroken.arg("-E").arg(selection(tests));
    cmd::run(unbroken.env("PATH", cmd::path_with_tools()?)).context("with nothing broken")?;
    let status = cargo.status().context("start cargo mutants")?;
    // 2: some were missed; 3: some never ended.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        bail!("cargo mutants ended with {status}");
    }
    let mut left = BTreeSet::new();
    for list in ["missed.txt", "timeout.txt"] {
        let file = out.join("mutants.out").join(list);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        left.extend(text.lines().map(str::to_owned));
    }
    Ok(mutants
        .into_iter()
        .filter(|mutant| left.contains(&mutant.name))
        .collect())
}

/// What cargo builds for a binary as nextest names it.
fn target(binary: &str) -> String {
    match binary.split_once("::").map(|(_, target)| target) {
        None => "--lib".to_owned(),
        Some(target) => match target.strip_prefix("bin/") {
            Some(program) => format!("--bin={program}"),
            None => format!("--test={target}"),
        },
    }
}

/// As a regular expression that matches just this.
fn literal(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// The tests as nextest selects them.
fn selection(tests: &Tests) -> String {
    let one = |(binary, name): &(String, String)| format!("(binary_id(={binary}) & test(={name}))");
    tests.iter().map(one).collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod unit {
    use super::{Mutant, literal, parse, target};

    #[test]
    fn a_mutant_is_of_the_function_that_the_table_names() {
        let json = r#"[{"package": "p", "file": "a.rs", "name": "a.rs:1:2: replace",
                        "function": {"function_name": "Quote<'a, B<C>>::verify"}},
                       {"package": "p", "file": "a.rs", "name": "b", "function": null}]"#;
        let [mutant, of_none]: [Mutant; 2] = parse(json).unwrap().try_into().unwrap();
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
    }

    #[test]
    fn binaries_are_targets_of_cargo() {
        let cases = [
            ("p", "--lib"),
            ("p::wire", "--test=wire"),
            ("p::bin/q", "--bin=q"),
        ];
        for (binary, want) in cases {
            assert_eq!(target(binary), want);
        }
    }

    #[test]
    fn a_name_matches_itself_alone() {
        assert_eq!(literal("a.rs: <T> || (x)"), r"a\.rs: <T> \|\| \(x\)");
    }
}
