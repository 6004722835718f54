//! Writes about nodes: enrolments, statements, intervals.

use bailiwick_attestation::evidence::log_name;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{ActKind, Turn};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use prost::Message as _;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::acts::NewAct;
use super::rows::{NewEnrolment, NewStatement};
use super::writer::{Outcome, Write, int};
use super::{Admitted, Store, StoreError, entries, gpus, guests, places};
use crate::direct::pending_name;

impl Store {
    /// Records an activated enrolment; the node's earlier certificate counts no more. One of a guest
    /// that another has followed since is recorded as that, and changes nothing.
    pub async fn enrolment_insert(&self, enrolment: NewEnrolment) -> Result<Admitted, StoreError> {
        match self.write(Write::Enrolment(Box::new(enrolment))).await? {
            Outcome::Admitted(admitted) => Ok(admitted),
            Outcome::Done | Outcome::Logged(_) => Err(StoreError::Forked),
        }
    }

    /// Records an appraised statement and says where its entry stands in the log.
    pub async fn statement_insert(&self, statement: NewStatement) -> Result<u64, StoreError> {
        match self.write(Write::Statement(Box::new(statement))).await? {
            Outcome::Logged(index) => Ok(index),
            Outcome::Done | Outcome::Admitted(_) => Err(StoreError::Forked),
        }
    }

    /// A node has been silent for too long.
    pub async fn stale_begin(
        &self,
        ek: Sha256Digest,
        now: UnixTime,
        reason: String,
    ) -> Result<(), StoreError> {
        self.write(Write::Stale(ek, now, reason)).await?;
        Ok(())
    }

    /// Revokes the certificate in force of the act's TPM; the act says why.
    pub async fn node_revoke(&self, act: NewAct) -> Result<(), StoreError> {
        self.write(Write::Revoked(Box::new(act))).await?;
        Ok(())
    }
}

pub(super) async fn enrolment_insert(
    connection: &mut SqliteConnection,
    new: &NewEnrolment,
    instance: Option<&[u8; 32]>,
) -> Result<Admitted, StoreError> {
    let enrolment = new.enrolment.encode_to_vec();
    let before = guests::last(connection, &new.ek).await?;
    let took_over =
        before.is_some_and(|before| Some(before.as_slice()) != instance.map(|it| it.as_slice()));
    sqlx::query(
        "INSERT INTO nodes (ek, claimed_name, ak_name, certificate, certificate_not_after_ms,
             enrolment, enrolled_ms, since_ms, listed_name, devices, instance)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (ek) DO UPDATE SET claimed_name = excluded.claimed_name,
             ak_name = excluded.ak_name, certificate = excluded.certificate,
             certificate_not_after_ms = excluded.certificate_not_after_ms, revoked_ms = NULL,
             enrolment = excluded.enrolment, enrolled_ms = excluded.enrolled_ms,
             listed_name = excluded.listed_name, devices = excluded.devices,
             instance = excluded.instance",
    )
    .bind(new.ek.as_bytes().as_slice())
    .bind(&new.claimed_name)
    .bind(&new.ak_name)
    .bind(new.certificate.as_bytes().as_slice())
    .bind(int(new.certificate_not_after.millis()))
    .bind(&enrolment)
    .bind(int(new.now.millis()))
    .bind(int(new.now.millis()))
    .bind(&new.enrolment.node)
    .bind(json_array(new.devices()))
    .bind(instance.map(<[u8; 32]>::as_slice))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO enrolments (ek, activated_ms, enrolment, instance) VALUES (?, ?, ?, ?)",
    )
    .bind(new.ek.as_bytes().as_slice())
    .bind(int(new.now.millis()))
    .bind(&enrolment)
    .bind(instance.map(<[u8; 32]>::as_slice))
    .execute(&mut *connection)
    .await?;
    if !took_over {
        return Ok(Admitted::Enrolled);
    }
    lease_end(connection, &new.ek, new.now, TAKEN_OVER).await?;
    Ok(Admitted::TookOver)
}

/// What ends the lease of a guest that another has followed.
const TAKEN_OVER: &str = "guest-taken-over";

/// The lease that stands is over, and why.
async fn lease_end(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    now: UnixTime,
    why: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET lease_until_ms = NULL,
             lease_ended = CASE WHEN lease_until_ms > ? THEN ? ELSE lease_ended END
         WHERE ek = ?",
    )
    .bind(int(now.millis()))
    .bind(why)
    .bind(ek.as_bytes().as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// Whoever spoke is who is enrolled: an enrolment that came in between has ended what the one before
/// had, and what was on its way then brings none of it back.
async fn enrolled_still(
    connection: &mut SqliteConnection,
    new: &NewStatement,
) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT ak_name FROM nodes WHERE ek = ?")
        .bind(new.ek.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    let ak: Option<Vec<u8>> = row.map(|row| row.try_get("ak_name")).transpose()?;
    match ak.is_some_and(|ak| ak != new.ak_name) {
        true => Err(StoreError::Superseded),
        false => Ok(()),
    }
}

/// Answers how the verdict turned by it, if it did.
pub(super) async fn statement_insert(
    connection: &mut SqliteConnection,
    new: &NewStatement,
    log_index: u64,
) -> Result<Option<Turn>, StoreError> {
    enrolled_still(connection, new).await?;
    let reasons = serde_json::Value::from(new.reasons.clone()).to_string();
    sqlx::query(
        "INSERT INTO statements (ek, epoch, sequence, digest, evidence, verdict, reasons, result,
             received_ms, manifest_digest, enrolment, previous, log_index)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(new.ek.as_bytes().as_slice())
    .bind(int(new.epoch))
    .bind(int(new.sequence))
    .bind(new.digest.as_bytes().as_slice())
    .bind(new.evidence.encode_to_vec())
    .bind(new.verdict.as_str())
    .bind(reasons)
    .bind(&new.result)
    .bind(int(new.received.millis()))
    .bind(new.manifest_digest.map(|digest| digest.as_bytes().to_vec()))
    .bind(new.enrolment.encode_to_vec())
    .bind(
        new.previous
            .as_ref()
            .map(v1::PreviousStatement::encode_to_vec),
    )
    .bind(int(log_index))
    .execute(&mut *connection)
    .await
    .map_err(StoreError::from_insert)?;
    logs_keep(connection, new, log_index).await?;
    boot_keep(connection, new).await?;
    newest_update(connection, new).await?;
    gpus::keep(connection, &new.ek, &new.gpus, new.received).await?;
    entries::head_insert(connection, new).await?;
    let mut turned = None;
    if new.challenged {
        places::keep(connection, new).await?;
        let reason = new.reasons.first().map_or("", String::as_str);
        turned = standing_update(
            connection,
            &new.ek,
            new.verdict.as_str(),
            reason,
            new.received,
            Some(&new.digest),
        )
        .await?;
        sqlx::query(
            "UPDATE nodes SET lease_until_ms = CASE WHEN revoked_ms IS NULL THEN ? END,
                 lease_ended = CASE WHEN ? IS NOT NULL THEN ? WHEN ? IS NOT NULL THEN ''
                     ELSE lease_ended END,
                 appraised_reason = ?,
                 appraised_since_ms = CASE WHEN appraised = ? THEN appraised_since_ms ELSE ? END,
                 appraised = ?
             WHERE ek = ?",
        )
        .bind(new.lease_until.map(|until| int(until.millis())))
        .bind(new.lease_ended.as_deref())
        .bind(new.lease_ended.as_deref())
        .bind(new.lease_until.map(|until| int(until.millis())))
        .bind(reason)
        .bind(new.verdict.as_str())
        .bind(int(new.received.millis()))
        .bind(new.verdict.as_str())
        .bind(new.ek.as_bytes().as_slice())
        .execute(connection)
        .await?;
    }
    Ok(turned)
}

/// Remembers where logs came along that later statements name by digest alone.
async fn logs_keep(
    connection: &mut SqliteConnection,
    new: &NewStatement,
    log_index: u64,
) -> Result<(), StoreError> {
    for log in &new.evidence.logs {
        if log.name == EVERY_TIME {
            continue;
        }
        sqlx::query("INSERT OR IGNORE INTO kept_logs (ek, digest, log_index) VALUES (?, ?, ?)")
            .bind(new.ek.as_bytes().as_slice())
            .bind(log_name(log).as_bytes().as_slice())
            .bind(int(log_index))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Remembers when a boot was first heard of.
async fn boot_keep(
    connection: &mut SqliteConnection,
    new: &NewStatement,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT OR IGNORE INTO boots (ek, boot_id, reset_count, first_ms) VALUES (?, ?, ?, ?)",
    )
    .bind(new.ek.as_bytes().as_slice())
    .bind(&new.newest.boot_id)
    .bind(i64::from(new.newest.boot_reset_count))
    .bind(int(new.received.millis()))
    .execute(connection)
    .await?;
    Ok(())
}

/// The log that travels with every statement.
const EVERY_TIME: &str = "fence";

fn json_array(words: &[String]) -> String {
    serde_json::Value::from(words.to_vec()).to_string()
}

async fn newest_update(
    connection: &mut SqliteConnection,
    new: &NewStatement,
) -> Result<(), StoreError> {
    let now = int(new.received.millis());
    let glass = new.fence.break_glass.as_ref();
    // A node that enrolled before it was listed is named by the first statement after.
    let listed = new.subject != pending_name(&new.ek);
    sqlx::query(
        "UPDATE nodes SET newest = ?, newest_ak = ?, last_seen_ms = ?,
             policy_version = ?, statements = statements + 1,
             fence_since_ms = CASE WHEN fence = ? THEN fence_since_ms ELSE ? END,
             fence = ?, fence_reason = ?, devices = coalesce(?, devices), break_glass = ?,
             break_glass_until_ms = ?,
             gap_ms = CASE WHEN ? = '' THEN gap_ms ELSE ? END,
             gap_reason = CASE WHEN ? = '' THEN gap_reason ELSE ? END,
             listed_name = coalesce(?, listed_name)
         WHERE ek = ?",
    )
    .bind(new.newest.encode_to_vec())
    .bind(&new.ak_name)
    .bind(now)
    .bind(int(new.policy_version))
    .bind(&new.fence.state)
    .bind(now)
    .bind(&new.fence.state)
    .bind(&new.fence.reason)
    .bind(new.devices.as_deref().map(json_array))
    .bind(glass.map_or("", |(manifest, _)| manifest.as_str()))
    .bind(glass.map(|(_, until)| int(until.millis())))
    .bind(new.gap.as_deref().unwrap_or(""))
    .bind(now)
    .bind(new.gap.as_deref().unwrap_or(""))
    .bind(new.gap.as_deref().unwrap_or(""))
    .bind(listed.then_some(&new.subject))
    .bind(new.ek.as_bytes().as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// Answers how the verdict turned by it, if it did, and the node's name in the log.
pub(super) async fn stale_begin(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    now: UnixTime,
    reason: &str,
) -> Result<Option<(Turn, String)>, StoreError> {
    let turned = standing_update(connection, ek, "stale", reason, now, None).await?;
    let Some(turned) = turned else {
        return Ok(None);
    };
    let row = sqlx::query("SELECT listed_name FROM nodes WHERE ek = ?")
        .bind(ek.as_bytes().as_slice())
        .fetch_optional(connection)
        .await?;
    let name = match row {
        Some(row) => row.try_get::<String, _>("listed_name")?,
        None => String::new(),
    };
    let subject = match name.as_str() {
        "" => pending_name(ek),
        _ => name,
    };
    Ok(Some((turned, subject)))
}

/// The act that a turn of verdict is.
pub(super) fn turn_act(turn: &Turn, subject: String, now: UnixTime) -> NewAct {
    NewAct {
        kind: ActKind::Verdict,
        subject,
        ek: Some(turn.ek),
        actor: "collector".to_owned(),
        body: turn.to_bytes(),
        now,
    }
}

/// A change of verdict ends one interval and begins the next; anything else only says why.
async fn standing_update(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    verdict: &str,
    reason: &str,
    now: UnixTime,
    digest: Option<&Sha256Digest>,
) -> Result<Option<Turn>, StoreError> {
    let open = sqlx::query("SELECT id, verdict FROM intervals WHERE ek = ? AND to_ms IS NULL")
        .bind(ek.as_bytes().as_slice())
        .fetch_optional(&mut *connection)
        .await?;
    let mut since = Some(now);
    let mut from = "none".to_owned();
    if let Some(open) = open {
        from = open.try_get("verdict")?;
        if from == verdict {
            since = None;
        } else {
            sqlx::query("UPDATE intervals SET to_ms = ? WHERE id = ?")
                .bind(int(now.millis()))
                .bind(open.try_get::<i64, _>("id")?)
                .execute(&mut *connection)
                .await?;
        }
    }
    if since.is_some() {
        sqlx::query(
            "INSERT INTO intervals (ek, verdict, reason, from_ms, digest) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(verdict)
        .bind(reason)
        .bind(int(now.millis()))
        .bind(digest.map(|digest| digest.as_bytes().to_vec()))
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query(
        "UPDATE nodes SET verdict = ?, reason = ?, since_ms = coalesce(?, since_ms) WHERE ek = ?",
    )
    .bind(verdict)
    .bind(reason)
    .bind(since.map(|since| int(since.millis())))
    .bind(ek.as_bytes().as_slice())
    .execute(connection)
    .await?;
    Ok((from != verdict).then(|| Turn {
        ek: *ek,
        from,
        to: verdict.to_owned(),
        statement: digest.copied(),
    }))
}

/// Takes the certificate in force back, and with it the lease, if one stands.
pub(super) async fn revoke(
    connection: &mut SqliteConnection,
    ek: &Sha256Digest,
    now: UnixTime,
    why: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET revoked_ms = ? WHERE ek = ?")
        .bind(int(now.millis()))
        .bind(ek.as_bytes().as_slice())
        .execute(&mut *connection)
        .await?;
    lease_end(connection, ek, now, why).await
}
