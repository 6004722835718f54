//! `profile diff A B`: what B allows that A does not, and the reverse.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bailiwick_attestation::profile::{Profile, diff};
use serde_json::json;

use crate::Exit;
use crate::client::BytesRefused;
use crate::format::{Format, Listing};

/// Arguments of `profile diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The profile before.
    before: PathBuf,
    /// The profile after.
    after: PathBuf,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Runs it. There is nothing to ask a collector.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let (before, after) = (read(&args.before)?.0, read(&args.after)?.0);
    let rows = diff(&before, &after)
        .iter()
        .map(|one| json!({"way": one.way.as_str(), "topic": one.topic, "text": one.text}))
        .collect();
    Listing {
        columns: &["way", "topic", "text"],
        rows,
    }
    .print(args.output)?;
    Ok(Exit::Good)
}

/// A profile and its bytes; one that is none is refused by file and key.
pub(crate) fn read(path: &Path) -> anyhow::Result<(Profile, Vec<u8>)> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| shown.clone())?;
    let profile = Profile::parse(&shown, &bytes).map_err(|error| BytesRefused {
        code: "profile-refused",
        detail: error.to_string(),
    })?;
    Ok((profile, bytes))
}
