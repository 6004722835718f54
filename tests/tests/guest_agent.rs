//! The real agent in a guest without a TPM: `bailiwick-agent run` with `signer = "tee"`, a kernel made of
//! pipes whose processor is the test's, and a fence that notes what it is told.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod chip;
mod client;
mod stand;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bailiwick_agent::fence_service::{Core, Enforcer, Peer, Settings, serve};
use bailiwick_agent::spool::Spool;
use bailiwick_attestation::appraisal::VerifiedEvidence;
use bailiwick_attestation::evidence::{Freshness, GuestSigner};
use bailiwick_attestation::proto::v1::{self, FenceEvent, FenceState, fence_state::Mode};
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest};
use bailiwick_policy::approvers::Approvers;
use bailiwick_policy::bundle::VerifiedBundle;
use chip::{Chip, Kernel};
use client::client;
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use stand::Stand;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A program of this build.
fn built(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.ancestors().nth(2).unwrap().join(name);
    let missing = "is missing: `cargo build -p bailiwick-agent --bins`";
    assert!(program.exists(), "{} {missing}", program.display());
    program
}

fn wait(what: &str, seconds: u64, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {seconds} s");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A guest's disk and memory.
struct Scene {
    disk: TempDir,
    memory: TempDir,
    chip: Chip,
    /// Who the collector is: `[collector]`, and the approvers' file.
    collector: String,
    allowed: PathBuf,
}

/// An agent that runs, and the kernel it asks: one for each, for a pipe that was left half read would
/// make the next one wait.
struct Agent {
    child: Child,
    _kernel: Option<Kernel>,
}

impl Scene {
    fn new() -> Self {
        let disk = tempfile::tempdir().unwrap();
        // A port that nobody listens on any more.
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = nobody.local_addr().unwrap().port();
        let pin = "0".repeat(64);
        let scene = Self {
            allowed: disk.path().join("allowed"),
            disk,
            memory: tempfile::tempdir_in("/dev/shm").unwrap(),
            chip: Chip::new(),
            collector: format!(
                "enroll = \"127.0.0.1:{port}\"\nevidence = \"127.0.0.1:{port}\"\nspki_pin = \"{pin}\"\n"
            ),
        };
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
            .arg(scene.path("alice"))
            .status();
        assert!(made.unwrap().success());
        let key = fs::read_to_string(scene.path("alice.pub")).unwrap();
        fs::write(scene.path("allowed"), format!("alice {key}")).unwrap();
        fs::create_dir_all(scene.path("host/sys/kernel/random")).unwrap();
        scene.boot(1);
        scene
    }

    /// From here on this is its collector, and these are its approvers.
    fn meets(&mut self, stand: &Stand) {
        let bound = stand.running.as_ref().unwrap().bound;
        self.allowed = stand.dir.path().join("allowed");
        self.collector = format!(
            "enroll = \"{}\"\nevidence = \"{}\"\nca_file = {:?}\n",
            bound.enroll,
            bound.evidence,
            stand.dir.path().join("state/ca.pem")
        );
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    fn key(&self) -> PathBuf {
        self.memory.path().join("run/guest-key")
    }

    /// The kernel draws another boot id.
    fn boot(&self, number: u8) {
        let id = format!("{number:08x}-0000-4000-8000-000000000000\n");
        fs::write(self.path("host/sys/kernel/random/boot_id"), id).unwrap();
    }

    fn configure(&self, reports: &Path) -> PathBuf {
        let host = self.path("host");
        let text = format!(
            "deployment = \"demo\"\nnode = \"guest-01\"\nsigner = \"tee\"\nstate_dir = {state:?}\n\
             [collector]\n{collector}[policy]\napprovers = {allowed:?}\nthreshold = 1\n\
             [fence]\nroot = \"/x\"\nwhole_host = false\nsocket = {socket:?}\nlog = {log:?}\n\
             [evidence]\ninterval_s = 1\n[host]\nproc = {host:?}\nsys = {host:?}\n\
             [tee]\nreports = {reports:?}\ndevice = {none:?}\nkey = {key:?}\n",
            state = self.path("state"),
            collector = self.collector,
            allowed = self.allowed,
            socket = self.path("run/fence.sock"),
            log = self.path("fence.log"),
            none = self.path("none"),
            key = self.key(),
        );
        let config = self.path("agent.toml");
        fs::write(&config, text).unwrap();
        config
    }

    fn start(&self) -> Agent {
        let kernel = Kernel::start(self.chip.clone());
        let config = self.configure(&kernel.root);
        self.started(&config, Some(kernel))
    }

    fn started(&self, config: &Path, kernel: Option<Kernel>) -> Agent {
        let log = fs::File::create(self.path("agent.log")).unwrap();
        let child = Command::new(built("bailiwick-agent"))
            .args(["run", "--config"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Agent {
            child,
            _kernel: kernel,
        }
    }

    fn say(&self, words: &[&str]) -> Output {
        let kernel = Kernel::start(self.chip.clone());
        let config = self.configure(&kernel.root);
        Command::new(built("bailiwick-agent"))
            .args(words)
            .arg("--config")
            .arg(config)
            .output()
            .unwrap()
    }

    /// What the spool keeps, oldest first; nobody else has it open.
    fn kept(&self) -> Vec<v1::Evidence> {
        let (spool, _) = Spool::open(&self.path("state/spool/statements"), 256 << 20).unwrap();
        let indices: Vec<u64> = spool.kept().collect();
        let read = |index| spool.read(index).unwrap().unwrap();
        let decode = |record: Vec<u8>| v1::Evidence::decode(record.as_slice()).unwrap();
        indices.into_iter().map(read).map(decode).collect()
    }

    fn kept_bytes(&self) -> u64 {
        let files = fs::read_dir(self.path("state/spool/statements"));
        let files = files.into_iter().flatten().flatten();
        files
            .filter_map(|file| Some(file.metadata().ok()?.len()))
            .sum()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("agent.log:\n{}", self.log());
        }
    }
}

impl Agent {
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The statement, if the collector's check takes it as this key's.
fn verified(evidence: &v1::Evidence) -> v1::Statement {
    let statement = v1::Statement::decode(evidence.statement.as_slice()).unwrap();
    let Some(v1::evidence::Freshness::Unchallenged(said)) = &evidence.freshness else {
        panic!("{:?}", evidence.freshness);
    };
    let freshness = Freshness::Unchallenged {
        last_receipt: Sha256Digest::from_slice(&said.last_receipt).unwrap(),
        number: said.number,
    };
    let key = GuestSigner {
        key: Sha256Digest::from_slice(&statement.guest_key).unwrap(),
        instance: None,
    };
    VerifiedEvidence::verify(evidence, &key, &freshness).unwrap();
    statement
}

#[test]
fn a_guests_agent_attests_with_its_key_and_no_tpm() {
    let scene = Scene::new();
    let mut statements: Vec<v1::Statement> = Vec::new();
    // A start, a restart, another boot: history is made and kept, for there is no collector.
    for boot in [1, 1, 2] {
        scene.boot(boot);
        let before = scene.kept_bytes();
        let agent = scene.start();
        wait("statements", 30, || scene.kept_bytes() > before + 4000);
        agent.stop();
        let kept = scene.kept();
        assert!(kept.len() > statements.len());
        statements = kept.iter().map(verified).collect();
    }
    let mode = fs::metadata(scene.key()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let keys: BTreeSet<(&[u8], &[u8])> = statements
        .iter()
        .map(|statement| (statement.boot_id.as_slice(), statement.guest_key.as_slice()))
        .collect();
    assert_eq!(keys.len(), 2, "one key for each boot, and each its own");
    for (at, (statement, before)) in statements.iter().skip(1).zip(&statements).enumerate() {
        assert_eq!(statement.sequence, before.sequence + 1, "{at}");
    }
    let last = statements.last().unwrap();
    let claim = |name: &str| {
        let mut found = last.claims.iter().filter(|claim| claim.name == name);
        found.next().and_then(|claim| claim.value.clone())
    };
    let Some(v1::claim::Value::Unavailable(why)) = claim("manifest.floor") else {
        panic!("{:?}", claim("manifest.floor"));
    };
    assert!(why.starts_with("there is no TPM"), "{why}");
    // Nothing of the key is on the disk.
    let key = fs::read(scene.key()).unwrap();
    let scalar = &key[21..53];
    let mut folders = vec![scene.path("state")];
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).unwrap().flatten() {
            match file.file_type().unwrap().is_dir() {
                true => folders.push(file.path()),
                false => {
                    let bytes = fs::read(file.path()).unwrap();
                    let found = bytes.windows(scalar.len()).any(|window| window == scalar);
                    assert!(!found, "{}", file.path().display());
                }
            }
        }
    }
}

/// There is nothing to say without a signature, and nothing is gained by asking at every turn.
#[test]
fn a_processor_that_does_not_sign_is_asked_again_later_each_time() {
    let scene = Scene::new();
    let config = scene.configure(&scene.path("none"));
    let agent = scene.started(&config, None);
    let asked = || scene.log().matches("the processor does not sign").count();
    wait("asked three times", 30, || asked() >= 3);
    // A second, two, four, eight, each a half shorter at most.
    std::thread::sleep(Duration::from_secs(2));
    assert!(asked() <= 4, "{}", asked());
    agent.stop();
    let log = fs::read_to_string(scene.path("agent.log")).unwrap();
    assert!(
        log.contains("tee-absent") && log.contains("refused=false"),
        "{log}"
    );
    assert_eq!(scene.kept().len(), 0);
}

#[test]
fn what_is_asked_of_a_guests_agent_by_hand_says_what_it_is() {
    let scene = Scene::new();
    let said = scene.say(&["check"]);
    let lines = String::from_utf8(said.stdout).unwrap();
    let measurement = "06".repeat(48);
    let want = format!("ok    processor: sev-snp, measurement {measurement}, ");
    assert!(lines.lines().any(|line| line.starts_with(&want)), "{lines}");
    // What names the chip is no affair of whoever reads this.
    assert!(!lines.contains(&"07".repeat(64)), "{lines}");
    assert!(!scene.key().exists(), "no key was drawn for it");
    assert!(!lines.contains("  tpm:"), "{lines}");

    let printed = scene.say(&["config", "print"]);
    assert!(printed.status.success(), "{printed:?}");
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(
        text.contains("signer = \"tee\"") && !text.contains("[tpm]"),
        "{text}"
    );

    let refused = scene.say(&["geotag", "show"]);
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && why.contains("a geotag lies in a TPM"),
        "{why}"
    );
}

/// A key that could be read from a disk, or that others may have put there, is none.
#[test]
fn an_agent_whose_key_would_lie_on_a_disk_does_not_start() {
    let scene = Scene::new();
    fs::create_dir(scene.key().parent().unwrap()).unwrap();
    let anybody = fs::Permissions::from_mode(0o777);
    fs::set_permissions(scene.key().parent().unwrap(), anybody).unwrap();
    for command in ["run", "check"] {
        let said = scene.say(&[command]);
        assert!(!said.status.success(), "{said:?}");
        let said = String::from_utf8([said.stdout, said.stderr].concat()).unwrap();
        assert!(
            said.contains("is not this user's alone to write to"),
            "{said}"
        );
    }
    assert!(!scene.key().exists());
}

/// Stands where the kernel would, and notes what it was told.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<(u64, u64)>>);

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl Recorder {
    /// Version of the policy in force, and when the lease ends.
    fn told(&self) -> (u64, u64) {
        *self.0.lock().unwrap()
    }
}

impl Enforcer for Recorder {
    type Error = Never;

    fn apply_policy(&mut self, bundle: &VerifiedBundle) -> Result<(), Never> {
        self.0.lock().unwrap().0 = bundle.manifest.version;
        Ok(())
    }

    fn admit(&mut self, _new: bool) {}

    fn deny_everything(&mut self) -> Result<(), Never> {
        self.0.lock().unwrap().0 = 0;
        Ok(())
    }

    fn reconcile(&mut self) -> Result<(), Never> {
        Ok(())
    }

    fn set_lease_end(&mut self, boot_ns: u64) -> Result<(), Never> {
        self.0.lock().unwrap().1 = boot_ns;
        Ok(())
    }

    fn set_gpus_proven(&mut self, _proven: bool) -> Result<(), Never> {
        Ok(())
    }

    fn set_peers(&mut self, _peers: Vec<Peer>) -> Result<(), Never> {
        Ok(())
    }

    fn set_break_glass(
        &mut self,
        _ends: BTreeMap<String, u64>,
        _uses: &BTreeMap<Sha256Digest, u64>,
    ) -> Result<(), Never> {
        Ok(())
    }

    fn state(&mut self) -> FenceState {
        let (version, lease_end_boot_ns) = self.told();
        let mode = match version {
            0 => Mode::DefaultDeny,
            _ => Mode::Enforcing,
        };
        FenceState {
            mode: mode.into(),
            lease_end_boot_ns,
            ..FenceState::default()
        }
    }

    fn world_digest(&self) -> Option<Sha256Digest> {
        Some(Sha256Digest([7; 32]))
    }

    fn drain_events(&mut self) -> (Vec<FenceEvent>, u64) {
        (Vec::new(), 0)
    }
}

/// The one node, as the client lists it.
async fn listed(stand: &Stand) -> Option<Value> {
    let config = stand.client_config();
    let output = client(&["nodes", "--output", "json"], Some(&config)).await;
    let listing: Value = serde_json::from_slice(&output.stdout).ok()?;
    let rows = listing
        .as_array()
        .or_else(|| listing.get("nodes")?.as_array());
    rows?.first().cloned()
}

/// Chip and launch are listed, and the chip's maker is the operator's to name.
async fn listing_collector(chip: &Chip, scratch: &Path) -> Stand {
    let mut stand = Stand::new().await;
    let (root, chain) = (scratch.join("root.der"), scratch.join("chain.pem"));
    fs::write(&root, &chip.root).unwrap();
    fs::write(&chain, &chip.chain).unwrap();
    let store = scratch.join("store");
    let files = [&root, &chain].map(|file| file.to_str().unwrap());
    let store_words = ["--store", store.to_str().unwrap(), "--output", "json"];
    let words = [&["endorsements", "import"][..], &files, &store_words].concat();
    let imported = client(&words, None).await;
    assert_eq!(imported.status.code(), Some(0), "{imported:?}");
    stand.endorse_from(&store);
    let (digest, measurement) = (Sha256Digest::of(&[&chip.root]), "06".repeat(48));
    stand.profile = format!(
        "name = \"test\"\nlease_seconds = 300\nmax_silence_seconds = 180\n\
         [tpm]\nbank = \"sha256\"\nrequire = []\n[cvm]\nrevocation = false\n\
         listed = true\nroots = [\"{digest}\"]\n[[require]]\nclaim = \"cvm.measurement\"\n\
         is = \"{measurement}\"\nprovenance = \"self-reported\"\n"
    );
    stand
}

/// The inventory's entry for this guest, on the chip whose identifier is this byte again and again.
fn listing(chip: &str) -> String {
    format!(
        "[[guest]]\nname = \"guest-01\"\nchips = [\"SNP-{}\"]\nmeasurement = \"{}\"\n\
         jurisdiction = \"DE\"\n",
        chip.repeat(64),
        "06".repeat(48)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_another_than_listed_is_told_so_and_never_enrols() {
    let mut scene = Scene::new();
    let mut stand = listing_collector(&scene.chip, scene.disk.path()).await;
    stand.apply(&listing("08")).await;
    scene.meets(&stand);
    let agent = scene.start();
    tokio::task::block_in_place(|| {
        wait("a refusal", 30, || scene.log().contains("not enrolled"));
    });
    assert!(scene.log().contains("refused: guest-chip: "));
    assert!(!scene.path("state/enrolment").exists());
    let node = listed(&stand).await.unwrap();
    assert_eq!(node["state"], "never-enrolled", "{node}");
    tokio::task::block_in_place(|| agent.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_a_tpm_enrols_attests_and_is_leased_in_each_boot() {
    let mut scene = Scene::new();
    let mut stand = listing_collector(&scene.chip, scene.disk.path()).await;
    stand.apply(&listing("07")).await;
    scene.meets(&stand);
    let recorder = Recorder::default();
    let allowed = fs::read(&scene.allowed).unwrap();
    let core = Core::new(
        recorder.clone(),
        Settings {
            deployment: DeploymentId::new("demo").unwrap(),
            approvers: Approvers::parse("allowed", &allowed, 1).unwrap(),
            state_dir: scene.path("fence"),
            node: NodeId::new("guest-01").unwrap(),
            boot_id: [1; 16],
        },
    );
    let stop = CancellationToken::new();
    let (stopping, socket) = (stop.clone(), scene.path("run/fence.sock"));
    let fence = tokio::spawn(async move { serve(core, &socket, stopping).await.unwrap() });

    let mut certificates = Vec::new();
    let mut lease_end = 0;
    // A start, a restart, and another boot.
    for boot in [1, 1, 2] {
        scene.boot(boot);
        let agent = scene.start();
        tokio::task::block_in_place(|| {
            wait("a policy, and a later lease", 60, || {
                let (version, end) = recorder.told();
                version == 1 && end > lease_end
            });
        });
        lease_end = recorder.told().1;
        let node = listed(&stand).await.unwrap();
        assert_eq!(node["verdict"], "affirming", "{node}");
        certificates.push(fs::read(scene.path("state/enrolment")).unwrap());
        tokio::task::block_in_place(|| agent.stop());
    }
    assert_eq!(
        certificates[0], certificates[1],
        "a restart enrols nobody anew"
    );
    assert_ne!(
        certificates[1], certificates[2],
        "another boot does, with its key"
    );
    stop.cancel();
    fence.await.unwrap();
}
