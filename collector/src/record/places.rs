//! What is remembered of nodes' places.

use std::collections::BTreeMap;

use bailiwick_attestation::{Sha256Digest, UnixTime};
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::reads::{digest, maybe_time, time};
use super::rows::NewStatement;
use super::writer::int;
use super::{Store, StoreError};
use crate::place::{Place, Surroundings, Tag};

const TABLE: &str = "places";

impl Store {
    /// Places of all nodes that ever showed a geotag.
    pub async fn place_list(&self) -> Result<BTreeMap<Sha256Digest, Place>, StoreError> {
        sqlx::query("SELECT * FROM places")
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(|row| Ok((digest(row, TABLE, "ek")?, place(row)?)))
            .collect()
    }

    /// The place of one node.
    pub async fn place_get(&self, ek: &Sha256Digest) -> Result<Option<Place>, StoreError> {
        sqlx::query("SELECT * FROM places WHERE ek = ?")
            .bind(ek.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await?
            .map(|row| place(&row))
            .transpose()
    }
}

fn place(row: &SqliteRow) -> Result<Place, StoreError> {
    let around = |column| -> Result<Surroundings, StoreError> {
        let text: String = row.try_get(column)?;
        serde_json::from_str(&text).map_err(|_malformed| StoreError::Corrupt {
            table: TABLE,
            column,
        })
    };
    Ok(Place {
        tag: Tag {
            digest: digest(row, TABLE, "geotag")?,
            at: time(row, "at_ms")?,
            until: time(row, "until_ms")?,
        },
        begun: time(row, "begun_ms")?,
        fault: row.try_get("fault")?,
        expected: around("expected")?,
        shown: around("shown")?,
        differs: maybe_time(row, "differs_ms")?,
    })
}

/// Remembers what a statement shows of it.
pub(super) async fn keep(
    connection: &mut SqliteConnection,
    new: &NewStatement,
) -> Result<(), StoreError> {
    let ek = new.ek.as_bytes().as_slice();
    let row = sqlx::query("SELECT * FROM places WHERE ek = ?")
        .bind(ek)
        .fetch_optional(&mut *connection)
        .await?;
    let before = row.map(|row| place(&row)).transpose()?;
    let after = Place::after(before.clone(), &new.place, new.received);
    let Some(place) = after.filter(|after| before.as_ref() != Some(after)) else {
        return Ok(());
    };
    let text = |around: &Surroundings| serde_json::to_string(around).unwrap_or_default();
    sqlx::query(
        "INSERT INTO places (ek, geotag, at_ms, until_ms, begun_ms, fault, expected, shown, differs_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (ek) DO UPDATE SET geotag = excluded.geotag, at_ms = excluded.at_ms,
             until_ms = excluded.until_ms, begun_ms = excluded.begun_ms, fault = excluded.fault,
             expected = excluded.expected, shown = excluded.shown, differs_ms = excluded.differs_ms",
    )
    .bind(ek)
    .bind(place.tag.digest.as_bytes().as_slice())
    .bind(int(place.tag.at.millis()))
    .bind(int(place.tag.until.millis()))
    .bind(int(place.begun.millis()))
    .bind(&place.fault)
    .bind(text(&place.expected))
    .bind(text(&place.shown))
    .bind(place.differs.map(UnixTime::millis).map(int))
    .execute(connection)
    .await?;
    Ok(())
}
