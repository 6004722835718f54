//! A small, strict reader of XML 1.0 with namespaces: as much as a signed RIM needs.
//!
//! The tree is what is canonicalised and what values are read from, so there is one reading of
//! the bytes and nothing for two parsers to disagree on. Refused, though XML has it: document type
//! declarations, comments, processing instructions, CDATA sections and `xml:base`; no genuine RIM
//! has any of them, and each has been used to make a document mean two things.
//!
//! Time and memory are linear in the input, which is bounded; nothing recurses.
//!
//! Rules: Extensible Markup Language 1.0 (fifth edition), Namespaces in XML 1.0 (third edition).

mod names;
mod parse;

use std::borrow::Cow;
use std::ops::Range;

use crate::error::{Fault, ParseError};

/// Longest document that is read; genuine RIMs have 18 to 26 KiB.
pub const MAX_XML: usize = 1024 * 1024;
/// Elements inside one another. A RIM has seven levels.
pub(super) const MAX_DEPTH: usize = 32;
/// Elements and texts of one document. A RIM has some two hundred.
pub(super) const MAX_NODES: usize = 16 * 1024;
/// Attributes of one element, declarations not counted. A RIM has up to eleven.
pub(super) const MAX_ATTRIBUTES: usize = 128;
/// Namespace declarations that are in scope together. A RIM has five.
pub(super) const MAX_SCOPE: usize = 32;

/// What the prefix `xml` always stands for.
const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// A well-formed document, in document order.
#[derive(Debug)]
pub(super) struct Document<'a> {
    nodes: Vec<Node<'a>>,
    attributes: Vec<Attribute<'a>>,
    declarations: Vec<Declaration<'a>>,
}

#[derive(Debug)]
enum Node<'a> {
    Element(ElementNode<'a>),
    /// References resolved, line ends normalised.
    Text(Cow<'a, str>),
}

#[derive(Debug)]
struct ElementNode<'a> {
    prefix: &'a str,
    local: &'a str,
    namespace: Namespace,
    /// In canonical order.
    attributes: Range<usize>,
    declarations: Range<usize>,
    parent: Option<usize>,
    /// The first node after its content.
    end: usize,
    /// Bytes from the start of the document.
    offset: usize,
}

/// The namespace of a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Namespace {
    None,
    Xml,
    /// Place among the declarations of the document.
    Declared(usize),
}

#[derive(Debug)]
struct Attribute<'a> {
    prefix: &'a str,
    local: &'a str,
    namespace: Namespace,
    value: Cow<'a, str>,
}

/// `xmlns="…"` or `xmlns:prefix="…"`.
#[derive(Debug)]
struct Declaration<'a> {
    /// Empty for the default namespace.
    prefix: &'a str,
    uri: Cow<'a, str>,
}

impl<'a> Document<'a> {
    /// Reads one document to its last byte.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        parse::parse(bytes)
    }

    /// The outermost element.
    pub(super) fn root(&self) -> Result<Element<'_, 'a>, ParseError> {
        // A document that was read has one, at the first place.
        let missing = ParseError {
            structure: "XML",
            field: "element",
            offset: 0,
            fault: Fault::Rule("there is none"),
        };
        self.element(0).ok_or(missing)
    }

    fn element(&self, index: usize) -> Option<Element<'_, 'a>> {
        match self.nodes.get(index) {
            Some(Node::Element(node)) => Some(Element {
                document: self,
                index,
                node,
            }),
            Some(Node::Text(_)) | None => None,
        }
    }

    fn uri(&self, namespace: Namespace) -> &str {
        match namespace {
            Namespace::None => "",
            Namespace::Xml => XML_NAMESPACE,
            Namespace::Declared(index) => self.declarations.get(index).map_or("", |d| &d.uri),
        }
    }
}

/// One element of a document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'d, 'a> {
    document: &'d Document<'a>,
    index: usize,
    node: &'d ElementNode<'a>,
}

impl<'d, 'a> Element<'d, 'a> {
    /// It has that name in that namespace, whatever its prefix.
    pub(super) fn is(&self, namespace: &str, local: &str) -> bool {
        self.node.local == local && self.document.uri(self.node.namespace) == namespace
    }

    /// Bytes from the start of the document to its start tag.
    pub(super) const fn offset(&self) -> usize {
        self.node.offset
    }

    /// The value of an attribute; `namespace` is empty for one without prefix.
    pub(super) fn attribute(&self, namespace: &str, local: &str) -> Option<&'d str> {
        self.attribute_nodes()
            .find(|a| a.local == local && self.document.uri(a.namespace) == namespace)
            .map(|attribute| &*attribute.value)
    }

    /// How many attributes of that namespace it has.
    pub(super) fn count_attributes(&self, namespace: &str) -> usize {
        self.attribute_nodes()
            .filter(|a| self.document.uri(a.namespace) == namespace)
            .count()
    }

    /// Elements directly inside.
    pub(super) fn children(self) -> impl Iterator<Item = Element<'d, 'a>> {
        let mut at = self.index + 1;
        std::iter::from_fn(move || {
            while at < self.node.end {
                match self.document.element(at) {
                    Some(child) => {
                        at = child.node.end;
                        return Some(child);
                    }
                    None => at += 1,
                }
            }
            None
        })
    }

    /// Itself and every element inside, in document order.
    pub(super) fn descendants(self) -> impl Iterator<Item = Element<'d, 'a>> {
        (self.index..self.node.end).filter_map(|index| self.document.element(index))
    }

    /// The element it stands in.
    pub(super) fn parent(&self) -> Option<Element<'d, 'a>> {
        self.document.element(self.node.parent?)
    }

    /// Its text, if it holds nothing else.
    pub(super) fn text(&self) -> Option<&'d str> {
        match (
            self.node.end - self.index,
            self.document.nodes.get(self.index + 1),
        ) {
            (1, _) => Some(""),
            (2, Some(Node::Text(text))) => Some(text),
            _ => None,
        }
    }

    /// No element and nothing but white space stands inside.
    pub(super) fn is_empty(&self) -> bool {
        self.text()
            .is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_whitespace()))
    }

    /// They are the same element of the same document.
    pub(super) fn same(&self, other: &Self) -> bool {
        std::ptr::eq(self.node, other.node)
    }

    fn attribute_nodes(&self) -> impl Iterator<Item = &'d Attribute<'a>> + use<'d, 'a> {
        let range = self.node.attributes.clone();
        let found = self.document.attributes.get(range);
        found.unwrap_or_default().iter()
    }

    fn declaration_nodes(&self) -> impl Iterator<Item = &'d Declaration<'a>> + use<'d, 'a> {
        let range = self.node.declarations.clone();
        let found = self.document.declarations.get(range);
        found.unwrap_or_default().iter()
    }

    /// What the canonical form needs of it.
    pub(super) fn parts(&self) -> Parts<'d, 'a> {
        Parts {
            prefix: self.node.prefix,
            local: self.node.local,
            range: self.index..self.node.end,
            attributes: self.attributes_sorted(),
            declarations: self
                .declaration_nodes()
                .map(|d| (d.prefix, &*d.uri))
                .collect(),
        }
    }

    fn attributes_sorted(&self) -> Vec<Named<'d, 'a>> {
        self.attribute_nodes()
            .map(|attribute| Named {
                uri: self.document.uri(attribute.namespace),
                prefix: attribute.prefix,
                local: attribute.local,
                value: &attribute.value,
            })
            .collect()
    }

    /// What follows it inside `end`: the nodes of the document by place.
    pub(super) fn inside(&self, place: usize) -> Option<Inside<'d, 'a>> {
        match self.document.nodes.get(place) {
            Some(Node::Text(text)) => Some(Inside::Text(text)),
            Some(Node::Element(node)) => Some(Inside::Element(Element {
                document: self.document,
                index: place,
                node,
            })),
            None => None,
        }
    }
}

/// An element taken apart.
#[derive(Debug)]
pub(super) struct Parts<'d, 'a> {
    pub(super) prefix: &'a str,
    pub(super) local: &'a str,
    /// Its place in the document, and the first one after its content.
    pub(super) range: Range<usize>,
    /// By namespace, then by local name; those without namespace first.
    pub(super) attributes: Vec<Named<'d, 'a>>,
    /// Prefix and name, in the order of the document.
    pub(super) declarations: Vec<(&'a str, &'d str)>,
}

/// An attribute with the namespace its prefix stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'d, 'a> {
    pub(super) uri: &'d str,
    pub(super) prefix: &'a str,
    pub(super) local: &'a str,
    pub(super) value: &'d str,
}

impl Named<'_, '_> {
    /// `xml:lang` or `xml:space`: what a part of a document inherits from the whole.
    pub(super) fn is_inherited(&self) -> bool {
        self.uri == XML_NAMESPACE && matches!(self.local, "lang" | "space")
    }
}

/// A node inside an element.
#[derive(Debug)]
pub(super) enum Inside<'d, 'a> {
    Text(&'d str),
    Element(Element<'d, 'a>),
}

#[cfg(test)]
mod tests;
