//! A manifest of any kind over a folder's files: what honest tools write, for whoever holds the pen.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_collector::direct::read_approvers;
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{self, Draft};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder
    folder: PathBuf,
    #[arg(long)]
    deployment: String,
    #[arg(long)]
    kind: String,
    #[arg(long)]
    version: u64,
    /// When it ends, seconds since 1970
    #[arg(long)]
    not_after: u64,
    /// The manifest that it follows
    #[arg(long)]
    previous: Option<PathBuf>,
    /// The first approvers, which a first manifest of theirs follows
    #[arg(long)]
    genesis: Option<PathBuf>,
    /// How many of those it takes
    #[arg(long, default_value_t = 2)]
    threshold: u32,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let Some(kind) = Kind::parse(&args.kind) else {
        bail!("no kind {}", args.kind);
    };
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&args.folder).context("list the folder")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() && !name.starts_with(manifest::MANIFEST) {
            files.insert(name.into_owned(), std::fs::read(&path)?);
        }
    }
    let previous = match (&args.previous, &args.genesis) {
        (Some(file), _) => Some(Sha256Digest::of(&[&std::fs::read(file)?])),
        (None, Some(file)) => Some(read_approvers(file, args.threshold)?.digest()),
        (None, None) => None,
    };
    let deployment = DeploymentId::new(&args.deployment)?;
    let draft = Draft {
        deployment: &deployment,
        kind,
        version: args.version,
        previous,
        not_after: UnixTime(args.not_after.saturating_mul(1000)),
        reason: "a little change",
    };
    let text = manifest::compose(&draft, &files)?;
    std::fs::write(args.folder.join(manifest::MANIFEST), text).context("write the manifest")
}
