//! `nodes`, `node show|why|diff|statement|revoke`, `challenge`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::appraisal::AttestationResult;
use bailiwick_attestation::proto::v1;
use clap::Subcommand;
use prost::Message as _;
use serde_json::{Value, json};

use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, parse_time, print, time};
use crate::{Exit, drift, gpus, why};

/// Arguments of `nodes`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    connection: Connection,
    /// State as of then: RFC 3339, or seconds since 1970.
    #[arg(long, value_parser = parse_time)]
    at: Option<UnixTime>,
    /// How the listing is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Arguments of `node`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One node: standing, lease, and how it came to be so.
    Show(Show),
    /// What keeps a node from standing, and what restores it.
    Why(Show),
    /// What changed on a node between two points of time.
    Diff(drift::Args),
    /// Fetches a statement with all that `bailiwick verify` needs.
    Statement {
        /// The node.
        node: String,
        /// Digest of the statement, hex; the newest if absent.
        #[arg(long)]
        digest: Option<String>,
        /// Where to write it; standard output if absent.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Revokes the node's transport certificate; it has to enrol again.
    Revoke {
        /// The node.
        node: String,
    },
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Its name by the inventory, or `ek-…`.
    node: String,
    /// As of then: RFC 3339, or seconds since 1970.
    #[arg(long, value_parser = parse_time)]
    at: Option<UnixTime>,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Arguments of `challenge`.
#[derive(Debug, clap::Args)]
pub(crate) struct Challenge {
    #[command(flatten)]
    connection: Connection,
    /// The node.
    node: String,
}

/// What a verdict ends the process with. Only an affirmed node is one to send work to.
fn exit(summary: &v1::NodeSummary) -> Exit {
    match summary.verdict.as_str() {
        "affirming" => Exit::Good,
        "stale" => Exit::Stale,
        "none" => Exit::CouldNotTell,
        _ => Exit::NotTrusted,
    }
}

fn summary_json(node: &v1::NodeSummary) -> Value {
    json!({
        "node": node.node,
        "state": node.state,
        "verdict": node.verdict,
        "since": time(node.since_ms),
        "last_seen": time(node.last_seen_ms),
        "lease_until": node.lease_until_ms.map(time),
        "policy_version": node.policy_version,
        "statements": node.statements,
        "place": node.place,
        "reason": node.reason,
        "ek": hex::encode(&node.ek_digest),
    })
}

/// Lists every node.
pub(crate) fn list(args: &List) -> anyhow::Result<Exit> {
    let request = v1::ListNodesRequest {
        at_ms: args.at.map(UnixTime::millis),
    };
    let answer = block_on(async { Ok(args.connection.open().await?.list_nodes(request).await) })?;
    let nodes = match answer {
        Ok(answer) => answer.into_inner().nodes,
        Err(status) => return refused(&status),
    };
    Listing {
        columns: &[
            "node",
            "state",
            "verdict",
            "since",
            "last_seen",
            "lease_until",
            "policy_version",
            "statements",
            "reason",
        ],
        rows: nodes.iter().map(summary_json).collect(),
    }
    .print(args.output)?;
    Ok(Exit::Good)
}

/// Runs `node …`.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Show(show) => get(&args.connection, show, print_node),
        Command::Why(show) => get(&args.connection, show, |node, summary, format| {
            // Of another time, `node diff` tells.
            let asked = show.at.is_none() && exit(summary) != Exit::Good;
            let since = match asked {
                true => drift::since_affirmed(&args.connection, &show.node),
                false => Ok(Ok(None)),
            };
            // Whoever asks why is answered, with or without what it was before.
            let since = match since {
                Ok(Ok(since)) => since,
                Ok(Err(status)) => {
                    eprintln!(
                        "bailiwick: what changed could not be told: {}",
                        status.message()
                    );
                    None
                }
                Err(error) => {
                    eprintln!("bailiwick: what changed could not be told: {error:#}");
                    None
                }
            };
            print_why(node, summary, since.as_ref(), format)
        }),
        Command::Diff(diff) => drift::run(&args.connection, diff),
        Command::Statement { node, digest, out } => {
            statement(&args.connection, node, digest.as_deref(), out.as_ref())
        }
        Command::Revoke { node } => {
            let request = v1::RevokeNodeRequest { node: node.clone() };
            let answer =
                block_on(async { Ok(args.connection.open().await?.revoke_node(request).await) })?;
            match answer {
                Ok(_) => Ok(Exit::Good),
                Err(status) => refused(&status),
            }
        }
    }
}

fn get(
    connection: &Connection,
    show: &Show,
    printer: impl FnOnce(&v1::GetNodeResponse, &v1::NodeSummary, Format) -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    let request = v1::GetNodeRequest {
        node: show.node.clone(),
        at_ms: show.at.map(UnixTime::millis),
    };
    let answer = block_on(async { Ok(connection.open().await?.get_node(request).await) })?;
    let node = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return refused(&status),
    };
    let summary = node.summary.as_ref().context("the answer has no summary")?;
    printer(&node, summary, show.output)?;
    Ok(exit(summary))
}

fn result_json(node: &v1::GetNodeResponse) -> Value {
    serde_json::from_slice(&node.result).unwrap_or_default()
}

fn intervals(node: &v1::GetNodeResponse) -> Listing {
    Listing {
        columns: &["verdict", "from", "to", "reason"],
        rows: node
            .intervals
            .iter()
            .map(|interval| {
                json!({
                    "verdict": interval.verdict,
                    "from": time(interval.from_ms),
                    "to": interval.to_ms.map(time),
                    "reason": interval.reason,
                    "statement": hex::encode(&interval.statement_digest),
                })
            })
            .collect(),
    }
}

fn print_node(
    node: &v1::GetNodeResponse,
    summary: &v1::NodeSummary,
    format: Format,
) -> anyhow::Result<()> {
    let history = intervals(node);
    if format == Format::Csv {
        return history.print(format);
    }
    let mut json = summary_json(summary);
    json["ak"] = node.ak.clone().into();
    let result = result_json(node);
    let gpus = gpus::listing(&result);
    if format == Format::Json {
        json["receipts"] = node.receipts.into();
        json["intervals"] = history.rows.into();
        json["gpus"] = gpus.rows.into();
        json["result"] = result;
        return print(&format!("{}\n", serde_json::to_string_pretty(&json)?));
    }
    let members = json.as_object().cloned().unwrap_or_default();
    let rows = members
        .into_iter()
        .map(|(name, value)| json!({"what": name.replace('_', " "), "is": value}))
        .collect();
    Listing {
        columns: &["what", "is"],
        rows,
    }
    .print(format)?;
    if !gpus.rows.is_empty() {
        print("\n")?;
        gpus.print(format)?;
    }
    print("\n")?;
    history.print(format)
}

fn print_why(
    node: &v1::GetNodeResponse,
    summary: &v1::NodeSummary,
    since: Option<&drift::Since>,
    format: Format,
) -> anyhow::Result<()> {
    let deviations = if node.result.is_empty() {
        Vec::new()
    } else {
        AttestationResult::read_json(&node.result)?.1
    };
    let standing = node.standing.iter().map(why::standing_row);
    let changed = since.map_or_else(Vec::new, drift::Since::rows);
    let rows = standing
        .chain(deviations.iter().map(why::row))
        .chain(changed);
    let rows = rows.collect();
    if format != Format::Table {
        return Listing {
            columns: &[
                "claim",
                "finding",
                "code",
                "expected",
                "found",
                "provenance",
                "restore",
            ],
            rows,
        }
        .print(format);
    }
    print(&why::text(summary, &node.standing, &deviations))?;
    if let Some(since) = since {
        print(&why::plain(&since.text()))?;
    }
    print(why::word(&result_json(node)))
}

fn statement(
    connection: &Connection,
    node: &str,
    digest: Option<&str>,
    out: Option<&PathBuf>,
) -> anyhow::Result<Exit> {
    let request = v1::GetStatementRequest {
        node: node.to_owned(),
        digest: hex::decode(digest.unwrap_or_default()).context("--digest")?,
    };
    let answer = block_on(async { Ok(connection.open().await?.get_statement(request).await) })?;
    let stored = match answer {
        Ok(answer) => answer.into_inner().statement,
        Err(status) => return refused(&status),
    };
    let bytes = stored.context("the answer is empty")?.encode_to_vec();
    match out {
        Some(path) => {
            std::fs::write(path, bytes).with_context(|| path.display().to_string())?;
        }
        None => std::io::stdout().write_all(&bytes).context("stdout")?,
    }
    Ok(Exit::Good)
}

/// Has a node challenged at once.
pub(crate) fn challenge(args: &Challenge) -> anyhow::Result<Exit> {
    let request = v1::ChallengeRequest {
        node: args.node.clone(),
    };
    let answer = block_on(async { Ok(args.connection.open().await?.challenge(request).await) })?;
    match answer {
        Ok(answer) if answer.get_ref().connected => {
            print(&format!("{} was challenged\n", args.node))?;
            Ok(Exit::Good)
        }
        Ok(_) => {
            eprintln!("bailiwick: {} is not connected", args.node);
            Ok(Exit::CouldNotTell)
        }
        Err(status) => refused(&status),
    }
}
