//! What a RIM says: a SWID tag with reference values for measurements.
//!
//! Format: ISO/IEC 19770-2:2015 with the attributes of TCG's Reference Integrity Manifest
//! Information Model; the `Resource` elements are NVIDIA's own.

use super::xml::Element;
use crate::error::{Fault, ParseError};

/// Namespace of the tag.
const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
/// Namespace of the attributes that hold hashes: the name XML Encryption has for SHA-384.
const HASHES: &str = "http://www.w3.org/2001/04/xmlenc#sha384";

/// Bytes of a reference value: SHA-384.
pub const REFERENCE_VALUE_BYTES: usize = 48;
/// Highest measurement: SPDM numbers blocks from 1, and has none above 254.
const MAX_INDEX: usize = 253;
/// Reference values of one measurement. RIMs have up to four.
const MAX_ALTERNATIVES: usize = 64;
/// Longest id, name or version. The longest genuine one has 96.
const MAX_TEXT: usize = 256;

/// Reference values for one product in one version, as a RIM states them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rim {
    /// `tagId`: the same for every issue of one version. NVIDIA's are 96 hex digits.
    pub id: String,
    /// The chip: `GH100`, `GB100`, `LS10`.
    pub product: String,
    /// `GPU` or `SWITCH`.
    pub edition: String,
    /// Version of driver or VBIOS, `colloquialVersion`.
    pub version: String,
    /// Measurements that count, by index. There is at least one.
    pub golden: Vec<Golden>,
}

/// What one measurement may be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Golden {
    /// From 0; the block of the report has the next higher number.
    pub index: u8,
    /// What the RIM calls it.
    pub name: String,
    /// Any of these is good. There is at least one.
    pub alternatives: Vec<[u8; REFERENCE_VALUE_BYTES]>,
}

impl Rim {
    /// Reads a tag out of the element that was canonicalised and found to be the signed one.
    pub(super) fn read(root: Element<'_, '_>) -> Result<Self, ParseError> {
        if !root.is(SWID, "SoftwareIdentity") {
            return Err(wrong(
                root,
                "SoftwareIdentity",
                "is not the outermost element",
            ));
        }
        let meta = only(root, "Meta")?;
        let payload = only(root, "Payload")?;
        Ok(Self {
            id: text(root, "tagId")?,
            product: text(meta, "product")?,
            edition: text(meta, "edition")?,
            version: text(meta, "colloquialVersion")?,
            golden: golden(payload)?,
        })
    }

    /// It has reference values for that measurement.
    #[must_use]
    pub fn covers(&self, index: u8) -> bool {
        self.golden
            .binary_search_by_key(&index, |golden| golden.index)
            .is_ok()
    }
}

fn wrong(element: Element<'_, '_>, field: &'static str, why: &'static str) -> ParseError {
    ParseError {
        structure: "SoftwareIdentity",
        field,
        offset: element.offset(),
        fault: Fault::Rule(why),
    }
}

fn only<'d, 'a>(root: Element<'d, 'a>, name: &'static str) -> Result<Element<'d, 'a>, ParseError> {
    let mut all = root.children().filter(|child| child.is(SWID, name));
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(wrong(root, name, "there is none")),
        (Some(_), Some(second)) => Err(wrong(second, name, "there is more than one")),
    }
}

fn attribute<'d>(element: Element<'d, '_>, name: &'static str) -> Result<&'d str, ParseError> {
    element
        .attribute("", name)
        .ok_or_else(|| wrong(element, name, "is missing"))
}

/// An attribute that is shown and compared: neither empty nor long nor with odd characters.
fn text(element: Element<'_, '_>, name: &'static str) -> Result<String, ParseError> {
    let value = attribute(element, name)?;
    if value.is_empty() || value.len() > MAX_TEXT {
        return Err(wrong(element, name, "is empty or too long"));
    }
    if !value
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        return Err(wrong(element, name, "holds something else than ASCII"));
    }
    Ok(value.to_owned())
}

fn golden(payload: Element<'_, '_>) -> Result<Vec<Golden>, ParseError> {
    let mut seen = [false; MAX_INDEX + 1];
    let mut all = Vec::new();
    for resource in payload.children() {
        if !resource.is(SWID, "Resource") {
            return Err(wrong(
                resource,
                "Payload",
                "holds something else than Resource",
            ));
        }
        let (active, golden) = read_resource(resource)?;
        match seen.get_mut(usize::from(golden.index)) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(wrong(resource, "Resource.index", "stands twice")),
        }
        if active {
            all.push(golden);
        }
    }
    if all.is_empty() {
        return Err(wrong(payload, "Payload", "no measurement is active"));
    }
    all.sort_by_key(|golden| golden.index);
    Ok(all)
}

/// One `Resource`: whether it counts, and its values, which are checked either way.
fn read_resource(resource: Element<'_, '_>) -> Result<(bool, Golden), ParseError> {
    if attribute(resource, "type")? != "Measurement" {
        return Err(wrong(resource, "Resource.type", "is not Measurement"));
    }
    let number = |name| {
        let digits = attribute(resource, name)?;
        let number = match digits.len() {
            1..=3 if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| wrong(resource, name, "is not a number of up to three digits"))
    };
    let index: usize = number("index")?;
    let active = match attribute(resource, "active")? {
        "True" => true,
        "False" => false,
        _ => {
            return Err(wrong(
                resource,
                "Resource.active",
                "is neither True nor False",
            ));
        }
    };
    if number("size")? != REFERENCE_VALUE_BYTES {
        return Err(wrong(resource, "Resource.size", "is not that of SHA-384"));
    }
    let count = number("alternatives")?;
    if !(1..=MAX_ALTERNATIVES).contains(&count) {
        return Err(wrong(
            resource,
            "Resource.alternatives",
            "is none or too many",
        ));
    }
    if resource.count_attributes(HASHES) != count {
        return Err(wrong(
            resource,
            "Resource.Hash",
            "are not as many as it says",
        ));
    }
    let alternatives = (0..count).map(|n| {
        let hash = resource.attribute(HASHES, &format!("Hash{n}"));
        let mut value = [0; REFERENCE_VALUE_BYTES];
        match hash.map(|digits| hex::decode_to_slice(digits, &mut value)) {
            Some(Ok(())) => Ok(value),
            Some(Err(_)) => Err(wrong(resource, "Resource.Hash", "is not 96 hex digits")),
            None => Err(wrong(resource, "Resource.Hash", "is missing")),
        }
    });
    let alternatives = alternatives.collect::<Result<_, _>>()?;
    match u8::try_from(index) {
        Ok(index) if usize::from(index) <= MAX_INDEX => Ok((
            active,
            Golden {
                index,
                name: resource
                    .attribute("", "name")
                    .unwrap_or_default()
                    .to_owned(),
                alternatives,
            },
        )),
        _ => Err(wrong(
            resource,
            "Resource.index",
            "is not one a report can have",
        )),
    }
}
