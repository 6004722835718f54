//! One node and its collector, with everything real but the kernel's part of the fence: TPM,
//! enrolment, TLS, signatures, spool, receipts, leases. The collector is a process, so that it can
//! be killed; the node runs in the test.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bailiwick_agent::config::Config;
use bailiwick_agent::fence_service::{Core, Enforcer, Peer, Settings, serve};
use bailiwick_agent::tpm::Tpm;
use bailiwick_agent::uplink;
use bailiwick_attestation::proto::v1::{FenceEvent, FenceState, fence_state::Mode};
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest, UnixTime};
use bailiwick_policy::approvers::Approvers;
use bailiwick_policy::bundle::VerifiedBundle;
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{Draft, compose};
use bailiwick_tests::swtpm::SoftTpm;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Stands where the kernel would, and notes what it was told.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    version: u64,
    lease_end: u64,
    events: Vec<FenceEvent>,
}

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl Enforcer for Recorder {
    type Error = Never;

    fn apply_policy(&mut self, bundle: &VerifiedBundle) -> Result<(), Never> {
        self.0.lock().unwrap().version = bundle.manifest.version;
        Ok(())
    }

    fn admit(&mut self, _new: bool) {}

    fn deny_everything(&mut self) -> Result<(), Never> {
        self.0.lock().unwrap().version = 0;
        Ok(())
    }

    fn reconcile(&mut self) -> Result<(), Never> {
        Ok(())
    }

    fn set_lease_end(&mut self, boot_ns: u64) -> Result<(), Never> {
        self.0.lock().unwrap().lease_end = boot_ns;
        Ok(())
    }

    fn set_gpus_proven(&mut self, _proven: bool) -> Result<(), Self::Error> {
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
        let recorded = self.0.lock().unwrap();
        let mode = if recorded.version > 0 {
            Mode::Enforcing
        } else {
            Mode::DefaultDeny
        };
        FenceState {
            mode: mode.into(),
            lease_end_boot_ns: recorded.lease_end,
            ..FenceState::default()
        }
    }

    fn world_digest(&self) -> Option<Sha256Digest> {
        Some(Sha256Digest([7; 32]))
    }

    fn drain_events(&mut self) -> (Vec<FenceEvent>, u64) {
        (std::mem::take(&mut self.0.lock().unwrap().events), 0)
    }
}

/// A program in the folder above the one this test runs from, `target/<profile>/deps`.
fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.ancestors().nth(2).unwrap().join(name);
    assert!(
        program.exists(),
        "{} is missing: `cargo build -p bailiwick-collector`",
        program.display()
    );
    program
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

struct Scene {
    folder: tempfile::TempDir,
    ports: [u16; 3],
    soft: SoftTpm,
    collector: Option<Child>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (a, b, c) = (free(), free(), free());
        let ports = [&a, &b, &c].map(|listener| listener.local_addr().unwrap().port());
        let scene = Self {
            folder,
            ports,
            soft: SoftTpm::start().unwrap(),
            collector: None,
        };
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
                .arg(scene.path("alice")),
        );
        let key = fs::read_to_string(scene.path("alice.pub")).unwrap();
        fs::write(scene.path("allowed"), format!("alice {key}")).unwrap();
        succeed(
            Command::new(program("bailiwick-collector"))
                .args([
                    "init",
                    "--deployment",
                    "demo",
                    "--name",
                    "127.0.0.1",
                    "--dir",
                ])
                .arg(scene.path("collector")),
        );
        scene.configure(24 * 3600);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, certificate_seconds: u32) {
        let [enroll, evidence, query] = self.ports;
        let state = self.path("collector");
        let allowed = self.path("allowed");
        fs::write(
            self.path("collector.toml"),
            format!(
                "state_dir = {state:?}\n[listen]\nenroll = \"127.0.0.1:{enroll}\"\n\
                 evidence = \"127.0.0.1:{evidence}\"\nquery = \"127.0.0.1:{query}\"\n\
                 [policy]\napprovers = {allowed:?}\nthreshold = 1\n\
                 [enroll]\ncertificate_seconds = {certificate_seconds}\n"
            ),
        )
        .unwrap();
        fs::write(
            self.path("client.toml"),
            format!(
                "endpoint = \"https://127.0.0.1:{query}\"\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
                state.join("ca.pem"),
                state.join("operators/operator.pem"),
                state.join("operators/operator.key"),
            ),
        )
        .unwrap();
        let nothing = self.path("nothing");
        fs::create_dir_all(nothing.join("sys/kernel/random")).unwrap();
        fs::copy(
            "/proc/sys/kernel/random/boot_id",
            nothing.join("sys/kernel/random/boot_id"),
        )
        .unwrap();
        fs::write(
            self.path("agent.toml"),
            format!(
                "deployment = \"demo\"\nnode = \"gpu-01\"\nstate_dir = {:?}\n\
                 [collector]\nenroll = \"127.0.0.1:{enroll}\"\n\
                 evidence = \"127.0.0.1:{evidence}\"\nca_file = {:?}\n\
                 [tpm]\ntcti = \"{}\"\npcrs = [0, 1, 2]\n\
                 [policy]\napprovers = {allowed:?}\nthreshold = 1\n\
                 [fence]\nroot = \"/x\"\nwhole_host = false\nsocket = {:?}\n\
                 [evidence]\ninterval_s = 1\n[host]\nproc = {nothing:?}\nsys = {nothing:?}\n",
                self.path("node"),
                state.join("ca.pem"),
                self.soft.tcti(),
                self.path("run/fence.sock"),
            ),
        )
        .unwrap();
    }

    fn start_collector(&mut self) {
        let log = fs::File::create(self.path("collector.log")).unwrap();
        let child = Command::new(program("bailiwick-collector"))
            .args(["run", "--config"])
            .arg(self.path("collector.toml"))
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        self.collector = Some(child);
        wait("the collector answers", 20, || {
            self.client(&["nodes"]).is_some()
        });
    }

    /// SIGKILL: nothing is said goodbye to.
    fn kill_collector(&mut self) {
        if let Some(mut child) = self.collector.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn client(&self, words: &[&str]) -> Option<Value> {
        let output = Command::new(program("bailiwick"))
            .args(words)
            .args(["--output", "json", "--config"])
            .arg(self.path("client.toml"))
            .stderr(Stdio::null())
            .output()
            .unwrap();
        // A node that is not trusted gives 3, with the listing on standard output.
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The one node, as the collector lists it.
    fn node(&self) -> Option<Value> {
        let listing = self.client(&["nodes"])?;
        let rows = listing
            .as_array()
            .or_else(|| listing.get("nodes")?.as_array())?;
        assert!(rows.len() <= 1, "{listing}");
        rows.first().cloned()
    }

    fn statements(&self) -> u64 {
        let node = self.node();
        node.and_then(|node| node.get("statements")?.as_u64())
            .unwrap_or(0)
    }

    /// Signs a policy that lists this TPM and brings it to the collector.
    fn apply_policy(
        &self,
        ek: &Sha256Digest,
        version: u64,
        previous: Option<Sha256Digest>,
    ) -> Sha256Digest {
        let keys = self.collector_toml();
        let inventory = format!(
            "[[node]]\nname = \"gpu-01\"\nek = \"{ek}\"\nplace = \"row {version}\"\n\
             jurisdiction = \"DE\"\n"
        );
        let study = "name = \"cardio\"\nmode = \"enforce\"\n[select]\n\
                     cgroups = [\"/studies/cardio\"]\n[allow]\njurisdictions = [\"DE\"]\n";
        let profile = "name = \"p\"\nlease_seconds = 60\nmax_silence_seconds = 60\n[tpm]\n\
                       bank = \"sha256\"\nrequire = [0]\n";
        let files: BTreeMap<String, Vec<u8>> = [
            ("studies/cardio.toml", study),
            ("host-fence.toml", ""),
            ("sites.toml", ""),
            ("inventory.toml", inventory.as_str()),
            ("collector.toml", keys.as_str()),
            ("profile.toml", profile),
            ("world.csv", ""),
        ]
        .into_iter()
        .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))
        .collect();
        let manifest = compose(
            &Draft {
                deployment: &DeploymentId::new("demo").unwrap(),
                kind: Kind::Policy,
                version,
                previous,
                not_after: UnixTime::from_secs(4_000_000_000),
                reason: "a test",
            },
            &files,
        )
        .unwrap();
        let folder = self.path(&format!("policy-{version}"));
        fs::create_dir_all(folder.join("studies")).unwrap();
        for (path, content) in &files {
            fs::write(folder.join(path), content).unwrap();
        }
        let file = folder.join("manifest.toml");
        fs::write(&file, &manifest).unwrap();
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-Y", "sign", "-n", "bailiwick/demo/policy", "-f"])
                .arg(self.path("alice"))
                .arg(&file),
        );
        succeed(
            Command::new(program("bailiwick"))
                .args(["policy", "apply", "--config"])
                .arg(self.path("client.toml"))
                .arg(&folder),
        );
        Sha256Digest::of(&[manifest.as_bytes()])
    }

    /// Approvers want the keys of a study gone.
    fn erase(&self, study: &str) {
        let text = format!("study = \"{study}\"\nreason = \"consent withdrawn\"\n");
        let files = BTreeMap::from([("erasure.toml".to_owned(), text.into_bytes())]);
        let deployment = DeploymentId::new("demo").unwrap();
        let draft = Draft {
            deployment: &deployment,
            kind: Kind::Erasure,
            version: 1,
            previous: None,
            not_after: UnixTime::from_secs(4_000_000_000),
            reason: "a test",
        };
        let folder = self.path("erasure");
        fs::create_dir_all(&folder).unwrap();
        for (path, content) in &files {
            fs::write(folder.join(path), content).unwrap();
        }
        let file = folder.join("manifest.toml");
        fs::write(&file, compose(&draft, &files).unwrap()).unwrap();
        succeed(
            Command::new("ssh-keygen")
                .args(["-q", "-Y", "sign", "-n", "bailiwick/demo/erasure", "-f"])
                .arg(self.path("alice"))
                .arg(&file),
        );
        succeed(
            Command::new(program("bailiwick"))
                .args(["policy", "apply", "--config"])
                .arg(self.path("client.toml"))
                .arg(&folder),
        );
    }

    fn collector_toml(&self) -> String {
        let dir = bailiwick_collector::init::StateDir::at(&self.path("collector"));
        dir.collector_toml(&dir.identity().unwrap()).unwrap()
    }

    fn kept_bytes(&self) -> u64 {
        let dir = self.path("node/spool/statements");
        fs::read_dir(dir)
            .unwrap()
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.kill_collector();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("collector.log")).unwrap_or_default();
            eprintln!("collector.log:\n{log}");
        }
    }
}

/// The node's two halves, in this process.
struct Node {
    stop: CancellationToken,
    fence: JoinHandle<()>,
    run: JoinHandle<()>,
    ek: Sha256Digest,
}

impl Node {
    fn start(scene: &Scene, recorder: &Recorder) -> Self {
        let config = Arc::new(Config::read(&scene.path("agent.toml")).unwrap());
        let allowed = fs::read(scene.path("allowed")).unwrap();
        let approvers = || Approvers::parse("allowed", &allowed, 1).unwrap();
        let stop = CancellationToken::new();
        let core = Core::new(
            recorder.clone(),
            Settings {
                deployment: config.deployment.clone(),
                approvers: approvers(),
                state_dir: config.state_dir.clone(),
                node: NodeId::new("gpu-01").unwrap(),
                boot_id: [1; 16],
            },
        );
        let (socket, stopping) = (config.fence.socket.clone(), stop.clone());
        let fence = tokio::spawn(async move { serve(core, &socket, stopping).await.unwrap() });
        let tpm = Tpm::open(config.tpm_settings()).unwrap();
        let ek = Sha256Digest::of(&[&tpm.identity().ek_public]);
        let (digest, stopping) = (approvers().digest(), stop.clone());
        let run =
            tokio::spawn(async move { uplink::run(config, tpm, digest, stopping).await.unwrap() });
        Self {
            stop,
            fence,
            run,
            ek,
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.run.await.unwrap();
        self.fence.await.unwrap();
    }
}

fn wait(what: &str, seconds: u64, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {seconds} s");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn verdict(node: Option<Value>) -> String {
    let verdict = node.and_then(|node| Some(node.get("verdict")?.as_str()?.to_owned()));
    verdict.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_outlives_its_collector_and_loses_nothing() {
    let mut scene = Scene::new();
    let recorder = Recorder::default();
    // The collector is not there at the start: history is made and kept.
    let node = Node::start(&scene, &recorder);
    tokio::task::block_in_place(|| {
        wait("statements made out of reach", 20, || {
            scene.path("node/spool/statements").exists() && scene.kept_bytes() > 4000
        });
        scene.start_collector();
        assert_eq!(
            scene.node(),
            None,
            "no EK certificate and not listed: nobody's node"
        );
        assert_eq!(
            recorder.0.lock().unwrap().lease_end,
            0,
            "no standing while pending"
        );

        scene.apply_policy(&node.ek, 1, None);
        wait("enrolled, and policy in the fence", 90, || {
            recorder.0.lock().unwrap().version == 1
        });
        wait("affirming", 30, || verdict(scene.node()) == "affirming");
        wait("a lease", 30, || recorder.0.lock().unwrap().lease_end > 0);
        wait("an outward certificate", 30, || {
            scene.path("node/outward/certificate.pem").exists()
        });
        wait("receipts empty the spool", 30, || scene.kept_bytes() < 4000);

        recorder.0.lock().unwrap().events.push(FenceEvent {
            study: "cardio".to_owned(),
            verdict: "deny".to_owned(),
            cgroup: "/studies/cardio/user-jane".to_owned(),
            destination: vec![203, 0, 113, 9],
            ..FenceEvent::default()
        });
        wait("a denial arrives", 20, || {
            let events = scene.client(&["events"]);
            events.is_some_and(|events| events.to_string().contains("cardio"))
        });
        // What is personal in it is sealed, and opens for whoever asks for it by name.
        let public = scene.client(&["events", "--all"]).unwrap().to_string();
        assert!(
            !public.contains("jane") && !public.contains("203.0.113.9"),
            "{public}"
        );
        let private = scene.client(&["events", "--private"]).unwrap().to_string();
        assert!(
            private.contains("user-jane") && private.contains("203.0.113.9"),
            "{private}"
        );
        let keys = scene.client(&["keys", "sealed"]).unwrap().to_string();
        assert!(keys.contains("cardio"), "{keys}");
        let record = fs::read(scene.path("collector/collector.db-wal")).unwrap();
        assert!(
            !record.windows(9).any(|w| w == b"user-jane"),
            "not in the record"
        );

        // Approvers say so, and it is gone: here, on the node, and in every copy of the record.
        scene.erase("cardio");
        wait("the collector's key is destroyed", 30, || {
            let private = scene.client(&["events", "--private"]);
            private.is_some_and(|private| private.to_string().contains("(erased)"))
        });
        wait("the node's key is destroyed", 60, || {
            let all = scene.client(&["events", "--all"]);
            all.is_some_and(|all| all.to_string().contains("1 keys erased"))
        });
        let private = scene.client(&["events", "--private"]).unwrap().to_string();
        assert!(!private.contains("jane"), "{private}");
        // A statement that names a log with the entry in it comes after the entry.
        wait("its proof stays", 30, || {
            let private = scene.client(&["events", "--private"]);
            private.is_some_and(|private| private.to_string().contains("\"proven\":true"))
        });

        // Killed in the middle, and back: what was made meanwhile arrives too.
        let before = scene.statements();
        scene.kill_collector();
        std::thread::sleep(Duration::from_secs(4));
        scene.start_collector();
        wait("statements go on", 60, || scene.statements() > before + 4);
        wait("affirming again", 30, || {
            verdict(scene.node()) == "affirming"
        });
        wait("receipts empty the spool again", 30, || {
            scene.kept_bytes() < 4000
        });
        let alerts = scene.client(&["alerts"]).unwrap().to_string();
        assert!(!alerts.contains("BailiwickSpoolGap"), "{alerts}");
    });
    node.stop().await;

    // Restarted: the same node, the next number, no gap.
    let before = scene.statements();
    let node = Node::start(&scene, &recorder);
    tokio::task::block_in_place(|| {
        wait("statements after a restart", 60, || {
            scene.statements() > before + 1
        });
        let alerts = scene.client(&["alerts"]).unwrap().to_string();
        assert!(!alerts.contains("BailiwickSpoolGap"), "{alerts}");
        assert_eq!(verdict(scene.node()), "affirming");
    });
    node.stop().await;

    // Its disk set back to an older state: numbers that were used already are never used again
    // for something else, and the gap is said aloud.
    let (node_dir, backup) = (scene.path("node"), scene.path("backup"));
    let copy = |from: &PathBuf, to: &PathBuf| {
        succeed(Command::new("cp").arg("-a").arg(from).arg(to));
    };
    copy(&node_dir, &backup);
    let before = scene.statements();
    let node = Node::start(&scene, &recorder);
    tokio::task::block_in_place(|| {
        wait("statements after the backup", 60, || {
            scene.statements() > before + 2
        });
    });
    node.stop().await;
    fs::remove_dir_all(&node_dir).unwrap();
    copy(&backup, &node_dir);
    let before = scene.statements();
    let node = Node::start(&scene, &recorder);
    tokio::task::block_in_place(|| {
        wait("a new epoch", 60, || scene.statements() > before + 2);
        wait("the gap is an alert", 30, || {
            let alerts = scene.client(&["alerts", "--all"]).unwrap().to_string();
            alerts.contains("BailiwickSpoolGap")
        });
    });
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_it_ends() {
    let mut scene = Scene::new();
    scene.configure(10);
    let recorder = Recorder::default();
    scene.start_collector();
    let node = Node::start(&scene, &recorder);
    tokio::task::block_in_place(|| {
        scene.apply_policy(&node.ek, 1, None);
        let enrolments = || {
            let log = fs::read_to_string(scene.path("collector.log")).unwrap();
            log.matches("\"message\":\"enrolled\"").count()
        };
        wait("three enrolments", 60, || enrolments() >= 3);
        let before = scene.statements();
        wait("statements go on", 30, || scene.statements() > before + 1);
        let log = fs::read_to_string(scene.path("collector.log")).unwrap();
        assert!(!log.contains("certificate-expired"), "renewed in time");
        wait("affirming", 30, || verdict(scene.node()) == "affirming");
    });
    node.stop().await;
}
