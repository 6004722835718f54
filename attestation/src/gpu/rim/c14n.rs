//! Canonical XML 1.1, inclusive and without comments: the bytes that are hashed and signed.
//!
//! Version 1.1 differs from 1.0 in what a part of a document inherits: `xml:lang` and `xml:space`
//! as before, `xml:id` no longer, `xml:base` in a way of its own, which the reader refuses.

use super::xml::{Element, Inside, Named, Parts};

/// The canonical form of an element and what is inside, without `left_out`.
///
/// Of the outermost element of a document it is the canonical form of the document. Of another it
/// begins with every namespace that is in scope there, as if the rest were not in the node-set.
pub(super) fn canonical(apex: Element<'_, '_>, left_out: Option<Element<'_, '_>>) -> Vec<u8> {
    let mut writer = Writer {
        out: Vec::new(),
        scope: Vec::new(),
        open: Vec::new(),
    };
    let whole = apex.parts();
    let end = whole.range.end;
    let mut at = whole.range.start;
    writer.start(with_inherited(apex, whole));
    at += 1;
    while at < end {
        writer.end_until(at);
        match apex.inside(at) {
            Some(Inside::Text(text)) => writer.text(text),
            Some(Inside::Element(element)) => {
                let parts = element.parts();
                if left_out.is_some_and(|other| other.same(&element)) {
                    at = parts.range.end;
                    continue;
                }
                writer.start(parts);
            }
            None => break,
        }
        at += 1;
    }
    writer.end_until(end);
    writer.out
}

/// The apex with what it has from the elements around it.
fn with_inherited<'d, 'a>(apex: Element<'d, 'a>, mut parts: Parts<'d, 'a>) -> Parts<'d, 'a> {
    let mut around = apex.parent();
    while let Some(element) = around {
        let outer = element.parts();
        for (prefix, uri) in outer.declarations {
            if !parts.declarations.iter().any(|(inner, _)| *inner == prefix) {
                parts.declarations.push((prefix, uri));
            }
        }
        for attribute in outer.attributes.iter().filter(|one| one.is_inherited()) {
            let same = |inner: &Named<'_, '_>| {
                inner.uri == attribute.uri && inner.local == attribute.local
            };
            if !parts.attributes.iter().any(same) {
                parts.attributes.push(*attribute);
            }
        }
        around = element.parent();
    }
    parts.attributes.sort_by_key(|one| (one.uri, one.local));
    parts
}

struct Open<'a> {
    prefix: &'a str,
    local: &'a str,
    end: usize,
    scope: usize,
}

struct Writer<'d, 'a> {
    out: Vec<u8>,
    /// Declarations that were written and are in scope, innermost last.
    scope: Vec<(&'a str, &'d str)>,
    open: Vec<Open<'a>>,
}

impl<'d, 'a> Writer<'d, 'a> {
    fn start(&mut self, parts: Parts<'d, 'a>) {
        self.out.push(b'<');
        self.name(parts.prefix, parts.local);
        let scope = self.scope.len();
        let mut new: Vec<(&str, &str)> = parts.declarations;
        // Said already by an element around, or never anything else: no namespace by default.
        new.retain(|(prefix, uri)| {
            let said = self.scope.iter().rev().find(|(outer, _)| outer == prefix);
            said.map_or("", |(_, outer)| outer) != *uri
        });
        new.sort_unstable();
        for (prefix, uri) in &new {
            match *prefix {
                "" => self.attribute("", "xmlns", uri),
                prefix => self.attribute("xmlns", prefix, uri),
            }
        }
        self.scope.extend(new);
        for attribute in &parts.attributes {
            self.attribute(attribute.prefix, attribute.local, attribute.value);
        }
        self.out.push(b'>');
        self.open.push(Open {
            prefix: parts.prefix,
            local: parts.local,
            end: parts.range.end,
            scope,
        });
    }

    /// Writes the end tags of all elements that end before the node at that place.
    fn end_until(&mut self, place: usize) {
        while let Some(open) = self.open.pop_if(|open| open.end <= place) {
            self.out.extend_from_slice(b"</");
            self.name(open.prefix, open.local);
            self.out.push(b'>');
            self.scope.truncate(open.scope);
        }
    }

    fn name(&mut self, prefix: &str, local: &str) {
        if !prefix.is_empty() {
            self.out.extend_from_slice(prefix.as_bytes());
            self.out.push(b':');
        }
        self.out.extend_from_slice(local.as_bytes());
    }

    fn attribute(&mut self, prefix: &str, local: &str, value: &str) {
        self.out.push(b' ');
        self.name(prefix, local);
        self.out.extend_from_slice(b"=\"");
        self.escaped(value, |byte| match byte {
            b'&' => Some("&amp;"),
            b'<' => Some("&lt;"),
            b'"' => Some("&quot;"),
            b'\t' => Some("&#x9;"),
            b'\n' => Some("&#xA;"),
            b'\r' => Some("&#xD;"),
            _ => None,
        });
        self.out.push(b'"');
    }

    fn text(&mut self, text: &str) {
        self.escaped(text, |byte| match byte {
            b'&' => Some("&amp;"),
            b'<' => Some("&lt;"),
            b'>' => Some("&gt;"),
            b'\r' => Some("&#xD;"),
            _ => None,
        });
    }

    /// All that is escaped is ASCII, and no byte of another character is.
    fn escaped(&mut self, value: &str, escape: impl Fn(u8) -> Option<&'static str>) {
        for byte in value.bytes() {
            match escape(byte) {
                Some(text) => self.out.extend_from_slice(text.as_bytes()),
                None => self.out.push(byte),
            }
        }
    }
}

#[cfg(test)]
mod tests;
