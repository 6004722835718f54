//! `approvers.toml`: how many it takes, for what.

use std::collections::BTreeMap;

use bailiwick_attestation::{FileError, TomlFile};
use serde::Deserialize;
use toml::Spanned;

use crate::kind::Role;

/// Most bytes of the file: a handful of numbers.
pub const THRESHOLDS_FILE_LIMIT: usize = 16 * 1024;

/// How many persons it takes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Thresholds {
    /// For whatever has no number of its own.
    pub main: u32,
    /// For roles that have one.
    pub roles: BTreeMap<Role, u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApprovers {
    threshold: Spanned<u32>,
    #[serde(default)]
    role: RawRoles,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRoles {
    world: Option<RawRole>,
    inventory: Option<RawRole>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRole {
    threshold: Spanned<u32>,
}

impl Thresholds {
    /// Reads the file whole. Whether anybody can meet them is not asked here.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, FileError> {
        let file = TomlFile::new(path, bytes, THRESHOLDS_FILE_LIMIT)?;
        let raw: RawApprovers = file.parse()?;
        let number = |found: &Spanned<u32>| match *found.get_ref() {
            0 => Err(file.error(found.span(), "0 lets anybody sign; set it to 1 or more")),
            number => Ok(number),
        };
        let main = number(&raw.threshold)?;
        let mut roles = BTreeMap::new();
        for (role, found) in [
            (Role::World, &raw.role.world),
            (Role::Inventory, &raw.role.inventory),
        ] {
            if let Some(found) = found {
                roles.insert(role, number(&found.threshold)?);
            }
        }
        Ok(Self { main, roles })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_numbers_of_known_roles() {
        let good = b"threshold = 2\n[role.world]\nthreshold = 1\n";
        let read = Thresholds::parse("approvers.toml", good).unwrap();
        assert_eq!((read.main, read.roles), (2, [(Role::World, 1)].into()));
        let rows: &[(&str, &str, &str)] = &[
            (
                "nobody",
                "threshold = 0",
                "approvers.toml:1: threshold: 0 lets anybody sign; set it to 1 or more",
            ),
            (
                "nobody for a role",
                "threshold = 2\n[role.inventory]\nthreshold = 0",
                "approvers.toml:3: role.inventory.threshold: 0 lets anybody sign; set it to 1 or more",
            ),
            (
                "a role that would weaken the rest",
                "threshold = 2\n[role.policy]\nthreshold = 1",
                "approvers.toml:2: role.policy: unknown field `policy`, expected `world` or `inventory`",
            ),
            (
                "no number",
                "threshold = \"2\"",
                "approvers.toml:1: threshold: invalid type: string \"2\", expected u32",
            ),
            ("absent", "", "approvers.toml:1: missing field `threshold`"),
        ];
        for (name, text, want) in rows {
            let refused = Thresholds::parse("approvers.toml", text.as_bytes()).unwrap_err();
            assert_eq!(refused.to_string(), *want, "{name}");
        }
    }
}
