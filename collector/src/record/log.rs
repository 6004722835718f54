//! The log's rows: entries, roots of perfect subtrees, the head.

use std::collections::HashMap;

use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{
    self, Checkpoint, NodeIndex, Plan, completed_by, inclusion_plan, leaf_hash, node_hash,
    root_plan,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::rows::StatementRow;
use super::writer::int;
use super::{LogSigners, Store, StoreError};

/// A committed head and the note over it.
#[derive(Clone, Debug)]
pub struct SignedHead {
    /// Number of entries.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Sha256Digest,
    /// C2SP signed note. Empty while the log is.
    pub note: String,
}

/// Appends one entry inside the caller's transaction; the head follows in [`advance`].
pub(super) async fn append(
    connection: &mut SqliteConnection,
    index: u64,
    entry: &[u8],
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO log_entries (number, entry) VALUES (?, ?)")
        .bind(int(index))
        .bind(entry)
        .execute(&mut *connection)
        .await?;
    let mut hash = leaf_hash(entry);
    for node in completed_by(index) {
        if node.level > 0 {
            let left = NodeIndex {
                level: node.level - 1,
                index: node.index * 2,
            };
            let left = node_get(connection, left)
                .await?
                .ok_or(StoreError::Forked)?;
            hash = node_hash(&left, &hash);
        }
        sqlx::query("INSERT INTO log_nodes (level, number, hash) VALUES (?, ?, ?)")
            .bind(i64::from(node.level))
            .bind(int(node.index))
            .bind(hash.as_bytes().as_slice())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Moves the head from `from` entries to `to`; refuses if it is not where this writer left it.
pub(super) async fn advance(
    connection: &mut SqliteConnection,
    from: u64,
    to: u64,
) -> Result<(), StoreError> {
    let root = root(connection, to).await?;
    let before = root_of_head(connection, from).await?;
    let changed = match before {
        None => {
            sqlx::query("INSERT INTO log_head (one, size, root) VALUES (1, ?, ?)")
                .bind(int(to))
                .bind(root.as_bytes().as_slice())
                .execute(&mut *connection)
                .await?
        }
        Some(before) => {
            sqlx::query("UPDATE log_head SET size = ?, root = ? WHERE size = ? AND root = ?")
                .bind(int(to))
                .bind(root.as_bytes().as_slice())
                .bind(int(from))
                .bind(before.as_bytes().as_slice())
                .execute(&mut *connection)
                .await?
        }
    };
    if changed.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::Forked)
    }
}

/// The root the head must have for `from` entries; none for the empty log.
async fn root_of_head(
    connection: &mut SqliteConnection,
    from: u64,
) -> Result<Option<Sha256Digest>, StoreError> {
    if from == 0 {
        return Ok(None);
    }
    Ok(Some(root(connection, from).await?))
}

/// Entries in the log, by its head.
pub(super) async fn size(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT size FROM log_head")
        .fetch_optional(connection)
        .await?;
    match row {
        None => Ok(0),
        Some(row) => {
            u64::try_from(row.try_get::<i64, _>(0)?).map_err(|_negative| StoreError::Corrupt {
                table: "log_head",
                column: "size",
            })
        }
    }
}

/// Reads the committed head back, checks it against the stored hashes and signs it.
pub(super) async fn read_head(
    connection: &mut SqliteConnection,
    signers: &LogSigners,
) -> Result<SignedHead, StoreError> {
    let size = size(connection).await?;
    let root = root(connection, size).await?;
    if size == 0 {
        return Ok(SignedHead {
            size,
            root,
            note: String::new(),
        });
    }
    let row = sqlx::query("SELECT root FROM log_head")
        .fetch_one(connection)
        .await?;
    if row.try_get::<Vec<u8>, _>(0)? != root.as_bytes() {
        return Err(StoreError::Forked);
    }
    let checkpoint = Checkpoint {
        origin: signers.origin().to_owned(),
        size,
        root,
    };
    Ok(SignedHead {
        size,
        root,
        note: signers.sign(&checkpoint)?,
    })
}

async fn root(connection: &mut SqliteConnection, size: u64) -> Result<Sha256Digest, StoreError> {
    let hashes = fold(connection, &root_plan(size)).await?;
    hashes.first().copied().ok_or(StoreError::Forked)
}

async fn fold(
    connection: &mut SqliteConnection,
    plan: &Plan,
) -> Result<Vec<Sha256Digest>, StoreError> {
    let mut stored = HashMap::new();
    for node in plan.needed() {
        if let Some(hash) = node_get(connection, node).await? {
            stored.insert(node, hash);
        }
    }
    plan.fold(|node| stored.get(&node).copied())
        .map_err(|_missing| StoreError::Corrupt {
            table: "log_nodes",
            column: "hash",
        })
}

async fn node_get(
    connection: &mut SqliteConnection,
    node: NodeIndex,
) -> Result<Option<Sha256Digest>, StoreError> {
    let row = sqlx::query("SELECT hash FROM log_nodes WHERE level = ? AND number = ?")
        .bind(i64::from(node.level))
        .bind(int(node.index))
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let bytes: Vec<u8> = row.try_get(0)?;
    match Sha256Digest::from_slice(&bytes) {
        Some(hash) => Ok(Some(hash)),
        None => Err(StoreError::Corrupt {
            table: "log_nodes",
            column: "hash",
        }),
    }
}

impl Store {
    /// The receipt for a stored statement against the newest head.
    pub async fn receipt(&self, statement: &StatementRow) -> Result<v1::Receipt, StoreError> {
        self.receipt_at(statement.digest, statement.log_index).await
    }

    /// The receipt for the statement whose entry stands at `index`.
    pub async fn receipt_at(
        &self,
        digest: Sha256Digest,
        index: u64,
    ) -> Result<v1::Receipt, StoreError> {
        let head = self.head_over(index).await?;
        let missing = StoreError::Corrupt {
            table: "log_entries",
            column: "entry",
        };
        let mut connection = self.readers.acquire().await?;
        let row = sqlx::query("SELECT entry FROM log_entries WHERE number = ?")
            .bind(int(index))
            .fetch_optional(&mut *connection)
            .await?;
        let entry: Vec<u8> = row.ok_or(missing)?.try_get(0)?;
        let plan = inclusion_plan(index, head.size).ok_or(StoreError::Forked)?;
        let path = fold(&mut connection, &plan).await?;
        Ok(v1::Receipt {
            statement_digest: digest.as_bytes().to_vec(),
            log: self.signers.origin().to_owned(),
            index,
            entry,
            inclusion_path: path.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            checkpoint: head.note.into_bytes(),
        })
    }

    /// Key the log's checkpoints verify under, as the policy file spells it.
    #[must_use]
    pub fn log_origin(&self) -> &str {
        self.signers.origin()
    }
}

/// The entry the log keeps for a statement.
pub(super) fn entry(statement: &super::NewStatement) -> Vec<u8> {
    tlog::LogEntry {
        subject: statement.subject.clone(),
        epoch: statement.epoch,
        sequence: statement.sequence,
        statement: statement.digest,
        verdict: statement.verdict.as_str().to_owned(),
        received: statement.received,
    }
    .to_bytes()
}
