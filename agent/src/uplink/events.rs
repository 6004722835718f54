//! What happened on this node, on its way into the log.

use bailiwick_attestation::{
    UnixTime,
    proto::v1::{BreakGlassUsed, Denial, FenceEvent, LeaseTurned, PolicyApplied, log_entry::What},
};

use crate::{attest::Facts, log::New};

/// Events asked of the fence at once.
pub(super) const BATCH: u32 = 512;

/// A denial as it stands in the log: nothing in it says who or where to.
pub(super) fn denial(event: &FenceEvent) -> New {
    New {
        what: What::Denial(Denial {
            study: event.study.clone(),
            direction: event.direction.clone(),
            protocol: event.protocol,
            jurisdiction: event.jurisdiction.clone(),
            rule: event.rule.clone(),
            verdict: event.verdict.clone(),
            hook: event.hook.clone(),
            count: event.count,
            sealing: None,
        }),
        sealed: Vec::new(),
        wall_time: UnixTime(event.wall_time_ms),
        boot_time_ns: event.boot_time_ns,
    }
}

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
    use bailiwick_attestation::{
        events::Entry,
        proto::v1::{PolicyState, fence_state::BreakGlass},
    };

    use super::*;

    #[test]
    fn nothing_personal_stands_in_the_log() {
        let event = FenceEvent {
            boot_time_ns: 7,
            wall_time_ms: 8,
            study: "cardio".to_owned(),
            cgroup_id: 0x1122_3344_5566,
            cgroup: "/studies/cardio/user-jane".to_owned(),
            direction: "egress".to_owned(),
            source: vec![10, 9, 1, 7],
            destination: vec![203, 0, 113, 9],
            protocol: 6,
            source_port: 54321,
            destination_port: 44443,
            jurisdiction: "US".to_owned(),
            rule: "jurisdiction".to_owned(),
            verdict: "deny".to_owned(),
            hook: "cgroup_skb/egress".to_owned(),
            count: 3,
        };
        let new = denial(&event);
        let bytes = Entry::compose((0, 1), new.wall_time, new.boot_time_ns, new.what.clone());
        let read = Entry::parse(&bytes).unwrap();
        assert_eq!((read.wall_time, read.boot_time_ns), (UnixTime(8), 7));
        let What::Denial(public) = read.what else {
            panic!("{:?}", read.what);
        };
        assert_eq!((public.study.as_str(), public.count), ("cardio", 3));
        let other = FenceEvent {
            cgroup_id: 1,
            cgroup: "/studies/cardio/user-john".to_owned(),
            source: vec![10, 9, 1, 8],
            destination: vec![203, 0, 113, 10],
            source_port: 1,
            destination_port: 2,
            ..event
        };
        assert_eq!(
            denial(&other).what,
            new.what,
            "who and where change nothing"
        );
    }

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
