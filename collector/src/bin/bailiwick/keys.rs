//! `keys`: the collector's own, and what the private halves of events hang on; `event`: one of
//! those, to be shown to others.

use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_attestation::proto::v1;
use prost::Message as _;
use serde_json::json;

use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, time};

/// Arguments of `keys`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Keys {
    /// The collector's own keys: which are listed, held, in force, and at work.
    List {
        #[command(flatten)]
        connection: Connection,
        /// How the listing is printed.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Keys of sealed events: whose, when they came, when and by which manifest they were destroyed.
    Sealed {
        #[command(flatten)]
        connection: Connection,
        /// Only this study's.
        #[arg(long, default_value = "")]
        study: String,
        /// How the listing is printed.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}

/// Arguments of `event`.
#[derive(Debug, clap::Args)]
pub(crate) struct Event {
    #[command(flatten)]
    connection: Connection,
    /// The node.
    node: String,
    /// Epoch of its log, as `events` shows it.
    epoch: u64,
    /// Number of the entry in it.
    index: u64,
    /// With the private half, and what shows that the entry commits to it. It is noted who did.
    #[arg(long)]
    private: bool,
    /// Where to write it, for `bailiwick verify`.
    #[arg(long)]
    out: PathBuf,
}

/// Writes one entry of a node's log with everything that proves it.
pub(crate) fn event(args: &Event) -> anyhow::Result<Exit> {
    let request = v1::GetEntryRequest {
        node: args.node.clone(),
        epoch: args.epoch,
        index: args.index,
        private: args.private,
    };
    let answer = block_on(async { Ok(args.connection.open().await?.get_entry(request).await) })?;
    let stored = match answer {
        Ok(answer) => answer.into_inner().statement.unwrap_or_default(),
        Err(status) => return refused(&status),
    };
    std::fs::write(&args.out, stored.encode_to_vec())
        .with_context(|| args.out.display().to_string())?;
    Ok(Exit::Good)
}

/// Runs `keys`.
pub(crate) fn keys(command: &Keys) -> anyhow::Result<Exit> {
    match command {
        Keys::List { connection, output } => own(connection, *output),
        Keys::Sealed {
            connection,
            study,
            output,
        } => sealed(connection, study, *output),
    }
}

fn own(connection: &Connection, output: Format) -> anyhow::Result<Exit> {
    let request = v1::ListCollectorKeysRequest {};
    let answer =
        block_on(async { Ok(connection.open().await?.list_collector_keys(request).await) })?;
    let keys = match answer {
        Ok(answer) => answer.into_inner().keys,
        Err(status) => return refused(&status),
    };
    let rows = keys.iter().map(|key| {
        json!({
            "kind": key.kind,
            "id": key.id,
            "state": key.state,
            "held": key.held,
            "used": key.used,
            "from": key.not_before_ms.map(time),
            "until": key.not_after_ms.map(time),
            "revoked": key.revoked_ms.map(time),
            "public": key.public,
        })
    });
    Listing {
        columns: &[
            "kind", "id", "state", "held", "used", "from", "until", "revoked",
        ],
        rows: rows.collect(),
    }
    .print(output)?;
    Ok(Exit::Good)
}

fn sealed(connection: &Connection, study: &str, output: Format) -> anyhow::Result<Exit> {
    let request = v1::ListKeysRequest {
        study: study.to_owned(),
    };
    let answer = block_on(async { Ok(connection.open().await?.list_keys(request).await) })?;
    let keys = match answer {
        Ok(answer) => answer.into_inner().keys,
        Err(status) => return refused(&status),
    };
    let rows = keys.iter().map(|key| {
        json!({
            "study": key.study,
            "bucket": key.bucket,
            "retention": key.retention,
            "node": key.node,
            "key": hex::encode(&key.key_id),
            "key_store": key.key_store,
            "made": time(key.made_ms),
            "destroyed": key.destroyed_ms.map(time),
            "manifest": hex::encode(&key.manifest_digest),
        })
    });
    Listing {
        columns: &[
            "study",
            "bucket",
            "retention",
            "node",
            "key",
            "made",
            "destroyed",
        ],
        rows: rows.collect(),
    }
    .print(output)?;
    Ok(Exit::Good)
}
