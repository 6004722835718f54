//! The fence on the root of the hierarchy, and on the card that leaves the host.
//!
//! First boot: nothing fenced, as a control; default deny; the signed policy; the agent killed and
//! started again. Second boot: no pin is left, the fence stands before the network does, and the
//! policy on disk is in force with nobody told.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bailiwick_agent::ipc::FenceClient;
use bailiwick_agent::proto::fence::{ApplyPolicy, State};
use bailiwick_attestation::proto::v1::fence_state::Mode;
use bailiwick_attestation::proto::v1::{PolicyBundle, PolicyFile};
use serde_json::json;

use crate::Told;
use crate::essentials;
use crate::host::{read, run};
use crate::wire::{UPLINK, WORLD, Way, World};

const AGENT: &str = "/usr/bin/bailiwick-agent";
const CONFIG: &str = "/etc/bailiwick/agent.toml";
const BUNDLE: &str = "/etc/bailiwick/policy";
const SOCKET: &str = "/run/bailiwick/fence.sock";
const PINS: &str = "/sys/fs/bpf/bailiwick";
/// The verifier alone takes five seconds of an interpreted processor, and others want it too.
const START: Duration = Duration::from_secs(300);
/// How long a cgroup may take to become its study's, on an interpreted processor.
pub(crate) const SEEN: Duration = Duration::from_secs(20);
/// On the root disk: there since the first boot.
const BEFORE: &str = "/var/lib/bailiwick-vm-booted";

/// Whose packets, and what of the world they may reach.
const SENDERS: [(&str, &[&str]); 5] = [
    ("/", &[]),
    ("/other", &[]),
    ("/studies/cardio", &["DE"]),
    ("/studies/onco/job/step", &["US"]),
    ("/system.slice/ssh.service", &["US"]),
];

/// What stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Nothing,
    DefaultDeny,
    Policy,
}

pub(crate) fn scenario(told: &mut Told) -> Result<()> {
    told.fact("kernel", read("/proc/sys/kernel/osrelease")?)?;
    if Path::new(BEFORE).exists() {
        return again(told);
    }
    fs::write(BEFORE, "").context("note the first boot")?;
    let world = World::build()?;
    world.connect()?;
    matrix(
        told,
        &world,
        "unfenced, everything arrives",
        Standing::Nothing,
    )?;
    essentials::unfenced(told, &world)?;
    let mut fence = Agent::start()?;
    told.fact("fenced after ms", fence.ready.as_millis().to_string())?;
    matrix(
        told,
        &world,
        "default deny, before any policy",
        Standing::DefaultDeny,
    )?;
    let state = fence.state()?;
    mode(told, &state, Mode::DefaultDeny)?;
    fence.apply()?;
    let state = fence.state()?;
    mode(told, &state, Mode::Enforcing)?;
    matrix(told, &world, "the signed policy", Standing::Policy)?;
    measured(told, &state)?;
    line(told, &mut fence)?;
    matrix_by(
        told,
        &world,
        Way::Frames,
        "frames by hand, which the line on the uplink alone sees",
        Standing::Policy,
    )?;
    essentials::fenced(told, &world)?;
    undone(told, &world, &mut fence)?;
    let before = links(&state);
    fence.kill()?;
    matrix(told, &world, "the agent killed", Standing::Policy)?;
    let mut fence = Agent::start()?;
    let state = fence.state()?;
    told.check(
        "the next agent takes over the same links",
        !before.is_empty() && links(&state) == before,
        json!(links(&state)),
    )?;
    matrix(told, &world, "the agent started again", Standing::Policy)?;
    fence.kill()
}

/// After a reboot.
fn again(told: &mut Told) -> Result<()> {
    told.check(
        "no pin survived the reboot",
        !Path::new(PINS).exists(),
        PINS,
    )?;
    let world = World::build()?;
    let mut fence = Agent::start()?;
    told.fact("fenced after ms", fence.ready.as_millis().to_string())?;
    let state = fence.state()?;
    mode(told, &state, Mode::Enforcing)?;
    // Only now can anything leave.
    world.connect()?;
    matrix(
        told,
        &world,
        "rebooted, with the policy from disk",
        Standing::Policy,
    )?;
    fence.kill()?;
    matrix(told, &world, "rebooted, the agent killed", Standing::Policy)
}

/// Everybody tries everything, and the far end counts.
fn matrix(told: &mut Told, world: &World, name: &str, standing: Standing) -> Result<()> {
    matrix_by(told, world, Way::Datagrams, name, standing)
}

fn matrix_by(
    told: &mut Told,
    world: &World,
    way: Way,
    name: &str,
    standing: Standing,
) -> Result<()> {
    let (mut wrong, mut denied, mut leaked) = (Vec::new(), 0_u64, 0);
    for (cgroup, allowed) in SENDERS {
        for (code, address) in WORLD {
            let open = match standing {
                Standing::Nothing => true,
                Standing::DefaultDeny => false,
                Standing::Policy => {
                    allowed.contains(&code) && !(cgroup.contains("ssh") && address.contains(':'))
                }
            };
            let want = if open { way.packets() } else { 0 };
            let mut arrived = world.try_by(way, cgroup, address)?;
            // A new cgroup is its study's once the agent has seen it; until then it is denied.
            let deadline = Instant::now() + SEEN;
            while open && arrived == 0 && Instant::now() < deadline {
                arrived = world.try_by(way, cgroup, address)?;
            }
            if !open {
                denied += way.packets();
                leaked += arrived;
            }
            if arrived != want {
                wrong.push(format!("{cgroup} to {code} {address}: {arrived} of {want}"));
            }
        }
    }
    let found = json!({ "denied": denied, "leaked": leaked, "wrong": wrong });
    told.check(name, wrong.is_empty(), found)
}

fn mode(told: &mut Told, state: &State, want: Mode) -> Result<()> {
    let fence = state.fence.clone().unwrap_or_default();
    told.check(
        &format!("the whole host, {}", want.as_str_name()),
        fence.mode() == want && fence.whole_host && fence.root == "/" && fence.fault.is_none(),
        json!({
            "mode": fence.mode().as_str_name(),
            "root": fence.root,
            "fault": fence.fault,
            "hooks": fence.links.iter().map(|link| link.hook.clone()).collect::<Vec<_>>(),
        }),
    )
}

/// What took effect stands in the fence's PCR, on a real boot.
fn measured(told: &mut Told, state: &State) -> Result<()> {
    let value = read("/sys/class/tpm/tpm0/pcr-sha256/13")?;
    let fault = state
        .fence
        .as_ref()
        .and_then(|fence| fence.log_fault.clone());
    told.check(
        "what took effect is in PCR 13",
        fault.is_none() && value.chars().any(|digit| digit != '0'),
        fault.unwrap_or(value),
    )
}

/// The second line, on the card that leaves the host: as the agent read it back from the kernel.
fn line(told: &mut Told, fence: &mut Agent) -> Result<()> {
    let want = way_of_this_kernel()?;
    let look = || {
        let state = fence.state()?.fence.unwrap_or_default();
        let line = state.lines.into_iter().find(|line| line.device == UPLINK);
        line.context("no line on the uplink")
    };
    let line = crate::host::wait("the line on the uplink", SEEN, look)?;
    told.check(
        "the second line stands on the uplink, first in its chain",
        line.hook == "tcx/egress"
            && line.way == want
            && line.position == 0
            && line.program_id != 0
            && !line.program_tag.is_empty(),
        json!({
            "hook": line.hook,
            "way": line.way,
            "position": line.position,
            "program": line.program_id,
            "revision": line.revision,
        }),
    )?;
    let chain = run(&format!("tc filter show dev {UPLINK} egress"))?;
    told.check(
        "tc shows a filter of ours where the kernel has no tcx, and none where it has",
        chain.contains("fence_uplink") == (want == "clsact"),
        chain,
    )
}

/// tcx came with Linux 6.6.
fn way_of_this_kernel() -> Result<&'static str> {
    let release = read("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    Ok(if version < (6, 6) { "clsact" } else { "tcx" })
}

/// Root lets everything pass: takes our filter away where there is no tcx, and puts one of its own
/// where there is. It has no place before ours then: what hangs on a qdisc runs behind tcx.
fn undone(told: &mut Told, world: &World, fence: &mut Agent) -> Result<()> {
    if way_of_this_kernel()? == "tcx" {
        run(&format!("tc qdisc add dev {UPLINK} clsact"))?;
        run(&format!(
            "tc filter add dev {UPLINK} egress pref 1 protocol all matchall action pass"
        ))?;
    } else {
        run(&format!("tc filter del dev {UPLINK} egress pref 1"))?;
    }
    let begun = Instant::now();
    let (cgroup, address) = ("/studies/cardio", "198.51.100.10");
    let mut leaked = 0;
    loop {
        let arrived = world.try_by(Way::Frames, cgroup, address)?;
        leaked += arrived;
        if arrived == 0 || begun.elapsed() > SEEN {
            told.check(
                "what root does to the filters of the uplink does not last",
                arrived == 0,
                json!({ "leaked meanwhile": leaked, "seconds": begun.elapsed().as_secs() }),
            )?;
            break;
        }
    }
    let state = fence.state()?.fence.unwrap_or_default();
    let line = state.lines.iter().find(|line| line.device == UPLINK);
    let changes: Vec<&String> = state
        .line_changes
        .iter()
        .map(|change| &change.what)
        .collect();
    told.check(
        "the statement says that ours is first, and what was found otherwise",
        line.is_some_and(|line| line.position == 0) && (leaked == 0 || !changes.is_empty()),
        json!(changes),
    )
}

fn links(state: &State) -> Vec<u32> {
    let fence = state.fence.iter();
    fence
        .flat_map(|fence| &fence.links)
        .map(|link| link.link_id)
        .collect()
}

/// `bailiwick-agent fence`; killed when dropped.
struct Agent {
    child: Child,
    /// From its start until it answers.
    ready: Duration,
    runtime: tokio::runtime::Runtime,
    client: FenceClient,
}

impl Agent {
    fn start() -> Result<Self> {
        // What a killed one left.
        drop(fs::remove_file(SOCKET));
        let begun = Instant::now();
        let mut child = Command::new(AGENT)
            .args(["fence", "--config", CONFIG])
            .stdin(Stdio::null())
            // The way to the host is one's alone.
            .stdout(Stdio::null())
            .spawn()
            .context("start the fence")?;
        let deadline = begun + START;
        while UnixStream::connect(SOCKET).is_err() {
            if let Some(status) = child.try_wait().context("look after the fence")? {
                bail!("the fence ended with {status}; the console says why");
            }
            if Instant::now() > deadline {
                bail!("the fence does not answer");
            }
            thread::sleep(Duration::from_millis(50));
        }
        let ready = begun.elapsed();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("runtime")?;
        let client = FenceClient::new(Path::new(SOCKET));
        Ok(Self {
            child,
            ready,
            runtime,
            client,
        })
    }

    fn state(&mut self) -> Result<State> {
        let Self {
            runtime, client, ..
        } = self;
        runtime.block_on(client.state()).context("ask the fence")
    }

    fn apply(&mut self) -> Result<()> {
        let policy = ApplyPolicy {
            bundle: Some(bundle(Path::new(BUNDLE))?),
            kind: "policy".to_owned(),
        };
        let Self {
            runtime, client, ..
        } = self;
        runtime
            .block_on(client.apply_policy(policy))
            .context("hand over the policy")
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill the fence")?;
        self.child.wait().context("wait for the fence").map(drop)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A signed folder, as the wire has it.
fn bundle(folder: &Path) -> Result<PolicyBundle> {
    let mut bundle = PolicyBundle::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = fs::read_dir(&next).with_context(|| format!("list {}", next.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort_unstable();
        for path in paths {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let name = path
                .strip_prefix(folder)
                .context("below the folder")?
                .display()
                .to_string();
            match name.as_str() {
                "manifest.toml" => bundle.manifest = content,
                _ if name.ends_with(".sig") => bundle.signatures.push(content),
                _ => bundle.files.push(PolicyFile {
                    path: name,
                    content,
                }),
            }
        }
    }
    Ok(bundle)
}
