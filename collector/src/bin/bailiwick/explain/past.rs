//! The state of a node as a stored statement tells it.

use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::evidence::ParsedStatement;
use bailiwick_attestation::proto::v1::{self, fence_state::Mode};
use prost::Message as _;

use crate::format::time;

/// Why a file says nothing of the past.
#[derive(Debug, thiserror::Error)]
pub(super) enum PastRefused {
    #[error("StoredStatement: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("StoredStatement.evidence is absent")]
    NoEvidence,
    #[error("{0}")]
    Statement(String),
    #[error("the node had policy {had} in force, and the file has {has}")]
    OtherPolicy { had: Sha256Digest, has: String },
    #[error("nothing was attached: the fence said no word on any packet")]
    Absent,
}

impl PastRefused {
    /// Stable word.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Decode(_) | Self::NoEvidence | Self::Statement(_) => "statement-malformed",
            Self::OtherPolicy { .. } => "policy-other",
            Self::Absent => "fence-absent",
        }
    }
}

/// What stood then.
#[derive(Debug)]
pub(super) struct Past {
    /// Who says so.
    pub(super) node: String,
    /// When, by the node's clock.
    wall_time_ms: u64,
    /// The policy, and the map where that is another manifest's. `None`: everything was denied.
    pub(super) policy: Option<(v1::PolicyBundle, Option<v1::PolicyBundle>)>,
    /// The lease lasted, or a break-glass manifest stood in for it.
    pub(super) attested: bool,
    break_glass: bool,
}

impl Past {
    /// In a line.
    pub(super) fn line(&self) -> String {
        let standing = match (self.attested, self.break_glass) {
            (true, false) => "with a lease",
            (true, true) => "under break-glass, as for a study it names",
            (false, _) => "without a lease",
        };
        let at = time(self.wall_time_ms);
        format!("as {} said of itself at {at}, {standing}", self.node)
    }
}

/// Reads what `bailiwick node statement` wrote.
pub(super) fn read(bytes: &[u8]) -> Result<Past, PastRefused> {
    let stored = v1::StoredStatement::decode(bytes)?;
    let evidence = stored.evidence.ok_or(PastRefused::NoEvidence)?;
    let statement = ParsedStatement::parse(&evidence.statement)
        .map_err(|why| PastRefused::Statement(why.to_string()))?;
    let fence = &statement.fence;
    let now = statement.boot_time_ns;
    let leased = fence.lease_end_boot_ns > now;
    let glass = fence.break_glass.as_ref();
    let glass = glass.is_some_and(|used| used.end_boot_ns > now);
    let policy = match (fence.mode(), &statement.policy) {
        (Mode::Absent | Mode::Unspecified, _) => return Err(PastRefused::Absent),
        (Mode::DefaultDeny, _) | (Mode::Enforcing, None) => None,
        (Mode::Enforcing, Some(said)) => {
            let manifest = stored.policy.as_ref().map(|bundle| &bundle.manifest);
            let has = manifest.map(|bytes| Sha256Digest::of(&[bytes]));
            if has != Some(said.manifest) {
                return Err(PastRefused::OtherPolicy {
                    had: said.manifest,
                    has: has.map_or_else(|| "none".to_owned(), |digest| digest.to_string()),
                });
            }
            stored.policy.map(|policy| (policy, stored.world))
        }
    };
    Ok(Past {
        node: statement.node.to_string(),
        wall_time_ms: statement.wall_time.millis(),
        policy,
        attested: leased || glass,
        break_glass: glass && !leased,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(edit: impl FnOnce(&mut v1::Statement, &mut v1::StoredStatement)) -> Vec<u8> {
        let manifest = b"a manifest".to_vec();
        let mut statement = v1::Statement {
            format: 1,
            deployment: "demo".into(),
            node: "gpu-01".into(),
            boot_id: vec![1; 16],
            wall_time_ms: 1_800_000_000_000,
            boot_time_ns: 100,
            approvers_digest: vec![2; 32],
            policy: Some(v1::PolicyState {
                version: 3,
                manifest_digest: Sha256Digest::of(&[&manifest]).as_bytes().to_vec(),
                world_digest: vec![3; 32],
                not_after_ms: 5,
            }),
            fence: Some(v1::FenceState {
                mode: Mode::Enforcing.into(),
                root: "/".into(),
                lease_end_boot_ns: 101,
                ..v1::FenceState::default()
            }),
            log: Some(v1::LogHead {
                size: 1,
                root: vec![4; 32],
            }),
            ..v1::Statement::default()
        };
        let mut stored = v1::StoredStatement {
            format: 1,
            policy: Some(v1::PolicyBundle {
                manifest,
                ..v1::PolicyBundle::default()
            }),
            ..v1::StoredStatement::default()
        };
        edit(&mut statement, &mut stored);
        stored.evidence = Some(v1::Evidence {
            statement: statement.encode_to_vec(),
            ..v1::Evidence::default()
        });
        stored.encode_to_vec()
    }

    #[test]
    fn the_state_of_then_is_told() {
        type Edit = fn(&mut v1::FenceState);
        let glass: Edit = |fence| {
            fence.lease_end_boot_ns = 0;
            fence.break_glass = Some(v1::fence_state::BreakGlass {
                manifest_digest: vec![0; 32],
                end_boot_ns: 101,
            });
        };
        let cases: &[(&str, Edit, &str, bool)] = &[
            ("a lease", |_| {}, "with a lease", true),
            (
                "one that ended then",
                |fence| fence.lease_end_boot_ns = 100,
                "without a lease",
                true,
            ),
            ("break-glass", glass, "under break-glass", true),
            (
                "break-glass that ended then",
                |fence| {
                    fence.lease_end_boot_ns = 0;
                    fence.break_glass = Some(v1::fence_state::BreakGlass {
                        manifest_digest: vec![0; 32],
                        end_boot_ns: 100,
                    });
                },
                "without a lease",
                true,
            ),
            (
                "break-glass beside a lease",
                |fence| {
                    fence.break_glass = Some(v1::fence_state::BreakGlass {
                        manifest_digest: vec![0; 32],
                        end_boot_ns: 101,
                    });
                },
                "with a lease",
                true,
            ),
            (
                "default deny",
                |fence| fence.set_mode(Mode::DefaultDeny),
                "with a lease",
                false,
            ),
        ];
        for (name, edit, want, policy) in cases {
            let bytes = stored(|statement, _| edit(statement.fence.as_mut().unwrap()));
            let past = read(&bytes).unwrap();
            let line = past.line();
            assert!(
                line.starts_with("as gpu-01 said of itself at 2027-01-15"),
                "{line}"
            );
            assert!(line.contains(want), "{name}: {line}");
            assert_eq!(past.attested, !want.starts_with("without"), "{name}");
            assert_eq!(past.policy.is_some(), *policy, "{name}");
        }
    }

    #[test]
    fn what_says_nothing_of_the_past_is_refused() {
        let refused = |bytes: &[u8]| read(bytes).unwrap_err().code();
        assert_eq!(refused(&[0xff]), "statement-malformed");
        assert_eq!(refused(&[]), "statement-malformed");
        let other = stored(|_, stored| stored.policy.as_mut().unwrap().manifest.push(0));
        assert_eq!(refused(&other), "policy-other");
        let none = stored(|_, stored| stored.policy = None);
        assert_eq!(refused(&none), "policy-other");
        let absent = stored(|statement, _| {
            statement.fence.as_mut().unwrap().set_mode(Mode::Absent);
        });
        assert_eq!(refused(&absent), "fence-absent");
        let nameless = stored(|statement, _| statement.node.clear());
        assert_eq!(refused(&nameless), "statement-malformed");
    }
}
