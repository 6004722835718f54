//! What the three ports show and whom they let in, as the policy in force lists CAs.
//!
//! A handshake takes the door of its moment. What was let in under a CA that counts no more is shown
//! out: its streams are closed, and a new one is refused by the certificate's own issuer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_policy::model::CollectorKeys;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::auth::{ClientAuth, Door, TlsError};
use crate::cas::Cas;
use crate::clock;
use crate::direct::Direction;
use crate::ingest::{Closed, Streams};
use crate::record::{Store, StoreError};

/// A key's time may begin or end while no policy comes.
const TERMS: Duration = Duration::from_secs(30);

/// Which CAs there are for now: the one shown, and those whose certificates let a node in.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Chosen {
    shown: Sha256Digest,
    counting: BTreeSet<Sha256Digest>,
}

/// Keeps the ports' doors as the policy in force wants them.
#[derive(Debug)]
pub(crate) struct Doors {
    cas: Arc<Cas>,
    operators: CertificateDer<'static>,
    policy: watch::Receiver<Direction>,
    enroll: watch::Sender<Arc<Door>>,
    evidence: watch::Sender<Arc<Door>>,
    query: watch::Sender<Arc<Door>>,
    chosen: Chosen,
}

/// One of the ports' view.
pub(crate) type Shown = watch::Receiver<Arc<Door>>;

impl Doors {
    /// As the policy in force says now.
    pub(crate) fn open(
        cas: Arc<Cas>,
        operators: CertificateDer<'static>,
        policy: watch::Receiver<Direction>,
        now: UnixTime,
    ) -> Result<Self, TlsError> {
        let current = policy.borrow().policy.clone();
        let listed = current.as_ref().map(|policy| policy.collector_keys());
        let [enroll, evidence, query] = doors(&cas, &operators, listed, now)?;
        let door = |door| watch::channel(Arc::new(door)).0;
        Ok(Self {
            chosen: chosen(&cas, listed, now),
            enroll: door(enroll),
            evidence: door(evidence),
            query: door(query),
            cas,
            operators,
            policy,
        })
    }

    /// Of enrolment, evidence and queries.
    pub(crate) fn shown(&self) -> [Shown; 3] {
        [&self.enroll, &self.evidence, &self.query].map(watch::Sender::subscribe)
    }

    /// Follows the policy and the clock until `stop`.
    pub(crate) async fn run(
        mut self,
        streams: Streams,
        store: Store,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut tick = tokio::time::interval(TERMS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
                changed = self.policy.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
            let now = clock::now();
            let current = self.policy.borrow_and_update().policy.clone();
            let listed = current.as_ref().map(|policy| policy.collector_keys());
            if let Some(listed) = listed {
                store.follow_keys(listed, now).await?;
            }
            let chosen = chosen(&self.cas, listed, now);
            if chosen == self.chosen {
                continue;
            }
            match doors(&self.cas, &self.operators, listed, now) {
                Ok([enroll, evidence, query]) => {
                    self.enroll.send_replace(Arc::new(enroll));
                    self.evidence.send_replace(Arc::new(evidence));
                    self.query.send_replace(Arc::new(query));
                }
                Err(why) => {
                    // As before: a stream that this should end is refused by its issuer.
                    error!(%why, "the ports still show the certificate from before");
                }
            }
            info!(shown = %chosen.shown, counting = chosen.counting.len(), "CAs changed");
            if gone(&self.chosen, &chosen) {
                warn!("a CA counts no more: every node shows its certificate again");
                streams.close_all(Closed::Authority);
            }
            self.chosen = chosen;
        }
    }
}

fn chosen(cas: &Cas, listed: Option<&CollectorKeys>, now: UnixTime) -> Chosen {
    let shown = cas.issuing(listed, now).unwrap_or(&cas.first);
    let counting = cas.counting(listed, now);
    Chosen {
        shown: shown.spki,
        counting: counting.iter().map(|ca| ca.spki).collect(),
    }
}

/// Whether somebody may be inside who would not be let in any more.
fn gone(before: &Chosen, now: &Chosen) -> bool {
    !before.counting.is_subset(&now.counting)
}

/// With no CA that counts the first one's certificate is shown all the same: the policy that puts
/// it right has to come in. No node does.
fn doors(
    cas: &Cas,
    operators: &CertificateDer<'static>,
    listed: Option<&CollectorKeys>,
    now: UnixTime,
) -> Result<[Door; 3], TlsError> {
    let shown = cas.issuing(listed, now).unwrap_or(&cas.first);
    let nodes = cas.counting(listed, now);
    Ok([
        Door::new(shown, &ClientAuth::None)?,
        Door::new(shown, &ClientAuth::Nodes(&nodes))?,
        Door::new(shown, &ClientAuth::Required(operators))?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_not_come_in_any_more_is_shown_out_and_nobody_else() {
        let of = |digits: &[u8]| Chosen {
            shown: Sha256Digest([0; 32]),
            counting: digits.iter().map(|d| Sha256Digest([*d; 32])).collect(),
        };
        let rows: &[(&str, &[u8], &[u8], bool)] = &[
            ("one more", &[1], &[1, 2], false),
            ("the same", &[1, 2], &[1, 2], false),
            ("one gone", &[1, 2], &[2], true),
            ("another", &[1], &[2], true),
            ("none left", &[1], &[], true),
            ("the first", &[], &[1], false),
        ];
        for (name, before, now, want) in rows {
            assert_eq!(gone(&of(before), &of(now)), *want, "{name}");
        }
    }
}
