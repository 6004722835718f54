//! Templates: which fields an entry has, and how each is hashed.

use super::ByteOrder;
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

/// Fields a template may have: `ima_template.c` allows this many in a format of one's own.
const MAX_FIELDS: usize = 15;
/// `IMA_EVENT_NAME_LEN_MAX` and its NUL: how much of a name the oldest template hashes.
pub(super) const OLD_NAME: usize = 256;
/// Bytes of the digest of the oldest template.
pub(super) const OLD_DIGEST: usize = 20;

/// One field, by the id of its kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Field {
    /// `d`: a digest without its algorithm.
    Digest,
    /// `n`, `n-ng`: a name and its NUL.
    Name,
    /// `d-ng`: `algorithm:` NUL digest.
    TaggedDigest,
    /// `d-ngv2`: `kind:algorithm:` NUL digest.
    TypedDigest,
    /// `d-modsig`: the digest that an appended signature signs; empty without one.
    ModsigDigest,
    /// `sig`: what `security.ima` or else `security.evm` holds, if that is a signature.
    Signature,
    /// `evmsig`: what `security.evm` holds, if that is a portable signature.
    EvmSignature,
    /// `modsig`: the appended PKCS#7 message.
    Modsig,
    /// `buf`: what was measured itself.
    Buffer,
    /// `xattrnames`: names with `|` between, and a NUL.
    Text,
    /// `xattrlengths`, `xattrvalues`: bytes.
    Bytes,
    /// `iuid`: four bytes.
    Owner,
    /// `igid`: four bytes.
    Group,
    /// `imode`: two bytes.
    Mode,
}

impl Field {
    fn of(id: &str) -> Option<Self> {
        Some(match id {
            "d" => Self::Digest,
            "n" | "n-ng" => Self::Name,
            "d-ng" => Self::TaggedDigest,
            "d-ngv2" => Self::TypedDigest,
            "d-modsig" => Self::ModsigDigest,
            "sig" => Self::Signature,
            "evmsig" => Self::EvmSignature,
            "modsig" => Self::Modsig,
            "buf" => Self::Buffer,
            "xattrnames" => Self::Text,
            "xattrlengths" | "xattrvalues" => Self::Bytes,
            "iuid" => Self::Owner,
            "igid" => Self::Group,
            "imode" => Self::Mode,
            _ => return None,
        })
    }

    /// Everything but digest and name: the first entry of a list, a buffer or a key ring has no
    /// file behind it, and then the kernel leaves the field without a byte.
    pub(super) const fn may_be_empty(self) -> bool {
        !matches!(
            self,
            Self::Digest | Self::Name | Self::TaggedDigest | Self::TypedDigest
        )
    }

    /// Why the bytes cannot be such a field.
    fn fault(self, bytes: &[u8]) -> Option<&'static str> {
        if bytes.is_empty() && self.may_be_empty() {
            return None;
        }
        match self {
            Self::Text | Self::Name if bytes.last() != Some(&0) => Some("text without its NUL"),
            Self::TaggedDigest | Self::TypedDigest | Self::ModsigDigest => {
                let digest = FileDigest::parse(self, bytes);
                digest.is_none().then_some("no digest with its algorithm")
            }
            Self::Owner | Self::Group if bytes.len() != 4 => Some("not four bytes"),
            Self::Mode if bytes.len() != 2 => Some("not two bytes"),
            _ => None,
        }
    }
}

use Field::{
    Buffer, Bytes, Digest, EvmSignature, Group, Mode, Modsig, ModsigDigest, Name, Owner, Signature,
    TaggedDigest, Text, TypedDigest,
};

/// The kernel's own templates: name and fields.
const KNOWN: [(&str, &[Field]); 8] = [
    ("ima-ng", &[TaggedDigest, Name]),
    ("ima-sig", &[TaggedDigest, Name, Signature]),
    ("ima-buf", &[TaggedDigest, Name, Buffer]),
    ("ima", &[Digest, Name]),
    ("ima-ngv2", &[TypedDigest, Name]),
    ("ima-sigv2", &[TypedDigest, Name, Signature]),
    (
        "ima-modsig",
        &[TaggedDigest, Name, Signature, ModsigDigest, Modsig],
    ),
    (
        "evm-sig",
        &[
            TaggedDigest,
            Name,
            EvmSignature,
            Text,
            Bytes,
            Bytes,
            Owner,
            Group,
            Mode,
        ],
    ),
];

/// A template by its name, which for one's own is the list of its fields. No hash covers it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Template<'a>(Named<'a>);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Named<'a> {
    Known(&'static str, &'static [Field]),
    Own(&'a str),
}

impl<'a> Template<'a> {
    /// The template of that name; `None` where a field is of no kind we know.
    #[must_use]
    pub fn from_name(name: &'a str) -> Option<Self> {
        let known = KNOWN.iter().find(|(known, _)| *known == name);
        if let Some((name, fields)) = known {
            return Some(Self(Named::Known(name, fields)));
        }
        let mut ids = name.split('|');
        let known = ids.clone().count() <= MAX_FIELDS && ids.all(|id| Field::of(id).is_some());
        known.then_some(Self(Named::Own(name)))
    }

    /// As it stands in the list.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        match self.0 {
            Named::Known(name, _) => name,
            Named::Own(name) => name,
        }
    }

    /// One of the kernel's own, whose fields stand in an order that nobody chose.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        matches!(self.0, Named::Known(..))
    }

    /// The oldest template hashes a fixed form, without lengths.
    pub(super) fn is_old(&self) -> bool {
        matches!(self.0, Named::Known("ima", _))
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = Field> + use<'a> {
        let (known, named) = match self.0 {
            Named::Known(_, fields) => (fields, None),
            Named::Own(name) => (&[][..], Some(name)),
        };
        known.iter().copied().chain(named.into_iter().flat_map(own))
    }

    /// That the data is these fields, each with its length, and nothing after the last.
    pub(super) fn check(&self, data: &[u8], order: ByteOrder) -> Result<(), ParseError> {
        match self.0 {
            Named::Known(_, fields) => check(fields.iter().copied(), data, order),
            Named::Own(name) => check(own(name), data, order),
        }
    }
}

/// The fields of a template of one's own.
fn own(name: &str) -> impl Iterator<Item = Field> + '_ {
    name.split('|').filter_map(Field::of)
}

fn check(
    fields: impl Iterator<Item = Field>,
    data: &[u8],
    order: ByteOrder,
) -> Result<(), ParseError> {
    let mut r = Reader::new("template_data", data);
    for field in fields {
        let len = order.u32(&mut r, "field_len")?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let at = r.offset();
        let bytes = r.take("field_data", len)?;
        if let Some(fault) = field.fault(bytes) {
            return Err(r.fault_at("field_data", at, Fault::Rule(fault)));
        }
    }
    r.finish()
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

impl<'a> super::Entry<'a> {
    /// The first field that is wanted, without its length.
    fn first(&self, wanted: impl Fn(Field) -> bool) -> Option<(Field, &'a [u8])> {
        match self.template.0 {
            Named::Known(_, fields) => self.first_of(fields.iter().copied(), wanted),
            Named::Own(name) => self.first_of(own(name), wanted),
        }
    }

    fn first_of(
        &self,
        fields: impl Iterator<Item = Field>,
        wanted: impl Fn(Field) -> bool,
    ) -> Option<(Field, &'a [u8])> {
        let mut r = Reader::new("template_data", self.data);
        for field in fields {
            let bytes = if self.template.is_old() && field == Digest {
                r.take("d", OLD_DIGEST).ok()?
            } else {
                let len = usize::try_from(self.order.u32(&mut r, "field_len").ok()?).ok()?;
                r.take("field_data", len).ok()?
            };
            if wanted(field) {
                return Some((field, bytes));
            }
        }
        None
    }

    fn filled(&self, wanted: Field) -> Option<&'a [u8]> {
        let found = self.first(|field| field == wanted);
        found
            .map(|(_, bytes)| bytes)
            .filter(|bytes| !bytes.is_empty())
    }

    fn word(&self, wanted: Field) -> Option<u32> {
        let mut r = Reader::new("template_data", self.filled(wanted)?);
        self.order.u32(&mut r, "field_data").ok()
    }

    /// Digest of what was measured, if the template has one.
    #[must_use]
    pub fn file_digest(&self) -> Option<FileDigest<'a>> {
        let of = |field| matches!(field, Digest | TaggedDigest | TypedDigest);
        let (field, bytes) = self.first(of)?;
        FileDigest::parse(field, bytes)
    }

    /// What was measured: a path as the kernel saw it, or `boot_aggregate`, a key ring, a buffer.
    /// Chosen by whoever named the file; blanks in it have become underscores.
    #[must_use]
    pub fn file_name(&self) -> Option<&'a [u8]> {
        let (_, bytes) = self.first(|field| field == Name)?;
        bytes.split(|byte| *byte == 0).next()
    }

    /// The signature that came with the file, as the extended attribute holds it: a type, and what
    /// that type says; of an EVM template the signature over the attributes.
    #[must_use]
    pub fn signature(&self) -> Option<&'a [u8]> {
        self.filled(Signature).or_else(|| self.filled(EvmSignature))
    }

    /// The PKCS#7 message appended to the file, and the digest of the file without it.
    #[must_use]
    pub fn appended_signature(&self) -> Option<(FileDigest<'a>, &'a [u8])> {
        let digest = FileDigest::parse(ModsigDigest, self.filled(ModsigDigest)?)?;
        Some((digest, self.filled(Modsig)?))
    }

    /// What was measured itself: a kernel's command line, a key, a policy.
    #[must_use]
    pub fn buffer(&self) -> Option<&'a [u8]> {
        self.filled(Buffer)
    }

    /// User that owns the file.
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        self.word(Owner)
    }

    /// Group that owns the file.
    #[must_use]
    pub fn group(&self) -> Option<u32> {
        self.word(Group)
    }
}
