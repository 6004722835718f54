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

#[cfg(test)]
pub(super) use tests::subject as subject_for_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FenceFacts;
    use bailiwick_attestation::Sha256Digest;
    use bailiwick_attestation::proto::v1;

    const NOW: UnixTime = UnixTime(1_000_000);
    const RULES: Rules = Rules {
        grace_ms: 1000,
        gap_hold_ms: 5000,
    };

    pub(crate) fn subject() -> Subject {
        Subject {
            name: "gpu-01".into(),
            enrolled: true,
            jurisdiction: Some("DE".into()),
            deployment: Some("demo".into()),
            held: false,
            row: NodeRow {
                ek: Sha256Digest([1; 32]),
                claimed_name: "gpu-01".into(),
                ak_name: Vec::new(),
                certificate: Sha256Digest([2; 32]),
                revoked: None,
                enrolment: v1::Enrolment::default(),
                newest: Some(v1::PreviousStatement::default()),
                newest_ak: None,
                last_seen: Some(NOW),
                policy_version: 1,
                statements: 1,
                verdict: Verdict::Affirming,
                reason: String::new(),
                since: UnixTime(0),
                appraised: (Verdict::Affirming, String::new(), UnixTime(0)),
                lease_until: None,
                lease_ended: String::new(),
                fence: FenceFacts {
                    state: "enforcing".into(),
                    reason: String::new(),
                    break_glass: None,
                },
                fence_since: UnixTime(0),
                gap: None,
                log_fault: None,
                listed_name: "gpu-01".into(),
                devices: Vec::new(),
                enrolled: UnixTime(0),
            },
        }
    }

    #[test]
    fn a_hundred_nodes_that_fail_for_one_cause_are_one_alert() {
        let rule = bailiwick_attestation::profile::Brake::default();
        let mut held = Brakes::default();
        let mut subjects = Vec::new();
        for n in 0..100 {
            let node = Sha256Digest([n; 32]);
            held.loss(node, "tpm.pcr.4 pcr-value", &rule, 100, NOW);
            let mut one = subject();
            one.row.appraised.0 = Verdict::Contraindicated;
            one.held = held.holds(&node).is_some();
            subjects.push(one);
        }
        for one in &mut subjects {
            one.held = true;
        }
        assert_eq!(wanted(&subjects, &RULES, NOW), []);
        let alerts = brakes(&held, Some("demo"));
        let [alert] = alerts.as_slice() else {
            panic!("{alerts:?}");
        };
        assert_eq!(
            (alert.name.as_str(), alert.node.as_str()),
            (BRAKE, "tpm.pcr.4 pcr-value")
        );
        assert!(
            alert.summary.starts_with("100 nodes lost standing"),
            "{}",
            alert.summary
        );
        held.confirm("tpm.pcr.4 pcr-value", "alice", "seen", NOW)
            .unwrap();
        assert_eq!(brakes(&held, None), []);
    }

    #[test]
    fn a_map_older_than_the_policy_allows_is_one_alert() {
        let day = 86_400;
        let profile = |max_age_days| WorldProfile {
            digest: None,
            max_age_days,
        };
        let cases = [
            ("no limit", None, 4000, None),
            ("young", Some(30), 30, None),
            (
                "old",
                Some(30),
                31,
                Some("31 days old, and the policy allows 30"),
            ),
        ];
        for (name, limit, age, want) in cases {
            let now = UnixTime::from_secs(1_800_000_000 + age * day);
            let alert = world_old(&profile(limit), 1_800_000_000, "demo", now);
            let summary = alert.as_ref().map(|alert| alert.summary.as_str());
            assert_eq!(summary.is_some(), want.is_some(), "{name}");
            if let (Some(summary), Some(want)) = (summary, want) {
                assert!(summary.ends_with(want), "{name}: {summary}");
            }
        }
    }

    #[test]
    fn each_state_has_its_alert() {
        type Row = (
            &'static str,
            fn(&mut Subject),
            &'static [(&'static str, &'static str)],
        );
        let cases: &[Row] = &[
            ("good", |_| {}, &[]),
            (
                "refused",
                |s| s.row.appraised.0 = Verdict::Contraindicated,
                &[(NOT_TRUSTED, "critical")],
            ),
            (
                "refused, and the brake holds its cause",
                |s| {
                    s.row.appraised.0 = Verdict::Contraindicated;
                    s.held = true;
                },
                &[],
            ),
            (
                "could not be checked, whatever the brake holds",
                |s| {
                    s.row.appraised.0 = Verdict::None;
                    s.held = true;
                },
                &[(NOT_TRUSTED, "warning")],
            ),
            (
                "break-glass in force",
                |s| s.row.fence.break_glass = Some(("ab".into(), UnixTime(NOW.0 + 1))),
                &[(BREAK_GLASS, "critical")],
            ),
            (
                "break-glass that is over",
                |s| s.row.fence.break_glass = Some(("ab".into(), NOW)),
                &[],
            ),
            (
                "refused just now",
                |s| s.row.appraised = (Verdict::Contraindicated, String::new(), NOW),
                &[(NOT_TRUSTED, "critical")],
            ),
            (
                "could not be checked for a while",
                |s| s.row.appraised.0 = Verdict::None,
                &[(NOT_TRUSTED, "warning")],
            ),
            (
                "could not be checked just now",
                |s| s.row.appraised = (Verdict::None, String::new(), NOW),
                &[],
            ),
            (
                "never spoke",
                |s| (s.row.appraised.0, s.row.newest) = (Verdict::None, None),
                &[],
            ),
            (
                "silent",
                |s| s.row.verdict = Verdict::Stale,
                &[(STALE, "critical")],
            ),
            (
                "refused, then silent",
                |s| {
                    s.row.verdict = Verdict::Stale;
                    s.row.appraised.0 = Verdict::Contraindicated;
                },
                &[(NOT_TRUSTED, "critical"), (STALE, "critical")],
            ),
            (
                "fence gone",
                |s| s.row.fence.state = "absent".into(),
                &[(FENCE_BROKEN, "critical")],
            ),
            (
                "fence faulty",
                |s| s.row.fence.state = "fault".into(),
                &[(FENCE_BROKEN, "critical")],
            ),
            (
                "waits for a policy",
                |s| (s.row.fence.state, s.row.fence_since) = ("default-deny".into(), NOW),
                &[],
            ),
            (
                "waits too long",
                |s| s.row.fence.state = "default-deny".into(),
                &[(FENCE_BROKEN, "critical")],
            ),
            (
                "gap",
                |s| s.row.gap = Some((UnixTime(996_000), "3 events".into())),
                &[(SPOOL_GAP, "warning")],
            ),
            (
                "old gap",
                |s| s.row.gap = Some((UnixTime(994_000), "3 events".into())),
                &[],
            ),
            (
                "rewritten",
                |s| s.row.log_fault = Some((UnixTime(995_000), "shrank".into())),
                &[(LOG_REWRITTEN, "critical")],
            ),
            (
                "rewritten long ago",
                |s| s.row.log_fault = Some((UnixTime(994_999), "shrank".into())),
                &[],
            ),
            (
                "not enrolled",
                |s| (s.row.appraised.0, s.enrolled) = (Verdict::Contraindicated, false),
                &[],
            ),
        ];
        for (name, edit, want) in cases {
            let mut subject = subject();
            edit(&mut subject);
            let found = wanted(&[subject], &RULES, NOW);
            let found: Vec<_> = found
                .iter()
                .map(|alert| (alert.name.as_str(), alert.severity.as_str()))
                .collect();
            assert_eq!(found, *want, "{name}");
        }
    }

    #[test]
    fn labels_are_few_and_stable() {
        let mut subject = subject();
        subject.row.appraised.0 = Verdict::Contraindicated;
        let alerts = wanted(&[subject], &RULES, NOW);
        let labels: serde_json::Value = serde_json::from_str(&alerts[0].labels).unwrap();
        let want = json!({
            "alertname": NOT_TRUSTED,
            "severity": "critical",
            "node": "gpu-01",
            "cluster": "demo",
            "jurisdiction": "DE",
        });
        assert_eq!(labels, want);
    }

    #[test]
    fn silence_counts_from_the_collectors_own_start() {
        let row = subject().row;
        let at = |ms| UnixTime(NOW.millis() + ms);
        assert_eq!(silence(&row, 5000, UnixTime(0), at(5000)), None);
        assert!(silence(&row, 5000, UnixTime(0), at(5001)).is_some());
        assert_eq!(silence(&row, 5000, at(3000), at(8000)), None);
        assert!(silence(&row, 5000, at(3000), at(8001)).is_some());
    }

    #[test]
    fn what_is_there_already_is_not_raised_again() {
        let alert = |summary: &str, severity: &str| NewAlert {
            name: STALE.into(),
            node: "gpu-01".into(),
            labels: format!("{{\"severity\":\"{severity}\"}}"),
            severity: severity.into(),
            summary: summary.into(),
        };
        let row = |id, alert: NewAlert, resolved| AlertRow {
            id,
            alert,
            since: UnixTime(1),
            resolved,
            notified: None,
        };
        let firing = row(1, alert("a", "critical"), None);
        let over = row(2, alert("a", "critical"), Some(UnixTime(5)));
        let same = vec![alert("a", "critical")];
        assert_eq!(
            changes(same.clone(), std::slice::from_ref(&firing), NOW),
            []
        );
        assert_eq!(
            changes(same.clone(), std::slice::from_ref(&over), NOW),
            [AlertChange::Raise(alert("a", "critical"), NOW)]
        );
        assert_eq!(
            changes(
                vec![alert("b", "critical")],
                std::slice::from_ref(&firing),
                NOW
            ),
            [AlertChange::Update(1, alert("b", "critical"))]
        );
        assert_eq!(
            changes(
                vec![alert("a", "warning")],
                std::slice::from_ref(&firing),
                NOW
            ),
            [
                AlertChange::Resolve(1, NOW),
                AlertChange::Raise(alert("a", "warning"), NOW)
            ]
        );
        assert_eq!(
            changes(Vec::new(), &[firing, over], NOW),
            [AlertChange::Resolve(1, NOW)]
        );
    }
}
