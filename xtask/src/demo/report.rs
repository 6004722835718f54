//! What the demo found out. A part that was not measured stays `None`, and nothing is made up.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::flows::Matrix;

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
    /// Studies were cut to what they may have `unattested`, and a reboot while tampered gained
    /// nothing.
    pub(super) quarantined: Option<bool>,
    /// A silent node's lease ran out, and nothing was left but what needs none.
    pub(super) lease_ended: Option<bool>,
    /// The next affirming statement opened the fence again.
    pub(super) lease_returned: Option<bool>,
    pub(super) recovered: Option<bool>,
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
            && self.quarantined == Some(true)
            && self.lease_ended == Some(true)
            && self.lease_returned == Some(true)
            && self.recovered == Some(true)
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
            "quarantined": self.quarantined,
            "lease_ended": self.lease_ended,
            "lease_returned": self.lease_returned,
            "recovered": self.recovered,
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
