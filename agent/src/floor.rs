//! What the TPM remembers: versions that this machine does not go behind, whatever its disk says.

use bailiwick_attestation::{DeploymentId, Sha256Digest};
use bailiwick_policy::bundle::InForce;

use crate::proto::fence::{self, floor::Newest};

/// Bytes of [`Floor::record`].
pub(crate) const RECORD: usize = 117;

/// What begins a record, its format included.
const MAGIC: [u8; 5] = *b"BWFL\x01";

/// The newest versions this machine has had.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Floor {
    /// Of policy.
    pub(crate) policy: Option<InForce>,
    /// Of approvers; absent while those of the machine's configuration are in force.
    pub(crate) approvers: Option<InForce>,
}

impl Floor {
    /// As `run` tells it; `None` where a digest has no 32 bytes.
    pub(crate) fn read(message: &fence::Floor) -> Option<Self> {
        let read = |newest: &Option<Newest>| match newest {
            None => Some(None),
            Some(newest) => Some(Some(InForce {
                version: newest.version,
                manifest_digest: Sha256Digest::from_slice(&newest.manifest_digest)?,
            })),
        };
        Some(Self {
            policy: read(&message.policy)?,
            approvers: read(&message.approvers)?,
        })
    }

    /// As it is told.
    pub(crate) fn message(&self) -> fence::Floor {
        let write = |newest: Option<InForce>| {
            newest.map(|newest| Newest {
                version: newest.version,
                manifest_digest: newest.manifest_digest.0.to_vec(),
            })
        };
        fence::Floor {
            policy: write(self.policy),
            approvers: write(self.approvers),
        }
    }

    /// As the TPM keeps it: five bytes of magic, SHA-256 of the deployment's name, then for policy
    /// and approvers version (eight bytes, big-endian; 0 for none) and digest of the manifest.
    pub(crate) fn record(&self, deployment: &DeploymentId) -> Vec<u8> {
        let mut record = MAGIC.to_vec();
        record.extend(Sha256Digest::of(&[deployment.as_str().as_bytes()]).0);
        for newest in [self.policy, self.approvers] {
            let (version, digest) = newest.map_or((0, [0; 32]), |newest| {
                (newest.version, newest.manifest_digest.0)
            });
            record.extend(version.to_be_bytes());
            record.extend(digest);
        }
        record
    }

    /// Reads a record. One of another deployment says nothing about this one; `None` is no record.
    pub(crate) fn of_record(record: &[u8], deployment: &DeploymentId) -> Option<Self> {
        let (magic, rest) = record.split_first_chunk::<5>()?;
        let (whose, rest) = rest.split_first_chunk::<32>()?;
        let (policy, rest) = rest.split_first_chunk::<40>()?;
        let approvers: &[u8; 40] = rest.try_into().ok()?;
        if *magic != MAGIC {
            return None;
        }
        if *whose != Sha256Digest::of(&[deployment.as_str().as_bytes()]).0 {
            return Some(Self::default());
        }
        Some(Self {
            policy: newest(policy)?,
            approvers: newest(approvers)?,
        })
    }

    /// The higher of both, kind by kind: a floor never sinks.
    pub(crate) fn raised(self, to: Self) -> Self {
        Self {
            policy: higher(self.policy, to.policy),
            approvers: higher(self.approvers, to.approvers),
        }
    }

    /// What a new policy must follow, where `current` is in force.
    pub(crate) fn policy_after(&self, current: Option<InForce>) -> Option<InForce> {
        higher(current, self.policy)
    }

    /// Why the policy in force must not be: it is older than, or another than, what this machine
    /// has had.
    pub(crate) fn policy_fault(&self, in_force: InForce) -> Option<String> {
        fault("policy", in_force, self.policy?)
    }

    /// The same of approvers; version 0 is the machine's own configuration.
    pub(crate) fn approvers_fault(&self, in_force: InForce) -> Option<String> {
        fault("approvers", in_force, self.approvers?)
    }
}

fn newest(bytes: &[u8; 40]) -> Option<Option<InForce>> {
    let (version, digest) = bytes.split_first_chunk::<8>()?;
    let version = u64::from_be_bytes(*version);
    let manifest_digest = Sha256Digest::from_slice(digest)?;
    Some((version > 0).then_some(InForce {
        version,
        manifest_digest,
    }))
}

/// Of two with one version the first: it is in force.
fn higher(a: Option<InForce>, b: Option<InForce>) -> Option<InForce> {
    match (a, b) {
        (Some(a), Some(b)) if b.version > a.version => Some(b),
        (Some(a), _) => Some(a),
        (None, b) => b,
    }
}

fn fault(what: &str, in_force: InForce, floor: InForce) -> Option<String> {
    if in_force.version < floor.version {
        return Some(format!(
            "{what} rolled back: version {} is in force, and this machine's TPM remembers version \
             {}; the newest has to be delivered again",
            in_force.version, floor.version
        ));
    }
    (in_force.version == floor.version && in_force.manifest_digest != floor.manifest_digest).then(
        || {
            format!(
                "{what} exchanged: version {} has digest {}, and this machine's TPM remembers {}",
                in_force.version, in_force.manifest_digest, floor.manifest_digest
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(version: u64, digest: u8) -> InForce {
        InForce {
            version,
            manifest_digest: Sha256Digest([digest; 32]),
        }
    }

    #[test]
    fn a_floor_is_what_was_highest() {
        type Newest = Option<InForce>;
        let rows: &[(&str, Newest, Newest, Newest)] = &[
            ("nothing known", None, None, None),
            ("a new disk", None, Some(at(3, 3)), Some(at(3, 3))),
            ("a new TPM", Some(at(3, 3)), None, Some(at(3, 3))),
            (
                "an older disk",
                Some(at(2, 2)),
                Some(at(3, 3)),
                Some(at(3, 3)),
            ),
            (
                "not told yet",
                Some(at(4, 4)),
                Some(at(3, 3)),
                Some(at(4, 4)),
            ),
            ("the same", Some(at(3, 3)), Some(at(3, 3)), Some(at(3, 3))),
        ];
        for (name, current, floor, want) in rows {
            let floor = Floor {
                policy: *floor,
                approvers: None,
            };
            assert_eq!(floor.policy_after(*current), *want, "{name}");
            let other = Floor {
                policy: *current,
                approvers: None,
            };
            assert_eq!(other.raised(floor).policy, *want, "{name}");
        }
        let (first, second) = (Some(at(3, 3)), Some(at(3, 4)));
        assert_eq!(higher(first, second), first, "two of one version");
    }

    #[test]
    fn what_lies_behind_the_floor_or_beside_it_is_a_fault() {
        let floor = Floor {
            policy: Some(at(3, 3)),
            approvers: Some(at(1, 9)),
        };
        let rows: &[(&str, InForce, Option<&str>)] = &[
            (
                "behind",
                at(2, 2),
                Some("policy rolled back: version 2 is in force"),
            ),
            ("beside", at(3, 4), Some("policy exchanged: version 3")),
            ("the same", at(3, 3), None),
            ("ahead", at(4, 4), None),
        ];
        for (name, in_force, want) in rows {
            let got = floor.policy_fault(*in_force);
            match want {
                None => assert_eq!(got, None, "{name}"),
                Some(want) => assert!(got.unwrap().starts_with(want), "{name}"),
            }
            assert_eq!(Floor::default().policy_fault(*in_force), None, "{name}");
        }
        let first = at(0, 1);
        let got = floor.approvers_fault(first).unwrap();
        assert!(got.starts_with("approvers rolled back: version 0"), "{got}");
        assert_eq!(floor.approvers_fault(at(1, 9)), None);
    }

    #[test]
    fn a_record_is_read_back_by_its_own_deployment() {
        let deployment = DeploymentId::new("demo").unwrap();
        let other = DeploymentId::new("other").unwrap();
        let floors = [
            Floor::default(),
            Floor {
                policy: Some(at(3, 3)),
                approvers: Some(at(1, 9)),
            },
        ];
        for floor in floors {
            let record = floor.record(&deployment);
            assert_eq!(record.len(), RECORD);
            assert_eq!(Floor::of_record(&record, &deployment), Some(floor));
            assert_eq!(Floor::of_record(&record, &other), Some(Floor::default()));
            assert_eq!(Floor::of_record(&record[1..], &deployment), None, "short");
            let mut long = record.clone();
            long.push(0);
            assert_eq!(Floor::of_record(&long, &deployment), None, "long");
            let mut another = record;
            another[4] = 2;
            assert_eq!(Floor::of_record(&another, &deployment), None, "format");
        }
    }

    #[test]
    fn a_floor_is_told_and_read_back() {
        let floor = Floor {
            policy: Some(at(3, 3)),
            approvers: None,
        };
        assert_eq!(Floor::read(&floor.message()), Some(floor));
        let mut short = floor.message();
        short.policy.as_mut().unwrap().manifest_digest.pop();
        assert_eq!(Floor::read(&short), None);
    }
}
