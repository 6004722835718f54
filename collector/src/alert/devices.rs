//! One device, two nodes: whoever controls two hosts can have either GPU answer, and somebody has
//! to look.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::engine::Subject;
use crate::record::NewAlert;

/// A device is claimed by more than one node, or by another than the inventory's.
pub const DEVICE_TWICE: &str = "BailiwickDeviceTwice";

/// One alert per set of nodes that claim the same devices. `owner` is the inventory's word for a
/// device; `retired` nodes claim nothing any more.
#[must_use]
pub fn wanted<'a>(
    subjects: &[Subject],
    owner: impl Fn(&str) -> Option<&'a str>,
    retired: impl Fn(&Subject) -> bool,
) -> Vec<NewAlert> {
    let mut claimed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for subject in subjects.iter().filter(|subject| !retired(subject)) {
        for device in &subject.row.devices {
            let nodes = claimed.entry(device).or_default();
            nodes.insert(&subject.name);
            nodes.extend(owner(device));
        }
    }
    let mut clashes: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
    for (device, nodes) in claimed {
        if nodes.len() > 1 {
            let nodes = nodes.into_iter().collect();
            clashes.entry(nodes).or_default().push(device);
        }
    }
    let deployment = subjects.iter().find_map(|s| s.deployment.as_deref());
    clashes
        .into_iter()
        .map(|(nodes, devices)| {
            let node = nodes.join(",");
            let mut labels = json!({
                "alertname": DEVICE_TWICE,
                "severity": "critical",
                "node": node,
            });
            if let Some(deployment) = deployment {
                labels["cluster"] = deployment.into();
            }
            let summary: String = format!("{} is at {}", devices.join(", "), nodes.join(" and "));
            NewAlert {
                name: DEVICE_TWICE.to_owned(),
                node,
                labels: labels.to_string(),
                severity: "critical".to_owned(),
                summary: summary.chars().take(1000).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::engine::subject_for_tests;

    #[test]
    fn a_device_at_two_nodes_alerts() {
        let node = |name: &str, devices: &[&str]| {
            let mut subject = subject_for_tests();
            subject.name = name.to_owned();
            subject.row.devices = devices.iter().map(|id| (*id).to_owned()).collect();
            subject
        };
        type Row<'a> = (&'a str, Vec<Subject>, &'a [(&'a str, &'a str)]);
        let cases: Vec<Row<'_>> = vec![
            (
                "each its own",
                vec![node("gpu-01", &["GPU-a"]), node("gpu-02", &["GPU-b"])],
                &[],
            ),
            (
                "claimed by two",
                vec![node("gpu-01", &["GPU-c"]), node("gpu-02", &["GPU-c"])],
                &[("gpu-01,gpu-02", "GPU-c is at gpu-01 and gpu-02")],
            ),
            (
                "two devices at the same two are one alert",
                vec![
                    node("gpu-01", &["GPU-c", "GPU-d"]),
                    node("gpu-02", &["GPU-d", "GPU-c"]),
                ],
                &[("gpu-01,gpu-02", "GPU-c, GPU-d is at gpu-01 and gpu-02")],
            ),
            (
                "listed at one, claimed by another",
                vec![node("gpu-02", &["GPU-a"])],
                &[("gpu-01,gpu-02", "GPU-a is at gpu-01 and gpu-02")],
            ),
            (
                "one of them is retired",
                vec![node("gone", &["GPU-c"]), node("gpu-02", &["GPU-c"])],
                &[],
            ),
        ];
        for (name, subjects, want) in cases {
            let owner = |device: &str| (device == "GPU-a").then_some("gpu-01");
            let got = wanted(&subjects, owner, |subject| subject.name == "gone");
            let got: Vec<(&str, &str)> = got
                .iter()
                .map(|alert| (alert.node.as_str(), alert.summary.as_str()))
                .collect();
            assert_eq!(got, want, "{name}");
        }
    }
}
