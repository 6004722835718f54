//! The collector's own clock, where it is behind the latest time the collector remembers.

use serde_json::json;

use crate::record::NewAlert;

/// The collector's own clock went back.
pub const CLOCK_BACK: &str = "BailiwickCollectorClockBack";

/// Receipt times are the collector's word: while its clock is behind, new ones are earlier than
/// some that are on record.
#[must_use]
pub fn wanted(behind_ms: Option<u64>, deployment: Option<&str>) -> Option<NewAlert> {
    let behind_ms = behind_ms?;
    Some(NewAlert {
        name: CLOCK_BACK.to_owned(),
        node: String::new(),
        labels: json!({
            "alertname": CLOCK_BACK,
            "deployment": deployment.unwrap_or_default(),
            "severity": "critical",
        })
        .to_string(),
        severity: "critical".to_owned(),
        // Whole minutes: every look at the clock would be another summary.
        summary: format!(
            "the collector's clock is {} min or more behind the latest time it remembers: times in \
             receipts and verdicts overlap",
            behind_ms / 60_000
        ),
    })
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::UnixTime;

    use super::*;
    use crate::alert::engine::changes;
    use crate::record::{AlertChange, AlertRow};

    #[test]
    fn a_clock_that_went_back_alerts_until_it_has_caught_up() {
        let now = UnixTime(1);
        assert_eq!(wanted(None, Some("demo")), None);
        let alert = wanted(Some(3_600_001), Some("demo")).unwrap();
        assert!(alert.summary.contains("is 60 min"), "{}", alert.summary);
        assert!(alert.labels.contains("\"deployment\":\"demo\""));
        let raised = changes(vec![alert.clone()], &[], now);
        assert_eq!(raised, [AlertChange::Raise(alert.clone(), now)]);
        let open = [AlertRow {
            id: 7,
            alert: alert.clone(),
            since: now,
            resolved: None,
            notified: None,
        }];
        let later = UnixTime(2);
        assert!(changes(vec![alert], &open, later).is_empty(), "told once");
        let over = changes(Vec::new(), &open, later);
        assert_eq!(over, [AlertChange::Resolve(7, later)]);
    }
}
