//! A profile for the time of an update: the new one, and until a date what the old one knew besides.
//!
//! The new profile is the frame: its terms, and everything that it demands, count from now on. Values
//! that only the old one knows (registers, claims, files, keys) join its own, each until the date, so
//! a node of either is good while the update rolls out and one of the new alone afterwards. What the old
//! one took back comes along, too, and stays so. What
//! cannot be said so is not: a claim that only the new profile judges has no old value, a quirk no
//! time. That is told, in the words in which two profiles are told apart ([`diff`]).

#[cfg(test)]
mod tests;

use toml::{Table, Value as Toml};

use super::{Alternative, Expected, FilesProfile, Profile, Value, Way, diff, moment};
use super::{Difference, Requirement};
use crate::ids::UnixTime;
use crate::term::Term;
use crate::toml_file::FileError;

/// Two profiles as one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Merged {
    /// `profile.toml`.
    pub text: String,
    /// What of the old profile is refused at once, or differs, whatever the date.
    pub at_once: Vec<Difference>,
}

/// Why two profiles cannot be one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MergeRefused {
    /// One of them is none.
    #[error(transparent)]
    Profile(#[from] FileError),
    /// What one says of registers, the other cannot.
    #[error("the old profile judges the {old} bank, the new one {new}")]
    Bank {
        /// Of the old.
        old: super::Bank,
        /// Of the new.
        new: super::Bank,
    },
    /// Together they are more than a profile may be.
    #[error("what both allow together is no profile")]
    TooMuch(#[source] FileError),
}

impl MergeRefused {
    /// Stable word for answers and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Profile(_) => "profile-refused",
            Self::Bank { .. } => "merge-banks",
            Self::TooMuch(_) => "merge-too-much",
        }
    }
}

/// A profile's file: its name for errors, and its bytes.
type File<'a> = (&'a str, &'a [u8]);

/// `new`, with what `old` allows besides until that date; whole seconds of it count.
pub fn merge(old: File<'_>, new: File<'_>, until: UnixTime) -> Result<Merged, MergeRefused> {
    let until = UnixTime::from_secs(until.secs());
    let (before, after) = (Profile::parse(old.0, old.1)?, Profile::parse(new.0, new.1)?);
    if before.tpm.bank != after.tpm.bank {
        return Err(MergeRefused::Bank {
            old: before.tpm.bank,
            new: after.tpm.bank,
        });
    }
    let mut merge = Merge {
        until,
        old: table(old),
        table: table(new),
    };
    merge.registers(&before, &after);
    merge.requirements(&before, &after);
    if let Some((before, after)) = files(&before).zip(files(&after)) {
        merge.files(before, after);
        merge.keys(before, after);
    }
    merge.agents(&before, &after);
    merge.revoked(&after);
    let text = format!(
        "# {}, and until {} what {} allows besides.\n# It says what was merged, not what is right: \
         read it before you sign it.\n\n{}",
        after.name,
        moment(until),
        before.name,
        toml::to_string_pretty(&merge.table).unwrap_or_default()
    );
    let merged = Profile::parse("merged", text.as_bytes()).map_err(MergeRefused::TooMuch)?;
    let mut at_once = diff(&before, &opened(merged, until));
    at_once.retain(|one| one.way != Way::Allows);
    Ok(Merged { text, at_once })
}

/// The members of a file that has been read as a profile.
fn table((_, bytes): File<'_>) -> Table {
    let text = String::from_utf8_lossy(bytes);
    toml::from_str(&text).unwrap_or_default()
}

fn files(profile: &Profile) -> Option<&FilesProfile> {
    profile.ima.as_ref()?.files.as_ref()
}

struct Merge {
    until: UnixTime,
    old: Table,
    table: Table,
}

impl Merge {
    /// A term that ends at the date, if it does not sooner. What was taken back stays so; `None`:
    /// nothing of it is left before the date.
    fn ending(&self, term: Term) -> Option<Term> {
        if term.revoked.is_some() {
            return Some(term);
        }
        let begins = term.not_before.is_none_or(|from| from < self.until);
        let end = term.not_after.map_or(self.until, |end| end.min(self.until));
        begins.then_some(Term {
            not_after: Some(end),
            ..term
        })
    }

    /// What the old values add to the new. A value that both know is as the new profile has it,
    /// unless that is yet to come.
    fn added(&self, old: &[Alternative], new: &[Alternative]) -> Vec<Alternative> {
        let known = |one: &Alternative| {
            let mut same = new.iter().filter(|other| other.value == one.value);
            same.any(|other| other.term.not_before.is_none())
        };
        let added = old.iter().filter(|one| !known(one));
        let added = added.filter_map(|one| {
            Some(Alternative {
                term: self.ending(one.term)?,
                ..one.clone()
            })
        });
        added.collect()
    }

    fn registers(&mut self, old: &Profile, new: &Profile) {
        for (index, known) in &new.tpm.values {
            let Some(before) = old.tpm.values.get(index) else {
                continue;
            };
            let added = self.added(before, known);
            let list = member(&mut self.table, "tpm")
                .and_then(|tpm| member(tpm, "values"))
                .and_then(|values| values.get_mut(&index.to_string()))
                .and_then(Toml::as_array_mut);
            if let Some(list) = list {
                list.extend(added.iter().map(alternative));
            }
        }
    }

    fn requirements(&mut self, old: &Profile, new: &Profile) {
        for (at, requirement) in new.requirements.iter().enumerate() {
            let same = |other: &&Requirement| other.claim == requirement.claim;
            let Some(before) = old.requirements.iter().find(same) else {
                continue;
            };
            let (Some(before), Some(known)) = (
                alternatives(&before.expected),
                alternatives(&requirement.expected),
            ) else {
                continue;
            };
            let added = self.added(&before, &known);
            let entry = self.table.get_mut("require").and_then(Toml::as_array_mut);
            let entry = entry.and_then(|all| all.get_mut(at));
            let Some(entry) = entry.and_then(Toml::as_table_mut) else {
                continue;
            };
            if !added.is_empty() {
                entry.remove("is");
                entry.remove("one_of");
                let any = known.iter().chain(&added).map(alternative);
                entry.insert("any".to_owned(), Toml::Array(any.collect()));
            }
        }
    }

    fn files(&mut self, old: &FilesProfile, new: &FilesProfile) {
        let mut added = Vec::new();
        for (digest, listed) in &old.known.files {
            if new.known.files.contains_key(digest) {
                continue;
            }
            for one in listed {
                if let Some(term) = self.ending(one.term) {
                    let mut file = dated(&term);
                    file.insert("digest".to_owned(), digest.to_string().into());
                    file.insert("name".to_owned(), one.name.clone().into());
                    added.push(Toml::Table(file));
                }
            }
        }
        self.append("file", added);
    }

    fn keys(&mut self, old: &FilesProfile, new: &FilesProfile) {
        let spelt = self.old.get("ima").and_then(|ima| ima.get("key"));
        let spelt = spelt.and_then(Toml::as_array).cloned().unwrap_or_default();
        let mut added = Vec::new();
        // One entry of the file is one key, in its order.
        for (key, entry) in old.known.keys.iter().zip(spelt) {
            let known = new.known.keys.iter().any(|other| other.key == key.key);
            if let (false, Some(term), Toml::Table(mut entry)) =
                (known, self.ending(key.term), entry)
            {
                entry.extend(dated(&term));
                added.push(Toml::Table(entry));
            }
        }
        self.append("key", added);
    }

    fn append(&mut self, what: &str, added: Vec<Toml>) {
        let Some(ima) = member(&mut self.table, "ima").filter(|_| !added.is_empty()) else {
            return;
        };
        let list = ima
            .entry(what)
            .or_insert_with(|| Toml::Array(Vec::new()))
            .as_array_mut();
        if let Some(list) = list {
            list.extend(added);
        }
    }

    /// What the old one took back stays so: it may stand among the values that come along.
    fn revoked(&mut self, new: &Profile) {
        let old = self.old.get("revoked").and_then(Toml::as_array);
        let named = |one: &&Toml| {
            let digest = one.get("digest").and_then(Toml::as_str);
            let digest = digest.and_then(|text| hex::decode(text).ok());
            digest.is_some_and(|digest| !new.revoked.contains_key(&digest))
        };
        let taken: Vec<Toml> = old.into_iter().flatten().filter(named).cloned().collect();
        if taken.is_empty() {
            return;
        }
        let list = self.table.entry("revoked");
        let list = list.or_insert_with(|| Toml::Array(Vec::new()));
        if let Some(list) = list.as_array_mut() {
            list.extend(taken);
        }
    }

    /// Both agents count: the list says until when the old one may run.
    fn agents(&mut self, old: &Profile, new: &Profile) {
        let (Some(before), Some(known), Some(_)) = (&old.strict, &new.strict, files(new)) else {
            return;
        };
        let list = member(&mut self.table, "strict")
            .and_then(|strict| strict.get_mut("agent"))
            .and_then(Toml::as_array_mut);
        if let Some(list) = list {
            let added = before.agent.difference(&known.agent);
            list.extend(added.map(|digest| Toml::String(hex::encode(digest))));
        }
    }
}

fn member<'t>(table: &'t mut Table, key: &str) -> Option<&'t mut Table> {
    table.get_mut(key)?.as_table_mut()
}

/// Values with their times; a lower bound is none.
fn alternatives(expected: &Expected) -> Option<Vec<Alternative>> {
    let always = |value: &Value| Alternative {
        value: value.clone(),
        name: None,
        term: Term::default(),
    };
    match expected {
        Expected::Is(value) => Some(vec![always(value)]),
        Expected::OneOf(values) => Some(values.iter().map(always).collect()),
        Expected::Any(all) => Some(all.clone()),
        Expected::AtLeast(_) => None,
    }
}

fn alternative(one: &Alternative) -> Toml {
    let value = match &one.value {
        Value::Text(text) => Toml::String(text.clone()),
        Value::Flag(flag) => Toml::Boolean(*flag),
        Value::Number(number) => Toml::Integer(i64::try_from(*number).unwrap_or(i64::MAX)),
    };
    let mut table = dated(&one.term);
    table.insert("is".to_owned(), value);
    if let Some(name) = &one.name {
        table.insert("name".to_owned(), name.clone().into());
    }
    Toml::Table(table)
}

fn dated(term: &Term) -> Table {
    let dates = [
        ("not_before", term.not_before),
        ("not_after", term.not_after),
        ("revoked", term.revoked),
    ];
    let said = dates.into_iter();
    said.filter_map(|(key, at)| Some((key.to_owned(), moment(at?).into())))
        .collect()
}

/// As it will be until the date: what ends then does not.
fn opened(mut profile: Profile, until: UnixTime) -> Profile {
    let open = |term: &mut Term| {
        if term.not_after == Some(until) {
            term.not_after = None;
        }
    };
    let values = profile.tpm.values.values_mut().flatten();
    values.for_each(|one| open(&mut one.term));
    for requirement in &mut profile.requirements {
        if let Expected::Any(all) = &mut requirement.expected {
            all.iter_mut().for_each(|one| open(&mut one.term));
        }
    }
    let files = profile.ima.as_mut().and_then(|ima| ima.files.as_mut());
    if let Some(files) = files {
        let listed = files.known.files.values_mut().flatten();
        listed.for_each(|one| open(&mut one.term));
        files
            .known
            .keys
            .iter_mut()
            .for_each(|key| open(&mut key.term));
    }
    profile
}
