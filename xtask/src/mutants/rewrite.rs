//! One file with many of its mutants in it, of which a switch wakes one at run time.
//!
//! Everything is an insertion: `a == b` becomes `(if is(7) {(a) != (b)} else {a == b})`. What is
//! inserted repeats what the file says unbroken, so places inside one another do not multiply.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use super::list::{Genre, Lines, Mutant};
use super::source::{Site, Source};

/// A mutant's number; zero is none.
pub(super) type Id = u32;

/// What is inserted for one mutant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// Another expression.
    Instead { whole: Range<usize>, with: String },
    /// A body returns at once.
    First { at: usize, value: String },
    /// An arm is passed over.
    Unless { at: usize },
    /// A guard with `let` refuses.
    Refuse { at: usize },
}

/// A rewritten file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Rewritten {
    pub(super) text: String,
    /// Where the text of each mutant is.
    pub(super) broken: Vec<(Range<usize>, Id)>,
    /// Where one is chosen, the unbroken text included.
    pub(super) choices: Vec<(Range<usize>, Vec<Id>)>,
}

/// Whether this mutant is no Rust.
pub(super) fn is_nonsense(mutant: &Mutant, text: &str, source: &Source) -> bool {
    let replaced = mutant.range(&Lines::of(text));
    replaced.is_some_and(|range| source.chains.contains(&range.start))
}

/// How to have this mutant in the program beside others; none if it has to be alone.
pub(super) fn change(mutant: &Mutant, text: &str, source: &Source) -> Option<Change> {
    let replaced = mutant.range(&Lines::of(text))?;
    let site = source.sites.get(&(mutant.genre, replaced.start))?;
    let old = |range: &Range<usize>| text.get(range.clone());
    let change = match site {
        Site::Body => Change::First {
            at: replaced.start,
            value: mutant.replacement.clone(),
        },
        Site::Binary { left, right } => Change::Instead {
            whole: left.start..right.end,
            with: format!("({}) {} ({})", old(left)?, mutant.replacement, old(right)?),
        },
        Site::Unary { whole, operand } => Change::Instead {
            whole: whole.clone(),
            with: old(operand)?.to_owned(),
        },
        Site::Arm { pattern_ends } => Change::Unless { at: *pattern_ends },
        Site::Guard { whole, lets: false } => Change::Instead {
            whole: whole.clone(),
            with: mutant.replacement.clone(),
        },
        Site::Guard { whole, lets: true } => {
            if mutant.replacement != "false" {
                return None;
            }
            Change::Refuse { at: whole.start }
        }
        Site::Field { whole } => Change::Instead {
            whole: whole.clone(),
            with: [
                old(&(whole.start..replaced.start))?,
                old(&(replaced.end..whole.end))?,
            ]
            .concat(),
        },
    };
    Some(change)
}

/// The file with all of these in it.
pub(super) fn rewrite(text: &str, changes: &BTreeMap<Id, &Change>) -> Rewritten {
    let mut rewritten = Rewritten::default();
    let mut rest = 0;
    let mut open = Vec::new();
    for (at, piece) in pieces(changes) {
        rewritten.text += text.get(rest..at).unwrap_or_default();
        rest = at;
        rewritten.insert(piece, &mut open);
    }
    rewritten.text += text.get(rest..).unwrap_or_default();
    rewritten
}

/// What is inserted somewhere.
#[derive(Debug)]
enum Piece<'a> {
    Open(Vec<(Id, &'a str)>),
    Close,
    First(Id, &'a str),
    Unless(Id),
    Refuse(Id),
}

/// All pieces, in order. Where several meet, the inner closes before the outer, what stands alone
/// comes next, and the outer opens before the inner.
fn pieces<'a>(changes: &BTreeMap<Id, &'a Change>) -> Vec<(usize, Piece<'a>)> {
    let mut instead: BTreeMap<(usize, usize), Vec<(Id, &str)>> = BTreeMap::new();
    let mut pieces = Vec::new();
    for (&id, change) in changes {
        match change {
            Change::Instead { whole, with } => instead
                .entry((whole.start, whole.end))
                .or_default()
                .push((id, with)),
            Change::First { at, value } => {
                pieces.push(((*at, 1, Reverse(0)), Piece::First(id, value)))
            }
            Change::Unless { at } => pieces.push(((*at, 1, Reverse(0)), Piece::Unless(id))),
            Change::Refuse { at } => pieces.push(((*at, 1, Reverse(0)), Piece::Refuse(id))),
        }
    }
    for ((start, end), others) in instead {
        pieces.push(((start, 2, Reverse(end)), Piece::Open(others)));
        pieces.push(((end, 0, Reverse(start)), Piece::Close));
    }
    pieces.sort_by_key(|(key, _)| *key);
    let placed = |((at, _, _), piece)| (at, piece);
    pieces.into_iter().map(placed).collect()
}

impl Rewritten {
    fn insert(&mut self, piece: Piece<'_>, open: &mut Vec<(usize, Vec<Id>)>) {
        let start = self.text.len();
        match piece {
            Piece::Open(others) => {
                open.push((start, others.iter().map(|&(id, _)| id).collect()));
                let mut word = "(if";
                for (id, with) in others {
                    self.add(&format!("{word} {} {{", awake(id)));
                    self.broken(id, with);
                    word = "} else if";
                }
                self.add("} else {");
            }
            Piece::Close => {
                self.add("})");
                if let Some((start, ids)) = open.pop() {
                    self.choices.push((start..self.text.len(), ids));
                }
            }
            Piece::First(id, value) => {
                self.add(&format!("if {} {{ return ", awake(id)));
                self.broken(id, value);
                self.add("; } ");
                self.choices.push((start..self.text.len(), vec![id]));
            }
            Piece::Unless(id) => {
                self.add(&format!(" if !{}", awake(id)));
                self.choices.push((start..self.text.len(), vec![id]));
            }
            Piece::Refuse(id) => {
                self.add(&format!("!{} && ", awake(id)));
                self.choices.push((start..self.text.len(), vec![id]));
            }
        }
    }

    fn add(&mut self, text: &str) {
        self.text += text;
    }

    fn broken(&mut self, id: Id, text: &str) {
        let start = self.text.len();
        self.text += text;
        self.broken.push((start..self.text.len(), id));
    }
}

/// Asks the switch.
fn awake(id: Id) -> String {
    format!("::mutation_switch::is({id})")
}

/// The file with this one mutant and no other, as cargo-mutants writes it.
pub(super) fn alone(text: &str, mutant: &Mutant) -> Option<String> {
    let replaced = mutant.range(&Lines::of(text))?;
    let mut broken = text.to_owned();
    // An operator that is left out may join its neighbours.
    let gap = match mutant.genre {
        Genre::Unary => " ",
        _ => "",
    };
    text.get(replaced.clone())?;
    broken.replace_range(replaced, &format!("{}{gap}", mutant.replacement));
    Some(broken)
}

#[cfg(test)]
mod unit {
    use std::collections::BTreeMap;

    use super::super::list::{Genre, Mutant, Place};
    use super::super::source::read;
    use super::{Change, alone, change, rewrite};

    /// What cargo-mutants would replace: the `nth` of this text.
    fn mutant(text: &str, genre: Genre, old: &str, nth: usize, new: &str) -> Mutant {
        let (at, _) = text.match_indices(old).nth(nth).unwrap();
        let place = |at| Place {
            line: 1,
            column: text[..at].chars().count() + 1,
        };
        Mutant {
            package: "p".into(),
            file: "a.rs".into(),
            function: "f".into(),
            name: "a".into(),
            genre,
            from: place(at),
            to: place(at + old.len()),
            replacement: new.into(),
        }
    }

    /// What is replaced, which of its occurrences, and with what.
    type Broken<'a> = (Genre, &'a str, usize, &'a str);

    /// The text with these in it, numbered from one on; the switch is `is`.
    fn with(text: &str, mutants: &[Broken<'_>]) -> String {
        let source = read(text).unwrap();
        let changes: Vec<Change> = mutants
            .iter()
            .map(|&(genre, old, nth, new)| mutant(text, genre, old, nth, new))
            .map(|mutant| change(&mutant, text, &source).unwrap())
            .collect();
        let numbered: BTreeMap<u32, &Change> = (1..).zip(&changes).collect();
        let rewritten = rewrite(text, &numbered);
        assert!(read(&rewritten.text).is_ok(), "{}", rewritten.text);
        rewritten.text.replace("::mutation_switch::is", "is")
    }

    #[test]
    fn each_kind_is_chosen_by_its_number() {
        use Genre::{Arm, Binary, Body, Field, Guard, Unary};
        let cases: &[(&str, &str, &[Broken<'_>], &str)] = &[
            (
                "two values of a body",
                "fn f() -> u8 { g() }",
                &[(Body, "g()", 0, "0"), (Body, "g()", 0, "1")],
                "fn f() -> u8 { if is(1) { return 0; } if is(2) { return 1; } g() }",
            ),
            (
                "an operator in two ways, in a body",
                "fn f() { a + b }",
                &[
                    (Binary, "+", 0, "-"),
                    (Binary, "+", 0, "*"),
                    (Body, "a + b", 0, "0"),
                ],
                "fn f() { if is(3) { return 0; } \
                 (if is(1) {(a) - (b)} else if is(2) {(a) * (b)} else {a + b}) }",
            ),
            (
                "one inside the other, both at its ends",
                "fn f() { a == b && c == d }",
                &[
                    (Binary, "==", 0, "!="),
                    (Binary, "&&", 0, "||"),
                    (Binary, "==", 1, "!="),
                ],
                "fn f() { (if is(2) {(a == b) || (c == d)} else {\
                 (if is(1) {(a) != (b)} else {a == b}) && \
                 (if is(3) {(c) != (d)} else {c == d})}) }",
            ),
            (
                "not",
                "fn f() { !a }",
                &[(Unary, "!", 0, "")],
                "fn f() { (if is(1) {a} else {!a}) }",
            ),
            (
                "an assignment",
                "fn f() { a += b; }",
                &[(Binary, "+=", 0, "-=")],
                "fn f() { (if is(1) {(a) -= (b)} else {a += b}); }",
            ),
            (
                "an arm",
                "fn f() { match a { B | C => 1, _ => 2 } }",
                &[(Arm, "B | C => 1,", 0, "")],
                "fn f() { match a { B | C if !is(1) => 1, _ => 2 } }",
            ),
            (
                "a guard, and the operator it is",
                "fn f() { match a { B if c < d => 1, _ => 2 } }",
                &[
                    (Guard, "c < d", 0, "true"),
                    (Guard, "c < d", 0, "false"),
                    (Binary, "<", 0, ">"),
                ],
                "fn f() { match a { B if (if is(1) {true} else if is(2) {false} \
                 else if is(3) {(c) > (d)} else {c < d}) => 1, _ => 2 } }",
            ),
            (
                "a field",
                "fn f() { A { b: 1, c: 2, ..d } }",
                &[(Field, "b: 1,", 0, "")],
                "fn f() { (if is(1) {A {  c: 2, ..d }} else {A { b: 1, c: 2, ..d }}) }",
            ),
            (
                "behind letters of two bytes",
                "fn f() { g(\"äö\"); a | b; }",
                &[(Binary, "|", 0, "&")],
                "fn f() { g(\"äö\"); (if is(1) {(a) & (b)} else {a | b}); }",
            ),
        ];
        for (name, text, mutants, want) in cases {
            assert_eq!(with(text, mutants), *want, "{name}");
        }
    }

    #[test]
    fn what_has_no_place_has_to_be_alone() {
        let cases = [
            ("const fn f() -> u8 { 1 + 2 }", Genre::Binary, "+", "-"),
            ("const fn f() -> u8 { 1 }", Genre::Body, "1", "0"),
            ("fn f() -> impl A { 1 }", Genre::Body, "1", "0"),
            ("fn f() { if let A = b && c {} }", Genre::Binary, "&&", "||"),
            ("fn f() { a + b }", Genre::Other, "+", "-"),
        ];
        for (text, genre, old, new) in cases {
            let mutant = mutant(text, genre, old, 0, new);
            let source = read(text).unwrap();
            assert_eq!(change(&mutant, text, &source), None, "{text}");
            let broken = text.replacen(old, new, 1);
            assert_eq!(alone(text, &mutant), Some(broken), "{text}");
        }
    }

    #[test]
    fn each_mutants_text_is_known() {
        let text = "fn f() { a == b }";
        let source = read(text).unwrap();
        let change = change(&mutant(text, Genre::Binary, "==", 0, "!="), text, &source).unwrap();
        let rewritten = rewrite(text, &[(7, &change)].into());
        let [(broken, 7)] = rewritten.broken.as_slice() else {
            panic!("{rewritten:?}");
        };
        assert_eq!(&rewritten.text[broken.clone()], "(a) != (b)");
        let [(choice, ids)] = rewritten.choices.as_slice() else {
            panic!("{rewritten:?}");
        };
        assert_eq!(ids, &[7]);
        assert!(rewritten.text[choice.clone()].ends_with("else {a == b})"));
    }
}
