//! From bytes to the tree.

use std::borrow::Cow;

use super::names::{is_absolute, is_char, is_name_char, is_name_start, is_space};
use super::{
    Attribute, Declaration, Document, ElementNode, MAX_ATTRIBUTES, MAX_DEPTH, MAX_NODES, MAX_SCOPE,
    MAX_XML, Namespace, Node, XML_NAMESPACE,
};
use crate::error::{Fault, ParseError};

/// What `xmlns` always stands for, and no prefix may.
const XMLNS_NAMESPACE: &str = "http://www.w3.org/2000/xmlns/";
/// Longest reference: `&#x10ffff;` with leading zeros to spare.
const MAX_REFERENCE: usize = 16;

pub(super) fn parse(bytes: &[u8]) -> Result<Document<'_>, ParseError> {
    if bytes.len() > MAX_XML {
        return Err(fault("document", 0, too_many(bytes.len(), MAX_XML)));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(rule("document", error.valid_up_to(), "is not UTF-8")),
    };
    if let Some((offset, _)) = text.char_indices().find(|(_, c)| !is_char(*c)) {
        return Err(rule("document", offset, "a character that XML has not"));
    }
    let mut parser = Parser {
        text,
        at: 0,
        nodes: Vec::new(),
        attributes: Vec::new(),
        declarations: Vec::new(),
        open: Vec::new(),
        scope: Vec::new(),
    };
    parser.document()?;
    Ok(Document {
        nodes: parser.nodes,
        attributes: parser.attributes,
        declarations: parser.declarations,
    })
}

fn fault(field: &'static str, offset: usize, fault: Fault) -> ParseError {
    ParseError {
        structure: "XML",
        field,
        offset,
        fault,
    }
}

fn rule(field: &'static str, offset: usize, text: &'static str) -> ParseError {
    fault(field, offset, Fault::Rule(text))
}

fn too_many(found: usize, limit: usize) -> Fault {
    let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    Fault::TooMany {
        found: as_u64(found),
        limit: as_u64(limit),
    }
}

/// An element whose end tag has not come yet.
struct Open<'a> {
    /// Its place among the nodes.
    index: usize,
    /// Its name as written.
    name: &'a str,
    /// How many declarations were in scope before it.
    scope: usize,
}

/// An attribute as written, before its prefix is known.
struct Raw<'a> {
    prefix: &'a str,
    local: &'a str,
    value: Cow<'a, str>,
    offset: usize,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    nodes: Vec<Node<'a>>,
    attributes: Vec<Attribute<'a>>,
    declarations: Vec<Declaration<'a>>,
    open: Vec<Open<'a>>,
    /// Declarations in scope, by place, innermost last.
    scope: Vec<usize>,
}

impl<'a> Parser<'a> {
    fn document(&mut self) -> Result<(), ParseError> {
        // A byte order mark says nothing in UTF-8, and is no part of the document.
        self.skip("\u{feff}");
        self.declaration()?;
        self.space();
        self.start_tag()?;
        while !self.open.is_empty() {
            self.content()?;
        }
        self.space();
        match self.rest() {
            "" => Ok(()),
            rest if rest.starts_with('<') => {
                self.refuse_odd_markup()?;
                Err(rule("element", self.at, "a second one stands outermost"))
            }
            _ => Err(rule("text", self.at, "stands outside every element")),
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, what: &str) -> bool {
        let there = self.rest().starts_with(what);
        if there {
            self.at += what.len();
        }
        there
    }

    /// Skips white space and says whether there was any.
    fn space(&mut self) -> bool {
        !self.take_while(is_space).is_empty()
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let len = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += len;
        rest.get(..len).unwrap_or_default()
    }

    /// Everything up to `end`, which is skipped.
    fn take_until(&mut self, end: char, field: &'static str) -> Result<&'a str, ParseError> {
        let Some((taken, _)) = self.rest().split_once(end) else {
            return Err(rule(field, self.at, "has no end"));
        };
        self.at += taken.len() + end.len_utf8();
        Ok(taken)
    }

    /// `<?xml version="1.0" encoding="UTF-8" standalone="yes"?>`, all but the version optional.
    fn declaration(&mut self) -> Result<(), ParseError> {
        let begins = |rest: &str| {
            rest.strip_prefix("<?xml")
                .is_some_and(|after| after.starts_with(is_space))
        };
        if !begins(self.rest()) {
            return Ok(());
        }
        self.skip("<?xml");
        let version = self.pseudo_attribute("version")?;
        if version != Some("1.0") {
            return Err(rule("declaration", self.at, "the version is not 1.0"));
        }
        let encoding = self.pseudo_attribute("encoding")?;
        if encoding.is_some_and(|name| !name.eq_ignore_ascii_case("utf-8")) {
            return Err(rule("declaration", self.at, "the encoding is not UTF-8"));
        }
        let standalone = self.pseudo_attribute("standalone")?;
        if standalone.is_some_and(|word| !matches!(word, "yes" | "no")) {
            return Err(rule("declaration", self.at, "standalone is yes or no"));
        }
        self.space();
        if self.skip("?>") {
            Ok(())
        } else {
            Err(rule("declaration", self.at, "is not one of XML 1.0"))
        }
    }

    fn pseudo_attribute(&mut self, name: &str) -> Result<Option<&'a str>, ParseError> {
        let before = self.at;
        if !(self.space() && self.skip(name)) {
            self.at = before;
            return Ok(None);
        }
        self.equals()?;
        self.quoted().map(|(_, value)| Some(value))
    }

    fn equals(&mut self) -> Result<(), ParseError> {
        self.space();
        if !self.skip("=") {
            return Err(rule("attribute", self.at, "has no value"));
        }
        self.space();
        Ok(())
    }

    /// A quoted value as written, and where it begins.
    fn quoted(&mut self) -> Result<(usize, &'a str), ParseError> {
        let quote = match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => quote,
            _ => return Err(rule("attribute", self.at, "the value has no quotes")),
        };
        self.at += 1;
        let begin = self.at;
        self.take_until(quote, "attribute")
            .map(|value| (begin, value))
    }

    /// Text, an element, or the end of one.
    fn content(&mut self) -> Result<(), ParseError> {
        if self.skip("</") {
            return self.end_tag();
        }
        if self.rest().starts_with('<') {
            return self.start_tag();
        }
        let begin = self.at;
        let raw = self.take_while(|c| c != '<');
        if self.rest().is_empty() {
            return Err(rule("element", self.at, "has no end tag"));
        }
        if raw.contains("]]>") {
            return Err(rule("text", begin, "holds ]]>"));
        }
        let text = resolve(raw, begin, false)?;
        self.push(Node::Text(text)).map(|_| ())
    }

    fn push(&mut self, node: Node<'a>) -> Result<usize, ParseError> {
        let index = self.nodes.len();
        if index == MAX_NODES {
            return Err(fault("document", self.at, too_many(index + 1, MAX_NODES)));
        }
        self.nodes.push(node);
        Ok(index)
    }

    /// What begins with `<` and is no element.
    fn refuse_odd_markup(&self) -> Result<(), ParseError> {
        let rest = self.rest();
        let odd = [
            ("<!DOCTYPE", "is a document type declaration"),
            ("<!--", "is a comment"),
            ("<![CDATA[", "is a CDATA section"),
            ("<!", "is a declaration"),
            ("<?", "is a processing instruction"),
            ("</", "is an end tag without its start"),
        ];
        match odd.into_iter().find(|(begin, _)| rest.starts_with(begin)) {
            Some((_, what)) => Err(rule("markup", self.at, what)),
            None => Ok(()),
        }
    }

    /// A name as written, with its prefix, which may be empty, and its local part.
    fn name(&mut self, field: &'static str) -> Result<(&'a str, &'a str, &'a str), ParseError> {
        let begin = self.at;
        let whole = self.take_while(|c| is_name_char(c) || c == ':');
        let (prefix, local) = match whole.split_once(':') {
            Some(("", _)) => return Err(rule(field, begin, "the prefix is empty")),
            Some(parts) => parts,
            None => ("", whole),
        };
        let good = |part: &str| part.starts_with(is_name_start) && !part.contains(':');
        if good(local) && (prefix.is_empty() || good(prefix)) {
            Ok((whole, prefix, local))
        } else {
            Err(rule(field, begin, "is not a name"))
        }
    }

    fn start_tag(&mut self) -> Result<(), ParseError> {
        self.refuse_odd_markup()?;
        let offset = self.at;
        if !self.skip("<") {
            return Err(rule("element", offset, "is wanted here"));
        }
        if self.open.len() == MAX_DEPTH {
            let deeper = too_many(MAX_DEPTH + 1, MAX_DEPTH);
            return Err(fault("element", offset, deeper));
        }
        let (name, prefix, local) = self.name("element")?;
        let scope = self.scope.len();
        let declared = self.declarations.len();
        let raw = self.attributes()?;
        let namespace = match self.lookup(prefix) {
            Some(namespace) => namespace,
            None if prefix.is_empty() => Namespace::None,
            None => return Err(rule("element", offset, "the prefix is not declared")),
        };
        let attributes = self.qualify(raw)?;
        let empty = self.skip("/");
        if !self.skip(">") {
            return Err(rule("element", self.at, "the tag has no end"));
        }
        let node = ElementNode {
            prefix,
            local,
            namespace,
            attributes,
            declarations: declared..self.declarations.len(),
            parent: self.open.last().map(|open| open.index),
            end: 0,
            offset,
        };
        let index = self.push(Node::Element(node))?;
        let open = Open { index, name, scope };
        if empty {
            self.close(&open);
        } else {
            self.open.push(open);
        }
        Ok(())
    }

    fn end_tag(&mut self) -> Result<(), ParseError> {
        let offset = self.at;
        let (name, ..) = self.name("end tag")?;
        self.space();
        if !self.skip(">") {
            return Err(rule("end tag", self.at, "has no end"));
        }
        match self.open.pop() {
            Some(open) if open.name == name => {
                self.close(&open);
                Ok(())
            }
            _ => Err(rule("end tag", offset, "is of another element")),
        }
    }

    fn close(&mut self, open: &Open<'a>) {
        self.scope.truncate(open.scope);
        let end = self.nodes.len();
        if let Some(Node::Element(node)) = self.nodes.get_mut(open.index) {
            node.end = end;
        }
    }

    /// Reads all attributes of a tag; declarations take effect, the others are given back.
    fn attributes(&mut self) -> Result<Vec<Raw<'a>>, ParseError> {
        let mut raw = Vec::new();
        let own = self.declarations.len();
        loop {
            let spaced = self.space();
            if self.rest().starts_with(['/', '>']) || self.rest().is_empty() {
                return Ok(raw);
            }
            if !spaced {
                return Err(rule("attribute", self.at, "no space before it"));
            }
            let offset = self.at;
            let (name, prefix, local) = self.name("attribute")?;
            self.equals()?;
            let (begin, value) = self.quoted()?;
            if let Some(less) = value.find('<') {
                return Err(rule("attribute", begin + less, "holds <"));
            }
            let value = resolve(value, begin, true)?;
            if name == "xmlns" {
                self.declare("", value, offset, own)?;
            } else if prefix == "xmlns" {
                self.declare(local, value, offset, own)?;
            } else if raw.len() == MAX_ATTRIBUTES {
                let more = too_many(MAX_ATTRIBUTES + 1, MAX_ATTRIBUTES);
                return Err(fault("attribute", offset, more));
            } else {
                raw.push(Raw {
                    prefix,
                    local,
                    value,
                    offset,
                });
            }
        }
    }

    /// A namespace declaration; those of the same tag begin at `own`.
    fn declare(
        &mut self,
        prefix: &'a str,
        uri: Cow<'a, str>,
        offset: usize,
        own: usize,
    ) -> Result<(), ParseError> {
        let refuse = |why| Err(rule("namespace", offset, why));
        if (prefix == "xml") != (uri == XML_NAMESPACE) {
            return refuse("xml and its namespace belong together");
        }
        if prefix == "xmlns" || uri == XMLNS_NAMESPACE {
            return refuse("xmlns cannot be declared");
        }
        if uri.is_empty() && !prefix.is_empty() {
            return refuse("a prefix cannot be taken back");
        }
        if !uri.is_empty() && !is_absolute(&uri) {
            return refuse("is not an absolute URI");
        }
        let same_tag = self.declarations.get(own..).unwrap_or_default();
        if same_tag.iter().any(|earlier| earlier.prefix == prefix) {
            return refuse("is declared twice");
        }
        if prefix == "xml" {
            // Says what is so anyway, and no canonical form shows it.
            return Ok(());
        }
        if self.scope.len() == MAX_SCOPE {
            return Err(fault(
                "namespace",
                offset,
                too_many(MAX_SCOPE + 1, MAX_SCOPE),
            ));
        }
        self.scope.push(self.declarations.len());
        self.declarations.push(Declaration { prefix, uri });
        Ok(())
    }

    /// What a prefix stands for here; an empty one stands for the default namespace.
    fn lookup(&self, prefix: &str) -> Option<Namespace> {
        if prefix == "xml" {
            return Some(Namespace::Xml);
        }
        let found = self.scope.iter().rev().find_map(|index| {
            let declaration = self.declarations.get(*index)?;
            (declaration.prefix == prefix).then_some((*index, declaration.uri.is_empty()))
        });
        found.map(|(index, empty)| match empty {
            true => Namespace::None,
            false => Namespace::Declared(index),
        })
    }

    /// Gives attributes their namespaces and puts them in canonical order.
    fn qualify(&mut self, raw: Vec<Raw<'a>>) -> Result<std::ops::Range<usize>, ParseError> {
        let begin = self.attributes.len();
        let mut qualified = Vec::with_capacity(raw.len());
        for one in raw {
            let namespace = match one.prefix {
                // The default namespace is not for attributes.
                "" => Namespace::None,
                prefix => match self.lookup(prefix) {
                    Some(namespace) => namespace,
                    None => {
                        return Err(rule("attribute", one.offset, "the prefix is not declared"));
                    }
                },
            };
            if namespace == Namespace::Xml && one.local == "base" {
                return Err(rule("attribute", one.offset, "is xml:base"));
            }
            let uri = match namespace {
                Namespace::None => "",
                Namespace::Xml => XML_NAMESPACE,
                Namespace::Declared(index) => {
                    self.declarations.get(index).map_or("", |found| &found.uri)
                }
            };
            qualified.push((uri, one, namespace));
        }
        qualified.sort_by(|(a_uri, a, _), (b_uri, b, _)| (a_uri, a.local).cmp(&(b_uri, b.local)));
        let pairs = qualified.iter().zip(qualified.iter().skip(1));
        for ((a_uri, a, _), (b_uri, b, _)) in pairs {
            if a_uri == b_uri && a.local == b.local {
                return Err(rule("attribute", a.offset.max(b.offset), "stands twice"));
            }
        }
        self.attributes
            .extend(qualified.into_iter().map(|(_, one, namespace)| Attribute {
                prefix: one.prefix,
                local: one.local,
                namespace,
                value: one.value,
            }));
        Ok(begin..self.attributes.len())
    }
}

/// Resolves references and normalises line ends, and in an attribute all white space: what the
/// specification has a reader do before anyone sees the value.
fn resolve(raw: &str, offset: usize, attribute: bool) -> Result<Cow<'_, str>, ParseError> {
    let plain = |c: char| match c {
        '&' | '\r' => false,
        '\t' | '\n' => !attribute,
        _ => true,
    };
    if raw.chars().all(plain) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut value = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(next) = rest.chars().next() {
        let at = offset + (raw.len() - rest.len());
        let (character, len) = match next {
            '&' => reference(rest, at)?,
            '\r' if rest.starts_with("\r\n") => ('\n', 2),
            '\r' => ('\n', 1),
            other => (other, other.len_utf8()),
        };
        // A line end that was written as a reference is meant.
        let meant = next == '&' || !attribute || !is_space(character);
        value.push(if meant { character } else { ' ' });
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(Cow::Owned(value))
}

/// The character that a reference stands for, and the length of the reference.
fn reference(rest: &str, offset: usize) -> Result<(char, usize), ParseError> {
    let wrong = || {
        rule(
            "reference",
            offset,
            "is to nothing that XML has without a DTD",
        )
    };
    let window = rest
        .bytes()
        .take(MAX_REFERENCE)
        .position(|byte| byte == b';');
    let end = window.ok_or_else(wrong)?;
    let name = rest.get(1..end).ok_or_else(wrong)?;
    let number = |digits: &str, radix| {
        let only_digits = digits.chars().all(|c| c.is_digit(radix));
        let number = u32::from_str_radix(digits, radix).ok()?;
        let character = char::from_u32(number)?;
        (only_digits && is_char(character)).then_some(character)
    };
    let character = match (name, name.strip_prefix("#x"), name.strip_prefix('#')) {
        ("lt", ..) => Some('<'),
        ("gt", ..) => Some('>'),
        ("amp", ..) => Some('&'),
        ("quot", ..) => Some('"'),
        ("apos", ..) => Some('\''),
        (_, Some(hex), _) => number(hex, 16),
        (_, None, Some(decimal)) => number(decimal, 10),
        _ => None,
    };
    character.map(|c| (c, end + 1)).ok_or_else(wrong)
}
