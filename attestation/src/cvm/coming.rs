//! What a maker's coming word would make of a report: before a baseline is raised, not after.

use super::endorsements::Endorsements;
use super::judge::{Asked, Judged, judge};

/// A report under what is known now, and under what is to come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Turn {
    /// The chip, where the report says which.
    pub chip: Option<String>,
    /// What its maker says of the firmware now; or the codes of what is wrong.
    pub now: String,
    /// What it would say.
    pub then: String,
    /// In words, what would be wrong.
    pub because: Vec<String>,
}

impl Turn {
    /// Something else is said of it then.
    #[must_use]
    pub fn turns(&self) -> bool {
        self.now != self.then
    }
}

/// Judges a report twice: under `asked`, and with the endorsements to come instead, at the first moment
/// at which those count. Whether it answered its question is of no account here.
#[must_use]
pub fn turn(asked: &Asked<'_>, coming: &Endorsements) -> Turn {
    let now = judge(asked);
    let counts = coming.collateral.iter();
    let from = counts.filter_map(|(_, _, set)| set.counts());
    let from = from.map(|(from, _)| from).max();
    let then = judge(&Asked {
        endorsements: coming,
        at: from.map_or(asked.at, |from| from.max(asked.at)),
        ..*asked
    });
    Turn {
        chip: now.facts.as_ref().and_then(|facts| facts.chip.clone()),
        now: said(&now),
        then: said(&then),
        because: faults(&then).map(|fault| fault.why.clone()).collect(),
    }
}

fn faults(judged: &Judged) -> impl Iterator<Item = &super::Fault> {
    let all = judged.faults.iter();
    all.filter(|fault| fault.code != super::judge::ANOTHER_QUESTION)
}

fn said(judged: &Judged) -> String {
    let codes: Vec<&str> = faults(judged).map(|fault| fault.code).collect();
    if !codes.is_empty() {
        return codes.join(", ");
    }
    let status = judged.facts.as_ref().and_then(|facts| facts.tcb_status);
    status.map_or("good", |status| status.name()).to_owned()
}
