//! The agent as a service: what it tells its manager, with a socket of the test's own.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bailiwick_agent::fence_service::{Core, Enforcer, Peer, Settings, serve};
use bailiwick_attestation::proto::v1::{FenceEvent, FenceState, fence_state::Mode};
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest};
use bailiwick_policy::approvers::Approvers;
use bailiwick_policy::bundle::VerifiedBundle;
use bailiwick_tests::swtpm::SoftTpm;
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

/// Stands where the kernel would: this test is about what the service manager hears.
struct Denying;

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl Enforcer for Denying {
    type Error = Never;

    fn apply_policy(&mut self, _bundle: &VerifiedBundle) -> Result<(), Never> {
        Ok(())
    }

    fn admit(&mut self, _new: bool) {}

    fn deny_everything(&mut self) -> Result<(), Never> {
        Ok(())
    }

    fn reconcile(&mut self) -> Result<(), Never> {
        Ok(())
    }

    fn set_lease_end(&mut self, _boot_ns: u64) -> Result<(), Never> {
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
        FenceState {
            mode: Mode::DefaultDeny.into(),
            ..FenceState::default()
        }
    }

    fn world_digest(&self) -> Option<Sha256Digest> {
        None
    }

    fn drain_events(&mut self) -> (Vec<FenceEvent>, u64) {
        (Vec::new(), 0)
    }
}

/// `bailiwick-agent` in the folder above the one this test runs from, `target/<profile>/deps`.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.ancestors().nth(2).unwrap().join("bailiwick-agent");
    assert!(
        program.exists(),
        "{} is missing: `cargo build -p bailiwick-agent`",
        program.display()
    );
    program
}

struct Service {
    child: Child,
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Service {
    fn start(config: &Path, folder: &Path) -> Self {
        let notify = folder.join("notify");
        let socket = UnixDatagram::bind(&notify).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let child = Command::new(program())
            .args(["run", "--config"])
            .arg(config)
            .env("NOTIFY_SOCKET", &notify)
            .env("WATCHDOG_USEC", "400000")
            .env("TSS2_LOG", "all+NONE")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            socket,
            heard: Vec::new(),
        }
    }

    /// Listens until a line is heard, or for as long as told.
    fn hears(&mut self, line: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 4096];
        while !self.heard.iter().any(|heard| heard.starts_with(line)) {
            if Instant::now() > deadline {
                return false;
            }
            if let Ok(count) = self.socket.recv(&mut buffer) {
                let text = str::from_utf8(&buffer[..count]).unwrap();
                self.heard.extend(text.lines().map(ToOwned::to_owned));
            }
        }
        true
    }

    fn terminate(mut self) -> (ExitStatus, Vec<String>) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.hears("STOPPING=1", Duration::from_secs(10)));
        (self.child.wait().unwrap(), std::mem::take(&mut self.heard))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn configure(soft: &SoftTpm, folder: &Path) -> PathBuf {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(folder.join("alice"))
        .status()
        .unwrap();
    assert!(made.success());
    let key = std::fs::read_to_string(folder.join("alice.pub")).unwrap();
    std::fs::write(folder.join("allowed"), format!("alice {key}")).unwrap();
    // A port that nobody listens on any more.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = nobody.local_addr().unwrap().port();
    let config = folder.join("agent.toml");
    let text = format!(
        "deployment = \"demo\"\nnode = \"gpu-01\"\nstate_dir = {state:?}\n\
         [collector]\nenroll = \"127.0.0.1:{port}\"\nevidence = \"127.0.0.1:{port}\"\n\
         spki_pin = \"{pin}\"\n[tpm]\ntcti = \"{tcti}\"\n[policy]\napprovers = {approvers:?}\n\
         threshold = 1\n[fence]\nroot = \"/x\"\nwhole_host = false\nsocket = {socket:?}\n",
        state = folder.join("state"),
        pin = "0".repeat(64),
        tcti = soft.tcti(),
        approvers = folder.join("allowed"),
        socket = folder.join("run/fence.sock"),
    );
    std::fs::write(&config, text).unwrap();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_means_fenced_and_a_collector_out_of_reach_does_not_matter() {
    let soft = SoftTpm::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = configure(&soft, folder.path());
    let mut service = Service::start(&config, folder.path());
    assert!(service.hears("STATUS=fence out of reach", Duration::from_secs(20)));
    assert!(
        !service.hears("READY=1", Duration::from_secs(4)),
        "not without a fence: {:?}",
        service.heard
    );
    let alive = service.heard.iter().filter(|line| *line == "WATCHDOG=1");
    assert!(alive.count() >= 5, "{:?}", service.heard);

    let allowed = std::fs::read(folder.path().join("allowed")).unwrap();
    let core = Core::new(
        Denying,
        Settings {
            deployment: DeploymentId::new("demo").unwrap(),
            approvers: Approvers::parse("allowed", &allowed, 1).unwrap(),
            state_dir: folder.path().join("state"),
            node: NodeId::new("gpu-01").unwrap(),
            boot_id: [1; 16],
        },
    );
    let stop = CancellationToken::new();
    let (stopping, socket) = (stop.clone(), folder.path().join("run/fence.sock"));
    let fence = tokio::spawn(async move { serve(core, &socket, stopping).await });
    let mut service = tokio::task::spawn_blocking(move || {
        assert!(
            service.hears("READY=1", Duration::from_secs(15)),
            "fenced and retrying: {:?}",
            service.heard
        );
        service
    })
    .await
    .unwrap();
    assert!(service.hears(
        "STATUS=fence denies by default; not enrolled",
        Duration::from_secs(5)
    ));
    let (status, _) = service.terminate();
    assert!(status.success(), "{status}");
    stop.cancel();
    fence.await.unwrap().unwrap();
}
