//! Which alerts should fire, and what has to change for them to.

use bailiwick_attestation::UnixTime;
use serde_json::json;

use crate::config;
use crate::record::{AlertChange, AlertRow, NewAlert, NodeRow, Verdict};

/// A node's evidence was checked and refused, or could not be checked.
pub const NOT_TRUSTED: &str = "BailiwickNodeNotTrusted";
/// A node has been silent for too long.
pub const STALE: &str = "BailiwickNodeStale";
/// A node's fence is not what it should be.
pub const FENCE_BROKEN: &str = "BailiwickFenceBroken";
/// Statements or events of a node are missing.
pub const SPOOL_GAP: &str = "BailiwickSpoolGap";

/// A node as the rules look at it.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Inventory name, or `ek-…`.
    pub name: String,
    /// The signed inventory lists it.
    pub enrolled: bool,
    /// Where the inventory says it stands.
    pub jurisdiction: Option<String>,
    /// The installation.
    pub deployment: Option<String>,
    /// What is known of it.
    pub row: NodeRow,
}

/// The rules' numbers.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a fence may wait for its policy, ms.
    pub fence_grace_ms: u64,
    /// How long a gap stays an alert, ms.
    pub gap_hold_ms: u64,
}

impl Rules {
    /// From the configuration.
    #[must_use]
    pub const fn new(config: &config::Alert) -> Self {
        Self {
            fence_grace_ms: config.fence_grace_seconds.saturating_mul(1000),
            gap_hold_ms: config.gap_hold_seconds.saturating_mul(1000),
        }
    }
}

/// Why a node counts as silent, if it does.
///
/// Time before `started` does not count: while the collector was away, no node could speak.
#[must_use]
pub fn silence(row: &NodeRow, limit_ms: u64, started: UnixTime, now: UnixTime) -> Option<String> {
    let heard = row.last_seen.unwrap_or(row.since).max(started);
    let silent = now.since(heard);
    (silent > limit_ms).then(|| {
        format!(
            "no statement for {} s, the profile allows {} s",
            silent / 1000,
            limit_ms / 1000
        )
    })
}

/// What should be firing. A node that is not enrolled has no standing to lose and alerts nobody.
#[must_use]
pub fn wanted(subjects: &[Subject], rules: &Rules, now: UnixTime) -> Vec<NewAlert> {
    subjects
        .iter()
        .filter(|subject| subject.enrolled)
        .flat_map(|subject| {
            [
                not_trusted(subject),
                stale(subject),
                fence_broken(subject, rules, now),
                spool_gap(subject, rules, now),
            ]
        })
        .flatten()
        .collect()
}

fn not_trusted(subject: &Subject) -> Option<NewAlert> {
    let severity = match subject.row.verdict {
        Verdict::Contraindicated => "critical",
        Verdict::Warning => "warning",
        Verdict::None | Verdict::Affirming | Verdict::Stale => return None,
    };
    let summary = format!("{} is not trusted: {}", subject.name, subject.row.reason);
    Some(alert(subject, NOT_TRUSTED, severity, summary))
}

fn stale(subject: &Subject) -> Option<NewAlert> {
    let silent = subject.row.verdict == Verdict::Stale;
    silent.then(|| {
        let summary = format!("{} is silent: {}", subject.name, subject.row.reason);
        alert(subject, STALE, "critical", summary)
    })
}

/// Denying everything for want of a policy is safe, and for a while ordinary.
fn fence_broken(subject: &Subject, rules: &Rules, now: UnixTime) -> Option<NewAlert> {
    let fence = &subject.row.fence;
    let broken = match fence.state.as_str() {
        "enforcing" => false,
        "default-deny" => now.since(subject.row.fence_since) > rules.fence_grace_ms,
        _ => subject.row.newest.is_some(),
    };
    broken.then(|| {
        let summary = format!(
            "fence of {}: {} {}",
            subject.name, fence.state, fence.reason
        );
        alert(
            subject,
            FENCE_BROKEN,
            "critical",
            summary.trim_end().to_owned(),
        )
    })
}

fn spool_gap(subject: &Subject, rules: &Rules, now: UnixTime) -> Option<NewAlert> {
    let (at, what) = subject.row.gap.as_ref()?;
    (now.since(*at) <= rules.gap_hold_ms).then(|| {
        let summary = format!("{} lost part of its record: {what}", subject.name);
        alert(subject, SPOOL_GAP, "warning", summary)
    })
}

/// Labels are few and stable: they are what receivers group and deduplicate by.
fn alert(subject: &Subject, name: &str, severity: &str, summary: String) -> NewAlert {
    let mut labels = json!({
        "alertname": name,
        "severity": severity,
        "node": subject.name,
    });
    if let Some(jurisdiction) = &subject.jurisdiction {
        labels["jurisdiction"] = jurisdiction.as_str().into();
    }
    if let Some(deployment) = &subject.deployment {
        labels["cluster"] = deployment.as_str().into();
    }
    NewAlert {
        name: name.to_owned(),
        node: subject.name.clone(),
        labels: labels.to_string(),
        severity: severity.to_owned(),
        summary,
    }
}

/// What turns the alerts that are into the ones wanted. Ends come before beginnings, so that an
/// alert whose severity changed is over under its old labels before it fires under the new.
#[must_use]
pub fn changes(wanted: Vec<NewAlert>, open: &[AlertRow], now: UnixTime) -> Vec<AlertChange> {
    let (mut ends, mut begins) = (Vec::new(), Vec::new());
    let firing: Vec<&AlertRow> = open.iter().filter(|row| row.resolved.is_none()).collect();
    for row in &firing {
        if !wanted.iter().any(|alert| alert.labels == row.alert.labels) {
            ends.push(AlertChange::Resolve(row.id, now));
        }
    }
    for alert in wanted {
        match firing.iter().find(|row| row.alert.labels == alert.labels) {
            None => begins.push(AlertChange::Raise(alert, now)),
            Some(row) if row.alert != alert => begins.push(AlertChange::Update(row.id, alert)),
            Some(_) => {}
        }
    }
    ends.append(&mut begins);
    ends
}

/// Whether receivers must hear of it now: never told, told long ago, or over and not told so.
#[must_use]
pub fn due(row: &AlertRow, resend_ms: u64, now: UnixTime) -> bool {
    match row.notified {
        None => true,
        Some(at) => now.since(at) >= resend_ms,
    }
}
