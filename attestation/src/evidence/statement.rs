//! The statement, read once into a form that cannot be wrong.

use std::collections::BTreeMap;

use super::{
    Nonce,
    claims::{self, ClaimValue},
};
use crate::{
    ids::{DeploymentId, IdError, NodeId, Sha256Digest, UnixTime},
    proto::v1,
    tlog::Head,
};

/// Longest statement read. A node with eight GPUs and a full fence needs some 20 KiB.
pub const MAX_STATEMENT: usize = 256 * 1024;
/// Most links, maps, log digests and gaps: each is a small fixed set on an honest node.
const MAX_PARTS: usize = 256;
/// The format this version writes and reads.
const FORMAT: u32 = 1;
/// Under which name reports of GPUs travel beside a statement.
pub(crate) const GPU_REPORTS: &str = "gpu";
/// Likewise their chains.
pub(crate) const GPU_CHAINS: &str = "gpu-chains";

/// A statement that is not one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StatementRefused {
    /// Longer than any honest statement.
    #[error("Statement: {found} bytes exceed the limit of {MAX_STATEMENT}")]
    TooLong {
        /// Bytes given.
        found: usize,
    },
    /// Not a protocol buffer of this shape.
    #[error("Statement: {0}")]
    Decode(String),
    /// A name that is not one.
    #[error("Statement.{field}")]
    Id {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: IdError,
    },
    /// A field that breaks a rule of the format.
    #[error("Statement.{field}: {fault}")]
    Field {
        /// Which.
        field: &'static str,
        /// The rule.
        fault: &'static str,
    },
    /// A claim that breaks a rule of the format.
    #[error("Statement.claims[{index}] ({name:?}): {fault}")]
    Claim {
        /// Position, from 0.
        index: usize,
        /// Its name, cut to 80 characters.
        name: String,
        /// The rule.
        fault: &'static str,
    },
}

impl StatementRefused {
    /// Stable word for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "statement-malformed"
    }
}

/// A well-formed statement. Who made it is for the signer to show.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedStatement {
    /// SHA-256 of its bytes: what logs, receipts and leases name it by.
    pub digest: Sha256Digest,
    /// Where it was made.
    pub deployment: DeploymentId,
    /// Who it says it is.
    pub node: NodeId,
    /// The kernel's random boot id.
    pub boot_id: [u8; 16],
    /// Counts the losses of the node's log.
    pub epoch: u64,
    /// Index in this epoch.
    pub sequence: u64,
    /// Digest of the statement before; `None` exactly for sequence 0.
    pub previous: Option<Sha256Digest>,
    /// The node's word about UTC.
    pub wall_time: UnixTime,
    /// `CLOCK_BOOTTIME` when it was put together, ns.
    pub boot_time_ns: u64,
    /// Digest of the approvers the node was installed with.
    pub approvers: Sha256Digest,
    /// Policy in force on the node.
    pub policy: Option<PolicyClaim>,
    /// State of the fence, as the agent read it back from the kernel.
    pub fence: v1::FenceState,
    /// Facts by name.
    pub claims: BTreeMap<String, ClaimValue>,
    /// Digests of logs sent earlier, by name.
    pub logs: BTreeMap<String, Sha256Digest>,
    /// What the node lost.
    pub gaps: Vec<v1::Gap>,
    /// The node's own log when the statement was put together.
    pub log: Head,
    /// The newest reports of its GPUs; `None`: none were asked for.
    pub gpu: Option<GpuCitation>,
    /// SHA-256 of the `SubjectPublicKeyInfo` that a guest without a TPM speaks for.
    pub guest_key: Option<Sha256Digest>,
}

/// Reports of GPUs, by what names them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GpuCitation {
    /// SHA-256 of the reports as they travelled.
    pub reports: Sha256Digest,
    /// SHA-256 of their chains as they travelled.
    pub chains: Sha256Digest,
    /// The challenge that the GPUs' nonce was made from.
    pub challenge: Nonce,
    /// `CLOCK_BOOTTIME` when they were asked, ns: the node's word.
    pub asked_boot_ns: u64,
}

/// The policy a node says it enforces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PolicyClaim {
    /// Version of the manifest.
    pub version: u64,
    /// SHA-256 of the manifest.
    pub manifest: Sha256Digest,
    /// SHA-256 of the world image in the kernel.
    pub world: Sha256Digest,
    /// When the manifest ends.
    pub not_after: UnixTime,
}

fn digest(field: &'static str, bytes: &[u8]) -> Result<Sha256Digest, StatementRefused> {
    Sha256Digest::from_slice(bytes).ok_or(StatementRefused::Field {
        field,
        fault: "must have 32 bytes",
    })
}

fn bounded(field: &'static str, len: usize) -> Result<(), StatementRefused> {
    if len > MAX_PARTS {
        return Err(StatementRefused::Field {
            field,
            fault: "has more than 256 elements",
        });
    }
    Ok(())
}

impl ParsedStatement {
    /// Digests of all that came along with this statement or an earlier one, by the names under
    /// which it did: logs, and reports and chains of GPUs.
    #[must_use]
    pub fn named(&self) -> BTreeMap<String, Sha256Digest> {
        let mut named = self.logs.clone();
        if let Some(gpu) = &self.gpu {
            named.insert(GPU_REPORTS.to_owned(), gpu.reports);
            named.insert(GPU_CHAINS.to_owned(), gpu.chains);
        }
        named
    }

    /// Reads the bytes as they were signed.
    pub fn parse(bytes: &[u8]) -> Result<Self, StatementRefused> {
        if bytes.len() > MAX_STATEMENT {
            return Err(StatementRefused::TooLong { found: bytes.len() });
        }
        let raw =
            claims::decode(bytes).map_err(|error| StatementRefused::Decode(error.to_string()))?;
        fn rule<T>(field: &'static str, fault: &'static str) -> Result<T, StatementRefused> {
            Err(StatementRefused::Field { field, fault })
        }
        if raw.format != FORMAT {
            return rule("format", "is not 1");
        }
        let deployment =
            DeploymentId::new(&raw.deployment).map_err(|source| StatementRefused::Id {
                field: "deployment",
                source,
            })?;
        let node = NodeId::new(&raw.node).map_err(|source| StatementRefused::Id {
            field: "node",
            source,
        })?;
        let Ok(boot_id) = <[u8; 16]>::try_from(raw.boot_id.as_slice()) else {
            return rule("boot_id", "must have 16 bytes");
        };
        let previous = raw
            .previous
            .as_deref()
            .map(|p| digest("previous", p))
            .transpose()?;
        if previous.is_none() != (raw.sequence == 0) {
            return rule("previous", "must be present for every sequence but 0");
        }
        let policy = raw
            .policy
            .map(|policy| {
                Ok(PolicyClaim {
                    version: policy.version,
                    manifest: digest("policy.manifest_digest", &policy.manifest_digest)?,
                    world: digest("policy.world_digest", &policy.world_digest)?,
                    not_after: UnixTime(policy.not_after_ms),
                })
            })
            .transpose()?;
        let Some(fence) = raw.fence else {
            return rule(
                "fence",
                "is absent; a node without a fence says MODE_ABSENT",
            );
        };
        bounded("fence.links", fence.links.len())?;
        bounded("fence.maps", fence.maps.len())?;
        bounded("fence.counters", fence.counters.len())?;
        bounded("fence.unfenced_paths", fence.unfenced_paths.len())?;
        bounded("fence.unfenced", fence.unfenced.len())?;
        bounded("fence.devices", fence.devices.len())?;
        bounded("fence.devices_unmet", fence.devices_unmet.len())?;
        bounded("fence.selectors_unmet", fence.selectors_unmet.len())?;
        bounded("fence.lines", fence.lines.len())?;
        bounded("fence.lines_absent", fence.lines_absent.len())?;
        bounded("fence.line_changes", fence.line_changes.len())?;
        if !matches!(fence.object_digest.len(), 0 | 32) {
            return rule("fence.object_digest", "must have 32 bytes, or none");
        }
        bounded("gaps", raw.gaps.len())?;
        bounded("logs", raw.logs.len())?;
        let gpu = raw.gpu.map(|gpu| {
            let Ok(challenge) = Nonce::from_slice(&gpu.challenge) else {
                return rule("gpu.challenge", "must have 32 bytes");
            };
            Ok(GpuCitation {
                reports: digest("gpu.reports", &gpu.reports)?,
                chains: digest("gpu.chains", &gpu.chains)?,
                challenge,
                asked_boot_ns: gpu.asked_boot_ns,
            })
        });
        let gpu = gpu.transpose()?;
        let guest_key = match raw.guest_key.as_slice() {
            [] => None,
            key => Some(digest("guest_key", key)?),
        };
        let Some(log) = raw.log.as_ref().and_then(Head::of) else {
            return rule("log", "must name a size and its root of 32 bytes");
        };
        let mut logs = BTreeMap::new();
        for log in raw.logs {
            if logs
                .insert(log.name, digest("logs.sha256", &log.sha256)?)
                .is_some()
            {
                return rule("logs", "names one log twice");
            }
        }
        Ok(Self {
            digest: Sha256Digest::of(&[bytes]),
            deployment,
            node,
            boot_id,
            epoch: raw.epoch,
            sequence: raw.sequence,
            previous,
            wall_time: UnixTime(raw.wall_time_ms),
            boot_time_ns: raw.boot_time_ns,
            approvers: digest("approvers_digest", &raw.approvers_digest)?,
            policy,
            fence,
            claims: claims::read(raw.claims)?,
            logs,
            gaps: raw.gaps,
            log,
            gpu,
            guest_key,
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn raw() -> v1::Statement {
        let claim = |name: &str, value| v1::Claim {
            name: name.to_owned(),
            source: "/proc".to_owned(),
            value: Some(value),
        };
        v1::Statement {
            format: 1,
            deployment: "demo".to_owned(),
            node: "gpu-01".to_owned(),
            boot_id: vec![1; 16],
            sequence: 1,
            previous: Some(vec![2; 32]),
            approvers_digest: vec![3; 32],
            fence: Some(v1::FenceState::default()),
            log: Some(Head::empty().to_proto()),
            claims: vec![
                claim("kernel.release", v1::claim::Value::Text("6.12".to_owned())),
                claim("kernel.taint", v1::claim::Value::Number(0)),
            ],
            ..Default::default()
        }
    }

    fn cited(reports: usize, chains: usize, challenge: usize) -> v1::GpuCitation {
        v1::GpuCitation {
            reports: vec![1; reports],
            chains: vec![2; chains],
            challenge: vec![3; challenge],
            asked_boot_ns: 4,
        }
    }

    #[test]
    fn a_citation_of_gpus_is_read() {
        let mut raw = raw();
        raw.gpu = Some(cited(32, 32, 32));
        let parsed = ParsedStatement::parse(&raw.encode_to_vec()).unwrap();
        let want = GpuCitation {
            reports: Sha256Digest([1; 32]),
            chains: Sha256Digest([2; 32]),
            challenge: Nonce::new([3; 32]),
            asked_boot_ns: 4,
        };
        assert_eq!(parsed.gpu, Some(want));
        // Whoever looks at the record later needs them beside the logs.
        let named = parsed.named();
        assert_eq!(named["gpu"], Sha256Digest([1; 32]));
        assert_eq!(named["gpu-chains"], Sha256Digest([2; 32]));
        assert_eq!(named.len(), parsed.logs.len() + 2);
    }

    #[test]
    fn a_statement_is_read_whole() {
        let bytes = raw().encode_to_vec();
        let parsed = ParsedStatement::parse(&bytes).unwrap();
        assert_eq!(parsed.digest, Sha256Digest::of(&[&bytes]));
        assert_eq!(parsed.claims["kernel.taint"], ClaimValue::Number(0));
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        type Edit = fn(&mut v1::Statement);
        let cases: &[(&str, Edit, &str)] = &[
            ("format", |s| s.format = 2, "Statement.format: is not 1"),
            ("node", |s| s.node.clear(), "Statement.node"),
            (
                "boot id",
                |s| s.boot_id.truncate(15),
                "Statement.boot_id: must have 16 bytes",
            ),
            (
                "first",
                |s| s.sequence = 0,
                "Statement.previous: must be present for every sequence but 0",
            ),
            (
                "chain",
                |s| s.previous = None,
                "Statement.previous: must be present for every sequence but 0",
            ),
            (
                "chain length",
                |s| s.previous = Some(vec![0; 33]),
                "Statement.previous: must have 32 bytes",
            ),
            (
                "approvers",
                |s| s.approvers_digest.clear(),
                "Statement.approvers_digest: must have 32 bytes",
            ),
            (
                "fence",
                |s| s.fence = None,
                "Statement.fence: is absent; a node without a fence says MODE_ABSENT",
            ),
            (
                "log",
                |s| s.log = None,
                "Statement.log: must name a size and its root of 32 bytes",
            ),
            (
                "root of nothing",
                |s| s.log.as_mut().unwrap().root = vec![1; 32],
                "Statement.log: must name a size and its root of 32 bytes",
            ),
            (
                "twice",
                |s| s.claims.push(s.claims[0].clone()),
                "Statement.claims[2] (\"kernel.release\"): is made twice",
            ),
            (
                "no value",
                |s| s.claims[1].value = None,
                "Statement.claims[1] (\"kernel.taint\"): has no value; what could not be read says why",
            ),
            (
                "the appraiser's",
                |s| s.claims[1].name = "tpm.pcr.sha256.7".to_owned(),
                "Statement.claims[1] (\"tpm.pcr.sha256.7\"): the appraiser's own names are not the node's to use",
            ),
            (
                "a place",
                |s| s.claims[1].name = "geo.jurisdiction".to_owned(),
                "Statement.claims[1] (\"geo.jurisdiction\"): the appraiser's own names are not the node's to use",
            ),
            (
                "name",
                |s| s.claims[1].name = "Kernel\n".to_owned(),
                "Statement.claims[1] (\"Kernel\\n\"): a name is 1 to 256 of a-z, 0-9, '.', '_' and '-'",
            ),
            (
                "claims",
                |s| s.claims = vec![s.claims[0].clone(); 4097],
                "Statement.claims: has more than 4096 elements",
            ),
            (
                "object",
                |s| s.fence.as_mut().unwrap().object_digest = vec![0; 31],
                "Statement.fence.object_digest: must have 32 bytes, or none",
            ),
            (
                "reports of GPUs",
                |s| s.gpu = Some(cited(31, 32, 32)),
                "Statement.gpu.reports: must have 32 bytes",
            ),
            (
                "chains of GPUs",
                |s| s.gpu = Some(cited(32, 33, 32)),
                "Statement.gpu.chains: must have 32 bytes",
            ),
            (
                "challenge of GPUs",
                |s| s.gpu = Some(cited(32, 32, 0)),
                "Statement.gpu.challenge: must have 32 bytes",
            ),
            (
                "the appraiser's of GPUs",
                |s| s.claims[1].name = "gpu.hardware".to_owned(),
                "Statement.claims[1] (\"gpu.hardware\"): the appraiser's own names are not the node's to use",
            ),
            (
                "links",
                |s| s.fence.as_mut().unwrap().links = vec![v1::fence_state::Link::default(); 257],
                "Statement.fence.links: has more than 256 elements",
            ),
        ];
        for (name, edit, want) in cases {
            let mut bad = raw();
            edit(&mut bad);
            let refused = ParsedStatement::parse(&bad.encode_to_vec()).unwrap_err();
            assert_eq!(refused.to_string(), *want, "{name}");
        }
        let long = vec![0; MAX_STATEMENT + 1];
        assert_eq!(
            ParsedStatement::parse(&long),
            Err(StatementRefused::TooLong {
                found: MAX_STATEMENT + 1
            })
        );
        let mut short = raw().encode_to_vec();
        short.pop();
        assert!(matches!(
            ParsedStatement::parse(&short),
            Err(StatementRefused::Decode(_))
        ));
    }
}
