//! The node's loop: facts in, evidence out, answers back to fence and spool.
//!
//! [`link`] holds the connection, [`exchange`] decides what to say next, [`crate::attest`] says
//! it; here the three meet timers and the fence process. A collector that is
//! out of reach stops nothing: the loop goes on, and so does the fence, which is another process.

mod answers;
mod events;
pub mod exchange;
mod facts;
mod floor;
mod gpus;
mod keys;
pub mod link;
mod oq;
mod peers;
mod policy;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bailiwick_attestation::{
    Sha256Digest,
    proto::v1::{Claim, Evidence, Held, Hello, NodeMessage, fence_state::Mode, node_message},
    tlog::LogKey,
};
use bailiwick_policy::kind::Kind;
use tokio::{
    sync::{Notify as Wake, mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    attest::{AttestError, Attester, Facts, change_digest, unavailable},
    backoff::{Backoff, spread},
    clock,
    collect::{Host, Restarts, Uplinks, tee::TeeError},
    config::Config,
    ipc::FenceClient,
    notify::{Notify, alive_every},
    outward::Outward,
    seal::Sealer,
    signer::Signer,
    tls::CaKey,
};
use events::Turned;
use exchange::{Exchange, Source, Step};
use floor::Memory;
use gpus::Gpus;
use link::{Link, LinkEvent, Session};
use oq::Oq;
use peers::{PEERS_POLL, Peers};
use policy::{Offers, PolicyFailed};

/// How often the fence is asked for its state and events.
const FENCE_POLL: Duration = Duration::from_secs(2);

/// How often the host's files are read for changes.
const FACTS_POLL: Duration = Duration::from_secs(30);

/// How often NVML is asked.
const NVML_POLL: Duration = Duration::from_secs(300);

/// The first statement waits this long for NVML's first answer.
const NVML_FIRST: Duration = Duration::from_secs(3);

/// Changes within this time of the last statement wait: a fence that flaps is told once.
const CHANGE: Duration = Duration::from_secs(1);

/// Without an answer for so long, a lost log begins anew without knowing what the collector holds.
const OUT_OF_REACH: Duration = Duration::from_secs(20);

/// From the link. Full: the link stops reading from the collector.
const EVENTS: usize = 16;

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// Without its place in the sequence, its spool or its log a node has nothing to say.
    #[error(transparent)]
    Attest(#[from] AttestError),
}

/// Everything the loop holds.
struct Node {
    config: Arc<Config>,
    signer: Signer,
    host: Host,
    uplinks: Uplinks,
    attester: Attester,
    exchange: Exchange,
    /// How long a processor that does not sign is left alone.
    unsigned: Backoff,
    /// What of the fence's state is in the log.
    turned: Turned,
    /// Absent while the TPM does not give the keys' master key.
    sealer: Option<Sealer>,
    started: Instant,
    /// Which events of the fence are in the log: instance, and the number after the last.
    events_kept: (Vec<u8>, u64),
    fence: FenceClient,
    fence_reachable: bool,
    facts: Facts,
    last_change: Option<Sha256Digest>,
    last_made: Option<Instant>,
    nvml: watch::Receiver<Vec<Claim>>,
    gpus: Gpus,
    oq: Oq,
    /// Whose receipts count, and the size last seen of each log.
    logs: BTreeMap<String, (Vec<LogKey>, u64)>,
    /// Whose certificates the collector may show.
    authorities: watch::Sender<Vec<CaKey>>,
    hello: watch::Sender<Hello>,
    session: Option<Session>,
    reconnect: Arc<Wake>,
    fetching: Option<JoinHandle<Result<Kind, PolicyFailed>>>,
    offers: Offers,
    /// Manifests that the fence holds, `policy` excepted.
    facts_held: Vec<Held>,
    memory: Memory,
    /// An approver's challenge at the TPM, one at a time.
    activating: Option<JoinHandle<()>>,
    outward: Outward,
    peers: Peers,
    /// When the lease in force has half of its time left.
    renew: Option<Instant>,
    notify: Notify,
    enrolled: Option<String>,
    retrying: bool,
}

/// Runs until told to stop.
pub async fn run(
    config: Arc<Config>,
    signer: impl Into<Signer>,
    approvers: Sha256Digest,
    stop: CancellationToken,
) -> Result<(), UplinkError> {
    let signer = signer.into();
    let host = Host::of(&config);
    let (attester, kept) = Attester::open(&config, &signer, host.clone(), approvers)?;
    if !kept.is_empty() {
        info!(statements = kept.len(), "without a receipt yet");
    }
    let interval = config.evidence.interval();
    let exchange = Exchange::new(std::time::Instant::now(), interval, kept);
    let exchange = exchange.never_again(attester.of_earlier_keys());
    let (events_tx, events) = mpsc::channel(EVENTS);
    let (hello, hello_rx) = watch::channel(Hello::default());
    let (nvml_tx, nvml) = watch::channel(vec![unavailable("nvml.gpus", "nvml", "not asked yet")]);
    let reconnect = Arc::new(Wake::new());
    let outward = Outward::open(&config.state_dir, signer.transport_spki(), clock::now());
    let boot_id = host.boot_id().map_err(AttestError::BootId)?;
    let asking = tokio::spawn(ask_nvml(host.clone(), nvml_tx, stop.clone()));
    let mut node = Node {
        turned: Turned::default(),
        sealer: None,
        uplinks: Uplinks::new(config.fence.uplinks()),
        started: Instant::now(),
        exchange,
        unsigned: Backoff::default(),
        fence: FenceClient::new(&config.fence.socket),
        config: Arc::clone(&config),
        signer: signer.clone(),
        attester,
        events_kept: (Vec::new(), 0),
        fence_reachable: false,
        facts: Facts::default(),
        last_change: None,
        last_made: None,
        nvml,
        gpus: Gpus::open(&config, boot_id),
        oq: Oq::open(&config),
        logs: BTreeMap::new(),
        authorities: watch::channel(Vec::new()).0,
        hello,
        session: None,
        reconnect: Arc::clone(&reconnect),
        fetching: None,
        offers: Offers::default(),
        facts_held: Vec::new(),
        memory: Memory::read(signer.tpm(), &config.deployment).await,
        activating: None,
        outward,
        peers: Peers::default(),
        renew: None,
        notify: Notify::default(),
        enrolled: None,
        retrying: false,
        host,
    };
    // Both answers belong into the first statement.
    drop(timeout(NVML_FIRST, node.nvml.changed()).await);
    node.read_facts().await;
    node.open_sealer().await;
    node.poll_fence().await?;
    let link = Link {
        config,
        signer,
        chassis_serial: node.host.chassis_serial(),
        nvml: node.nvml.clone(),
        hello: hello_rx,
        authorities: node.authorities.subscribe(),
        reconnect,
        events: events_tx,
        stop: stop.clone(),
    };
    let link = tokio::spawn(link.run());
    let outcome = node.turn(events, &stop).await;
    node.notify.stopping();
    stop.cancel();
    for task in [link, asking] {
        if let Err(error) = task.await {
            warn!(%error, "a task did not end as it should");
        }
    }
    outcome
}

async fn ask_nvml(host: Host, answers: watch::Sender<Vec<Claim>>, stop: CancellationToken) {
    let mut restarts = Restarts::default();
    loop {
        let claims = host.nvml_claims(&mut restarts).await;
        answers.send_if_modified(|last| {
            let changed = *last != claims;
            *last = claims;
            changed
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(NVML_POLL) => {}
        }
    }
}

impl Node {
    async fn turn(
        &mut self,
        mut events: mpsc::Receiver<LinkEvent>,
        stop: &CancellationToken,
    ) -> Result<(), UplinkError> {
        let mut timer = Instant::now();
        let mut fence_poll = ticker(FENCE_POLL);
        let mut facts_poll = ticker(FACTS_POLL);
        let mut peers_poll = ticker(PEERS_POLL);
        let mut alive = ticker(alive_every());
        loop {
            let wait = self.work().await?;
            let wait = wait.map_or_else(|| Instant::now() + FACTS_POLL, Instant::from_std);
            let outward_end = self.outward_end();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = events.recv() => match event {
                    Some(event) => self.link_event(event).await?,
                    None => return Ok(()),
                },
                () = sleep_until(timer) => {
                    let evidence = &self.config.evidence;
                    timer = Instant::now() + spread(evidence.interval(), evidence.jitter);
                    self.exchange.want();
                }
                _ = fence_poll.tick() => self.poll_fence().await?,
                _ = facts_poll.tick() => {
                    self.read_facts().await;
                    self.open_sealer().await;
                }
                _ = peers_poll.tick() => self.poll_peers().await,
                Ok(()) = self.nvml.changed() => self.read_facts().await,
                collected = gpus::answered(&mut self.gpus) => self.gpus_answered(collected).await?,
                said = oq::tried(&mut self.oq) => self.gpus_tried(said).await,
                _ = alive.tick() => self.notify.alive(),
                done = fetched(&mut self.fetching) => self.policy_done(done).await?,
                () = sleep_until(outward_end) => self.outward.expire(clock::now()),
                () = renewal(self.renew) => {
                    self.renew = None;
                    self.exchange.want();
                }
                () = sleep_until(wait) => {}
            }
        }
    }

    /// When to look at the outward certificate's end: read from the wall clock at every turn, for
    /// that clock may be set.
    fn outward_end(&self) -> Instant {
        let left = self.outward.until().map(|end| end.since(clock::now()));
        let left = left.map_or(FACTS_POLL, Duration::from_millis);
        Instant::now() + left.min(FACTS_POLL)
    }

    /// Performs every step that can be performed now; answers when the next one may be.
    async fn work(&mut self) -> Result<Option<std::time::Instant>, UplinkError> {
        loop {
            if self.gpus.waits() {
                // The statement under way takes what they say along, and nothing overtakes it.
                self.send_entries()?;
                return Ok(None);
            }
            let now = std::time::Instant::now();
            match self.exchange.next(now) {
                Step::Wait(until) => {
                    self.send_entries()?;
                    return Ok(until);
                }
                Step::Make(source) if self.ask_gpus(source) => {}
                Step::Make(source) => self.make(source).await?,
                Step::Resend(item) => match item.index.map(|index| self.attester.kept(index)) {
                    Some(Ok(envelope)) => {
                        if self.send_evidence(envelope) {
                            self.exchange.sent(item, now);
                        }
                    }
                    _ => {
                        self.exchange.unreadable(item);
                        self.attester.dropped(&[item], "spool record unreadable")?;
                    }
                },
                Step::Requote(item, source) => {
                    let (receipt, number) = self.attester.unchallenged();
                    let freshness = source.freshness(receipt, number);
                    match self.attester.requote(item, freshness).await {
                        Ok(envelope) => {
                            self.unsigned.reset();
                            if self.send_evidence(envelope) {
                                self.exchange.sent(item, now);
                            }
                        }
                        Err(why @ AttestError::Chain(_)) => return Err(why.into()),
                        Err(AttestError::Processor(why)) => self.processor_silent(&why),
                        Err(why) => {
                            warn!(why = %link::chain(&why), "a statement could not be quoted again");
                            self.exchange.unreadable(item);
                            self.attester
                                .dropped(&[item], "could not be quoted again")?;
                        }
                    }
                }
                Step::Reconnect(why) => {
                    warn!(why, "giving the stream up");
                    self.give_up();
                }
            }
        }
    }

    async fn make(&mut self, source: Source) -> Result<(), UplinkError> {
        let (receipt, number) = self.attester.unchallenged();
        let freshness = source.freshness(receipt, number);
        let reachable = self.session.is_some();
        match self.attester.make(&self.facts, freshness, reachable).await {
            Ok(made) => {
                self.unsigned.reset();
                let now = std::time::Instant::now();
                self.last_change = Some(change_digest(&self.facts));
                self.last_made = Some(Instant::now());
                self.exchange.made(made.item, source, now);
                if matches!(source, Source::Challenge(_)) {
                    self.send_evidence(made.envelope);
                }
                Ok(())
            }
            Err(why @ AttestError::Chain(_)) => Err(why.into()),
            Err(AttestError::Spool(crate::spool::SpoolError::Full { .. })) => {
                self.exchange.not_made();
                Ok(())
            }
            Err(AttestError::Processor(why)) => {
                self.processor_silent(&why);
                Ok(())
            }
            Err(why) => {
                error!(why = %link::chain(&why), "no statement could be made");
                self.exchange.not_made();
                Ok(())
            }
        }
    }

    /// There is no statement without its signature. It is asked again, each time later.
    fn processor_silent(&mut self, why: &TeeError) {
        let wait = self.unsigned.next_wait();
        let (code, refused) = (why.code(), why.refused());
        error!(code, refused, why = %link::chain(why), again_in = ?wait,
            "the processor does not sign: there is no statement");
        self.exchange.unsigned(std::time::Instant::now() + wait);
    }

    /// False: there was no stream, or there is none any more.
    fn send(&mut self, message: node_message::Message) -> bool {
        let message = NodeMessage {
            message: Some(message),
        };
        let sent = self
            .session
            .as_ref()
            .is_some_and(|session| session.outgoing.try_send(message).is_ok());
        if !sent && self.session.is_some() {
            warn!("the stream takes no more; giving it up");
            self.give_up();
        }
        sent
    }

    /// With the proof that its log extends what the collector accepted last.
    fn send_evidence(&mut self, mut envelope: Evidence) -> bool {
        self.attester.prove(&mut envelope);
        self.send(node_message::Message::Evidence(envelope))
    }

    fn send_entries(&mut self) -> Result<(), UplinkError> {
        if self.session.is_none() {
            return Ok(());
        }
        if let Some(batch) = self.attester.next_batch()?
            && !self.send(node_message::Message::Log(batch))
        {
            self.attester.disconnected();
        }
        Ok(())
    }

    fn give_up(&mut self) {
        // Without a stream the word would be kept, and end the next one.
        let stands = self.session.is_some();
        self.lost_stream();
        if stands {
            self.reconnect.notify_one();
        }
    }

    fn lost_stream(&mut self) {
        self.session = None;
        self.gpus.lost_stream();
        self.attester.disconnected();
        self.offers.forget();
        let lost = self.exchange.disconnected(std::time::Instant::now());
        if let Some(item) = lost
            && let Err(why) = self.attester.dropped(&[item], "spool full, stream lost")
        {
            error!(why = %link::chain(&why), "a lost statement could not be counted");
        }
    }

    async fn link_event(&mut self, event: LinkEvent) -> Result<(), UplinkError> {
        match event {
            LinkEvent::Enrolled(enrolment) => {
                self.enrolled = Some(match enrolment.node {
                    Some(node) => format!("enrolled as {node}"),
                    None => format!("pending: {}", enrolment.reason),
                });
                self.say();
            }
            LinkEvent::NotEnrolled(why) => {
                self.enrolled = None;
                self.retrying = true;
                debug!(why, "retrying");
                self.say();
            }
            LinkEvent::Up(session) => {
                // A kept certificate that the collector takes is an enrolment, too.
                self.enrolled.get_or_insert_with(|| "enrolled".to_owned());
                self.session = Some(session);
                self.exchange.connected(std::time::Instant::now());
                self.send_peers();
                self.say();
            }
            LinkEvent::Down(why) => {
                warn!(why, "stream closed; retrying");
                self.retrying = true;
                self.lost_stream();
                self.say();
            }
            LinkEvent::Message(message) => self.message(*message).await?,
        }
        Ok(())
    }

    /// Ready means: fenced, and enrolled or at least retrying.
    fn say(&mut self) {
        let mode = self.facts.fence.mode();
        let fenced = self.fence_reachable && matches!(mode, Mode::DefaultDeny | Mode::Enforcing);
        let fence = match (self.fence_reachable, mode) {
            (false, _) => "fence out of reach",
            (true, Mode::Enforcing) => "fence enforcing",
            (true, Mode::DefaultDeny) => "fence denies by default",
            (true, Mode::Absent | Mode::Unspecified) => "no fence",
        };
        let link = match (&self.enrolled, &self.session) {
            (Some(enrolled), Some(_)) => format!("{enrolled}, connected"),
            (Some(enrolled), None) => format!("{enrolled}, connecting"),
            (None, _) => "not enrolled, retrying".to_owned(),
        };
        let status = format!("{fence}; {link}");
        if fenced && (self.enrolled.is_some() || self.retrying) {
            self.notify.ready(&status);
        } else {
            self.notify.status(&status);
        }
    }
}

/// Never, where there is no lease.
async fn renewal(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = interval(period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

async fn fetched(
    task: &mut Option<JoinHandle<Result<Kind, PolicyFailed>>>,
) -> Result<Kind, PolicyFailed> {
    match task {
        Some(running) => {
            let outcome = running.await;
            *task = None;
            outcome.unwrap_or_else(|error| Err(PolicyFailed::Fetch(error.to_string())))
        }
        None => std::future::pending().await,
    }
}
