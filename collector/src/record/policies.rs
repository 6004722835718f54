//! Writes that are not about one node: policies and alerts.

use sqlx::sqlite::SqliteConnection;

use super::rows::{AlertChange, NewPolicy};
use super::writer::{Write, int};
use super::{Store, StoreError};

impl Store {
    /// Keeps a verified policy.
    pub async fn policy_insert(&self, policy: NewPolicy) -> Result<(), StoreError> {
        self.write(Write::Policy(Box::new(policy))).await?;
        Ok(())
    }

    /// Keeps what happened to alerts.
    pub async fn alerts_change(&self, changes: Vec<AlertChange>) -> Result<(), StoreError> {
        if !changes.is_empty() {
            self.write(Write::Alerts(changes)).await?;
        }
        Ok(())
    }
}

pub(super) async fn policy_insert(
    connection: &mut SqliteConnection,
    new: &NewPolicy,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO manifests (kind, version, manifest_digest, bundle, applied_ms, applied_by)
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(new.kind.as_str())
    .bind(int(new.version))
    .bind(new.manifest_digest.as_bytes().as_slice())
    .bind(&new.bundle)
    .bind(int(new.now.millis()))
    .bind(&new.applied_by)
    .execute(connection)
    .await
    .map_err(StoreError::from_insert)?;
    Ok(())
}

pub(super) async fn alerts_change(
    connection: &mut SqliteConnection,
    changes: &[AlertChange],
) -> Result<(), StoreError> {
    for change in changes {
        let query = match change {
            AlertChange::Raise(alert, now) => sqlx::query(
                "INSERT INTO alerts (name, node, labels, severity, summary, since_ms)
                 VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(&alert.name)
            .bind(&alert.node)
            .bind(&alert.labels)
            .bind(&alert.severity)
            .bind(&alert.summary)
            .bind(int(now.millis())),
            AlertChange::Update(id, alert) => {
                sqlx::query("UPDATE alerts SET labels = ?, severity = ?, summary = ? WHERE id = ?")
                    .bind(&alert.labels)
                    .bind(&alert.severity)
                    .bind(&alert.summary)
                    .bind(id)
            }
            AlertChange::Resolve(id, now) => {
                sqlx::query("UPDATE alerts SET resolved_ms = ?, notified_ms = NULL WHERE id = ?")
                    .bind(int(now.millis()))
                    .bind(id)
            }
            AlertChange::Notified(id, now, closed) => sqlx::query(
                "UPDATE alerts SET notified_ms = ?, closed = ?
                 WHERE id = ? AND (resolved_ms IS NOT NULL) = ?",
            )
            .bind(int(now.millis()))
            .bind(closed)
            .bind(id)
            .bind(closed),
        };
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
