//! `endorsements import|status`: reference values that an operator brings, kept by digest.
//!
//! A store is a folder with one file for each document, named by its SHA-256: what is there is
//! what the name says, or is told. There is no index that could say something else. Who fetched
//! the documents, and how, does not matter: they are checked when they come in, and whenever they
//! are looked at.

mod store;
mod tar;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::gpu::Anchors;
use bailiwick_attestation::gpu::rim::{self, Checked, RimRefused};
use bailiwick_attestation::x509::{Bundle, Certificate};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::Exit;
use crate::format::{Format, Listing, parse_time, time};
use store::Store;

/// A day, in seconds.
const DAY: u64 = 24 * 60 * 60;

/// Arguments of `endorsements`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes GPU reference values (RIM) out of folders, archives or files into a store. If one
    /// file is something else, or not endorsed by NVIDIA, nothing is taken.
    Import(Import),
    /// Lists what a store holds and when it ends.
    Status(Status),
}

#[derive(Debug, clap::Args)]
struct Import {
    /// Folders, uncompressed tar archives, or files: XML, base64, or the RIM service's JSON.
    #[arg(required = true, value_name = "FOLDER|TAR|FILE")]
    sources: Vec<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Status {
    /// Days before its end at which something is said to end soon.
    #[arg(long, default_value_t = 60)]
    within: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The folder of the store.
    #[arg(long, value_name = "FOLDER")]
    store: PathBuf,
    /// Certificates of the roots that are trusted instead of NVIDIA's, which is built in: PEM or
    /// DER. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    roots: Vec<PathBuf>,
    /// The time asked about: RFC 3339, or seconds since 1970. Default: now.
    #[arg(long, value_parser = parse_time)]
    at: Option<UnixTime>,
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

impl Common {
    fn at(&self) -> anyhow::Result<UnixTime> {
        self.at.map_or_else(now, Ok)
    }

    fn anchors(&self) -> anyhow::Result<Anchors> {
        if self.roots.is_empty() {
            return Ok(Anchors::rim());
        }
        let mut roots = Vec::new();
        for path in &self.roots {
            let name = || path.display().to_string();
            let bundle = Bundle::parse(&store::read(path)?).with_context(name)?;
            ensure!(
                bundle.unreadable.is_empty(),
                "{}: not all can be read",
                name()
            );
            roots.extend(bundle.certificates);
        }
        Ok(Anchors::of(&roots))
    }
}

/// Imports, or lists.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let (exit, listing, output) = match &args.command {
        Command::Import(args) => {
            let (exit, listing) = import(args)?;
            (exit, listing, args.common.output)
        }
        Command::Status(args) => {
            let (exit, listing) = status(args)?;
            (exit, listing, args.common.output)
        }
    };
    listing.print(output)?;
    Ok(exit)
}

/// Takes in all that is endorsed, or nothing. A signer's certificate that has run out refuses
/// nothing here: the document is as it was, and whether it still counts is for a profile to say.
fn import(args: &Import) -> anyhow::Result<(Exit, Listing)> {
    let (at, anchors) = (args.common.at()?, args.common.anchors()?);
    let store = Store::create(&args.common.store)?;
    let mut rows = Vec::new();
    let mut good = Vec::new();
    let mut exit = Exit::Good;
    for brought in store::brought(&args.sources)? {
        let checked = rim::check(&brought.bytes, &anchors, at);
        let outcome = if checked.endorsed().is_none() {
            exit = Exit::Refused;
            "refused"
        } else if store.has(&checked.digest) {
            "there already"
        } else {
            "taken"
        };
        let mut row = row(&checked, at);
        row["file"] = brought.name.as_str().into();
        row["outcome"] = outcome.into();
        rows.push(row);
        if outcome == "taken" {
            good.push((brought, checked.digest));
        }
    }
    if exit == Exit::Good {
        for (brought, digest) in &good {
            // As a document, in whatever form it came.
            store.put(digest, &rim::document(&brought.bytes)?)?;
        }
    } else {
        // Half an import is worse than none: whoever brought it looks at it again.
        for row in rows.iter_mut().filter(|row| row["outcome"] == "taken") {
            row["outcome"] = "good, not taken".into();
        }
    }
    let columns = &[
        "file", "outcome", "code", "product", "edition", "version", "ends",
    ];
    Ok((exit, Listing { columns, rows }))
}

/// Everything in the store is checked again; what is not what its name says refuses the store.
fn status(args: &Status) -> anyhow::Result<(Exit, Listing)> {
    let (at, anchors) = (args.common.at()?, args.common.anchors()?);
    let soon = args.within.saturating_mul(DAY);
    let mut exit = Exit::Good;
    let mut rows = Vec::new();
    for (name, bytes) in Store::open(&args.common.store)?.all()? {
        let checked = rim::check(&bytes, &anchors, at);
        let standing = if name != checked.digest.to_string() {
            exit = Exit::Refused;
            "not what its name says"
        } else if checked.endorsed().is_none() {
            exit = Exit::Refused;
            "refused"
        } else {
            standing(&checked, at, soon)
        };
        let mut row = row(&checked, at);
        row["file"] = name.into();
        row["standing"] = standing.into();
        rows.push(row);
    }
    rows.sort_by_key(|row| (row["not_after"].as_u64(), row["file"].to_string()));
    let columns = &[
        "sha256", "product", "edition", "version", "active", "ends", "standing", "code",
    ];
    Ok((exit, Listing { columns, rows }))
}

/// How long it counts as it is.
fn standing(checked: &Checked, at: UnixTime, soon: u64) -> &'static str {
    let ends = checked
        .certificates
        .first()
        .map(|signer| signer.not_after().secs());
    match (checked.signer_valid, ends) {
        (Some(true), Some(ends)) if ends.saturating_sub(at.secs()) <= soon => "ends soon",
        (Some(true), _) => "valid",
        (_, Some(ends)) if ends < at.secs() => "ended",
        _ => "not yet valid",
    }
}

fn row(checked: &Checked, at: UnixTime) -> Value {
    let ends = checked.certificates.first().map(Certificate::not_after);
    let rim = checked.content();
    json!({
        "sha256": checked.digest.to_string(),
        "product": rim.map(|rim| &rim.product),
        "edition": rim.map(|rim| &rim.edition),
        "version": rim.map(|rim| &rim.version),
        "tag": rim.map(|rim| &rim.id),
        "active": rim.map(|rim| rim.golden.len()),
        "ends": ends.map(|ends| time(ends.secs().saturating_mul(1000))),
        "not_after": ends.map(UnixTime::secs),
        "days_left": ends.map(|ends| ends.secs().saturating_sub(at.secs()) / DAY),
        "code": checked.refusals.first().map(RimRefused::code),
    })
}

fn now() -> anyhow::Result<UnixTime> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let secs = now.context("the clock is before 1970")?.as_secs();
    Ok(UnixTime::from_secs(secs))
}

#[cfg(test)]
mod tests;
