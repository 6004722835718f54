//! Private halves of denials, and the keys they hang on.

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::events::Entry;
use bailiwick_attestation::proto::v1::{self, log_entry::What};
use tonic::Status;
use tracing::error;

use super::Query;
use crate::direct::node_name;
use crate::ingest::error_chain;
use crate::keys::KeysError;
use crate::record::StoredEntry;

impl Query {
    /// Opens the private half of a denial, or says why it stays closed.
    pub(super) async fn open_private(
        &self,
        row: &StoredEntry,
        event: &mut v1::StoredEvent,
    ) -> Result<(), Status> {
        let Ok(Entry {
            what: What::Denial(denial),
            ..
        }) = Entry::parse(&row.entry)
        else {
            return Ok(());
        };
        let opened = self.keys.open_private(&row.ek, &denial, &row.sealed);
        match opened.await.map_err(failed)? {
            Ok(private) => event.private = Some(private),
            Err(why) => event.closed = why.to_string(),
        }
        Ok(())
    }

    pub(super) async fn keys_listed(&self, study: &str) -> Result<v1::ListKeysResponse, Status> {
        let current = self.director.current();
        let rows = self.keys.list().await.map_err(failed)?;
        let keys = rows
            .into_iter()
            .filter(|row| study.is_empty() || row.study == study)
            .map(|row| v1::StoredKey {
                node: node_name(current.as_deref(), &row.ek),
                key_id: row.id.0.to_vec(),
                study: row.study,
                bucket: row.bucket,
                retention: row.retention,
                key_store: row.key_store,
                made_ms: row.made.millis(),
                destroyed_ms: row.destroyed.map(|(at, _): (UnixTime, _)| at.millis()),
                manifest_digest: row
                    .destroyed
                    .map(|(_, manifest)| manifest.as_bytes().to_vec())
                    .unwrap_or_default(),
            })
            .collect();
        Ok(v1::ListKeysResponse { keys })
    }
}

/// The keys could not be read: the operator did nothing wrong.
fn failed(why: KeysError) -> Status {
    error!(error = %error_chain(&why), "the keys failed");
    Status::unavailable("keys-failed: the collector could not read its keys; try again")
}
