//! The nodes' own logs: entries as delivered, held against the roots that statements named.

use bailiwick_attestation::events::Entry;
use bailiwick_attestation::proto::v1::log_entry::What;
use bailiwick_attestation::tlog::{Frontier, Head, Tail};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::rows::NewStatement;
use super::writer::{Write, int};
use super::{Store, StoreError, flows};

/// Leaves folded in one go: bounds what one check holds in memory.
const FOLD: i64 = 4096;

/// A delivered entry.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// What it says.
    pub parsed: Entry,
    /// Its bytes.
    pub entry: Vec<u8>,
    /// What travelled beside it; empty where there is nothing to keep.
    pub sealed: Vec<u8>,
}

/// An entry as stored.
#[derive(Clone, Debug)]
pub struct StoredEntry {
    /// Which TPM.
    pub ek: Sha256Digest,
    /// Its bytes.
    pub entry: Vec<u8>,
    /// What is sealed beside it.
    pub sealed: Vec<u8>,
    /// When it came.
    pub received: UnixTime,
    /// It stands under the root of an accepted statement.
    pub proven: bool,
}

/// Which entries are asked for.
#[derive(Clone, Copy, Debug)]
pub struct EntryFilter<'a> {
    /// One TPM's; else all.
    pub ek: Option<&'a Sha256Digest>,
    /// One study's; empty: all.
    pub study: &'a str,
    /// One kind; empty: all.
    pub kind: &'a str,
    /// Received not before.
    pub from: UnixTime,
    /// Received not after.
    pub to: UnixTime,
    /// At most so many.
    pub limit: u32,
}

/// How a batch lies against what is expected next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Lies {
    /// Entries at its front that are here already.
    known: u64,
    /// Entries before it that never came.
    missing: u64,
}

fn lies(delivered: u64, first: u64, count: u64) -> Lies {
    Lies {
        known: delivered.saturating_sub(first).min(count),
        missing: first.saturating_sub(delivered),
    }
}

/// One epoch of one node's log.
#[derive(Clone, Debug, Default)]
struct LogRow {
    delivered: u64,
    edge: Frontier,
}

impl Store {
    /// Records delivered entries that begin with number `first`, each once. What is missing,
    /// altered, or not under the root that an accepted statement named becomes an alert.
    pub async fn entries_insert(
        &self,
        ek: Sha256Digest,
        entries: Vec<NewEntry>,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        if !entries.is_empty() {
            self.write(Write::Entries(ek, entries, now)).await?;
        }
        Ok(())
    }

    /// The node's log is not what it was.
    pub async fn log_fault(
        &self,
        ek: Sha256Digest,
        now: UnixTime,
        why: String,
    ) -> Result<(), StoreError> {
        self.write(Write::LogFault(ek, now, why)).await?;
        Ok(())
    }

    /// Entries, newest first.
    pub async fn entry_list(
        &self,
        filter: &EntryFilter<'_>,
    ) -> Result<Vec<StoredEntry>, StoreError> {
        let ek = filter.ek.map(|ek| ek.as_bytes().to_vec());
        sqlx::query(
            "SELECT e.ek, e.entry, e.sealed, e.received_ms, e.number < l.proven AS proven
             FROM node_entries e JOIN node_logs l ON l.ek = e.ek AND l.epoch = e.epoch
             WHERE (? IS NULL OR e.ek = ?) AND (? = '' OR e.study = ?) AND (? = '' OR e.kind = ?)
                 AND e.received_ms >= ? AND e.received_ms <= ?
             ORDER BY e.id DESC LIMIT ?",
        )
        .bind(&ek)
        .bind(&ek)
        .bind(filter.study)
        .bind(filter.study)
        .bind(filter.kind)
        .bind(filter.kind)
        .bind(int(filter.from.millis()))
        .bind(int(filter.to.millis()))
        .bind(i64::from(filter.limit))
        .fetch_all(&self.readers)
        .await?
        .iter()
        .map(stored_entry)
        .collect()
    }

    /// One entry.
    pub async fn entry_get(
        &self,
        ek: &Sha256Digest,
        epoch: u64,
        index: u64,
    ) -> Result<Option<StoredEntry>, StoreError> {
        sqlx::query(
            "SELECT e.ek, e.entry, e.sealed, e.received_ms, e.number < l.proven AS proven
             FROM node_entries e JOIN node_logs l ON l.ek = e.ek AND l.epoch = e.epoch
             WHERE e.ek = ? AND e.epoch = ? AND e.number = ?",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(int(epoch))
        .bind(int(index))
        .fetch_optional(&self.readers)
        .await?
        .map(|row| stored_entry(&row))
        .transpose()
    }

    /// The leaves of a node's log, as far as they go without a hole.
    pub async fn entry_tail(
        &self,
        ek: &Sha256Digest,
        epoch: u64,
        size: u64,
    ) -> Result<Tail, StoreError> {
        let rows = sqlx::query(
            "SELECT number, leaf FROM node_entries
             WHERE ek = ? AND epoch = ? AND number < ? ORDER BY number",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(int(epoch))
        .bind(int(size))
        .fetch_all(&self.readers)
        .await?;
        let mut tail = Tail::default();
        for row in &rows {
            if number(row, "number")? != tail.size() {
                break;
            }
            tail.push(digest(row, "leaf")?);
        }
        Ok(tail)
    }

    /// The newest statement of an epoch.
    pub async fn statement_last_of(
        &self,
        ek: &Sha256Digest,
        epoch: u64,
    ) -> Result<Option<Sha256Digest>, StoreError> {
        sqlx::query(
            "SELECT digest FROM statements WHERE ek = ? AND epoch = ?
             ORDER BY sequence DESC LIMIT 1",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(int(epoch))
        .fetch_optional(&self.readers)
        .await?
        .map(|row| digest(&row, "digest"))
        .transpose()
    }

    /// SHA-256 of what the collector's own log says about the statement; empty if it has none.
    pub async fn receipt_digest(
        &self,
        ek: &Sha256Digest,
        statement: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let row = sqlx::query(
            "SELECT e.entry FROM statements s JOIN log_entries e ON e.number = s.log_index
             WHERE s.ek = ? AND s.digest = ?",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(statement)
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else {
            return Ok(Vec::new());
        };
        let entry: Vec<u8> = row.try_get(0)?;
        Ok(Sha256Digest::of(&[&entry]).as_bytes().to_vec())
    }
}

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    entries: &[NewEntry],
    now: UnixTime,
) -> Result<(), StoreError> {
    let Some(first) = entries.first().map(|entry| &entry.parsed) else {
        return Ok(());
    };
    let (epoch, first) = (first.epoch, first.index);
    let log = log_row(connection, ek, epoch).await?;
    let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
    let Lies { known, missing } = lies(log.delivered, first, count);
    if missing > 0 {
        let text = format!("{missing} entries before number {first} never came");
        gap(connection, ek, now, &text).await?;
    }
    let (known, new) = entries
        .split_at_checked(usize::try_from(known).unwrap_or(usize::MAX))
        .unwrap_or((entries, &[]));
    for entry in known {
        if leaf_at(connection, ek, epoch, entry.parsed.index).await? != Some(entry.parsed.leaf) {
            let text = format!(
                "entry {} came again and says something else",
                entry.parsed.index
            );
            fault(connection, ek, now, &text).await?;
        }
    }
    for entry in new {
        sqlx::query(
            "INSERT INTO node_entries
                 (ek, epoch, number, kind, study, entry, leaf, sealed, received_ms)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(int(epoch))
        .bind(int(entry.parsed.index))
        .bind(entry.parsed.kind())
        .bind(study(&entry.parsed.what))
        .bind(&entry.entry)
        .bind(entry.parsed.leaf.as_bytes().as_slice())
        .bind(&entry.sealed)
        .bind(int(now.millis()))
        .execute(&mut *connection)
        .await?;
        if let What::Flows(counted) = &entry.parsed.what {
            flows::insert(connection, ek, counted, now).await?;
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    sqlx::query("UPDATE node_logs SET delivered = ? WHERE ek = ? AND epoch = ?")
        .bind(int(first.saturating_add(count)))
        .bind(ek.as_bytes().as_slice())
        .bind(int(epoch))
        .execute(&mut *connection)
        .await?;
    prove(connection, ek, epoch, now).await
}

/// Keeps what a statement that is recorded in the same transaction says of the node's log.
pub(super) async fn head_insert(
    connection: &mut SqliteConnection,
    new: &NewStatement,
) -> Result<(), StoreError> {
    let head = |message: &bailiwick_attestation::proto::v1::PreviousStatement| {
        let head = message.log.as_ref().and_then(Head::of);
        head.map(|head| (message.epoch, head))
    };
    let before = new.previous.as_ref().and_then(head);
    let Some((epoch, now)) = head(&new.newest).filter(|now| Some(*now) != before) else {
        return Ok(());
    };
    let log = log_row(connection, &new.ek, epoch).await?;
    if now.size <= log.edge.size() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO node_heads (ek, epoch, size, root) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(new.ek.as_bytes().as_slice())
    .bind(int(epoch))
    .bind(int(now.size))
    .bind(now.root.as_bytes().as_slice())
    .execute(&mut *connection)
    .await?;
    prove(connection, &new.ek, epoch, new.received).await
}

/// Holds what was delivered against every root that is within its reach, smallest first.
async fn prove(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    epoch: u64,
    now: UnixTime,
) -> Result<(), StoreError> {
    let mut log = log_row(connection, ek, epoch).await?;
    loop {
        let row = sqlx::query(
            "SELECT size, root FROM node_heads WHERE ek = ? AND epoch = ? AND size <= ?
             ORDER BY size LIMIT 1",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(int(epoch))
        .bind(int(log.delivered))
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(()) };
        let head = Head {
            size: number(&row, "size")?,
            root: digest(&row, "root")?,
        };
        let reached = fold(connection, ek, epoch, log.edge.clone(), head.size).await?;
        match reached {
            Some(edge) if edge.head() == head => {
                edge_update(connection, ek, epoch, &edge).await?;
                log.edge = edge;
            }
            Some(_) => {
                let text = format!(
                    "entries {} to {} are not those its statement was made over",
                    log.edge.size(),
                    head.size
                );
                fault(connection, ek, now, &text).await?;
            }
            // Entries are missing: that is told already, and nothing shows what they were.
            None => {}
        }
        sqlx::query("DELETE FROM node_heads WHERE ek = ? AND epoch = ? AND size = ?")
            .bind(ek.as_bytes().as_slice())
            .bind(int(epoch))
            .bind(int(head.size))
            .execute(&mut *connection)
            .await?;
    }
}

/// The edge at `size`, from the leaves as stored; `None` where one is missing.
async fn fold(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    epoch: u64,
    mut edge: Frontier,
    size: u64,
) -> Result<Option<Frontier>, StoreError> {
    while edge.size() < size {
        let rows = sqlx::query(
            "SELECT number, leaf FROM node_entries
             WHERE ek = ? AND epoch = ? AND number >= ? AND number < ? ORDER BY number LIMIT ?",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(int(epoch))
        .bind(int(edge.size()))
        .bind(int(size))
        .bind(FOLD)
        .fetch_all(&mut *connection)
        .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        for row in &rows {
            if number(row, "number")? != edge.size() {
                return Ok(None);
            }
            edge.push(digest(row, "leaf")?);
        }
    }
    Ok(Some(edge))
}

async fn log_row(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    epoch: u64,
) -> Result<LogRow, StoreError> {
    let row =
        sqlx::query("SELECT delivered, proven, edge FROM node_logs WHERE ek = ? AND epoch = ?")
            .bind(ek.as_bytes().as_slice())
            .bind(int(epoch))
            .fetch_optional(&mut *connection)
            .await?;
    let Some(row) = row else {
        sqlx::query("INSERT INTO node_logs (ek, epoch) VALUES (?, ?)")
            .bind(ek.as_bytes().as_slice())
            .bind(int(epoch))
            .execute(connection)
            .await?;
        return Ok(LogRow::default());
    };
    let edge: Vec<u8> = row.try_get("edge")?;
    let peaks = edge.as_chunks::<32>().0.iter().copied().map(Sha256Digest);
    Ok(LogRow {
        delivered: number(&row, "delivered")?,
        edge: Frontier::from_parts(number(&row, "proven")?, peaks.collect())
            .ok_or_else(|| corrupt("node_logs", "edge"))?,
    })
}

async fn edge_update(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    epoch: u64,
    edge: &Frontier,
) -> Result<(), StoreError> {
    let peaks: Vec<u8> = edge.peaks().iter().flat_map(|peak| peak.0).collect();
    sqlx::query("UPDATE node_logs SET proven = ?, edge = ? WHERE ek = ? AND epoch = ?")
        .bind(int(edge.size()))
        .bind(peaks)
        .bind(ek.as_bytes().as_slice())
        .bind(int(epoch))
        .execute(connection)
        .await?;
    Ok(())
}

async fn leaf_at(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    epoch: u64,
    index: u64,
) -> Result<Option<Sha256Digest>, StoreError> {
    sqlx::query("SELECT leaf FROM node_entries WHERE ek = ? AND epoch = ? AND number = ?")
        .bind(ek.as_bytes().as_slice())
        .bind(int(epoch))
        .bind(int(index))
        .fetch_optional(connection)
        .await?
        .map(|row| digest(&row, "leaf"))
        .transpose()
}

pub(super) async fn fault(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    now: UnixTime,
    why: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET log_fault_ms = ?, log_fault = ? WHERE ek = ?")
        .bind(int(now.millis()))
        .bind(why)
        .bind(ek.as_bytes().as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

async fn gap(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    now: UnixTime,
    why: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET gap_ms = ?, gap_reason = ? WHERE ek = ?")
        .bind(int(now.millis()))
        .bind(why)
        .bind(ek.as_bytes().as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

fn stored_entry(row: &SqliteRow) -> Result<StoredEntry, StoreError> {
    Ok(StoredEntry {
        ek: digest(row, "ek")?,
        entry: row.try_get("entry")?,
        sealed: row.try_get("sealed")?,
        received: UnixTime(number(row, "received_ms")?),
        proven: row.try_get("proven")?,
    })
}

fn study(what: &What) -> &str {
    match what {
        What::Denial(denial) => &denial.study,
        What::KeyMade(key) => &key.study,
        _ => "",
    }
}

fn number(row: &SqliteRow, column: &'static str) -> Result<u64, StoreError> {
    u64::try_from(row.try_get::<i64, _>(column)?)
        .map_err(|_negative| corrupt("node_entries", column))
}

fn digest(row: &SqliteRow, column: &'static str) -> Result<Sha256Digest, StoreError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    Sha256Digest::from_slice(&bytes).ok_or_else(|| corrupt("node_entries", column))
}

const fn corrupt(table: &'static str, column: &'static str) -> StoreError {
    StoreError::Corrupt { table, column }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_follows_repeats_or_leaves_a_hole() {
        let cases = [
            ("the next", (5, 5, 3), (0, 0)),
            ("all known", (5, 2, 3), (3, 0)),
            ("known long ago", (9, 2, 3), (3, 0)),
            ("partly known", (5, 4, 3), (1, 0)),
            ("one missing", (5, 6, 3), (0, 1)),
            ("the first", (0, 0, 1), (0, 0)),
        ];
        for (name, (delivered, first, count), (known, missing)) in cases {
            let want = Lies { known, missing };
            assert_eq!(lies(delivered, first, count), want, "{name}");
        }
    }
}
