//! `profile capture NODE…`: a draft, checked against what it was drafted from.

use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_attestation::appraisal::{Deviation, Finding, Status, held_against, shown};
use bailiwick_attestation::profile::{Profile, Seen, draft};
use bailiwick_attestation::proto::v1;

use super::{Evidence, TERMS, fetch};
use crate::Exit;
use crate::client::{BytesRefused, Connection, refused};
use crate::format::{print, time};

/// Arguments of `profile capture`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Nodes that are good, by your word: what they all showed in all their boots is demanded.
    #[arg(required = true)]
    nodes: Vec<String>,
    /// How many boots of each are looked at, the last ones.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=32))]
    boots: u32,
    /// What the profile is called; the first node's name if absent.
    #[arg(long)]
    name: Option<String>,
    /// Where to write it; standard output if absent.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Runs it.
pub(crate) fn run(connection: &Connection, args: &Args) -> anyhow::Result<Exit> {
    let mut evidence: Vec<Evidence> = Vec::new();
    let mut terms = None;
    for node in &args.nodes {
        let request = v1::ListEvidenceRequest {
            node: node.clone(),
            boots: args.boots,
            ..v1::ListEvidenceRequest::default()
        };
        let record = match fetch(connection, request)? {
            Ok(record) => record,
            Err(status) => return refused(&status),
        };
        if record.evidence.is_empty() {
            eprintln!("bailiwick: {node} has said nothing yet: there is nothing to draft from");
            return Ok(Exit::CouldNotTell);
        }
        if terms.is_none() {
            terms = record.profile;
        }
        evidence.extend(record.evidence);
    }
    let terms = match terms {
        Some(terms) => terms,
        None => Profile::parse("terms", TERMS.as_bytes())?,
    };
    let seen: Vec<Seen> = evidence
        .iter()
        .map(|one| Seen {
            node: one.node.clone(),
            at: one.at,
            shown: shown(&one.verified, one.tpm, &terms),
        })
        .collect();
    let name = args.name.as_ref().or_else(|| args.nodes.first());
    let draft = draft(name.map_or("draft", String::as_str), &terms, &seen);
    let text = draft.to_toml();
    let profile = Profile::parse("draft", text.as_bytes()).map_err(|error| BytesRefused {
        code: "draft-refused",
        detail: error.to_string(),
    })?;
    match &args.out {
        Some(path) => std::fs::write(path, &text).with_context(|| path.display().to_string())?,
        None => print(&text)?,
    }
    for note in &draft.notes {
        eprintln!("bailiwick: {note}");
    }
    let counted = |count: usize, word: &str| format!("{count} {word}");
    eprintln!(
        "bailiwick: drafted from {}: {}, {}, {} left out (see the end of the file)",
        counted(seen.len(), "boots"),
        counted(draft.values.len(), "registers"),
        counted(draft.demands.len(), "claims"),
        draft.left_out.len()
    );
    Ok(check(&evidence, &profile))
}

/// Whether the draft affirms what it was drafted from, and what of it stands in the way.
fn check(evidence: &[Evidence], profile: &Profile) -> Exit {
    let mut exit = Exit::Good;
    for one in evidence {
        let result = held_against(&one.verified, one.tpm, profile, one.at);
        let refused = |deviation: &&Deviation| deviation.finding != Finding::Warning;
        for deviation in result.deviations().filter(refused) {
            eprintln!(
                "bailiwick: {} at {}: {deviation}",
                one.node,
                time(one.at.millis())
            );
        }
        if result.status > Status::Warning {
            exit = Exit::CouldNotTell;
        }
    }
    if exit != Exit::Good {
        eprintln!("bailiwick: the draft does not affirm all of what it was drafted from");
    }
    exit
}
