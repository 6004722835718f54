//! Which alerts should fire, and what has to change for them to.

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::profile::WorldProfile;
use serde_json::json;

use crate::config;
use crate::record::{AlertChange, AlertRow, NewAlert, NodeRow, Verdict};
use crate::standing::{Brakes, Phase};

/// A node's evidence was checked and refused, or could not be checked.
pub const NOT_TRUSTED: &str = "BailiwickNodeNotTrusted";
/// A node has been silent for too long.
pub const STALE: &str = "BailiwickNodeStale";
/// A node's fence is not what it should be.
pub const FENCE_BROKEN: &str = "BailiwickFenceBroken";
/// Statements or events of a node are missing.
pub const SPOOL_GAP: &str = "BailiwickSpoolGap";
/// A node's own log is not what it was.
pub const LOG_REWRITTEN: &str = "BailiwickLogRewritten";
/// A guest that another has followed came back: two run under one name.
pub const GUEST_TWICE: &str = "BailiwickGuestTwice";

/// Too many nodes lost standing for one cause: it is held until a person lets go of it.
pub const BRAKE: &str = "BailiwickBrake";
/// A node judges studies as if a lease stood, because a person broke the glass.
pub const BREAK_GLASS: &str = "BailiwickBreakGlass";
/// The policy in force lists no lease key that this collector holds.
pub const KEY_NOT_LISTED: &str = "BailiwickLeaseKeyNotListed";
/// The world map in force is older than the policy allows.
pub const WORLD_OLD: &str = "BailiwickWorldMapOld";

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
    /// The brake holds the cause for which it lost standing: that alert stands for this node's.
    pub held: bool,
    /// What is known of it.
    pub row: NodeRow,
}

/// The rules' numbers.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a node may take to settle, for example with a new policy, ms.
    pub grace_ms: u64,
    /// How long a gap stays an alert, ms.
    pub gap_hold_ms: u64,
}

impl Rules {
    /// From the configuration.
    #[must_use]
    pub const fn new(config: &config::Alert) -> Self {
        Self {
            grace_ms: config.grace_seconds.saturating_mul(1000),
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
                not_trusted(subject, rules, now),
                stale(subject),
                fence_broken(subject, rules, now),
                spool_gap(subject, rules, now),
                log_rewritten(subject, rules, now),
                guest_twice(subject, rules, now),
                break_glass(subject, now),
            ]
        })
        .flatten()
        .collect()
}

/// Every node loses its lease within minutes, or gets no receipt, or no way in, and none of them did
/// anything. `missing`: kinds of key of which approvers list none that is held here.
#[must_use]
pub fn key_not_listed(missing: &[&str], version: u64, deployment: &str) -> Option<NewAlert> {
    (!missing.is_empty()).then(|| NewAlert {
        name: KEY_NOT_LISTED.to_owned(),
        node: String::new(),
        labels: json!({
            "alertname": KEY_NOT_LISTED,
            "deployment": deployment,
            "severity": "critical",
        })
        .to_string(),
        severity: "critical".to_owned(),
        summary: format!(
            "policy {version} lists no {} of this collector that counts: nodes believe none",
            missing.join(", no ")
        ),
    })
}

/// Addresses change hands: fences go on by what the map says, and a person has to bring a new one.
#[must_use]
pub fn world_old(
    profile: &WorldProfile,
    built_secs: u64,
    deployment: &str,
    now: UnixTime,
) -> Option<NewAlert> {
    profile.overdue(built_secs, now).map(|days| NewAlert {
        name: WORLD_OLD.to_owned(),
        node: String::new(),
        labels: json!({
            "alertname": WORLD_OLD,
            "cluster": deployment,
            "severity": "warning",
        })
        .to_string(),
        severity: "warning".to_owned(),
        summary: format!(
            "the world map in force is {days} days old, and the policy allows {}",
            profile.max_age_days.unwrap_or_default()
        ),
    })
}

/// Judged by what appraisal last said, so that a node that was refused and fell silent stays so.
/// *Refused* wakes somebody at once; what could not be checked, or is only to be looked at, may
/// pass by itself, as while a node takes a new policy.
fn not_trusted(subject: &Subject, rules: &Rules, now: UnixTime) -> Option<NewAlert> {
    let (verdict, reason, since) = &subject.row.appraised;
    if subject.held && *verdict == Verdict::Contraindicated {
        return None;
    }
    let lasting = now.since(*since) > rules.grace_ms;
    let severity = match verdict {
        Verdict::Contraindicated => "critical",
        Verdict::Warning | Verdict::None if lasting && subject.row.newest.is_some() => "warning",
        _ => return None,
    };
    let summary = format!("{} is not trusted: {reason}", subject.name);
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
        "default-deny" => now.since(subject.row.fence_since) > rules.grace_ms,
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

/// No accident does that: somebody changed what had been told already.
fn log_rewritten(subject: &Subject, rules: &Rules, now: UnixTime) -> Option<NewAlert> {
    let (at, what) = subject.row.log_fault.as_ref()?;
    (now.since(*at) <= rules.gap_hold_ms).then(|| {
        let summary = format!("the log of {} was changed: {what}", subject.name);
        alert(subject, LOG_REWRITTEN, "critical", summary)
    })
}

/// A launch has one running guest at a time, and what was followed is gone: somebody runs it still, or
/// began it twice.
fn guest_twice(subject: &Subject, rules: &Rules, now: UnixTime) -> Option<NewAlert> {
    let (at, which) = subject.row.twice.as_ref()?;
    (now.since(*at) <= rules.gap_hold_ms).then(|| {
        let summary = format!("{} runs twice: {which} and is let in no more", subject.name);
        alert(subject, GUEST_TWICE, "critical", summary)
    })
}

fn break_glass(subject: &Subject, now: UnixTime) -> Option<NewAlert> {
    let (manifest, until) = subject.row.fence.break_glass.as_ref()?;
    (now < *until).then(|| {
        let summary = format!(
            "break-glass {manifest} is in force on {}: studies are judged as if a lease stood",
            subject.name
        );
        alert(subject, BREAK_GLASS, "critical", summary)
    })
}

/// One alert per held cause, in place of one per node.
#[must_use]
pub fn brakes(brakes: &Brakes, deployment: Option<&str>) -> Vec<NewAlert> {
    let causes = brakes.causes().iter();
    let held = causes.filter(|(_, cause)| matches!(cause.phase, Phase::Held(_)));
    held.map(|(name, cause)| {
        let mut labels = json!({"alertname": BRAKE, "severity": "critical", "cause": name});
        if let Some(deployment) = deployment {
            labels["cluster"] = deployment.into();
        }
        NewAlert {
            name: BRAKE.to_owned(),
            // What the alert is about; it is told apart from others of its name by this.
            node: name.clone(),
            labels: labels.to_string(),
            severity: "critical".to_owned(),
            summary: format!(
                "{} nodes lost standing for {name}: early ends of leases are held back until \
                 somebody looks and says bailiwick brake confirm",
                cause.losses.len()
            ),
        }
    })
    .collect()
}

/// Labels are few and stable: they are what receivers group and deduplicate by.
pub(super) fn alert(subject: &Subject, name: &str, severity: &str, summary: String) -> NewAlert {
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

#[cfg(test)]
pub(super) use tests::subject as subject_for_tests;

#[cfg(test)]
mod tests;
