//! One line of the table: an attack, what came of it, and when that is good.

use std::collections::BTreeSet;
use std::io::{self, Write as _};

use anyhow::Result;
use serde_json::{Value, json};

use crate::net::Shape;
use crate::play::Play;

/// Where a row can be played.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Place {
    /// In namespaces of a machine whose kernel lacks modules.
    Host,
    /// In a virtual machine alone.
    Vm,
}

impl Place {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Vm => "vm",
        }
    }
}

/// What is said of an attack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Claim {
    /// Nothing gets out.
    Stopped,
    /// It cannot be prevented, and does not go unsaid.
    Evidenced,
}

impl Claim {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Evidenced => "evidenced",
        }
    }
}

/// An attack.
#[derive(Debug)]
pub(crate) struct Row {
    /// Of the table of known bypasses; several attacks may be of one.
    pub(crate) number: u8,
    /// Stable, kebab-case.
    pub(crate) attack: &'static str,
    /// In a line.
    pub(crate) what: &'static str,
    pub(crate) place: Place,
    pub(crate) claim: Claim,
    /// It needs a ground on which no fence stands yet, or leaves one that is of no use to others.
    pub(crate) alone: bool,
    pub(crate) shape: Shape,
    pub(crate) run: fn(&mut Play<'_>) -> Result<()>,
}

impl Row {
    /// As most are: on one wire, on any machine, with nothing getting out.
    pub(crate) const fn new(
        number: u8,
        attack: &'static str,
        what: &'static str,
        run: fn(&mut Play<'_>) -> Result<()>,
    ) -> Self {
        Self {
            number,
            attack,
            what,
            place: Place::Host,
            claim: Claim::Stopped,
            alone: false,
            shape: Shape::Wire,
            run,
        }
    }

    /// It takes modules.
    pub(crate) const fn in_vm(mut self) -> Self {
        self.place = Place::Vm;
        self
    }

    /// It cannot be prevented.
    pub(crate) const fn evidenced(mut self) -> Self {
        self.claim = Claim::Evidenced;
        self
    }

    /// On a ground of its own.
    pub(crate) const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// On another net than a wire.
    pub(crate) const fn on(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }
}

/// What came of it, counted as it happens.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) attempts: u64,
    /// Packets that got out, counted where they arrived.
    pub(crate) leaked: u64,
    /// Packets of the same attack that arrived where nothing stopped them.
    pub(crate) could_leak: u64,
    pub(crate) stopped_by: BTreeSet<String>,
    pub(crate) evidence: Vec<String>,
    /// Why this is no pass, beside leaks.
    pub(crate) wrong: Vec<String>,
}

impl Outcome {
    pub(crate) fn saw(&mut self, line: impl Into<String>) {
        self.evidence.push(line.into());
    }

    pub(crate) fn wrong(&mut self, line: impl Into<String>) {
        self.wrong.push(line.into());
    }

    /// It was tried, it would have worked, and what is claimed is so.
    pub(crate) fn is_good(&self, claim: Claim) -> bool {
        let claimed = match claim {
            Claim::Stopped => self.leaked == 0 && !self.stopped_by.is_empty(),
            Claim::Evidenced => !self.evidence.is_empty(),
        };
        self.attempts > 0 && self.could_leak > 0 && self.wrong.is_empty() && claimed
    }

    fn stopped_by(&self) -> String {
        let words: Vec<&str> = self.stopped_by.iter().map(String::as_str).collect();
        words.join(", ")
    }

    fn evidence(&self) -> String {
        let wrong = self.wrong.iter().map(|line| format!("NOT AS DUE: {line}"));
        let control = format!(
            "{} packets of it arrive where nothing stops them",
            self.could_leak
        );
        let all = wrong.chain([control]).chain(self.evidence.iter().cloned());
        all.collect::<Vec<_>>().join("; ")
    }

    /// For the machine-readable result; `place` is where it was played.
    pub(crate) fn json(&self, row: &Row, place: Place) -> Value {
        json!({
            "row": row.number,
            "attack": row.attack,
            "where": place.name(),
            "attempts": self.attempts,
            "leaked": self.leaked,
            "stopped_by": self.stopped_by(),
            "claimed": row.claim.name(),
            "evidence": self.evidence(),
        })
    }

    /// For people.
    pub(crate) fn line(&self, row: &Row) -> String {
        let good = if self.is_good(row.claim) {
            "ok "
        } else {
            "BAD"
        };
        let mut line = format!(
            "{good} {:>2} {:<28} {:>6} tried {:>5} got out   {}",
            row.number,
            row.attack,
            self.attempts,
            self.leaked,
            self.stopped_by()
        );
        let shown = match row.claim {
            Claim::Stopped => &[][..],
            Claim::Evidenced => &self.evidence,
        };
        for said in shown {
            line += &format!("\n       evidence: {said}");
        }
        for wrong in &self.wrong {
            line += &format!("\n       NOT AS DUE: {wrong}");
        }
        line
    }
}

/// One line of progress, on stderr.
pub(crate) fn progress(line: &str) {
    // A closed stderr is no reason to stop.
    drop(writeln!(io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::{Claim, Outcome};

    #[test]
    fn only_what_would_have_worked_and_did_not_is_good() {
        let stopped = || Outcome {
            attempts: 5,
            could_leak: 5,
            stopped_by: ["hook".to_owned()].into(),
            evidence: vec!["event".to_owned()],
            ..Outcome::default()
        };
        type Change = fn(&mut Outcome);
        let rows: [(&str, Change, bool, bool); 7] = [
            ("as it should be", |_| {}, true, true),
            ("not tried", |o| o.attempts = 0, false, false),
            ("would not have worked", |o| o.could_leak = 0, false, false),
            ("one got out", |o| o.leaked = 1, false, true),
            ("nobody stopped it", |o| o.stopped_by.clear(), false, true),
            ("no evidence", |o| o.evidence.clear(), true, false),
            ("something else", |o| o.wrong("x"), false, false),
        ];
        for (name, change, is_stopped, is_evidenced) in rows {
            let mut outcome = stopped();
            change(&mut outcome);
            assert_eq!(outcome.is_good(Claim::Stopped), is_stopped, "{name}");
            assert_eq!(outcome.is_good(Claim::Evidenced), is_evidenced, "{name}");
        }
    }
}
