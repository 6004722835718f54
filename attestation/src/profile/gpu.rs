//! `[gpu]`: what GPUs have to prove, and what of the driver's word will do.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use crate::Sha256Digest;
use crate::gpu::{Architecture, Mode};
use crate::toml_file::{FileError, TomlFile};

/// Devices of one machine, at most.
const COUNT_LIMIT: u32 = 64;
/// A year.
const SECONDS_LIMIT: u32 = 366 * 86_400;
/// Pinned files of reference values: some for each version of driver and VBIOS in a fleet.
const RIMS_LIMIT: usize = 1024;
/// Hourly collection, and half of that for one that fails.
const MAX_AGE: u32 = 5400;

/// What a node's GPUs have to show.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GpuProfile {
    /// How many have to prove themselves, and no more may be there; `None`: all there are, and
    /// there is one.
    pub count: Option<u32>,
    /// Modes, as the device signs them, that will do, never empty; `None`: any, and silence too.
    pub modes: Option<Vec<Mode>>,
    /// Families that will do; `None`: every one that can be judged.
    pub architectures: Option<Vec<Architecture>>,
    /// Versions of the driver that will do, as the device signs them.
    pub driver: Versions,
    /// Versions of the VBIOS that will do, likewise.
    pub vbios: Versions,
    /// Seconds after which a report is too old, by the TPM's clock; 30 to a year.
    pub max_age_seconds: u32,
    /// Age of a response about revocation, seconds, up to which it will do; `None`: nothing is
    /// asked about revocation, and what is known to be revoked is refused all the same.
    pub revocation_seconds: Option<u32>,
    /// Reference values that will do, by digest; `None`: all that are endorsed.
    pub rims: Option<BTreeSet<Sha256Digest>>,
    /// Roots beside NVIDIA's, by digest, that devices may have, if they are among the endorsements.
    /// Such a device can be looked at, and is never hardware.
    pub device_roots: Option<BTreeSet<Sha256Digest>>,
    /// Roots beside NVIDIA's, likewise, that signers of reference values may have. What is among
    /// those is the approvers' word, `operator-signed`.
    pub rim_roots: Option<BTreeSet<Sha256Digest>>,
    /// Pinned reference values count on after their signer's certificate has run out.
    pub expired_rims: bool,
    /// Measurements have to be among reference values.
    pub measurements: bool,
    /// Measurements, from 0, that may be something though no reference value covers them.
    pub uncovered: BTreeSet<u8>,
    /// Developers' mode will do, of which only the driver speaks.
    pub devtools: bool,
    /// Each GPU has to be one that the inventory gives the node, by the identifier in its chip's
    /// certificate. Where the inventory has such identifiers, no other GPU will do in any case.
    pub listed: bool,
}

/// A range of versions: from one on, and below another.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Versions {
    at_least: Option<Version>,
    below: Option<Version>,
}

impl Versions {
    /// Whether this version, as the device writes it, lies within. What is no version lies in no
    /// range that has an end.
    #[must_use]
    pub fn hold(&self, found: &str) -> bool {
        if self.at_least.is_none() && self.below.is_none() {
            return true;
        }
        let Some(found) = Version::parse(found) else {
            return false;
        };
        let least = self.at_least.as_ref();
        let below = self.below.as_ref();
        least.is_none_or(|least| found.order(least) != Ordering::Less)
            && below.is_none_or(|below| found.order(below) == Ordering::Less)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.at_least, &self.below) {
            (None, None) => f.write_str("any version"),
            (Some(least), None) => write!(f, "{} or later", least.text),
            (None, Some(below)) => write!(f, "before {}", below.text),
            (Some(least), Some(below)) => {
                write!(f, "{} or later, before {}", least.text, below.text)
            }
        }
    }
}

/// Numbers between dots: of a driver decimal, `550.90.07`; of a VBIOS hexadecimal,
/// `96.00.9F.00.01`, and those are always two digits each, so that their order is that of digits.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Version {
    text: String,
    parts: Vec<u64>,
}

impl Version {
    /// Read in base sixteen whatever it is: within one kind, numbers of decimal digits have the
    /// same order.
    fn parse(text: &str) -> Option<Self> {
        let part = |part: &str| {
            let digits = !part.is_empty() && part.len() <= 8;
            let digits = digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        let parts: Option<Vec<u64>> = text.split('.').map(part).collect();
        let parts = parts.filter(|parts| (2..=8).contains(&parts.len()))?;
        Some(Self {
            text: text.to_owned(),
            parts,
        })
    }

    fn order(&self, other: &Self) -> Ordering {
        self.parts.cmp(&other.parts)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGpu {
    count: Option<Spanned<u32>>,
    modes: Option<Spanned<Vec<Spanned<String>>>>,
    architectures: Option<Spanned<Vec<Spanned<String>>>>,
    driver_at_least: Option<Spanned<String>>,
    driver_below: Option<Spanned<String>>,
    vbios_at_least: Option<Spanned<String>>,
    vbios_below: Option<Spanned<String>>,
    max_age_seconds: Option<Spanned<u32>>,
    revocation_seconds: Option<Spanned<u32>>,
    rims: Option<Spanned<Vec<Spanned<String>>>>,
    device_roots: Option<Spanned<Vec<Spanned<String>>>>,
    rim_roots: Option<Spanned<Vec<Spanned<String>>>>,
    expired_rims: Option<Spanned<bool>>,
    measurements: Option<bool>,
    #[serde(default)]
    uncovered: BTreeSet<u8>,
    devtools: Option<bool>,
    listed: Option<bool>,
}

pub(super) fn check(file: &TomlFile<'_>, raw: &RawGpu) -> Result<GpuProfile, FileError> {
    let all = [Mode::SinglePass, Mode::MultiPass, Mode::ProtectedPcie];
    let modes = words(file, raw.modes.as_ref(), |word| {
        all.into_iter().find(|mode| mode.name() == word)
    })?;
    let families = [Architecture::Hopper, Architecture::Blackwell];
    let architectures = words(file, raw.architectures.as_ref(), |word| {
        let mut all = families.into_iter();
        all.find(|family| family.name().eq_ignore_ascii_case(word))
    })?;
    let rims = digests(file, raw.rims.as_ref())?;
    if let (Some(expired), None) = (&raw.expired_rims, &rims)
        && *expired.get_ref()
    {
        let fault = "only pinned reference values (rims) can outlive their signer";
        return Err(file.error(expired.span(), fault));
    }
    Ok(GpuProfile {
        count: number(file, raw.count.as_ref(), 1, COUNT_LIMIT)?,
        modes,
        architectures,
        driver: versions(
            file,
            raw.driver_at_least.as_ref(),
            raw.driver_below.as_ref(),
        )?,
        vbios: versions(file, raw.vbios_at_least.as_ref(), raw.vbios_below.as_ref())?,
        max_age_seconds: number(file, raw.max_age_seconds.as_ref(), 30, SECONDS_LIMIT)?
            .unwrap_or(MAX_AGE),
        revocation_seconds: number(file, raw.revocation_seconds.as_ref(), 60, SECONDS_LIMIT)?,
        rims,
        device_roots: digests(file, raw.device_roots.as_ref())?,
        rim_roots: digests(file, raw.rim_roots.as_ref())?,
        expired_rims: raw.expired_rims.as_ref().is_some_and(|it| *it.get_ref()),
        measurements: raw.measurements.unwrap_or(true),
        uncovered: raw.uncovered.clone(),
        devtools: raw.devtools.unwrap_or(false),
        listed: raw.listed.unwrap_or(false),
    })
}

pub(super) fn number(
    file: &TomlFile<'_>,
    raw: Option<&Spanned<u32>>,
    least: u32,
    most: u32,
) -> Result<Option<u32>, FileError> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    let found = *raw.get_ref();
    if (least..=most).contains(&found) {
        return Ok(Some(found));
    }
    let fault = format!("{found} is not within {least} and {most}");
    Err(file.error(raw.span(), fault))
}

pub(super) fn words<T>(
    file: &TomlFile<'_>,
    raw: Option<&Spanned<Vec<Spanned<String>>>>,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<Vec<T>>, FileError> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    let all = raw.get_ref();
    if all.is_empty() || all.len() > RIMS_LIMIT {
        let fault = format!("1 to {RIMS_LIMIT} of them make a list that can be met");
        return Err(file.error(raw.span(), fault));
    }
    let one = |word: &Spanned<String>| {
        let shown: String = word.get_ref().chars().take(80).collect();
        let fault = format!("{shown:?} is none that is known");
        read(word.get_ref()).ok_or_else(|| file.error(word.span(), fault))
    };
    all.iter().map(one).collect::<Result<_, _>>().map(Some)
}

pub(super) fn digests(
    file: &TomlFile<'_>,
    raw: Option<&Spanned<Vec<Spanned<String>>>>,
) -> Result<Option<BTreeSet<Sha256Digest>>, FileError> {
    let read = |word: &str| Sha256Digest::from_slice(&hex::decode(word).ok()?);
    let digests = words(file, raw, read)?;
    Ok(digests.map(|digests| digests.into_iter().collect()))
}

fn versions(
    file: &TomlFile<'_>,
    at_least: Option<&Spanned<String>>,
    below: Option<&Spanned<String>>,
) -> Result<Versions, FileError> {
    let read = |raw: &Spanned<String>| {
        let version = Version::parse(raw.get_ref());
        version.ok_or_else(|| file.error(raw.span(), "a version is numbers between dots"))
    };
    let versions = Versions {
        at_least: at_least.map(read).transpose()?,
        below: below.map(read).transpose()?,
    };
    if let (Some(least), Some(end), Some(raw)) = (&versions.at_least, &versions.below, below)
        && end.order(least) != Ordering::Greater
    {
        return Err(file.error(raw.span(), "no version is in this range"));
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    const BEFORE: &str = "name = \"p\"\nlease_seconds = 60\nmax_silence_seconds = 60\n\
                          [tpm]\nbank = \"sha256\"\nrequire = [7]\n[gpu]\n";

    fn parse(text: &str) -> Result<GpuProfile, FileError> {
        let text = format!("{BEFORE}{text}");
        let profile = Profile::parse("profile.toml", text.as_bytes())?;
        Ok(profile.gpu.expect("[gpu] is there"))
    }

    #[test]
    fn a_section_asks_for_what_it_names_and_is_strict_about_the_rest() {
        let least = parse("").unwrap();
        assert_eq!((least.count, least.modes), (None, None));
        assert_eq!(
            (least.max_age_seconds, least.revocation_seconds),
            (5400, None)
        );
        assert!(least.measurements && !least.devtools && !least.expired_rims);
        assert!(!least.listed && parse("listed = true").unwrap().listed);
        let (pin, other) = ("ab".repeat(32), "cd".repeat(32));
        let whole = parse(&format!(
            "count = 8\nmodes = [\"ppcie\"]\narchitectures = [\"hopper\", \"BLACKWELL\"]\n\
             driver_at_least = \"550.90.07\"\ndriver_below = \"600.0\"\n\
             vbios_at_least = \"96.00.9F.00.01\"\nmax_age_seconds = 3700\n\
             revocation_seconds = 86400\nrims = [\"{pin}\"]\nexpired_rims = true\n\
             device_roots = [\"{pin}\"]\nrim_roots = [\"{other}\", \"{pin}\"]\n\
             measurements = false\nuncovered = [41]\ndevtools = true\n"
        ));
        let whole = whole.unwrap();
        assert_eq!(whole.modes, Some(vec![Mode::ProtectedPcie]));
        assert_eq!(
            whole.architectures,
            Some(vec![Architecture::Hopper, Architecture::Blackwell])
        );
        let (pin, other) = (Sha256Digest([0xab; 32]), Sha256Digest([0xcd; 32]));
        assert_eq!((whole.rims, whole.device_roots), {
            let pinned = Some([pin].into());
            (pinned.clone(), pinned)
        });
        assert_eq!(whole.rim_roots, Some([pin, other].into()));
        assert_eq!((least.device_roots, least.rim_roots), (None, None));
        assert_eq!(
            (whole.count, whole.revocation_seconds),
            (Some(8), Some(86400))
        );
        assert_eq!(whole.uncovered, [41].into());
        assert!(whole.expired_rims && whole.devtools && !whole.measurements);
    }

    #[test]
    fn what_could_never_be_met_is_refused() {
        let rows = [
            ("count = 0", "0 is not within 1 and 64"),
            ("count = 65", "65 is not within 1 and 64"),
            ("modes = []", "1 to 1024 of them"),
            ("modes = [\"on\"]", "\"on\" is none that is known"),
            (
                "architectures = [\"ls10\"]",
                "\"ls10\" is none that is known",
            ),
            (
                "driver_at_least = \"550\"",
                "a version is numbers between dots",
            ),
            (
                "driver_at_least = \"550.x\"",
                "a version is numbers between dots",
            ),
            ("vbios_below = \"\"", "a version is numbers between dots"),
            (
                "driver_at_least = \"550.2\"\ndriver_below = \"550.2\"",
                "no version is in this range",
            ),
            ("max_age_seconds = 29", "29 is not within 30"),
            ("revocation_seconds = 59", "59 is not within 60"),
            ("rims = [\"abcd\"]", "\"abcd\" is none that is known"),
            ("rim_roots = []", "1 to 1024 of them"),
            (
                "device_roots = [\"nvidia\"]",
                "\"nvidia\" is none that is known",
            ),
            ("expired_rims = true", "only pinned reference values"),
            ("mode = \"on\"", "unknown field"),
        ];
        for (text, want) in rows {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.contains(want), "{text}: {fault}");
        }
    }

    #[test]
    fn versions_are_compared_number_by_number() {
        let range = |least: &str, below: &str| Versions {
            at_least: Version::parse(least),
            below: Version::parse(below),
        };
        let rows = [
            ("550.90.07", "", "550.90.07", true),
            ("550.90.07", "", "550.90.06", false),
            ("550.90.07", "", "550.127.05", true),
            ("550.90.07", "", "570.9", true),
            ("550.90.07", "", "55.99.99", false),
            ("", "570.0", "550.90.07", true),
            ("", "570.0", "570.0", false),
            ("96.00.9F.00.01", "", "96.00.A0.00.00", true),
            ("96.00.9F.00.01", "", "96.00.9E.00.09", false),
            ("550.1", "", "", false),
            ("550.1", "", "550.1 evil", false),
            ("", "", "whatever", true),
        ];
        for (least, below, found, want) in rows {
            assert_eq!(range(least, below).hold(found), want, "{found}");
        }
        assert_eq!(range("1.0", "2.0").to_string(), "1.0 or later, before 2.0");
    }
}
