//! Defects of known firmware that a profile may excuse, each by its name and for its platform.

use std::fmt;

/// A defect. Excusing one never makes a log believed: it turns that one refusal into a warning.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Quirk {
    /// OVMF for TDX measures the separator of two PCRs into the register that both map to. What it
    /// opens: events between the two separators cannot be told from boot loaders' by place.
    OvmfDuplicateSeparator,
}

impl Quirk {
    /// Every one there is.
    pub const ALL: [Self; 1] = [Self::OvmfDuplicateSeparator];

    /// The name in profiles and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OvmfDuplicateSeparator => "ovmf-duplicate-separator",
        }
    }

    /// The quirk of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quirk| quirk.name() == name)
    }
}

impl fmt::Display for Quirk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
