//! Distinguished names, compared as names and kept as bytes.

use const_oid::ObjectIdentifier;
use der::Tag;

use crate::error::ParseError;

use super::der::Walk;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// Attributes in one name; real ones have up to ten.
const MAX_ATTRIBUTES: usize = 64;

/// One attribute of a name.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Attribute {
    kind: ObjectIdentifier,
    tag: Tag,
    value: Vec<u8>,
}

/// A distinguished name. Equality is of meaning: string types, case and spaces do not count, nor
/// does the order inside one relative name, which Nuvoton's certificates have in no order at all.
///
/// That two names are equal proves nothing; the signature does.
#[derive(Clone, Debug)]
pub struct Name {
    relative: Vec<Vec<Attribute>>,
}

impl Name {
    pub(super) fn parse(structure: &'static str, der: &[u8]) -> Result<Self, ParseError> {
        let mut walk = Walk::new(structure, der)?;
        let name = Self::read(&mut walk)?;
        walk.finish("name")?;
        Ok(name)
    }

    pub(super) fn read(walk: &mut Walk<'_>) -> Result<Self, ParseError> {
        let mut names = walk.enter("name", Tag::Sequence)?;
        let mut relative = Vec::new();
        let mut count = 0;
        while !names.is_empty() {
            let mut set = names.enter("name.relative", Tag::Set)?;
            let mut attributes = Vec::new();
            while !set.is_empty() {
                let mut pair = set.enter("name.attribute", Tag::Sequence)?;
                let kind = pair.read("name.attribute.type")?;
                let (tag, value) = pair.any("name.attribute.value")?;
                count += 1;
                if count > MAX_ATTRIBUTES {
                    return Err(pair.rule("name", "has more attributes than any real name"));
                }
                pair.finish("name.attribute")?;
                attributes.push(Attribute {
                    kind,
                    tag,
                    value: value.to_vec(),
                });
            }
            relative.push(attributes);
        }
        Ok(Self { relative })
    }

    /// The value of the first attribute of that type, as text.
    #[must_use]
    pub fn attribute(&self, kind: ObjectIdentifier) -> Option<String> {
        let mut all = self.relative.iter().flatten();
        all.find(|attribute| attribute.kind == kind).map(text)
    }

    /// The common name; empty where there is none.
    #[must_use]
    pub fn common_name(&self) -> String {
        self.attribute(COMMON_NAME).unwrap_or_default()
    }

    /// What to call it in a message: the common name, where there is one.
    #[must_use]
    pub fn label(&self) -> String {
        self.attribute(COMMON_NAME)
            .unwrap_or_else(|| "(no common name)".to_owned())
    }

    /// There is no attribute at all, as in most EK certificates.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.relative.iter().all(Vec::is_empty)
    }

    fn canonical(&self) -> Vec<Vec<(ObjectIdentifier, bool, Vec<u8>)>> {
        let canonical = |attribute: &Attribute| {
            if is_string(attribute.tag) {
                let folded = text(attribute).to_lowercase();
                let words: Vec<&str> = folded.split_whitespace().collect();
                (attribute.kind, true, words.join(" ").into_bytes())
            } else {
                (attribute.kind, false, attribute.value.clone())
            }
        };
        self.relative
            .iter()
            .map(|attributes| {
                let mut attributes: Vec<_> = attributes.iter().map(canonical).collect();
                attributes.sort();
                attributes
            })
            .collect()
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for Name {}

const fn is_string(tag: Tag) -> bool {
    matches!(
        tag,
        Tag::Utf8String
            | Tag::PrintableString
            | Tag::TeletexString
            | Tag::Ia5String
            | Tag::VisibleString
            | Tag::BmpString
    )
}

fn text(attribute: &Attribute) -> String {
    if attribute.tag == Tag::BmpString {
        let units = attribute
            .value
            .chunks_exact(2)
            .filter_map(|pair| pair.try_into().ok());
        let units: Vec<u16> = units.map(u16::from_be_bytes).collect();
        return String::from_utf16_lossy(&units);
    }
    String::from_utf8_lossy(&attribute.value).into_owned()
}
