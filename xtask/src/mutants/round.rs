//! One round: everything that is not known yet, first in company, then by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use super::blame::{Broken, Out, Settled, settle};
use super::judge::{ByItself, Usual, by_itself, side_by_side, tests_of};
use super::plan::{Entry, Plan, TestTexts};
use super::results::{Results, Word};
use super::rewrite::{Id, change, is_nonsense};
use super::suites::Suites;
use crate::cmd::step;

/// What came of a mutant, by its place among the entries.
pub(super) type Verdicts = BTreeMap<usize, Word>;

/// What a round works with.
#[derive(Debug)]
pub(super) struct Round<'a> {
    pub(super) plan: &'a Plan,
    pub(super) results: &'a Results,
    pub(super) texts: &'a TestTexts,
    pub(super) verdicts: Mutex<Verdicts>,
}

/// An entry and its place.
type Placed<'a> = (usize, &'a Entry);

impl Round<'_> {
    /// Judges these; returns what is known then, and the tests that fail with nothing broken.
    pub(super) fn judge(
        self,
        open: &[usize],
        together: bool,
    ) -> Result<(Verdicts, BTreeSet<String>)> {
        let (settled, out) = self.build()?;
        let mut suites = Suites::of(&settled.copy)?;
        let open = open.iter();
        let open: Vec<Placed<'_>> = open
            .filter_map(|&at| Some((at, self.plan.entries.get(at)?)))
            .collect();
        let of = |wanted: Option<Out>| -> Vec<Placed<'_>> {
            let all = open.iter().copied();
            all.filter(|(_, entry)| out.get(&entry.id).copied() == wanted)
                .collect()
        };
        for placed in of(Some(Out::DoesNotBuild)) {
            self.keep(placed, Word::DoesNotBuild)?;
        }
        let (mut inside, alone) = (of(None), of(Some(Out::Alone)));
        // Tests that have to be alone on the machine are seldom asked one after the other then.
        inside.sort_by_key(|(_, entry)| entry.id);
        let usual = Usual::default();
        self.in_company(&inside, &suites, &usual)?;
        if !together {
            self.by_themselves(&alone, &settled, &mut suites, &usual)?;
        }
        let verdicts = self.verdicts.into_inner();
        Ok((
            verdicts.unwrap_or_else(PoisonError::into_inner),
            usual.failing(),
        ))
    }

    /// Builds all mutants there are, also those nobody asked for: so the next round finds the same
    /// program. Returns why each of the rest is not in it.
    fn build(&self) -> Result<(Settled, BTreeMap<Id, Out>)> {
        let mut out = BTreeMap::new();
        let mut files = BTreeMap::new();
        for (name, file) in &self.plan.files {
            let text = file.text.clone();
            let changes = BTreeMap::new();
            files.insert(name.clone(), Broken { text, changes });
        }
        for entry in &self.plan.entries {
            let mutant = &entry.mutant;
            let file = self.plan.files.get(&mutant.file);
            let nonsense = file.is_some_and(|file| is_nonsense(mutant, &file.text, &file.source));
            let known = match self.results.of(&entry.key) {
                Some(Word::DoesNotBuild) => Some(Out::DoesNotBuild),
                _ if nonsense => Some(Out::DoesNotBuild),
                _ if self.results.is_alone(&entry.key) => Some(Out::Alone),
                _ => None,
            };
            let change = file.and_then(|file| change(mutant, &file.text, &file.source));
            match (known, change, files.get_mut(&mutant.file)) {
                (None, Some(change), Some(file)) => {
                    file.changes.insert(entry.id, (mutant.genre, change));
                }
                (known, ..) => {
                    out.insert(entry.id, known.unwrap_or(Out::Alone));
                }
            }
        }
        let settled = settle(&mut files, |blamed| {
            for entry in &self.plan.entries {
                let word = match blamed.get(&entry.id) {
                    Some(Out::DoesNotBuild) => Word::DoesNotBuild,
                    Some(Out::Alone) => Word::Alone,
                    None => continue,
                };
                self.results.add(&entry.key, &entry.mutant.name, &word)?;
            }
            Ok(())
        })?;
        out.extend(&settled.out);
        Ok((settled, out))
    }

    fn in_company(&self, inside: &[Placed<'_>], suites: &Suites, usual: &Usual) -> Result<()> {
        step(format_args!("{} mutants side by side", inside.len()));
        let done = AtomicUsize::new(0);
        side_by_side(inside, |&(at, entry)| {
            let (own, rest) = tests_of(entry, &suites.listed)?;
            let by = match usual.noticed(&own, suites, entry.id)? {
                None => usual.noticed(&rest, suites, entry.id)?,
                some => some,
            };
            self.keep((at, entry), self.word(by))?;
            let done = done.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            if done.is_multiple_of(100) {
                step(format_args!("{done} of {} judged", inside.len()));
            }
            Ok(())
        })
    }

    fn by_themselves(
        &self,
        alone: &[Placed<'_>],
        settled: &Settled,
        suites: &mut Suites,
        usual: &Usual,
    ) -> Result<()> {
        step(format_args!("{} mutants by themselves", alone.len()));
        // While nothing is broken: what a test usually takes is found out when it is first asked, and
        // here it would be asked of what is broken and cannot be put to sleep.
        for (_, entry) in alone {
            let (own, rest) = tests_of(entry, &suites.listed)?;
            for test in own.iter().chain(&rest) {
                usual.of(test, suites)?;
            }
        }
        for &(at, entry) in alone {
            step(format_args!("by itself: {}", entry.mutant.name));
            let word = match by_itself(entry, self.plan, settled, suites, usual)? {
                ByItself::DoesNotBuild => Word::DoesNotBuild,
                ByItself::Noticed(by) => self.word(Some(by)),
                ByItself::NotNoticed => Word::NotNoticed,
            };
            self.keep((at, entry), word)?;
        }
        Ok(())
    }

    fn word(&self, by: Option<String>) -> Word {
        by.map_or(Word::NotNoticed, |by| Word::Noticed {
            digest: self.texts.digest(&by),
            by,
        })
    }

    fn keep(&self, (at, entry): Placed<'_>, word: Word) -> Result<()> {
        if word == Word::NotNoticed {
            step(format_args!("not noticed: {}", entry.mutant.name));
        }
        self.results.add(&entry.key, &entry.mutant.name, &word)?;
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.insert(at, word);
        Ok(())
    }
}
