//! What came of an attack, counted as it happens.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cmd::step;

/// One attack's row.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) name: &'static str,
    attempts: u64,
    succeeded: u64,
    /// Refusals by code.
    refused: BTreeMap<String, u64>,
    /// Refused, and not as it should be; or not tried at all.
    wrong: Vec<String>,
    evidence: Vec<String>,
}

impl Outcome {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            attempts: 0,
            succeeded: 0,
            refused: BTreeMap::new(),
            wrong: Vec::new(),
            evidence: Vec::new(),
        }
    }

    /// One attempt: refused under a code, or not at all.
    pub(super) fn tried(&mut self, tried: &str, expected: &str, refused: Option<&str>, said: &str) {
        self.attempts += 1;
        let said: String = said.chars().take(160).collect();
        match refused {
            None => {
                self.succeeded += 1;
                step(format_args!("   ! {tried}: SUCCEEDED: {said}"));
                self.evidence.push(format!("{tried}: {said}"));
            }
            Some(code) => {
                let mark = if code == expected { ' ' } else { '!' };
                step(format_args!("   {mark} {tried}: {code}: {said}"));
                *self.refused.entry(code.to_owned()).or_default() += 1;
                if code != expected {
                    self.wrong
                        .push(format!("{tried}: {code} where {expected} was due ({said})"));
                }
            }
        }
    }

    /// Many attempts of a kind, counted where they would have arrived.
    pub(super) fn counted(&mut self, tried: &str, code: &str, attempts: u64, succeeded: u64) {
        self.attempts += attempts;
        self.succeeded += succeeded;
        let refused = attempts.saturating_sub(succeeded);
        if refused > 0 {
            *self.refused.entry(code.to_owned()).or_default() += refused;
        }
        self.saw(format!(
            "{tried}: {attempts} tried, {succeeded} got through"
        ));
    }

    /// What else was seen.
    pub(super) fn saw(&mut self, line: impl Into<String>) {
        let line = line.into();
        step(format_args!("     {line}"));
        self.evidence.push(line);
    }

    /// It could not be carried out.
    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        self.wrong.push(format!("could not be tried: {error:#}"));
    }

    /// Something was tried, nothing succeeded, and each refusal was the one that was due.
    pub(super) fn is_good(&self) -> bool {
        self.attempts > 0 && self.succeeded == 0 && self.wrong.is_empty()
    }

    fn refused_with(&self) -> String {
        self.refused
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn evidence(&self) -> String {
        let wrong = self.wrong.iter().map(|line| format!("NOT AS DUE: {line}"));
        let all = wrong.chain(self.evidence.iter().cloned());
        all.collect::<Vec<_>>().join("; ")
    }

    /// For the machine-readable result.
    pub(super) fn json(&self) -> Value {
        json!({
            "attack": self.name,
            "attempts": self.attempts,
            "succeeded": self.succeeded,
            "refused_with": self.refused_with(),
            "evidence": self.evidence(),
        })
    }

    /// For people who watch.
    pub(super) fn line(&self) -> String {
        let wrong = if self.is_good() {
            ""
        } else {
            ": NOT AS IT MUST BE"
        };
        format!(
            "{}: {} tried, {} succeeded; refused with {}{wrong}",
            self.name,
            self.attempts,
            self.succeeded,
            self.refused_with()
        )
    }
}

/// For people who come later.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:<28} {:>8} {:>9}  {}",
        "attack", "attempts", "succeeded", "refused with"
    );
    for outcome in outcomes {
        text += &format!(
            "\n{:<28} {:>8} {:>9}  {}",
            outcome.name,
            outcome.attempts,
            outcome.succeeded,
            outcome.refused_with()
        );
        for line in outcome
            .wrong
            .iter()
            .map(|line| format!("NOT AS DUE: {line}"))
        {
            text += &format!("\n    {line}");
        }
        for line in &outcome.evidence {
            text += &format!("\n    {line}");
        }
    }
    text
}

#[cfg(test)]
mod unit {
    use super::Outcome;

    #[test]
    fn only_what_was_tried_and_refused_as_due_is_good() {
        type Play = fn(&mut Outcome);
        let rows: [(&str, Play, bool); 6] = [
            ("nothing was tried", |_| {}, false),
            (
                "refused as due",
                |o| o.tried("a", "code", Some("code"), ""),
                true,
            ),
            (
                "refused otherwise",
                |o| o.tried("a", "code", Some("other"), ""),
                false,
            ),
            ("succeeded", |o| o.tried("a", "code", None, ""), false),
            (
                "one of many got through",
                |o| o.counted("a", "code", 9, 1),
                false,
            ),
            (
                "refused as due, and then no more could be tried",
                |o| {
                    o.tried("a", "code", Some("code"), "");
                    o.failed(&anyhow::anyhow!("no disk"));
                },
                false,
            ),
        ];
        for (name, play, good) in rows {
            let mut outcome = Outcome::new("row");
            play(&mut outcome);
            assert_eq!(outcome.is_good(), good, "{name}");
        }
    }

    #[test]
    fn counts_are_what_was_counted() {
        let mut outcome = Outcome::new("row");
        outcome.counted("packets", "denied", 9, 0);
        outcome.tried("a", "code", Some("code"), "");
        outcome.tried("b", "code", None, "in");
        let json = outcome.json();
        assert_eq!(json["attempts"], 11);
        assert_eq!(json["succeeded"], 1);
        assert_eq!(json["refused_with"], "code, denied");
    }
}
