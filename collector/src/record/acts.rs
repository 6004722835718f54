//! Acts that matter by themselves, each with a leaf of its own in the log.

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{ActEntry, ActKind};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::writer::{Outcome, Write, int};
use super::{Store, StoreError, log};

/// Most acts in one answer: an enrolment has some ten kilobytes.
pub const ACTS_LIMIT: u32 = 1000;

/// An act to record.
#[derive(Clone, Debug)]
pub struct NewAct {
    /// What was done.
    pub kind: ActKind,
    /// To which node (inventory name, or `ek-…`), or which kind of manifest.
    pub subject: String,
    /// To which TPM, if to one.
    pub ek: Option<Sha256Digest>,
    /// Who did it: an operator, or `collector`.
    pub actor: String,
    /// What exactly; the leaf names it by SHA-256.
    pub body: Vec<u8>,
    /// When.
    pub now: UnixTime,
}

impl Store {
    /// Records an act; where its leaf stands.
    pub async fn act_insert(&self, act: NewAct) -> Result<u64, StoreError> {
        match self.write(Write::Act(Box::new(act))).await? {
            Outcome::Logged(index) => Ok(index),
            Outcome::Done | Outcome::Admitted(_) => Err(StoreError::Forked),
        }
    }

    /// What every act of a kind is about.
    pub async fn act_bodies(&self, kind: ActKind) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = sqlx::query("SELECT body FROM acts WHERE kind = ?")
            .bind(kind.as_str())
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(|row| Ok(row.try_get("body")?)).collect()
    }

    /// Acts with their receipts, newest first.
    pub async fn act_list(
        &self,
        ek: Option<&Sha256Digest>,
        kind: Option<ActKind>,
        limit: u32,
    ) -> Result<Vec<v1::Act>, StoreError> {
        let ek = ek.map(|ek| ek.as_bytes().to_vec());
        let kind = kind.map(ActKind::as_str);
        let rows = sqlx::query(
            "SELECT * FROM acts WHERE (? IS NULL OR ek = ?) AND (? IS NULL OR kind = ?)
             ORDER BY id DESC LIMIT ?",
        )
        .bind(&ek)
        .bind(&ek)
        .bind(kind)
        .bind(kind)
        .bind(i64::from(limit.min(ACTS_LIMIT)))
        .fetch_all(&self.readers)
        .await?;
        let mut acts = Vec::with_capacity(rows.len());
        for row in rows {
            let corrupt = |column| StoreError::Corrupt {
                table: "acts",
                column,
            };
            let digest: Vec<u8> = row.try_get("digest")?;
            let digest = Sha256Digest::from_slice(&digest).ok_or_else(|| corrupt("digest"))?;
            let number = |column| -> Result<u64, StoreError> {
                u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_negative| corrupt(column))
            };
            acts.push(v1::Act {
                kind: row.try_get("kind")?,
                subject: row.try_get("subject")?,
                by: row.try_get("actor")?,
                at_ms: number("at_ms")?,
                body: row.try_get("body")?,
                receipt: Some(self.receipt_at(digest, number("log_index")?).await?),
            });
        }
        Ok(acts)
    }
}

/// The row and its leaf, inside the caller's transaction.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    act: &NewAct,
    log_index: u64,
) -> Result<(), StoreError> {
    let digest = Sha256Digest::of(&[&act.body]);
    sqlx::query(
        "INSERT INTO acts (kind, subject, ek, actor, at_ms, digest, body, log_index)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(act.kind.as_str())
    .bind(&act.subject)
    .bind(act.ek.map(|ek| ek.as_bytes().to_vec()))
    .bind(&act.actor)
    .bind(int(act.now.millis()))
    .bind(digest.as_bytes().as_slice())
    .bind(&act.body)
    .bind(int(log_index))
    .execute(&mut *connection)
    .await?;
    let entry = ActEntry {
        kind: act.kind,
        subject: act.subject.clone(),
        body: digest,
        at: act.now,
    };
    log::append(connection, log_index, &entry.to_bytes()).await
}
