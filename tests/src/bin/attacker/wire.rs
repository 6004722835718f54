//! The node's side of the wire, in hands that do as they like.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bailiwick_agent::config::Config;
use bailiwick_agent::proto::v1::enroll_service_client::EnrollServiceClient;
use bailiwick_agent::proto::v1::evidence_service_client::EvidenceServiceClient;
use bailiwick_agent::tpm::{Quoted, Tpm};
use bailiwick_agent::{channel, enroll, tls};
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::evidence::{Binding, Freshness, Nonce};
use bailiwick_attestation::proto::v1::{self, collector_message, node_message};
use prost::Message as _;
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::tries::Came;

/// For an answer that must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for a gift that must not come.
const HOPE: Duration = Duration::from_secs(2);

/// Enrols as the agent does; the inner error is the collector's refusal.
pub(crate) async fn enroll(
    config: &Config,
    tpm: &Tpm,
    chassis: &str,
) -> anyhow::Result<Result<v1::Enrolled, Status>> {
    let hardware = enroll::Hardware::new(chassis.to_owned(), &[]);
    let request = enroll::request(config, tpm, hardware).await?;
    let tls = tls::enrolment_config(&config.collector, &[])?;
    let mut client = EnrollServiceClient::new(channel::open(&config.collector.enroll, tls).await?);
    let challenge = match client.begin(request).await {
        Ok(challenge) => challenge.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    let opened = tpm.activate(challenge.credential_blob, challenge.encrypted_secret);
    let proof = v1::EnrollProof {
        session: challenge.session,
        secret: opened.await?,
    };
    Ok(client.finish(proof).await.map(tonic::Response::into_inner))
}

/// An open evidence stream.
pub(crate) struct Conversation {
    sender: mpsc::Sender<v1::NodeMessage>,
    answers: Streaming<v1::CollectorMessage>,
    pub(crate) client: EvidenceServiceClient<Channel>,
    /// The newest challenge.
    pub(crate) nonce: Nonce,
    /// The statement accepted last.
    pub(crate) last: Option<Sha256Digest>,
}

impl Conversation {
    pub(crate) async fn open(
        config: &Config,
        tpm: &Tpm,
        chain: Vec<CertificateDer<'static>>,
    ) -> anyhow::Result<Self> {
        let tls = tls::evidence_config(&config.collector, &[], tpm, chain)?;
        let channel = channel::open(&config.collector.evidence, tls).await?;
        let mut client = EvidenceServiceClient::new(channel);
        let (sender, messages) = mpsc::channel(8);
        let answers = client.attest(ReceiverStream::new(messages)).await?;
        let mut conversation = Self {
            sender,
            answers: answers.into_inner(),
            client,
            nonce: Nonce::new([0; 32]),
            last: None,
        };
        while conversation.nonce.as_bytes() == &[0; 32] {
            conversation.next(PATIENCE).await?.context("a challenge")?;
        }
        Ok(conversation)
    }

    /// The next message within `patience`; a challenge in it is taken.
    async fn next(
        &mut self,
        patience: Duration,
    ) -> anyhow::Result<Option<collector_message::Message>> {
        let Ok(message) = timeout(patience, self.answers.message()).await else {
            return Ok(None);
        };
        let message = message?.and_then(|message| message.message);
        let message = message.context("the collector ended the stream")?;
        let challenge = match &message {
            collector_message::Message::Challenge(challenge) => Some(challenge),
            collector_message::Message::Accepted(accepted) => accepted.next.as_ref(),
            collector_message::Message::Refused(refused) => refused.next.as_ref(),
            _ => None,
        };
        if let Some(challenge) = challenge {
            self.nonce = Nonce::from_slice(&challenge.nonce)?;
        }
        Ok(Some(message))
    }

    /// Quotes a statement in answer to the newest challenge and sends it.
    pub(crate) async fn say(
        &mut self,
        tpm: &Tpm,
        statement: &v1::Statement,
    ) -> anyhow::Result<Came> {
        let evidence = quote(tpm, statement, Freshness::Challenged(self.nonce)).await?;
        self.play(evidence).await
    }

    /// Sends evidence and looks at everything that follows it.
    pub(crate) async fn play(&mut self, evidence: v1::Evidence) -> anyhow::Result<Came> {
        let statement = Sha256Digest::of(&[&evidence.statement]);
        let message = v1::NodeMessage {
            message: Some(node_message::Message::Evidence(evidence)),
        };
        self.sender.send(message).await.context("the stream")?;
        let (mut verdict, mut gifts) = (None, Vec::new());
        // An answer must come; a gift must not, and is waited for a while.
        while let Some(message) = self
            .next(if verdict.is_none() { PATIENCE } else { HOPE })
            .await?
        {
            match message {
                collector_message::Message::Accepted(accepted) => {
                    self.last = Some(statement);
                    verdict = Some(accepted);
                }
                collector_message::Message::Refused(refused) => {
                    return Ok(Came::refused(refused.code, refused.detail));
                }
                collector_message::Message::Lease(lease) => {
                    let body = v1::LeaseBody::decode(lease.body.as_slice())?;
                    if body.until_clock_ms > 0 {
                        gifts.push(format!("a lease for {}", body.node));
                    }
                }
                collector_message::Message::Policy(offer) => {
                    gifts.push(format!(
                        "the policy, version {}, was offered",
                        offer.version
                    ));
                }
                collector_message::Message::Outward(_) => {
                    gifts.push("an outward certificate".to_owned());
                }
                collector_message::Message::Challenge(_)
                | collector_message::Message::Receipt(_)
                | collector_message::Message::LogAccepted(_)
                | collector_message::Message::Activation(_)
                | collector_message::Message::Peers(_)
                | collector_message::Message::Welcome(_) => {}
            }
        }
        let Some(accepted) = verdict else {
            bail!("no answer to a statement");
        };
        let said = format!(
            "kept, verdict {}: {}",
            accepted.verdict,
            accepted.reasons.join("; ")
        );
        if accepted.verdict == "affirming" || !gifts.is_empty() {
            return Ok(Came::Succeeded(format!("{said} {gifts:?}")));
        }
        Ok(Came::refused("no-standing", said))
    }
}

/// Has the TPM sign a statement under any freshness.
pub(crate) async fn quote(
    tpm: &Tpm,
    statement: &v1::Statement,
    freshness: Freshness,
) -> anyhow::Result<v1::Evidence> {
    let statement = statement.encode_to_vec();
    let binding = Binding::new(&freshness, &statement);
    let quoted = tpm.quote(*binding.as_bytes()).await?;
    Ok(envelope(&statement, &freshness, quoted))
}

fn envelope(statement: &[u8], freshness: &Freshness, quoted: Quoted) -> v1::Evidence {
    let values = quoted.pcrs.into_iter().map(|(index, digest)| v1::PcrValue {
        index: index.into(),
        digest,
    });
    v1::Evidence {
        statement: statement.to_vec(),
        freshness: Some(match freshness {
            Freshness::Challenged(nonce) => {
                v1::evidence::Freshness::Nonce(nonce.as_bytes().to_vec())
            }
            Freshness::Unchallenged {
                last_receipt,
                number,
            } => v1::evidence::Freshness::Unchallenged(v1::Unchallenged {
                last_receipt: last_receipt.as_bytes().to_vec(),
                number: *number,
                receipt: Vec::new(),
            }),
        }),
        signer: Some(v1::evidence::Signer::TpmQuote(v1::TpmQuote {
            attest: quoted.signed.attest,
            signature: quoted.signed.signature,
        })),
        pcrs: vec![v1::PcrBank {
            // TPM_ALG_SHA256
            algorithm: 0x000b,
            values: values.collect(),
        }],
        quoted_boot_time_ns: quoted.boot_time_ns,
        ..v1::Evidence::default()
    }
}
