//! What passed the fences, as nodes counted it: sums by hour, and the times that were counted.

use bailiwick_attestation::proto::v1::FlowsCounted;
use bailiwick_attestation::{Sha256Digest, UnixTime};
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::writer::int;
use super::{Store, StoreError};

/// Sums kept of one node; beyond that its oldest hour goes.
const ROWS: i64 = 50_000;
/// Spans kept of one node. Each ends with a restart of the machine.
const SPANS: i64 = 1_000;
/// Rows in one answer.
const ANSWER: i64 = 10_000;
/// A span goes on where the last one ended; clocks are set by as much.
const SLACK_MS: u64 = 2_000;

const HOUR_MS: u64 = 3_600_000;

/// What passed between one study and one jurisdiction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FlowRow {
    /// Which TPM.
    pub ek: Sha256Digest,
    /// Whose; empty: a host service.
    pub study: String,
    /// Where the far end lies; empty: not told apart.
    pub jurisdiction: String,
    /// `egress` or `ingress`.
    pub direction: String,
    /// The first sum begins, by the node's clock.
    pub from: UnixTime,
    /// The last one ends.
    pub to: UnixTime,
    /// Packets.
    pub packets: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
}

/// Which flows are asked for. Hours that lie in the time by a part are in it.
#[derive(Clone, Copy, Debug)]
pub struct FlowFilter<'a> {
    /// One TPM's; else all.
    pub ek: Option<&'a Sha256Digest>,
    /// One study's; empty: all.
    pub study: &'a str,
    /// One jurisdiction's; empty: all.
    pub jurisdiction: &'a str,
    /// Counted not before.
    pub from: UnixTime,
    /// Counted not after.
    pub to: UnixTime,
}

/// A time in which a node counted without a break.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowSpan {
    /// Which TPM.
    pub ek: Sha256Digest,
    /// By the node's clock.
    pub from: UnixTime,
    /// By the node's clock.
    pub to: UnixTime,
}

impl Store {
    /// Sums over a time, by node, study, jurisdiction and direction. True: there are more.
    pub async fn flow_list(
        &self,
        filter: &FlowFilter<'_>,
    ) -> Result<(Vec<FlowRow>, bool), StoreError> {
        let ek = filter.ek.map(|ek| ek.as_bytes().to_vec());
        let rows = sqlx::query(
            "SELECT ek, study, jurisdiction, direction, min(from_ms) AS from_ms,
                 max(to_ms) AS to_ms,
                 sum(packets >> 24) AS packets_high, sum(packets & 16777215) AS packets_low,
                 sum(bytes >> 24) AS bytes_high, sum(bytes & 16777215) AS bytes_low
             FROM flow_counts
             WHERE (? IS NULL OR ek = ?) AND (? = '' OR study = ? OR jurisdiction = '')
                 AND (? = '' OR jurisdiction = ? OR jurisdiction = '')
                 AND to_ms >= ? AND from_ms <= ?
             GROUP BY ek, study, jurisdiction, direction
             ORDER BY study, jurisdiction, direction, ek LIMIT ?",
        )
        .bind(&ek)
        .bind(&ek)
        .bind(filter.study)
        .bind(filter.study)
        .bind(filter.jurisdiction)
        .bind(filter.jurisdiction)
        .bind(int(filter.from.millis()))
        .bind(int(filter.to.millis()))
        .bind(ANSWER + 1)
        .fetch_all(&self.readers)
        .await?;
        let most = usize::try_from(ANSWER).unwrap_or(usize::MAX);
        let more = rows.len() > most;
        let rows = rows.iter().take(most).map(|row| {
            Ok(FlowRow {
                ek: ek_of(row.try_get("ek")?, "flow_counts")?,
                study: row.try_get("study")?,
                jurisdiction: row.try_get("jurisdiction")?,
                direction: row.try_get("direction")?,
                from: UnixTime(whole(row.try_get("from_ms")?)),
                to: UnixTime(whole(row.try_get("to_ms")?)),
                packets: sum(row.try_get("packets_high")?, row.try_get("packets_low")?),
                bytes: sum(row.try_get("bytes_high")?, row.try_get("bytes_low")?),
            })
        });
        Ok((rows.collect::<Result<_, StoreError>>()?, more))
    }

    /// What was counted of a time, node by node, in order.
    pub async fn flow_spans(
        &self,
        ek: Option<&Sha256Digest>,
        from: UnixTime,
        to: UnixTime,
    ) -> Result<Vec<FlowSpan>, StoreError> {
        let ek = ek.map(|ek| ek.as_bytes().to_vec());
        let rows = sqlx::query(
            "SELECT ek, from_ms, to_ms FROM flow_spans
             WHERE (? IS NULL OR ek = ?) AND to_ms >= ? AND from_ms <= ?
             ORDER BY ek, from_ms",
        )
        .bind(&ek)
        .bind(&ek)
        .bind(int(from.millis()))
        .bind(int(to.millis()))
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(FlowSpan {
                    ek: ek_of(row.try_get("ek")?, "flow_spans")?,
                    from: UnixTime(whole(row.try_get("from_ms")?)),
                    to: UnixTime(whole(row.try_get("to_ms")?)),
                })
            })
            .collect()
    }
}

/// Adds one entry of a node's log, in the transaction that records the entry: once.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    counted: &FlowsCounted,
    now: UnixTime,
) -> Result<(), StoreError> {
    insert_within(connection, ek, counted, now, ROWS).await
}

async fn insert_within(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    counted: &FlowsCounted,
    now: UnixTime,
    limit: i64,
) -> Result<(), StoreError> {
    let to = counted.to_ms.min(now.millis());
    let from = counted.from_ms.min(to);
    let others = (counted.other_packets > 0).then_some((
        ["", "", ""],
        counted.other_packets,
        counted.other_bytes,
    ));
    let flows = counted.flows.iter().map(|flow| {
        let key = [&flow.study, &flow.jurisdiction, &flow.direction];
        (key.map(String::as_str), flow.packets, flow.bytes)
    });
    let mut new = 0;
    for (key, packets, bytes) in flows.chain(others) {
        let times = (from, to);
        if !add(connection, ek, key, times, (packets, bytes)).await? {
            new += 1;
        }
    }
    span(connection, ek, from, to).await?;
    bound(connection, ek, new, limit).await
}

/// True: there was a sum to add to.
async fn add(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    [study, jurisdiction, direction]: [&str; 3],
    (from, to): (u64, u64),
    (packets, bytes): (u64, u64),
) -> Result<bool, StoreError> {
    let updated = sqlx::query(
        "UPDATE flow_counts SET from_ms = min(from_ms, ?), to_ms = max(to_ms, ?),
             packets = packets + min(?, 9223372036854775807 - packets),
             bytes = bytes + min(?, 9223372036854775807 - bytes)
         WHERE ek = ? AND hour_ms = ? AND study = ? AND jurisdiction = ? AND direction = ?",
    )
    .bind(int(from))
    .bind(int(to))
    .bind(int(packets))
    .bind(int(bytes))
    .bind(ek.as_bytes().as_slice())
    .bind(int(hour(to)))
    .bind(study)
    .bind(jurisdiction)
    .bind(direction)
    .execute(&mut *connection)
    .await?;
    if updated.rows_affected() > 0 {
        return Ok(true);
    }
    sqlx::query(
        "INSERT INTO flow_counts
             (ek, hour_ms, study, jurisdiction, direction, from_ms, to_ms, packets, bytes)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(ek.as_bytes().as_slice())
    .bind(int(hour(to)))
    .bind(study)
    .bind(jurisdiction)
    .bind(direction)
    .bind(int(from))
    .bind(int(to))
    .bind(int(packets))
    .bind(int(bytes))
    .execute(connection)
    .await?;
    Ok(false)
}

async fn span(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    from: u64,
    to: u64,
) -> Result<(), StoreError> {
    let went_on = sqlx::query(
        "UPDATE flow_spans SET to_ms = max(to_ms, ?)
         WHERE ek = ? AND from_ms = (SELECT from_ms FROM flow_spans
             WHERE ek = ? AND from_ms <= ? AND to_ms >= ? ORDER BY from_ms DESC LIMIT 1)",
    )
    .bind(int(to))
    .bind(ek.as_bytes().as_slice())
    .bind(ek.as_bytes().as_slice())
    .bind(int(from.saturating_add(SLACK_MS)))
    .bind(int(from.saturating_sub(SLACK_MS)))
    .execute(&mut *connection)
    .await?;
    if went_on.rows_affected() == 0 {
        sqlx::query("INSERT INTO flow_spans (ek, from_ms, to_ms) VALUES (?, ?, ?)")
            .bind(ek.as_bytes().as_slice())
            .bind(int(from))
            .bind(int(to))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The oldest hour of a node goes when it has too many rows, and what was counted then is not said
/// to be known.
async fn bound(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    new: i64,
    limit: i64,
) -> Result<(), StoreError> {
    let ek = ek.as_bytes().as_slice();
    let mut rows: i64 = sqlx::query_scalar(
        "INSERT INTO flow_nodes (ek, rows) VALUES (?, ?)
         ON CONFLICT (ek) DO UPDATE SET rows = rows + excluded.rows RETURNING rows",
    )
    .bind(ek)
    .bind(new)
    .fetch_one(&mut *connection)
    .await?;
    while rows > limit {
        let oldest: Option<i64> =
            sqlx::query_scalar("SELECT min(hour_ms) FROM flow_counts WHERE ek = ?")
                .bind(ek)
                .fetch_one(&mut *connection)
                .await?;
        let Some(hour) = oldest else { break };
        let gone = sqlx::query("DELETE FROM flow_counts WHERE ek = ? AND hour_ms = ?")
            .bind(ek)
            .bind(hour)
            .execute(&mut *connection)
            .await?;
        rows = rows.saturating_sub(int(gone.rows_affected()));
        let known_from = hour.saturating_add(int(HOUR_MS));
        sqlx::query("DELETE FROM flow_spans WHERE ek = ? AND to_ms <= ?")
            .bind(ek)
            .bind(known_from)
            .execute(&mut *connection)
            .await?;
        sqlx::query("UPDATE OR REPLACE flow_spans SET from_ms = ? WHERE ek = ? AND from_ms < ?")
            .bind(known_from)
            .bind(ek)
            .bind(known_from)
            .execute(&mut *connection)
            .await?;
        sqlx::query("UPDATE flow_nodes SET rows = ? WHERE ek = ?")
            .bind(rows)
            .bind(ek)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(
        "DELETE FROM flow_spans WHERE ek = ? AND from_ms <= (SELECT from_ms FROM flow_spans
             WHERE ek = ? ORDER BY from_ms DESC LIMIT 1 OFFSET ?)",
    )
    .bind(ek)
    .bind(ek)
    .bind(SPANS)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// Of halves that SQLite added up each by itself: whatever a node claims, no sum overflows there.
fn sum(high: i64, low: i64) -> u64 {
    whole(high)
        .saturating_mul(1 << 24)
        .saturating_add(whole(low))
}

const fn hour(ms: u64) -> u64 {
    ms - ms % HOUR_MS
}

fn ek_of(bytes: Vec<u8>, table: &'static str) -> Result<Sha256Digest, StoreError> {
    let column = "ek";
    Sha256Digest::from_slice(&bytes).ok_or(StoreError::Corrupt { table, column })
}

/// SQLite's integers are signed; none of ours is negative.
fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
