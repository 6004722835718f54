//! Who stands behind a claim.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a claim comes from, weakest first: the order is the comparison a profile asks for.
///
/// A quote says who spoke, never what is so: it lifts no claim above its source.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    /// The kernel, firmware tables or a driver said so.
    SelfReported,
    /// A person signed it: inventory, place.
    OperatorSigned,
    /// A platform service or a vTPM that no TEE report binds.
    ProviderSigned,
    /// In a log that replays to a quoted PCR.
    Measured,
    /// TPM, SPDM, SEV-SNP or TDX signed the value itself.
    HardwareSigned,
}

impl Provenance {
    /// Every provenance, weakest first.
    pub const ALL: [Self; 5] = [
        Self::SelfReported,
        Self::OperatorSigned,
        Self::ProviderSigned,
        Self::Measured,
        Self::HardwareSigned,
    ];

    /// The word used in profiles, results and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SelfReported => "self-reported",
            Self::OperatorSigned => "operator-signed",
            Self::ProviderSigned => "provider-signed",
            Self::Measured => "measured",
            Self::HardwareSigned => "hardware-signed",
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no provenance.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is no provenance: self-reported, operator-signed, provider-signed, measured or \
     hardware-signed"
)]
pub struct UnknownProvenance(pub String);

impl FromStr for Provenance {
    type Err = UnknownProvenance;
    fn from_str(word: &str) -> Result<Self, UnknownProvenance> {
        Self::ALL
            .into_iter()
            .find(|p| p.as_str() == word)
            .ok_or_else(|| UnknownProvenance(word.chars().take(80).collect()))
    }
}
