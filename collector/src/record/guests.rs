//! Guests without a TPM: which running one has the name, and which had it before.

use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::tlog::ActKind;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::StoreError;
use super::acts::{self, NewAct};
use super::rows::NewEnrolment;
use super::writer::int;

/// What came of an enrolment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admitted {
    /// It counts, and what the node had before is its own: the same TPM, the same running guest, nothing.
    Enrolled,
    /// It counts, in place of another running guest: the lease of that one is over.
    TookOver,
    /// It does not: another guest has followed this one since, so that two run under one name. That is
    /// on record.
    Superseded,
}

/// Two looks at indexes, however often the node enrolled.
pub(super) async fn superseded(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    instance: &[u8; 32],
) -> Result<bool, StoreError> {
    let last = last(connection, ek).await?;
    if last.is_none_or(|last| last == instance) {
        return Ok(false);
    }
    let before = sqlx::query("SELECT 1 FROM enrolments WHERE ek = ? AND instance = ? LIMIT 1")
        .bind(ek.as_bytes().as_slice())
        .bind(instance.as_slice())
        .fetch_optional(connection)
        .await?;
    Ok(before.is_some())
}

/// The running guest that enrolled last.
pub(super) async fn last(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
) -> Result<Option<Vec<u8>>, StoreError> {
    let row = sqlx::query("SELECT instance FROM nodes WHERE ek = ?")
        .bind(ek.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    let instance = row.map(|row| row.try_get::<Option<Vec<u8>>, _>("instance"));
    Ok(instance.transpose()?.flatten())
}

/// Records that it came back. Each time it is the node's; a leaf of the log it is once for each running
/// guest, or whoever tries often would fill the log. Answers by how many leaves that grew.
pub(super) async fn returned(
    connection: &mut SqliteConnection,
    new: &NewEnrolment,
    instance: &[u8; 32],
    log_index: u64,
) -> Result<u64, StoreError> {
    let now = int(new.now.millis());
    sqlx::query("UPDATE nodes SET twice_ms = ?, twice = ? WHERE ek = ?")
        .bind(now)
        .bind(format!("instance {} came back", hex::encode(instance)))
        .bind(new.ek.as_bytes().as_slice())
        .execute(&mut *connection)
        .await?;
    let first = sqlx::query(
        "UPDATE enrolments SET returned_ms = ?
         WHERE ek = ? AND instance = ? AND returned_ms IS NULL",
    )
    .bind(now)
    .bind(new.ek.as_bytes().as_slice())
    .bind(instance.as_slice())
    .execute(&mut *connection)
    .await?;
    if first.rows_affected() == 0 {
        return Ok(0);
    }
    let act = NewAct {
        kind: ActKind::Duplicate,
        ..new.act()
    };
    acts::insert(connection, &act, log_index).await?;
    Ok(1)
}
