//! Which alert each state raises, and when it is over.

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
            twice: None,
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
            "two guests of one name",
            |s| s.row.twice = Some((UnixTime(995_000), "instance 07 came back".into())),
            &[(GUEST_TWICE, "critical")],
        ),
        (
            "two of them long ago",
            |s| s.row.twice = Some((UnixTime(994_999), "instance 07 came back".into())),
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
