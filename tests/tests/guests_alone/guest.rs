//! A guest, played: it says what a test has it say, over the real ports.

use std::fs;
use std::sync::Arc;

use bailiwick_agent::config::Config as AgentConfig;
use bailiwick_agent::proto::v1::enroll_service_client::EnrollServiceClient;
use bailiwick_agent::{channel, tls};
use bailiwick_attestation::evidence::{
    Binding, Freshness, GuestSigner, Nonce, StatementSigner as _, TeeReportSigner,
    guest_transport_data,
};
use bailiwick_attestation::proto::v1::{self, collector_message};
use bailiwick_attestation::{DeploymentId, Sha256Digest};
use prost::Message as _;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tonic::Status;
use tonic::transport::Channel;

use crate::chip::{Chip, Launched};
use crate::client::client;
use crate::stand::{Came, Conversation, Stand};

/// The stable word a refusal begins with.
pub(crate) fn code(refused: &Status) -> &str {
    refused.message().split(':').next().unwrap()
}

/// A collector that holds what vouches for two made chips, and an inventory of two guests on the first.
pub(crate) struct Scene {
    pub(crate) stand: Stand,
    pub(crate) chip: Chip,
    /// Under a root that counts, too, and in nobody's entry.
    pub(crate) other_chip: Chip,
    /// More entries.
    pub(crate) inventory: String,
    pub(crate) policy: Sha256Digest,
    /// What the endorsements lie in.
    pub(crate) store: std::path::PathBuf,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let mut stand = Stand::new().await;
        let (chip, other_chip) = (Chip::new(), Chip::with_id([8; 64]));
        let store = stand.dir.path().join("endorsements");
        let roots = [&chip, &other_chip].map(|chip| {
            let digest = Sha256Digest::of(&[&chip.root]).to_string();
            let file = stand.dir.path().join(format!("root-{digest}.der"));
            fs::write(&file, &chip.root).unwrap();
            (digest, file)
        });
        let [(first, a), (second, b)] = &roots;
        let words = [
            "endorsements",
            "import",
            a.to_str().unwrap(),
            b.to_str().unwrap(),
            "--store",
            store.to_str().unwrap(),
        ];
        let imported = client(&words, None).await;
        assert_eq!(imported.status.code(), Some(0), "{imported:?}");
        stand.endorse_from(&store);
        // Nodes with a TPM are held against another, which no guest meets.
        stand.guest_profile = Some(format!(
            "name = \"guests\"\nlease_seconds = 300\nmax_silence_seconds = 180\n\
             [tpm]\nbank = \"sha256\"\nrequire = []\n[cvm]\nrevocation = false\nlisted = true\nmax_vmpl = 1\ndebug = true\n\
             roots = [{first:?}, {second:?}]\n"
        ));
        let mut scene = Self {
            stand,
            chip,
            other_chip,
            inventory: String::new(),
            policy: Sha256Digest([0; 32]),
            store,
        };
        scene.apply().await;
        scene
    }

    /// The inventory's entry of a guest that is told from others by what its host puts beside it.
    pub(crate) fn entry(&self, name: &str, host_data: [u8; 32]) -> String {
        format!(
            "[[guest]]\nname = {name:?}\nchips = [{:?}]\nmeasurement = {:?}\nhost_data = {:?}\n\
             jurisdiction = \"DE\"\n",
            self.chip.name(),
            hex::encode([6; 48]),
            hex::encode(host_data),
        )
    }

    /// Signs and applies the policy; the collector restarts with it.
    pub(crate) async fn apply(&mut self) {
        let guests = self.entry("guest-01", [0; 32]) + &self.entry("guest-02", [4; 32]);
        self.policy = self.stand.apply(&(guests + &self.inventory)).await;
    }

    /// A running guest of the listed launch.
    pub(crate) fn guest(&self, name: &str, id: u8) -> Guest {
        Guest {
            name: name.to_owned(),
            chip: self.chip.clone(),
            launched: Launched::new(id),
            table: None,
            key: Key::new(),
            boot_ns: 5_000_000_000,
            config: self.stand.agent_config("guest-01", self.stand.dir.path()),
            stream: None,
            last: self.stand.statement(name, Some(self.policy)),
        }
    }

    /// One that has enrolled and connected.
    pub(crate) async fn joined(&self, name: &str, id: u8) -> Guest {
        let mut guest = self.guest(name, id);
        let enrolled = guest.enroll(self).await.unwrap();
        guest.connect(self, &enrolled).await.unwrap();
        guest
    }
}

/// A key of one boot.
#[derive(Clone)]
pub(crate) struct Key(Arc<KeyPair>);

impl Key {
    pub(crate) fn new() -> Self {
        Self(Arc::new(
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        ))
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    pub(crate) fn point(&self) -> Vec<u8> {
        self.0.der_bytes().to_vec()
    }

    pub(crate) fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.spki()])
    }

    pub(crate) fn signer(&self, instance: Option<[u8; 32]>) -> GuestSigner {
        GuestSigner {
            key: self.digest(),
            instance,
        }
    }
}

/// What is put together for one statement, for a test to change.
pub(crate) struct Words {
    pub(crate) statement: v1::Statement,
    pub(crate) freshness: Nonce,
    /// What the report binds in place of the challenge.
    pub(crate) asked: Option<Nonce>,
    pub(crate) chip: Chip,
    pub(crate) launched: Launched,
    pub(crate) table: Vec<u8>,
}

/// A guest.
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) chip: Chip,
    pub(crate) launched: Launched,
    /// Certificates its host hands over; `None`: those of its chip.
    pub(crate) table: Option<Vec<u8>>,
    pub(crate) key: Key,
    /// The kernel's boot clock when it attests.
    pub(crate) boot_ns: u64,
    config: AgentConfig,
    stream: Option<Conversation>,
    last: v1::Statement,
}

impl Guest {
    pub(crate) async fn enroller(&self, scene: &Scene) -> EnrollServiceClient<Channel> {
        let mut config = self.config.collector.clone();
        let bound = scene.stand.running.as_ref().unwrap().bound;
        config.enroll = bound.enroll.to_string().try_into().unwrap();
        let tls = tls::enrolment_config(&config, &[]).unwrap();
        let channel = channel::open(&config.enroll, tls).await;
        EnrollServiceClient::new(channel.unwrap())
    }

    pub(crate) fn request(&self) -> v1::GuestRequest {
        v1::GuestRequest {
            deployment: "demo".to_owned(),
            node: self.name.clone(),
            transport_spki: self.key.spki(),
            chassis_serial: String::new(),
            devices: Vec::new(),
        }
    }

    pub(crate) fn proof(
        &self,
        challenge: &v1::GuestChallenge,
        nonce: &[u8],
        key: &Key,
    ) -> v1::GuestProof {
        let deployment = DeploymentId::new("demo").unwrap();
        let nonce = Nonce::from_slice(nonce).unwrap();
        let data = guest_transport_data(&deployment, &nonce, &key.digest());
        self.proof_over(challenge, &data)
    }

    pub(crate) fn proof_over(
        &self,
        challenge: &v1::GuestChallenge,
        data: &[u8; 64],
    ) -> v1::GuestProof {
        v1::GuestProof {
            session: challenge.session.clone(),
            evidence: Some(v1::TeeEvidence {
                report: Some(self.report(data)),
                certificates: self.certificates(),
                ..v1::TeeEvidence::default()
            }),
        }
    }

    fn certificates(&self) -> Vec<u8> {
        self.table
            .clone()
            .unwrap_or_else(|| self.chip.table.clone())
    }

    fn report(&self, data: &[u8; 64]) -> v1::TeeReport {
        v1::TeeReport {
            kind: "sev-snp".to_owned(),
            report: self.chip.report_on(&self.launched, data),
        }
    }

    pub(crate) async fn enroll(&self, scene: &Scene) -> Result<v1::Enrolled, Status> {
        let mut port = self.enroller(scene).await;
        let challenge = port.begin_guest(self.request()).await?.into_inner();
        let proof = self.proof(&challenge, &challenge.nonce, &self.key);
        Ok(port.finish_guest(proof).await?.into_inner())
    }

    /// Opens the stream with this certificate and the key it has, whether they fit or not.
    pub(crate) async fn connect(
        &mut self,
        scene: &Scene,
        enrolled: &v1::Enrolled,
    ) -> Result<(), String> {
        let chain = enrolled.certificate_chain.iter();
        let chain = chain.map(|der| der.clone().into()).collect();
        let key = PrivatePkcs8KeyDer::from(self.key.0.serialize_der());
        let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key.into()).unwrap();
        let own = SingleCertAndKey::from(CertifiedKey::new(chain, signing));
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(scene.stand.ca()).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(own));
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let bound = scene.stand.running.as_ref().unwrap().bound;
        let at = bound.evidence.to_string().try_into().unwrap();
        let channel = channel::open(&at, Arc::new(tls)).await;
        let channel = channel.map_err(|error| error.to_string())?;
        let opened = Conversation::open(channel).await;
        self.stream = Some(opened.map_err(|status| status.message().to_owned())?);
        Ok(())
    }

    pub(crate) const fn stream(&mut self) -> &mut Conversation {
        self.stream.as_mut().expect("it is connected")
    }

    /// The next statement.
    pub(crate) fn next(&mut self) -> v1::Statement {
        self.last.wall_time_ms = bailiwick_collector::clock::now().millis();
        self.last.guest_key = self.key.digest().as_bytes().to_vec();
        self.last.clone()
    }

    /// Says it, after a test has changed it; what is accepted is the one before the next.
    pub(crate) async fn say(&mut self, edit: impl FnOnce(&mut Words)) -> Came {
        let mut words = Words {
            statement: self.next(),
            freshness: self.stream().nonce,
            asked: None,
            chip: self.chip.clone(),
            launched: self.launched.clone(),
            table: self.certificates(),
        };
        edit(&mut words);
        let bytes = words.statement.encode_to_vec();
        let asked = words.asked.unwrap_or(words.freshness);
        let data = TeeReportSigner::carrier(&Binding::new(&Freshness::Challenged(asked), &bytes));
        let evidence = v1::Evidence {
            statement: bytes.clone(),
            freshness: Some(v1::evidence::Freshness::Nonce(
                words.freshness.as_bytes().to_vec(),
            )),
            signer: Some(v1::evidence::Signer::TeeReport(v1::TeeReport {
                kind: "sev-snp".to_owned(),
                report: words.chip.report_on(&words.launched, &data),
            })),
            tee: Some(Box::new(v1::TeeEvidence {
                certificates: words.table,
                ..v1::TeeEvidence::default()
            })),
            quoted_boot_time_ns: self.boot_ns,
            ..v1::Evidence::default()
        };
        let came = self.stream().evidence(evidence).await.unwrap();
        if matches!(came, Came::Accepted(..)) {
            self.last.sequence += 1;
            self.last.previous = Some(Sha256Digest::of(&[&bytes]).as_bytes().to_vec());
        }
        came
    }

    /// The verdict on it.
    pub(crate) async fn said(&mut self, edit: impl FnOnce(&mut Words)) -> String {
        match self.say(edit).await {
            Came::Accepted(accepted, _) => {
                assert!(accepted.verdict != "none" || !accepted.reasons.is_empty());
                match accepted.verdict.as_str() {
                    "affirming" => accepted.verdict,
                    other => format!("{other}: {}", accepted.reasons.join("; ")),
                }
            }
            refused @ Came::Refused(_) => format!("{refused:?}"),
        }
    }

    /// The next lease.
    pub(crate) async fn lease(&mut self) -> v1::LeaseBody {
        loop {
            let message = self.stream().next().await.unwrap();
            if let collector_message::Message::Lease(lease) = message {
                return v1::LeaseBody::decode(lease.body.as_slice()).unwrap();
            }
        }
    }

    /// The next certificate that others believe.
    pub(crate) async fn outward(&mut self) -> v1::OutwardCertificate {
        loop {
            let message = self.stream().next().await.unwrap();
            if let collector_message::Message::Outward(outward) = message {
                return outward;
            }
        }
    }

    /// What the stream ends with.
    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            if let Err(status) = self.stream().next().await {
                return status;
            }
        }
    }
}
