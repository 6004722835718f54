//! Which peer entries a node is told: those of nodes in standing, for studies they share.
//!
//! The collector makes none and can make none. Leaving one out is all it can do.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_attestation::proto::v1::{PeerEntries, PeerEntry};
use bailiwick_attestation::{Sha256Digest, StudyId};

/// Entries of one node, checked, by study.
pub type Entries = BTreeMap<StudyId, PeerEntry>;

/// What node `to` is told, of all entries held. `counts` says whose entries count now.
#[must_use]
pub fn relay(
    held: &BTreeMap<Sha256Digest, Entries>,
    to: &Sha256Digest,
    counts: impl Fn(&Sha256Digest) -> bool,
) -> PeerEntries {
    let shared: BTreeSet<&StudyId> = held.get(to).into_iter().flat_map(BTreeMap::keys).collect();
    let others = held.iter().filter(|(node, _)| *node != to && counts(node));
    let entries = others
        .flat_map(|(_, entries)| entries)
        .filter(|(study, _)| shared.contains(study))
        .map(|(_, entry)| entry.clone())
        .collect();
    PeerEntries { entries }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> Sha256Digest {
        Sha256Digest([n; 32])
    }

    #[test]
    fn a_node_that_lost_standing_is_left_out_of_its_peers_lists() {
        let of = |studies: &[&str], n: u8| -> (Sha256Digest, Entries) {
            let entries = studies.iter().map(|study| {
                let body = format!("{study} at {n}").into_bytes();
                let entry = PeerEntry {
                    body,
                    ..PeerEntry::default()
                };
                (StudyId::new(study).unwrap(), entry)
            });
            (node(n), entries.collect())
        };
        let held: BTreeMap<_, _> = [
            of(&["cardio"], 1),
            of(&["cardio", "neuro"], 2),
            of(&["neuro"], 3),
            of(&["cardio"], 4),
        ]
        .into();
        let told = |to: u8, lost: &[u8]| -> Vec<String> {
            let counts = |node: &Sha256Digest| !lost.contains(&node.0[0]);
            let entries = relay(&held, &node(to), counts).entries;
            let bodies = entries.into_iter().map(|entry| entry.body);
            bodies
                .map(|body| String::from_utf8(body).unwrap())
                .collect()
        };
        for (name, to, lost, want) in [
            (
                "all in standing",
                1,
                &[][..],
                &["cardio at 2", "cardio at 4"][..],
            ),
            ("one lost it", 1, &[2], &["cardio at 4"]),
            ("all others lost it", 1, &[2, 4], &[]),
            (
                "it has none itself",
                1,
                &[1],
                &["cardio at 2", "cardio at 4"],
            ),
            (
                "two studies",
                2,
                &[],
                &["cardio at 1", "neuro at 3", "cardio at 4"],
            ),
            ("a node without entries", 9, &[], &[]),
        ] {
            assert_eq!(told(to, lost), want, "{name}");
        }
    }
}
