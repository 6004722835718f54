//! `policy status` and `policy approvers`: what is in force, who signs, and who lags.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_collector::clock;
use bailiwick_policy::approvers::{Approvers, Thresholds};
use bailiwick_policy::kind::{Kind, Role};
use bailiwick_policy::manifest::{Draft, Manifest};
use clap::Subcommand;
use prost::Message as _;
use serde_json::{Value, json};

use super::folder::known_files;
use super::{fetch, sign};
use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, parse_time, print, time};

/// What `policy approvers` does.
#[derive(Debug, Subcommand)]
pub(super) enum ApproversCommand {
    /// Shows who may sign now.
    Show {
        /// How it is printed.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Writes the manifest of a change over a folder with approvers.toml and allowed_signers, ready
    /// for the old and the new approvers to sign.
    Rotate(Rotate),
}

/// Arguments of `policy approvers rotate`.
#[derive(Debug, clap::Args)]
pub(super) struct Rotate {
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
}

fn ask(connection: &Connection) -> anyhow::Result<Result<v1::PolicyStatusResponse, tonic::Status>> {
    block_on(async {
        let mut client = connection.open().await?;
        let answer = client.policy_status(v1::PolicyStatusRequest {}).await;
        Ok(answer.map(tonic::Response::into_inner))
    })
}

/// `policy status`. Stale: something is past its end.
pub(super) fn status(connection: &Connection, output: Format) -> anyhow::Result<Exit> {
    let status = match ask(connection)? {
        Ok(status) => status,
        Err(status) => return refused(&status),
    };
    let now = clock::now().millis();
    let rows: Vec<Value> = status
        .manifests
        .iter()
        .map(|manifest| {
            json!({
                "kind": manifest.kind,
                "version": manifest.version,
                "manifest": hex::encode(&manifest.manifest_digest),
                "not_after": time(manifest.not_after_ms),
                "expired": now > manifest.not_after_ms,
                "signers": manifest.signers.join(", "),
                "reason": manifest.reason,
            })
        })
        .collect();
    let stale = status.manifests.iter().any(|m| now > m.not_after_ms);
    let lagging: Vec<Value> = status
        .lagging
        .iter()
        .map(|node| {
            json!({
                "node": node.node,
                "policy": node.policy_version,
                "behind": behind(node, &status.manifests),
                "last_seen": time(node.last_seen_ms),
            })
        })
        .collect();
    let manifests = Listing {
        columns: &[
            "kind",
            "version",
            "not_after",
            "expired",
            "signers",
            "manifest",
        ],
        rows,
    };
    match output {
        Format::Json => {
            let json = json!({
                "manifests": manifests.rows,
                "lagging": lagging,
                "nodes": status.nodes,
                "approvers": hex::encode(&status.approvers_digest),
                "threshold": status.threshold,
            });
            print(&format!("{}\n", serde_json::to_string_pretty(&json)?))?;
        }
        Format::Csv => manifests.print(output)?,
        Format::Table => {
            manifests.print(output)?;
            print(&format!(
                "\napprovers {}, {} needed\n{} of {} nodes lag\n",
                hex::encode(&status.approvers_digest),
                status.threshold,
                lagging.len(),
                status.nodes
            ))?;
            if !lagging.is_empty() {
                Listing {
                    columns: &["node", "behind", "last_seen"],
                    rows: lagging,
                }
                .print(output)?;
            }
        }
    }
    Ok(if stale { Exit::Stale } else { Exit::Good })
}

/// `world 2 of 3, approvers ? of 2`: what a node has, of each kind in which it lags.
fn behind(node: &v1::LaggingNode, newest: &[v1::ManifestStatus]) -> String {
    let words = node.behind.iter().map(|behind| {
        let of = newest.iter().find(|newest| newest.kind == behind.kind);
        let of = of.map_or(0, |newest| newest.version);
        match behind.version {
            Some(version) => format!("{} {version} of {of}", behind.kind),
            None => format!("{} ? of {of}", behind.kind),
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

/// `policy approvers …`.
pub(super) fn approvers(
    connection: &Connection,
    command: &ApproversCommand,
) -> anyhow::Result<Exit> {
    match command {
        ApproversCommand::Show { output } => show(connection, *output),
        ApproversCommand::Rotate(args) => rotate(connection, args),
    }
}

fn show(connection: &Connection, output: Format) -> anyhow::Result<Exit> {
    let status = match ask(connection)? {
        Ok(status) => status,
        Err(status) => return refused(&status),
    };
    let changed = status
        .manifests
        .iter()
        .any(|manifest| Kind::parse(&manifest.kind) == Some(Kind::Approvers));
    let digest = hex::encode(&status.approvers_digest);
    if !changed {
        // Those lie on the machines, and the collector is not asked for them.
        let json = json!({
            "approvers": digest,
            "threshold": status.threshold,
            "version": 0,
            "source": "the machines' own configuration",
        });
        return one(output, json).map(|()| Exit::Good);
    }
    let bytes = match block_on(fetch(connection, Kind::Approvers))? {
        Ok(bytes) => bytes,
        Err(status) => return refused(&status),
    };
    let bundle = v1::PolicyBundle::decode(bytes.as_slice())?;
    let manifest = Manifest::parse(&bundle.manifest)?;
    let file = |name: &str| {
        let found = bundle.files.iter().find(|file| file.path == name);
        found
            .map(|file| file.content.as_slice())
            .unwrap_or_default()
    };
    let (thresholds, approvers) = read(file("approvers.toml"), file("allowed_signers"))?;
    let json = json!({
        "approvers": approvers.digest().to_string(),
        "threshold": thresholds.main,
        "roles": roles(&approvers),
        "version": manifest.version,
        "manifest": manifest.digest.to_string(),
        "not_after": time(manifest.not_after.millis()),
        "reason": manifest.reason,
        "allowed_signers": String::from_utf8_lossy(file("allowed_signers")),
    });
    if output != Format::Table {
        return one(output, json).map(|()| Exit::Good);
    }
    print(&format!(
        "approvers {}, version {}, until {}\n{}\n{} needed\n\n{}",
        approvers.digest(),
        manifest.version,
        time(manifest.not_after.millis()),
        manifest.reason,
        thresholds.main,
        String::from_utf8_lossy(file("allowed_signers")),
    ))?;
    Ok(Exit::Good)
}

fn one(output: Format, row: Value) -> anyhow::Result<()> {
    Listing {
        columns: &["approvers", "threshold", "version", "source", "not_after"],
        rows: vec![row],
    }
    .print(output)
}

fn read(toml: &[u8], allowed: &[u8]) -> anyhow::Result<(Thresholds, Approvers)> {
    let thresholds = Thresholds::parse("approvers.toml", toml)?;
    let approvers = Approvers::with("allowed_signers", allowed, thresholds.clone())?;
    Ok((thresholds, approvers))
}

fn roles(approvers: &Approvers) -> Value {
    let roles = Role::ALL.map(|role| {
        let threshold = approvers.threshold_of_role(role);
        (role.as_str().to_owned(), json!(threshold))
    });
    Value::Object(roles.into_iter().collect())
}

fn rotate(connection: &Connection, args: &Rotate) -> anyhow::Result<Exit> {
    let deployment = DeploymentId::new(&args.deployment)?;
    // What nobody could act on is refused before anybody signs it.
    let files = known_files(&args.folder, Kind::Approvers)?;
    let file = |name: &str| {
        let found = files.get(name).map(Vec::as_slice);
        found.with_context(|| format!("{}: {name} is missing", args.folder.display()))
    };
    let (_, new) = read(file("approvers.toml")?, file("allowed_signers")?)?;
    let status = match ask(connection)? {
        Ok(status) => status,
        Err(status) => return refused(&status),
    };
    let (version, previous) = follows(&status).context("the collector's answer")?;
    let draft = Draft {
        deployment: &deployment,
        kind: Kind::Approvers,
        version,
        previous: Some(previous),
        not_after: args.not_after,
        reason: &args.reason,
    };
    sign::write(&args.folder, &draft)?;
    print(&steps(
        &args.folder,
        version,
        status.threshold,
        new.threshold(),
    ))?;
    Ok(Exit::Good)
}

/// Version and predecessor of the next change.
fn follows(status: &v1::PolicyStatusResponse) -> Option<(u64, Sha256Digest)> {
    let newest = status
        .manifests
        .iter()
        .find(|manifest| Kind::parse(&manifest.kind) == Some(Kind::Approvers));
    match newest {
        Some(newest) => Some((
            newest.version.checked_add(1)?,
            Sha256Digest::from_slice(&newest.manifest_digest)?,
        )),
        None => Some((1, Sha256Digest::from_slice(&status.approvers_digest)?)),
    }
}

fn steps(folder: &Path, version: u64, old: u32, new: u32) -> String {
    let folder = folder.display();
    format!(
        "{folder}: change {version} of the approvers; now {old} of those in force and {new} of the \
         new ones run\n  bailiwick policy sign {folder} --key KEY\nand then\n  bailiwick policy \
         apply {folder}\n"
    )
}

/// The newest world map, for a policy that carries none.
pub(crate) fn world(connection: &Connection) -> anyhow::Result<Option<v1::PolicyBundle>> {
    match block_on(fetch(connection, Kind::World))? {
        Ok(bytes) => Ok(Some(v1::PolicyBundle::decode(bytes.as_slice())?)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_lags_in_is_said_in_a_line() {
        let manifest = |kind: &str, version| v1::ManifestStatus {
            kind: kind.to_owned(),
            version,
            ..v1::ManifestStatus::default()
        };
        let kind = |kind: &str, version| v1::KindBehind {
            kind: kind.to_owned(),
            version,
        };
        let node = v1::LaggingNode {
            behind: vec![kind("world", Some(2)), kind("approvers", None)],
            ..v1::LaggingNode::default()
        };
        let newest = [manifest("approvers", 2), manifest("world", 3)];
        assert_eq!(behind(&node, &newest), "world 2 of 3, approvers ? of 2");
    }

    #[test]
    fn the_next_change_follows_the_newest_or_the_machines_own() {
        let mut status = v1::PolicyStatusResponse {
            approvers_digest: vec![3; 32],
            ..v1::PolicyStatusResponse::default()
        };
        assert_eq!(follows(&status), Some((1, Sha256Digest([3; 32]))));
        status.manifests.push(v1::ManifestStatus {
            kind: "world".to_owned(),
            version: 7,
            manifest_digest: vec![7; 32],
            ..v1::ManifestStatus::default()
        });
        assert_eq!(follows(&status), Some((1, Sha256Digest([3; 32]))));
        status.manifests.push(v1::ManifestStatus {
            kind: "approvers".to_owned(),
            version: 2,
            manifest_digest: vec![2; 32],
            ..v1::ManifestStatus::default()
        });
        assert_eq!(follows(&status), Some((3, Sha256Digest([2; 32]))));
        status.manifests.clear();
        status.approvers_digest.pop();
        assert_eq!(follows(&status), None, "no digest");
    }
}
