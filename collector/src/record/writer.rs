//! The one task that writes. Whatever waits is committed together.

use bailiwick_attestation::{Sha256Digest, UnixTime};
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot, watch};

use super::log::{self, SignedHead};
use super::rows::{AlertChange, NewEnrolment, NewPolicy, NewStatement};
use super::{Admitted, LogSigners, NewAct, NewEntry, StoreError};
use super::{acts, brakes, entries, guests, nodes, policies};
use crate::standing::Change;

/// Writes in one commit: bounds how long the first of them waits for the disk.
const GROUP: usize = 256;

/// One write and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) write: Write,
    pub(super) reply: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// What can be written.
#[derive(Debug)]
pub(super) enum Write {
    Enrolment(Box<NewEnrolment>),
    Statement(Box<NewStatement>),
    Entries(Sha256Digest, Vec<NewEntry>, UnixTime),
    LogFault(Sha256Digest, UnixTime, String),
    Stale(Sha256Digest, UnixTime, String),
    /// Revokes the certificate of the act's TPM, and records the act.
    Revoked(Box<NewAct>),
    Act(Box<NewAct>),
    Policy(Box<NewPolicy>),
    Alerts(Vec<AlertChange>),
    Brakes(Vec<Change>),
    /// Nothing but a new signature over the head: other keys sign from now on.
    Sign,
}

/// What a committed write says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Done,
    /// Where the entry stands in the log.
    Logged(u64),
    /// What came of an enrolment.
    Admitted(Admitted),
}

pub(super) async fn run(
    mut connection: SqliteConnection,
    signers: LogSigners,
    mut jobs: mpsc::Receiver<Job>,
    head: watch::Sender<SignedHead>,
) -> Result<(), StoreError> {
    let mut group = Vec::with_capacity(GROUP);
    while jobs.recv_many(&mut group, GROUP).await > 0 {
        let (mut replies, mut results) = (Vec::new(), Vec::new());
        let (mut writes, mut sign) = (Vec::new(), false);
        for job in group.drain(..) {
            replies.push(job.reply);
            sign |= matches!(job.write, Write::Sign);
            writes.push(job.write);
        }
        let committed = commit(&mut connection, writes, &mut results).await;
        let signed = match committed {
            Ok(false) if !sign => Ok(()),
            Ok(_) => log::read_head(&mut connection, &signers)
                .await
                .map(|newest| drop(head.send_replace(newest))),
            Err(error) => Err(error),
        };
        if let Err(error) = signed {
            // Nothing of this group is acknowledged; what comes after must not be either.
            for reply in replies {
                drop(reply.send(Err(StoreError::Stopped)));
            }
            return Err(error);
        }
        for (reply, result) in replies.into_iter().zip(results) {
            // Whoever asked may have gone; the row stays.
            drop(reply.send(result));
        }
    }
    connection.close().await?;
    Ok(())
}

/// One transaction; each write in a savepoint of its own. True if the log grew.
async fn commit(
    connection: &mut SqliteConnection,
    writes: Vec<Write>,
    results: &mut Vec<Result<Outcome, StoreError>>,
) -> Result<bool, StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let before = log::size(&mut transaction).await?;
    let mut size = before;
    for write in writes {
        let mut savepoint = transaction.begin().await?;
        match apply(&mut savepoint, write, size).await {
            Ok((outcome, leaves)) => {
                savepoint.commit().await?;
                size += leaves;
                results.push(Ok(outcome));
            }
            Err(error) => {
                savepoint.rollback().await?;
                results.push(Err(error));
            }
        }
    }
    if size > before {
        log::advance(&mut transaction, before, size).await?;
    }
    transaction.commit().await?;
    Ok(size > before)
}

/// The outcome, and by how many leaves the log grew.
async fn apply(
    connection: &mut SqliteConnection,
    write: Write,
    size: u64,
) -> Result<(Outcome, u64), StoreError> {
    let logged = Outcome::Logged(size);
    match write {
        Write::Enrolment(enrolment) => {
            let instance = enrolment.instance()?;
            if let Some(instance) = &instance
                && guests::superseded(connection, &enrolment.ek, instance).await?
            {
                let leaves = guests::returned(connection, &enrolment, instance, size).await?;
                return Ok((Outcome::Admitted(Admitted::Superseded), leaves));
            }
            let admitted =
                nodes::enrolment_insert(connection, &enrolment, instance.as_ref()).await?;
            acts::insert(connection, &enrolment.act(), size).await?;
            return Ok((Outcome::Admitted(admitted), 1));
        }
        Write::Statement(statement) => {
            let turned = nodes::statement_insert(connection, &statement, size).await?;
            log::append(connection, size, &log::entry(&statement)).await?;
            let Some(turn) = turned else {
                return Ok((logged, 1));
            };
            let act = nodes::turn_act(&turn, statement.subject, statement.received);
            acts::insert(connection, &act, size + 1).await?;
            return Ok((logged, 2));
        }
        Write::Entries(ek, entries, now) => {
            entries::insert(connection, &ek, &entries, now).await?;
        }
        Write::LogFault(ek, now, why) => entries::fault(connection, &ek, now, &why).await?,
        Write::Stale(ek, now, reason) => {
            let turned = nodes::stale_begin(connection, &ek, now, &reason).await?;
            if let Some((turn, subject)) = turned {
                let act = nodes::turn_act(&turn, subject, now);
                acts::insert(connection, &act, size).await?;
                return Ok((logged, 1));
            }
        }
        Write::Revoked(act) => {
            if let Some(ek) = &act.ek {
                nodes::revoke(connection, ek, act.now, act.kind.as_str()).await?;
            }
            acts::insert(connection, &act, size).await?;
            return Ok((logged, 1));
        }
        Write::Act(act) => {
            acts::insert(connection, &act, size).await?;
            return Ok((logged, 1));
        }
        Write::Policy(policy) => {
            policies::policy_insert(connection, &policy).await?;
            acts::insert(connection, &policy.act(), size).await?;
            return Ok((logged, 1));
        }
        Write::Alerts(changes) => policies::alerts_change(connection, &changes).await?,
        Write::Sign => {}
        Write::Brakes(changes) => brakes::change(connection, &changes).await?,
    }
    Ok((Outcome::Done, 0))
}

/// SQLite's integers are signed. Numbers beyond are refused before they come here.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
