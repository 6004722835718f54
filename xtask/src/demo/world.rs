//! The small world: a namespace for the node's workloads, one for each host they may want.
//!
//! Each host has a cable of its own to the node's namespace and nothing else; no packet can leave
//! the machine. What arrives is counted in the receiving namespace, before any socket sees it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail};

use super::daemon::tied;
use super::scene::Scene;
use crate::{cmd, paths};

/// Where hosts and studies receive.
pub const PORT: u16 = 7000;
/// Where management listens, and the only port the service names.
pub const MANAGEMENT_PORT: u16 = 8443;

/// A host outside the node.
#[derive(Debug)]
pub struct Place {
    pub name: &'static str,
    /// As the world map has it.
    pub jurisdiction: &'static str,
    pub v4: &'static str,
    pub v6: &'static str,
}

/// Every host, the operator's own management last.
pub const PLACES: [Place; 5] = [
    Place {
        name: "host-de",
        jurisdiction: "DE",
        v4: "192.0.2.10",
        v6: "2001:db8:49::10",
    },
    Place {
        name: "host-fr",
        jurisdiction: "FR",
        v4: "192.0.2.74",
        v6: "2001:db8:33::10",
    },
    Place {
        name: "host-us",
        jurisdiction: "US",
        v4: "198.51.100.10",
        v6: "2001:db8:1::10",
    },
    Place {
        name: "host-cn",
        jurisdiction: "CN",
        v4: "203.0.113.10",
        v6: "2001:db8:86::10",
    },
    Place {
        name: "management",
        jurisdiction: "X-OWN",
        v4: "10.9.0.1",
        v6: "fd09::1",
    },
];

/// The world map, in the few lines this world needs: start, end, code.
pub const WORLD_CSV: &str = "\
192.0.2.0,192.0.2.63,DE
192.0.2.64,192.0.2.127,FR
198.51.100.0,198.51.100.255,US
203.0.113.0,203.0.113.255,CN
2001:db8:1::,2001:db8:1:ffff:ffff:ffff:ffff:ffff,US
2001:db8:33::,2001:db8:33:ffff:ffff:ffff:ffff:ffff,FR
2001:db8:49::,2001:db8:49:ffff:ffff:ffff:ffff:ffff,DE
2001:db8:86::,2001:db8:86:ffff:ffff:ffff:ffff:ffff,CN
";

/// A group of processes on the node.
#[derive(Debug)]
pub struct Group {
    pub name: &'static str,
    /// Below the fence root.
    pub cgroup: &'static str,
    pub v4: &'static str,
    pub v6: &'static str,
    /// What its signed study allows.
    pub allowed: &'static [&'static str],
    /// Whether a study selects it at all.
    pub study: bool,
}

/// Two studies, and a process that belongs to none.
pub const GROUPS: [Group; 3] = [
    Group {
        name: "cardio",
        cgroup: "studies/cardio",
        v4: "10.9.1.1",
        v6: "fd09:1::1",
        allowed: &["DE", "FR"],
        study: true,
    },
    Group {
        name: "onco",
        cgroup: "studies/onco",
        v4: "10.9.2.1",
        v6: "fd09:2::1",
        allowed: &["DE", "US"],
        study: true,
    },
    Group {
        name: "stray",
        cgroup: "other",
        v4: "10.9.3.1",
        v6: "fd09:3::1",
        allowed: &[],
        study: false,
    },
];

/// Namespaces, cables, and a receiver at each host.
#[derive(Debug)]
pub struct World {
    node: String,
    hosts: Vec<Receiver>,
}

impl World {
    pub fn build(scene: &mut Scene) -> Result<Self> {
        let node = scene.namespace("node")?;
        up(&node, "lo")?;
        for group in &GROUPS {
            ip(
                &node,
                &["addr", "add", &format!("{}/32", group.v4), "dev", "lo"],
            )?;
            ip(
                &node,
                &[
                    "addr",
                    "add",
                    &format!("{}/128", group.v6),
                    "dev",
                    "lo",
                    "nodad",
                ],
            )?;
        }
        let mut hosts = Vec::new();
        for place in &PLACES {
            let far = scene.namespace(place.name)?;
            let cable = place.name;
            ip(
                &node,
                &[
                    "link", "add", cable, "type", "veth", "peer", "name", "up0", "netns", &far,
                ],
            )?;
            for (namespace, device) in [(&node, cable), (&far, "up0")] {
                up(namespace, device)?;
            }
            up(&far, "lo")?;
            ip(
                &far,
                &["addr", "add", &format!("{}/32", place.v4), "dev", "up0"],
            )?;
            ip(
                &far,
                &[
                    "addr",
                    "add",
                    &format!("{}/128", place.v6),
                    "dev",
                    "up0",
                    "nodad",
                ],
            )?;
            ip(
                &node,
                &[
                    "route",
                    "add",
                    &format!("{}/32", place.v4),
                    "dev",
                    cable,
                    "src",
                    GROUPS[2].v4,
                ],
            )?;
            ip(
                &node,
                &[
                    "-6",
                    "route",
                    "add",
                    &format!("{}/128", place.v6),
                    "dev",
                    cable,
                ],
            )?;
            // The studies' addresses are on `lo`, and IPv6 answers only for a link's own: so back
            // through the node's end of the cable.
            ip(&node, &["addr", "add", "fe80::1/64", "dev", cable, "nodad"])?;
            for group in &GROUPS {
                let (v4, v6) = (format!("{}/32", group.v4), format!("{}/128", group.v6));
                ip(&far, &["route", "add", &v4, "dev", "up0"])?;
                ip(
                    &far,
                    &["-6", "route", "add", &v6, "via", "fe80::1", "dev", "up0"],
                )?;
            }
            let port = if place.name == "management" {
                MANAGEMENT_PORT
            } else {
                PORT
            };
            let listen = [listen(place.v4, port)?, listen(place.v6, port)?];
            hosts.push(Receiver::start(
                scene, place.name, &far, None, &listen, true,
            )?);
        }
        Ok(Self { node, hosts })
    }

    /// The processes of one boot: for each group a sender, and for each study a receiver.
    pub fn start_workloads(&self, scene: &Scene) -> Result<Workloads> {
        let mut senders = Vec::new();
        let mut receivers = Vec::new();
        for group in &GROUPS {
            let cgroup = scene.cgroup().join(group.cgroup);
            fs::create_dir_all(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
            if group.study {
                let listen = [listen(group.v4, PORT)?];
                receivers.push(Receiver::start(
                    scene,
                    group.name,
                    &self.node,
                    Some(&cgroup),
                    &listen,
                    false,
                )?);
            }
            senders.push(Sender::start(&self.node, &cgroup)?);
        }
        Ok(Workloads { senders, receivers })
    }

    /// What has arrived at a host, so far.
    pub fn arrived(&self, place: &str) -> Counts {
        count_of(&self.hosts, place)
    }

    /// The namespace of the node's workloads.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// The namespace of a host.
    pub(super) fn namespace(&self, place: &str) -> Result<&str> {
        let host = self.hosts.iter().find(|host| host.name == place);
        let host = host.with_context(|| format!("there is no host {place}"))?;
        Ok(&host.namespace)
    }
}

/// The processes of one boot.
#[derive(Debug)]
pub struct Workloads {
    /// In the order of [`GROUPS`].
    pub senders: Vec<Sender>,
    receivers: Vec<Receiver>,
}

impl Workloads {
    /// What has arrived at a study's own socket, so far.
    pub fn arrived(&self, study: &str) -> Counts {
        count_of(&self.receivers, study)
    }
}

/// Lines a receiver printed, and how often each.
pub type Counts = BTreeMap<String, u64>;

fn count_of(receivers: &[Receiver], name: &str) -> Counts {
    let one = receivers.iter().find(|receiver| receiver.name == name);
    one.map(|r| {
        r.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    })
    .unwrap_or_default()
}

/// A process that counts what arrives.
#[derive(Debug)]
struct Receiver {
    name: &'static str,
    namespace: String,
    child: Child,
    counts: Arc<Mutex<Counts>>,
}

impl Receiver {
    fn start(
        scene: &Scene,
        name: &'static str,
        namespace: &str,
        cgroup: Option<&Path>,
        listen: &[SocketAddr],
        observe: bool,
    ) -> Result<Self> {
        let log = scene.path(&format!("receiver-{name}.log"));
        let mut command = inside(namespace, cgroup, "receive")?;
        if observe {
            command.arg("--observe");
        }
        let mut child = command
            .args(listen.iter().map(SocketAddr::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).context("open a log")?)
            .spawn()
            .with_context(|| format!("start the receiver of {name}"))?;
        let mut lines = BufReader::new(
            child
                .stdout
                .take()
                .context("a receiver's stdout is piped")?,
        );
        let mut first = String::new();
        lines
            .read_line(&mut first)
            .context("read from a receiver")?;
        if first.trim() != "ready" {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("the receiver of {name} does not start: {}", said.trim());
        }
        let counts = Arc::new(Mutex::new(Counts::new()));
        let shared = Arc::clone(&counts);
        thread::spawn(move || {
            for line in lines.lines().map_while(std::result::Result::ok) {
                *shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(line)
                    .or_default() += 1;
            }
        });
        Ok(Self {
            name,
            namespace: namespace.to_owned(),
            child,
            counts,
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A process of a study, or of none, that tries to reach others.
#[derive(Debug)]
pub struct Sender {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Sender {
    fn start(namespace: &str, cgroup: &Path) -> Result<Self> {
        let mut child = inside(namespace, Some(cgroup), "send")?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a sender")?;
        let ask = child.stdin.take().context("a sender's stdin is piped")?;
        let answers = BufReader::new(child.stdout.take().context("a sender's stdout is piped")?);
        Ok(Self {
            child,
            ask,
            answers,
        })
    }

    /// Tries all at once, without waiting for the answer.
    pub fn ask(&mut self, tries: &[String]) -> Result<()> {
        writeln!(self.ask, "{}", tries.join(",")).context("ask a sender")
    }

    /// What the kernel told the sender of the last batch, in order; `sent` is success.
    pub fn answer(&mut self) -> Result<Vec<String>> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("hear a sender")?;
        if line.is_empty() {
            bail!("a sender is gone");
        }
        Ok(line.trim_end().split(',').map(str::to_owned).collect())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // It may be gone already, with its cgroup.
    drop(child.kill());
    drop(child.wait());
}

/// `xtask` again, as cargo left it, in a namespace and perhaps a cgroup. The cgroup comes first: whatever the
/// process opens is born inside.
pub(super) fn inside(namespace: &str, cgroup: Option<&Path>, role: &str) -> Result<Command> {
    let this = paths::binary(false, "xtask");
    let nsenter = format!("--net=/run/netns/{namespace}");
    let mut command = match cgroup {
        Some(cgroup) => {
            let mut shell = tied("/bin/sh");
            shell.args(["-c", r#"echo $$ > "$1" && shift && exec "$@""#, "sh"]);
            shell.arg(cgroup.join("cgroup.procs")).arg("nsenter");
            shell
        }
        None => tied("nsenter"),
    };
    command
        .args([&nsenter, "--"])
        .arg(this)
        .args(["helper", role]);
    use std::os::unix::process::CommandExt as _;
    command.process_group(0);
    Ok(command)
}

fn listen(address: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(
        address.parse().with_context(|| format!("read {address}"))?,
        port,
    ))
}

fn up(namespace: &str, device: &str) -> Result<()> {
    ip(namespace, &["link", "set", device, "up"])
}

fn ip(namespace: &str, args: &[&str]) -> Result<()> {
    cmd::output(cmd::command("ip").args(["-n", namespace]).args(args)).map(drop)
}

/// Where the namespaces are found by name, for people who look around.
pub fn enter_by_hand(world: &World) -> PathBuf {
    Path::new("/run/netns").join(&world.node)
}
