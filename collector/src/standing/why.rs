//! What a node's standing hangs on, in an operator's words, and what restores it.
//!
//! A pure function of what is known; the client prints it, and times are shown by whoever prints.

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::proto::v1::{FenceState, StandingLine};

use crate::record::Verdict;

/// What is known of a node.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its name.
    pub node: &'a str,
    /// The signed inventory lists its TPM.
    pub listed: bool,
    /// It is a guest without a TPM.
    pub guest: bool,
    /// Approvers took it out of service, in these words.
    pub retired: Option<&'a str>,
    /// The verdict that stands.
    pub verdict: Verdict,
    /// Why.
    pub reason: &'a str,
    /// Statements accepted.
    pub statements: u64,
    /// When its lease ends, by the collector's clock.
    pub lease_until: Option<UnixTime>,
    /// What ended its last lease early; empty where nothing did.
    pub lease_ended: &'a str,
    /// The held cause for which it would have lost standing.
    pub held: Option<&'a str>,
    /// Break-glass in force there: manifest, and until when.
    pub break_glass: Option<(&'a str, UnixTime)>,
    /// Epoch of its newest statement, and the highest that approvers acknowledged.
    pub epochs: Option<(u64, u64)>,
    /// The present.
    pub now: UnixTime,
}

/// What the newest statement tells of the fence beside its verdict: it costs no standing, and
/// whoever asks why a study is denied everything has to know.
#[must_use]
pub fn conditions(fence: &FenceState) -> Vec<StandingLine> {
    let unmet = fence.selectors_unmet.iter().map(|selector| StandingLine {
        code: "selector-matches-nothing".to_owned(),
        what: format!("no cgroup of this node is selected by {selector}"),
        restore: "start what it names, or spell the selector as the cgroup is and sign that"
            .to_owned(),
        until_ms: None,
    });
    unmet.collect()
}

/// What holds, the most telling first. Never empty.
#[must_use]
pub fn why(facts: &Facts<'_>) -> Vec<StandingLine> {
    let mut lines = Vec::new();
    let mut say = |code: &str, what: String, restore: String, until: Option<UnixTime>| {
        lines.push(StandingLine {
            code: code.to_owned(),
            what,
            restore,
            until_ms: until.map(UnixTime::millis),
        });
    };
    let node = facts.node;
    if let Some((manifest, until)) = facts.break_glass.filter(|(_, until)| facts.now < *until) {
        say(
            "break-glass",
            format!(
                "break-glass is in force: the studies that manifest {manifest} names are judged as \
                 if a lease stood"
            ),
            "nothing: it is over at that time or with the next boot, and cannot be used again"
                .to_owned(),
            Some(until),
        );
    }
    if let Some(why) = facts.retired {
        say(
            "retired",
            format!("approvers took it out of service: {why}"),
            match facts.guest {
                true => {
                    "nothing restores what is retired; have approvers list the guest under another \
                         name"
                }
                false => "nothing restores a retired TPM; enrol another and have approvers list it",
            }
            .to_owned(),
            None,
        );
        return lines;
    }
    if !facts.listed {
        say(
            "pending",
            match facts.guest {
                true => "the signed inventory does not list it: evidence is kept, and earns nothing",
                false => "the signed inventory does not list its TPM: evidence is kept, and earns nothing",
            }
            .to_owned(),
            match facts.guest {
                true => "write its chips and launch into a [[guest]] entry of the inventory, sign and apply"
                    .to_owned(),
                false => format!(
                    "bailiwick enroll approve {node}, then sign the inventory entry and apply the policy"
                ),
            },
            None,
        );
        return lines;
    }
    if let Some(cause) = facts.held {
        say(
            "brake",
            format!(
                "the brake holds {cause:?}: too many nodes failed for it at once, so its lease is \
                 not ended early and its peers keep it"
            ),
            format!(
                "find out what changed for all of them; then bailiwick brake confirm {cause:?} \
                 --reason TEXT"
            ),
            None,
        );
    }
    if let Some((epoch, acknowledged)) = facts.epochs.filter(|(at, known)| at > known) {
        say(
            "epoch-not-acknowledged",
            format!(
                "it lost its log and began epoch {epoch}; approvers have acknowledged epoch \
                 {acknowledged}"
            ),
            format!(
                "look at its disk, then set epoch = {epoch} in its inventory entry, sign and apply"
            ),
            None,
        );
    }
    let renewing = facts.verdict == Verdict::Affirming;
    let because = match (facts.verdict, facts.reason) {
        (Verdict::Stale, reason) => format!("it is silent: {reason}"),
        (_, "") => "its newest statement does not affirm it".to_owned(),
        (_, reason) => reason.to_owned(),
    };
    let next = match facts.verdict {
        Verdict::Stale => "see that its agent runs and reaches the collector",
        _ => "remove the deviations listed; the next affirming statement restores it",
    };
    match facts.lease_until {
        Some(until) if facts.now < until && renewing => say(
            "lease",
            "its lease stands and is renewed when half of it is left".to_owned(),
            "nothing has to be restored".to_owned(),
            Some(until),
        ),
        Some(until) if facts.now < until && facts.verdict == Verdict::Warning => say(
            "warned",
            format!(
                "its lease stands, and is renewed until the next boot unless it is behind what \
                 approvers signed: {because}"
            ),
            next.to_owned(),
            Some(until),
        ),
        Some(until) if facts.now < until => say(
            "running-out",
            format!("its lease runs out and is not renewed: {because}"),
            next.to_owned(),
            Some(until),
        ),
        Some(until) => say(
            "ran-out",
            format!("its lease ran out: {because}"),
            next.to_owned(),
            Some(until),
        ),
        None if !facts.lease_ended.is_empty() => say(
            "ended-early",
            format!("its lease was ended early: {}", facts.lease_ended),
            next.to_owned(),
            None,
        ),
        None if facts.statements == 0 => say(
            "silent",
            "it enrolled and has said nothing since".to_owned(),
            "see that its agent runs and reaches the collector".to_owned(),
            None,
        ),
        None => say(
            "no-lease",
            format!("it was never granted a lease: {because}"),
            next.to_owned(),
            None,
        ),
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_000);
    const LATER: Option<UnixTime> = Some(UnixTime(2_000));

    fn good() -> Facts<'static> {
        Facts {
            node: "gpu-01",
            listed: true,
            guest: false,
            retired: None,
            verdict: Verdict::Affirming,
            reason: "",
            statements: 9,
            lease_until: LATER,
            lease_ended: "",
            held: None,
            break_glass: None,
            epochs: Some((0, 0)),
            now: NOW,
        }
    }

    #[test]
    fn each_state_is_named_and_says_what_restores_it() {
        type Edit = fn(&mut Facts<'static>);
        let refused: Edit = |f| {
            f.verdict = Verdict::Contraindicated;
            f.reason = "tpm.pcr.4: expected a, found b [pcr-value]";
        };
        let rows: &[(&str, Edit, &[&str], &str)] = &[
            ("in standing", |_| {}, &["lease"], "nothing has to be"),
            (
                "at the end of the lease",
                |f| f.now = UnixTime(2_000),
                &["ran-out"],
                "affirming",
            ),
            (
                "something to look at",
                |f| f.verdict = Verdict::Warning,
                &["warned"],
                "affirming statement",
            ),
            (
                "could not be checked",
                |f| f.verdict = Verdict::None,
                &["running-out"],
                "affirming statement",
            ),
            (
                "silent",
                |f| f.verdict = Verdict::Stale,
                &["running-out"],
                "agent runs",
            ),
            (
                "refused",
                |f| {
                    f.verdict = Verdict::Contraindicated;
                    f.lease_until = None;
                    f.lease_ended = "pcr-value";
                },
                &["ended-early"],
                "deviations",
            ),
            (
                "refused, and held",
                |f| {
                    f.verdict = Verdict::Contraindicated;
                    f.held = Some("tpm.pcr.4 pcr-value");
                },
                &["brake", "running-out"],
                "bailiwick brake confirm \"tpm.pcr.4 pcr-value\"",
            ),
            (
                "another epoch",
                |f| {
                    f.epochs = Some((2, 1));
                    f.verdict = Verdict::Warning;
                    f.lease_until = None;
                },
                &["epoch-not-acknowledged", "no-lease"],
                "epoch = 2",
            ),
            (
                "an acknowledged epoch",
                |f| f.epochs = Some((2, 2)),
                &["lease"],
                "nothing",
            ),
            (
                "pending",
                |f| {
                    f.listed = false;
                    f.lease_until = None;
                },
                &["pending"],
                "enroll approve gpu-01",
            ),
            (
                "retired",
                |f| {
                    f.listed = false;
                    f.retired = Some("sold");
                },
                &["retired"],
                "enrol another",
            ),
            (
                "a guest that is pending",
                |f| {
                    f.listed = false;
                    f.guest = true;
                },
                &["pending"],
                "[[guest]] entry",
            ),
            (
                "a guest that is retired",
                |f| {
                    f.guest = true;
                    f.retired = Some("sold");
                },
                &["retired"],
                "another name",
            ),
            (
                "new",
                |f| {
                    f.lease_until = None;
                    f.statements = 0;
                    f.verdict = Verdict::None;
                },
                &["silent"],
                "agent runs",
            ),
            (
                "never affirmed",
                |f| {
                    f.lease_until = None;
                    f.verdict = Verdict::Contraindicated;
                },
                &["no-lease"],
                "affirming",
            ),
            (
                "break-glass",
                |f| {
                    f.break_glass = Some(("ab12", UnixTime(1_001)));
                    f.lease_until = None;
                    f.lease_ended = "x";
                    f.verdict = Verdict::Contraindicated;
                },
                &["break-glass", "ended-early"],
                "next boot",
            ),
            (
                "break-glass that is over",
                |f| f.break_glass = Some(("ab12", NOW)),
                &["lease"],
                "nothing",
            ),
        ];
        for (name, edit, codes, restore) in rows {
            let mut facts = good();
            edit(&mut facts);
            let lines = why(&facts);
            let found: Vec<&str> = lines.iter().map(|line| line.code.as_str()).collect();
            assert_eq!(found, *codes, "{name}");
            let first = lines.first().unwrap();
            assert!(first.restore.contains(restore), "{name}: {}", first.restore);
        }
        let fence = FenceState {
            selectors_unmet: vec!["cardio: /studies/cardio".to_owned()],
            ..FenceState::default()
        };
        let told = conditions(&fence);
        assert_eq!(
            told[0].what,
            "no cgroup of this node is selected by cardio: /studies/cardio"
        );
        assert_eq!(
            (told.len(), told[0].code.as_str()),
            (1, "selector-matches-nothing")
        );
        assert_eq!(conditions(&FenceState::default()), []);
        let mut facts = good();
        refused(&mut facts);
        let line = why(&facts).pop().unwrap();
        assert!(line.what.ends_with("[pcr-value]"), "{}", line.what);
        assert_eq!(line.until_ms, Some(2_000));
    }
}
