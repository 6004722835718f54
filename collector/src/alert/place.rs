//! A node that is not where somebody said it is, as far as what is beside it tells; a geotag that
//! ends.

use std::collections::BTreeMap;

use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_policy::model::Node;

use super::engine::{Rules, Subject, alert};
use crate::place::{Condition, Place, conditions};
use crate::record::NewAlert;

/// What is beside a node is not what was beside it.
pub const PLACE_CHANGED: &str = "BailiwickPlaceChanged";
/// A geotag ends, has ended, or is shown no more.
pub const GEOTAG_ENDING: &str = "BailiwickGeotagEnding";

/// What there is to look at of a node's place, by what approvers signed of it.
#[must_use]
pub fn of_node(place: &Place, listed: &Node, now: UnixTime) -> Vec<Condition> {
    let own = |address: &std::net::IpAddr| listed.addresses.iter().any(|net| net.contains(address));
    conditions(place, own, listed.geotags_since, now)
}

/// What should be firing.
#[must_use]
pub fn wanted<'a>(
    subjects: &[Subject],
    places: &BTreeMap<Sha256Digest, Place>,
    listed: impl Fn(&Sha256Digest) -> Option<&'a Node>,
    rules: &Rules,
    now: UnixTime,
) -> Vec<NewAlert> {
    let mut alerts = Vec::new();
    for subject in subjects.iter().filter(|subject| subject.enrolled) {
        let ek = &subject.row.ek;
        let (Some(place), Some(node)) = (places.get(ek), listed(ek)) else {
            continue;
        };
        // One alert of a name, of what is worst: labels tell alerts apart.
        let mut told: BTreeMap<&str, (&str, Vec<String>)> = BTreeMap::new();
        for condition in of_node(place, node, now) {
            let (name, severity) = match condition.code {
                "place-changed" => (PLACE_CHANGED, "critical"),
                "place-missing" if now.since(condition.since) <= rules.grace_ms => continue,
                "place-missing" => (PLACE_CHANGED, "warning"),
                "geotag-ending" => (GEOTAG_ENDING, "warning"),
                _ => (GEOTAG_ENDING, "critical"),
            };
            let (worst, what) = told.entry(name).or_insert((severity, Vec::new()));
            if severity == "critical" {
                *worst = severity;
            }
            what.push(condition.what);
        }
        alerts.extend(told.into_iter().map(|(name, (severity, what))| {
            let summary = format!("{}: {}", subject.name, what.join("; "));
            let summary = summary.chars().take(1000).collect();
            alert(subject, name, severity, summary)
        }));
    }
    alerts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::engine::subject_for_tests;
    use crate::place::{Surroundings, Tag};
    use bailiwick_attestation::{JurisdictionCode, NodeId};

    const RULES: Rules = Rules {
        grace_ms: 1000,
        gap_hold_ms: 0,
    };
    const NOW: UnixTime = UnixTime(1_000_000);

    fn around(neighbours: &[&str], addresses: &[&str]) -> Surroundings {
        let each = neighbours.iter().map(|one| (*one).to_owned()).collect();
        Surroundings {
            neighbours: [("eth0".to_owned(), each)].into(),
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
        }
    }

    fn place(shown: Surroundings, until: u64, differs: u64) -> Place {
        Place {
            tag: Tag {
                digest: Sha256Digest([1; 32]),
                at: UnixTime(0),
                until: UnixTime(until),
            },
            begun: UnixTime(0),
            fault: String::new(),
            expected: around(&["leaf-1 e1"], &["10.0.0.5"]),
            shown,
            differs: Some(UnixTime(differs)),
        }
    }

    fn node() -> Node {
        Node {
            name: NodeId::new("gpu-01").unwrap(),
            ek: Sha256Digest([1; 32]),
            ak: None,
            chassis_serial: None,
            devices: Vec::new(),
            place: None,
            jurisdiction: JurisdictionCode::new("DE").unwrap(),
            addresses: vec!["192.0.2.0/24".parse().unwrap()],
            epoch: 0,
            tpm: None,
            guest: None,
            geotags_since: None,
            replaces: None,
            confirmed: None,
        }
    }

    #[test]
    fn a_machine_that_was_carried_away_alerts() {
        const LATER: u64 = 100_000_000;
        let good = || around(&["leaf-1 e1"], &["10.0.0.5"]);
        let moved = || around(&["leaf-9 e1"], &["10.0.0.5"]);
        let gone = Place {
            fault: "geotag-absent".to_owned(),
            ..place(good(), 1_100_000, 0)
        };
        type Row<'a> = (&'a str, Place, &'a [(&'a str, &'a str)]);
        let rows: Vec<Row<'_>> = vec![
            ("as it was", place(good(), LATER, 0), &[]),
            (
                "another switch, at once",
                place(moved(), LATER, 1_000_000),
                &[(PLACE_CHANGED, "critical")],
            ),
            (
                "a silent one, at first",
                place(around(&[], &[]), LATER, 999_000),
                &[],
            ),
            (
                "a silent one",
                place(around(&[], &[]), LATER, 998_999),
                &[(PLACE_CHANGED, "warning")],
            ),
            (
                "another address",
                place(around(&["leaf-1 e1"], &["198.51.100.1"]), LATER, 0),
                &[(PLACE_CHANGED, "critical")],
            ),
            (
                "an address of the inventory's",
                place(around(&["leaf-1 e1"], &["192.0.2.7"]), LATER, 0),
                &[],
            ),
            (
                "it ends",
                place(good(), 1_100_000, 0),
                &[(GEOTAG_ENDING, "warning")],
            ),
            (
                "it has ended",
                place(good(), 999_999, 0),
                &[(GEOTAG_ENDING, "critical")],
            ),
            ("it ends, and is gone", gone, &[(GEOTAG_ENDING, "critical")]),
            (
                "all at once",
                place(moved(), 999_999, 0),
                &[(GEOTAG_ENDING, "critical"), (PLACE_CHANGED, "critical")],
            ),
        ];
        let (subject, node) = (subject_for_tests(), node());
        for (name, place, want) in rows {
            let places = BTreeMap::from([(subject.row.ek, place)]);
            let subjects = [subject.clone()];
            let alerts = wanted(&subjects, &places, |_| Some(&node), &RULES, NOW);
            let got: Vec<(&str, &str)> = alerts
                .iter()
                .map(|alert| (alert.name.as_str(), alert.severity.as_str()))
                .collect();
            assert_eq!(got, want, "{name}");
            assert!(alerts.iter().all(|alert| alert.node == "gpu-01"));
            let nobody = wanted(&subjects, &places, |_| None, &RULES, NOW);
            assert_eq!(nobody, [], "{name}: nobody listed it");
        }
    }
}
