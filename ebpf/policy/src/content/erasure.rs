//! `erasure.toml`: whose keys are to be destroyed.

use std::collections::BTreeSet;

use bailiwick_attestation::{FileError, StudyId, TomlFile};
use serde::Deserialize;
use toml::Spanned;

use crate::manifest::{REASON_RULE, sound_reason};

/// Most bytes of the file.
pub const ERASURE_FILE_LIMIT: usize = 1024 * 1024;
/// Most buckets by name; more than these are meant by naming none.
pub const ERASURE_BUCKETS_LIMIT: usize = 4096;

/// The keys under which sealed parts of events are to become unreadable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Erasure {
    /// Of which study.
    pub study: StudyId,
    /// Of which subject buckets; `None` for all.
    pub buckets: Option<BTreeSet<String>>,
    /// Of which retention class; `None` for all.
    pub retention: Option<String>,
    /// Why, for people.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawErasure {
    study: Spanned<String>,
    buckets: Option<Spanned<Vec<Spanned<String>>>>,
    retention: Option<Spanned<String>>,
    reason: Spanned<String>,
}

impl Erasure {
    /// Reads the file whole.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, FileError> {
        let file = TomlFile::new(path, bytes, ERASURE_FILE_LIMIT)?;
        let raw: RawErasure = file.parse()?;
        let study = StudyId::new(raw.study.get_ref())
            .map_err(|err| file.error(raw.study.span(), format!("{:?} {}", err.name, err.fault)))?;
        // The rule for all names: what is safe in a label, a log line and a table.
        let name = |text: &Spanned<String>| match StudyId::new(text.get_ref()) {
            Ok(name) => Ok(String::from(name)),
            Err(err) => Err(file.error(text.span(), format!("{:?} {}", err.name, err.fault))),
        };
        let buckets = match &raw.buckets {
            None => None,
            Some(texts) => {
                if texts.get_ref().is_empty() {
                    // Someone who meant nobody would erase everybody.
                    let fault = "names nothing; leave the key out for all buckets";
                    return Err(file.error(texts.span(), fault));
                }
                if let Some(extra) = texts.get_ref().get(ERASURE_BUCKETS_LIMIT) {
                    let fault = format!("more than {ERASURE_BUCKETS_LIMIT} buckets");
                    return Err(file.error(extra.span(), fault));
                }
                let mut buckets = BTreeSet::new();
                for text in texts.get_ref() {
                    if !buckets.insert(name(text)?) {
                        let fault = format!("{:?} stands here twice", text.get_ref());
                        return Err(file.error(text.span(), fault));
                    }
                }
                Some(buckets)
            }
        };
        let retention = raw.retention.as_ref().map(name).transpose()?;
        if !sound_reason(raw.reason.get_ref()) {
            return Err(file.error(raw.reason.span(), REASON_RULE));
        }
        Ok(Self {
            study,
            buckets,
            retention,
            reason: raw.reason.into_inner(),
        })
    }

    /// Whether a key of this study, subject bucket and retention class is meant.
    #[must_use]
    pub fn names(&self, study: &StudyId, bucket: &str, retention: &str) -> bool {
        self.study == *study
            && self.buckets.as_ref().is_none_or(|b| b.contains(bucket))
            && self.retention.as_ref().is_none_or(|r| r == retention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "study = \"cardio\"\nbuckets = [\"b-07\", \"b-08\"]\nretention = \"trial\"\n\
        reason = \"consent withdrawn\"\n";

    #[test]
    fn what_is_left_out_means_all() {
        let study = |name| StudyId::new(name).unwrap();
        let read = |text: &str| Erasure::parse("erasure.toml", text.as_bytes()).unwrap();
        let some = read(GOOD);
        let rows = [
            ("cardio", "b-07", "trial", true),
            ("cardio", "b-09", "trial", false),
            ("cardio", "b-07", "short", false),
            ("neuro", "b-07", "trial", false),
        ];
        for (name, bucket, retention, want) in rows {
            let got = some.names(&study(name), bucket, retention);
            assert_eq!(got, want, "{name} {bucket} {retention}");
        }
        let all = read("study = \"cardio\"\nreason = \"trial over\"\n");
        assert!(all.names(&study("cardio"), "b-09", "short"));
        assert!(!all.names(&study("neuro"), "b-09", "short"));
    }

    #[test]
    fn what_is_unclear_is_refused_by_line_and_key() {
        let rows: &[(&str, &str, &str)] = &[
            (
                "\"cardio\"",
                "\"*\"",
                "1: study: \"*\" may hold only a-z, 0-9, '-' and '.'",
            ),
            (
                "\"b-07\", \"b-08\"",
                "",
                "2: buckets: names nothing; leave the key out for all buckets",
            ),
            ("b-08", "b-07", "2: buckets: \"b-07\" stands here twice"),
            (
                "trial",
                "Trial",
                "3: retention: \"Trial\" may hold only a-z, 0-9, '-' and '.'",
            ),
            (
                "consent withdrawn",
                " ",
                "4: reason: a reason has 1 to 1000 bytes on one line",
            ),
            (
                "study",
                "studies",
                "1: studies: unknown field `studies`, expected one of `study`, `buckets`, `retention`, `reason`",
            ),
        ];
        for (from, to, want) in rows {
            let text = GOOD.replacen(from, to, 1);
            let refused = Erasure::parse("erasure.toml", text.as_bytes()).expect_err(want);
            assert_eq!(refused.to_string(), format!("erasure.toml:{want}"));
        }
    }
}
