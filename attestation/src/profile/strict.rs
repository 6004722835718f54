//! What wins over every allowance: digests taken back, and the ready-made strict part.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;

use super::raw::moment;
use super::{BootProfile, TpmProfile};
use crate::UnixTime;
use crate::toml_file::{FileError, TomlFile};

/// Most digests that are taken back: a revocation list of firmware has some hundred.
const REVOKED_LIMIT: usize = 1024;
/// Most bytes of a reason.
const REASON_LIMIT: usize = 512;
/// Most programs that count as the agent: versions of it in one fleet.
const AGENT_LIMIT: usize = 64;
/// Lengths of digests: SHA-1 to SHA-512.
const LENGTHS: [usize; 4] = [20, 32, 48, 64];
/// What firmware and shim started, one after the other.
const APPLICATIONS: &str = "boot.applications";
/// Where boot loaders and kernels are measured.
const BOOT_LOADERS: u8 = 4;

/// A digest that was good once, or never.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revoked {
    /// Why, in the words of who took it back.
    pub reason: String,
    /// From when on it counts for nothing; `None`: at once.
    pub since: Option<UnixTime>,
}

/// What has to hold, as measured, before root can lie. Each name is one set of demands for ever: a
/// stricter one gets another name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StrictSet {
    /// `root-cannot-lie-1`
    RootCannotLie1,
}

impl StrictSet {
    /// Every set.
    pub const ALL: [Self; 1] = [Self::RootCannotLie1];

    /// The word used in profiles and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RootCannotLie1 => "root-cannot-lie-1",
        }
    }
}

/// The strict part of a profile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Strict {
    /// Which demands.
    pub set: StrictSet,
    /// Digests of the agent's program, one of which has to stand in the measurement list.
    pub agent: BTreeSet<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRevoked {
    digest: Spanned<String>,
    reason: Spanned<String>,
    since: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStrict {
    set: Spanned<String>,
    agent: Spanned<Vec<Spanned<String>>>,
}

fn digest(file: &TomlFile<'_>, text: &Spanned<String>) -> Result<Vec<u8>, FileError> {
    let bytes = hex::decode(text.get_ref()).unwrap_or_default();
    if LENGTHS.contains(&bytes.len()) {
        return Ok(bytes);
    }
    let fault = "a digest is 40, 64, 96 or 128 hexadecimal digits";
    Err(file.error(text.span(), fault))
}

/// A digest has one entry: of two reasons nobody knows which counts.
pub(super) fn revoked(
    file: &TomlFile<'_>,
    raw: &[RawRevoked],
) -> Result<BTreeMap<Vec<u8>, Revoked>, FileError> {
    let mut all = BTreeMap::new();
    for one in raw {
        if all.len() == REVOKED_LIMIT {
            let fault = format!("more than {REVOKED_LIMIT} digests are taken back");
            return Err(file.error(one.digest.span(), fault));
        }
        let reason = one.reason.get_ref();
        if reason.is_empty() || reason.len() > REASON_LIMIT {
            let fault = format!("a reason has 1 to {REASON_LIMIT} bytes");
            return Err(file.error(one.reason.span(), fault));
        }
        let revoked = Revoked {
            reason: reason.clone(),
            since: moment(file, one.since.as_ref())?,
        };
        if all.insert(digest(file, &one.digest)?, revoked).is_some() {
            return Err(file.error(one.digest.span(), "is taken back twice"));
        }
    }
    Ok(all)
}

/// `demanded`: claims that the profile asks for. What a kernel measures is worth what the kernel is:
/// it has to be named.
pub(super) fn strict(
    file: &TomlFile<'_>,
    raw: &RawStrict,
    tpm: &TpmProfile,
    boot: Option<&BootProfile>,
    demanded: &BTreeSet<String>,
) -> Result<Strict, FileError> {
    let name = raw.set.get_ref();
    let set = StrictSet::ALL.into_iter().find(|set| set.name() == name);
    let set = set.ok_or_else(|| {
        let fault = format!("{name:?} is no strict set: root-cannot-lie-1");
        file.error(raw.set.span(), fault)
    })?;
    let agents = raw.agent.get_ref();
    if agents.is_empty() || agents.len() > AGENT_LIMIT {
        let fault = format!("name 1 to {AGENT_LIMIT} digests of the agent's program");
        return Err(file.error(raw.agent.span(), fault));
    }
    let agent = agents.iter().map(|text| digest(file, text));
    let agent = agent.collect::<Result<_, _>>()?;
    // Not the section of an image: root could write one into a register that its boot left empty.
    let named = tpm.values.contains_key(&BOOT_LOADERS) || demanded.contains(APPLICATIONS);
    if !named {
        let fault = "nothing says which kernel may boot: demand boot.applications, or name values of \
                     register 4";
        return Err(file.error(raw.set.span(), fault));
    }
    if boot.is_some_and(|boot| !boot.unreplayable.is_empty()) {
        let fault =
            "a register that need not replay shows nothing: boot.unreplayable has to be empty";
        return Err(file.error(raw.set.span(), fault));
    }
    Ok(Strict { set, agent })
}

#[cfg(test)]
mod tests;
