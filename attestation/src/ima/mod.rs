//! The measurement list of Linux IMA: which files, keys and buffers a kernel used, in order.
//!
//! PCR 10 holds the list as the boot event log's registers hold theirs: each entry extends it with
//! the hash of its *template data*, every bank with a hash of its own. The hash that stands in the
//! list is a copy that nobody signed, so it is computed again for every entry. A *violation* (a
//! file open for writing while it was measured) has an all-zero hash in the list and extends 0xff
//! bytes. The name of a template is covered by no hash at all.
//!
//! Formats: `Documentation/security/IMA-templates.rst` and `security/integrity/ima` of Linux 6.12,
//! binary in both byte orders, and ASCII; the lists per hash that 6.10 brought are told apart by
//! the length of theirs.

mod aggregate;
mod ascii;
mod binary;
mod known;
mod modsig;
mod replay;
mod signature;
mod template;

use std::borrow::Cow;

pub use aggregate::{Aggregate, boot_aggregate, is_aggregate};
pub use known::{DigestKind, FileRefused, Judged, KnownDigest, KnownFile, KnownFiles, SigningKey};
pub use replay::{Extended, Matched, Position, Replayed, match_pcr, replay};
pub use signature::{FileSignature, FileSignatureRefused, KeyId};
pub use template::{FileDigest, Template};

use crate::crypto::{Digest, HashAlgorithm};
use crate::error::ParseError;
use crate::reader::Reader;
use binary::Layout;

/// The register IMA extends unless its policy names another.
pub const IMA_PCR: u32 = 10;

/// How the list is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// `binary_runtime_measurements`
    Binary,
    /// `ascii_runtime_measurements`
    Ascii,
}

/// Which end of a number comes first. The lengths in the template data are hashed in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ByteOrder {
    /// The lowest byte first.
    Little,
    /// The highest byte first: s390 and some POWER machines.
    Big,
}

impl ByteOrder {
    fn u32(self, r: &mut Reader<'_>, field: &'static str) -> Result<u32, ParseError> {
        match self {
            Self::Little => r.u32_le(field),
            Self::Big => r.u32(field),
        }
    }

    const fn bytes(self, number: u32) -> [u8; 4] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }

    fn len(self, len: usize) -> [u8; 4] {
        // A length beyond that is refused where it is read.
        self.bytes(u32::try_from(len).unwrap_or(u32::MAX))
    }
}

/// Why bytes are not a measurement list.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ImaError {
    /// Nothing at all.
    #[error("the list is empty")]
    Empty,
    /// A binary entry that is none.
    #[error("entry {entry}: malformed")]
    Binary {
        /// From 1.
        entry: usize,
        /// Where and how.
        #[source]
        fault: ParseError,
    },
    /// A line that is no entry.
    #[error("line {line}, {field}: {fault}")]
    Line {
        /// From 1.
        line: usize,
        /// Member of the entry.
        field: &'static str,
        /// What is wrong.
        fault: &'static str,
    },
}

impl ImaError {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty-list",
            Self::Binary { .. } | Self::Line { .. } => "malformed",
        }
    }
}

/// One measurement, borrowed from its list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// Register it extended.
    pub pcr: u32,
    /// Hash of the template data as it stands in the list; nobody vouches for it.
    pub listed: &'a [u8],
    /// Which fields it has.
    pub template: Template<'a>,
    /// The fields with their lengths; of the oldest template the digest, and the name with its.
    data: &'a [u8],
    order: ByteOrder,
}

impl Entry<'_> {
    /// The file was changed or open for writing when it was measured: nothing is known of it.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        self.listed.iter().all(|byte| *byte == 0)
    }

    /// Hash of the template data; `None` for one the provider cannot compute.
    #[must_use]
    pub fn hash(&self, hash: HashAlgorithm) -> Option<Digest> {
        if self.template.is_old() {
            hash.digest(&[&binary::old(self.data)])
        } else {
            hash.digest(&[self.data])
        }
    }

    /// SHA-1 of the template data and zeroes, in a bank of that many bytes.
    fn padded(&self, len: usize) -> Option<Digest> {
        let mut padded = self.hash(HashAlgorithm::Sha1)?.as_slice().to_vec();
        padded.resize(len, 0);
        Digest::from_slice(&padded)
    }

    /// Whether the hash in the list is that of the template data, under a hash of its length or,
    /// where the kernel lacks that of a bank, SHA-1 and zeroes.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let len = self.listed.len();
        let same = |hash: Option<Digest>| hash.is_some_and(|hash| hash.as_slice() == self.listed);
        let mut hashes = HashAlgorithm::ALL.into_iter();
        self.is_violation()
            || hashes.any(|hash| hash.digest_len() == len && same(self.hash(hash)))
            || same(self.padded(len))
    }
}

/// A list read whole. Nothing in it is believed yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct List<'a> {
    form: Form,
    layout: Layout,
    count: usize,
    /// In binary form, every entry checked to its last field.
    bytes: Cow<'a, [u8]>,
}

impl<'a> List<'a> {
    /// Reads either form, told apart by content: a binary list has zero bytes in the register of
    /// its first entry, and text has none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ImaError> {
        if bytes.is_empty() {
            return Err(ImaError::Empty);
        }
        let text = bytes.iter().take(4).all(|byte| *byte != 0);
        if text {
            return Self::of_text(bytes);
        }
        let (layout, count) = binary::check(bytes)?;
        Ok(Self {
            form: Form::Binary,
            layout,
            count,
            bytes: Cow::Borrowed(bytes),
        })
    }

    /// Reads what a list in binary form holds after `position`, laid out as what came before it; it may
    /// be nothing.
    pub fn following(position: &Position, bytes: &'a [u8]) -> Result<Self, ImaError> {
        let layout = position.layout;
        let count = binary::check_in(layout, bytes)?;
        Ok(Self {
            form: Form::Binary,
            layout,
            count,
            bytes: Cow::Borrowed(bytes),
        })
    }

    /// Text does not show in which byte order the lengths were hashed. The hashes in it do.
    fn of_text(bytes: &[u8]) -> Result<Self, ImaError> {
        let read = |order| {
            let (bytes, layout, count) = ascii::to_binary(bytes, order)?;
            let list = Self {
                form: Form::Ascii,
                layout,
                count,
                bytes: Cow::Owned(bytes),
            };
            // A line can be longer than the kernel's own form: what follows would go unread.
            match list.entries().count() {
                read if read == count => Ok(list),
                read => Err(ImaError::Line {
                    line: read + 1,
                    field: "template_data",
                    fault: "is longer than an entry can be",
                }),
            }
        };
        let fits = |list: &Self| {
            let mut hashed = list.entries().filter(|entry| !entry.is_violation());
            hashed.next().is_none_or(|entry| entry.is_consistent())
        };
        let little = read(ByteOrder::Little)?;
        if fits(&little) {
            return Ok(little);
        }
        let big = read(ByteOrder::Big)?;
        Ok(if fits(&big) { big } else { little })
    }

    /// How it was written.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.form
    }

    /// The byte order of the kernel that wrote it.
    #[must_use]
    pub const fn order(&self) -> ByteOrder {
        self.layout.order
    }

    /// How many entries there are; none only in what follows a place in another list.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a whole list without entries is refused"
    )]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// In the order in which the register was extended.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        Entries {
            layout: self.layout,
            last: None,
            r: Reader::new("ima_measurements", &self.bytes),
        }
    }

    /// Entries whose file was changed while it was measured.
    #[must_use]
    pub fn violations(&self) -> usize {
        self.entries().filter(Entry::is_violation).count()
    }
}

/// The entries of a [`List`].
#[derive(Clone, Debug)]
pub struct Entries<'l> {
    layout: Layout,
    last: Option<Template<'l>>,
    r: Reader<'l>,
}

impl<'l> Entries<'l> {
    /// What has not been taken yet, in binary form.
    #[must_use]
    pub const fn rest(&self) -> &'l [u8] {
        self.r.rest()
    }
}

impl<'l> Iterator for Entries<'l> {
    type Item = Entry<'l>;

    fn next(&mut self) -> Option<Entry<'l>> {
        if self.r.rest().is_empty() {
            return None;
        }
        // It has been read once already.
        binary::entry(&mut self.r, self.layout, &mut self.last)
            .ok()
            .map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests;
