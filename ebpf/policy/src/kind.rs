//! What approvers sign: kinds of manifests, each a line of versions of its own.

use std::fmt;

use bailiwick_attestation::{DeploymentId, StudyId};

/// What a manifest is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Fences, sites, inventory, profile, keys of the collector.
    Policy,
    /// Who may sign the others, and how many of them it takes.
    Approvers,
    /// The world map alone, for a policy that carries none.
    World,
    /// Standing without appraisal, for a while.
    BreakGlass,
    /// Keys to be destroyed.
    Erasure,
}

impl Kind {
    /// All there are, in the order a node wants them: each may need what stands before it.
    pub const ALL: [Self; 5] = [
        Self::Approvers,
        Self::World,
        Self::Policy,
        Self::BreakGlass,
        Self::Erasure,
    ];

    /// The word in manifests, namespaces and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Approvers => "approvers",
            Self::World => "world",
            Self::BreakGlass => "break-glass",
            Self::Erasure => "erasure",
        }
    }

    /// The kind of this word; messages leave `policy` out.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let word = if word.is_empty() { "policy" } else { word };
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// What a signature over a manifest of this kind must say it is for.
    #[must_use]
    pub fn namespace(self, deployment: &DeploymentId) -> String {
        format!("bailiwick/{deployment}/{self}")
    }

    /// The role that signs this kind where it has a threshold of its own.
    #[must_use]
    pub const fn role(self) -> Option<Role> {
        match self {
            Self::World => Some(Role::World),
            Self::Policy | Self::Approvers | Self::BreakGlass | Self::Erasure => None,
        }
    }

    /// Whether a bundle of this kind may hold a file of this path. Paths are compared, never
    /// opened.
    #[must_use]
    pub fn holds(self, path: &str) -> bool {
        match self {
            Self::Policy => policy_file(path),
            Self::Approvers => matches!(path, "approvers.toml" | "allowed_signers"),
            Self::World => matches!(path, "world.csv" | "world.txt"),
            Self::BreakGlass => path == "break-glass.toml",
            Self::Erasure => path == "erasure.toml",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What approvers may sign for with a threshold of its own.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// Manifests of kind `world`.
    World,
    /// Confirmations of one inventory entry.
    Inventory,
}

impl Role {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::World, Self::Inventory];

    /// The word in `approvers.toml` and namespaces.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::World => "world",
            Self::Inventory => "inventory",
        }
    }

    /// What its signatures must say they are for.
    #[must_use]
    pub fn namespace(self, deployment: &DeploymentId) -> String {
        format!("bailiwick/{deployment}/{self}")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn policy_file(path: &str) -> bool {
    let study = |path: &str| {
        path.strip_prefix("studies/")
            .and_then(|name| name.strip_suffix(".toml"))
            .is_some_and(|name| StudyId::new(name).is_ok())
    };
    matches!(
        path,
        "host-fence.toml"
            | "sites.toml"
            | "inventory.toml"
            | "profile.toml"
            | "guest-profile.toml"
            | "collector.toml"
            | "world.csv"
            | "world.txt"
    ) || study(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_others_are_not() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse(""), Some(Kind::Policy));
        for word in ["Policy", "inventory", "policy ", "break_glass"] {
            assert_eq!(Kind::parse(word), None, "{word:?}");
        }
    }

    #[test]
    fn a_file_belongs_to_its_kind() {
        let rows: &[(&str, &[Kind])] = &[
            ("studies/a.toml", &[Kind::Policy]),
            ("collector.toml", &[Kind::Policy]),
            ("world.csv", &[Kind::World, Kind::Policy]),
            ("world.txt", &[Kind::World, Kind::Policy]),
            ("approvers.toml", &[Kind::Approvers]),
            ("allowed_signers", &[Kind::Approvers]),
            ("break-glass.toml", &[Kind::BreakGlass]),
            ("erasure.toml", &[Kind::Erasure]),
            ("manifest.toml", &[]),
            ("../approvers.toml", &[]),
        ];
        for (path, kinds) in rows {
            for kind in Kind::ALL {
                assert_eq!(kind.holds(path), kinds.contains(&kind), "{path} in {kind}");
            }
        }
    }
}
