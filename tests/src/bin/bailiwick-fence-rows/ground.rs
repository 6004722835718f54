//! The ground the rows play on: cgroups, two nets alike, and the real fence on one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bailiwick_agent::ipc::{FenceClient, IpcError};
use bailiwick_agent::proto::fence::{ApplyPolicy, NextEvents, State};
use bailiwick_attestation::proto::v1::{FenceEvent, PolicyBundle};
use bailiwick_policy::kind::Kind;
use tokio::runtime::Runtime;

use crate::act::{Shot, Technique};
use crate::actor::{Actor, Tried};
use crate::net::{self, Net, Shape};
use crate::pace::paced;
use crate::policy::Terms;
use crate::signer::{DEPLOYMENT, Signer};
use crate::witness::Witness;

/// Cgroups and folders are `bailiwick-rows-<pid>-<number>`.
const PREFIX: &str = "bailiwick-rows-";
/// A debug build's programs take the verifier a second; a loaded machine takes its time.
const SOON: Duration = Duration::from_secs(60);
/// Events come with the agent's next turn.
const TELLS: Duration = Duration::from_millis(2500);
const GLANCE: Duration = Duration::from_millis(20);
/// One flow is told once within a second.
const WINDOW: Duration = Duration::from_millis(1050);

/// The node's ends of the workloads' wires, and a virtual machine's card.
const PORTS: [&str; 3] = ["port", "port2", "tap0"];

/// One of the two nets: with a fence, or without.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// Where the same attack has to work.
    Open,
    /// Where it must not.
    Fenced,
}

/// Everything a row needs. One is used by row after row.
#[derive(Debug)]
pub(crate) struct Ground {
    agent: PathBuf,
    fence: Option<Child>,
    client: FenceClient,
    runtime: Runtime,
    pub(crate) signer: Signer,
    /// Where the agent's answers about events stand.
    instance: Vec<u8>,
    heard: u64,
    /// When the fence last had something to tell.
    denied: Option<Instant>,
    witnesses: [Witness; 2],
    pub(crate) nets: [Net; 2],
    shape: Shape,
    /// Somebody lives in each namespace that has a port: by them the fence knows whose it is.
    residents: Vec<(Side, &'static str, Actor)>,
    pub(crate) name: String,
    mount: PathBuf,
}

impl Ground {
    /// No fence yet.
    pub(crate) fn new(agent: &Path, number: u32, shape: Shape) -> Result<Self> {
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let mount = cgroup2()?;
        for below in [
            "free",
            "fenced/studies/cardio",
            "fenced/studies/neuro",
            "fenced/other",
        ] {
            fs::create_dir_all(mount.join(&name).join(below)).context("make cgroups")?;
        }
        let folder = folder(&name);
        fs::create_dir_all(&folder).context("make a folder")?;
        // There is one first namespace.
        let beside = match shape {
            Shape::First => Shape::Wire,
            shape => shape,
        };
        let nets = [
            Net::new(&format!("{number}o"), beside)?,
            Net::new(&format!("{number}f"), shape)?,
        ];
        let [open, fenced] = &nets;
        let witnesses = [Witness::watch(&open.world)?, Witness::watch(&fenced.world)?];
        let mut ground = Self {
            agent: agent.to_owned(),
            fence: None,
            client: FenceClient::new(&folder.join("fence.sock")),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("runtime")?,
            signer: Signer::new()?,
            instance: Vec::new(),
            heard: 0,
            denied: None,
            witnesses,
            nets,
            shape,
            residents: Vec::new(),
            name,
            mount,
        };
        ground.configure()?;
        ground.settle_in()?;
        Ok(ground)
    }

    /// Lets somebody live in every namespace behind a port.
    pub(crate) fn settle_in(&mut self) -> Result<()> {
        self.residents.clear();
        if self.shape != Shape::Routed {
            return Ok(());
        }
        for side in [Side::Open, Side::Fenced] {
            let net = self.net(side);
            let homes = [
                (net.job.clone(), "studies/cardio", "10.9.1.1"),
                (net.neighbour().to_owned(), "studies/neuro", "10.9.2.1"),
            ];
            for (space, cgroup, from) in homes {
                let shot = Shot::at("192.0.2.7").from(from);
                let mut resident =
                    self.attacker_in(&space, side, cgroup, Technique::Early, &shot)?;
                resident.step()?;
                self.residents.push((side, cgroup, resident));
            }
        }
        Ok(())
    }

    /// The other study leaves its namespace.
    pub(crate) fn evict(&mut self, side: Side) {
        self.residents
            .retain(|(at, whose, _)| *at != side || *whose != "studies/neuro");
    }

    fn configure(&self) -> Result<()> {
        let folder = self.folder();
        let signers = folder.join("allowed_signers");
        fs::write(&signers, self.signer.allowed_signers()).context("write allowed_signers")?;
        let ports = match self.shape {
            Shape::Wire | Shape::First => 0,
            Shape::Routed => PORTS.len(),
        };
        let text = format!(
            "deployment = \"{DEPLOYMENT}\"\nnode = \"n\"\nstate_dir = {:?}\n\
             [collector]\nenroll = \"localhost:1\"\nevidence = \"localhost:1\"\n\
             [policy]\napprovers = {signers:?}\nthreshold = 1\n\
             [fence]\nroot = {:?}\nwhole_host = false\nbpffs = {:?}\nsocket = {:?}\n\
             log = {:?}\nmeasured = false\nuplinks = [\"wire\"]\nports = {:?}\n",
            folder.join("state"),
            self.root(),
            folder.join("bpf"),
            folder.join("fence.sock"),
            folder.join("fence.log"),
            PORTS.get(..ports).unwrap_or_default(),
        );
        fs::write(self.config(), text).context("write agent.toml")
    }

    /// Private to this ground.
    pub(crate) fn folder(&self) -> PathBuf {
        folder(&self.name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder().join("agent.toml")
    }

    /// The fence root, as policies spell it.
    pub(crate) fn root(&self) -> String {
        format!("/{}/fenced", self.name)
    }

    /// Below the fence root, or beside it.
    pub(crate) fn cgroup(&self, side: Side, below: &str) -> PathBuf {
        let top = self.mount.join(&self.name);
        match side {
            Side::Open => top.join("free"),
            Side::Fenced => top.join("fenced").join(below),
        }
    }

    pub(crate) fn net(&self, side: Side) -> &Net {
        let [open, fenced] = &self.nets;
        match side {
            Side::Open => open,
            Side::Fenced => fenced,
        }
    }

    pub(crate) fn witness(&self, side: Side) -> &Witness {
        let [open, fenced] = &self.witnesses;
        match side {
            Side::Open => open,
            Side::Fenced => fenced,
        }
    }

    /// Starts the real program and waits until it answers.
    pub(crate) fn start_fence(&mut self) -> Result<()> {
        let program = self.agent.clone();
        self.start_fence_of(&program)
    }

    /// The same with another build of it.
    pub(crate) fn start_fence_of(&mut self, program: &Path) -> Result<()> {
        let mut command = self.fence_command(program)?;
        // Its uplinks are the net's.
        let child = net::within(self.net(Side::Fenced).node(), || {
            command.spawn().context("start the agent")
        })?;
        self.fence = Some(child);
        let end = Instant::now() + paced(SOON);
        loop {
            let why = match self.state() {
                Ok(_) => return Ok(()),
                Err(why) => why,
            };
            let child = self.fence.as_mut().context("it was started")?;
            if let Some(status) = child.try_wait().context("look after the agent")? {
                bail!("the agent ended with {status}: {}", self.last_words());
            }
            if Instant::now() > end {
                return Err(why.context("the agent does not answer"));
            }
            thread::sleep(GLANCE);
        }
    }

    /// `bailiwick-agent fence`, not yet started.
    pub(crate) fn fence_command(&self, program: &Path) -> Result<Command> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder().join("agent.log"))
            .context("open the agent's log")?;
        let mut command = Command::new(program);
        command.arg("--config").arg(self.config()).arg("fence");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log);
        Ok(command)
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop_fence(&mut self) -> Result<()> {
        let mut child = self.fence.take().context("the agent runs")?;
        let pid = i32::try_from(child.id()).context("its process id")?;
        crate::sys::kill(pid, libc::SIGTERM).context("stop the agent")?;
        child.wait().context("wait for the agent")?;
        Ok(())
    }

    /// Detaches everything, as an operator would.
    pub(crate) fn unfence(&self) -> Result<()> {
        let out = Command::new(&self.agent)
            .arg("--config")
            .arg(self.config())
            .arg("unfence")
            .stdin(Stdio::null())
            .output()
            .context("start the agent")?;
        if !out.status.success() {
            bail!("unfence: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(())
    }

    /// The agent's program.
    pub(crate) fn agent(&self) -> &Path {
        &self.agent
    }

    /// SIGKILL.
    pub(crate) fn kill_fence(&mut self) -> Result<()> {
        let mut child = self.fence.take().context("the agent runs")?;
        child.kill().context("kill the agent")?;
        child.wait().context("wait for the agent")?;
        Ok(())
    }

    /// Fence and first policy, if they are not there yet.
    pub(crate) fn stand(&mut self) -> Result<()> {
        if self.fence.is_none() {
            self.start_fence()?;
        }
        self.apply(&Terms::default())
    }

    /// Signs the next version and hands it over.
    pub(crate) fn apply(&mut self, terms: &Terms) -> Result<()> {
        self.offer(terms)?
            .context("a policy that should be good was refused")
    }

    /// The same, where it may be refused: the inner error is the agent's word.
    pub(crate) fn offer(&mut self, terms: &Terms) -> Result<Result<(), IpcError>> {
        let files = terms.files(&self.root());
        let before = self.signer.newest(Kind::Policy);
        let bundle = self.signer.sign(Kind::Policy, files)?;
        let said = self.hand_over(bundle, Kind::Policy);
        if said.is_err() {
            self.signer.forget(Kind::Policy, before);
        }
        Ok(said)
    }

    /// A world map of its own, signed as such.
    pub(crate) fn sign_world(&mut self, world: &str) -> Result<PolicyBundle> {
        let file = ("world.csv".to_owned(), world.as_bytes().to_vec());
        self.signer.sign(Kind::World, [file].into())
    }

    /// The next policy, not handed over.
    pub(crate) fn sign(&mut self, terms: &Terms) -> Result<PolicyBundle> {
        let files = terms.files(&self.root());
        self.signer.sign(Kind::Policy, files)
    }

    /// What was signed, whatever it is.
    pub(crate) fn hand_over(&mut self, bundle: PolicyBundle, kind: Kind) -> Result<(), IpcError> {
        let policy = ApplyPolicy {
            bundle: Some(bundle),
            kind: kind.as_str().to_owned(),
        };
        self.runtime.block_on(self.client.apply_policy(policy))
    }

    /// As the agent read it back from the kernel.
    pub(crate) fn state(&mut self) -> Result<State> {
        let state = self.runtime.block_on(self.client.state());
        state.context("ask the agent for its state")
    }

    /// Events since the last call.
    pub(crate) fn events(&mut self) -> Result<Vec<FenceEvent>> {
        let mut events = Vec::new();
        loop {
            let next = NextEvents {
                instance: self.instance.clone(),
                acknowledged: self.heard,
                max: 4096,
            };
            let answer = self
                .runtime
                .block_on(self.client.next_events(next))
                .context("ask the agent for events")?;
            self.instance = answer.instance;
            let count = u64::try_from(answer.events.len()).unwrap_or(0);
            self.heard = answer.first + count;
            events.extend(answer.events);
            if count == 0 {
                return Ok(events);
            }
        }
    }

    /// Forgets events so far, and waits until the same flow would be told again.
    pub(crate) fn hush(&mut self) -> Result<()> {
        if let Some(denied) = self.denied {
            thread::sleep(WINDOW.saturating_sub(denied.elapsed()));
        }
        self.events().map(drop)
    }

    /// Hooks and rules by which packets were denied since the last call, once the agent has told.
    pub(crate) fn denials(&mut self) -> Result<BTreeSet<String>> {
        self.denied = Some(Instant::now());
        let end = Instant::now() + paced(TELLS);
        loop {
            let events = self.events()?;
            let denied: BTreeSet<String> = events
                .iter()
                .filter(|event| event.verdict == "deny")
                .map(|event| format!("{} ({})", event.hook, event.rule))
                .collect();
            if !denied.is_empty() || Instant::now() > end {
                return Ok(denied);
            }
            thread::sleep(GLANCE);
        }
    }

    /// An attacker that waits for its first step, in any namespace.
    pub(crate) fn attacker_in(
        &self,
        space: &str,
        side: Side,
        cgroup: &str,
        technique: Technique,
        shot: &Shot,
    ) -> Result<Actor> {
        Actor::start(&self.cgroup(side, cgroup), space, technique, shot)
    }

    /// The same where workloads are.
    pub(crate) fn attacker(
        &self,
        side: Side,
        cgroup: &str,
        technique: Technique,
        shot: &Shot,
    ) -> Result<Actor> {
        self.attacker_in(&self.net(side).job, side, cgroup, technique, shot)
    }

    /// One whole attack; what it was told, and what arrived.
    pub(crate) fn fire(
        &self,
        side: Side,
        cgroup: &str,
        technique: Technique,
        shot: &Shot,
    ) -> Result<(Tried, Vec<Vec<u8>>)> {
        self.witness(side).forget();
        let tried = self.attacker(side, cgroup, technique, shot)?.finish()?;
        Ok((tried, self.witness(side).arrived()))
    }

    /// Where the agent has pinned something, whatever the version of its pins.
    pub(crate) fn pin(&self, below: &str) -> Result<PathBuf> {
        let bpffs = self.folder().join("bpf");
        let entries = fs::read_dir(&bpffs).with_context(|| bpffs.display().to_string())?;
        let mut pins = entries.flatten().map(|entry| entry.path().join(below));
        pins.find(|pin| pin.exists())
            .with_context(|| format!("nothing is pinned as {below}"))
    }

    /// The end of the agent's log.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(self.folder().join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(5);
        lines.get(from..).unwrap_or_default().join("; ")
    }

    /// Lines of the agent's log with these words.
    pub(crate) fn log_lines(&self, words: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder().join("agent.log")).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains(words));
        lines.map(str::to_owned).collect()
    }

    /// The counters of the fence, by name.
    pub(crate) fn counters(&mut self) -> Result<BTreeMap<String, u64>> {
        let fence = self.state()?.fence.context("the state of the fence")?;
        Ok(fence.counters.into_iter().collect())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(mut child) = self.fence.take() {
            drop(child.kill());
            drop(child.wait());
        }
        clean(&self.agent, &self.mount, &self.name);
    }
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// Where cgroup v2 is mounted, which may be beside v1.
fn cgroup2() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").context("read the mount table")?;
    let line = table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find_map(|fields| match fields.as_slice() {
            [_, place, "cgroup2", ..] => Some(PathBuf::from(place)),
            _ => None,
        });
    line.context("no cgroup2 in the mount table")
}

fn clean(agent: &Path, mount: &Path, name: &str) {
    let folder = folder(name);
    // Nothing may be left; what cannot go now is tried again by the next run.
    drop(
        Command::new(agent)
            .arg("--config")
            .arg(folder.join("agent.toml"))
            .arg("unfence")
            .stdin(Stdio::null())
            .output(),
    );
    drop(fs::remove_dir_all(&folder));
    let end = Instant::now() + Duration::from_secs(2);
    while !remove_cgroups(&mount.join(name)) && Instant::now() < end {
        thread::sleep(GLANCE);
    }
}

/// Whether it is gone.
fn remove_cgroups(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    drop(fs::remove_dir(folder));
    !folder.exists()
}

/// What runs that were killed have left.
pub(crate) fn remove_stale(agent: &Path) -> Result<()> {
    net::remove_stale();
    let mount = cgroup2()?;
    for place in [mount.clone(), std::env::temp_dir()] {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                clean(agent, &mount, &name);
            }
        }
    }
    Ok(())
}
