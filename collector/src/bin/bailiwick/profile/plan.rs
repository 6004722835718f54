//! `profile plan -f NEW`: which nodes would turn, and why, before anybody signs.

use std::path::PathBuf;

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::profile::Brake;
use bailiwick_attestation::proto::v1::{self, plan_profile_request::Whom};
use serde_json::{Value, json};
use tonic::Status;

use super::diff::read;
use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, parse_time, time};

/// Arguments of `profile plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The new profile.
    #[arg(short = 'f', long = "file")]
    file: PathBuf,
    /// When it is held against them, for windows that open or close: RFC 3339, or seconds since 1970;
    /// now if absent.
    #[arg(long, value_parser = parse_time)]
    at: Option<UnixTime>,
    /// It is a guest-profile.toml: guests without a TPM are held against it, and nobody else.
    #[arg(long)]
    guests: bool,
    /// Nodes that stay as they are, too.
    #[arg(long)]
    all: bool,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Runs it. The profile is read here first: a collector is not asked about what is none.
pub(crate) fn run(connection: &Connection, args: &Args) -> anyhow::Result<Exit> {
    let (profile, bytes) = read(&args.file)?;
    let whom = match args.guests {
        true => Whom::Guests,
        false => Whom::Unspecified,
    };
    let nodes = match ask(connection, bytes, args.at, whom)? {
        Ok(nodes) => nodes,
        Err(status) => return refused(&status),
    };
    let rows = nodes
        .iter()
        .filter(|node| args.all || node.change != "stays")
        .map(row);
    Listing {
        columns: &["node", "change", "now", "then", "as_of", "because"],
        rows: rows.collect(),
    }
    .print(args.output)?;
    let count = |change: &str| nodes.iter().filter(|node| node.change == change).count();
    let (turn, untold) = (count("would-turn"), count("cannot-tell"));
    eprintln!(
        "bailiwick: of {} nodes {turn} would turn, {} would recover, {} stay, of {untold} it could not \
         be told",
        nodes.len(),
        count("would-recover"),
        count("stays"),
    );
    if braked(&profile.brake, turn, nodes.len()) {
        eprintln!(
            "bailiwick: that is more than the brake's share of {} %: a person would have to let go of \
             each cause",
            profile.brake.share_percent
        );
    }
    Ok(match (turn, untold) {
        (1.., _) => Exit::NotTrusted,
        (0, 1..) => Exit::CouldNotTell,
        (0, 0) => Exit::Good,
    })
}

/// What the collector says of each node under that profile.
pub(crate) fn ask(
    connection: &Connection,
    profile: Vec<u8>,
    at: Option<UnixTime>,
    whom: Whom,
) -> anyhow::Result<Result<Vec<v1::PlannedNode>, Status>> {
    let request = v1::PlanProfileRequest {
        profile,
        at_ms: at.map(UnixTime::millis),
        whom: whom.into(),
    };
    block_on(async {
        let mut client = connection.open().await?;
        let mut nodes = Vec::new();
        let mut answers = match client.plan_profile(request).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            match answers.message().await {
                Ok(Some(node)) => nodes.push(node),
                Ok(None) => return Ok(Ok(nodes)),
                Err(status) => return Ok(Err(status)),
            }
        }
    })
}

/// One line for people about each node that would turn, worst first as the collector tells them, and
/// one about those of which it could not be told.
pub(crate) fn in_words(nodes: &[v1::PlannedNode], most: usize) -> Vec<String> {
    let turn = nodes.iter().filter(|node| node.change == "would-turn");
    let mut lines: Vec<String> = turn
        .clone()
        .take(most)
        .map(|node| {
            let because = node.because.first().map_or("", String::as_str);
            format!(
                "{} would turn from {} to {}: {because}",
                node.node, node.now, node.then
            )
        })
        .collect();
    let more = turn.count().saturating_sub(most);
    if more > 0 {
        lines.push(format!("{more} more nodes would turn"));
    }
    let untold = nodes
        .iter()
        .filter(|node| node.change == "cannot-tell")
        .count();
    if untold > 0 {
        lines.push(format!("of {untold} nodes it could not be told"));
    }
    lines
}

fn row(node: &v1::PlannedNode) -> Value {
    json!({
        "node": node.node,
        "change": node.change,
        "now": node.now,
        "then": node.then,
        "as_of": time(node.received_ms),
        "because": node.because.join("; "),
        "statement": hex::encode(&node.statement_digest),
    })
}

/// Whether so many losses at once would be held, if they had one cause.
fn braked(brake: &Brake, turn: usize, nodes: usize) -> bool {
    let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let share = as_u64(nodes).saturating_mul(brake.share_percent.into());
    as_u64(turn) >= brake.min_nodes.into() && as_u64(turn).saturating_mul(100) > share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_would_turn_are_told_by_name_and_the_rest_by_number() {
        let node = |name: &str, change: &str| v1::PlannedNode {
            node: name.to_owned(),
            change: change.to_owned(),
            now: "affirming".to_owned(),
            then: "contraindicated".to_owned(),
            because: vec!["gpu.0.mode: expected ppcie, found spt [gpu-mode]".to_owned()],
            ..v1::PlannedNode::default()
        };
        let nodes = [
            node("gpu-01", "would-turn"),
            node("gpu-02", "stays"),
            node("gpu-03", "would-turn"),
            node("gpu-04", "cannot-tell"),
        ];
        let told = in_words(&nodes, 1);
        assert_eq!(
            told,
            [
                "gpu-01 would turn from affirming to contraindicated: gpu.0.mode: expected ppcie, \
                 found spt [gpu-mode]",
                "1 more nodes would turn",
                "of 1 nodes it could not be told",
            ]
        );
        assert_eq!(in_words(&nodes[1..2], 1), [""; 0]);
    }

    #[test]
    fn a_share_and_a_number_make_a_matter_of_the_fleet() {
        let brake = Brake::default();
        let rows = [
            ("none", 0, 0, false),
            ("too few", 4, 4, false),
            ("enough", 5, 99, true),
            ("exactly the share", 5, 100, false),
            ("above it", 6, 100, true),
        ];
        for (name, turn, nodes, want) in rows {
            assert_eq!(braked(&brake, turn, nodes), want, "{name}");
        }
    }
}
