//! Names and small values with one meaning each.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A name that is not one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{kind} {name:?}: {fault}")]
pub struct IdError {
    /// What it was to be the name of.
    pub kind: &'static str,
    /// The text given.
    pub name: String,
    /// The rule it breaks.
    pub fault: &'static str,
}

/// 1 to 63 of `a-z 0-9 - .`, beginning and ending with a letter or digit: safe in a path, a label,
/// a certificate and a log line alike.
fn check(kind: &'static str, name: &str) -> Result<(), IdError> {
    let refuse = |fault| {
        Err(IdError {
            kind,
            name: name.chars().take(80).collect(),
            fault,
        })
    };
    if name.is_empty() || name.len() > 63 {
        return refuse("must have 1 to 63 characters");
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !name.bytes().all(|b| plain(b) || b == b'-' || b == b'.') {
        return refuse("may hold only a-z, 0-9, '-' and '.'");
    }
    let edge = |b: Option<u8>| b.is_some_and(plain);
    if !edge(name.bytes().next()) || !edge(name.bytes().next_back()) || name.contains("..") {
        return refuse("must begin and end with a letter or digit and hold no '..'");
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the text against the rules for names.
            pub fn new(name: &str) -> Result<Self, IdError> {
                check($kind, name)?;
                Ok(Self(name.to_owned()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(name: String) -> Result<Self, IdError> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// One GPU host (or guest), as the signed inventory names it.
    NodeId,
    "node"
);
id!(
    /// One approved protocol, its cgroups, its fence.
    StudyId,
    "study"
);
id!(
    /// One installation of Bailiwick: whatever shares approvers and a collector.
    DeploymentId,
    "deployment"
);

/// ISO 3166-1 alpha-2 code, or an operator's own region, upper case: `DE`, `US`, `X-SITE-1`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct JurisdictionCode(String);

impl JurisdictionCode {
    /// Two upper-case letters, or `X-` and up to 29 of `A-Z 0-9 -`.
    pub fn new(code: &str) -> Result<Self, IdError> {
        let country = code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase());
        let own = code.len() <= 31
            && code.strip_prefix("X-").is_some_and(|rest| {
                !rest.is_empty()
                    && rest
                        .bytes()
                        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-')
            });
        if country || own {
            return Ok(Self(code.to_owned()));
        }
        Err(IdError {
            kind: "jurisdiction",
            name: code.chars().take(80).collect(),
            fault: "must be two upper-case letters, or X- and up to 29 of A-Z, 0-9, '-'",
        })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JurisdictionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for JurisdictionCode {
    type Error = IdError;
    fn try_from(code: String) -> Result<Self, IdError> {
        Self::new(&code)
    }
}

impl From<JurisdictionCode> for String {
    fn from(code: JurisdictionCode) -> Self {
        code.0
    }
}

/// SHA-256 of something named where it is used. Hex, 64 lower-case digits, in text.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// Hashes the parts as if they were one.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in parts {
            context.update(part);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Self(out)
    }

    /// The 32 bytes, or `None` for another length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(|_length| fmt::Error)?;
        f.write_str(str::from_utf8(&text).map_err(|_not_text| fmt::Error)?)
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

impl TryFrom<String> for Sha256Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        let refuse = || IdError {
            kind: "SHA-256 digest",
            name: text.chars().take(80).collect(),
            fault: "must be 64 lower-case hexadecimal digits",
        };
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refuse());
        }
        let mut out = [0; 32];
        match hex::decode_to_slice(&text, &mut out) {
            Ok(()) => Ok(Self(out)),
            Err(_) => Err(refuse()),
        }
    }
}

impl From<Sha256Digest> for String {
    fn from(digest: Sha256Digest) -> Self {
        digest.to_string()
    }
}

/// A point in time, as an argument: milliseconds since 1970-01-01 UTC, leap seconds ignored.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// From whole seconds; the far future saturates.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// Milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Milliseconds from `earlier` to `self`; zero where `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_paths_labels_and_certificates() {
        for good in ["a", "gpu-01", "rack3.gpu-01", "0"] {
            assert_eq!(NodeId::new(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(64);
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a/b",
            "a..b",
            "a\n",
            "ä",
            long.as_str(),
        ] {
            assert!(NodeId::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            StudyId::new("Cardio").unwrap_err().to_string(),
            "study \"Cardio\": may hold only a-z, 0-9, '-' and '.'"
        );
    }

    #[test]
    fn jurisdictions_are_iso_codes_or_marked_as_own() {
        for good in ["DE", "US", "X-SITE-1"] {
            assert!(JurisdictionCode::new(good).is_ok(), "{good}");
        }
        for bad in ["de", "DEU", "", "X-", "x-site", "X-a", "D1"] {
            assert!(JurisdictionCode::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn digests_have_one_spelling() {
        let digest = Sha256Digest::of(&[b"a", b"bc"]);
        assert_eq!(digest, Sha256Digest::of(&[b"abc"]));
        assert_eq!(Sha256Digest::try_from(digest.to_string()).unwrap(), digest);
        assert!(Sha256Digest::try_from(digest.to_string().to_uppercase()).is_err());
        assert!(Sha256Digest::try_from("00".to_owned()).is_err());
    }
}
