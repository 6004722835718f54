//! `endorsements coming`: which guests fall short of what Intel is about to say.

use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_attestation::cvm::tdx::Collateral;
use bailiwick_attestation::cvm::{self, Asked, Turn};
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_collector::endorsements;
use serde_json::{Value, json};
use tonic::Status;

use super::{Common, store};
use crate::client::{Connection, block_on};
use crate::format::Listing;
use crate::profile;

/// Arguments of `endorsements coming`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Collateral to come, as `import` takes it.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    pub(super) common: Common,
}

const COLUMNS: &[&str] = &["node", "chip_id", "now", "then", "turns", "because"];

pub(super) fn run(args: &Args) -> anyhow::Result<Result<Listing, Status>> {
    let at = args.common.at()?;
    let known = endorsements::read(&args.common.store, at);
    let known = known.with_context(|| args.common.store.display().to_string())?;
    let mut coming = cvm::Endorsements::default();
    for path in &args.files {
        let name = || path.display().to_string();
        let bytes = store::read(path)?;
        let collateral = Collateral::parse(&bytes).with_context(name)?;
        let taken = coming.add_collateral(Sha256Digest::of(&[&bytes]), collateral);
        anyhow::ensure!(taken, "{}: it does not say what it is about", name());
    }
    let names = match nodes(&args.connection)? {
        Ok(names) => names,
        Err(status) => return Ok(Err(status)),
    };
    let mut rows = Vec::new();
    for node in names {
        let request = v1::ListEvidenceRequest {
            node,
            boots: 1,
            ..v1::ListEvidenceRequest::default()
        };
        let record = match profile::fetch(&args.connection, request)? {
            Ok(record) => record,
            Err(status) => return Ok(Err(status)),
        };
        for one in record.evidence {
            let Some((tee, report_data)) = one.verified.tee() else {
                continue;
            };
            let report = tee.report.as_ref();
            let Some(report) = report.filter(|report| report.kind == "tdx") else {
                continue;
            };
            let asked = Asked {
                kind: &report.kind,
                report: &report.report,
                table: &[],
                report_data,
                manifest: &[],
                tpm: None,
                endorsements: &known.endorsements.processors,
                crls: &[],
                roots: &[],
                at,
            };
            rows.push(row(&one.node, one.at, &cvm::turn(&asked, &coming)));
        }
    }
    let columns = COLUMNS;
    Ok(Ok(Listing { columns, rows }))
}

fn row(node: &str, received: UnixTime, turn: &Turn) -> Value {
    json!({
        "node": node,
        "received_ms": received.millis(),
        "chip_id": turn.chip,
        "now": turn.now,
        "then": turn.then,
        "turns": turn.turns(),
        "because": turn.because,
    })
}

/// Names of all nodes that said something.
fn nodes(connection: &Connection) -> anyhow::Result<Result<Vec<String>, Status>> {
    block_on(async {
        let mut client = connection.open().await?;
        let nodes = match client.list_nodes(v1::ListNodesRequest::default()).await {
            Ok(answer) => answer.into_inner().nodes,
            Err(status) => return Ok(Err(status)),
        };
        let said = nodes.into_iter().filter(|node| node.statements > 0);
        Ok(Ok(said.map(|node| node.node).collect()))
    })
}
