//! `endorsements import|status|coming`: reference values, what is known of revocation, and roots, as an
//! operator brings them, kept by digest.
//!
//! A store is a folder with one file for each document, named by its SHA-256: what is there is
//! what the name says, or is told. There is no index that could say something else. Who fetched
//! the documents, and how, does not matter: they are checked when they come in, and whenever they
//! are looked at.

mod coming;
mod document;
mod relying;
mod store;
mod tar;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::gpu::Anchors;
use bailiwick_attestation::x509::Bundle;
use clap::Subcommand;

use crate::Exit;
use crate::client::{Connection, refused};
use crate::format::{Format, Listing, parse_time};
use document::{Document, Kind, Trust};
use relying::Relying;
use store::{Brought, Store};

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
    /// Takes GPU reference values (RIM), OCSP responses, lists of revoked certificates (CRL), certificates
    /// of AMD's keys with what stands above them, Intel's collateral, and roots out of folders, archives
    /// or files into a store. If one file is something else, or reference
    /// values are endorsed neither by NVIDIA nor under a root that comes along or is there, nothing is
    /// taken. A root, and what is under it, counts where approvers name it in a profile, by its digest
    /// (`[gpu] rim_roots`, `device_roots`); what it vouches for is never hardware.
    Import(Import),
    /// Lists what a store holds and when it ends.
    Status(Status),
    /// Says what collateral to come would make of the newest report of each confidential guest: whose
    /// firmware would be out of date, or taken back, once it is in the store. Nothing is changed.
    Coming(coming::Args),
}

#[derive(Debug, clap::Args)]
struct Import {
    /// Folders, uncompressed tar archives, or files: RIMs as XML, base64, or the RIM service's JSON;
    /// the others as DER, base64 or PEM.
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
    /// Asks the collector which nodes' newest results hang on each document.
    #[arg(long)]
    nodes: bool,
    #[command(flatten)]
    connection: Connection,
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

    /// `brought`: documents that are there or come along.
    fn trust<'a>(&self, brought: impl IntoIterator<Item = &'a Document>) -> anyhow::Result<Trust> {
        let roots = brought.into_iter().filter_map(Document::root);
        let roots: Vec<_> = roots.map(|root| root.certificate().clone()).collect();
        Ok(Trust {
            base: self.anchors()?,
            brought: Anchors::of(&roots),
        })
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
            let relying = match args.nodes {
                true => match relying::ask(&args.connection)? {
                    Ok(relying) => Some(relying),
                    Err(status) => return refused(&status),
                },
                false => None,
            };
            let (exit, listing) = status(args, relying.as_ref())?;
            (exit, listing, args.common.output)
        }
        Command::Coming(args) => match coming::run(args)? {
            Ok(listing) => (Exit::Good, listing, args.common.output),
            Err(status) => return refused(&status),
        },
    };
    listing.print(output)?;
    Ok(exit)
}

/// Takes in all that will do, or nothing. A document that has run out refuses nothing here: it is
/// as it was, and whether it still counts is for a profile to say.
fn import(args: &Import) -> anyhow::Result<(Exit, Listing)> {
    let at = args.common.at()?;
    let store = Store::create(&args.common.store)?;
    let all: Vec<(Kind, Brought)> = store::brought(&args.sources)?
        .into_iter()
        .map(|brought| (Kind::of(&brought.bytes), brought))
        .collect();
    let came = all.iter().filter(|(kind, _)| *kind == Kind::Root);
    let came = came.map(|(_, brought)| root(&brought.bytes, at));
    let mut roots = roots(&store, at)?;
    roots.extend(came);
    let trust = args.common.trust(&roots)?;
    let mut rows = Vec::new();
    let mut good = Vec::new();
    let mut exit = Exit::Good;
    for (kind, brought) in all {
        let document = Document::read(kind, &brought.bytes, &trust, at);
        let outcome = if document.refused.is_some() {
            exit = Exit::Refused;
            "refused"
        } else if store.has(&document) {
            "there already"
        } else {
            "taken"
        };
        let mut row = document.row(at);
        row["file"] = brought.name.into();
        row["outcome"] = outcome.into();
        rows.push(row);
        if outcome == "taken" {
            good.push(document);
        }
    }
    if exit == Exit::Good {
        for document in &good {
            store.put(document)?;
        }
    } else {
        // Half an import is worse than none: whoever brought it looks at it again.
        for row in rows.iter_mut().filter(|row| row["outcome"] == "taken") {
            row["outcome"] = "good, not taken".into();
        }
    }
    let columns = &["file", "kind", "outcome", "code", "about", "ends"];
    Ok((exit, Listing { columns, rows }))
}

/// Everything in the store is checked again; what is not what its name says refuses the store.
/// `relying`: nodes by the digests of what their newest results hang on, where a collector was
/// asked.
fn status(args: &Status, relying: Option<&Relying>) -> anyhow::Result<(Exit, Listing)> {
    let at = args.common.at()?;
    let soon = args.within.saturating_mul(DAY);
    let mut exit = Exit::Good;
    let mut rows = Vec::new();
    let store = Store::open(&args.common.store)?;
    let trust = args.common.trust(&roots(&store, at)?)?;
    for (name, kind, bytes) in store.all(&Kind::ALL)? {
        let document = Document::read(kind, &bytes, &trust, at);
        let standing = if name != document.digest.to_string() {
            exit = Exit::Refused;
            "not what its name says"
        } else if document.refused.is_some() {
            exit = Exit::Refused;
            "refused"
        } else {
            document.standing(at, soon)
        };
        let mut row = document.row(at);
        if let Some(relying) = relying {
            let nodes = relying.get(&name).cloned().unwrap_or_default();
            row["nodes"] = nodes.len().into();
            row["relied_on_by"] = nodes.into();
        }
        row["file"] = name.into();
        row["standing"] = standing.into();
        rows.push(row);
    }
    rows.sort_by_key(|row| (row["not_after"].as_u64(), row["file"].to_string()));
    let columns: &[&str] = match relying {
        Some(_) => &[
            "sha256",
            "kind",
            "about",
            "ends",
            "standing",
            "code",
            "nodes",
            "relied_on_by",
        ],
        None => &["sha256", "kind", "about", "ends", "standing", "code"],
    };
    Ok((exit, Listing { columns, rows }))
}

/// The roots that are there, each under the name of its digest.
fn roots(store: &Store, at: UnixTime) -> anyhow::Result<Vec<Document>> {
    let there = store.all(&[Kind::Root])?.into_iter();
    let read = there.map(|(name, _, bytes)| (name, root(&bytes, at)));
    let named = read.filter(|(name, document)| *name == document.digest.to_string());
    Ok(named.map(|(_, document)| document).collect())
}

/// A root, which nobody vouches for.
fn root(bytes: &[u8], at: UnixTime) -> Document {
    let nobody = Trust {
        base: Anchors::default(),
        brought: Anchors::default(),
    };
    Document::read(Kind::Root, bytes, &nobody, at)
}

fn now() -> anyhow::Result<UnixTime> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let secs = now.context("the clock is before 1970")?.as_secs();
    Ok(UnixTime::from_secs(secs))
}

#[cfg(test)]
mod tests;
