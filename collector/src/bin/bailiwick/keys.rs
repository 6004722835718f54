//! `keys`: what the private halves of events hang on.

use bailiwick_attestation::proto::v1;
use serde_json::json;

use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, time};

/// Arguments of `keys`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Keys {
    /// Every key: whose it is, when it came, when and by which manifest it was destroyed.
    List {
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

/// Runs `keys`.
pub(crate) fn keys(command: &Keys) -> anyhow::Result<Exit> {
    match command {
        Keys::List {
            connection,
            study,
            output,
        } => list(connection, study, *output),
    }
}

fn list(connection: &Connection, study: &str, output: Format) -> anyhow::Result<Exit> {
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
