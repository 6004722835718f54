//! Private halves of denials, and the keys they hang on.

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::events::Entry;
use bailiwick_attestation::evidence::ParsedStatement;
use bailiwick_attestation::proto::v1::{self, log_entry::What};
use tonic::Status;
use tracing::error;

use super::Query;
use crate::direct::node_name;
use crate::ingest::{error_chain, store_failed};
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

    /// An entry, the statement that proves it, and the proof.
    pub(super) async fn entry_proved(
        &self,
        request: &v1::GetEntryRequest,
    ) -> Result<v1::GetStatementResponse, Status> {
        let (row, _) = self.find(&request.node).await?;
        let unknown = || Status::not_found("entry-unknown: no such entry of this node");
        let (ek, epoch, index) = (row.ek, request.epoch, request.index);
        let entry = self.store.entry_get(&ek, epoch, index).await;
        let entry = entry.map_err(store_failed)?.ok_or_else(unknown)?;
        let newest = self.store.statement_last_of(&ek, epoch).await;
        let newest = newest.map_err(store_failed)?;
        let unproven =
            || Status::not_found("entry-unproven: no accepted statement is over this entry yet");
        let digest = newest.ok_or_else(unproven)?;
        let mut answer = self.statement(&request.node, digest.as_bytes()).await?;
        let stored = answer.statement.as_mut().ok_or_else(unproven)?;
        let envelope = stored.evidence.as_ref().ok_or_else(unproven)?;
        let statement = ParsedStatement::parse(&envelope.statement)
            .map_err(|_malformed| Status::internal("the stored statement does not decode"))?;
        let size = statement.log.size;
        let tail = self.store.entry_tail(&ek, epoch, size).await;
        let path = tail.map_err(store_failed)?.inclusion(index, size);
        let path = path.ok_or_else(unproven)?;
        let (mut private, mut opening) = (Vec::new(), Vec::new());
        if request.private
            && let Ok(Entry {
                what: What::Denial(denial),
                ..
            }) = Entry::parse(&entry.entry)
        {
            let opened = self.keys.show(&ek, &denial, &entry.sealed).await;
            (private, opening) = opened.map_err(failed)?.map_err(|why| {
                Status::failed_precondition(format!("entry-closed: its private half is {why}"))
            })?;
        }
        stored.entry = Some(v1::EntryProof {
            entry: entry.entry,
            inclusion_path: path.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            private,
            opening,
        });
        Ok(answer)
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
