//! The measurement list of Linux IMA: which files, keys and buffers a kernel used, in order.
//!
//! PCR 10 holds the list as the boot event log's registers hold theirs: each entry extends it with
//! the hash of its *template data*, every bank with a hash of its own. The hash that stands in the
//! list is a copy that nobody signed, so it is computed again for every entry. A *violation* (a
//! file open for writing while it was measured) has an all-zero hash in the list and extends 0xff
//! bytes.
//!
//! Formats: `Documentation/security/IMA-templates.rst` and `security/integrity/ima` of Linux 6.12,
//! binary and ASCII; the lists per hash that 6.10 brought are told apart by the length of theirs.

mod ascii;
mod binary;
mod replay;
mod template;

use std::borrow::Cow;

pub use replay::{Extended, Matched, Replayed, match_pcr, replay};
pub use template::{FileDigest, Template};

use crate::crypto::{Digest, HashAlgorithm};
use crate::error::ParseError;

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

/// One measurement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// Register it extended.
    pub pcr: u32,
    /// Hash of the template data as it stands in the list; nobody vouches for it.
    pub listed: Digest,
    /// Which fields it has.
    pub template: Template,
    /// What is hashed: the fields with their lengths, or of the oldest template a fixed form.
    pub data: Cow<'a, [u8]>,
}

impl Entry<'_> {
    /// The file was changed or open for writing when it was measured: nothing is known of it.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        self.listed.as_slice().iter().all(|byte| *byte == 0)
    }

    /// Whether the hash in the list is that of the template data, under a hash of its length.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let hash = match self.listed.as_slice().len() {
            20 => HashAlgorithm::Sha1,
            32 => HashAlgorithm::Sha256,
            48 => HashAlgorithm::Sha384,
            _ => HashAlgorithm::Sha512,
        };
        self.is_violation() || hash.digest(&[&self.data]).as_ref() == Some(&self.listed)
    }
}

/// A list read whole. Nothing in it is believed yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct List<'a> {
    /// How it was written.
    pub form: Form,
    /// In the order in which the register was extended.
    pub entries: Vec<Entry<'a>>,
}

impl<'a> List<'a> {
    /// Reads either form, told apart by content: a binary list has zero bytes in the register of
    /// its first entry, and text has none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ImaError> {
        if bytes.is_empty() {
            return Err(ImaError::Empty);
        }
        let text = bytes.iter().take(4).all(|byte| *byte != 0);
        let (form, entries) = match text {
            true => (Form::Ascii, ascii::entries(bytes)?),
            false => (Form::Binary, binary::entries(bytes)?),
        };
        Ok(Self { form, entries })
    }

    /// Entries whose file was changed while it was measured.
    #[must_use]
    pub fn violations(&self) -> usize {
        let entries = self.entries.iter();
        entries.filter(|entry| entry.is_violation()).count()
    }
}

#[cfg(test)]
mod tests;
