//! A bundle handed to the fence's own socket, where nothing stands between it and the kernel but
//! the approvers' signatures.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bailiwick_agent::ipc::{FenceClient, IpcError};
use bailiwick_agent::proto::fence::ApplyPolicy;
use bailiwick_attestation::proto::v1;

use super::tries::{Came, tell};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node's agent configuration
    #[arg(long)]
    config: PathBuf,
    /// What is tried, in words
    #[arg(long)]
    tried: String,
    /// The refusal that is due
    #[arg(long)]
    expected: String,
    /// What it is said to be
    #[arg(long, default_value = "policy")]
    kind: String,
    /// The bundle's folder: whatever lies there travels, listed or not
    folder: PathBuf,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let config = super::config(&args.config)?;
    let bundle = bundle(&args.folder)?;
    let apply = ApplyPolicy {
        bundle: Some(bundle),
        kind: args.kind.clone(),
    };
    let came = match FenceClient::new(&config.fence.socket)
        .apply_policy(apply)
        .await
    {
        Ok(()) => Came::Succeeded("the fence took it".to_owned()),
        Err(IpcError::Refused { code, detail }) => Came::refused(code, detail),
        Err(error) => return Err(error).context("ask the fence"),
    };
    tell(&args.tried, &args.expected, &came)
}

/// The client would not read a folder whose manifest is wrong; a thief's does.
fn bundle(folder: &Path) -> anyhow::Result<v1::PolicyBundle> {
    let mut bundle = v1::PolicyBundle::default();
    for below in ["", "studies"] {
        let dir = folder.join(below);
        if !dir.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                continue;
            }
            let content = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let name = path.strip_prefix(folder)?.to_string_lossy().into_owned();
            match name.as_str() {
                "manifest.toml" => bundle.manifest = content,
                other if other.ends_with(".sig") => bundle.signatures.push(content),
                _ => bundle.files.push(v1::PolicyFile {
                    path: name,
                    content,
                }),
            }
        }
    }
    ensure!(
        !bundle.manifest.is_empty(),
        "no manifest in {}",
        folder.display()
    );
    Ok(bundle)
}
