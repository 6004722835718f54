//! One node's stream, from its first message to whatever ends it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::appraisal::Enrolled;
use bailiwick_attestation::proto::v1::{self, collector_message, node_message};
use bailiwick_policy::kind::Kind;
use bailiwick_policy::model::STUDIES_LIMIT;
use bailiwick_policy::peers::verify;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{self, Instant};
use tonic::{Status, Streaming};
use tracing::{info, warn};

use super::evidence::{Answer, Recorded};
use super::rate::Bucket;
use super::relay::Relay;
use super::service::{self, Shared};
use super::streams::{Closed, Command, Registration};
use crate::appraise::Ending;
use crate::auth::NodePeer;
use crate::clock;
use crate::direct::Direction;
use crate::outward::Last;
use crate::quiet::Quiet;
use crate::record::Verdict;
use crate::standing::Entries;

/// How long a node may leave its answers unread.
const UNREAD: Duration = Duration::from_secs(30);
/// Lines about peer entries that are not passed on.
static REFUSED_PEERS: Quiet = Quiet::new();

/// A node is told of its peers at most this often: many change at once.
const PEERS: Duration = Duration::from_secs(1);

/// Answers that could not be put on the wire.
pub(super) type Sent = Result<(), Status>;

/// The collector's end of one node's stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: NodePeer,
    pub(super) signer: Enrolled,
    outbox: mpsc::Sender<Result<v1::CollectorMessage, Status>>,
    /// The newest version of each kind the node says it has; until it says so it is offered none.
    has: Option<BTreeMap<Kind, u64>>,
    /// The outward certificate this stream carried last.
    pub(super) last_outward: Last,
    /// Credentials under way.
    relay: Relay,
    /// SHA-256 of the peer entries it was told last.
    told: Option<Sha256Digest>,
}

impl Stream {
    pub(super) fn new(
        shared: Arc<Shared>,
        peer: NodePeer,
        signer: Enrolled,
        outbox: mpsc::Sender<Result<v1::CollectorMessage, Status>>,
    ) -> Self {
        Self {
            shared,
            peer,
            signer,
            outbox,
            has: None,
            last_outward: Last::default(),
            relay: Relay::default(),
            told: None,
        }
    }

    /// Reads until the node ends the stream, or something ends the node's right to it.
    pub(super) async fn run(
        mut self,
        mut inbound: Streaming<v1::NodeMessage>,
        mut registration: Registration,
    ) -> Result<(), Status> {
        let idle = Duration::from_secs(self.shared.config.idle_seconds);
        let mut idle_until = Instant::now() + idle;
        let life = self.peer.not_after.since(clock::now());
        let expires = Instant::now() + Duration::from_millis(life);
        let mut bucket = Bucket::new(self.shared.config.messages_per_minute, Instant::now());
        let mut direction = self.shared.director.watch();
        direction.mark_unchanged();
        let mut peers = self.shared.standing.watch();
        let mut tell_peers: Option<Instant> = None;

        self.send_welcome().await?;
        self.send_challenge(true).await?;
        loop {
            tokio::select! {
                biased;
                changed = registration.closed.changed() => {
                    let why = *registration.closed.borrow();
                    let why = changed.ok().and(why).unwrap_or(Closed::Replaced);
                    if why.ends_standing() {
                        self.end_standing().await?;
                    }
                    if why.ends_lease() {
                        self.end_lease(why).await?;
                    }
                    return Err(Status::aborted(why.code()));
                }
                () = self.shared.stop.cancelled() => {
                    return Err(Status::unavailable("collector-stopping: connect again"));
                }
                () = time::sleep_until(expires) => {
                    return Err(Status::unauthenticated("certificate-expired: enrol again"));
                }
                () = time::sleep_until(idle_until) => {
                    return Err(Status::deadline_exceeded(
                        "stream-idle: nothing valid came for too long",
                    ));
                }
                Some(command) = registration.commands.recv() => self.command(command).await?,
                Ok(()) = peers.changed() => {
                    tell_peers.get_or_insert_with(|| Instant::now() + PEERS);
                }
                () = sleep_until(tell_peers) => {
                    tell_peers = None;
                    self.tell_peers().await?;
                }
                Ok(()) = direction.changed() => {
                    let now = direction.borrow_and_update().clone();
                    self.offer(&now).await?;
                }
                message = read(&mut inbound, bucket.ready_at()) => {
                    let Some(message) = message? else { return Ok(()) };
                    bucket.take(Instant::now());
                    if self.handle(message).await? {
                        idle_until = Instant::now() + idle;
                    }
                }
            }
        }
    }

    /// Its last statement may have been granted something after the row was revoked.
    async fn end_standing(&mut self) -> Sent {
        let changes = self.shared.standing.withdrawn(&self.peer.ek_digest);
        let store = &self.shared.store;
        store.brakes_change(changes).await.map_err(service::store)
    }

    /// The last thing a node hears that was taken back: its lease ends now. One that is out of
    /// reach keeps what it has until that runs out by itself.
    async fn end_lease(&mut self, why: Closed) -> Sent {
        let ek = self.peer.ek_digest;
        let Some(lease) = self.ending_lease(why).await? else {
            return Ok(());
        };
        info!(%ek, why = why.code(), "its lease is ended");
        self.send(collector_message::Message::Lease(lease)).await
    }

    async fn ending_lease(&self, why: Closed) -> Result<Option<v1::Lease>, Status> {
        let (store, ek) = (&self.shared.store, &self.peer.ek_digest);
        let row = store.node_get(ek).await.map_err(service::store)?;
        let Some(policy) = self.shared.director.current() else {
            return Ok(None);
        };
        let newest = row.and_then(|row| row.newest);
        let newest = newest.and_then(|newest| Sha256Digest::from_slice(&newest.digest));
        let Some(newest) = newest else {
            return Ok(None);
        };
        let stored = store.statement_get(ek, &newest).await;
        let stored = stored.map_err(service::store)?;
        let ending = Ending {
            deployment: &self.shared.deployment,
            // Its own: the row may have another's by now.
            ak_name: &self.peer.ak_name,
            manifest: policy.manifest_digest(),
            reason: why.code(),
        };
        let body = stored
            .and_then(|row| row.stored.evidence)
            .and_then(|evidence| ending.lease(&evidence));
        let keys = policy.collector_keys();
        let signer = self.shared.leases.active(keys, clock::now());
        let (Some(body), Some(signer)) = (body, signer) else {
            return Ok(None);
        };
        let signed = signer.sign(&body);
        signed
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }

    async fn command(&mut self, command: Command) -> Sent {
        match command {
            Command::Challenge => self.send_challenge(true).await,
            Command::Activate(activation, answer) => match self.relay.begin(activation, answer) {
                None => Ok(()),
                Some(activation) => {
                    self.send(collector_message::Message::Activation(activation))
                        .await
                }
            },
        }
    }

    /// True if the message was worth something.
    async fn handle(&mut self, message: v1::NodeMessage) -> Result<bool, Status> {
        match message.message {
            Some(node_message::Message::Hello(hello)) => {
                let held = hello.held.iter().take(Kind::ALL.len());
                let held = held.filter_map(|held| Some((Kind::parse(&held.kind)?, held.version)));
                let mut has: BTreeMap<Kind, u64> = held.collect();
                has.insert(Kind::Policy, hello.policy_version);
                self.shared.streams.says(self.peer.ek_digest, has.clone());
                self.has = Some(has);
                let now = self.shared.director.watch().borrow().clone();
                self.offer(&now).await?;
                Ok(false)
            }
            Some(node_message::Message::Evidence(evidence)) => {
                let answer = self.evidence(evidence, clock::now()).await?;
                self.answer(answer).await
            }
            Some(node_message::Message::Log(batch)) => self.entries(batch).await,
            Some(node_message::Message::Activation(answer)) => {
                // Nobody waits any more, or ever did: an answer is worth nothing by itself.
                self.relay.answer(answer);
                Ok(false)
            }
            Some(node_message::Message::Peers(entries)) => {
                self.peers(&entries);
                Ok(false)
            }
            None => Err(Status::invalid_argument(
                "message-empty: NodeMessage.message is absent or newer than this collector",
            )),
        }
    }

    async fn answer(&mut self, answer: Answer) -> Result<bool, Status> {
        match answer {
            Answer::Refused(mut refused) => {
                refused.next = Some(self.challenge(false)?);
                self.send(collector_message::Message::Refused(refused))
                    .await?;
                Ok(false)
            }
            Answer::Accepted(accepted) => {
                let Recorded {
                    accepted: mut message,
                    receipt,
                    lease,
                    outward,
                } = *accepted;
                if message.verdict != Verdict::Affirming.as_str() {
                    // The node drops its certificate; what restores it is a new one.
                    self.last_outward = Last::default();
                }
                message.next = Some(self.challenge(false)?);
                self.send(collector_message::Message::Accepted(message))
                    .await?;
                self.send(collector_message::Message::Receipt(receipt))
                    .await?;
                if let Some(lease) = lease {
                    self.send(collector_message::Message::Lease(lease)).await?;
                }
                if let Some(outward) = outward {
                    self.send(collector_message::Message::Outward(outward))
                        .await?;
                }
                Ok(true)
            }
        }
    }

    /// What the node signed for its own addresses. Checked here to spare others the work: each of
    /// them checks it again.
    fn peers(&self, told: &v1::PeerEntries) {
        let Some(policy) = self.shared.director.current() else {
            return;
        };
        let (model, deployment) = (&policy.verified().model, &self.shared.deployment);
        let mut entries = Entries::new();
        for entry in told.entries.iter().take(STUDIES_LIMIT) {
            match verify(entry, model, deployment) {
                Ok(peer) if peer.ek() == self.peer.ek_digest => {
                    entries.insert(peer.study().clone(), entry.clone());
                }
                Ok(peer) => refused_peer(&self.peer.ek_digest, "peer-of-another", peer.node()),
                Err(why) => refused_peer(&self.peer.ek_digest, why.code(), &why),
            }
        }
        self.shared.standing.entries(self.peer.ek_digest, entries);
    }

    /// Everything that counts for it now, if that has changed.
    async fn tell_peers(&mut self) -> Sent {
        let standing = &self.shared.standing;
        let entries = standing.told(&self.peer.ek_digest, clock::now());
        let digest = Sha256Digest::of(&[&entries.encode_to_vec()]);
        let nothing = self.told.is_none() && entries.entries.is_empty();
        if nothing || self.told == Some(digest) {
            return Ok(());
        }
        self.told = Some(digest);
        self.send(collector_message::Message::Peers(entries)).await
    }

    /// Tells a listed node of manifests it does not have, in the order it needs them.
    async fn offer(&self, now: &Direction) -> Sent {
        let offered = now.offered_to(&self.peer.ek_digest);
        let (Some(has), Some(newest)) = (&self.has, offered) else {
            return Ok(());
        };
        for kind in Kind::ALL {
            let Some(offered) = newest.get(&kind) else {
                continue;
            };
            let has = has.get(&kind).copied().unwrap_or(0);
            if kind == Kind::Erasure && offered.manifest.version > has {
                self.offer_erasure(has).await?;
            } else if offered.manifest.version > has {
                self.send(collector_message::Message::Policy(offered.offer()))
                    .await?;
            }
        }
        Ok(())
    }

    /// Each erasure is an act of its own: the oldest one the node has not applied.
    async fn offer_erasure(&self, has: u64) -> Sent {
        let all = self.shared.store.manifest_list(Kind::Erasure).await;
        let all = all.map_err(service::store)?;
        let Some(next) = all.into_iter().find(|row| row.version > has) else {
            return Ok(());
        };
        let offer = v1::PolicyOffer {
            version: next.version,
            manifest_digest: next.manifest_digest.as_bytes().to_vec(),
            kind: Kind::Erasure.as_str().to_owned(),
        };
        self.send(collector_message::Message::Policy(offer)).await
    }

    /// What is held of this node.
    async fn send_welcome(&self) -> Sent {
        let store = &self.shared.store;
        let ek = &self.peer.ek_digest;
        let row = store.node_get(ek).await.map_err(service::store)?;
        let mut welcome = v1::Welcome::default();
        if let Some(newest) = row.and_then(|row| row.newest) {
            let receipt = store.receipt_digest(ek, &newest.digest).await;
            welcome.last_receipt = receipt.map_err(service::store)?;
            welcome.epoch = newest.epoch;
            if let Some(log) = newest.log {
                (welcome.log_size, welcome.log_root) = (log.size, log.root);
            }
        }
        self.send(collector_message::Message::Welcome(welcome))
            .await
    }

    async fn send_challenge(&self, now: bool) -> Sent {
        let challenge = self.challenge(now)?;
        self.send(collector_message::Message::Challenge(challenge))
            .await
    }

    fn challenge(&self, now: bool) -> Result<v1::Challenge, Status> {
        let mut random = [0; 32];
        rand::fill(&mut random).map_err(|_unspecified| Status::internal("no randomness"))?;
        let policy = self.shared.director.current();
        let lease_ms = policy.map(|policy| policy.lease_ms(&self.peer.ek_digest));
        let mut nonces = self
            .shared
            .nonces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (nonce, expires_in_ms) =
            nonces.open(self.peer.ek_digest, random, lease_ms, clock::now());
        Ok(v1::Challenge {
            nonce: nonce.as_bytes().to_vec(),
            expires_in_ms,
            now,
        })
    }

    pub(super) async fn send(&self, message: collector_message::Message) -> Sent {
        let message = v1::CollectorMessage {
            message: Some(message),
        };
        match time::timeout(UNREAD, self.outbox.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_closed)) => Err(Status::cancelled("the node went away")),
            Err(_elapsed) => Err(Status::deadline_exceeded(
                "answers-unread: the node does not read its answers",
            )),
        }
    }
}

/// Never, where there is no time.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn refused_peer(ek: &Sha256Digest, code: &str, why: &dyn std::fmt::Display) {
    if let Some(left_out) = REFUSED_PEERS.ask() {
        warn!(%ek, code, %why, left_out, "a peer entry is not passed on");
    }
}

/// The next message, not before `ready`. Dropping it half-way loses nothing.
async fn read(
    inbound: &mut Streaming<v1::NodeMessage>,
    ready: Instant,
) -> Result<Option<v1::NodeMessage>, Status> {
    time::sleep_until(ready).await;
    inbound.message().await
}
