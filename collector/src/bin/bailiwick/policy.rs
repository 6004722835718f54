//! `policy manifest|apply|show`, and the way to `explain`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_collector::direct::{Collect, chunks};
use bailiwick_policy::bundle::Bundle;
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{self, Draft, Manifest};
use clap::Subcommand;
use prost::Message as _;
use serde_json::json;

use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, parse_time, print, time};
use crate::{Exit, explain};

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
    /// Brings a signed folder to the collector.
    Apply {
        /// The folder.
        folder: PathBuf,
        /// How the result is printed.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Says what a study's fence would answer, and which line of policy makes it so.
    Explain(explain::Args),
    /// Shows the policy in force; with --to, writes it into a folder.
    Show {
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
        Command::Apply { folder, output } => apply(&args.connection, folder, *output),
        Command::Explain(explain) => explain::run(&args.connection, explain),
        Command::Show { to, output } => show(&args.connection, to.as_deref(), *output),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// The files of a folder that a policy may hold; others are left alone and named.
pub(crate) fn known_files(folder: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for below in ["", "studies"] {
        let dir = folder.join(below);
        if !dir.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let name = path.strip_prefix(folder)?.to_string_lossy().into_owned();
            if Kind::Policy.holds(&name) {
                files.insert(name, read(&path)?);
            } else if path.is_file() && name != manifest::MANIFEST && !manifest::is_signature(&name)
            {
                eprintln!("bailiwick: {name} is no file of a policy and is left out");
            }
        }
    }
    Ok(files)
}

fn write_manifest(compose: &Compose) -> anyhow::Result<Exit> {
    let deployment = DeploymentId::new(&compose.deployment)?;
    let (version, previous) = match &compose.previous {
        None => (1, None),
        Some(path) => {
            let before =
                Manifest::parse(&read(path)?).with_context(|| path.display().to_string())?;
            (before.version.saturating_add(1), Some(before.digest))
        }
    };
    let draft = Draft {
        deployment: &deployment,
        kind: Kind::Policy,
        version,
        previous,
        not_after: compose.not_after,
        reason: &compose.reason,
    };
    let text = manifest::compose(&draft, &known_files(&compose.folder)?)?;
    let path = compose.folder.join(manifest::MANIFEST);
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    print(&format!(
        "{}: version {version}; now each approver runs\n  ssh-keygen -Y sign -f KEY -n {} {}\nand renames the .sig to manifest.toml.NAME.sig\n",
        path.display(),
        Kind::Policy.namespace(&deployment),
        path.display(),
    ))?;
    Ok(Exit::Good)
}

/// A signed folder as it travels: the manifest, every signature beside it, every file it lists.
pub(crate) fn read_bundle(folder: &Path) -> anyhow::Result<Bundle> {
    let bytes = read(&folder.join(manifest::MANIFEST))?;
    let parsed = Manifest::parse(&bytes)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if manifest::is_signature(&name) {
            names.push(name);
        }
    }
    names.sort();
    let signatures = names
        .iter()
        .map(|name| read(&folder.join(name)))
        .collect::<anyhow::Result<_>>()?;
    let files = parsed
        .files
        .keys()
        .map(|path| Ok((path.clone(), read(&folder.join(path))?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Bundle::from_files(bytes, signatures, files))
}

fn apply(connection: &Connection, folder: &Path, output: Format) -> anyhow::Result<Exit> {
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
                columns: &["version", "manifest"],
                rows: vec![json!({
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

/// Fetches the policy in force.
pub(crate) async fn fetch(
    connection: &Connection,
) -> anyhow::Result<Result<Vec<u8>, tonic::Status>> {
    let mut client = connection.open().await?;
    let mut stream = match client.show_policy(v1::ShowPolicyRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    let mut collect = Collect::default();
    while let Some(chunk) = stream.message().await? {
        collect.push(&chunk)?;
    }
    Ok(Ok(collect.finish()))
}

fn show(connection: &Connection, to: Option<&Path>, output: Format) -> anyhow::Result<Exit> {
    let bytes = match block_on(fetch(connection))? {
        Ok(bytes) => bytes,
        Err(status) => return refused(&status),
    };
    let bundle = v1::PolicyBundle::decode(bytes.as_slice())?;
    let parsed = Manifest::parse(&bundle.manifest)?;
    if let Some(folder) = to {
        write_bundle(folder, &bundle)?;
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
            "{} policy, version {}, until {}\n{}\nmanifest {}, {} signatures\n\n",
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

fn write_bundle(folder: &Path, bundle: &v1::PolicyBundle) -> anyhow::Result<()> {
    std::fs::create_dir(folder).with_context(|| folder.display().to_string())?;
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).with_context(|| path.display().to_string())
    };
    write(manifest::MANIFEST, &bundle.manifest)?;
    for (number, signature) in (1..).zip(&bundle.signatures) {
        write(&format!("{}.{number}.sig", manifest::MANIFEST), signature)?;
    }
    for file in &bundle.files {
        // A path of the collector's choosing is no path to write to.
        ensure!(
            Kind::Policy.holds(&file.path),
            "{:?} is no file of a policy",
            file.path
        );
        if file.path.starts_with("studies/") && !folder.join("studies").is_dir() {
            let studies = folder.join("studies");
            std::fs::create_dir(&studies).with_context(|| studies.display().to_string())?;
        }
        write(&file.path, &file.content)?;
    }
    Ok(())
}
