//! `break-glass.toml`: standing without appraisal, for a while, signed beforehand.

use std::collections::BTreeSet;

use bailiwick_attestation::{FileError, NodeId, StudyId, TomlFile, UnixTime};
use serde::Deserialize;
use toml::Spanned;

use crate::manifest::{REASON_RULE, instant, sound_reason};
use crate::model::STUDIES_LIMIT;

/// Most bytes of the file.
pub const BREAK_GLASS_FILE_LIMIT: usize = 128 * 1024;
/// Most nodes by name; more than these are meant by `*`.
pub const BREAK_GLASS_NODES_LIMIT: usize = 1024;
/// Longest time: a day. Whoever needs more signs again.
pub const BREAK_GLASS_SECONDS: u32 = 24 * 3600;

/// For so long the studies named are judged on these nodes as if a lease stood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BreakGlass {
    /// Where.
    pub nodes: Nodes,
    /// For whom; at least one.
    pub studies: BTreeSet<StudyId>,
    /// How long, from the moment a node takes it; 1 to [`BREAK_GLASS_SECONDS`].
    pub duration_seconds: u32,
    /// The last moment at which a node may take it.
    pub use_before: UnixTime,
    /// Why it was signed, for people.
    pub reason: String,
}

/// On which nodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Nodes {
    /// All of the deployment.
    All,
    /// These; at least one.
    Named(BTreeSet<NodeId>),
}

impl Nodes {
    /// Whether a node is meant.
    #[must_use]
    pub fn contains(&self, node: &NodeId) -> bool {
        match self {
            Self::All => true,
            Self::Named(nodes) => nodes.contains(node),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBreakGlass {
    nodes: Spanned<Vec<Spanned<String>>>,
    studies: Spanned<Vec<Spanned<String>>>,
    duration_seconds: Spanned<u32>,
    use_before: Spanned<String>,
    reason: Spanned<String>,
}

impl BreakGlass {
    /// Reads the file whole.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, FileError> {
        let file = TomlFile::new(path, bytes, BREAK_GLASS_FILE_LIMIT)?;
        let raw: RawBreakGlass = file.parse()?;
        let nodes = nodes(&file, &raw.nodes)?;
        let studies = set(&file, &raw.studies, STUDIES_LIMIT, |text| {
            StudyId::new(text).map_err(|err| format!("{:?} {}", err.name, err.fault))
        })?;
        let duration = *raw.duration_seconds.get_ref();
        if !(1..=BREAK_GLASS_SECONDS).contains(&duration) {
            let fault = format!("must be 1 to {BREAK_GLASS_SECONDS}");
            return Err(file.error(raw.duration_seconds.span(), fault));
        }
        let use_before = instant(raw.use_before.get_ref()).ok_or_else(|| {
            let fault = "is no time: 2027-01-01T00:00:00Z";
            file.error(raw.use_before.span(), fault)
        })?;
        if !sound_reason(raw.reason.get_ref()) {
            return Err(file.error(raw.reason.span(), REASON_RULE));
        }
        Ok(Self {
            nodes,
            studies,
            duration_seconds: duration,
            use_before,
            reason: raw.reason.into_inner(),
        })
    }
}

fn nodes(file: &TomlFile<'_>, texts: &Spanned<Vec<Spanned<String>>>) -> Result<Nodes, FileError> {
    if let [only] = texts.get_ref().as_slice()
        && only.get_ref() == "*"
    {
        return Ok(Nodes::All);
    }
    let named = set(file, texts, BREAK_GLASS_NODES_LIMIT, |text| {
        NodeId::new(text).map_err(|err| format!("{:?} {}", err.name, err.fault))
    })?;
    Ok(Nodes::Named(named))
}

fn set<T: Ord>(
    file: &TomlFile<'_>,
    texts: &Spanned<Vec<Spanned<String>>>,
    limit: usize,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeSet<T>, FileError> {
    if texts.get_ref().is_empty() {
        return Err(file.error(texts.span(), "names nothing"));
    }
    if let Some(extra) = texts.get_ref().get(limit) {
        return Err(file.error(extra.span(), format!("more than {limit} entries")));
    }
    let mut values = BTreeSet::new();
    for text in texts.get_ref() {
        let value = check(text.get_ref()).map_err(|fault| file.error(text.span(), fault))?;
        if !values.insert(value) {
            let fault = format!("{:?} stands here twice", text.get_ref());
            return Err(file.error(text.span(), fault));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "nodes = [\"gpu-01\"]\nstudies = [\"cardio\", \"neuro\"]\n\
        duration_seconds = 3600\nuse_before = \"2026-12-01T00:00:00Z\"\nreason = \"collector lost\"\n";

    #[test]
    fn it_says_where_for_whom_and_how_long() {
        let read = BreakGlass::parse("break-glass.toml", GOOD.as_bytes()).unwrap();
        assert!(read.nodes.contains(&NodeId::new("gpu-01").unwrap()));
        assert!(!read.nodes.contains(&NodeId::new("gpu-02").unwrap()));
        assert_eq!((read.studies.len(), read.duration_seconds), (2, 3600));
        assert_eq!(read.use_before, UnixTime::from_secs(1_796_083_200));
        let all = GOOD.replace("gpu-01", "*");
        let all = BreakGlass::parse("break-glass.toml", all.as_bytes()).unwrap();
        assert_eq!(all.nodes, Nodes::All);
        let day = GOOD.replace("3600", "86400");
        assert!(BreakGlass::parse("break-glass.toml", day.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_unbounded_or_unclear_is_refused_by_line_and_key() {
        let rows: &[(&str, &str, &str)] = &[
            ("3600", "86401", "3: duration_seconds: must be 1 to 86400"),
            ("3600", "0", "3: duration_seconds: must be 1 to 86400"),
            ("[\"gpu-01\"]", "[]", "1: nodes: names nothing"),
            (
                "\"gpu-01\"",
                "\"gpu-01\", \"*\"",
                "1: nodes: \"*\" may hold only a-z, 0-9, '-' and '.'",
            ),
            (
                "\"gpu-01\"",
                "\"gpu-01\", \"gpu-01\"",
                "1: nodes: \"gpu-01\" stands here twice",
            ),
            (
                "\"cardio\", \"neuro\"",
                "\"*\"",
                "2: studies: \"*\" may hold only a-z, 0-9, '-' and '.'",
            ),
            ("\"cardio\", \"neuro\"", "", "2: studies: names nothing"),
            (
                "T00:00:00Z",
                "",
                "4: use_before: is no time: 2027-01-01T00:00:00Z",
            ),
            (
                "collector lost",
                "",
                "5: reason: a reason has 1 to 1000 bytes on one line",
            ),
        ];
        for (from, to, want) in rows {
            let text = GOOD.replacen(from, to, 1);
            let refused = BreakGlass::parse("break-glass.toml", text.as_bytes()).expect_err(want);
            assert_eq!(refused.to_string(), format!("break-glass.toml:{want}"));
        }
        let unknown = format!("{GOOD}mode = \"audit\"\n");
        assert!(BreakGlass::parse("break-glass.toml", unknown.as_bytes()).is_err());
    }
}
