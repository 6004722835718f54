//! Two profiles: what the second allows that the first does not, and the reverse, in words.

use std::collections::{BTreeMap, BTreeSet};

use super::{Alternative, Expected, Met, Profile, Provenance, Requirement, Value, moment};
use crate::ids::UnixTime;
use crate::term::Term;

/// Which way a difference goes, seen from the second profile.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Way {
    /// It allows what the first refuses.
    Allows,
    /// It refuses what the first allows.
    Refuses,
    /// Neither is wider than the other.
    Differs,
}

impl Way {
    /// The word used in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allows => "allows",
            Self::Refuses => "refuses",
            Self::Differs => "differs",
        }
    }
}

/// One difference.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Difference {
    /// Which way it goes.
    pub way: Way,
    /// The claim, or the key of the profile.
    pub topic: String,
    /// In words.
    pub text: String,
}

/// What parts two profiles: first what the second allows, then what it refuses, then the rest.
#[must_use]
pub fn diff(first: &Profile, second: &Profile) -> Vec<Difference> {
    let mut diff = Diff(Vec::new());
    diff.registers(first, second);
    diff.logs(first, second);
    diff.terms(first, second);
    let by_claim = |profile: &'_ Profile| -> BTreeMap<String, Requirement> {
        let all = profile.requirements.iter();
        all.map(|one| (one.claim.clone(), one.clone())).collect()
    };
    let (before, after) = (by_claim(first), by_claim(second));
    let claims: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for claim in claims {
        diff.requirement(claim, before.get(claim), after.get(claim));
    }
    diff.0.sort();
    diff.0
}

struct Diff(Vec<Difference>);

impl Diff {
    fn say(&mut self, way: Way, topic: &str, text: impl Into<String>) {
        self.0.push(Difference {
            way,
            topic: topic.to_owned(),
            text: text.into(),
        });
    }

    fn registers(&mut self, first: &Profile, second: &Profile) {
        let (before, after) = (&first.tpm, &second.tpm);
        if before.bank != after.bank {
            let text = format!("bank {}, was {}", after.bank, before.bank);
            self.say(Way::Differs, "tpm.bank", text);
        }
        let topic = |index: &u8| format!("tpm.pcr.{}.{index}", after.bank);
        for index in before.require.difference(&after.require) {
            self.say(Way::Allows, &topic(index), "need not be quoted any more");
        }
        for index in after.require.difference(&before.require) {
            self.say(Way::Refuses, &topic(index), "has to be quoted");
        }
        let values = |profile: &super::TpmProfile| -> BTreeMap<u8, Requirement> {
            let values = profile.values.iter();
            let one = |(index, values): (&u8, &Vec<Alternative>)| {
                let requirement = Requirement {
                    claim: format!("tpm.pcr.{}.{index}", profile.bank),
                    expected: Expected::Any(values.clone()),
                    minimum: Provenance::HardwareSigned,
                };
                (*index, requirement)
            };
            values.map(one).collect()
        };
        let (before, after) = (values(before), values(after));
        let all: BTreeSet<&u8> = before.keys().chain(after.keys()).collect();
        for index in all {
            self.requirement(&topic(index), before.get(index), after.get(index));
        }
    }

    fn logs(&mut self, first: &Profile, second: &Profile) {
        match (&first.boot, &second.boot) {
            (None, Some(_)) => self.say(Way::Refuses, "boot", "the boot log has to replay"),
            (Some(_), None) => {
                self.say(Way::Allows, "boot", "the boot log need not replay any more")
            }
            _ => {}
        }
        match (&first.gpu, &second.gpu) {
            (None, Some(_)) => self.say(Way::Refuses, "gpu", "GPUs have to prove themselves"),
            (Some(_), None) => {
                self.say(
                    Way::Allows,
                    "gpu",
                    "GPUs need not prove themselves any more",
                );
            }
            (before, after) if before != after => {
                self.say(Way::Differs, "gpu", "something else is asked of GPUs");
            }
            _ => {}
        }
        match (&first.cvm, &second.cvm) {
            (None, Some(_)) => {
                self.say(
                    Way::Refuses,
                    "cvm",
                    "the guest's processor has to speak for it",
                );
            }
            (Some(_), None) => {
                let text = "the guest's processor need not speak for it any more";
                self.say(Way::Allows, "cvm", text);
            }
            (before, after) if before != after => {
                let text = "something else is asked of the guest's processor";
                self.say(Way::Differs, "cvm", text);
            }
            _ => {}
        }
        let of = |profile: &Profile| profile.boot.clone().unwrap_or_default();
        let (before, after) = (of(first), of(second));
        for quirk in after
            .quirks
            .iter()
            .filter(|one| !before.quirks.contains(one))
        {
            let text = format!("the quirk {} is excused", quirk.name());
            self.say(Way::Allows, "boot.quirks", text);
        }
        for quirk in before
            .quirks
            .iter()
            .filter(|one| !after.quirks.contains(one))
        {
            let text = format!("the quirk {} is excused no more", quirk.name());
            self.say(Way::Refuses, "boot.quirks", text);
        }
        for register in after.unreplayable.difference(&before.unreplayable) {
            let text = format!("register {register} need not replay any more");
            self.say(Way::Allows, "boot.unreplayable", text);
        }
        for register in before.unreplayable.difference(&after.unreplayable) {
            let text = format!("register {register} has to replay");
            self.say(Way::Refuses, "boot.unreplayable", text);
        }
        self.strict(first, second);
        match (&first.ima, &second.ima) {
            (None, None) => {}
            (None, Some(_)) => self.say(Way::Refuses, "ima", "the measurement list has to replay"),
            (Some(_), None) => {
                self.say(
                    Way::Allows,
                    "ima",
                    "the measurement list need not replay any more",
                );
            }
            (Some(before), Some(after)) => {
                let most = |most: Option<u64>| most.unwrap_or(u64::MAX);
                let said = |most: Option<u64>| {
                    most.map_or_else(|| "any".to_owned(), |most| most.to_string())
                };
                let text = format!(
                    "at most {} files may change while they are measured, was {}",
                    said(after.max_violations),
                    said(before.max_violations)
                );
                let (before, after) = (most(before.max_violations), most(after.max_violations));
                self.number("ima.max_violations", before, after, text);
            }
        }
        let files = |profile: &'_ Profile| profile.ima.clone().and_then(|ima| ima.files);
        self.files(files(first).as_ref(), files(second).as_ref());
        let pcr = |profile: &Profile| profile.fence.map(|fence| fence.pcr);
        match (pcr(first), pcr(second)) {
            (None, Some(pcr)) => {
                let text = format!("the fence's log has to replay to register {pcr}");
                self.say(Way::Refuses, "fence.pcr", text);
            }
            (Some(_), None) => {
                self.say(
                    Way::Allows,
                    "fence.pcr",
                    "the fence's log need not replay any more",
                );
            }
            (Some(before), Some(after)) if before != after => {
                let text = format!("the fence's log is in register {after}, was {before}");
                self.say(Way::Differs, "fence.pcr", text);
            }
            _ => {}
        }
    }

    fn strict(&mut self, first: &Profile, second: &Profile) {
        for (digest, revoked) in &second.revoked {
            if !first.revoked.contains_key(digest) {
                let text = format!("{} is taken back: {}", hex::encode(digest), revoked.reason);
                self.say(Way::Refuses, "revoked", text);
            }
        }
        for (digest, revoked) in &first.revoked {
            match second.revoked.get(digest) {
                None => {
                    let text = format!("{} is taken back no more", hex::encode(digest));
                    self.say(Way::Allows, "revoked", text);
                }
                Some(other) if other != revoked => {
                    let text = format!("{} is taken back otherwise", hex::encode(digest));
                    self.say(Way::Differs, "revoked", text);
                }
                Some(_) => {}
            }
        }
        match (&first.strict, &second.strict) {
            (None, Some(strict)) => {
                let text = format!(
                    "{} has to be measured: what the kernel says of the fence is no more root's word",
                    strict.set.name()
                );
                self.say(Way::Refuses, "strict", text);
            }
            (Some(strict), None) => {
                let text = format!(
                    "{} is not demanded any more: what the kernel says of the fence is root's word",
                    strict.set.name()
                );
                self.say(Way::Allows, "strict", text);
            }
            (Some(before), Some(after)) if before != after => {
                for digest in after.agent.difference(&before.agent) {
                    let text = format!("{} is an agent", hex::encode(digest));
                    self.say(Way::Allows, "strict.agent", text);
                }
                for digest in before.agent.difference(&after.agent) {
                    let text = format!("{} is an agent no more", hex::encode(digest));
                    self.say(Way::Refuses, "strict.agent", text);
                }
            }
            _ => {}
        }
    }

    /// More of it allows more.
    fn number(&mut self, topic: &str, before: u64, after: u64, text: String) {
        match after.cmp(&before) {
            std::cmp::Ordering::Greater => self.say(Way::Allows, topic, text),
            std::cmp::Ordering::Less => self.say(Way::Refuses, topic, text),
            std::cmp::Ordering::Equal => {}
        }
    }

    fn terms(&mut self, first: &Profile, second: &Profile) {
        let rows = [
            (
                "lease_seconds",
                first.lease_seconds,
                second.lease_seconds,
                "a lease lasts",
            ),
            (
                "max_silence_seconds",
                first.max_silence_seconds,
                second.max_silence_seconds,
                "a node may be silent for",
            ),
            (
                "time.max_skew_seconds",
                first.time.max_skew_seconds,
                second.time.max_skew_seconds,
                "a clock may be off by",
            ),
            (
                "time.warn_skew_seconds",
                first.time.warn_skew_seconds,
                second.time.warn_skew_seconds,
                "a clock may be off without a warning by",
            ),
        ];
        for (topic, before, after, words) in rows {
            let text = format!("{words} {after} s, was {before} s");
            self.number(topic, before.into(), after.into(), text);
        }
        let (before, after) = (&first.world, &second.world);
        if before.digest != after.digest {
            match (before.digest, after.digest) {
                (Some(_), None) => self.say(Way::Allows, "world.sha256", "any world map will do"),
                (None, Some(digest)) => {
                    let text = format!("only the world map {digest} will do");
                    self.say(Way::Refuses, "world.sha256", text);
                }
                _ => self.say(Way::Differs, "world.sha256", "another world map"),
            }
        }
        let days = |days: Option<u32>| days.map_or(u64::MAX, u64::from);
        let said =
            |days: Option<u32>| days.map_or_else(|| "any".to_owned(), |days| days.to_string());
        let text = format!(
            "a world map may be {} days old, was {}",
            said(after.max_age_days),
            said(before.max_age_days)
        );
        let ages = (days(before.max_age_days), days(after.max_age_days));
        self.number("world.max_age_days", ages.0, ages.1, text);
        if first.brake != second.brake {
            let said = |brake: super::Brake| {
                format!(
                    "more than {} % and {} nodes within {} s",
                    brake.share_percent, brake.min_nodes, brake.window_seconds
                )
            };
            let text = format!(
                "a cause is held when it costs {}; was {}",
                said(second.brake),
                said(first.brake)
            );
            self.say(Way::Differs, "brake", text);
        }
    }

    fn requirement(
        &mut self,
        topic: &str,
        before: Option<&Requirement>,
        after: Option<&Requirement>,
    ) {
        match (before, after) {
            (None, None) => {}
            (None, Some(after)) => {
                let text = format!(
                    "has to be {}, {}; was not judged",
                    after.expected,
                    least(after.minimum)
                );
                self.say(Way::Refuses, topic, text);
            }
            (Some(before), None) => {
                let text = format!("is not judged any more; had to be {}", before.expected);
                self.say(Way::Allows, topic, text);
            }
            (Some(before), Some(after)) => {
                self.expected(topic, &before.expected, &after.expected);
                let text = format!(
                    "{} will do; was {}",
                    least(after.minimum),
                    least(before.minimum)
                );
                match after.minimum.cmp(&before.minimum) {
                    std::cmp::Ordering::Less => self.say(Way::Allows, topic, text),
                    std::cmp::Ordering::Greater => self.say(Way::Refuses, topic, text),
                    std::cmp::Ordering::Equal => {}
                }
            }
        }
    }

    fn expected(&mut self, topic: &str, before: &Expected, after: &Expected) {
        match (before, after) {
            (Expected::AtLeast(before), Expected::AtLeast(after)) => {
                let text = format!("has to be at least {after}, was {before}");
                self.number(topic, *after, *before, text);
                return;
            }
            (_, Expected::AtLeast(least)) => {
                self.say(Way::Allows, topic, format!("any number from {least} on"));
            }
            (Expected::AtLeast(least), _) => {
                self.say(
                    Way::Refuses,
                    topic,
                    format!("any other number from {least} on"),
                );
            }
            _ => {}
        }
        let (old, new) = (values_of(before), values_of(after));
        for (value, terms) in &new {
            match old.iter().find(|(other, _)| other == value) {
                None if !within(value, before) => {
                    let nearest = before.nearest(value);
                    let nearest =
                        nearest.map_or_else(String::new, |nearest| format!("; {nearest}"));
                    let text = format!("{value}{}{nearest}", described(terms));
                    self.say(Way::Allows, topic, text);
                }
                Some((_, then)) if then != terms => self.moved(topic, value, then, terms),
                _ => {}
            }
        }
        for (value, terms) in &old {
            let kept = new.iter().any(|(other, _)| other == value);
            if !kept && !within(value, after) {
                let text = format!("{value}{}", described(terms));
                self.say(Way::Refuses, topic, text);
            }
        }
    }

    /// A value that both know, each in its time.
    fn moved(&mut self, topic: &str, value: &Value, before: &[Alternative], after: &[Alternative]) {
        let way = match (span(before), span(after)) {
            (None, Some(_)) => Way::Allows,
            (Some(_), None) => Way::Refuses,
            (Some(before), Some(after)) if before == after => Way::Differs,
            (Some((from, to)), Some((new_from, new_to))) => {
                match (
                    new_from <= from && new_to >= to,
                    new_from >= from && new_to <= to,
                ) {
                    (true, _) => Way::Allows,
                    (false, true) => Way::Refuses,
                    (false, false) => Way::Differs,
                }
            }
            (None, None) => Way::Differs,
        };
        let said = |all: &[Alternative]| match described(all) {
            text if text.is_empty() => " at any time".to_owned(),
            text => text,
        };
        let text = format!("{value}{}, was{}", said(after), said(before));
        self.say(way, topic, text);
    }
}

fn least(minimum: Provenance) -> String {
    format!("at least {minimum}")
}

/// Values with all the times they are good in.
fn values_of(expected: &Expected) -> Vec<(Value, Vec<Alternative>)> {
    let always = |value: &Value| Alternative {
        value: value.clone(),
        name: None,
        term: Term::default(),
    };
    let all: Vec<Alternative> = match expected {
        Expected::Is(value) => vec![always(value)],
        Expected::OneOf(values) => values.iter().map(always).collect(),
        Expected::Any(all) => all.clone(),
        Expected::AtLeast(_) => Vec::new(),
    };
    let mut values: Vec<(Value, Vec<Alternative>)> = Vec::new();
    for one in all {
        match values.iter_mut().find(|(value, _)| *value == one.value) {
            Some((_, terms)) => terms.push(one),
            None => values.push((one.value.clone(), vec![one])),
        }
    }
    values
}

/// Whether a lower bound lets the value pass.
fn within(value: &Value, expected: &Expected) -> bool {
    matches!(expected, Expected::AtLeast(_)) && expected.met_by(value, UnixTime(0)) == Met::Yes
}

/// From the first moment to the last; `None`: revoked.
fn span(all: &[Alternative]) -> Option<(UnixTime, UnixTime)> {
    let good = all.iter().filter(|one| one.term.revoked.is_none());
    let spans = good.map(|one| {
        let from = one.term.not_before.unwrap_or(UnixTime(0));
        (from, one.term.not_after.unwrap_or(UnixTime(u64::MAX)))
    });
    spans.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
}

fn described(all: &[Alternative]) -> String {
    let each: Vec<String> = all.iter().map(one).collect();
    each.join(" or")
}

fn one(alternative: &Alternative) -> String {
    let Alternative { name, term, .. } = alternative;
    let mut text = name
        .as_ref()
        .map_or_else(String::new, |name| format!(" {name:?}"));
    for (word, at) in [
        ("from", term.not_before),
        ("until", term.not_after),
        ("revoked since", term.revoked),
    ] {
        if let Some(at) = at {
            let part = format!(" {word} {}", moment(at));
            text.push_str(&part);
        }
    }
    text
}

mod files;
#[cfg(test)]
mod tests;
