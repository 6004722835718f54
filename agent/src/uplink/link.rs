//! Enrols, connects, reads; begins again after every failure, for as long as the agent runs.
//!
//! Nothing is decided here about evidence: messages go to the node's loop and come from it.

use std::{path::Path, sync::Arc, time::Duration};

use bailiwick_attestation::proto::v1::{
    Claim, CollectorMessage, Hello, NodeMessage, node_message::Message,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};
use tracing::{error, info, warn};

use crate::{
    backoff::{Backoff, spread},
    channel::{self, ChannelError},
    clock,
    config::Config,
    enroll::{self, EnrollError, Enrolment, Hardware},
    proto::v1::evidence_service_client::EvidenceServiceClient,
    signer::Signer,
    tls::{self, CaKey, ConnectError, TlsError},
};

/// Messages to the collector that wait for the network: one statement and one batch of events are
/// under way at a time.
const OUTGOING: usize = 4;

/// Longest message to the collector: an envelope of 36 MiB and what is around it.
const MAX_SAID: usize = 40 << 20;

/// Longest message from it.
const MAX_HEARD: usize = 16 << 20;

/// A node that the inventory does not name asks again this often.
const PENDING: Duration = Duration::from_secs(300);

/// About how long to wait before a certificate under another CA is asked for.
const AUTHORITY: Duration = Duration::from_secs(2);

/// What the codes begin with by which the collector says so.
const AUTHORITY_CODE: &str = "certificate-authority";

/// Longest wait after a renewal that failed.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// A stream that held for so long was a success.
const GOOD: Duration = Duration::from_secs(30);

/// Longest wait for the answer to the call that opens a stream.
const OPEN: Duration = Duration::from_secs(20);

/// What the node's loop is told.
#[derive(Debug)]
pub enum LinkEvent {
    /// Enrolled, or pending.
    Enrolled(Enrolment),
    /// Not enrolled yet; retrying.
    NotEnrolled(String),
    /// The stream stands.
    Up(Session),
    /// From the collector.
    Message(Box<CollectorMessage>),
    /// The stream is gone; retrying.
    Down(String),
}

/// A stream that stands.
#[derive(Clone, Debug)]
pub struct Session {
    /// Towards the collector.
    pub outgoing: mpsc::Sender<NodeMessage>,
    /// For the other calls, on the same connection.
    pub client: EvidenceServiceClient<Channel>,
}

/// What the link needs to know.
#[derive(Debug)]
pub struct Link {
    /// Configuration.
    pub config: Arc<Config>,
    /// For enrolment and TLS.
    pub signer: Signer,
    /// DMI's word.
    pub chassis_serial: String,
    /// NVML's.
    pub nvml: watch::Receiver<Vec<Claim>>,
    /// Said first on every stream.
    pub hello: watch::Receiver<Hello>,
    /// Whose certificates the collector may show, by the policy in force.
    pub authorities: watch::Receiver<Vec<CaKey>>,
    /// The node's loop gives a stream up.
    pub reconnect: Arc<Notify>,
    /// To the node's loop. Full: reading from the collector waits.
    pub events: mpsc::Sender<LinkEvent>,
    /// The end.
    pub stop: CancellationToken,
}

/// Why a stream ended.
enum Ended {
    /// Try again after a while.
    Retry(String),
    /// The certificate is no good any more: enrol first.
    ReEnrol(String),
    /// It is good and about to end, or the node is pending: enrol again, at once.
    Renew,
    /// Approvers list other CAs of the collector: its certificate is looked at again.
    Look,
    /// Its CA may count no more, by no fault of the node's: enrol again before the lease runs out.
    Authority(String),
    /// The agent stops.
    Stop,
}

impl Link {
    /// Runs until told to stop.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.forever() => {}
        }
    }

    async fn forever(&mut self) {
        let file = enroll::file(&self.config);
        let mut enrolment = self.kept(&file);
        let mut backoff = Backoff::default();
        let mut renew = false;
        loop {
            let now = clock::now();
            if renew || enrolment.as_ref().is_none_or(|kept| kept.due(now)) {
                renew = false;
                match self.enroll(&file).await {
                    Ok(new) => enrolment = Some(new),
                    Err(why) => {
                        enrolment.take_if(|kept| kept.expired(now));
                        if enrolment.is_none() {
                            self.tell(LinkEvent::NotEnrolled(why)).await;
                            sleep(backoff.next_wait()).await;
                            continue;
                        }
                    }
                }
            }
            let Some(current) = enrolment.clone() else {
                continue;
            };
            let began = Instant::now();
            let ended = self.stream(&current).await;
            if began.elapsed() >= GOOD {
                backoff.reset();
            }
            let why = match ended {
                Ended::Stop => return,
                Ended::Renew => {
                    renew = true;
                    self.tell(LinkEvent::Down("renewing the certificate".to_owned()))
                        .await;
                    continue;
                }
                Ended::Look => {
                    self.tell(LinkEvent::Down(
                        "the collector shows its certificate again".to_owned(),
                    ))
                    .await;
                    sleep(spread(AUTHORITY / 2, 0.5)).await;
                    continue;
                }
                Ended::Authority(why) => {
                    renew = true;
                    self.tell(LinkEvent::Down(why)).await;
                    // Every node of the fleet is told in the same moment.
                    sleep(spread(AUTHORITY, 0.5)).await;
                    continue;
                }
                Ended::Retry(why) => why,
                Ended::ReEnrol(why) => {
                    enrolment = None;
                    why
                }
            };
            self.tell(LinkEvent::Down(why)).await;
            sleep(backoff.next_wait()).await;
        }
    }

    fn kept(&self, file: &Path) -> Option<Enrolment> {
        match Enrolment::read(file) {
            // A guest's of an earlier boot is for a key that is gone.
            Ok(kept) => kept.filter(|kept| {
                let usable = self
                    .signer
                    .guest()
                    .is_none_or(|guest| kept.is_for(guest.spki()));
                usable && !kept.expired(clock::now())
            }),
            Err(error) => {
                warn!(file = %file.display(), %error, "enrolling again");
                None
            }
        }
    }

    async fn enroll(&self, file: &Path) -> Result<Enrolment, String> {
        let hardware = Hardware::new(self.chassis_serial.clone(), &self.nvml.borrow());
        let authorities = self.authorities.borrow().clone();
        match enroll::enroll(&self.config, &authorities, &self.signer, hardware).await {
            Ok(enrolment) => {
                if let Err(error) = enrolment.write(file) {
                    warn!(file = %file.display(), %error, "a restart will enrol again");
                }
                match &enrolment.node {
                    Some(node) => info!(%node, "enrolled"),
                    None => warn!(reason = enrolment.reason, "pending"),
                }
                self.tell(LinkEvent::Enrolled(enrolment.clone())).await;
                Ok(enrolment)
            }
            Err(
                refused @ (EnrollError::Refused { .. }
                | EnrollError::Processor { refused: true, .. }
                | EnrollError::Tls(TlsError::NoTrust)),
            ) => {
                // Only a person changes that.
                error!(why = %chain(&refused), "not enrolled");
                Err(chain(&refused))
            }
            Err(failed) => {
                warn!(why = %chain(&failed), "not enrolled yet");
                Err(chain(&failed))
            }
        }
    }

    async fn stream(&mut self, enrolment: &Enrolment) -> Ended {
        self.authorities.mark_unchanged();
        let mut client = match self.open(enrolment).await {
            Ok(client) => client,
            Err(ended) => return ended,
        };
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let hello = Message::Hello(self.hello.borrow().clone());
        let hello = NodeMessage {
            message: Some(hello),
        };
        if outgoing.try_send(hello).is_err() {
            return Ended::Retry("no room for the first message".to_owned());
        }
        let opened = timeout(OPEN, client.attest(ReceiverStream::new(messages))).await;
        let mut stream: Streaming<CollectorMessage> = match opened {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return refused(&status),
            Err(_elapsed) => return Ended::Retry("the stream did not open in time".to_owned()),
        };
        info!(collector = %self.config.collector.evidence, "stream open");
        self.tell(LinkEvent::Up(Session { outgoing, client })).await;
        self.read(&mut stream, enrolment).await
    }

    async fn open(&self, enrolment: &Enrolment) -> Result<EvidenceServiceClient<Channel>, Ended> {
        let chain_of = enrolment.chain.clone();
        let authorities = self.authorities.borrow().clone();
        let tls = match tls::evidence_config(
            &self.config.collector,
            &authorities,
            &self.signer,
            chain_of,
        ) {
            Ok(tls) => tls,
            Err(error @ TlsError::Certificate(_)) => return Err(Ended::ReEnrol(chain(&error))),
            Err(error) => return Err(Ended::Retry(chain(&error))),
        };
        match channel::open(&self.config.collector.evidence, tls).await {
            Ok(channel) => {
                let client = EvidenceServiceClient::new(channel);
                Ok(client
                    .max_decoding_message_size(MAX_HEARD)
                    .max_encoding_message_size(MAX_SAID))
            }
            Err(ChannelError::Connect(refused @ ConnectError::Refused { .. })) => {
                error!(why = %refused, "enrolling again");
                Err(Ended::ReEnrol(refused.to_string()))
            }
            Err(failed) => Err(Ended::Retry(chain(&failed))),
        }
    }

    async fn read(&self, stream: &mut Streaming<CollectorMessage>, enrolment: &Enrolment) -> Ended {
        let again = Instant::now() + self.enrol_in(enrolment);
        // As of the handshake.
        let mut authorities = self.authorities.clone();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ended::Stop,
                () = self.reconnect.notified() => {
                    return Ended::Retry("given up on this stream".to_owned());
                }
                () = sleep_until(again) => return Ended::Renew,
                // TLS looks once: whether this collector still counts shows at the next handshake.
                Ok(()) = authorities.changed() => return Ended::Look,
                message = stream.message() => match message {
                    Ok(Some(message)) => self.tell(LinkEvent::Message(Box::new(message))).await,
                    Ok(None) => return Ended::Retry("the collector closed the stream".to_owned()),
                    Err(status) => return refused(&status),
                },
            }
        }
    }

    /// When to enrol again. Where that was due already and failed, the certificate's last third is
    /// left for more attempts.
    fn enrol_in(&self, enrolment: &Enrolment) -> Duration {
        if enrolment.node.is_none() {
            return spread(PENDING, 0.2);
        }
        let now = clock::now();
        if enrolment.due(now) {
            let left = Duration::from_millis(enrolment.not_after.since(now));
            return spread((left / 4).clamp(Duration::from_secs(1), RENEW_AGAIN), 0.2);
        }
        let life = enrolment.not_after.since(enrolment.obtained);
        let due = enrolment.obtained.millis().saturating_add(life / 3 * 2);
        Duration::from_millis(due.saturating_sub(now.millis()))
    }

    async fn tell(&self, event: LinkEvent) {
        // The loop ends before the link only when the agent stops.
        drop(self.events.send(event).await);
    }
}

fn refused(status: &Status) -> Ended {
    let why = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Aborted | Code::Unauthenticated if status.message().starts_with(AUTHORITY_CODE) => {
            Ended::Authority(why)
        }
        Code::Unauthenticated => Ended::ReEnrol(why),
        _ => Ended::Retry(why),
    }
}

/// An error with all its sources, on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        source = cause.source();
    }
    out
}
