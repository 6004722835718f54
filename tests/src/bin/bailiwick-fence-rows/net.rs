//! Network namespaces of the rows' own: a place to work in, and the whole world at the other end
//! of a wire.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Namespaces are `bwr<pid>-<name>`.
const PREFIX: &str = "bwr";
const FOLDER: &str = "/run/netns";
/// The device on both ends.
pub(crate) const WIRE: &str = "wire";

/// Addresses of the workloads: two of cardio's, one of neuro's, one of nobody's.
const HERE: [&str; 4] = ["10.9.1.1", "2001:db8:9::1", "10.9.2.1", "10.9.3.1"];
/// Addresses out there; the first of each family is the gateway to all others.
const THERE: [&str; 6] = [
    "192.0.2.7",
    "2001:db8:1::7",
    "198.51.100.7",
    "203.0.113.9",
    "2001:db8:2::7",
    "2001:db8:2::9",
];

/// How a net is laid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shape {
    /// Workloads in the namespace of the uplink, as with the host's network.
    Wire,
    /// Workloads in namespaces of their own, on a bridge of a node that forwards.
    Routed,
    /// A wire in the machine's first namespace, which is nobody's but the rows': for what knows of
    /// no other. In a virtual machine alone.
    First,
}

/// Network namespaces and the wires between them.
#[derive(Debug)]
pub(crate) struct Net {
    /// Where workloads are.
    pub(crate) job: String,
    /// Where packets arrive that got out.
    pub(crate) world: String,
    /// Between the two, and where another study's workloads are; of [`Shape::Routed`] alone.
    routed: Option<Routed>,
}

#[derive(Debug)]
struct Routed {
    node: String,
    neighbour: String,
}

/// Link addresses, by their last byte.
const JOB: u8 = 1;
const WORLD: u8 = 2;
/// The node's end of the uplink.
const NODE: u8 = 4;
/// The other study's end.
pub(crate) const NEIGHBOUR: u8 = 5;
/// The bridge itself: the workloads' gateway.
pub(crate) const BRIDGE: u8 = 6;

impl Net {
    /// `name` tells it from the other nets of this process.
    pub(crate) fn new(name: &str, shape: Shape) -> Result<Self> {
        let pid = std::process::id();
        let space = |what: &str| format!("{PREFIX}{pid}-{name}-{what}");
        let net = Self {
            job: space("job"),
            world: space("out"),
            routed: (shape == Shape::Routed).then(|| Routed {
                node: space("node"),
                neighbour: space("next"),
            }),
        };
        for space in net.spaces() {
            if shape == Shape::First && *space == net.job {
                ip(&format!("netns attach {space} 1"))?;
            } else {
                ip(&format!("netns add {space}"))?;
            }
        }
        match &net.routed {
            None => {
                veth((&net.job, WIRE, JOB), (&net.world, WIRE, WORLD))?;
                set_up(&net.job, WORLD, &HERE, &THERE)?;
                set_up(&net.world, JOB, &THERE, &HERE)?;
            }
            Some(routed) => net.route(routed)?,
        }
        within(&net.job, || {
            // Datagram sockets for ICMP, for everybody; data in the first segment, unasked.
            write_sysctl("ipv4/ping_group_range", "0 2147483647")?;
            write_sysctl("ipv4/tcp_fastopen", "5")
        })?;
        Ok(net)
    }

    /// The namespace with the uplink.
    pub(crate) fn node(&self) -> &str {
        self.routed
            .as_ref()
            .map_or(&self.job, |routed| &routed.node)
    }

    /// Where the other study's workloads are.
    pub(crate) fn neighbour(&self) -> &str {
        let routed = self.routed.as_ref();
        routed.map_or(&self.job, |routed| &routed.neighbour)
    }

    fn spaces(&self) -> Vec<&String> {
        let mut spaces = vec![&self.job, &self.world];
        let routed = self.routed.iter();
        spaces.extend(routed.flat_map(|routed| [&routed.node, &routed.neighbour]));
        spaces
    }

    fn route(&self, Routed { node, neighbour }: &Routed) -> Result<()> {
        veth((&self.job, WIRE, JOB), (node, "port", 7))?;
        veth((neighbour, WIRE, NEIGHBOUR), (node, "port2", 8))?;
        veth((node, WIRE, NODE), (&self.world, WIRE, WORLD))?;
        set_up(&self.job, BRIDGE, &HERE, &THERE)?;
        set_up(neighbour, BRIDGE, &["10.9.2.1"], &THERE)?;
        set_up(&self.world, NODE, &THERE, &HERE)?;
        set_up(node, WORLD, &["10.9.9.1", "2001:db8:9::9"], &THERE)?;
        within(node, || {
            for family in ["ipv4/conf", "ipv6/conf"] {
                write_sysctl(&format!("{family}/all/forwarding"), "1")?;
            }
            ip(&format!(
                "link add bridge address {} type bridge\n\
                 link set port master bridge addrgenmode none\n\
                 link set port2 master bridge addrgenmode none\n\
                 link set bridge addrgenmode none\n\
                 link set port up\nlink set port2 up\nlink set bridge up\n",
                mac(BRIDGE)
            ))?;
            let mut script = String::new();
            for address in HERE {
                let whose = if address.contains(".2.") {
                    NEIGHBOUR
                } else {
                    JOB
                };
                let length = if address.contains(':') { 128 } else { 32 };
                script += &format!("route add {address}/{length} dev bridge\n");
                script += &format!(
                    "neigh replace {address} lladdr {} nud permanent dev bridge\n",
                    mac(whose)
                );
            }
            ip(&script)
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in self.spaces() {
            drop(ip(&format!("netns delete {space}")));
        }
    }
}

fn mac(last: u8) -> String {
    format!("02:00:00:00:00:{last:02x}")
}

/// Two ends: namespace, name and link address.
fn veth(one: (&str, &str, u8), other: (&str, &str, u8)) -> Result<()> {
    let script = format!(
        "link add {} address {} type veth peer name {} address {} netns {}",
        one.1,
        mac(one.2),
        other.1,
        mac(other.2),
        other.0
    );
    within(one.0, || ip(&script))
}

/// Everything is behind the other side, and who that is need not be asked.
fn set_up(space: &str, neighbour: u8, own: &[&str], other: &[&str]) -> Result<()> {
    let mut script = String::new();
    script += &format!("link set {WIRE} addrgenmode none\nlink set lo up\nlink set {WIRE} up\n");
    for address in own {
        let (length, nodad) = if address.contains(':') {
            (128, " nodad")
        } else {
            (32, "")
        };
        script += &format!("address add {address}/{length} dev {WIRE}{nodad}\n");
    }
    for family in ["4", "6"] {
        let mut gateways = other
            .iter()
            .filter(|address| address.contains(':') == (family == "6"));
        let gateway = gateways.next().context("a gateway of each family")?;
        let length = if family == "6" { 128 } else { 32 };
        let behind = mac(neighbour);
        script += &format!("neigh replace {gateway} lladdr {behind} nud permanent dev {WIRE}\n");
        script += &format!("route add {gateway}/{length} dev {WIRE}\n");
        let any = if family == "6" { "::/0" } else { "0.0.0.0/0" };
        script += &format!("route add {any} via {gateway} dev {WIRE}\n");
    }
    within(space, || {
        write_sysctl(&format!("ipv6/conf/{WIRE}/accept_ra"), "0")?;
        ip(&script)
    })
}

/// Runs a script of iproute2, in this thread's namespace.
pub(crate) fn ip(script: &str) -> Result<()> {
    let lines: Vec<&str> = script.lines().filter(|line| !line.is_empty()).collect();
    let mut command = Command::new("ip");
    if let [one] = lines.as_slice() {
        command.args(one.split_whitespace()).stdin(Stdio::null());
    } else {
        command.args(["-batch", "-"]).stdin(Stdio::piped());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start ip, of iproute2")?;
    if let Some(mut input) = child.stdin.take() {
        input
            .write_all((lines.join("\n") + "\n").as_bytes())
            .context("write to ip")?;
    }
    let out = child.wait_with_output().context("wait for ip")?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "ip: {}: in {script:?}", said.trim());
    Ok(())
}

/// Does something on a thread in a named namespace; sockets made there stay there.
pub(crate) fn within<T: Send>(space: &str, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    at(&Path::new(FOLDER).join(space), what)
}

/// The same in the namespace of a process.
pub(crate) fn beside<T: Send>(pid: u32, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    at(&PathBuf::from(format!("/proc/{pid}/ns/net")), what)
}

fn at<T: Send>(file: &Path, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter(file)?;
            what()
        });
        inside
            .join()
            .map_err(|_panicked| anyhow!("a thread in {} panicked", file.display()))?
    })
}

/// Moves this thread into a named namespace.
pub(crate) fn enter_named(space: &str) -> Result<()> {
    enter(&Path::new(FOLDER).join(space))
}

fn enter(file: &Path) -> Result<()> {
    let space = File::open(file).with_context(|| file.display().to_string())?;
    move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter {}", file.display()))
}

/// Of this thread's network namespace.
pub(crate) fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let file = Path::new("/proc/sys/net").join(name);
    fs::write(&file, value).with_context(|| file.display().to_string())
}

/// What runs that were killed have left.
pub(crate) fn remove_stale() {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            drop(ip(&format!("netns delete {name}")));
        }
    }
}
