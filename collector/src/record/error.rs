//! What can go wrong with the store.

/// Why a read or write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database says so.
    #[error("database")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought to this version, or is a later version's.
    #[error("schema")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The node has enrolled with another key since.
    #[error("the node has enrolled with another key since")]
    Superseded,
    /// The row is there already.
    #[error("another statement stands at this epoch and sequence")]
    Conflict,
    /// What is stored does not decode.
    #[error("{table}.{column} does not hold what was written to it")]
    Corrupt {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
    },
    /// The head is not the one this writer left: somebody else writes this log.
    #[error("the log's head was moved by another writer")]
    Forked,
    /// The head cannot be signed.
    #[error("log checkpoint: {0}")]
    Checkpoint(#[from] bailiwick_attestation::tlog::NoteError),
    /// The writer has stopped.
    #[error("the writer has stopped")]
    Stopped,
}

impl StoreError {
    /// A uniqueness violation becomes [`StoreError::Conflict`].
    pub(super) fn from_insert(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(database) if database.is_unique_violation() => Self::Conflict,
            _ => Self::Database(error),
        }
    }
}
