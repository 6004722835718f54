//! A collector that means no good, at the address where the node's own should be: it has every key
//! the real one has, speaks the wire protocol, and breaks one rule after the other.
//!
//! What it tried it says on stdout, one line each; what came of it stands in the logs of agent and
//! fence, for nobody has to answer a collector.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::Ed25519KeyPair;
use bailiwick_attestation::proto::v1::{self, collector_message::Message, node_message};
use bailiwick_attestation::standing::{LeaseSigner, MAX_LEASE_MS};
use bailiwick_attestation::tlog::{Checkpoint, LogEntry, NoteSigner, leaf_hash, node_hash};
use bailiwick_attestation::tpm::Attest;
use bailiwick_attestation::{NodeId, Sha256Digest, UnixTime};
use bailiwick_collector::init::{self, Plan, StateDir};
use bailiwick_collector::proto::evidence_service_server::{EvidenceService, EvidenceServiceServer};
use prost::Message as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node's agent configuration: whom it calls
    #[arg(long)]
    config: PathBuf,
    /// The collector's stolen state folder
    #[arg(long)]
    stolen: PathBuf,
    /// Name of the node's AK, hex
    #[arg(long)]
    ak: String,
    /// A statement of the node, as `bailiwick node statement` wrote it: the policy in it is offered
    /// without its signatures
    #[arg(long)]
    stored: PathBuf,
    /// Shows a certificate of a CA of its own, and nothing else
    #[arg(long)]
    stranger: bool,
    /// The stolen CA is revoked, and the node lets nothing else come
    #[arg(long)]
    revoked: bool,
}

/// Longer than any answer of an honest collector.
const HUGE: usize = 17 << 20;
/// Challenges in one breath.
const FLOOD: usize = 100_000;
/// Between one thing and the next, for the logs' sake.
const PAUSE: Duration = Duration::from_millis(400);
/// Nothing is said of what changes nothing: the node goes on, and what gets out is measured.
const SILENT: &str = "-";
/// Digests that stand for what it offers.
const UNSIGNED: u8 = 1;
const ENDLESS: u8 = 2;
const GARBAGE: u8 = 3;

/// What the thief has in hand.
struct Hands {
    deployment: String,
    node: String,
    ak: Vec<u8>,
    origin: String,
    log: NoteSigner,
    own_log: NoteSigner,
    lease: LeaseSigner,
    own_lease: LeaseSigner,
    unsigned: Vec<u8>,
    /// The next thing to try: a stream that broke goes on where it was.
    step: AtomicUsize,
}

/// One thing to do to a node that has just sent evidence, and the code it must be refused by.
struct Step {
    tried: &'static str,
    expected: &'static str,
    what: What,
}

enum What {
    Receipt(fn(&Hands, &Sha256Digest) -> anyhow::Result<v1::Receipt>),
    Lease(Signed, fn(&mut v1::LeaseBody)),
    Offer(&'static str, u8),
    Peers,
    Outward,
    Activation,
    Huge,
    Flood,
}

#[derive(Clone, Copy)]
enum Signed {
    Stolen,
    Own,
    OwnUnderItsName,
}

const STEPS: &[Step] = &[
    Step {
        tried: "a receipt that the log never signed",
        expected: "receipt-checkpoint",
        what: What::Receipt(|hands, of| receipt(hands, &hands.own_log, of, of, true)),
    },
    Step {
        tried: "a receipt whose entry does not stand in the log",
        expected: "receipt-proof",
        what: What::Receipt(|hands, of| receipt(hands, &hands.log, of, of, false)),
    },
    Step {
        tried: "a receipt for another statement",
        expected: "receipt-other-statement",
        what: What::Receipt(|hands, of| {
            receipt(hands, &hands.log, of, &Sha256Digest([7; 32]), true)
        }),
    },
    Step {
        tried: "a receipt of a log that is shorter than before",
        expected: "receipt-log-shrank",
        what: What::Receipt(|hands, of| receipt(hands, &hands.log, of, of, true)),
    },
    Step {
        tried: "a lease for another node",
        expected: "lease-not-ours",
        what: What::Lease(Signed::Stolen, |body| body.node = "gpu-02".to_owned()),
    },
    Step {
        tried: "a lease for another boot",
        expected: "lease-not-ours",
        what: What::Lease(Signed::Stolen, |body| body.reset_count += 1),
    },
    Step {
        tried: "a lease for a statement never made",
        expected: "lease-unknown-statement",
        what: What::Lease(Signed::Stolen, |body| body.statement_digest = vec![8; 32]),
    },
    Step {
        tried: "a lease longer than a week",
        expected: "lease-too-long",
        what: What::Lease(Signed::Stolen, |body| body.until_clock_ms += MAX_LEASE_MS),
    },
    Step {
        tried: "a lease by a key nobody approved",
        expected: "lease-unknown-key",
        what: What::Lease(Signed::Own, |_| {}),
    },
    Step {
        tried: "a lease by such a key under the approved name",
        expected: "lease-signature",
        what: What::Lease(Signed::OwnUnderItsName, |_| {}),
    },
    Step {
        tried: "an unsigned policy",
        expected: "policy-unsigned",
        what: What::Offer("policy", UNSIGNED),
    },
    Step {
        tried: "an unsigned change of approvers",
        expected: "policy-unsigned",
        what: What::Offer("approvers", UNSIGNED),
    },
    Step {
        tried: "an unsigned erasure",
        expected: "policy-unsigned",
        what: What::Offer("erasure", UNSIGNED),
    },
    Step {
        tried: "a policy that is noise",
        expected: "not a bundle",
        what: What::Offer("policy", GARBAGE),
    },
    Step {
        tried: "a policy that does not end",
        expected: "the bundle exceeds",
        what: What::Offer("policy", ENDLESS),
    },
    Step {
        tried: "peer entries that no node signed, for a study that asks for none",
        expected: SILENT,
        what: What::Peers,
    },
    Step {
        tried: "an outward certificate that is none of this node's key",
        expected: "outward certificate not kept",
        what: What::Outward,
    },
    Step {
        tried: "an approver's challenge for another key",
        expected: "an approver challenges EK and AK",
        what: What::Activation,
    },
    Step {
        tried: "a message of 17 MiB",
        expected: "decoded message length too large",
        what: What::Huge,
    },
    Step {
        tried: "a hundred thousand challenges in one breath",
        expected: SILENT,
        what: What::Flood,
    },
];

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let config = super::config(&args.config)?;
    let state = StateDir::at(&args.stolen);
    let identity = state.identity()?;
    let mine = own_state(&config.deployment)?;
    let own = StateDir::at(mine.path().join("state").as_path());
    let unsigned = {
        let bytes = std::fs::read(&args.stored).context("read --stored")?;
        let stored = v1::StoredStatement::decode(bytes.as_slice())?;
        let mut bundle = stored.policy.context("no policy in --stored")?;
        bundle.signatures.clear();
        bundle.encode_to_vec()
    };
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
    let pkcs8 = pkcs8.map_err(|_unspecified| anyhow!("the provider drew no key"))?;
    let hands = Arc::new(Hands {
        deployment: config.deployment.to_string(),
        node: config.node.to_string(),
        ak: hex::decode(&args.ak).context("read --ak")?,
        origin: identity.log_origin.clone(),
        log: NoteSigner::from_pkcs8(&identity.log_origin, &state.log_key()?)?,
        own_log: NoteSigner::from_pkcs8(&identity.log_origin, &own.log_key()?)?,
        lease: LeaseSigner::from_pkcs8(&identity.lease_key_id, &state.lease_key()?)?,
        own_lease: LeaseSigner::from_pkcs8("lease-of-mine", pkcs8.as_ref())?,
        unsigned,
        step: AtomicUsize::new(0),
    });
    let shown = if args.stranger { &own } else { &state };
    let pem = |name: &str| {
        std::fs::read(shown.path(name)).with_context(|| shown.path(name).display().to_string())
    };
    let chain = [pem("server.pem")?, pem("ca.pem")?].concat();
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(chain, pem("server.key")?));
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, config.collector.evidence.port));
    if args.stranger {
        say("a certificate of another CA", "ca-not-listed")?;
    }
    if args.revoked {
        say("a certificate of the revoked CA", "ca-key-revoked")?;
    }
    let service = EvidenceServiceServer::new(Hostile(hands)).max_decoding_message_size(HUGE);
    Server::builder()
        .tls_config(tls)?
        .add_service(service)
        .serve(at)
        .await
        .context("serve")
}

/// Keys of a collector that nobody approved.
fn own_state(
    deployment: &bailiwick_attestation::DeploymentId,
) -> anyhow::Result<tempfile::TempDir> {
    let dir = tempfile::tempdir().context("make a folder")?;
    let plan = Plan {
        dir: dir.path().join("state"),
        deployment: deployment.clone(),
        names: vec!["127.0.0.1".to_owned()],
        operator: NodeId::new("thief")?,
        log_origin: "log.of.mine".to_owned(),
        lease_key_id: "lease-of-mine".to_owned(),
    };
    init::init(&plan, bailiwick_agent::clock::now())?;
    Ok(dir)
}

fn say(tried: &str, expected: &str) -> anyhow::Result<()> {
    let line = json!({"tried": tried, "expected": expected});
    writeln!(std::io::stdout(), "{line}").context("write to stdout")
}

struct Hostile(Arc<Hands>);

type Answers = mpsc::Sender<Result<v1::CollectorMessage, Status>>;

#[tonic::async_trait]
impl EvidenceService for Hostile {
    type AttestStream = ReceiverStream<Result<v1::CollectorMessage, Status>>;
    type FetchPolicyStream = ReceiverStream<Result<v1::PolicyChunk, Status>>;

    async fn attest(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::AttestStream>, Status> {
        let (sender, answers) = mpsc::channel(64);
        let hands = Arc::clone(&self.0);
        tokio::spawn(async move {
            if let Err(why) = converse(&hands, request.into_inner(), &sender).await {
                eprintln!("hostile: {why:#}");
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn fetch_policy(
        &self,
        request: Request<v1::FetchPolicyRequest>,
    ) -> Result<Response<Self::FetchPolicyStream>, Status> {
        let (sender, chunks) = mpsc::channel(2);
        let asked = request.into_inner().manifest_digest;
        let unsigned = self.0.unsigned.clone();
        tokio::spawn(async move {
            let send = async |data: Vec<u8>| sender.send(Ok(v1::PolicyChunk { data })).await;
            match asked.first() {
                Some(&UNSIGNED) => {
                    for slice in unsigned.chunks(256 * 1024) {
                        if send(slice.to_vec()).await.is_err() {
                            return;
                        }
                    }
                }
                Some(&ENDLESS) => while send(vec![0; 1 << 20]).await.is_ok() {},
                // Whether it arrives makes no difference to who sent it.
                _ => drop(send(vec![0xff; 100]).await),
            }
        });
        Ok(Response::new(ReceiverStream::new(chunks)))
    }
}

async fn converse(
    hands: &Hands,
    mut inbound: Streaming<v1::NodeMessage>,
    out: &Answers,
) -> anyhow::Result<()> {
    send(out, Message::Welcome(v1::Welcome::default())).await?;
    send(out, Message::Challenge(challenge(true)?)).await?;
    while let Some(message) = inbound.message().await? {
        let Some(node_message::Message::Evidence(evidence)) = message.message else {
            continue;
        };
        let digest = Sha256Digest::of(&[&evidence.statement]);
        send(
            out,
            Message::Accepted(v1::Accepted {
                statement_digest: digest.as_bytes().to_vec(),
                verdict: "affirming".to_owned(),
                reasons: Vec::new(),
                next: Some(challenge(false)?),
                ..v1::Accepted::default()
            }),
        )
        .await?;
        tokio::time::sleep(PAUSE).await;
        let at = hands.step.fetch_add(1, Ordering::Relaxed);
        let Some(step) = STEPS.get(at) else {
            if at == STEPS.len() {
                say("done", "done")?;
            }
            continue;
        };
        say(step.tried, step.expected)?;
        play(hands, step, &evidence, &digest, out).await?;
        tokio::time::sleep(PAUSE).await;
        // The next piece of evidence at once, and with it the next step.
        send(out, Message::Challenge(challenge(true)?)).await?;
    }
    Ok(())
}

async fn play(
    hands: &Hands,
    step: &Step,
    evidence: &v1::Evidence,
    digest: &Sha256Digest,
    out: &Answers,
) -> anyhow::Result<()> {
    match step.what {
        What::Receipt(make) => send(out, Message::Receipt(make(hands, digest)?)).await,
        What::Lease(signed, edit) => {
            let mut body = body(hands, evidence, digest)?;
            edit(&mut body);
            let mut lease = match signed {
                Signed::Stolen => hands.lease.sign(&body)?,
                Signed::Own | Signed::OwnUnderItsName => hands.own_lease.sign(&body)?,
            };
            if matches!(signed, Signed::OwnUnderItsName) {
                lease.key_id = hands.lease.public()?.id;
            }
            send(out, Message::Lease(lease)).await
        }
        What::Offer(kind, which) => {
            let offer = v1::PolicyOffer {
                version: 1_000_000,
                manifest_digest: vec![which; 32],
                kind: kind.to_owned(),
            };
            send(out, Message::Policy(offer)).await
        }
        What::Peers => {
            let body = v1::PeerBody {
                deployment: hands.deployment.clone(),
                node: hands.node.clone(),
                study: "cardio".to_owned(),
                addresses: vec![vec![203, 0, 113, 1]],
                issued_ms: bailiwick_agent::clock::now().millis(),
                lasts_ms: 60_000,
            };
            let entry = v1::PeerEntry {
                body: body.encode_to_vec(),
                signature: vec![0; 70],
                ..v1::PeerEntry::default()
            };
            let entries = vec![entry; 100];
            send(out, Message::Peers(v1::PeerEntries { entries })).await
        }
        What::Outward => {
            let certificate = v1::OutwardCertificate {
                certificate_chain: vec![vec![0x30; 500]],
                not_after_ms: u64::MAX,
            };
            send(out, Message::Outward(certificate)).await
        }
        What::Activation => {
            let activation = v1::Activation {
                id: vec![9; 16],
                credential_blob: vec![0xaa; 1024],
                encrypted_secret: vec![0xbb; 1024],
            };
            send(out, Message::Activation(activation)).await
        }
        What::Huge => {
            let certificate = v1::OutwardCertificate {
                certificate_chain: vec![vec![0; HUGE]],
                not_after_ms: 0,
            };
            send(out, Message::Outward(certificate)).await
        }
        What::Flood => {
            for _ in 0..FLOOD {
                send(out, Message::Challenge(challenge(true)?)).await?;
            }
            Ok(())
        }
    }
}

async fn send(out: &Answers, message: Message) -> anyhow::Result<()> {
    let message = v1::CollectorMessage {
        message: Some(message),
    };
    out.send(Ok(message)).await.context("the node is gone")
}

fn challenge(now: bool) -> anyhow::Result<v1::Challenge> {
    let mut nonce = [0; 32];
    rand::fill(&mut nonce).map_err(|_unspecified| anyhow!("no randomness"))?;
    Ok(v1::Challenge {
        nonce: nonce.to_vec(),
        expires_in_ms: 60_000,
        now,
    })
}

/// What the real collector would sign for this evidence.
fn body(
    hands: &Hands,
    evidence: &v1::Evidence,
    digest: &Sha256Digest,
) -> anyhow::Result<v1::LeaseBody> {
    let Some(v1::evidence::Signer::TpmQuote(quote)) = &evidence.signer else {
        anyhow::bail!("evidence without a quote");
    };
    let clock = Attest::parse(&quote.attest)?.clock_info;
    Ok(v1::LeaseBody {
        deployment: hands.deployment.clone(),
        node: hands.node.clone(),
        ak_name: hands.ak.clone(),
        reset_count: clock.reset_count,
        until_clock_ms: clock.clock + 3_600_000,
        statement_digest: digest.as_bytes().to_vec(),
        manifest_digest: vec![0; 32],
        reason: "affirming".to_owned(),
        quoted_clock_ms: clock.clock,
        quoted_boot_time_ns: evidence.quoted_boot_time_ns,
        gpus_proven: true,
    })
}

/// A receipt for `of` by `signer`, whose entry names `named`; `stands`: under the root it shows.
/// Its log has two entries, fewer than any node has seen.
fn receipt(
    hands: &Hands,
    signer: &NoteSigner,
    of: &Sha256Digest,
    named: &Sha256Digest,
    stands: bool,
) -> anyhow::Result<v1::Receipt> {
    let entry = LogEntry {
        subject: hands.node.clone(),
        epoch: 0,
        sequence: 1,
        statement: *named,
        verdict: "affirming".to_owned(),
        received: UnixTime(bailiwick_agent::clock::now().millis()),
    }
    .to_bytes();
    let before = leaf_hash(b"another entry");
    let under = if stands {
        before
    } else {
        leaf_hash(b"a third")
    };
    let checkpoint = Checkpoint {
        origin: hands.origin.clone(),
        size: 2,
        root: node_hash(&under, &leaf_hash(&entry)),
    };
    Ok(v1::Receipt {
        statement_digest: of.as_bytes().to_vec(),
        log: hands.origin.clone(),
        index: 1,
        entry,
        inclusion_path: vec![before.as_bytes().to_vec()],
        checkpoint: checkpoint.sign(signer)?.into_bytes(),
    })
}
