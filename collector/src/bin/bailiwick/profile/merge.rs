//! `profile merge OLD NEW --until DATE`: one profile for the time of an update.

use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::profile::merge;

use crate::Exit;
use crate::client::BytesRefused;
use crate::format::{parse_time, print};

/// Arguments of `profile merge`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The profile that nodes come from.
    old: PathBuf,
    /// The profile that they go to; its terms count.
    new: PathBuf,
    /// Until when a node of the old one is good: RFC 3339, or seconds since 1970.
    #[arg(long, value_parser = parse_time)]
    until: UnixTime,
    /// Where to write it; standard output if absent.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Runs it. There is nothing to ask a collector.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let read = |path: &PathBuf| {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path).with_context(|| shown.clone())?;
        anyhow::Ok((shown, bytes))
    };
    let (old, new) = (read(&args.old)?, read(&args.new)?);
    let merged = merge((&old.0, &old.1), (&new.0, &new.1), args.until);
    let merged = merged.map_err(|refused| BytesRefused {
        code: refused.code(),
        detail: format!("{:#}", anyhow::Error::from(refused)),
    })?;
    match &args.out {
        Some(path) => {
            std::fs::write(path, &merged.text).with_context(|| path.display().to_string())?;
        }
        None => print(&merged.text)?,
    }
    for one in &merged.at_once {
        eprintln!(
            "bailiwick: at once, not at that date: {} {}: {}",
            one.way.as_str(),
            one.topic,
            one.text
        );
    }
    Ok(Exit::Good)
}
