//! Causes for which nodes lost standing: kept as they change, read when the collector starts.

use std::collections::BTreeMap;

use bailiwick_attestation::{Sha256Digest, UnixTime};
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::writer::{Write, int};
use super::{Store, StoreError};
use crate::standing::{Cause, Change, Phase};

impl Store {
    /// Keeps what changed.
    pub async fn brakes_change(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        if !changes.is_empty() {
            self.write(Write::Brakes(changes)).await?;
        }
        Ok(())
    }

    /// Every cause, as kept.
    pub async fn brake_list(&self) -> Result<BTreeMap<String, Cause>, StoreError> {
        let mut causes: BTreeMap<String, Cause> = BTreeMap::new();
        let counting = || Cause {
            phase: Phase::Counting,
            losses: BTreeMap::new(),
        };
        let losses = sqlx::query("SELECT cause, ek, at_ms FROM brake_losses")
            .fetch_all(&self.readers)
            .await?;
        for row in losses {
            let ek = Sha256Digest::from_slice(row.try_get("ek")?).ok_or(StoreError::Corrupt {
                table: "brake_losses",
                column: "ek",
            })?;
            let cause = causes.entry(row.try_get("cause")?).or_insert_with(counting);
            cause.losses.insert(ek, time(row.try_get("at_ms")?));
        }
        let phases = sqlx::query("SELECT * FROM brake_causes")
            .fetch_all(&self.readers)
            .await?;
        for row in phases {
            let at = time(row.try_get("at_ms")?);
            let phase = match row.try_get("phase")? {
                "held" => Phase::Held(at),
                "confirmed" => Phase::Confirmed {
                    at,
                    by: row.try_get("by")?,
                    reason: row.try_get("reason")?,
                },
                _ => {
                    return Err(StoreError::Corrupt {
                        table: "brake_causes",
                        column: "phase",
                    });
                }
            };
            let cause = causes.entry(row.try_get("cause")?).or_insert_with(counting);
            cause.phase = phase;
        }
        Ok(causes)
    }
}

/// SQLite's integers are signed; none of ours is negative.
fn time(millis: i64) -> UnixTime {
    UnixTime(u64::try_from(millis).unwrap_or(0))
}

pub(super) async fn change(
    connection: &mut SqliteConnection,
    changes: &[Change],
) -> Result<(), StoreError> {
    for change in changes {
        match change {
            Change::Lost(cause, node, at) => {
                sqlx::query(
                    "INSERT INTO brake_losses (cause, ek, at_ms) VALUES (?, ?, ?)
                     ON CONFLICT (cause, ek) DO UPDATE SET at_ms = excluded.at_ms",
                )
                .bind(cause)
                .bind(node.as_bytes().as_slice())
                .bind(int(at.millis()))
                .execute(&mut *connection)
                .await?;
            }
            Change::Restored(node) => {
                sqlx::query("DELETE FROM brake_losses WHERE ek = ?")
                    .bind(node.as_bytes().as_slice())
                    .execute(&mut *connection)
                    .await?;
            }
            Change::Phase(cause, phase) => {
                let (word, at, by, reason) = match phase {
                    // Written with its losses alone.
                    Phase::Counting => continue,
                    Phase::Held(at) => ("held", at, "", ""),
                    Phase::Confirmed { at, by, reason } => {
                        ("confirmed", at, by.as_str(), reason.as_str())
                    }
                };
                sqlx::query(
                    "INSERT INTO brake_causes (cause, phase, at_ms, by, reason)
                     VALUES (?, ?, ?, ?, ?)
                     ON CONFLICT (cause) DO UPDATE SET phase = excluded.phase,
                         at_ms = excluded.at_ms, by = excluded.by, reason = excluded.reason",
                )
                .bind(cause)
                .bind(word)
                .bind(int(at.millis()))
                .bind(by)
                .bind(reason)
                .execute(&mut *connection)
                .await?;
            }
            Change::Over(cause) => {
                for table in [
                    "DELETE FROM brake_causes WHERE cause = ?",
                    "DELETE FROM brake_losses WHERE cause = ?",
                ] {
                    sqlx::query(table)
                        .bind(cause)
                        .execute(&mut *connection)
                        .await?;
                }
            }
        }
    }
    Ok(())
}
