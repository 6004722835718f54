//! Breaks each guarded function in every way cargo-mutants knows; a named test must notice.
//!
//! The table in `tests/README.md` is the list: what it names is broken, and the tests it names
//! are all that may notice. The tests of the function's own package are asked first.
//!
//! A build for each mutant would take days. So one copy of the workspace has nearly all of them in
//! it, each behind a number, and a test program is told which one is awake. What rustc does not
//! take in company is built by itself afterwards. What was judged is kept, and judged again when
//! the function or the test that noticed reads otherwise.
//!
//! - [`table`]: the rows
//! - [`list`], [`source`]: what there is to break, and where
//! - [`plan`]: which of it is asked for
//! - [`rewrite`], [`copy`], [`blame`]: one program with all of it
//! - [`suites`], [`judge`], [`round`]: who notices
//! - [`results`]: what is known already

mod blame;
mod copy;
mod judge;
mod list;
mod plan;
mod results;
mod rewrite;
mod round;
mod source;
mod suites;
mod table;

use std::collections::BTreeSet;
use std::sync::Mutex;

use anyhow::{Result, bail};

use self::plan::{Entry, Plan, TestTexts, asked_for, plan};
use self::results::{Results, Word};
use self::round::{Round, Verdicts};
pub(crate) use self::table::check_table;
use crate::cmd::{self, step};
use crate::{build, install};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only guarded functions whose file or name contains this
    filter: Option<String>,
    /// Only guarded functions that read otherwise than there, or were not guarded
    #[arg(long, value_name = "REF")]
    changed_since: Option<String>,
    /// Believe nothing that was judged before
    #[arg(long)]
    again: bool,
    /// Leave out what has to be built by itself; it counts as not judged
    #[arg(long)]
    together: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let rows = table::read()?;
    let asked = asked_for(&rows, args.filter.as_deref(), args.changed_since.as_deref())?;
    if asked.is_empty() {
        bail!("tests/README.md names no such function");
    }
    install::for_mutants()?;
    let plan = plan(&rows)?;
    let results = Results::open(args.again)?;
    let texts = TestTexts::of_workspace()?;
    let mut verdicts = Verdicts::new();
    let mut open = Vec::new();
    for (at, entry) in plan.entries.iter().enumerate() {
        let mut asked = asked.iter();
        if !asked.any(|(file, function)| entry.mutant.breaks(file, function)) {
            continue;
        }
        match known(entry, &results, &texts) {
            Some(word) => drop(verdicts.insert(at, word)),
            None => open.push(at),
        }
    }
    let all = verdicts.len().saturating_add(open.len());
    step(format_args!(
        "{} of {all} mutants are to be judged",
        open.len()
    ));
    let mut failing = BTreeSet::new();
    if !open.is_empty() {
        build::kernel_side()?;
        let round = Round {
            plan: &plan,
            results: &results,
            texts: &texts,
            verdicts: Mutex::new(verdicts),
        };
        (verdicts, failing) = round.judge(&open, args.together)?;
    }
    let left = open.iter().filter(|at| !verdicts.contains_key(at));
    report(&plan, &verdicts, left, &failing)
}

/// What was judged before and still holds.
fn known(entry: &Entry, results: &Results, texts: &TestTexts) -> Option<Word> {
    let word = results.of(&entry.key)?;
    let holds = match word {
        Word::DoesNotBuild => true,
        Word::Noticed { by, digest } => entry.tests.contains(by) && texts.digest(by) == *digest,
        Word::Alone | Word::NotNoticed => false,
    };
    holds.then(|| word.clone())
}

/// Says what came of all of them; fails unless each is noticed or cannot be built.
fn report<'a>(
    plan: &Plan,
    verdicts: &Verdicts,
    left: impl Iterator<Item = &'a usize>,
    failing: &BTreeSet<String>,
) -> Result<()> {
    let name = |at: &usize| plan.entries.get(*at).map(|entry| &*entry.mutant.name);
    let of = |wanted: fn(&Word) -> bool| {
        let chosen = verdicts.iter().filter(move |(_, word)| wanted(word));
        chosen.filter_map(|(at, _)| name(at)).collect::<Vec<_>>()
    };
    let noticed = of(|word| matches!(word, Word::Noticed { .. }));
    let unbuilt = of(|word| *word == Word::DoesNotBuild);
    let missed = of(|word| *word == Word::NotNoticed);
    let left: Vec<&str> = left.filter_map(name).collect();
    for (what, names) in [("not noticed", &missed), ("not judged", &left)] {
        for name in names {
            cmd::result(format_args!("{what}: {name}"))?;
        }
    }
    for test in failing {
        cmd::result(format_args!("fails with nothing broken: {test}"))?;
    }
    cmd::result(format_args!(
        "{} mutants: {} noticed, {} not noticed, {} do not build, {} not judged",
        verdicts.len().saturating_add(left.len()),
        noticed.len(),
        missed.len(),
        unbuilt.len(),
        left.len(),
    ))?;
    if !missed.is_empty() || !left.is_empty() || !failing.is_empty() {
        bail!("no test notices, or nobody asked");
    }
    Ok(())
}

/// Package of a binary as nextest names it.
fn package(binary: &str) -> &str {
    binary.split("::").next().unwrap_or(binary)
}
