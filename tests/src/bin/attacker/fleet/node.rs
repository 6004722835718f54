//! One node of the fleet: enrols, attests and listens as an agent does.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bailiwick_agent::config::{Collector, Config};
use bailiwick_agent::proto::v1::enroll_service_client::EnrollServiceClient;
use bailiwick_agent::proto::v1::evidence_service_client::EvidenceServiceClient;
use bailiwick_agent::{channel, clock, tls};
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::evidence::{Binding, Freshness, Nonce, transport_binding};
use bailiwick_attestation::fence_log::{Begun, Entry, LoggedPolicy};
use bailiwick_attestation::proto::v1::{self, collector_message, node_message};
use bailiwick_attestation::tlog::Head;
use bailiwick_policy::manifest::Manifest;
use bailiwick_policy::peers::{LIFE_LIMIT_MS, signed_bytes};
use prost::Message as _;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::soft::SoftTpm;

/// For an answer that must come, from a busy collector.
const PATIENCE: Duration = Duration::from_secs(60);
/// The register that fences extend.
const FENCE_PCR: usize = 13;
/// What a machine that was tampered with has in its fourth register.
const TAMPERED: [u8; 32] = [0x5b; 32];

/// What a node is made for.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) config: Config,
    pub(super) study: String,
    /// What a clean boot leaves in the registers.
    pub(super) registers: Vec<(usize, [u8; 32])>,
    /// SHA-256 over the first approvers.
    pub(super) approvers: Sha256Digest,
}

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// Another value in PCR 4: what one bad update does to a whole fleet.
    Register,
    /// Nothing is attached.
    Fence,
}

/// What the collector told it, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Leases that grant.
    pub(super) granted: u64,
    /// Leases that end at once.
    pub(super) ended: u64,
    /// Certificates others believe.
    pub(super) outward: u64,
    /// Entries of peers in the newest list.
    pub(super) peers: usize,
}

#[derive(Debug, Default)]
struct Heard {
    seen: Seen,
    nonce: Option<Nonce>,
}

/// Accepted with this verdict, or refused under this code.
type Answer = Result<String, String>;

#[derive(Debug)]
struct Session {
    sender: mpsc::Sender<v1::NodeMessage>,
    answers: mpsc::Receiver<Answer>,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    address: Ipv4Addr,
    tpm: SoftTpm,
    heard: Arc<Mutex<Heard>>,
    chain: Vec<CertificateDer<'static>>,
    session: Option<Session>,
    boot_id: [u8; 16],
    begun: Instant,
    fence_log: Vec<u8>,
    policy: Option<v1::PolicyState>,
    sequence: u64,
    previous: Option<Sha256Digest>,
}

impl Node {
    pub(super) fn new(number: u16, terms: &Terms) -> anyhow::Result<Self> {
        let mut tpm = SoftTpm::new()?;
        for (index, value) in &terms.registers {
            *tpm.registers.get_mut(*index).context("a register")? = *value;
        }
        let [high, low] = number.to_be_bytes();
        let mut boot_id = [9; 16];
        for (place, byte) in boot_id.iter_mut().zip([high, low]) {
            *place = byte;
        }
        Ok(Self {
            name: format!("sim-{number:03}"),
            address: Ipv4Addr::new(10, 20, high, low),
            tpm,
            heard: Arc::default(),
            chain: Vec::new(),
            session: None,
            boot_id,
            begun: Instant::now(),
            fence_log: Vec::new(),
            policy: None,
            sequence: 0,
            previous: None,
        })
    }

    /// The entry that approvers sign.
    pub(super) fn entry(&self) -> String {
        format!(
            "[[node]]\nname = \"{}\"\nek = \"{}\"\nak = \"{}\"\nplace = \"nowhere\"\n\
             jurisdiction = \"DE\"\ntpm = \"chip\"\naddresses = [\"{}/32\"]\n",
            self.name,
            self.tpm.ek_digest(),
            hex::encode(self.tpm.ak_name()),
            self.address
        )
    }

    pub(super) fn seen(&self) -> Seen {
        self.heard().seen
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A collector that went away took the stream with it.
    pub(super) fn hang_up(&mut self) {
        self.session = None;
        self.heard().seen.peers = 0;
    }

    /// What approvers signed is in force here from now on, and in its register.
    pub(super) fn follow(&mut self, manifest: &Manifest) -> anyhow::Result<()> {
        let digest = manifest.digest.as_bytes().to_vec();
        let known = self.policy.as_ref().map(|policy| &policy.manifest_digest);
        if known == Some(&digest) {
            return Ok(());
        }
        let world = Sha256Digest::of(&[b"a world"]);
        let mut entries = Vec::new();
        if self.fence_log.is_empty() {
            entries.push(Entry::Begin(Begun {
                agent: "simulated".to_owned(),
                root: "/".to_owned(),
                whole_host: true,
            }));
            entries.push(Entry::World(world));
        }
        entries.push(Entry::Policy(LoggedPolicy {
            version: manifest.version,
            manifest: manifest.digest,
            rules: Sha256Digest::of(&[b"rules"]),
        }));
        for entry in entries {
            let bytes = entry.encode()?;
            self.tpm.extend(FENCE_PCR, &bytes)?;
            self.fence_log.extend(bytes);
        }
        self.policy = Some(v1::PolicyState {
            version: manifest.version,
            manifest_digest: digest,
            world_digest: world.as_bytes().to_vec(),
            not_after_ms: manifest.not_after.millis(),
        });
        Ok(())
    }

    /// One statement in answer to the newest challenge.
    pub(super) async fn attest(&mut self, terms: &Terms, fault: Fault) -> anyhow::Result<Answer> {
        if self.session.is_none() {
            self.connect(terms).await?;
        }
        let statement = self.statement(terms, fault).encode_to_vec();
        let nonce = self.heard().nonce.take().context("a challenge")?;
        let freshness = Freshness::Challenged(nonce);
        let binding = Binding::new(&freshness, &statement);
        let clean = self.tpm.registers;
        if fault == Fault::Register
            && let Some(register) = self.tpm.registers.get_mut(4)
        {
            *register = TAMPERED;
        }
        let (clock_ms, boot_ns) = self.clock();
        let quote = self.tpm.quote(binding.as_bytes(), clock_ms);
        let registers = std::mem::replace(&mut self.tpm.registers, clean);
        let values = (0..).zip(registers).map(|(index, value)| v1::PcrValue {
            index,
            digest: value.to_vec(),
        });
        let evidence = v1::Evidence {
            statement: statement.clone(),
            freshness: Some(v1::evidence::Freshness::Nonce(nonce.as_bytes().to_vec())),
            signer: Some(v1::evidence::Signer::TpmQuote(quote?)),
            pcrs: vec![v1::PcrBank {
                // TPM_ALG_SHA256
                algorithm: 0x000b,
                values: values.collect(),
            }],
            logs: vec![v1::Log {
                name: "fence".to_owned(),
                content: self.fence_log.clone(),
                ..v1::Log::default()
            }],
            quoted_boot_time_ns: boot_ns,
            ..v1::Evidence::default()
        };
        let answer = self.ask(node_message::Message::Evidence(evidence)).await?;
        if answer.is_ok() {
            self.sequence += 1;
            self.previous = Some(Sha256Digest::of(&[&statement]));
        }
        Ok(answer)
    }

    /// Both clocks of the machine: the TPM's, ms, and the kernel's, ns.
    fn clock(&self) -> (u64, u64) {
        let up = self.begun.elapsed() + Duration::from_secs(3600);
        let wide = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        (wide(up.as_millis()), wide(up.as_nanos()))
    }

    fn statement(&self, terms: &Terms, fault: Fault) -> v1::Statement {
        use v1::fence_state::Mode;
        let mode = match fault {
            Fault::Fence => Mode::Absent,
            Fault::None | Fault::Register => Mode::Enforcing,
        };
        v1::Statement {
            format: 1,
            deployment: terms.config.deployment.to_string(),
            node: self.name.clone(),
            boot_id: self.boot_id.to_vec(),
            sequence: self.sequence,
            previous: self.previous.map(|digest| digest.as_bytes().to_vec()),
            wall_time_ms: clock::now().millis(),
            boot_time_ns: self.clock().1,
            approvers_digest: terms.approvers.as_bytes().to_vec(),
            policy: self.policy.clone(),
            fence: Some(v1::FenceState {
                mode: mode.into(),
                root: "/".to_owned(),
                whole_host: true,
                ..v1::FenceState::default()
            }),
            log: Some(Head::empty().to_proto()),
            ..v1::Statement::default()
        }
    }

    async fn ask(&mut self, message: node_message::Message) -> anyhow::Result<Answer> {
        let session = self.session.as_mut().context("a stream")?;
        let message = v1::NodeMessage {
            message: Some(message),
        };
        session.sender.send(message).await.context("the stream")?;
        let answer = timeout(PATIENCE, session.answers.recv()).await;
        let answer = answer.context("no answer in time")?;
        answer.with_context(|| format!("{}'s stream ended", self.name))
    }

    async fn connect(&mut self, terms: &Terms) -> anyhow::Result<()> {
        if self.chain.is_empty() {
            self.enrol(terms).await?;
        }
        let collector = &terms.config.collector;
        let tls = self.tls(collector)?;
        let channel = channel::open(&collector.evidence, tls).await?;
        let (sender, messages) = mpsc::channel(8);
        let inbound = EvidenceServiceClient::new(channel)
            .attest(ReceiverStream::new(messages))
            .await?
            .into_inner();
        self.heard().nonce = None;
        let (answered, answers) = mpsc::channel(8);
        tokio::spawn(listen(inbound, Arc::clone(&self.heard), answered));
        sender
            .send(self.peers(terms)?)
            .await
            .context("the stream")?;
        self.session = Some(Session { sender, answers });
        let begun = Instant::now();
        while self.heard().nonce.is_none() {
            if begun.elapsed() > PATIENCE {
                bail!("{} got no challenge", self.name);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn enrol(&mut self, terms: &Terms) -> anyhow::Result<()> {
        let config = &terms.config;
        let binding = transport_binding(&config.deployment, &self.tpm.ek_digest());
        let (attest, signature) = self.tpm.certify(&binding.0)?;
        let tls = tls::enrolment_config(&config.collector, &[])?;
        let channel = channel::open(&config.collector.enroll, tls).await?;
        let mut client = EnrollServiceClient::new(channel);
        let request = v1::EnrollRequest {
            deployment: config.deployment.to_string(),
            node: self.name.clone(),
            ek_public: self.tpm.ek_public().to_vec(),
            ak_public: self.tpm.ak_public().to_vec(),
            transport_public: self.tpm.transport_public().to_vec(),
            transport_attest: attest,
            transport_signature: signature,
            ..v1::EnrollRequest::default()
        };
        let challenge = client.begin(request).await?.into_inner();
        let proof = v1::EnrollProof {
            session: challenge.session,
            secret: self
                .tpm
                .activate(&challenge.credential_blob, &challenge.encrypted_secret)?,
        };
        let enrolled = client.finish(proof).await?.into_inner();
        if enrolled.state() != v1::enrolled::State::Enrolled {
            bail!("{} is not enrolled: {}", self.name, enrolled.reason);
        }
        let chain = enrolled.certificate_chain.into_iter();
        self.chain = chain.map(CertificateDer::from).collect();
        Ok(())
    }

    fn tls(&self, collector: &Collector) -> anyhow::Result<Arc<ClientConfig>> {
        let file = collector.ca_file.as_ref().context("collector.ca_file")?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file)?)?;
        let key = PrivatePkcs8KeyDer::from(self.tpm.transport().to_vec());
        let key = aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(key))?;
        let certified = CertifiedKey::new(self.chain.clone(), key);
        let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(certified));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Its own address in the study, signed as a node signs it.
    fn peers(&self, terms: &Terms) -> anyhow::Result<v1::NodeMessage> {
        let config = &terms.config;
        let binding = transport_binding(&config.deployment, &self.tpm.ek_digest());
        let (key_attest, key_signature) = self.tpm.certify(&binding.0)?;
        let body = v1::PeerBody {
            deployment: config.deployment.to_string(),
            node: self.name.clone(),
            study: terms.study.clone(),
            addresses: vec![self.address.octets().to_vec()],
            issued_ms: clock::now().millis(),
            lasts_ms: LIFE_LIMIT_MS,
        }
        .encode_to_vec();
        let entry = v1::PeerEntry {
            signature: self.tpm.sign(&signed_bytes(&body))?,
            body,
            key_public: self.tpm.transport_public().to_vec(),
            key_attest,
            key_signature,
            ak_public: self.tpm.ak_public().to_vec(),
        };
        let entries = vec![entry];
        let message = node_message::Message::Peers(v1::PeerEntries { entries });
        Ok(v1::NodeMessage {
            message: Some(message),
        })
    }
}

/// Takes what the collector says until it says no more.
async fn listen(
    mut inbound: Streaming<v1::CollectorMessage>,
    heard: Arc<Mutex<Heard>>,
    answered: mpsc::Sender<Answer>,
) {
    while let Ok(Some(message)) = inbound.message().await {
        let answer = match message.message {
            Some(message) => take(&heard, message),
            None => None,
        };
        if let Some(answer) = answer
            && answered.send(answer).await.is_err()
        {
            return;
        }
    }
}

fn take(heard: &Mutex<Heard>, message: collector_message::Message) -> Option<Answer> {
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    let mut challenge = |next: Option<v1::Challenge>| {
        if let Some(Ok(nonce)) = next.map(|next| Nonce::from_slice(&next.nonce)) {
            heard.nonce = Some(nonce);
        }
    };
    match message {
        collector_message::Message::Challenge(next) => challenge(Some(next)),
        collector_message::Message::Accepted(accepted) => {
            challenge(accepted.next);
            return Some(Ok(accepted.verdict));
        }
        collector_message::Message::Refused(refused) => {
            challenge(refused.next);
            return Some(Err(format!("{}: {}", refused.code, refused.detail)));
        }
        collector_message::Message::Lease(lease) => {
            let ends = v1::LeaseBody::decode(lease.body.as_slice());
            match ends.map(|body| body.until_clock_ms) {
                Ok(0) => heard.seen.ended += 1,
                Ok(_) => heard.seen.granted += 1,
                Err(_) => {}
            }
        }
        collector_message::Message::Outward(_) => heard.seen.outward += 1,
        collector_message::Message::Peers(entries) => heard.seen.peers = entries.entries.len(),
        collector_message::Message::Receipt(_)
        | collector_message::Message::Policy(_)
        | collector_message::Message::LogAccepted(_)
        | collector_message::Message::Activation(_)
        | collector_message::Message::Welcome(_) => {}
    }
    None
}

/// How many answered what.
pub(super) fn tally(answers: &[Answer]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        let word = match answer {
            Ok(verdict) => verdict.clone(),
            Err(refused) => format!("refused {refused}"),
        };
        *counts.entry(word).or_default() += 1;
    }
    counts
}
