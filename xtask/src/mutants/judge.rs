//! Who notices: the tests of a mutant's rows, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::blame::Settled;
use super::copy::Built;
use super::package;
use super::plan::{Entry, Plan};
use super::rewrite::{Id, alone};
use super::suites::{End, Suites, Test};
use super::table::resolve;
use crate::cmd::step;

/// How many are judged side by side.
const WORKERS: usize = 2;

/// These start the programs as they were built, which takes long: what they would notice, a test
/// beside the function has to notice as well.
const STARTS_PROGRAMS: [&str; 3] = [
    "bailiwick-tests::agent_service",
    "bailiwick-tests::node",
    "bailiwick-tests::spine",
];

/// What a test may take, as far as anybody knows, before it was run.
const GENEROUS: Duration = Duration::from_secs(60);

/// A test and what the table calls it.
pub(super) type Named = (Test, String);

/// What each test takes with nothing broken. It is run so when it is first asked: many a test
/// elsewhere never is.
#[derive(Debug, Default)]
pub(super) struct Usual {
    took: Mutex<BTreeMap<Test, Arc<OnceLock<Option<Duration>>>>>,
    /// They fail then, and can notice nothing.
    failing: Mutex<BTreeSet<String>>,
}

/// The tests of the rows that name its function: of its own package, and of others.
pub(super) fn tests_of(entry: &Entry, listed: &str) -> Result<(Vec<Named>, Vec<Named>)> {
    let mut tests = Vec::new();
    for test in &entry.tests {
        let (binary, name) = resolve(test, listed)?;
        if !STARTS_PROGRAMS.contains(&binary) {
            let found = Test {
                binary: binary.to_owned(),
                name: name.to_owned(),
            };
            tests.push((found, test.clone()));
        }
    }
    Ok(tests
        .into_iter()
        .partition(|(test, _)| package(&test.binary) == entry.mutant.package))
}

impl Usual {
    /// What it takes; none of a test that fails.
    pub(super) fn of(&self, (test, name): &Named, suites: &Suites) -> Result<Option<Duration>> {
        let cell = {
            let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(took.entry(test.clone()).or_default())
        };
        if let Some(known) = cell.get() {
            return Ok(*known);
        }
        let mut found = None;
        // Once more, for what else the machine does.
        for _ in 0..2 {
            let (end, took) = suites.run(test, 0, GENEROUS)?;
            if end == End::Passed {
                found = Some(took);
                break;
            }
        }
        // Whoever came first.
        let found = *cell.get_or_init(|| found);
        if found.is_none() {
            step(format_args!("fails with nothing broken: {name}"));
            let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
            failing.insert(name.clone());
        }
        Ok(found)
    }

    /// The tests that fail with nothing broken.
    pub(super) fn failing(self) -> BTreeSet<String> {
        self.failing
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The first of these that fails with this mutant awake; the quick ones are asked first.
    pub(super) fn noticed(
        &self,
        tests: &[Named],
        suites: &Suites,
        awake: Id,
    ) -> Result<Option<String>> {
        let mut quick: Vec<(Duration, &Named)> = Vec::new();
        for named in tests {
            if let Some(took) = self.of(named, suites)? {
                quick.push((took, named));
            }
        }
        quick.sort();
        for (took, (test, name)) in quick {
            if suites.run(test, awake, took)?.0 != End::Passed {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }
}

/// What came of a mutant that is built by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum ByItself {
    DoesNotBuild,
    Noticed(String),
    NotNoticed,
}

/// Builds this mutant and no other, and asks its tests.
pub(super) fn by_itself(
    entry: &Entry,
    plan: &Plan,
    settled: &Settled,
    suites: &mut Suites,
    usual: &Usual,
) -> Result<ByItself> {
    let mutant = &entry.mutant;
    let (own, rest) = tests_of(entry, &suites.listed)?;
    // While nothing is broken yet.
    for named in own.iter().chain(&rest) {
        usual.of(named, suites)?;
    }
    let file = Path::new(&mutant.file);
    let text = plan.files.get(&mutant.file);
    let text = text.and_then(|file| alone(&file.text, mutant));
    let text = text.with_context(|| format!("{}: no such place", mutant.name))?;
    settled.copy.write(file, text.as_bytes())?;
    let judged = built_and_judged(entry, (&own, &rest), settled, suites, usual);
    let before = settled.files.get(&mutant.file);
    let before = before.map(|file| &file.text);
    let before = before.with_context(|| format!("{} is in no copy", mutant.file))?;
    settled.copy.write(file, before.as_bytes())?;
    judged
}

fn built_and_judged(
    entry: &Entry,
    (own, rest): (&[Named], &[Named]),
    settled: &Settled,
    suites: &mut Suites,
    usual: &Usual,
) -> Result<ByItself> {
    // Whether it builds is asked even if no test beside it is named.
    let packages: BTreeSet<&str> = rest.iter().map(|(test, _)| package(&test.binary)).collect();
    let rounds = [([&*entry.mutant.package].into(), own), (packages, rest)];
    for (packages, tests) in rounds {
        if packages.is_empty() {
            continue;
        }
        let mut what = vec!["--lib", "--bins", "--tests"];
        what.extend(packages.iter().flat_map(|package| ["--package", *package]));
        match settled.copy.build(&what)? {
            Built::Faulty(_) => return Ok(ByItself::DoesNotBuild),
            Built::Whole(programs) => suites.take(&programs),
        }
        if let Some(by) = usual.noticed(tests, suites, 0)? {
            return Ok(ByItself::Noticed(by));
        }
    }
    Ok(ByItself::NotNoticed)
}

/// Does this for each, some at a time; the first error ends it.
pub(super) fn side_by_side<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let one_after_the_other = || -> Result<()> {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                next.store(items.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| scope.spawn(one_after_the_other))
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(ended) => ended?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod unit {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anyhow::bail;

    use super::side_by_side;

    #[test]
    fn each_is_done_once_and_the_first_error_ends_it() {
        let items: Vec<usize> = (1..=100).collect();
        let sum = AtomicUsize::new(0);
        let add = |item: &usize| {
            sum.fetch_add(*item, Ordering::Relaxed);
            Ok(())
        };
        side_by_side(&items, add).unwrap();
        assert_eq!(sum.load(Ordering::Relaxed), 5050);
        let failing = |item: &usize| match item {
            7 => bail!("no"),
            _ => Ok(()),
        };
        assert_eq!(side_by_side(&items, failing).unwrap_err().to_string(), "no");
    }
}
