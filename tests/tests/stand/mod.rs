//! A collector in this process, and nodes that do as the test says: their TPMs are real software
//! TPMs, their enrolment, TLS and quotes are the agent's own code.
#![expect(
    dead_code,
    clippy::unwrap_used,
    reason = "every test binary uses a part of it; a fixture that fails is a failed test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bailiwick_agent::config::{Config as AgentConfig, Endpoint};
use bailiwick_agent::enroll;
use bailiwick_agent::proto::v1::enroll_service_client::EnrollServiceClient;
use bailiwick_agent::proto::v1::evidence_service_client::EvidenceServiceClient;
use bailiwick_agent::tpm::{AkKind, Bank, EkKind, Quoted, Settings, Tcti, Tpm};
use bailiwick_agent::{channel, tls};
use bailiwick_attestation::crypto::{Curve, PublicKey};
use bailiwick_attestation::evidence::{Binding, Freshness, Nonce};
use bailiwick_attestation::proto::v1::{self, collector_message, node_message};
use bailiwick_attestation::tpm::Public;
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest};
use bailiwick_collector::clock;
use bailiwick_collector::config::Config;
use bailiwick_collector::direct::{Director, chunks, read_approvers};
use bailiwick_collector::init::{self, Made, Plan, StateDir};
use bailiwick_collector::proto::query_service_client::QueryServiceClient;
use bailiwick_collector::record::Store;
use bailiwick_collector::run::{Checked, Running};
use bailiwick_policy::bundle::Bundle;
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{self, Draft};
use bailiwick_policy::model as inventory;
use bailiwick_tests::swtpm::SoftTpm;
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

pub(crate) const REGISTERS: [u8; 3] = [0, 1, 7];
const PROFILE: &str = "name = \"test\"\nlease_seconds = 300\nmax_silence_seconds = 180\n[tpm]\nbank = \"sha256\"\nrequire = [0, 1, 7]\n";

/// A TPM maker of the test's own.
pub(crate) struct Maker {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: String,
}

struct EkKey(Vec<u8>);

impl PublicKeyData for EkKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Maker {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    /// A certificate that calls the key of a `TPMT_PUBLIC` an IAK of device `serial`; PEM.
    pub(crate) fn certify_iak(&self, public: &[u8], serial: &str) -> String {
        let public = Public::parse(public).unwrap();
        let Some(PublicKey::Ec { point, .. }) = public.key() else {
            panic!("the IAK is not on P-256");
        };
        let mut params = CertificateParams::default();
        let kind = DnType::CustomDnType(vec![2, 5, 4, 5]);
        params.distinguished_name.push(kind, serial);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // tcg-kp-AIKCertificate, 2.23.133.8.3.
        let usage = vec![0x30, 0x07, 0x06, 0x05, 0x67, 0x81, 0x05, 0x08, 0x03];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 37], usage)];
        let certificate = params.signed_by(&EkKey(point.clone()), &self.issuer);
        certificate.unwrap().pem()
    }

    /// An EK certificate over a TPM's EK.
    pub(crate) fn certify(&self, ek_public: &[u8]) -> Vec<u8> {
        let public = Public::parse(ek_public).unwrap();
        let Some(PublicKey::Ec {
            curve: Curve::P256,
            point,
        }) = public.key()
        else {
            panic!("the EK is not on P-256");
        };
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        // tcg-kp-EKCertificate, 2.23.133.8.1, as extended key usage.
        let usage = vec![0x30, 0x07, 0x06, 0x05, 0x67, 0x81, 0x05, 0x08, 0x01];
        let usage = CustomExtension::from_oid_content(&[2, 5, 29, 37], usage);
        params.custom_extensions = vec![usage];
        let certificate = params.signed_by(&EkKey(point.clone()), &self.issuer);
        certificate.unwrap().der().to_vec()
    }
}

/// A collector, its approver, and a maker it trusts.
pub(crate) struct Stand {
    pub(crate) dir: TempDir,
    pub(crate) maker: Maker,
    made: Made,
    config: Config,
    pub(crate) running: Option<Running>,
    version: u64,
    previous: Option<Sha256Digest>,
    /// `profile.toml` of the next policy.
    pub(crate) profile: String,
    /// `guest-profile.toml` of the next policy, if there is to be one.
    pub(crate) guest_profile: Option<String>,
}

impl Stand {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let maker = Maker::new("maker");
        std::fs::write(dir.path().join("ek-roots.pem"), &maker.root).unwrap();
        let key = dir.path().join("approver");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .status();
        assert!(made.unwrap().success());
        let public = std::fs::read_to_string(dir.path().join("approver.pub")).unwrap();
        std::fs::write(dir.path().join("allowed"), format!("alice {public}")).unwrap();
        let plan = Plan {
            dir: dir.path().join("state"),
            deployment: DeploymentId::new("demo").unwrap(),
            names: vec!["127.0.0.1".into()],
            operator: NodeId::new("first").unwrap(),
            log_origin: "log.example/demo".into(),
            lease_key_id: "lease-1".into(),
        };
        let made = init::init(&plan, clock::now()).unwrap();
        let text = format!(
            "state_dir = {:?}\n[listen]\nenroll = \"127.0.0.1:0\"\nevidence = \"127.0.0.1:0\"\nquery = \"127.0.0.1:0\"\n[policy]\napprovers = {:?}\nthreshold = 1\n[enroll]\nek_roots = [{:?}]\n",
            plan.dir,
            dir.path().join("allowed"),
            dir.path().join("ek-roots.pem"),
        );
        let config = Config::parse(Path::new("test"), &text).unwrap();
        let mut stand = Self {
            dir,
            maker,
            made,
            config,
            running: None,
            version: 0,
            previous: None,
            profile: PROFILE.to_owned(),
            guest_profile: None,
        };
        stand.start().await;
        stand
    }

    /// Device makers whose IAK certificates count, from the next start on.
    pub(crate) fn trust_devices_of(&mut self, maker: &Maker) {
        let path = self.dir.path().join("iak-roots.pem");
        std::fs::write(&path, &maker.root).unwrap();
        self.config.enroll.iak_roots = vec![path];
    }

    /// A folder of endorsements, from the next start on.
    pub(crate) fn endorse_from(&mut self, folder: &Path) {
        self.config.endorsements.store = Some(folder.to_owned());
    }

    /// The certificates of nodes last so long, from the next start on.
    pub(crate) fn certificates_last(&mut self, seconds: u64) {
        self.config.enroll.certificate_seconds = seconds;
    }

    pub(crate) async fn start(&mut self) {
        let checked = Checked::new(self.config.clone()).unwrap();
        self.running = Some(Running::start(checked).await.unwrap());
    }

    pub(crate) async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    /// Signs and applies a policy with this inventory; the collector restarts with it.
    pub(crate) async fn apply(&mut self, inventory: &str) -> Sha256Digest {
        self.stop().await;
        let (bytes, digest) = self.sign_policy(inventory);
        let deployment = DeploymentId::new("demo").unwrap();
        let approvers = read_approvers(&self.config.policy.approvers, 1).unwrap();
        let now = clock::now();
        let director = Director::open(approvers, deployment, self.store().await, now);
        let applied = director.await.unwrap().apply(bytes, "first", now).await;
        applied.unwrap();
        self.start().await;
        digest
    }

    /// The same at a collector that runs, as an operator brings it.
    pub(crate) async fn bring(&mut self, inventory: &str) -> Sha256Digest {
        let (bytes, digest) = self.sign_policy(inventory);
        let upload: Vec<_> = chunks(Arc::new(bytes)).collect();
        let upload = tokio_stream::iter(upload);
        let applied = self.operator().await.apply_policy(upload).await;
        applied.unwrap();
        digest
    }

    /// The next version of the policy, signed: a serialized bundle, and its manifest's digest.
    fn sign_policy(&mut self, inventory: &str) -> (Vec<u8>, Sha256Digest) {
        let folder = self.dir.path().join("policy");
        std::fs::create_dir_all(&folder).unwrap();
        let study = "name = \"cardio\"\nmode = \"enforce\"\n[select]\ncgroups = [\"/studies/cardio\"]\n[allow]\njurisdictions = [\"DE\"]\n[peers]\naddresses = [\"10.9.1.0/24\"]\nattested = true\n";
        let mut files: Vec<(String, Vec<u8>)> = [
            ("studies/cardio.toml", study),
            ("host-fence.toml", "\n"),
            ("sites.toml", "\n"),
            ("inventory.toml", inventory),
            ("profile.toml", &self.profile),
            ("collector.toml", &self.made.collector_toml),
            ("world.csv", "1.0.0.0,1.0.0.255,AU\n"),
        ]
        .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))
        .into();
        if let Some(text) = &self.guest_profile {
            let name = "guest-profile.toml".to_owned();
            files.push((name, text.clone().into_bytes()));
        }
        self.version += 1;
        let deployment = DeploymentId::new("demo").unwrap();
        let draft = Draft {
            deployment: &deployment,
            kind: Kind::Policy,
            version: self.version,
            previous: self.previous,
            not_after: bailiwick_attestation::UnixTime(clock::now().millis() + 3_600_000),
            reason: "test",
        };
        let text = manifest::compose(&draft, &files.iter().cloned().collect()).unwrap();
        let path = folder.join("manifest.toml");
        std::fs::write(&path, &text).unwrap();
        drop(std::fs::remove_file(folder.join("manifest.toml.sig")));
        let signed = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", "bailiwick/demo/policy", "-f"])
            .arg(self.dir.path().join("approver"))
            .arg(&path)
            .status();
        assert!(signed.unwrap().success());
        let signature = std::fs::read(folder.join("manifest.toml.sig")).unwrap();
        let bundle = Bundle::from_files(text.into_bytes(), vec![signature], files);
        let digest = bundle.manifest_digest();
        self.previous = Some(digest);
        (v1::PolicyBundle::from(bundle).encode_to_vec(), digest)
    }

    /// The query service, as an operator reaches it.
    pub(crate) async fn operator(&self) -> QueryServiceClient<Channel> {
        let state = &self.made.state_dir;
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&self.made.ca).unwrap())
            .unwrap();
        let chain = CertificateDer::from_pem_file(state.join("operators/first.pem"));
        let key = PrivateKeyDer::from_pem_file(state.join("operators/first.key"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![chain.unwrap()], key.unwrap())
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let at = self.running.as_ref().unwrap().bound.query.to_string();
        let endpoint = Endpoint::try_from(at).unwrap();
        let channel = channel::open(&endpoint, Arc::new(tls)).await.unwrap();
        // As the client has it: a stored statement brings its logs.
        QueryServiceClient::new(channel).max_decoding_message_size(96 << 20)
    }

    /// The files of that policy, as somebody would edit them.
    pub(crate) async fn check_out(&self, policy: &Sha256Digest, folder: &Path) {
        let row = self.store().await.policy_get(policy).await.unwrap();
        let bundle = v1::PolicyBundle::decode(row.unwrap().bundle.as_slice()).unwrap();
        for file in bundle.files {
            let path = folder.join(file.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file.content).unwrap();
        }
    }

    /// A configuration for the `bailiwick` client.
    pub(crate) fn client_config(&self) -> PathBuf {
        let state = &self.made.state_dir;
        let file = self.dir.path().join("client.toml");
        let text = format!(
            "endpoint = \"https://{}\"\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
            self.running.as_ref().unwrap().bound.query,
            self.made.ca,
            state.join("operators/first.pem"),
            state.join("operators/first.key"),
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    pub(crate) async fn store(&self) -> Store {
        let state = StateDir::at(&self.made.state_dir);
        let key = state.log_key().unwrap();
        let signer =
            bailiwick_attestation::tlog::NoteSigner::from_pkcs8("log.example/demo", &key).unwrap();
        let path = state.path("collector.db");
        Store::open(&path, signer).await.unwrap().0
    }

    pub(crate) fn approvers_digest(&self) -> Sha256Digest {
        read_approvers(&self.config.policy.approvers, 1)
            .unwrap()
            .digest()
    }

    /// The log's key, as the signed policy names it.
    pub(crate) fn log_vkey(&self) -> String {
        let mut lines = self.made.collector_toml.lines();
        let vkey = lines.find_map(|line| line.strip_prefix("vkey = \""));
        vkey.unwrap().trim_end_matches('"').to_owned()
    }

    /// A machine with a TPM of its own.
    pub(crate) fn machine(&self, name: &str) -> Machine {
        self.machine_with(name, &[])
    }

    /// The same, after these tools of tpm2-tools have been at its TPM.
    pub(crate) fn machine_with(&self, name: &str, tools: &[&str]) -> Machine {
        self.machine_quoting(name, tools, &REGISTERS)
    }

    /// One whose AK somebody left in its TPM, as Azure's paravisor does.
    pub(crate) fn machine_beside_paravisor(&self, name: &str) -> Machine {
        const HANDLE: u32 = 0x8100_0003;
        let tools = [
            "tpm2_createprimary -C o -c parent.ctx",
            "tpm2_create -C parent.ctx -G rsa2048:rsassa-sha256:null -u ak.pub -r ak.priv \
             -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign",
            "tpm2_load -C parent.ctx -u ak.pub -r ak.priv -c ak.ctx",
            "tpm2_evictcontrol -C o -c ak.ctx 0x81000003",
        ];
        self.machine_as(name, &tools, &REGISTERS, Some(HANDLE))
    }

    /// The same, whose agent quotes these registers.
    pub(crate) fn machine_quoting(&self, name: &str, tools: &[&str], pcrs: &[u8]) -> Machine {
        self.machine_as(name, tools, pcrs, None)
    }

    fn machine_as(
        &self,
        name: &str,
        tools: &[&str],
        pcrs: &[u8],
        ak_handle: Option<u32>,
    ) -> Machine {
        let soft = SoftTpm::start().unwrap();
        for tool in tools {
            soft.tool(tool).unwrap();
        }
        let keys = self.dir.path().join(format!("keys-{name}"));
        std::fs::create_dir_all(&keys).unwrap();
        let tpm = open_with(&soft, &keys, pcrs, ak_handle);
        let config = self.agent_config(name, &keys);
        Machine { soft, tpm, config }
    }

    /// What the agent of a node is told of the collector that runs now.
    pub(crate) fn agent_config(&self, name: &str, state: &Path) -> AgentConfig {
        let bound = self.running.as_ref().unwrap().bound;
        let text = format!(
            "deployment = \"demo\"\nnode = \"{name}\"\nstate_dir = {state:?}\n[collector]\nenroll = \"{}\"\nevidence = \"{}\"\nca_file = {:?}\n[policy]\napprovers = {:?}\nthreshold = 1\n",
            bound.enroll, bound.evidence, self.made.ca, self.config.policy.approvers,
        );
        AgentConfig::parse(&PathBuf::from("agent.toml"), &text).unwrap()
    }

    /// The collector's CA, PEM.
    pub(crate) fn ca(&self) -> &Path {
        &self.made.ca
    }

    /// The first statement of a node that enforces `policy`.
    pub(crate) fn statement(&self, node: &str, policy: Option<Sha256Digest>) -> v1::Statement {
        v1::Statement {
            format: 1,
            deployment: "demo".into(),
            node: node.to_owned(),
            boot_id: vec![7; 16],
            wall_time_ms: clock::now().millis(),
            approvers_digest: self.approvers_digest().as_bytes().to_vec(),
            policy: policy.map(|manifest| v1::PolicyState {
                version: self.version,
                manifest_digest: manifest.as_bytes().to_vec(),
                world_digest: vec![0; 32],
                not_after_ms: 0,
            }),
            fence: Some(v1::FenceState {
                mode: v1::fence_state::Mode::Enforcing.into(),
                ..v1::FenceState::default()
            }),
            log: Some(v1::LogHead {
                size: 1,
                root: vec![6; 32],
            }),
            ..v1::Statement::default()
        }
    }

    /// The entry with an approver's signature that EK and AK are one TPM's.
    pub(crate) fn confirmed(&self, name: &str, machine: &Machine) -> String {
        let deployment = DeploymentId::new("demo").unwrap();
        let entry = format!("{}ak = \"{}\"\n", entry(name, machine), machine.ak());
        let node = inventory::Node {
            name: NodeId::new(name).unwrap(),
            ek: machine.ek(),
            ak: Some(machine.tpm.identity().ak_name.clone()),
            chassis_serial: None,
            devices: Vec::new(),
            place: None,
            jurisdiction: "DE".to_owned().try_into().unwrap(),
            addresses: Vec::new(),
            epoch: 0,
            tpm: None,
            guest: None,
            geotags_since: None,
            replaces: None,
            confirmed: None,
        };
        let at = bailiwick_attestation::UnixTime::from_secs(clock::now().secs());
        let text = inventory::confirm::text(&deployment, &node, at);
        let signature = self.sign("bailiwick/demo/inventory", text.as_bytes());
        format!(
            "{entry}[node.confirmed]\nby = \"alice\"\nat = \"{}\"\nsignature = \"\"\"\n{signature}\"\"\"\n",
            inventory::confirm::rfc3339(at)
        )
    }

    /// What `ssh-keygen -Y sign` says with the approver's key.
    pub(crate) fn sign(&self, namespace: &str, message: &[u8]) -> String {
        let file = self.dir.path().join("to-sign");
        let armored = self.dir.path().join("to-sign.sig");
        std::fs::write(&file, message).unwrap();
        drop(std::fs::remove_file(&armored));
        let signed = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
            .arg(self.dir.path().join("approver"))
            .arg(&file)
            .status();
        assert!(signed.unwrap().success());
        std::fs::read_to_string(armored).unwrap()
    }

    /// Points a machine at the ports of a collector that was started anew.
    pub(crate) fn meet(&self, machine: &mut Machine) {
        let bound = self.running.as_ref().unwrap().bound;
        machine.config.collector.enroll = bound.enroll.to_string().try_into().unwrap();
        machine.config.collector.evidence = bound.evidence.to_string().try_into().unwrap();
    }
}

/// The inventory's entry for a machine.
pub(crate) fn entry(name: &str, machine: &Machine) -> String {
    format!(
        "[[node]]\nname = \"{name}\"\nek = \"{}\"\njurisdiction = \"DE\"\n",
        machine.ek()
    )
}

/// Waits until the thread that serves it has ended and closed its connection: the TPM takes one client
/// at a time, and a tool that is started meanwhile would inherit the connection and wait for itself.
fn let_go(tpm: Tpm) {
    drop(tpm);
    let serves = || {
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
        let mut names = threads.filter_map(|it| fs::read_to_string(it.path().join("comm")).ok());
        names.any(|name| name == "tpm\n")
    };
    let begun = Instant::now();
    // Where a test has two machines, the other's goes on.
    while serves() && begun.elapsed() < Duration::from_secs(3) {
        thread::sleep(Duration::from_millis(5));
    }
}

/// The TPM as the agent opens it.
fn open(soft: &SoftTpm, keys: &Path, pcrs: &[u8]) -> Tpm {
    open_with(soft, keys, pcrs, None)
}

fn open_with(soft: &SoftTpm, keys: &Path, pcrs: &[u8], ak_handle: Option<u32>) -> Tpm {
    Tpm::open(Settings {
        tcti: Tcti::try_from(soft.tcti()).unwrap(),
        ek: EkKind::EccP256,
        ak: AkKind::EcdsaP256,
        ak_handle,
        bank: Bank::Sha256,
        pcrs: pcrs.to_vec(),
        keys: keys.to_owned(),
    })
    .unwrap()
}

/// A node's TPM and configuration.
pub(crate) struct Machine {
    pub(crate) soft: SoftTpm,
    pub(crate) tpm: Tpm,
    pub(crate) config: AgentConfig,
}

impl Machine {
    /// `TPM2_Clear`, and the agent's keys made anew.
    pub(crate) fn cleared(self) -> Self {
        let Self { soft, tpm, config } = self;
        let_go(tpm);
        soft.tool("tpm2_clear -c p").unwrap();
        let keys = config.state_dir.join("after-clear");
        std::fs::create_dir_all(&keys).unwrap();
        let tpm = open(&soft, &keys, &REGISTERS);
        Self { soft, tpm, config }
    }

    /// A power cycle, and these tools at its TPM before the agent is.
    pub(crate) fn rebooted(self, tools: &[String], pcrs: &[u8]) -> Self {
        let Self { soft, tpm, config } = self;
        let_go(tpm);
        soft.power_cycle().unwrap();
        for tool in tools {
            soft.tool(tool).unwrap();
        }
        let tpm = open(&soft, &config.state_dir, pcrs);
        Self { soft, tpm, config }
    }

    /// Another tool at its TPM, while it runs.
    pub(crate) fn extended(self, tool: &str, pcrs: &[u8]) -> Self {
        let Self { soft, tpm, config } = self;
        let_go(tpm);
        soft.tool(tool).unwrap();
        let tpm = open(&soft, &config.state_dir, pcrs);
        Self { soft, tpm, config }
    }

    /// The name of its AK, hex.
    pub(crate) fn ak(&self) -> String {
        hex::encode(&self.tpm.identity().ak_name)
    }

    pub(crate) fn ek(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.tpm.identity().ek_public])
    }

    /// What the agent would send, with an EK certificate of `maker`.
    pub(crate) async fn request(&self, maker: &Maker) -> v1::EnrollRequest {
        let hardware = enroll::Hardware::new("ABC123".into(), &[]);
        let mut request = enroll::request(&self.config, &self.tpm, hardware)
            .await
            .unwrap();
        request.ek_certificates = vec![maker.certify(&request.ek_public)];
        request
    }

    pub(crate) async fn enroller(&self) -> EnrollServiceClient<Channel> {
        let tls = tls::enrolment_config(&self.config.collector, &[]).unwrap();
        let channel = channel::open(&self.config.collector.enroll, tls).await;
        EnrollServiceClient::new(channel.unwrap())
    }

    /// Enrols; `answer` opens the sealed secret.
    pub(crate) async fn enroll_as(
        &self,
        request: v1::EnrollRequest,
        answer: &Tpm,
    ) -> Result<v1::Enrolled, Status> {
        let mut client = self.enroller().await;
        let challenge = client.begin(request).await?.into_inner();
        // A TPM that cannot open it answers with what it can make up.
        let opened = answer
            .activate(challenge.credential_blob, challenge.encrypted_secret)
            .await;
        let secret = opened.unwrap_or_else(|_error| vec![0; 32]);
        let proof = v1::EnrollProof {
            session: challenge.session,
            secret,
        };
        Ok(client.finish(proof).await?.into_inner())
    }

    pub(crate) async fn enroll(&self, maker: &Maker) -> v1::Enrolled {
        let request = self.request(maker).await;
        self.enroll_as(request, &self.tpm).await.unwrap()
    }

    /// Opens the evidence stream.
    pub(crate) async fn stream(&self, enrolled: &v1::Enrolled) -> Result<Conversation, Status> {
        let chain = enrolled
            .certificate_chain
            .iter()
            .map(|der| der.clone().into())
            .collect();
        let tls = tls::evidence_config(&self.config.collector, &[], &self.tpm, chain).unwrap();
        let channel = channel::open(&self.config.collector.evidence, tls).await;
        Conversation::open(channel.unwrap()).await
    }

    /// Quotes a statement in answer to a nonce.
    pub(crate) async fn quote(&self, statement: &[u8], nonce: Nonce) -> v1::Evidence {
        let binding = Binding::new(&Freshness::Challenged(nonce), statement);
        let quoted = self.tpm.quote(*binding.as_bytes()).await.unwrap();
        envelope(statement, nonce, quoted)
    }

    /// Quotes a statement out of reach, under the last receipt the node has.
    pub(crate) async fn quote_alone(
        &self,
        statement: &[u8],
        receipt: Option<&v1::Receipt>,
        number: u64,
    ) -> v1::Evidence {
        let receipt = receipt.map_or_else(Vec::new, v1::Receipt::encode_to_vec);
        let last_receipt = match receipt.as_slice() {
            [] => Sha256Digest([0; 32]),
            bytes => Sha256Digest::of(&[bytes]),
        };
        let freshness = Freshness::Unchallenged {
            last_receipt,
            number,
        };
        let binding = Binding::new(&freshness, statement);
        let quoted = self.tpm.quote(*binding.as_bytes()).await.unwrap();
        let mut envelope = envelope(statement, Nonce::new([0; 32]), quoted);
        let unchallenged = v1::Unchallenged {
            last_receipt: last_receipt.as_bytes().to_vec(),
            number,
            receipt,
        };
        envelope.freshness = Some(v1::evidence::Freshness::Unchallenged(unchallenged));
        envelope
    }

    /// Enrolled at the collector that runs now: an open stream, and the first statement for it.
    pub(crate) async fn joined(
        &mut self,
        stand: &Stand,
        policy: Sha256Digest,
    ) -> (Conversation, v1::Statement) {
        stand.meet(self);
        let enrolled = self.enroll(&stand.maker).await;
        let stream = self.stream(&enrolled).await.unwrap();
        let first = self.statement(stand, Some(policy));
        (stream, first)
    }

    /// The first statement of a node that enforces `policy`.
    pub(crate) fn statement(&self, stand: &Stand, policy: Option<Sha256Digest>) -> v1::Statement {
        stand.statement(self.config.node.as_str(), policy)
    }
}

fn envelope(statement: &[u8], nonce: Nonce, quoted: Quoted) -> v1::Evidence {
    let values = quoted
        .pcrs
        .into_iter()
        .map(|(index, digest)| v1::PcrValue {
            index: index.into(),
            digest,
        })
        .collect();
    v1::Evidence {
        statement: statement.to_vec(),
        freshness: Some(v1::evidence::Freshness::Nonce(nonce.as_bytes().to_vec())),
        signer: Some(v1::evidence::Signer::TpmQuote(v1::TpmQuote {
            attest: quoted.signed.attest,
            signature: quoted.signed.signature,
        })),
        pcrs: vec![v1::PcrBank {
            algorithm: 0x000b,
            values,
        }],
        logs: Vec::new(),
        quoted_boot_time_ns: quoted.boot_time_ns,
        ..v1::Evidence::default()
    }
}

/// An open stream.
pub(crate) struct Conversation {
    sender: mpsc::Sender<v1::NodeMessage>,
    answers: Streaming<v1::CollectorMessage>,
    pub(crate) client: EvidenceServiceClient<Channel>,
    /// The newest challenge.
    pub(crate) nonce: Nonce,
}

/// What came of a piece of evidence.
#[derive(Debug)]
pub(crate) enum Came {
    Accepted(v1::Accepted, Box<v1::Receipt>),
    Refused(v1::Refused),
}

impl Came {
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Accepted(..) => "accepted",
            Self::Refused(refused) => &refused.code,
        }
    }
}

impl Conversation {
    /// Opens the evidence stream of whoever this connection is of.
    pub(crate) async fn open(channel: Channel) -> Result<Self, Status> {
        let mut client = EvidenceServiceClient::new(channel);
        let (sender, messages) = mpsc::channel(8);
        let answers = client.attest(ReceiverStream::new(messages)).await?;
        let mut conversation = Self {
            sender,
            answers: answers.into_inner(),
            client,
            nonce: Nonce::new([0; 32]),
        };
        // What the collector holds, then the first challenge.
        conversation.next().await?;
        conversation.next().await?;
        Ok(conversation)
    }

    /// The next message; challenges in it are taken.
    pub(crate) async fn next(&mut self) -> Result<collector_message::Message, Status> {
        let wait = std::time::Duration::from_secs(20);
        let message = tokio::time::timeout(wait, self.answers.message()).await;
        let message = message.expect("an answer in time")?;
        let Some(message) = message.and_then(|message| message.message) else {
            return Err(Status::cancelled("the stream ended"));
        };
        let challenge = match &message {
            collector_message::Message::Challenge(challenge) => Some(challenge),
            collector_message::Message::Accepted(accepted) => accepted.next.as_ref(),
            collector_message::Message::Refused(refused) => refused.next.as_ref(),
            _ => None,
        };
        if let Some(challenge) = challenge {
            self.nonce = Nonce::from_slice(&challenge.nonce).unwrap();
        }
        Ok(message)
    }

    pub(crate) async fn send(&self, message: node_message::Message) {
        let message = v1::NodeMessage {
            message: Some(message),
        };
        self.sender.send(message).await.unwrap();
    }

    /// Sends evidence and waits for what comes of it.
    pub(crate) async fn evidence(&mut self, evidence: v1::Evidence) -> Result<Came, Status> {
        self.send(node_message::Message::Evidence(evidence)).await;
        let accepted = loop {
            match self.next().await? {
                collector_message::Message::Accepted(accepted) => break accepted,
                collector_message::Message::Refused(refused) => return Ok(Came::Refused(refused)),
                _ => {}
            }
        };
        match self.next().await? {
            collector_message::Message::Receipt(receipt) => {
                Ok(Came::Accepted(accepted, Box::new(receipt)))
            }
            other => panic!("{other:?} in place of a receipt"),
        }
    }
}
