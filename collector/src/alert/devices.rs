//! One device, two nodes: whoever controls two hosts can have either GPU answer, and somebody has
//! to look.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_attestation::gpu::PDI_PREFIX;
use bailiwick_attestation::{Sha256Digest, UnixTime};
use serde_json::json;

use super::engine::Subject;
use crate::record::{NewAlert, ShownGpu};

/// A device is claimed by more than one node, or by another than the inventory's.
pub const DEVICE_TWICE: &str = "BailiwickDeviceTwice";

/// How long a GPU counts as shown by a node after the last statement that cited a report of it.
/// Reports are made hourly: two hosts that take turns with one GPU are seen. One that was moved
/// from node to node is at both for so long, and somebody has looked by then.
const SHOWN_MS: u64 = 2 * 3_600_000;

/// From when on what nodes showed counts at `now`.
#[must_use]
pub fn since(now: UnixTime) -> UnixTime {
    UnixTime(now.millis().saturating_sub(SHOWN_MS))
}

/// One alert per GPU whose certified identifier more than one node showed, and one per set of
/// nodes that claim the same devices in words. `owner` is the inventory's word for a device;
/// `retired` nodes claim nothing any more.
#[must_use]
pub fn wanted<'a>(
    subjects: &'a [Subject],
    shown: &'a [ShownGpu],
    owner: impl Fn(&str) -> Option<&'a str>,
    retired: impl Fn(&Subject) -> bool,
) -> Vec<NewAlert> {
    let subjects: Vec<&Subject> = subjects.iter().filter(|one| !retired(one)).collect();
    let by_ek: BTreeMap<Sha256Digest, &Subject> =
        subjects.iter().map(|one| (one.row.ek, *one)).collect();
    let told = subjects.iter().flat_map(|subject| {
        let devices = subject.row.devices.iter();
        devices.map(|device| (device.as_str(), subject.name.as_str()))
    });
    let seen = shown.iter().filter_map(|gpu| {
        let subject = by_ek.get(&gpu.ek)?;
        Some((gpu.device.as_str(), subject.name.as_str()))
    });
    let mut claimed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (device, node) in told.chain(seen) {
        let nodes = claimed.entry(device).or_default();
        nodes.insert(node);
        nodes.extend(owner(device));
    }
    let deployment = subjects.iter().find_map(|one| one.deployment.as_deref());
    let mut in_words: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
    let mut alerts = Vec::new();
    for (device, nodes) in claimed.into_iter().filter(|(_, nodes)| nodes.len() > 1) {
        let nodes: Vec<&str> = nodes.into_iter().collect();
        match device.starts_with(PDI_PREFIX) {
            true => alerts.push(alert(&[device], &nodes, Some(device), deployment)),
            false => in_words.entry(nodes).or_default().push(device),
        }
    }
    let others = in_words.into_iter();
    alerts.extend(others.map(|(nodes, devices)| alert(&devices, &nodes, None, deployment)));
    alerts
}

/// `about`: the one device it is about, which tells it apart from others between the same nodes.
fn alert(
    devices: &[&str],
    nodes: &[&str],
    about: Option<&str>,
    deployment: Option<&str>,
) -> NewAlert {
    let node = nodes.join(",");
    let mut labels = json!({
        "alertname": DEVICE_TWICE,
        "severity": "critical",
        "node": node,
    });
    if let Some(device) = about {
        labels["device"] = device.into();
    }
    if let Some(deployment) = deployment {
        labels["cluster"] = deployment.into();
    }
    let summary: String = format!("{} is at {}", devices.join(", "), nodes.join(" and "));
    NewAlert {
        name: DEVICE_TWICE.to_owned(),
        node: about.map_or(node, str::to_owned),
        labels: labels.to_string(),
        severity: "critical".to_owned(),
        summary: summary.chars().take(1000).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::engine::subject_for_tests;

    const A: &str = "PDI-48b02d0000000001";
    const B: &str = "PDI-48b02d0000000002";

    fn node(name: &str, devices: &[&str]) -> Subject {
        let mut subject = subject_for_tests();
        subject.name = name.to_owned();
        subject.row.ek = Sha256Digest::of(&[name.as_bytes()]);
        subject.row.devices = devices.iter().map(|id| (*id).to_owned()).collect();
        subject
    }

    fn shown(name: &str, device: &str) -> ShownGpu {
        ShownGpu {
            device: device.to_owned(),
            ek: Sha256Digest::of(&[name.as_bytes()]),
            first: UnixTime(1),
            last: UnixTime(2),
        }
    }

    #[test]
    fn a_device_at_two_nodes_alerts() {
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
            let got = wanted(&subjects, &[], owner, |subject| subject.name == "gone");
            let got: Vec<(&str, &str)> = got
                .iter()
                .map(|alert| (alert.node.as_str(), alert.summary.as_str()))
                .collect();
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn each_certified_gpu_at_two_nodes_is_an_alert_of_its_own() {
        let nodes = || vec![node("gpu-01", &[]), node("gpu-02", &[]), node("gone", &[])];
        type Row<'a> = (
            &'a str,
            Vec<Subject>,
            Vec<ShownGpu>,
            &'a [(&'a str, &'a str)],
        );
        let rows: Vec<Row<'_>> = vec![
            (
                "shown by two, one after the other",
                nodes(),
                vec![shown("gpu-01", A), shown("gpu-02", A)],
                &[(A, "gpu-01,gpu-02")],
            ),
            (
                "two of them",
                nodes(),
                vec![
                    shown("gpu-01", A),
                    shown("gpu-01", B),
                    shown("gpu-02", A),
                    shown("gpu-02", B),
                ],
                &[(A, "gpu-01,gpu-02"), (B, "gpu-01,gpu-02")],
            ),
            (
                "shown by one, and named in words by another",
                vec![node("gpu-01", &[]), node("gpu-02", &[A])],
                vec![shown("gpu-01", A)],
                &[(A, "gpu-01,gpu-02")],
            ),
            (
                "the inventory's at another",
                vec![node("gpu-01", &[B])],
                vec![],
                &[(B, "gpu-01,gpu-09")],
            ),
            (
                "by one that was retired",
                nodes(),
                vec![shown("gpu-01", A), shown("gone", A)],
                &[],
            ),
            (
                "by a TPM that is no more",
                nodes(),
                vec![shown("gpu-01", A), shown("nobody", A)],
                &[],
            ),
        ];
        for (name, subjects, shown, want) in rows {
            let owner = |device: &str| (device == B).then_some("gpu-09");
            let owner = |device: &str| owner(device).filter(|_| shown.is_empty());
            let got = wanted(&subjects, &shown, owner, |subject| subject.name == "gone");
            let labels: Vec<serde_json::Value> = got
                .iter()
                .map(|alert| serde_json::from_str(&alert.labels).unwrap())
                .collect();
            let told: Vec<(&str, &str)> = labels
                .iter()
                .map(|label| {
                    let text = |key: &str| label[key].as_str().unwrap();
                    (text("device"), text("node"))
                })
                .collect();
            assert_eq!(told, want, "{name}");
            // Open alerts of one name are told apart by what they are about.
            assert!(
                got.iter()
                    .zip(want)
                    .all(|(alert, want)| alert.node == want.0)
            );
        }
    }
}
