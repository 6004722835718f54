//! Templates: which fields an entry has, and how each is written in text and hashed.

use crate::error::ParseError;
use crate::reader::Reader;

/// Fields a template may have: `ima_template.c` allows this many in a format of one's own.
const MAX_FIELDS: usize = 15;
/// `IMA_EVENT_NAME_LEN_MAX` and its NUL: how much of a name the oldest template hashes.
pub(super) const OLD_NAME: usize = 256;

/// One field, by the id of its kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Field {
    /// `d`: a digest without its algorithm.
    Digest,
    /// `n`: a name.
    Name,
    /// `d-ng`, `d-modsig`: `algorithm:` NUL digest.
    TaggedDigest,
    /// `d-ngv2`: `kind:algorithm:` NUL digest.
    TypedDigest,
    /// `n-ng`, `xattrnames`: text and its NUL.
    Text,
    /// `sig`, `evmsig`, `buf`, `modsig`, `xattrlengths`, `xattrvalues`: bytes.
    Bytes,
    /// `iuid`, `igid`: four bytes.
    Word,
    /// `imode`: two bytes.
    Half,
}

impl Field {
    fn of(id: &str) -> Option<Self> {
        Some(match id {
            "d" => Self::Digest,
            "n" => Self::Name,
            "d-ng" | "d-modsig" => Self::TaggedDigest,
            "d-ngv2" => Self::TypedDigest,
            "n-ng" | "xattrnames" => Self::Text,
            "sig" | "evmsig" | "buf" | "modsig" | "xattrlengths" | "xattrvalues" => Self::Bytes,
            "iuid" | "igid" => Self::Word,
            "imode" => Self::Half,
            _ => return None,
        })
    }
}

/// The kernel's own templates: name and fields.
const KNOWN: [(&str, &str); 8] = [
    ("ima", "d|n"),
    ("ima-ng", "d-ng|n-ng"),
    ("ima-ngv2", "d-ngv2|n-ng"),
    ("ima-sig", "d-ng|n-ng|sig"),
    ("ima-sigv2", "d-ngv2|n-ng|sig"),
    ("ima-buf", "d-ng|n-ng|buf"),
    ("ima-modsig", "d-ng|n-ng|sig|d-modsig|modsig"),
    (
        "evm-sig",
        "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
    ),
];

/// A template by its name, which for one's own is the list of its fields.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template(Named);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Named {
    Known(&'static str, &'static str),
    Own(String),
}

impl Template {
    /// The template of that name; `None` where a field is of no kind we know.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some((name, fields)) = KNOWN.into_iter().find(|(known, _)| *known == name) {
            return Some(Self(Named::Known(name, fields)));
        }
        let mut ids = name.split('|');
        let known = ids.clone().count() <= MAX_FIELDS && ids.all(|id| Field::of(id).is_some());
        known.then(|| Self(Named::Own(name.to_owned())))
    }

    /// As it stands in the list.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.0 {
            Named::Known(name, _) => name,
            Named::Own(name) => name,
        }
    }

    /// The oldest template hashes a fixed form, without lengths.
    pub(super) fn is_old(&self) -> bool {
        self.name() == "ima"
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = Field> {
        let ids = match &self.0 {
            Named::Known(_, fields) => fields,
            Named::Own(name) => name.as_str(),
        };
        ids.split('|').filter_map(Field::of)
    }

    /// That the data is these fields, each with its length, and nothing after the last.
    pub(super) fn check(&self, data: &[u8]) -> Result<(), ParseError> {
        let mut r = Reader::new("template_data", data);
        for field in self.fields() {
            let at = r.offset();
            let len = r.u32_le("field_len")?;
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let bytes = r.take("field_data", len)?;
            if let Some(fault) = field.fault(bytes) {
                return Err(r.fault_at("field_data", at, crate::error::Fault::Rule(fault)));
            }
        }
        r.finish()
    }

    /// Data of the first field of a kind, without its length.
    fn first<'d>(&self, data: &'d [u8], wanted: impl Fn(Field) -> bool) -> Option<&'d [u8]> {
        let mut r = Reader::new("template_data", data);
        if self.is_old() {
            let digest = r.take("d", 20).ok()?;
            return match wanted(Field::Digest) {
                true => Some(digest),
                false => Some(r.rest()),
            };
        }
        for field in self.fields() {
            let len = usize::try_from(r.u32_le("field_len").ok()?).ok()?;
            let bytes = r.take("field_data", len).ok()?;
            if wanted(field) {
                return Some(bytes);
            }
        }
        None
    }
}

impl Field {
    /// Why the bytes cannot be such a field.
    fn fault(self, bytes: &[u8]) -> Option<&'static str> {
        match self {
            Self::Text | Self::Name if bytes.last() != Some(&0) => Some("text without its NUL"),
            Self::TaggedDigest | Self::TypedDigest => match FileDigest::parse(self, bytes) {
                Some(_) => None,
                None if bytes.is_empty() => None,
                None => Some("no digest with its algorithm"),
            },
            Self::Word if bytes.len() != 4 => Some("not four bytes"),
            Self::Half if bytes.len() != 2 => Some("not two bytes"),
            _ => None,
        }
    }
}

/// The digest of what was measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileDigest<'a> {
    /// `sha256`; `verity:sha256` for an fs-verity digest, which is no hash of the file's bytes.
    pub algorithm: &'a str,
    /// The digest.
    pub digest: &'a [u8],
}

impl<'a> FileDigest<'a> {
    fn parse(field: Field, bytes: &'a [u8]) -> Option<Self> {
        if field == Field::Digest {
            let algorithm = if bytes.len() == 16 { "md5" } else { "sha1" };
            return Some(Self {
                algorithm,
                digest: bytes,
            });
        }
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let (tag, digest) = bytes.split_at_checked(end)?;
        let tag = std::str::from_utf8(tag).ok()?.strip_suffix(':')?;
        let digest = digest.get(1..)?;
        Some(Self {
            algorithm: tag.strip_prefix("ima:").unwrap_or(tag),
            digest,
        })
    }
}

impl super::Entry<'_> {
    /// Digest of what was measured, if the template has one.
    #[must_use]
    pub fn file_digest(&self) -> Option<FileDigest<'_>> {
        let mut kinds = self.template.fields();
        let of = |field: &Field| {
            matches!(
                field,
                Field::Digest | Field::TaggedDigest | Field::TypedDigest
            )
        };
        let kind = kinds.find(of)?;
        let bytes = self.template.first(&self.data, |field| field == kind)?;
        FileDigest::parse(kind, bytes)
    }

    /// What was measured: a path as the kernel saw it, or `boot_aggregate`, a key ring, a buffer.
    /// Chosen by whoever named the file.
    #[must_use]
    pub fn file_name(&self) -> Option<&[u8]> {
        let name = |field| matches!(field, Field::Name | Field::Text);
        let bytes = self.template.first(&self.data, name)?;
        bytes.split(|byte| *byte == 0).next()
    }
}
