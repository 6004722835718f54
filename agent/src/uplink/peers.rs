//! Peer entries: this node's own, signed and sent; the others', handed to the fence.
//!
//! Nothing here decides what counts: the fence checks every entry itself, this node's too.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use bailiwick_attestation::{
    Sha256Digest,
    evidence::transport_binding,
    proto::v1::{PeerBody, PeerEntries, PeerEntry, node_message},
};
use bailiwick_policy::peers::{ENTRIES_LIMIT, signed_bytes};
use prost::Message as _;
use tokio::{task::spawn_blocking, time::Instant};
use tracing::{debug, warn};

use super::{Node, link};
use crate::{
    clock,
    proto::fence::{ApplyPeers, GetOwnPeers, OwnPeers},
    tls::ecdsa_der,
    tpm::{Signed, Tpm, TpmError},
};

/// How often the host's addresses are looked at.
pub(super) const PEERS_POLL: Duration = Duration::from_secs(5);
/// Entries are signed again after this, changed or not.
const RENEW: Duration = Duration::from_secs(120);
/// How long an entry lasts: several renewals.
const LIFE_MS: u64 = 600_000;

/// What this node signed, and what it was told.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// The AK's word for the transport key; asked of the TPM once.
    certified: Option<Signed>,
    made: Option<Made>,
    /// Of the newest entry made.
    issued_ms: u64,
    /// From the collector.
    others: Vec<PeerEntry>,
    /// The fence has not taken the newest of them.
    pending: bool,
    /// That nobody signs this node's was said.
    unsigned_said: bool,
}

#[derive(Debug)]
struct Made {
    wanted: OwnPeers,
    at: Instant,
    entries: Vec<PeerEntry>,
}

/// Whether entries have to be signed: other addresses than before, or signed too long ago.
fn due(made: Option<&Made>, wanted: &OwnPeers, now: Instant) -> bool {
    match made {
        None => !wanted.studies.is_empty(),
        Some(made) => {
            let old = now.duration_since(made.at) >= RENEW && !wanted.studies.is_empty();
            made.wanted != *wanted || old
        }
    }
}

/// Of two entries the later holds, so none is as early as the one before, whatever the clock says.
const fn issue(last_ms: u64, now_ms: u64) -> u64 {
    if now_ms > last_ms {
        now_ms
    } else {
        last_ms.saturating_add(1)
    }
}

impl Node {
    /// Signs anew where that is due; tells collector and fence.
    pub(super) async fn poll_peers(&mut self) {
        let host = self.host.clone();
        let found = spawn_blocking(move || host.addresses()).await;
        let mut addresses: BTreeSet<IpAddr> = found.unwrap_or_default();
        addresses.extend(&self.config.peers.addresses);
        let ask = GetOwnPeers {
            ek_digest: self.signer.id(&self.config.node).0.to_vec(),
            addresses: addresses.iter().map(octets).collect(),
        };
        let wanted = match self.fence.own_peers(ask).await {
            Ok(wanted) => wanted,
            // Said elsewhere, and louder.
            Err(why) => return debug!(why = %link::chain(&why), "own peers not asked"),
        };
        let Some(tpm) = self.signer.tpm().cloned() else {
            if !wanted.studies.is_empty() && !self.peers.unsigned_said {
                self.peers.unsigned_said = true;
                warn!(
                    studies = wanted.studies.len(),
                    "no TPM certifies this guest's key: its addresses are no peers of others"
                );
            }
            if self.peers.pending {
                self.apply_peers().await;
            }
            return;
        };
        if !due(self.peers.made.as_ref(), &wanted, Instant::now()) {
            if self.peers.pending {
                self.apply_peers().await;
            }
            return;
        }
        match self.sign_peers(&tpm, &wanted).await {
            Ok(entries) => {
                let at = Instant::now();
                self.peers.made = Some(Made {
                    wanted,
                    at,
                    entries,
                });
                self.send_peers();
                self.apply_peers().await;
            }
            Err(why) => warn!(why = %link::chain(&why), "peer entries not signed; trying again"),
        }
    }

    async fn sign_peers(
        &mut self,
        tpm: &Tpm,
        wanted: &OwnPeers,
    ) -> Result<Vec<PeerEntry>, TpmError> {
        let identity = tpm.identity().clone();
        let certified = match &self.peers.certified {
            Some(certified) => certified.clone(),
            None => {
                let ek = Sha256Digest::of(&[&identity.ek_public]);
                let binding = transport_binding(&self.config.deployment, &ek);
                let certified = tpm.certify_transport(binding.0).await?;
                self.peers.certified.insert(certified).clone()
            }
        };
        self.peers.issued_ms = issue(self.peers.issued_ms, clock::now().millis());
        let mut entries = Vec::with_capacity(wanted.studies.len());
        for study in &wanted.studies {
            let body = PeerBody {
                deployment: self.config.deployment.to_string(),
                node: wanted.node.clone(),
                study: study.study.clone(),
                addresses: study.addresses.clone(),
                issued_ms: self.peers.issued_ms,
                lasts_ms: LIFE_MS,
            }
            .encode_to_vec();
            let digest = Sha256Digest::of(&[&signed_bytes(&body)]);
            let tpm = tpm.clone();
            let signed = spawn_blocking(move || tpm.sign_transport(digest.0)).await;
            let (r, s) = signed.unwrap_or(Err(TpmError::Gone))?;
            entries.push(PeerEntry {
                body,
                signature: ecdsa_der(&r, &s),
                key_public: identity.transport_public.clone(),
                key_attest: certified.attest.clone(),
                key_signature: certified.signature.clone(),
                ak_public: identity.ak_public.clone(),
            });
        }
        Ok(entries)
    }

    /// On every stream anew: the collector keeps none for a node that is gone.
    pub(super) fn send_peers(&mut self) {
        if self.session.is_none() {
            return;
        }
        if let Some(made) = &self.peers.made {
            let entries = made.entries.clone();
            self.send(node_message::Message::Peers(PeerEntries { entries }));
        }
    }

    /// What is left out counts no more.
    pub(super) async fn told_peers(&mut self, told: PeerEntries) {
        if told.entries.len() > ENTRIES_LIMIT {
            return warn!(
                count = told.entries.len(),
                "more peer entries than there may be"
            );
        }
        self.peers.others = told.entries;
        self.apply_peers().await;
    }

    async fn apply_peers(&mut self) {
        let own = self.peers.made.iter().flat_map(|made| &made.entries);
        let entries = own.chain(&self.peers.others).cloned().collect();
        let apply = ApplyPeers {
            entries: Some(PeerEntries { entries }),
        };
        let applied = self.fence.apply_peers(apply).await;
        self.peers.pending = applied.is_err();
        if let Err(why) = applied {
            warn!(why = %link::chain(&why), "peer entries not applied");
        }
    }
}

/// Network order, 4 or 16 bytes.
fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::fence::own_peers::Study;

    #[test]
    fn entries_are_signed_when_addresses_change_and_before_they_end() {
        let wanted = |last: u8| OwnPeers {
            node: "gpu-01".to_owned(),
            studies: vec![Study {
                study: "cardio".to_owned(),
                addresses: vec![vec![10, 9, 1, last]],
            }],
        };
        let none = OwnPeers::default();
        let at = Instant::now();
        let made = |wanted: OwnPeers| {
            Some(Made {
                wanted,
                at,
                entries: Vec::new(),
            })
        };
        let (five, empty) = (made(wanted(5)), made(none.clone()));
        let later = at + RENEW;
        let just_before = later - Duration::from_millis(1);
        for (name, made, wanted, now, want) in [
            ("nothing to sign", &None, &none, at, false),
            ("the first", &None, &wanted(5), at, true),
            ("the same", &five, &wanted(5), just_before, false),
            ("the same, old", &five, &wanted(5), later, true),
            ("another address", &five, &wanted(6), at, true),
            ("gone", &five, &none, at, true),
            ("still gone", &empty, &none, later, false),
        ] {
            assert_eq!(due(made.as_ref(), wanted, now), want, "{name}");
        }
        assert!(Duration::from_millis(LIFE_MS) > 2 * RENEW);
    }

    #[test]
    fn an_entry_is_later_than_the_one_before_whatever_the_clock_says() {
        for (last, now, want) in [
            (0, 5, 5),
            (5, 6, 6),
            (5, 5, 6),
            (5, 2, 6),
            (u64::MAX, 1, u64::MAX),
        ] {
            assert_eq!(issue(last, now), want);
        }
    }
}
