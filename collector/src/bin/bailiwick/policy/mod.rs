//! `policy manifest|sign|apply|plan|show|status|approvers`, and the way to `explain`.

mod folder;
mod plan;
mod sign;
mod status;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_collector::direct::{Collect, chunks};
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{self, Draft, Manifest};
use clap::Subcommand;
use prost::Message as _;
use serde_json::json;

use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, parse_time, print, time};
use crate::{Exit, explain};
pub(crate) use folder::known_files;
use folder::read;
pub(crate) use folder::read_bundle;
pub(crate) use status::world;

/// Arguments of `policy`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes manifest.toml over the files of a folder, ready for approvers to sign.
    Manifest(Compose),
    /// Signs the manifest of a folder, of whatever kind; with --version next, writes it first.
    Sign(sign::Args),
    /// Brings a signed folder of whatever kind to the collector.
    Apply {
        /// The folder.
        folder: PathBuf,
        /// How the result is printed.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Says what a study's fence would answer, and which line of policy makes it so.
    Explain(explain::Args),
    /// Says what a new policy would have denied and allowed of what was recorded.
    Plan(plan::Args),
    /// Says what is in force of each kind, who signed, until when, and which nodes lag.
    Status {
        /// How it is printed.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Who may sign, and how that changes.
    Approvers {
        #[command(subcommand)]
        command: status::ApproversCommand,
    },
    /// Shows the policy in force; with --to, writes it into a folder.
    Show {
        /// Of which kind: policy, approvers, world, break-glass, erasure.
        #[arg(long, default_value = "policy")]
        kind: String,
        /// A folder to write it into; must not exist.
        #[arg(long)]
        to: Option<PathBuf>,
        /// How it is printed.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}

#[derive(Debug, clap::Args)]
struct Compose {
    /// The folder.
    folder: PathBuf,
    /// What it is about: policy, approvers, world, break-glass, erasure.
    #[arg(long, default_value = "policy")]
    kind: String,
    /// The installation.
    #[arg(long)]
    deployment: String,
    /// Why it is made.
    #[arg(long)]
    reason: String,
    /// When it ends: RFC 3339, or seconds since 1970.
    #[arg(long, value_parser = parse_time)]
    not_after: UnixTime,
    /// The manifest in force, which this one follows; absent for the first.
    #[arg(long)]
    previous: Option<PathBuf>,
}

/// Runs `policy …`.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Manifest(compose) => write_manifest(compose),
        Command::Sign(args) => sign::run(args),
        Command::Status { output } => status::status(&args.connection, *output),
        Command::Approvers { command } => status::approvers(&args.connection, command),
        Command::Apply { folder, output } => apply(&args.connection, folder, *output),
        Command::Explain(explain) => explain::run(&args.connection, explain),
        Command::Plan(plan) => plan::run(&args.connection, plan),
        Command::Show { kind, to, output } => {
            show(&args.connection, parse_kind(kind)?, to.as_deref(), *output)
        }
    }
}

fn parse_kind(word: &str) -> anyhow::Result<Kind> {
    Kind::parse(word).with_context(|| format!("--kind: {word:?} is no kind of manifest"))
}

fn write_manifest(compose: &Compose) -> anyhow::Result<Exit> {
    let deployment = DeploymentId::new(&compose.deployment)?;
    let kind = parse_kind(&compose.kind)?;
    let (version, previous) = match &compose.previous {
        None => (1, None),
        Some(path) => {
            let before = folder::parse(path, &read(path)?)?;
            (before.version.saturating_add(1), Some(before.digest))
        }
    };
    let draft = Draft {
        deployment: &deployment,
        kind,
        version,
        previous,
        not_after: compose.not_after,
        reason: &compose.reason,
    };
    let text = manifest::compose(&draft, &known_files(&compose.folder, kind)?)?;
    let path = compose.folder.join(manifest::MANIFEST);
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    print(&format!(
        "{}: version {version}; now each approver runs\n  ssh-keygen -Y sign -f KEY -n {} {}\nand renames the .sig to manifest.toml.NAME.sig\n",
        path.display(),
        kind.namespace(&deployment),
        path.display(),
    ))?;
    Ok(Exit::Good)
}

pub(crate) fn apply(
    connection: &Connection,
    folder: &Path,
    output: Format,
) -> anyhow::Result<Exit> {
    let bundle = v1::PolicyBundle::from(read_bundle(folder)?).encode_to_vec();
    let upload: Vec<_> = chunks(Arc::new(bundle)).collect();
    let answer = block_on(async {
        let mut client = connection.open().await?;
        Ok(client.apply_policy(tokio_stream::iter(upload)).await)
    })?;
    match answer {
        Ok(answer) => {
            let answer = answer.into_inner();
            Listing {
                columns: &["kind", "version", "manifest"],
                rows: vec![json!({
                    "kind": answer.kind,
                    "version": answer.version,
                    "manifest": hex::encode(&answer.manifest_digest),
                })],
            }
            .print(output)?;
            Ok(Exit::Good)
        }
        Err(status) => refused(&status),
    }
}

/// Fetches the newest manifest of a kind.
pub(crate) async fn fetch(
    connection: &Connection,
    kind: Kind,
) -> anyhow::Result<Result<Vec<u8>, tonic::Status>> {
    let mut client = connection.open().await?;
    let request = v1::ShowPolicyRequest {
        kind: kind.as_str().to_owned(),
    };
    let mut stream = match client.show_policy(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    let mut collect = Collect::default();
    while let Some(chunk) = stream.message().await? {
        collect.push(&chunk)?;
    }
    Ok(Ok(collect.finish()))
}

fn show(
    connection: &Connection,
    kind: Kind,
    to: Option<&Path>,
    output: Format,
) -> anyhow::Result<Exit> {
    let bytes = match block_on(fetch(connection, kind))? {
        Ok(bytes) => bytes,
        Err(status) => return refused(&status),
    };
    let bundle = v1::PolicyBundle::decode(bytes.as_slice())?;
    let parsed = Manifest::parse(&bundle.manifest)?;
    if let Some(folder) = to {
        folder::write_bundle(folder, kind, &bundle)?;
    }
    let rows = bundle
        .files
        .iter()
        .map(|file| {
            json!({
                "file": file.path,
                "bytes": file.content.len(),
                "sha256": Sha256Digest::of(&[&file.content]).to_string(),
            })
        })
        .collect();
    let files = Listing {
        columns: &["file", "bytes", "sha256"],
        rows,
    };
    if output == Format::Json {
        let json = json!({
            "deployment": parsed.deployment,
            "kind": kind.as_str(),
            "version": parsed.version,
            "manifest": parsed.digest,
            "previous": parsed.previous,
            "not_after": time(parsed.not_after.millis()),
            "reason": parsed.reason,
            "signatures": bundle.signatures.len(),
            "files": files.rows,
        });
        print(&format!("{}\n", serde_json::to_string_pretty(&json)?))?;
        return Ok(Exit::Good);
    }
    if output == Format::Table {
        print(&format!(
            "{} {kind}, version {}, until {}\n{}\nmanifest {}, {} signatures\n\n",
            parsed.deployment,
            parsed.version,
            time(parsed.not_after.millis()),
            parsed.reason,
            parsed.digest,
            bundle.signatures.len(),
        ))?;
    }
    files.print(output)?;
    Ok(Exit::Good)
}
