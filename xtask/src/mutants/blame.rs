//! Builds the copy with as many mutants in it as rustc takes.
//!
//! What it refuses names a place, and a place in a rewritten file is some mutant's: that one is
//! taken out, and the rest is built again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::copy::{Built, Copy, Fault, package_of};
use super::list::Genre;
use super::rewrite::{Change, Id, Rewritten, rewrite};
use super::source;
use crate::cmd::step;

/// Why a mutant is not in the program with the others.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Out {
    /// The types forbid it, here as anywhere.
    DoesNotBuild,
    /// It has to be built by itself.
    Alone,
}

/// A file that is broken.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) text: String,
    pub(super) changes: BTreeMap<Id, (Genre, Change)>,
}

/// What was taken out, and the copy as it was built.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) copy: Copy,
    pub(super) out: BTreeMap<Id, Out>,
    /// Each file as it stands in the copy.
    pub(super) files: BTreeMap<String, Rewritten>,
}

/// Builds all of it; `files` loses what is taken out, and `keep` hears of it at once.
pub(super) fn settle(
    files: &mut BTreeMap<String, Broken>,
    keep: impl Fn(&BTreeMap<Id, Out>) -> Result<()>,
) -> Result<Settled> {
    let mut out = BTreeMap::new();
    loop {
        let rewritten: BTreeMap<String, Rewritten> = files
            .iter()
            .map(|(name, file)| (name.clone(), file.rewritten()))
            .collect();
        let packages: BTreeSet<PathBuf> = files
            .keys()
            .map(|name| package_of(Path::new(name)))
            .collect::<Result<_>>()?;
        let instead: Vec<(&str, &str)> = rewritten
            .iter()
            .map(|(name, file)| (&**name, &*file.text))
            .collect();
        let copy = Copy::of_workspace(&packages, &instead)?;
        let inside: usize = files.values().map(|file| file.changes.len()).sum();
        step(format_args!("building {inside} mutants at once"));
        let faults = match copy.build(&["--workspace", "--lib", "--bins", "--tests"])? {
            Built::Whole(_) => {
                return Ok(Settled {
                    copy,
                    out,
                    files: rewritten,
                });
            }
            Built::Faulty(faults) => faults,
        };
        let blamed = blamed(&faults, &rewritten, files);
        if blamed.is_empty() {
            let said: Vec<&str> = faults.iter().map(|fault| &*fault.rendered).collect();
            bail!("no mutant is to blame: {}", said.join("\n"));
        }
        step(format_args!("{} of them do not fit", blamed.len()));
        for file in files.values_mut() {
            file.changes.retain(|id, _| !blamed.contains_key(id));
        }
        keep(&blamed)?;
        out.extend(blamed);
    }
}

impl Broken {
    fn rewritten(&self) -> Rewritten {
        let changes = self.changes.iter();
        rewrite(
            &self.text,
            &changes.map(|(&id, (_, change))| (id, change)).collect(),
        )
    }
}

/// Whose fault it is.
fn blamed(
    faults: &[Fault],
    rewritten: &BTreeMap<String, Rewritten>,
    files: &BTreeMap<String, Broken>,
) -> BTreeMap<Id, Out> {
    let genre = |id: &Id| {
        let mut all = files.values();
        all.find_map(|file| file.changes.get(id).map(|(genre, _)| *genre))
    };
    let mut blamed = BTreeMap::new();
    for fault in faults {
        let mut found = at_fault(fault, rewritten);
        // A match that is not whole: one of its arms can be passed over.
        let is_arm = |id: &Id| genre(id) == Some(Genre::Arm);
        if fault.code == "E0004" && found.iter().any(|(id, _)| is_arm(id)) {
            found.retain(|(id, _)| is_arm(id));
        }
        for (id, sure) in found {
            let out = match genre(&id) {
                Some(genre) if sure && of_types(&fault.code, genre) => Out::DoesNotBuild,
                _ => Out::Alone,
            };
            // One sure word is enough.
            let said = blamed.entry(id).or_insert(out);
            *said = (*said).min(out);
        }
    }
    blamed
}

/// The mutants of a fault, and whether it lies in the text of that mutant itself.
fn at_fault(fault: &Fault, rewritten: &BTreeMap<String, Rewritten>) -> Vec<(Id, bool)> {
    let (main, beside) = fault.at.split_at(fault.main);
    let file = |(name, range): &'_ (String, Range<usize>)| {
        rewritten.get(name).map(|file| (file, range.clone()))
    };
    for (places, sure) in [(main, true), (beside, false)] {
        for (file, range) in places.iter().filter_map(file) {
            let inside = file.broken.iter().filter(|(text, _)| within(&range, text));
            let inside: Vec<_> = inside.map(|&(_, id)| (id, sure)).collect();
            if !inside.is_empty() {
                return inside;
            }
        }
    }
    for (file, range) in fault.at.iter().filter_map(file) {
        let around = file
            .choices
            .iter()
            .filter(|(choice, _)| within(&range, choice));
        if let Some((_, ids)) = around.min_by_key(|(choice, _)| choice.len()) {
            return ids.iter().map(|&id| (id, false)).collect();
        }
        let touched = file
            .choices
            .iter()
            .filter(|(choice, _)| within(choice, &range) || range.contains(&choice.start));
        let touched: Vec<_> = touched
            .flat_map(|(_, ids)| ids)
            .map(|&id| (id, false))
            .collect();
        if !touched.is_empty() {
            return touched;
        }
    }
    let mut functions = fault.at.iter().filter_map(file);
    functions
        .find_map(|(file, range)| {
            let source = source::read(&file.text).ok()?;
            let function = &source.function_around(&range)?.range;
            let inside = file
                .choices
                .iter()
                .filter(|(choice, _)| within(choice, function));
            let ids: Vec<_> = inside
                .flat_map(|(_, ids)| ids)
                .map(|&id| (id, false))
                .collect();
            (!ids.is_empty()).then_some(ids)
        })
        .unwrap_or_default()
}

fn within(inner: &Range<usize>, outer: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// Whether the types of what stands there forbid this wherever it is built. Of a body that is any
/// mismatch with the result; an operator's result may be taken for another type in a choice.
fn of_types(code: &str, genre: Genre) -> bool {
    // The trait is not there; no such method or function; no such operator; not this type.
    match genre {
        Genre::Body => ["E0277", "E0308", "E0599", "E0600", "E0107"].contains(&code),
        Genre::Binary => ["E0277", "E0368", "E0369"].contains(&code),
        _ => false,
    }
}

#[cfg(test)]
mod unit {
    use std::collections::BTreeMap;

    use super::super::list::Genre;
    use super::super::rewrite::Change;
    use super::{Broken, Fault, Out, blamed};

    /// `fn f() { (if is(1) {(a) != (b)} else {a == b}) }`, a body, and an arm beside an operator.
    fn broken() -> Broken {
        let text = "fn f() { a == b } fn g() { 1 } fn h() { match c { D => -e } }".to_owned();
        let at = text.find("a ==").unwrap();
        let instead = Change::Instead {
            whole: at..at + 6,
            with: "(a) != (b)".into(),
        };
        let first = Change::First {
            at: text.find('1').unwrap(),
            value: "Default::default()".into(),
        };
        let unless = Change::Unless {
            at: text.find(" => ").unwrap(),
        };
        let minus = text.find("-e").unwrap();
        let plain = Change::Instead {
            whole: minus..minus + 2,
            with: "e".into(),
        };
        Broken {
            text,
            changes: [
                (1, (Genre::Binary, instead)),
                (2, (Genre::Body, first)),
                (3, (Genre::Arm, unless)),
                (4, (Genre::Unary, plain)),
            ]
            .into(),
        }
    }

    #[test]
    fn what_rustc_refuses_is_some_mutants_fault() {
        let broken = broken();
        let rewritten = broken.rewritten();
        // A name, rustc's code, its places, who is to blame.
        type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a [(u32, Out)]);
        let cases: &[Case<'_>] = &[
            (
                "no such operator",
                "E0369",
                &["(a) != (b)"],
                &[(1, Out::DoesNotBuild)],
            ),
            (
                "no default",
                "E0277",
                &["Default::default()"],
                &[(2, Out::DoesNotBuild)],
            ),
            ("borrowed", "E0716", &["(a) != (b)"], &[(1, Out::Alone)]),
            ("the choice", "E0308", &["a == b}"], &[(1, Out::Alone)]),
            (
                "another place, and it",
                "E0382",
                &["fn g", "(a) != (b)"],
                &[(1, Out::Alone)],
            ),
            (
                "all around",
                "E0521",
                &[&rewritten.text],
                &[1, 2, 3, 4].map(|id| (id, Out::Alone)),
            ),
            ("a match", "E0004", &["match c"], &[(3, Out::Alone)]),
            (
                "beside a match",
                "E0282",
                &["match c"],
                &[(3, Out::Alone), (4, Out::Alone)],
            ),
            (
                "elsewhere in its function",
                "E0282",
                &["fn f"],
                &[(1, Out::Alone)],
            ),
            ("in no function", "E0308", &["} fn g"], &[]),
        ];
        let files: BTreeMap<_, _> = [("a.rs".to_owned(), broken)].into();
        let written: BTreeMap<_, _> = [("a.rs".to_owned(), rewritten.clone())].into();
        for (name, code, places, want) in cases {
            let at = places.iter().map(|place| {
                let start = rewritten.text.find(place).unwrap();
                ("a.rs".to_owned(), start..start + place.len())
            });
            let fault = Fault {
                code: (*code).to_owned(),
                at: at.collect(),
                main: 1,
                ..Fault::default()
            };
            let want: BTreeMap<u32, Out> = want.iter().copied().collect();
            assert_eq!(blamed(&[fault], &written, &files), want, "{name}");
        }
    }
}
