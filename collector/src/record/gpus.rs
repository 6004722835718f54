//! Which TPM showed a report of which GPU, and when.

use bailiwick_attestation::{Sha256Digest, UnixTime};
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::reads::{digest, time};
use super::writer::int;
use super::{Store, StoreError};

/// A GPU whose report came with statements of a TPM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ShownGpu {
    /// `PDI-` and 16 hex digits, as its maker certified it.
    pub device: String,
    /// Which TPM.
    pub ek: Sha256Digest,
    /// When the first such statement came.
    pub first: UnixTime,
    /// When the newest did.
    pub last: UnixTime,
}

impl Store {
    /// GPUs that more than one TPM showed since then, and who did.
    pub async fn gpus_at_many(&self, since: UnixTime) -> Result<Vec<ShownGpu>, StoreError> {
        let since = int(since.millis());
        sqlx::query(
            "SELECT device, ek, first_ms, last_ms FROM gpus_shown
             WHERE last_ms >= ? AND device IN (SELECT device FROM gpus_shown WHERE last_ms >= ?
                 GROUP BY device HAVING count(*) > 1)
             ORDER BY device, ek",
        )
        .bind(since)
        .bind(since)
        .fetch_all(&self.readers)
        .await?
        .iter()
        .map(|row| {
            Ok(ShownGpu {
                device: row.try_get("device")?,
                ek: digest(row, "gpus_shown", "ek")?,
                first: time(row, "first_ms")?,
                last: time(row, "last_ms")?,
            })
        })
        .collect()
    }
}

/// Remembers that these were shown.
pub(super) async fn keep(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    devices: &[String],
    now: UnixTime,
) -> Result<(), StoreError> {
    for device in devices {
        sqlx::query(
            "INSERT INTO gpus_shown (device, ek, first_ms, last_ms) VALUES (?, ?, ?, ?)
             ON CONFLICT (device, ek) DO UPDATE SET last_ms = max(last_ms, excluded.last_ms)",
        )
        .bind(device)
        .bind(ek.as_bytes().as_slice())
        .bind(int(now.millis()))
        .bind(int(now.millis()))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
