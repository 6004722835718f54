//! What happened on this node, on its way into the log.

use bailiwick_attestation::proto::v1::{
    BreakGlassUsed, LeaseTurned, PolicyApplied, log_entry::What,
};

use crate::attest::Facts;

/// Events asked of the fence at once.
pub(super) const BATCH: u32 = 512;

/// What of the fence's state is written down when it turns.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Turned {
    policy: Option<(u64, Vec<u8>)>,
    lease: bool,
    break_glass: Option<Vec<u8>>,
}

impl Turned {
    /// Compares with what was written down last, and answers with what is new since. `now` is
    /// `CLOCK_BOOTTIME`, for a lease that ran out ended without anybody saying so.
    pub(super) fn note(&mut self, facts: &Facts, now: u64) -> Vec<What> {
        let mut out = Vec::new();
        let policy = facts.policy.as_ref();
        let policy = policy.map(|p| (p.version, p.manifest_digest.clone()));
        if policy != self.policy {
            if let Some((version, manifest_digest)) = policy.clone() {
                out.push(What::Policy(PolicyApplied {
                    kind: "policy".to_owned(),
                    version,
                    manifest_digest,
                }));
            }
            self.policy = policy;
        }
        let end_boot_ns = facts.fence.lease_end_boot_ns;
        let lease = end_boot_ns > now;
        if lease != self.lease {
            out.push(What::Lease(LeaseTurned {
                stands: lease,
                end_boot_ns,
            }));
            self.lease = lease;
        }
        let used = facts.fence.break_glass.as_ref();
        let used = used.filter(|used| used.end_boot_ns > now);
        let manifest = used.map(|used| used.manifest_digest.clone());
        if manifest != self.break_glass {
            let over = self.break_glass.take().filter(|_| manifest.is_none());
            let of = over
                .map(|manifest| (manifest, 0))
                .or_else(|| used.map(|used| (used.manifest_digest.clone(), used.end_boot_ns)));
            out.extend(of.map(|(manifest_digest, end_boot_ns)| {
                What::BreakGlass(BreakGlassUsed {
                    manifest_digest,
                    end_boot_ns,
                })
            }));
            self.break_glass = manifest;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::proto::v1::{PolicyState, fence_state::BreakGlass};

    use super::*;

    #[test]
    fn what_turns_is_written_down_once() {
        let mut turned = Turned::default();
        let mut facts = Facts::default();
        let kinds = |all: Vec<What>| -> Vec<String> {
            all.iter()
                .map(|what| match what {
                    What::Policy(policy) => format!("policy {}", policy.version),
                    What::Lease(lease) => format!("lease {}", lease.stands),
                    What::BreakGlass(used) => format!("break-glass {}", used.end_boot_ns),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        assert!(turned.note(&facts, 100).is_empty(), "nothing yet");
        facts.policy = Some(PolicyState {
            version: 3,
            manifest_digest: vec![1; 32],
            ..PolicyState::default()
        });
        facts.fence.lease_end_boot_ns = 500;
        assert_eq!(kinds(turned.note(&facts, 100)), ["policy 3", "lease true"]);
        facts.fence.lease_end_boot_ns = 900;
        assert!(turned.note(&facts, 200).is_empty(), "renewed");
        facts.fence.break_glass = Some(BreakGlass {
            manifest_digest: vec![5; 32],
            end_boot_ns: 800,
        });
        assert_eq!(kinds(turned.note(&facts, 300)), ["break-glass 800"]);
        assert_eq!(kinds(turned.note(&facts, 899)), ["break-glass 0"]);
        assert_eq!(kinds(turned.note(&facts, 900)), ["lease false"], "ran out");
        facts.fence.break_glass = None;
        facts.policy = None;
        assert!(turned.note(&facts, 901).is_empty());
    }
}
