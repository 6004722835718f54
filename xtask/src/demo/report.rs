//! What the demo found out. A part that was not measured stays `None`, and nothing is made up.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::flows::Matrix;
use super::gpu::Gpus;
use super::stage::Upgraded;
use super::stream::Met;

/// Why the demo's node is a TPM and two processes and no machine that boots.
pub(super) const NO_MACHINE: &str = "a machine that boots from firmware to fence is minutes of an \
     interpreted processor: `cargo xtask vm-test boot validated` shows one, and what turns its \
     verdict";

#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) enrolled: Option<bool>,
    /// An approver challenged EK and AK, and the result says so.
    pub(super) approved: Option<bool>,
    pub(super) verdict_before: Option<String>,
    pub(super) verdict_after_tamper: Option<String>,
    /// The matrix of an attested node.
    pub(super) flows: Option<Matrix>,
    /// Every other matrix went as it should; `None` until one was measured.
    pub(super) others: Option<bool>,
    pub(super) leaks: Option<u64>,
    /// A stream of datagrams, while the process that holds the fence was killed.
    pub(super) fence_killed: Option<Met>,
    /// The same while another build took over.
    pub(super) fence_upgraded: Option<Upgraded>,
    /// Studies were cut to what they may have `unattested`, and a reboot while tampered gained
    /// nothing.
    pub(super) quarantined: Option<bool>,
    /// A silent node's lease ran out, and nothing was left but what needs none.
    pub(super) lease_ended: Option<bool>,
    /// The next affirming statement opened the fence again.
    pub(super) lease_returned: Option<bool>,
    pub(super) recovered: Option<bool>,
    /// What answers for GPUs, and what it was taken for.
    pub(super) gpu: Option<Gpus>,
    pub(super) alerted: Option<bool>,
    pub(super) resolved: Option<bool>,
    pub(super) statements: Option<u64>,
    pub(super) receipts: Option<u64>,
    pub(super) verified_offline: Option<bool>,
}

impl Report {
    pub(super) fn saw(&mut self, matrix: &Matrix) {
        *self.leaks.get_or_insert(0) += matrix.leaks();
        *self.others.get_or_insert(true) &= matrix.as_expected();
    }

    fn complete(&self) -> bool {
        self.json_of_measured()
            .as_object()
            .is_some_and(|all| all.values().all(|v| !v.is_null()))
    }

    /// Fails unless all was measured, and all is as expected.
    pub(super) fn verdict(&self) -> Result<()> {
        if self.is_good() {
            return Ok(());
        }
        bail!("not everything was as expected")
    }

    fn is_good(&self) -> bool {
        self.complete()
            && self.enrolled == Some(true)
            && self.approved == Some(true)
            && self.verdict_before.as_deref() == Some("affirming")
            && self.verdict_after_tamper.as_deref() != Some("affirming")
            && self.flows.as_ref().is_some_and(Matrix::as_expected)
            && self.others == Some(true)
            && self.leaks == Some(0)
            && self.fence_killed.as_ref().is_some_and(Met::as_expected)
            && self
                .fence_upgraded
                .as_ref()
                .is_some_and(Upgraded::as_expected)
            && self.quarantined == Some(true)
            && self.lease_ended == Some(true)
            && self.lease_returned == Some(true)
            && self.recovered == Some(true)
            && self.gpu.as_ref().is_some_and(Gpus::as_expected)
            && self.alerted == Some(true)
            && self.resolved == Some(true)
            && self.statements.is_some_and(|n| n > 0)
            && self.receipts.is_some_and(|n| n > 0)
            && self.verified_offline == Some(true)
    }

    fn json_of_measured(&self) -> Value {
        json!({
            "enrolled": self.enrolled,
            "approved": self.approved,
            "verdict_before": self.verdict_before,
            "verdict_after_tamper": self.verdict_after_tamper,
            "flows": self.flows.as_ref().map(Matrix::json),
            "leaks": self.leaks,
            "fence_killed": self.fence_killed.as_ref().map(Met::json),
            "fence_upgraded": self.fence_upgraded.as_ref().map(Upgraded::json),
            "quarantined": self.quarantined,
            "lease_ended": self.lease_ended,
            "lease_returned": self.lease_returned,
            "recovered": self.recovered,
            "gpu": self.gpu.as_ref().map(Gpus::json),
            "alerted": self.alerted,
            "resolved": self.resolved,
            "statements": self.statements,
            "receipts": self.receipts,
            "verified_offline": self.verified_offline,
        })
    }

    /// The one object of `--output json`.
    pub(super) fn json(&self) -> Value {
        let mut value = self.json_of_measured();
        if let Some(all) = value.as_object_mut() {
            let boot = json!({ "in_a_machine": false, "why": NO_MACHINE });
            all.insert("boot".to_owned(), boot);
            all.insert("complete".to_owned(), self.complete().into());
        }
        value
    }

    /// The same for people.
    pub(super) fn text(&self) -> String {
        let value = self.json();
        let all = value.as_object().into_iter().flatten();
        let rows = all.map(|(key, value)| match value {
            Value::Array(flows) => format!("{key:<22} {} tried", flows.len()),
            Value::Null => format!("{key:<22} not measured"),
            other => format!("{key:<22} {other}"),
        });
        rows.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::{Met, Side};
    use super::{Gpus, Matrix, Report, Upgraded};

    fn met() -> Met {
        Met {
            may: Side {
                sent: 5,
                arrived: 5,
                ..Side::default()
            },
            must_not: Side {
                refused: 5,
                ..Side::default()
            },
            otherwise: 0,
        }
    }

    fn good() -> Report {
        Report {
            enrolled: Some(true),
            approved: Some(true),
            verdict_before: Some("affirming".to_owned()),
            verdict_after_tamper: Some("contraindicated".to_owned()),
            flows: Some(Matrix::default()),
            others: Some(true),
            leaks: Some(0),
            fence_killed: Some(met()),
            fence_upgraded: Some(Upgraded {
                met: met(),
                links: 7,
                before: "one".to_owned(),
                after: "other".to_owned(),
            }),
            quarantined: Some(true),
            lease_ended: Some(true),
            lease_returned: Some(true),
            recovered: Some(true),
            gpu: Some(Gpus {
                reports: 2,
                shown: Some(false),
                tried: true,
                verdict: "contraindicated".to_owned(),
                why: vec!["gpu.0.hardware: checked and refused".to_owned()],
            }),
            alerted: Some(true),
            resolved: Some(true),
            statements: Some(1),
            receipts: Some(1),
            verified_offline: Some(true),
        }
    }

    #[test]
    fn what_was_not_measured_or_went_wrong_is_no_good_story() {
        type Change = fn(&mut Report);
        let rows: [(&str, Change, bool, bool); 13] = [
            ("as it must be", |_| {}, true, true),
            ("no kill was tried", |r| r.fence_killed = None, false, false),
            (
                "no upgrade was tried",
                |r| r.fence_upgraded = None,
                false,
                false,
            ),
            (
                "one got out while it was dead",
                |r| r.fence_killed.as_mut().unwrap().must_not.arrived = 1,
                true,
                false,
            ),
            (
                "one was refused during the upgrade",
                |r| r.fence_upgraded.as_mut().unwrap().met.may.refused = 1,
                true,
                false,
            ),
            (
                "no link was updated",
                |r| r.fence_upgraded.as_mut().unwrap().links = 0,
                true,
                false,
            ),
            (
                "the PCR says the same programs",
                |r| r.fence_upgraded.as_mut().unwrap().after = "one".to_owned(),
                true,
                false,
            ),
            ("nobody asked a GPU", |r| r.gpu = None, false, false),
            (
                "a double passes for hardware",
                |r| r.gpu.as_mut().unwrap().shown = Some(true),
                true,
                false,
            ),
            (
                "a GPU that nobody tried",
                |r| r.gpu.as_mut().unwrap().tried = false,
                true,
                false,
            ),
            (
                "a double is affirmed",
                |r| r.gpu.as_mut().unwrap().verdict = "affirming".to_owned(),
                true,
                false,
            ),
            ("a leak", |r| r.leaks = Some(1), true, false),
            ("nobody was told", |r| r.alerted = Some(false), true, false),
        ];
        for (name, change, complete, is_good) in rows {
            let mut report = good();
            change(&mut report);
            assert_eq!(report.json()["complete"], complete, "{name}");
            assert_eq!(report.verdict().is_ok(), is_good, "{name}");
        }
    }
}
