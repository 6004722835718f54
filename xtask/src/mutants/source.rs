//! Where in a file each function lies, and each expression that can be broken.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context as _, Result};
use quote::ToTokens as _;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::list::Genre;

/// What is in a file.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) functions: Vec<Function>,
    /// By kind, and where what cargo-mutants would replace begins.
    pub(super) sites: BTreeMap<(Genre, usize), Site>,
    /// Each `&&` beside a `let`: any other operator there is no Rust.
    pub(super) chains: BTreeSet<usize>,
}

/// A function with a body.
#[derive(Debug)]
pub(super) struct Function {
    /// Its name alone.
    pub(super) name: String,
    /// Signature and body as tokens: neither comments nor line breaks are part of it.
    pub(super) tokens: String,
    pub(super) range: Range<usize>,
}

impl Source {
    /// The function around this, the innermost.
    pub(super) fn function_around(&self, inside: &Range<usize>) -> Option<&Function> {
        let around = |function: &&Function| {
            function.range.start <= inside.start && inside.end <= function.range.end
        };
        let all = self.functions.iter().filter(around);
        all.min_by_key(|function| function.range.len())
    }
}

/// A place that can be broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Site {
    /// A body that can return early.
    Body,
    /// `left op right`.
    Binary {
        left: Range<usize>,
        right: Range<usize>,
    },
    /// `op operand`.
    Unary {
        whole: Range<usize>,
        operand: Range<usize>,
    },
    /// An arm without guard, whose pattern ends here.
    Arm { pattern_ends: usize },
    /// What follows an arm's `if`; with `let` it is no expression by itself.
    Guard { whole: Range<usize>, lets: bool },
    /// A field of `Struct { field, ..rest }`.
    Field { whole: Range<usize> },
}

/// Reads a file.
pub(super) fn read(text: &str) -> Result<Source> {
    let file = syn::parse_file(text).context("parse Rust")?;
    let mut walk = Walk::default();
    walk.visit_file(&file);
    Ok(walk.found)
}

#[derive(Debug, Default)]
struct Walk {
    found: Source,
    /// Where a value is computed by the compiler, nothing can be chosen at run time.
    constant: bool,
}

impl Walk {
    fn site(&mut self, genre: Genre, at: usize, site: Site) {
        if !self.constant {
            self.found.sites.insert((genre, at), site);
        }
    }

    fn constant(&mut self, constant: bool, walk: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.constant, constant);
        walk(self);
        self.constant = before;
    }

    fn function(&mut self, whole: &impl Spanned, sig: &syn::Signature, block: &syn::Block) {
        let tokens = format!("{} {}", sig.to_token_stream(), block.to_token_stream());
        self.found.functions.push(Function {
            name: sig.ident.to_string(),
            tokens,
            range: bytes(whole),
        });
        // One opaque type: another value has another one.
        if sig.constness.is_none()
            && !hides_a_type(&sig.output)
            && let Some(first) = block.stmts.first()
        {
            let site = Site::Body;
            self.found
                .sites
                .insert((Genre::Body, bytes(first).start), site);
        }
    }
}

impl<'a> Visit<'a> for Walk {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.function(item, &item.sig, &item.block);
        self.constant(item.sig.constness.is_some(), |walk| {
            visit::visit_item_fn(walk, item);
        });
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.function(item, &item.sig, &item.block);
        self.constant(item.sig.constness.is_some(), |walk| {
            visit::visit_impl_item_fn(walk, item);
        });
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(item, &item.sig, block);
        }
        self.constant(item.sig.constness.is_some(), |walk| {
            visit::visit_trait_item_fn(walk, item);
        });
    }

    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        self.constant(true, |walk| visit::visit_item_const(walk, item));
    }

    fn visit_impl_item_const(&mut self, item: &'a syn::ImplItemConst) {
        self.constant(true, |walk| visit::visit_impl_item_const(walk, item));
    }

    fn visit_trait_item_const(&mut self, item: &'a syn::TraitItemConst) {
        self.constant(true, |walk| visit::visit_trait_item_const(walk, item));
    }

    fn visit_item_static(&mut self, item: &'a syn::ItemStatic) {
        self.constant(true, |walk| visit::visit_item_static(walk, item));
    }

    fn visit_variant(&mut self, variant: &'a syn::Variant) {
        self.constant(true, |walk| visit::visit_variant(walk, variant));
    }

    fn visit_expr_const(&mut self, block: &'a syn::ExprConst) {
        self.constant(true, |walk| visit::visit_expr_const(walk, block));
    }

    fn visit_expr_repeat(&mut self, array: &'a syn::ExprRepeat) {
        self.visit_expr(&array.expr);
        self.constant(true, |walk| walk.visit_expr(&array.len));
    }

    // Lengths and parameters.
    fn visit_type(&mut self, kind: &'a syn::Type) {
        self.constant(true, |walk| visit::visit_type(walk, kind));
    }

    fn visit_generic_argument(&mut self, argument: &'a syn::GenericArgument) {
        self.constant(true, |walk| visit::visit_generic_argument(walk, argument));
    }

    fn visit_pat(&mut self, pattern: &'a syn::Pat) {
        self.constant(true, |walk| visit::visit_pat(walk, pattern));
    }

    fn visit_expr_binary(&mut self, binary: &'a syn::ExprBinary) {
        let at = bytes(&binary.op).start;
        if has_let(&binary.left) || has_let(&binary.right) {
            self.found.chains.insert(at);
        } else {
            let (left, right) = (bytes(&binary.left), bytes(&binary.right));
            self.site(Genre::Binary, at, Site::Binary { left, right });
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_unary(&mut self, unary: &'a syn::ExprUnary) {
        let (whole, operand) = (bytes(unary), bytes(&unary.expr));
        let at = bytes(&unary.op).start;
        self.site(Genre::Unary, at, Site::Unary { whole, operand });
        visit::visit_expr_unary(self, unary);
    }

    fn visit_arm(&mut self, arm: &'a syn::Arm) {
        match &arm.guard {
            // Without it the match would not be whole, and with a guard it is not, either.
            None if is_binding(&arm.pat) => {}
            None => {
                let pattern_ends = bytes(&arm.pat).end;
                let site = Site::Arm { pattern_ends };
                self.site(Genre::Arm, bytes(arm).start, site);
            }
            Some((_, guard)) => {
                let (whole, lets) = (bytes(guard), has_let(guard));
                self.site(Genre::Guard, whole.start, Site::Guard { whole, lets });
            }
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_struct(&mut self, value: &'a syn::ExprStruct) {
        if value.rest.is_some() {
            for field in &value.fields {
                let whole = bytes(value);
                self.site(Genre::Field, bytes(field).start, Site::Field { whole });
            }
        }
        visit::visit_expr_struct(self, value);
    }
}

fn bytes(node: &impl Spanned) -> Range<usize> {
    node.span().byte_range()
}

/// Whether a pattern is a name that takes everything.
fn is_binding(pattern: &syn::Pat) -> bool {
    let syn::Pat::Ident(name) = pattern else {
        return false;
    };
    let name = name.ident.to_string();
    name.starts_with(|first: char| first.is_lowercase() || first == '_')
}

/// Whether it is, or chains, a `let`: then it stands where `if` and `while` ask, and nowhere else.
fn has_let(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

/// Whether a result is `impl Trait`, or has one inside.
fn hides_a_type(output: &syn::ReturnType) -> bool {
    struct Seen(bool);
    impl Visit<'_> for Seen {
        fn visit_type_impl_trait(&mut self, _: &syn::TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut seen = Seen(false);
    seen.visit_return_type(output);
    seen.0
}

#[cfg(test)]
mod unit {
    use super::{Genre, Site, read};

    /// What there is to break in this, as text.
    fn sites(text: &str) -> Vec<String> {
        let source = read(text).unwrap();
        let shown = |(&(genre, at), site): (&(Genre, usize), &Site)| match site {
            Site::Body => format!("{genre:?}@{at}"),
            Site::Binary { left, right } => {
                format!("{} | {}", &text[left.clone()], &text[right.clone()])
            }
            Site::Unary { whole, operand } => {
                format!("{} | {}", &text[whole.clone()], &text[operand.clone()])
            }
            Site::Arm { pattern_ends } => format!("{} |", &text[at..*pattern_ends]),
            Site::Guard { whole, lets } => format!("if {} {lets}", &text[whole.clone()]),
            Site::Field { whole } => format!("{} {}", &text[at..=at], &text[whole.clone()]),
        };
        source.sites.iter().map(shown).collect()
    }

    #[test]
    fn what_can_be_chosen_at_run_time_is_found() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("a body", "fn f() -> u8 { 1 }", &["Body@15"]),
            ("an empty body", "fn f() {}", &[]),
            ("a method", "impl A { fn f() { g(); } }", &["Body@18"]),
            ("an opaque result", "fn f() -> impl A { 1 }", &[]),
            ("another inside", "fn f() -> Box<impl A> { 1 }", &[]),
            ("a constant function", "const fn f() -> u8 { 1 + 2 }", &[]),
            (
                "operators, nested",
                "fn f() { a + b == -c }",
                &["Body@9", "a | b", "a + b | -c", "-c | c"],
            ),
            (
                "after let, and no chain of it",
                "fn f() { if let A = b && c == d { g() } }",
                &["Body@9", "c | d"],
            ),
            (
                "arms",
                "fn f() { match a { B | C => 1, D if e => 2, f => 3, _ => 3 } }",
                &["Body@9", "B | C |", "_ |", "if e false"],
            ),
            (
                "fields beside others",
                "fn f() { A { b: 1, ..c }; A { b: 1 }; }",
                &["Body@9", "b A { b: 1, ..c }"],
            ),
            (
                "what the compiler computes",
                "const A: u8 = 1 + 2; static B: [u8; 1 + 2] = [0; 1 + 2]; enum C { D = 1 + 2 }",
                &[],
            ),
            (
                "lengths and patterns",
                "fn f() { [a + b; 1 + 2]; match a { -1 => {} } }",
                &["Body@9", "a | b", "-1 |"],
            ),
        ];
        for (name, text, want) in cases {
            assert_eq!(sites(text), *want, "{name}");
        }
    }

    #[test]
    fn chains_of_let_are_known() {
        let text = "fn f() { if a == b && let C = d && e && (f && g) {} }";
        let chains: Vec<usize> = read(text).unwrap().chains.into_iter().collect();
        assert_eq!(chains, [19, 32, 37]);
    }

    #[test]
    fn comments_are_no_part_of_a_function() {
        let [one, other] = ["/// A.\nfn f() {\n    // b\n    1\n}", "fn f() { 1 }"]
            .map(|text| read(text).unwrap().functions.remove(0));
        assert_eq!(one.tokens, other.tokens);
        assert_eq!(one.name, "f");
        let third = read("fn f() { 2 }").unwrap().functions.remove(0);
        assert_ne!(one.tokens, third.tokens);
    }

    #[test]
    fn the_innermost_function_is_found() {
        let text = "fn f() { fn g() { a + b; } c + d; }";
        let source = read(text).unwrap();
        for (inside, want) in [("a", Some("g")), ("c", Some("f")), ("fn f", Some("f"))] {
            let at = text.find(inside).unwrap();
            let found = source.function_around(&(at..at + 1));
            assert_eq!(found.map(|function| &*function.name), want, "{inside}");
        }
        assert!(source.function_around(&(0..text.len() + 1)).is_none());
    }
}
