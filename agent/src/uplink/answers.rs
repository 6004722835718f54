//! What the collector says, and what follows from it.

use std::time::Duration;

use bailiwick_attestation::{
    Sha256Digest,
    evidence::Nonce,
    proto::v1::{
        Accepted, Activation, ActivationAnswer, Challenge, CollectorMessage, Lease, LeaseBody,
        NodeMessage, OutwardCertificate, Receipt, Refused, activation_answer, collector_message,
        node_message,
    },
    tlog::verify_receipt_by,
};
use prost::Message as _;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{Node, UplinkError, exchange::Refusal, link};
use crate::{
    clock,
    proto::fence::{ApplyLease, apply_lease},
};

/// The verdict that others may rely on.
const AFFIRMING: &str = "affirming";

/// What a refusal says of the TPM's reasons.
fn clipped(why: &str) -> String {
    why.chars().take(200).collect()
}

impl Node {
    pub(super) async fn message(&mut self, message: CollectorMessage) -> Result<(), UplinkError> {
        use collector_message::Message;
        match message.message {
            Some(Message::Challenge(challenge)) => self.challenged(&challenge),
            Some(Message::Accepted(accepted)) => self.accepted(accepted)?,
            Some(Message::Refused(refused)) => self.refused(refused)?,
            Some(Message::Receipt(receipt)) => self.receipt(&receipt)?,
            Some(Message::Lease(lease)) => self.lease(lease).await,
            Some(Message::Policy(offer)) => self.offered(offer),
            Some(Message::Outward(certificate)) => self.outward(&certificate),
            Some(Message::LogAccepted(accepted)) => {
                self.attester
                    .delivered(accepted.epoch, accepted.up_to_index)?;
            }
            Some(Message::Welcome(welcome)) => self.attester.welcome(welcome)?,
            Some(Message::Peers(told)) => self.told_peers(told).await,
            Some(Message::Activation(activation)) => self.activate(activation),
            None => {
                debug!("a message newer than this agent")
            }
        }
        Ok(())
    }

    /// An approver asks whether EK and AK are in this TPM. Beside the loop, for a TPM may take
    /// seconds; what it answers tells nobody anything but whoever sealed the secret.
    fn activate(&mut self, activation: Activation) {
        let Some(session) = &self.session else { return };
        let outgoing = session.outgoing.clone();
        let say = move |answer: activation_answer::Answer| {
            let message = NodeMessage {
                message: Some(node_message::Message::Activation(ActivationAnswer {
                    id: activation.id,
                    answer: Some(answer),
                })),
            };
            if outgoing.try_send(message).is_err() {
                warn!("an approver's challenge stays unanswered: the stream is gone or full");
            }
        };
        if self
            .activating
            .as_ref()
            .is_some_and(|task| !task.is_finished())
        {
            return say(activation_answer::Answer::Refused(
                "another activation is under way".to_owned(),
            ));
        }
        let Some(tpm) = self.signer.tpm().cloned() else {
            return say(activation_answer::Answer::Refused(
                "there is no TPM: this guest's processor signs for it".to_owned(),
            ));
        };
        let (blob, secret) = (activation.credential_blob, activation.encrypted_secret);
        info!("an approver challenges EK and AK");
        self.activating = Some(tokio::spawn(async move {
            say(match tpm.activate(blob, secret).await {
                Ok(secret) => activation_answer::Answer::Secret(secret),
                Err(why) => activation_answer::Answer::Refused(clipped(&link::chain(&why))),
            });
        }));
    }

    fn challenged(&mut self, challenge: &Challenge) {
        match Nonce::from_slice(&challenge.nonce) {
            Ok(nonce) => {
                let life = Duration::from_millis(challenge.expires_in_ms);
                let until = std::time::Instant::now()
                    .checked_add(life)
                    .unwrap_or_else(std::time::Instant::now);
                self.exchange.challenged(nonce, until, challenge.now);
            }
            Err(why) => warn!(%why, "not a challenge"),
        }
    }

    fn accepted(&mut self, accepted: Accepted) -> Result<(), UplinkError> {
        if let Some(next) = &accepted.next {
            self.challenged(next);
        }
        let Some(digest) = Sha256Digest::from_slice(&accepted.statement_digest) else {
            warn!("accepted: not a digest");
            return Ok(());
        };
        if self.exchange.accepted(&digest) {
            self.attester.accepted(&digest)?;
            if !accepted.whole_logs.is_empty() {
                warn!(logs = ?accepted.whole_logs, "the collector lacks what they go on from");
                self.attester.send_whole(&accepted.whole_logs);
            }
            self.gpus_heard();
            debug!(%digest, verdict = accepted.verdict, "accepted");
            if accepted.verdict != AFFIRMING {
                self.outward.remove(&accepted.verdict);
            }
        }
        Ok(())
    }

    fn refused(&mut self, refused: Refused) -> Result<(), UplinkError> {
        if let Some(next) = &refused.next {
            self.challenged(next);
        }
        let Some(digest) = Sha256Digest::from_slice(&refused.statement_digest) else {
            warn!("refused: not a digest");
            return Ok(());
        };
        let code = refused.code.as_str();
        self.gpus_unheard();
        match self.exchange.refused(&digest, code) {
            Refusal::Again => warn!(%digest, code, "refused; quoting it once more"),
            Refusal::Dropped(item) if self.attester.of_earlier_keys().contains(&digest) => {
                warn!(%digest, code, "made under the key of an earlier boot; nobody can sign it again");
                self.attester.outlived(item)?;
            }
            Refusal::Dropped(item) => {
                error!(%digest, code, detail = refused.detail, "refused");
                self.attester
                    .dropped(&[item], &format!("refused: {code}"))?;
            }
            Refusal::Forked(item) => {
                error!(%digest, code, detail = refused.detail,
                    "the collector knows another history of this node; a new epoch begins");
                let mut items = self.exchange.abandon();
                items.push(item);
                self.attester.dropped(&items, &format!("refused: {code}"))?;
                self.attester.begin_epoch(&format!("refused: {code}"))?;
                self.exchange.want();
            }
            Refusal::Unknown => warn!(%digest, code, "refused a statement that is not under way"),
        }
        Ok(())
    }

    fn receipt(&mut self, receipt: &Receipt) -> Result<(), UplinkError> {
        let Some(digest) = Sha256Digest::from_slice(&receipt.statement_digest) else {
            warn!("receipt: not a digest");
            return Ok(());
        };
        if !self.exchange.awaits(&digest) {
            debug!(%digest, "a receipt nobody waits for");
            return Ok(());
        }
        let Some((keys, seen)) = self.logs.get_mut(&receipt.log) else {
            debug!(
                log = receipt.log,
                "no policy names this log: the receipt does not count"
            );
            return Ok(());
        };
        match verify_receipt_by(receipt, &digest, keys.iter(), Some(*seen)) {
            Ok(verified) => {
                *seen = verified.checkpoint.size;
                if let Some(item) = self.exchange.receipted(&digest) {
                    self.attester.receipted(item, receipt)?;
                }
            }
            Err(why) => {
                error!(%digest, code = why.code(), why = %link::chain(&why), "receipt refused");
            }
        }
        Ok(())
    }

    fn outward(&mut self, certificate: &OutwardCertificate) {
        match self.outward.replace(certificate, clock::now()) {
            Ok(()) => debug!(file = %self.outward.file().display(), "outward certificate"),
            Err(why) => warn!(why = %link::chain(&why), "outward certificate not kept"),
        }
    }

    async fn lease(&mut self, lease: Lease) {
        let renewal = renew_after(&lease.body, clock::boot_time_ns());
        let (quoted, reset_count) = self.attester.quoted();
        let apply = ApplyLease {
            lease: Some(lease),
            ek_digest: self.signer.id(&self.config.node).0.to_vec(),
            ak_name: self.signer.name(),
            reset_count,
            quoted: quoted
                .iter()
                .map(|at| apply_lease::Quoted {
                    statement_digest: at.statement.0.to_vec(),
                    clock_ms: at.clock_ms,
                    boot_time_ns: at.boot_time_ns,
                })
                .collect(),
        };
        match self.fence.apply_lease(apply).await {
            Ok(()) => self.renew = renewal.map(|wait| Instant::now() + wait),
            Err(why) => warn!(why = %link::chain(&why), "lease not applied"),
        }
    }
}

/// When to ask for the next lease: once half of this one has passed. A timer and nothing more: the
/// fence alone decides what a lease is worth. None where it ends standing, or has ended.
fn renew_after(body: &[u8], now_boot_ns: u64) -> Option<Duration> {
    let body = LeaseBody::decode(body).ok()?;
    let length_ms = body.until_clock_ms.checked_sub(body.quoted_clock_ms)?;
    let half_ns = length_ms.saturating_mul(1_000_000) / 2;
    let half = body.quoted_boot_time_ns.saturating_add(half_ns);
    let end = half.saturating_add(half_ns);
    (now_boot_ns < end).then(|| Duration::from_nanos(half.saturating_sub(now_boot_ns)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_when_half_of_it_is_left() {
        let body = |until_clock_ms| LeaseBody {
            quoted_clock_ms: 7_000,
            quoted_boot_time_ns: 50_000_000_000,
            until_clock_ms,
            ..LeaseBody::default()
        };
        let minute = body(67_000).encode_to_vec();
        let second = 1_000_000_000;
        for (name, body, now, want) in [
            ("granted at once", &minute, 50 * second, Some(30)),
            ("granted late", &minute, 70 * second, Some(10)),
            ("granted after its half", &minute, 90 * second, Some(0)),
            ("granted after its end", &minute, 110 * second, None),
            ("ends standing", &body(0).encode_to_vec(), 50 * second, None),
            ("no time", &body(7_000).encode_to_vec(), 50 * second, None),
            ("not a lease", &vec![0xff], 50 * second, None),
        ] {
            assert_eq!(
                renew_after(body, now),
                want.map(Duration::from_secs),
                "{name}"
            );
        }
    }
}
