//! Keys of what nodes sealed: kept wrapped, opened for an answer, destroyed for good.
//!
//! They lie in a database of their own, `keys.db`, so that no copy of the record holds one: what
//! was exported or backed up from the record is silent once its key is gone here and on the node.
//! A row of a destroyed key stays, without the key: it says when and by whose word.

mod erase;
mod follow;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bailiwick_attestation::events::{BucketKey, KeyId, KeyTerms, SealError, WRAPPED};
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use prost::Message as _;
use sqlx::Row as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use tokio::sync::Mutex;

pub use erase::EraseError;
pub use follow::Erasures;
pub(crate) use store::{FOLDER, public_of};
pub use store::{KeyStoreError, KeyStores, store_id};

/// What can go wrong with the keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The database says so.
    #[error("database of keys")]
    Database(#[from] sqlx::Error),
    /// What is stored does not decode.
    #[error("keys.{0} does not hold what was written to it")]
    Corrupt(&'static str),
    /// A destroyed key can still be read out of a file. Nothing may say that it is gone.
    #[error("{file}: still holds key {key}")]
    StillThere {
        /// The file.
        file: PathBuf,
        /// The key.
        key: KeyId,
    },
    /// A file of the database could not be read back.
    #[error("{file}: cannot be read back")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A key as stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyRow {
    /// Its name.
    pub id: KeyId,
    /// The node that made it.
    pub ek: Sha256Digest,
    /// Whose it is.
    pub study: String,
    /// Of which subjects.
    pub bucket: String,
    /// For how long it is meant to last.
    pub retention: String,
    /// The key store it is wrapped for.
    pub key_store: String,
    /// When it came.
    pub made: UnixTime,
    /// When it was destroyed, and the manifest that said so.
    pub destroyed: Option<(UnixTime, Sha256Digest)>,
}

/// Why a private half stays closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Closed {
    /// Nothing was sealed with the entry.
    #[error("nothing sealed")]
    Nothing,
    /// The key never came.
    #[error("no key")]
    NoKey,
    /// The key is destroyed.
    #[error("erased")]
    Erased,
    /// The key is wrapped for a store whose private half is not here.
    #[error("wrapped for another key store")]
    OtherStore,
    /// The wrapped key does not open.
    #[error("the key does not open")]
    Unwrap,
    /// The seal does not open, or its content is another.
    #[error("{0}")]
    Seal(SealError),
    /// It opens, and cannot be read.
    #[error("not a private half")]
    Malformed,
}

/// The keys.
#[derive(Clone, Debug)]
pub struct Keys {
    pool: SqlitePool,
    path: PathBuf,
    stores: Arc<KeyStores>,
    deployment: DeploymentId,
    /// One destruction at a time: it reads the files back.
    destroying: Arc<Mutex<()>>,
}

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS keys (
    ek            BLOB    NOT NULL CHECK (length(ek) = 32),
    id            BLOB    NOT NULL CHECK (length(id) = 16),
    study         TEXT    NOT NULL,
    bucket        TEXT    NOT NULL,
    retention     TEXT    NOT NULL,
    key_store     TEXT    NOT NULL,
    -- Empty once destroyed.
    wrapped       BLOB    NOT NULL,
    made_ms       INTEGER NOT NULL,
    destroyed_ms  INTEGER,
    manifest      BLOB,
    PRIMARY KEY (ek, id)
) STRICT";

impl Keys {
    /// Names and public halves of the key stores held here.
    #[must_use]
    pub fn publics(&self) -> Vec<(String, [u8; 65])> {
        self.stores.publics()
    }

    /// Opens or makes the database. `secure_delete`: what is overwritten is overwritten with
    /// zeroes in the file, and not left in a free page.
    pub async fn open(
        path: &Path,
        stores: KeyStores,
        deployment: DeploymentId,
    ) -> Result<Self, KeysError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("secure_delete", "ON");
        // One connection: nobody else reads from the log that is truncated below.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await?;
        sqlx::query(SCHEMA).execute(&pool).await?;
        Ok(Self {
            pool,
            path: path.to_owned(),
            stores: Arc::new(stores),
            deployment,
            destroying: Arc::default(),
        })
    }

    /// Names of the key stores whose private half is here.
    pub fn stores(&self) -> impl Iterator<Item = &str> {
        self.stores.ids()
    }

    /// Keeps a key that a node wrapped. One that was destroyed does not come back; one wrapped
    /// anew, for another store, replaces itself.
    pub async fn insert(
        &self,
        ek: &Sha256Digest,
        made: &v1::KeyMade,
        wrapped: &[u8],
        now: UnixTime,
    ) -> Result<(), KeysError> {
        sqlx::query(
            "INSERT INTO keys (ek, id, study, bucket, retention, key_store, wrapped, made_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (ek, id) DO UPDATE SET
                 key_store = excluded.key_store, wrapped = excluded.wrapped
             WHERE destroyed_ms IS NULL AND study = excluded.study AND bucket = excluded.bucket
                 AND retention = excluded.retention",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(&made.key_id)
        .bind(&made.study)
        .bind(&made.bucket)
        .bind(&made.retention)
        .bind(&made.key_store)
        .bind(wrapped)
        .bind(int(now))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Every key, by study, bucket, retention class and node.
    pub async fn list(&self) -> Result<Vec<KeyRow>, KeysError> {
        sqlx::query("SELECT * FROM keys ORDER BY study, bucket, retention, ek, id")
            .fetch_all(&self.pool)
            .await?
            .iter()
            .map(key_row)
            .collect()
    }

    /// Opens the private half of a denial, while its key exists.
    pub async fn open_private(
        &self,
        ek: &Sha256Digest,
        denial: &v1::Denial,
        sealed: &[u8],
    ) -> Result<Result<v1::DenialPrivate, Closed>, KeysError> {
        let Some(sealing) = &denial.sealing else {
            return Ok(Err(Closed::Nothing));
        };
        let Some((key, wrapped)) = self.get(ek, &sealing.key_id).await? else {
            return Ok(Err(Closed::NoKey));
        };
        Ok(self.open_with(&key, &wrapped, sealing, sealed))
    }

    /// The private half of a denial, byte for byte, and the key of its commitment alone: enough to
    /// show it to somebody else.
    pub async fn show(
        &self,
        ek: &Sha256Digest,
        denial: &v1::Denial,
        sealed: &[u8],
    ) -> Result<Result<(Vec<u8>, Vec<u8>), Closed>, KeysError> {
        let Some(sealing) = &denial.sealing else {
            return Ok(Err(Closed::Nothing));
        };
        let Some((key, wrapped)) = self.get(ek, &sealing.key_id).await? else {
            return Ok(Err(Closed::NoKey));
        };
        let shown = self.bucket(&key, &wrapped).and_then(|bucket| {
            let private = bucket.open(sealing, sealed).map_err(Closed::Seal)?;
            let opening = bucket.opening(sealing).map_err(Closed::Seal)?;
            Ok((private, opening.to_vec()))
        });
        Ok(shown)
    }

    async fn get(
        &self,
        ek: &Sha256Digest,
        id: &[u8],
    ) -> Result<Option<(KeyRow, Vec<u8>)>, KeysError> {
        let row = sqlx::query("SELECT * FROM keys WHERE ek = ? AND id = ?")
            .bind(ek.as_bytes().as_slice())
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((key_row(&row)?, row.try_get("wrapped")?)))
    }

    fn open_with(
        &self,
        key: &KeyRow,
        wrapped: &[u8],
        sealing: &v1::Sealing,
        sealed: &[u8],
    ) -> Result<v1::DenialPrivate, Closed> {
        let bucket = self.bucket(key, wrapped)?;
        let private = bucket.open(sealing, sealed).map_err(Closed::Seal)?;
        v1::DenialPrivate::decode(private.as_slice()).map_err(|_malformed| Closed::Malformed)
    }

    fn bucket(&self, key: &KeyRow, wrapped: &[u8]) -> Result<BucketKey, Closed> {
        if key.destroyed.is_some() {
            return Err(Closed::Erased);
        }
        let store = self.stores.get(&key.key_store).ok_or(Closed::OtherStore)?;
        let terms = KeyTerms {
            deployment: self.deployment.as_str(),
            id: key.id,
            study: &key.study,
            bucket: &key.bucket,
            retention: &key.retention,
        };
        BucketKey::unwrap_with(&terms, store, wrapped).map_err(|_error| Closed::Unwrap)
    }

    /// Destroys every key that `meant` says, and answers with those that were there and are gone.
    /// The rows are overwritten, the write-ahead log is emptied, and the files are read back: an
    /// answer means that no file of the database holds one of them any more.
    pub async fn destroy(
        &self,
        meant: impl Fn(&KeyRow) -> bool,
        manifest: &Sha256Digest,
        now: UnixTime,
    ) -> Result<Vec<KeyRow>, KeysError> {
        let _one = self.destroying.lock().await;
        let rows = sqlx::query("SELECT * FROM keys WHERE destroyed_ms IS NULL")
            .fetch_all(&self.pool)
            .await?;
        let (mut gone, mut needles) = (Vec::new(), Vec::new());
        for row in &rows {
            let mut key = key_row(row)?;
            if !meant(&key) {
                continue;
            }
            needles.push((key.id, row.try_get::<Vec<u8>, _>("wrapped")?));
            sqlx::query(
                "UPDATE keys SET wrapped = zeroblob(length(wrapped)), destroyed_ms = ?,
                     manifest = ? WHERE ek = ? AND id = ?",
            )
            .bind(int(now))
            .bind(manifest.as_bytes().as_slice())
            .bind(key.ek.as_bytes().as_slice())
            .bind(key.id.0.as_slice())
            .execute(&self.pool)
            .await?;
            key.destroyed = Some((now, *manifest));
            gone.push(key);
        }
        if !gone.is_empty() {
            sqlx::query("UPDATE keys SET wrapped = x'' WHERE destroyed_ms IS NOT NULL")
                .execute(&self.pool)
                .await?;
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
                .execute(&self.pool)
                .await?;
            self.read_back(&needles)?;
        }
        Ok(gone)
    }

    /// Destroys the keys a node says are gone on it: one that was on its way to the collector
    /// while it was destroyed there must not outlive it here.
    pub async fn destroy_with_node(
        &self,
        ek: &Sha256Digest,
        erased: &v1::KeysErased,
        now: UnixTime,
    ) -> Result<Vec<KeyRow>, KeysError> {
        let Some(manifest) = Sha256Digest::from_slice(&erased.manifest_digest) else {
            return Ok(Vec::new());
        };
        let meant = |key: &KeyRow| {
            let mut ids = erased.key_ids.iter();
            key.ek == *ek && ids.any(|id| id.as_slice() == key.id.0)
        };
        self.destroy(meant, &manifest, now).await
    }

    /// Looks for the keys in every file of the database.
    fn read_back(&self, needles: &[(KeyId, Vec<u8>)]) -> Result<(), KeysError> {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut name = self.path.as_os_str().to_owned();
            name.push(suffix);
            let file = PathBuf::from(name);
            let bytes = match std::fs::read(&file) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(KeysError::Read { file, source }),
            };
            if let Some(key) = found(&bytes, needles) {
                return Err(KeysError::StillThere { file, key });
            }
        }
        Ok(())
    }
}

/// The first key whose bytes stand in a file. Rows may be split over pages, so any stretch of
/// sixteen bytes counts.
fn found(bytes: &[u8], needles: &[(KeyId, Vec<u8>)]) -> Option<KeyId> {
    let stretches: std::collections::HashMap<&[u8], KeyId> = needles
        .iter()
        .flat_map(|(id, needle)| {
            needle
                .as_chunks::<16>()
                .0
                .iter()
                .map(|s| (s.as_slice(), *id))
        })
        .collect();
    let mut windows = bytes.windows(16);
    windows.find_map(|window| stretches.get(window).copied())
}

/// Whether what travels beside a `KeyMade` entry is what the entry says.
#[must_use]
pub fn wrapped_as_said(made: &v1::KeyMade, wrapped: &[u8]) -> bool {
    wrapped.len() == WRAPPED
        && Sha256Digest::of(&[wrapped]).as_bytes().as_slice() == made.wrapped_digest
}

fn key_row(row: &SqliteRow) -> Result<KeyRow, KeysError> {
    let bytes = |column: &str| row.try_get::<Vec<u8>, _>(column);
    let time = |ms: i64| UnixTime(u64::try_from(ms).unwrap_or_default());
    let destroyed = match row.try_get::<Option<i64>, _>("destroyed_ms")? {
        None => None,
        Some(at) => {
            let manifest = Sha256Digest::from_slice(&bytes("manifest")?);
            Some((time(at), manifest.ok_or(KeysError::Corrupt("manifest"))?))
        }
    };
    Ok(KeyRow {
        id: KeyId::from_slice(&bytes("id")?).ok_or(KeysError::Corrupt("id"))?,
        ek: Sha256Digest::from_slice(&bytes("ek")?).ok_or(KeysError::Corrupt("ek"))?,
        study: row.try_get("study")?,
        bucket: row.try_get("bucket")?,
        retention: row.try_get("retention")?,
        key_store: row.try_get("key_store")?,
        made: time(row.try_get("made_ms")?),
        destroyed,
    })
}

fn int(time: UnixTime) -> i64 {
    i64::try_from(time.millis()).unwrap_or(i64::MAX)
}
