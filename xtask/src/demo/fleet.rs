//! The programs of Bailiwick, configured and started as an operator would.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::daemon::{Daemon, tied};
use super::pager::{Pager, free_port};
use super::policy::{Approvers, DEPLOYMENT, NODE, THRESHOLD};
use super::scene::Scene;
use super::tpm::SoftTpm;
use crate::cmd::{self, step};
use crate::paths;

/// Puts a file over the kernel's boot id, in a mount namespace of its own, and becomes the rest.
const MASK_BOOT_ID: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;

/// The collector, and how to ask it.
#[derive(Debug)]
pub struct Collector {
    /// `None` while it is down.
    process: Option<Daemon>,
    state: PathBuf,
    config: PathBuf,
    /// Enrolment, evidence, queries.
    ports: [u16; 3],
    client: PathBuf,
    release: bool,
    /// Added to the daemon's environment when it starts.
    pub environment: Vec<(&'static str, String)>,
    /// What approvers sign for nodes to believe this collector.
    pub for_policy: String,
}

impl Collector {
    /// Makes its keys and writes its configuration.
    pub fn configure(
        scene: &Scene,
        approvers: &Approvers,
        pager: &Pager,
        release: bool,
    ) -> Result<Self> {
        let state = scene.path("collector");
        let program = paths::binary(release, "bailiwick-collector");
        let made = cmd::output(
            cmd::command(&program)
                .args(["init", "--deployment", DEPLOYMENT, "--name", "127.0.0.1"])
                .args(["--output", "json", "--dir"])
                .arg(&state),
        )?;
        let made: Value = serde_json::from_str(&made).context("read what init made")?;
        let word = |key: &str| {
            let value = made[key].as_str().map(str::to_owned);
            value.with_context(|| format!("init named no {key}"))
        };
        let (roots, between) = SoftTpm::maker(scene)?;
        let [enroll, evidence, query] = [free_port()?, free_port()?, free_port()?];
        let config = scene.path("collector.toml");
        let text = format!(
            r#"state_dir = {state:?}

[listen]
enroll = "127.0.0.1:{enroll}"
evidence = "127.0.0.1:{evidence}"
query = "127.0.0.1:{query}"

[enroll]
ek_roots = {roots:?}
ek_intermediates = {between:?}

[policy]
approvers = {:?}
threshold = {THRESHOLD}

[alert]
alertmanagers = ["{}"]
resend_seconds = 5
evaluate_seconds = 1
"#,
            approvers.allowed_signers(),
            pager.url(),
        );
        fs::write(&config, text).context("configure the collector")?;
        let client = scene.path("client.toml");
        let text = format!(
            "endpoint = \"https://127.0.0.1:{query}\"\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
            word("ca")?,
            word("operator_certificate")?,
            word("operator_key")?,
        );
        fs::write(&client, text).context("configure the client")?;
        let for_policy = word("collector_toml")?;
        let ports = [enroll, evidence, query];
        Ok(Self {
            process: None,
            state,
            config,
            ports,
            client,
            release,
            environment: Vec::new(),
            for_policy,
        })
    }

    /// Starts the daemon, again if need be, and waits until it listens.
    pub fn start(&mut self, scene: &Scene) -> Result<()> {
        let program = paths::binary(self.release, "bailiwick-collector");
        let mut run = tied(program);
        run.args(["run", "--config"]).arg(&self.config);
        run.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Daemon::start(scene, "collector", &mut run)?;
        let [.., query] = self.ports;
        scene.wait("the collector", Duration::from_secs(20), || {
            process.alive()?;
            TcpStream::connect((Ipv4Addr::LOCALHOST, query))
                .context("connect")
                .map(drop)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Has operators' clients accept a server certificate of any of these CAs.
    pub fn operators_trust(&self, scene: &Scene, cas: &[&Path]) -> Result<()> {
        let mut all = String::new();
        for ca in cas {
            all += &fs::read_to_string(ca).with_context(|| ca.display().to_string())?;
        }
        let file = scene.path("operators-cas.pem");
        fs::write(&file, all).context("write the operators' CAs")?;
        let text = fs::read_to_string(&self.client).context("read the client's file")?;
        let lines = text.lines().map(|line| match line.split_once(" = ") {
            Some(("ca", _)) => format!("ca = {file:?}"),
            _ => line.to_owned(),
        });
        fs::write(&self.client, lines.collect::<Vec<_>>().join("\n"))
            .context("configure the client")
    }

    /// Its state folder: keys, certificates, record.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where operators ask.
    pub fn query_address(&self) -> String {
        let [.., query] = self.ports;
        format!("127.0.0.1:{query}")
    }

    /// A copy of everything it has, as a thief would start it in its place, or whoever restores a
    /// backup: its keys, its record, its ports, and these approvers. It must not run meanwhile.
    pub fn copied(
        &self,
        scene: &Scene,
        name: &str,
        (allowed_signers, threshold): (&Path, usize),
    ) -> Result<Self> {
        let state = scene.path(name);
        cmd::run(cmd::command("cp").arg("-a").arg(&self.state).arg(&state))?;
        let honest = fs::read_to_string(&self.config).context("read the collector's file")?;
        let lines = honest.lines().map(|line| match line.split_once(" = ") {
            Some(("state_dir", _)) => format!("state_dir = {state:?}"),
            Some(("approvers", _)) => format!("approvers = {allowed_signers:?}"),
            Some(("threshold", _)) => format!("threshold = {threshold}"),
            _ => line.to_owned(),
        });
        let config = scene.path(&format!("{name}.toml"));
        fs::write(&config, lines.collect::<Vec<_>>().join("\n"))
            .context("configure a copied collector")?;
        Ok(Self {
            process: None,
            state,
            config,
            client: self.client.clone(),
            environment: Vec::new(),
            for_policy: self.for_policy.clone(),
            ..*self
        })
    }

    /// Stops it at once, whatever it is doing.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Daemon::kill)
    }

    /// The client, told where its configuration lies.
    pub fn client(&self) -> Command {
        let mut client = cmd::command(paths::binary(self.release, "bailiwick"));
        client.env("BAILIWICK_CONFIG", &self.client);
        client
    }

    /// How a person would start it.
    pub fn client_by_hand(&self) -> String {
        let program = paths::binary(self.release, "bailiwick");
        format!(
            "BAILIWICK_CONFIG={} {}",
            self.client.display(),
            program.display()
        )
    }

    /// A query's answer. That a node is not trusted is an answer too, whatever the exit code.
    pub fn ask(&self, words: &[&str]) -> Result<Value> {
        let mut client = self.client();
        client.args(words).args(["--output", "json"]);
        let out = client
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .output();
        let out = out.context("start the client")?;
        if out.stdout.is_empty() {
            bail!(
                "{}: {}",
                cmd::shown(&client),
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        serde_json::from_slice(&out.stdout).with_context(|| format!("read {}", cmd::shown(&client)))
    }

    pub fn apply(&self, bundle: &Path) -> Result<()> {
        cmd::output(self.client().args(["policy", "apply"]).arg(bundle)).map(drop)
    }

    /// Whether the newest statement of the node appraises again, without a network, and whether one
    /// bit changed in the value of a quoted register, `pcr`, is noticed.
    pub fn verifies_offline(
        &self,
        scene: &Scene,
        approvers: &Approvers,
        pcr: &[u8],
    ) -> Result<bool> {
        let file = scene.path("statement");
        cmd::output(
            self.client()
                .args(["node", "statement", NODE, "--out"])
                .arg(&file),
        )?;
        let (roots, between) = SoftTpm::maker(scene)?;
        let verify = |file: &Path| {
            let mut verify = cmd::command("unshare");
            verify
                .args(["--net", "--"])
                .arg(paths::binary(self.release, "bailiwick"))
                .arg("verify")
                .arg(file)
                .args([
                    "--threshold",
                    &THRESHOLD.to_string(),
                    "--deployment",
                    DEPLOYMENT,
                    "--approvers",
                ])
                .arg(approvers.allowed_signers());
            for (option, files) in [("--roots", &roots), ("--intermediates", &between)] {
                for file in files {
                    verify.arg(option).arg(file);
                }
            }
            verify.status().context("start the client")
        };
        let good = verify(&file)?;
        let mut bytes = fs::read(&file).context("read the stored statement")?;
        let at = bytes.windows(pcr.len()).position(|window| window == pcr);
        let at = at.context("the quoted register is not in the stored statement")?;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1;
        }
        let changed = scene.path("statement-changed");
        fs::write(&changed, bytes).context("write a changed statement")?;
        let bad = verify(&changed)?;
        step(format_args!(
            "   verify, offline: {good}; with one bit changed: {bad}"
        ));
        Ok(good.success() && bad.code() == Some(2))
    }

    pub fn alive(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Daemon::alive)
    }
}

/// One node's two processes.
#[derive(Debug)]
pub struct Node {
    config: PathBuf,
    socket: PathBuf,
    /// File with the id of the boot the machine plays.
    boot_id: PathBuf,
    /// The build of the agent that its processes are started from.
    build: PathBuf,
    /// Added to both processes' environment when they start.
    pub environment: Vec<(&'static str, String)>,
    fence: Option<Daemon>,
    agent: Option<Daemon>,
}

impl Node {
    pub fn configure(
        scene: &Scene,
        approvers: &Approvers,
        collector: &Collector,
        tpm: &SoftTpm,
        interval_seconds: u32,
    ) -> Result<Self> {
        let config = scene.path("agent.toml");
        let socket = scene.path("fence.sock");
        let [enroll, evidence, _] = collector.ports;
        let text = format!(
            r#"deployment = "{DEPLOYMENT}"
node = "{NODE}"
state_dir = {:?}

[collector]
enroll = "127.0.0.1:{enroll}"
evidence = "127.0.0.1:{evidence}"
ca_file = {:?}

[tpm]
tcti = "{}"

[policy]
approvers = {:?}
threshold = {THRESHOLD}

[fence]
root = "{}"
whole_host = false
bpffs = {:?}
socket = {socket:?}
log = {:?}

[evidence]
interval_s = {interval_seconds}
"#,
            scene.path("node"),
            collector.state.join("ca.pem"),
            tpm.tcti(),
            approvers.allowed_signers(),
            scene.fence_root(),
            scene.path("bpf").join("bailiwick"),
            scene.path("fence-pcr.log"),
        );
        fs::write(&config, text).context("configure the agent")?;
        let node = Self {
            config,
            socket,
            boot_id: scene.path("boot_id"),
            build: paths::binary(collector.release, "bailiwick-agent"),
            environment: Vec::new(),
            fence: None,
            agent: None,
        };
        node.draw_boot_id()?;
        Ok(node)
    }

    /// Gives the node GPUs under confidential computing: an ABI double of NVML, and no hardware.
    /// Before its agent starts.
    pub fn give_gpus(&self, scene: &Scene, gpus: u8) -> Result<()> {
        let mut double = cmd::command(paths::binary(false, "bailiwick-nvml-double"));
        double.arg(scene.path("nvml")).arg(gpus.to_string());
        let path = cmd::output(&mut double)?;
        let text = fs::read_to_string(&self.config).context("read the agent's file")?;
        let nvml = Path::new(path.trim());
        // It computes on this machine's processor and in its memory: as little as may be.
        let text = format!(
            "{text}\n[host]\nnvml = {nvml:?}\n[oq]\nenabled = true\nmemory_mib = 16\ncuda = {:?}\n",
            nvml.with_file_name("libcuda.so.1")
        );
        fs::write(&self.config, text).context("configure the agent")
    }

    /// Its configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Another boot: goes with a reset of the TPM, or the node is refused.
    pub fn draw_boot_id(&self) -> Result<()> {
        fs::copy("/proc/sys/kernel/random/uuid", &self.boot_id)
            .map(drop)
            .context("draw a boot id")
    }

    /// Starts the fence and waits until it stands.
    pub fn start_fence(&mut self, scene: &Scene) -> Result<()> {
        self.spawn_fence(scene)?;
        self.wait_for_fence(scene)
    }

    pub fn spawn_fence(&mut self, scene: &Scene) -> Result<()> {
        self.fence = Some(Daemon::start(
            scene,
            "fence",
            self.program("fence").arg(&self.config),
        )?);
        Ok(())
    }

    pub fn wait_for_fence(&mut self, scene: &Scene) -> Result<()> {
        let Self { fence, socket, .. } = self;
        scene.wait("the fence", Duration::from_secs(20), || {
            fence.as_mut().map_or(Ok(()), Daemon::alive)?;
            UnixStream::connect(&*socket)
                .context("connect to the fence")
                .map(drop)
        })
    }

    /// The processes of the agent that run.
    pub fn pids(&self) -> Vec<u32> {
        self.fence
            .iter()
            .chain(&self.agent)
            .map(Daemon::pid)
            .collect()
    }

    /// Starts the process that attests, with the boot id of this boot in place of the machine's:
    /// a TPM that is reset while one and the same kernel runs is an attack, and is refused.
    pub fn start_agent(&mut self, scene: &Scene) -> Result<()> {
        let mut agent = tied("unshare");
        agent
            .args(["--mount", "--", "sh", "-c", MASK_BOOT_ID])
            .arg(&self.boot_id)
            .arg(&self.build)
            .args(["run", "--config"])
            .arg(&self.config)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.agent = Some(Daemon::start(scene, "agent", &mut agent)?);
        Ok(())
    }

    pub fn alive(&mut self) -> Result<()> {
        self.fence.as_mut().map_or(Ok(()), Daemon::alive)?;
        self.agent.as_mut().map_or(Ok(()), Daemon::alive)
    }

    /// Kills the process that attests.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().map_or(Ok(()), Daemon::kill)
    }

    /// Kills the process that holds the fence. What it attached stays.
    pub fn kill_fence(&mut self) -> Result<()> {
        self.fence.take().map_or(Ok(()), Daemon::kill)?;
        self.forget_socket()
    }

    /// Asks it to stop. What it attached stays.
    pub fn stop_fence(&mut self) -> Result<()> {
        self.fence.take().map_or(Ok(()), Daemon::stop)?;
        self.forget_socket()
    }

    fn forget_socket(&self) -> Result<()> {
        match fs::remove_file(&self.socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("remove the fence's socket")
            }
            _ => Ok(()),
        }
    }

    /// The build of the agent that its processes are started from.
    pub fn build(&self) -> &Path {
        &self.build
    }

    /// What is started from now on is another.
    pub fn use_build(&mut self, build: PathBuf) {
        self.build = build;
    }

    /// Everything gone at once, as by a power cut.
    pub fn cut_power(&mut self) -> Result<()> {
        self.kill_agent()?;
        self.kill_fence()
    }

    fn program(&self, role: &str) -> Command {
        let mut program = tied(&self.build);
        program.args([role, "--config"]);
        program.envs(self.environment.iter().map(|(name, value)| (name, value)));
        program
    }
}
