//! What another profile would say to evidence that is recorded. Asking changes nothing.

use bailiwick_attestation::appraisal::{AttestationResult, Deviation, Finding, Status};

/// What would become of a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// It would be as good as it is.
    Stays,
    /// It would be worse.
    Turns,
    /// It would be better.
    Recovers,
    /// It could not be checked, which says neither.
    Untold,
}

impl Change {
    /// The word of the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stays => "stays",
            Self::Turns => "would-turn",
            Self::Recovers => "would-recover",
            Self::Untold => "cannot-tell",
        }
    }
}

/// One node under both profiles.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Planned {
    /// What would become of it.
    pub change: Change,
    /// Why: what would be found and is not found now, what would be found no more, or what could not
    /// be checked.
    pub because: Vec<Deviation>,
}

/// Compares what the profile in force concludes with what another one would, of one piece of
/// evidence.
#[must_use]
pub fn planned(now: &AttestationResult, then: &AttestationResult) -> Planned {
    let change = match then.status.cmp(&now.status) {
        _ if then.status == Status::None => Change::Untold,
        std::cmp::Ordering::Equal => Change::Stays,
        std::cmp::Ordering::Greater => Change::Turns,
        std::cmp::Ordering::Less => Change::Recovers,
    };
    let beside = |all: &AttestationResult, others: &AttestationResult| -> Vec<Deviation> {
        let new = |one: &&Deviation| !others.deviations().any(|other| same(one, other));
        all.deviations().filter(new).cloned().collect()
    };
    let mut because = match change {
        Change::Untold => {
            let unchecked = |one: &&Deviation| one.finding == Finding::Unchecked;
            then.deviations().filter(unchecked).cloned().collect()
        }
        Change::Stays | Change::Turns => beside(then, now),
        Change::Recovers => beside(now, then),
    };
    because.sort_by_key(|deviation| match deviation.finding {
        Finding::Refused => 0,
        Finding::Unchecked => 1,
        Finding::Warning => 2,
    });
    Planned { change, because }
}

/// The same thing is found, whatever was expected.
fn same(one: &Deviation, other: &Deviation) -> bool {
    (one.finding, &one.claim, &one.code) == (other.finding, &other.claim, &other.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_attestation::appraisal::{AkWord, Submod, TrustVector};
    use bailiwick_attestation::profile::Provenance;
    use bailiwick_attestation::{Sha256Digest, UnixTime};

    /// A result with these findings, each a claim of that name.
    fn result(findings: &[(&str, Finding)]) -> AttestationResult {
        let deviation = |(claim, finding): &(&str, Finding)| Deviation {
            claim: (*claim).to_owned(),
            finding: *finding,
            code: "c".to_owned(),
            expected: String::new(),
            found: String::new(),
            provenance: None,
        };
        let status = |finding: &Finding| match finding {
            Finding::Refused => Status::Contraindicated,
            Finding::Unchecked => Status::None,
            Finding::Warning => Status::Warning,
        };
        let worst = findings.iter().map(|(_, finding)| status(finding)).max();
        let status = worst.unwrap_or(Status::Affirming);
        let host = Submod {
            status,
            vector: TrustVector::Configuration,
            deviations: findings.iter().map(deviation).collect(),
            claims: std::collections::BTreeMap::new(),
        };
        AttestationResult {
            status,
            at: UnixTime(0),
            node: None,
            statement: Sha256Digest([0; 32]),
            nonce: None,
            profile: None,
            policy: None,
            ak_word: AkWord::Collector,
            tpm: Provenance::HardwareSigned,
            report: None,
            tpm_unknown: false,
            endorsements: std::collections::BTreeSet::new(),
            submods: std::collections::BTreeMap::from([("host", host)]),
        }
    }

    #[test]
    fn what_could_not_be_checked_is_no_turn_and_no_stay() {
        use Finding::{Refused, Unchecked, Warning};
        type Findings<'a> = &'a [(&'a str, Finding)];
        type Row<'a> = (&'a str, Findings<'a>, Findings<'a>, Change, &'a [&'a str]);
        let rows: &[Row<'_>] = &[
            ("good under both", &[], &[], Change::Stays, &[]),
            ("refused now", &[], &[("a", Refused)], Change::Turns, &["a"]),
            (
                "refused no more",
                &[("a", Refused)],
                &[],
                Change::Recovers,
                &["a"],
            ),
            (
                "refused under both",
                &[("a", Refused)],
                &[("a", Refused)],
                Change::Stays,
                &[],
            ),
            (
                "refused for something else",
                &[("a", Refused)],
                &[("b", Refused)],
                Change::Stays,
                &["b"],
            ),
            (
                "missing now",
                &[],
                &[("a", Unchecked)],
                Change::Untold,
                &["a"],
            ),
            (
                "missing under both",
                &[("a", Unchecked)],
                &[("a", Unchecked)],
                Change::Untold,
                &["a"],
            ),
            (
                "missing, and was refused",
                &[("b", Refused)],
                &[("a", Unchecked)],
                Change::Untold,
                &["a"],
            ),
            (
                "missing before, refused now",
                &[("a", Unchecked)],
                &[("b", Refused)],
                Change::Turns,
                &["b"],
            ),
            (
                "missing and refused",
                &[],
                &[("a", Unchecked), ("b", Refused)],
                Change::Turns,
                &["b", "a"],
            ),
            (
                "missing before, good now",
                &[("a", Unchecked)],
                &[],
                Change::Recovers,
                &["a"],
            ),
            (
                "a warning now",
                &[],
                &[("a", Warning)],
                Change::Turns,
                &["a"],
            ),
            (
                "a warning no more",
                &[("a", Warning)],
                &[],
                Change::Recovers,
                &["a"],
            ),
        ];
        for (name, now, then, change, because) in rows {
            let planned = planned(&result(now), &result(then));
            assert_eq!(planned.change, *change, "{name}");
            let claims: Vec<&str> = planned
                .because
                .iter()
                .map(|one| one.claim.as_str())
                .collect();
            assert_eq!(claims, *because, "{name}");
        }
    }
}
