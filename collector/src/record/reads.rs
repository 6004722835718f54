//! Queries. They run beside the writer and see what was committed.

use bailiwick_attestation::evidence::log_name;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_policy::kind::Kind;
use prost::Message;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::rows::{
    AlertRow, FenceFacts, Interval, NewAlert, NodeRow, PolicyRow, StatementRow, Verdict,
};
use super::writer::int;
use super::{Store, StoreError};

/// Intervals shown for one node.
const INTERVALS: i64 = 100;

/// Most parts of a log, and most bytes: agents send one whole before it has so many, and what a node
/// makes us read must not grow with what it once sent.
const LOG_PARTS: usize = 64;
const LOG_BYTES: usize = 36 * 1024 * 1024;

impl Store {
    /// One TPM.
    pub async fn node_get(&self, ek: &Sha256Digest) -> Result<Option<NodeRow>, StoreError> {
        sqlx::query("SELECT * FROM nodes WHERE ek = ?")
            .bind(ek.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await?
            .map(|row| node(&row))
            .transpose()
    }

    /// TPMs to which the inventory last gave this name.
    pub async fn node_list_by_name(&self, name: &str) -> Result<Vec<Sha256Digest>, StoreError> {
        sqlx::query("SELECT ek FROM nodes WHERE listed_name = ?")
            .bind(name)
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(|row| digest(row, "nodes", "ek"))
            .collect()
    }

    /// Every TPM, in the order they first enrolled, without what it enrolled with: that is some
    /// kilobytes each, and a fleet is listed every few seconds.
    pub async fn node_list(&self) -> Result<Vec<NodeRow>, StoreError> {
        sqlx::query(
            "SELECT ek, claimed_name, ak_name, certificate, revoked_ms, x'' AS enrolment, newest,
                 newest_ak, last_seen_ms, policy_version, statements, verdict, reason, since_ms,
                 appraised, appraised_reason, appraised_since_ms, lease_until_ms, lease_ended,
                 break_glass, break_glass_until_ms, fence, fence_reason, fence_since_ms, gap_ms,
                 gap_reason, log_fault_ms, log_fault, twice_ms, twice, listed_name, devices,
                 enrolled_ms
             FROM nodes ORDER BY rowid",
        )
        .fetch_all(&self.readers)
        .await?
        .iter()
        .map(node)
        .collect()
    }

    /// The statement with this digest.
    pub async fn statement_get(
        &self,
        ek: &Sha256Digest,
        digest: &Sha256Digest,
    ) -> Result<Option<StatementRow>, StoreError> {
        sqlx::query("SELECT * FROM statements WHERE ek = ? AND digest = ?")
            .bind(ek.as_bytes().as_slice())
            .bind(digest.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await?
            .map(|row| statement(&row))
            .transpose()
    }

    /// Digest of the statement accepted at this place, if one was.
    pub async fn statement_at(
        &self,
        ek: &Sha256Digest,
        epoch: u64,
        sequence: u64,
    ) -> Result<Option<Sha256Digest>, StoreError> {
        let row = sqlx::query(
            "SELECT digest FROM statements WHERE ek = ? AND epoch = ? AND sequence = ?",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(int(epoch))
        .bind(int(sequence))
        .fetch_optional(&self.readers)
        .await?;
        row.map(|row| digest(&row, "statements", "digest"))
            .transpose()
    }

    /// When the first statement of each boot of a TPM came, newest first; at most `limit`.
    pub async fn boot_list(
        &self,
        ek: &Sha256Digest,
        limit: u32,
    ) -> Result<Vec<UnixTime>, StoreError> {
        sqlx::query("SELECT first_ms FROM boots WHERE ek = ? ORDER BY first_ms DESC LIMIT ?")
            .bind(ek.as_bytes().as_slice())
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(|row| time(row, "first_ms"))
            .collect()
    }

    /// The newest statement that came from `from` on and before `to`; with a verdict, the newest of
    /// that verdict.
    pub async fn statement_before(
        &self,
        ek: &Sha256Digest,
        from: UnixTime,
        to: UnixTime,
        verdict: Option<Verdict>,
    ) -> Result<Option<StatementRow>, StoreError> {
        let all = [
            Verdict::Affirming,
            Verdict::Warning,
            Verdict::None,
            Verdict::Contraindicated,
        ];
        // The index is by verdict: one look for each finds the newest without reading the others.
        let mut newest: Option<(u64, u64)> = None;
        for word in all
            .iter()
            .filter(|word| verdict.is_none_or(|one| one == **word))
        {
            let row = sqlx::query(
                "SELECT received_ms, id FROM statements
                 WHERE ek = ? AND verdict = ? AND received_ms >= ? AND received_ms < ?
                 ORDER BY received_ms DESC, id DESC LIMIT 1",
            )
            .bind(ek.as_bytes().as_slice())
            .bind(word.as_str())
            .bind(int(from.millis()))
            .bind(int(to.millis()))
            .fetch_optional(&self.readers)
            .await?;
            if let Some(row) = row {
                let found = (number(&row, "received_ms")?, number(&row, "id")?);
                newest = newest.max(Some(found));
            }
        }
        let Some((_, id)) = newest else {
            return Ok(None);
        };
        sqlx::query("SELECT * FROM statements WHERE id = ?")
            .bind(int(id))
            .fetch_optional(&self.readers)
            .await?
            .map(|row| statement(&row))
            .transpose()
    }

    /// The log of that name, in the parts it came in, the last one first; as many as there are.
    pub async fn log_parts(
        &self,
        ek: &Sha256Digest,
        last: &Sha256Digest,
    ) -> Result<Vec<v1::Log>, StoreError> {
        let (mut parts, mut bytes) = (Vec::new(), 0_usize);
        let mut wanted = Some(*last);
        while let Some(name) = wanted
            && parts.len() < LOG_PARTS
            && bytes <= LOG_BYTES
        {
            let Some(part) = self.log_kept(ek, &name).await? else {
                break;
            };
            bytes = bytes.saturating_add(part.content.len());
            wanted = Sha256Digest::from_slice(&part.follows);
            parts.push(part);
        }
        Ok(parts)
    }

    /// A log, or a part of one, that came along with an earlier statement of the TPM's.
    pub async fn log_kept(
        &self,
        ek: &Sha256Digest,
        wanted: &Sha256Digest,
    ) -> Result<Option<v1::Log>, StoreError> {
        let row = sqlx::query(
            "SELECT s.evidence FROM kept_logs k JOIN statements s ON s.log_index = k.log_index
             WHERE k.ek = ? AND k.digest = ?",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(wanted.as_bytes().as_slice())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let evidence: v1::Evidence = decode(&row, "statements", "evidence")?;
        let mut logs = evidence.logs.into_iter();
        Ok(logs.find(|log| log_name(log) == *wanted))
    }

    /// Spans of time with one verdict, newest first; with `at`, only the one that holds it.
    pub async fn interval_list(
        &self,
        ek: &Sha256Digest,
        at: Option<UnixTime>,
    ) -> Result<Vec<Interval>, StoreError> {
        let at = at.map(|at| int(at.millis()));
        sqlx::query(
            "SELECT * FROM intervals WHERE ek = ?
                 AND (? IS NULL OR (from_ms <= ? AND (to_ms IS NULL OR to_ms > ?)))
             ORDER BY id DESC LIMIT ?",
        )
        .bind(ek.as_bytes().as_slice())
        .bind(at)
        .bind(at)
        .bind(at)
        .bind(INTERVALS)
        .fetch_all(&self.readers)
        .await?
        .iter()
        .map(|row| {
            Ok(Interval {
                verdict: row.try_get("verdict")?,
                reason: row.try_get("reason")?,
                from: time(row, "from_ms")?,
                to: maybe_time(row, "to_ms")?,
                digest: maybe_digest(row, "intervals", "digest")?,
            })
        })
        .collect()
    }

    /// The manifest of a kind with the highest version.
    pub async fn manifest_newest(&self, kind: Kind) -> Result<Option<PolicyRow>, StoreError> {
        sqlx::query("SELECT * FROM manifests WHERE kind = ? ORDER BY version DESC LIMIT 1")
            .bind(kind.as_str())
            .fetch_optional(&self.readers)
            .await?
            .map(|row| policy(&row))
            .transpose()
    }

    /// All manifests of a kind, oldest first.
    pub async fn manifest_list(&self, kind: Kind) -> Result<Vec<PolicyRow>, StoreError> {
        sqlx::query("SELECT * FROM manifests WHERE kind = ? ORDER BY version")
            .bind(kind.as_str())
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(policy)
            .collect()
    }

    /// The manifest with this digest, of any kind.
    pub async fn policy_get(
        &self,
        manifest_digest: &Sha256Digest,
    ) -> Result<Option<PolicyRow>, StoreError> {
        sqlx::query("SELECT * FROM manifests WHERE manifest_digest = ?")
            .bind(manifest_digest.as_bytes().as_slice())
            .fetch_optional(&self.readers)
            .await?
            .map(|row| policy(&row))
            .transpose()
    }

    /// Alerts that fire, and resolved ones whose end not every receiver has taken.
    pub async fn alert_list_open(&self) -> Result<Vec<AlertRow>, StoreError> {
        sqlx::query("SELECT * FROM alerts WHERE closed = 0 ORDER BY id")
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(alert)
            .collect()
    }

    /// Alerts for a person, newest first; without `all`, those that fire.
    pub async fn alert_list(&self, all: bool) -> Result<Vec<AlertRow>, StoreError> {
        sqlx::query(
            "SELECT * FROM alerts WHERE ? OR resolved_ms IS NULL ORDER BY id DESC LIMIT 1000",
        )
        .bind(all)
        .fetch_all(&self.readers)
        .await?
        .iter()
        .map(alert)
        .collect()
    }
}

fn node(row: &SqliteRow) -> Result<NodeRow, StoreError> {
    let word = |column| {
        let word: String = row.try_get(column)?;
        Verdict::from_word(&word).ok_or_else(|| corrupt("nodes", column))
    };
    Ok(NodeRow {
        ek: digest(row, "nodes", "ek")?,
        claimed_name: row.try_get("claimed_name")?,
        ak_name: row.try_get("ak_name")?,
        certificate: digest(row, "nodes", "certificate")?,
        revoked: maybe_time(row, "revoked_ms")?,
        enrolment: decode(row, "nodes", "enrolment")?,
        newest: maybe_decode(row, "nodes", "newest")?,
        newest_ak: row.try_get("newest_ak")?,
        last_seen: maybe_time(row, "last_seen_ms")?,
        policy_version: number(row, "policy_version")?,
        statements: number(row, "statements")?,
        verdict: word("verdict")?,
        reason: row.try_get("reason")?,
        since: time(row, "since_ms")?,
        appraised: (
            word("appraised")?,
            row.try_get("appraised_reason")?,
            time(row, "appraised_since_ms")?,
        ),
        lease_until: maybe_time(row, "lease_until_ms")?,
        lease_ended: row.try_get("lease_ended")?,
        fence: FenceFacts {
            state: row.try_get("fence")?,
            reason: row.try_get("fence_reason")?,
            break_glass: match maybe_time(row, "break_glass_until_ms")? {
                None => None,
                Some(until) => Some((row.try_get("break_glass")?, until)),
            },
        },
        fence_since: time(row, "fence_since_ms")?,
        gap: match maybe_time(row, "gap_ms")? {
            None => None,
            Some(at) => Some((at, row.try_get("gap_reason")?)),
        },
        log_fault: match maybe_time(row, "log_fault_ms")? {
            None => None,
            Some(at) => Some((at, row.try_get("log_fault")?)),
        },
        twice: match maybe_time(row, "twice_ms")? {
            None => None,
            Some(at) => Some((at, row.try_get("twice")?)),
        },
        listed_name: row.try_get("listed_name")?,
        devices: {
            let devices: String = row.try_get("devices")?;
            serde_json::from_str(&devices).map_err(|_malformed| corrupt("nodes", "devices"))?
        },
        enrolled: time(row, "enrolled_ms")?,
    })
}

fn statement(row: &SqliteRow) -> Result<StatementRow, StoreError> {
    let reasons: String = row.try_get("reasons")?;
    Ok(StatementRow {
        digest: digest(row, "statements", "digest")?,
        verdict: row.try_get("verdict")?,
        reasons: serde_json::from_str(&reasons)
            .map_err(|_malformed| corrupt("statements", "reasons"))?,
        log_index: number(row, "log_index")?,
        manifest_digest: maybe_digest(row, "statements", "manifest_digest")?,
        stored: v1::StoredStatement {
            format: 1,
            evidence: Some(decode(row, "statements", "evidence")?),
            enrolment: Some(decode(row, "statements", "enrolment")?),
            policy: None,
            received_ms: number(row, "received_ms")?,
            previous: maybe_decode(row, "statements", "previous")?,
            result: row.try_get("result")?,
            receipt: None,
            keys: None,
            approvers: Vec::new(),
            world: None,
            entry: None,
            logs: Vec::new(),
        },
    })
}

fn policy(row: &SqliteRow) -> Result<PolicyRow, StoreError> {
    Ok(PolicyRow {
        version: number(row, "version")?,
        manifest_digest: digest(row, "manifests", "manifest_digest")?,
        bundle: row.try_get("bundle")?,
        applied: time(row, "applied_ms")?,
    })
}

fn alert(row: &SqliteRow) -> Result<AlertRow, StoreError> {
    Ok(AlertRow {
        id: row.try_get("id")?,
        alert: NewAlert {
            name: row.try_get("name")?,
            node: row.try_get("node")?,
            labels: row.try_get("labels")?,
            severity: row.try_get("severity")?,
            summary: row.try_get("summary")?,
        },
        since: time(row, "since_ms")?,
        resolved: maybe_time(row, "resolved_ms")?,
        notified: maybe_time(row, "notified_ms")?,
    })
}

const fn corrupt(table: &'static str, column: &'static str) -> StoreError {
    StoreError::Corrupt { table, column }
}

fn decode<M: Message + Default>(
    row: &SqliteRow,
    table: &'static str,
    column: &'static str,
) -> Result<M, StoreError> {
    maybe_decode(row, table, column)?.ok_or_else(|| corrupt(table, column))
}

fn maybe_decode<M: Message + Default>(
    row: &SqliteRow,
    table: &'static str,
    column: &'static str,
) -> Result<Option<M>, StoreError> {
    let bytes: Option<Vec<u8>> = row.try_get(column)?;
    bytes
        .map(|bytes| M::decode(bytes.as_slice()))
        .transpose()
        .map_err(|_malformed| corrupt(table, column))
}

pub(super) fn digest(
    row: &SqliteRow,
    table: &'static str,
    column: &'static str,
) -> Result<Sha256Digest, StoreError> {
    maybe_digest(row, table, column)?.ok_or_else(|| corrupt(table, column))
}

fn maybe_digest(
    row: &SqliteRow,
    table: &'static str,
    column: &'static str,
) -> Result<Option<Sha256Digest>, StoreError> {
    let bytes: Option<Vec<u8>> = row.try_get(column)?;
    bytes
        .map(|bytes| Sha256Digest::from_slice(&bytes).ok_or_else(|| corrupt(table, column)))
        .transpose()
}

fn number(row: &SqliteRow, column: &'static str) -> Result<u64, StoreError> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or_default())
}

fn maybe_number(row: &SqliteRow, column: &'static str) -> Result<Option<u64>, StoreError> {
    let value: Option<i64> = row.try_get(column)?;
    Ok(value.map(|value| u64::try_from(value).unwrap_or_default()))
}

pub(super) fn time(row: &SqliteRow, column: &'static str) -> Result<UnixTime, StoreError> {
    number(row, column).map(UnixTime)
}

pub(super) fn maybe_time(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<UnixTime>, StoreError> {
    Ok(maybe_number(row, column)?.map(UnixTime))
}
