//! The cable that leaves the host, and whoever counts at its other end.
//!
//! The machine has two network cards on one hub. The first is the host's uplink. The second lives
//! in a namespace of its own, which stands for the rest of the world: what arrives there has left.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::net::{AddressFamily, RecvFlags, SocketType};

use crate::host::run;

/// Where the world is.
pub(crate) const FAR: &str = "far";
/// The uplink.
pub(crate) const UPLINK: &str = "up0";
/// The host's own namespace, by name: for programs that enter one.
const HERE: &str = "here";
/// Datagrams of one try.
pub(crate) const DATAGRAMS: u32 = 5;
const PORT: u16 = 7000;
/// From the last datagram to the last count, on a slow machine.
const SETTLE: Duration = Duration::from_millis(400);

/// Host addresses on the uplink, and those of the world behind it.
const NEAR: [&str; 2] = ["10.9.0.2/24", "fd09::2/64"];
/// Germany, the United States, China; as the map has them.
pub(crate) const WORLD: [(&str, &str); 5] = [
    ("DE", "192.0.2.10"),
    ("US", "198.51.100.10"),
    ("CN", "203.0.113.10"),
    ("DE", "2001:db8:49::10"),
    ("US", "2001:db8:1::10"),
];

/// Where the management plane is.
pub(crate) const MANAGEMENT: &str = "10.9.0.250";

/// How something is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// Datagrams of a socket.
    Datagrams,
    /// Frames written by hand, which only what stands on the uplink sees: twice as many, by two
    /// kinds of packet socket.
    Frames,
}

impl Way {
    /// How many packets one try is.
    pub(crate) fn packets(self) -> u64 {
        let each = u64::from(DATAGRAMS);
        match self {
            Self::Datagrams => each,
            Self::Frames => 2 * each,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Send {
    /// From the root of the hierarchy; `/`: where we are
    cgroup: String,
    target: SocketAddr,
}

type Counts = Arc<Mutex<BTreeMap<IpAddr, u64>>>;

/// The far end, counting.
#[derive(Debug)]
pub(crate) struct World {
    counts: Counts,
}

impl World {
    /// Moves the second card away and gives it the world's addresses. The uplink stays down.
    pub(crate) fn build() -> Result<Self> {
        run(&format!("ip netns add {FAR}"))?;
        for namespace in ["", "-n far "] {
            run(&format!("ip {namespace}link set lo up"))?;
        }
        let (near, far) = (card("52:54:00:00:00:01")?, card("52:54:00:00:00:02")?);
        run(&format!("ip link set {near} name up0"))?;
        run(&format!("ip link set {far} netns {FAR} name world0"))?;
        // Frames written by hand name a card that is not there.
        run("ip -n far link set world0 up promisc on")?;
        run(&format!("ip netns attach {HERE} 1"))?;
        for address in addresses() {
            let (length, family) = if address.contains(':') {
                (128, "nodad")
            } else {
                (32, "")
            };
            run(&format!(
                "ip -n far addr add {address}/{length} dev world0 {family}"
            ))?;
        }
        // Who asks where it is gets an answer.
        run(&format!("ip -n {FAR} route add fd09::/64 dev world0"))?;
        let counts = Counts::default();
        let theirs = Arc::clone(&counts);
        let (ready_tx, ready) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let outcome = tap();
            drop(ready_tx.send(outcome.as_ref().map(drop).map_err(|why| format!("{why:#}"))));
            if let Ok(tap) = outcome {
                count(&tap, &theirs);
            }
        });
        match ready.recv().context("hear from the far end")? {
            Ok(()) => Ok(Self { counts }),
            Err(why) => bail!("the far end: {why}"),
        }
    }

    /// Brings the uplink up: from here on something can leave.
    pub(crate) fn connect(&self) -> Result<()> {
        for address in NEAR {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            run(&format!("ip addr add {address} dev up0 {nodad}"))?;
        }
        run("ip link set up0 up")?;
        for address in addresses() {
            run(&format!("ip route add {address} dev up0"))?;
            // Nobody has to be asked where it is, so that nothing else is sent.
            self.remember(address)?;
        }
        // The link itself takes a moment.
        crate::host::wait("the uplink", Duration::from_secs(20), || {
            let state = crate::host::read("/sys/class/net/up0/carrier")?;
            if state == "1" {
                Ok(())
            } else {
                bail!("no carrier")
            }
        })
    }

    /// Datagrams that arrived at `address` so far.
    pub(crate) fn arrived(&self, address: IpAddr) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&address).copied().unwrap_or(0)
    }

    /// Forgets who an address of the world is, so that the kernel has to ask.
    pub(crate) fn forget(&self, address: &str) -> Result<()> {
        run(&format!("ip neigh del {address} dev {UPLINK}")).map(drop)
    }

    /// The opposite.
    pub(crate) fn remember(&self, address: &str) -> Result<()> {
        run(&format!(
            "ip neigh replace {address} lladdr 52:54:00:00:00:02 nud permanent dev {UPLINK}"
        ))
        .map(drop)
    }

    /// A program in `cgroup`; says how many packets to `address` arrived meanwhile.
    pub(crate) fn during(&self, cgroup: &str, words: &[&str], address: IpAddr) -> Result<u64> {
        let before = self.arrived(address);
        let folder = format!("/sys/fs/cgroup{cgroup}");
        fs::create_dir_all(&folder).with_context(|| format!("make {folder}"))?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", "echo 0 > $0/cgroup.procs && sleep 1 && exec \"$@\""])
            .arg(&folder)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {words:?}"))?;
        let mut input = child.stdin.take().context("its stdin is piped")?;
        // Those that wait for a word go on.
        drop(input.write_all(b"\n"));
        child
            .wait()
            .with_context(|| format!("wait for {words:?}"))?;
        thread::sleep(SETTLE);
        Ok(self.arrived(address) - before)
    }

    /// A process of `cgroup` sends; says how many packets arrived.
    pub(crate) fn try_by(&self, way: Way, cgroup: &str, address: &str) -> Result<u64> {
        if way == Way::Datagrams {
            return self.try_from(cgroup, address);
        }
        let to = address.parse().context("an address")?;
        let from = if address.contains(':') {
            "fd09::2"
        } else {
            "10.9.0.2"
        };
        let words = [
            "/usr/bin/bailiwick-fence-rows",
            "act",
            "--space",
            HERE,
            "--device",
            UPLINK,
            "--from",
            from,
            "--to",
            address,
            "frame",
        ];
        self.during(cgroup, &words, to)
    }

    fn try_from(&self, cgroup: &str, address: &str) -> Result<u64> {
        let address: IpAddr = address.parse().context("an address")?;
        let before = self.arrived(address);
        let program = std::env::current_exe().context("this program's file")?;
        // That it is refused is what some are for.
        Command::new(program)
            .args(["send", cgroup, &SocketAddr::new(address, PORT).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("start a sender")?;
        thread::sleep(SETTLE);
        Ok(self.arrived(address) - before)
    }
}

/// The child's part: a socket belongs to the cgroup it was made in.
pub(crate) fn send(send: &Send) -> Result<()> {
    if send.cgroup != "/" {
        let folder = format!("/sys/fs/cgroup{}", send.cgroup);
        fs::create_dir_all(&folder).with_context(|| format!("make {folder}"))?;
        fs::write(format!("{folder}/cgroup.procs"), "0")
            .with_context(|| format!("join {folder}"))?;
        // What follows cgroups is told of new ones, and needs a moment to answer.
        thread::sleep(SETTLE);
    }
    let any: IpAddr = match send.target {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).context("bind")?;
    for _ in 0..DATAGRAMS {
        socket
            .send_to(b"bailiwick vm", send.target)
            .context("send")?;
    }
    Ok(())
}

/// All that the world answers for.
fn addresses() -> impl Iterator<Item = &'static str> {
    let world = WORLD.into_iter().map(|(_, address)| address);
    world.chain([MANAGEMENT])
}

/// Name of the card with this hardware address.
pub(crate) fn card(hardware: &str) -> Result<String> {
    for entry in fs::read_dir("/sys/class/net")
        .context("list the cards")?
        .flatten()
    {
        let found = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        if found.trim() == hardware {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    bail!("no network card has {hardware}")
}

/// Enters the far namespace, for this thread, and opens a socket that sees all that comes in.
fn tap() -> Result<rustix::fd::OwnedFd> {
    let namespace = File::open(format!("/run/netns/{FAR}")).context("open the far namespace")?;
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&namespace),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .context("enter the far namespace")?;
    // ETH_P_ALL
    let every = u32::from(3_u16.to_be())
        .try_into()
        .context("a protocol is not zero")?;
    let every = rustix::net::Protocol::from_raw(every);
    rustix::net::socket(AddressFamily::PACKET, SocketType::DGRAM, Some(every))
        .context("open a packet socket")
}

fn count(tap: &rustix::fd::OwnedFd, counts: &Counts) {
    let mut buffer = [0; 2048];
    while let Ok((_, length)) = rustix::net::recv(tap, &mut buffer[..], RecvFlags::empty()) {
        if let Some(to) = buffer.get(..length).and_then(destination) {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            *counts.entry(to).or_default() += 1;
        }
    }
}

/// Where an IP packet goes. What the kernels at both ends tell each other of where they are is
/// nobody's packet: solicitations and advertisements to one host (RFC 4861), which answer the far
/// end's own questions.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into()),
        6 => {
            let to = <[u8; 16]>::try_from(packet.get(24..40)?).ok()?;
            let discovery = packet.get(6) == Some(&58) && matches!(packet.get(40), Some(135 | 136));
            (!discovery || to.first() == Some(&0xff)).then(|| to.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_by_where_they_go() {
        let mut v4 = [0_u8; 28];
        v4[0] = 0x45;
        v4[16..20].copy_from_slice(&[192, 0, 2, 10]);
        let mut v6 = [0_u8; 40];
        v6[0] = 0x60;
        v6[39] = 1;
        let mut answer = [0_u8; 64];
        answer[..40].copy_from_slice(&v6);
        answer[6] = 58;
        answer[40] = 136;
        let mut question = answer;
        question[24] = 0xff;
        let mut echo = answer;
        echo[40] = 128;
        let cases: [(&str, &[u8], Option<&str>); 8] = [
            ("IPv4", &v4, Some("192.0.2.10")),
            ("IPv6", &v6, Some("::1")),
            ("a neighbour answers one who asked", &answer, None),
            ("a neighbour is asked for", &question, Some("ff00::1")),
            ("an echo of the same kind", &echo, Some("::1")),
            ("cut short", &v4[..19], None),
            ("an ARP request", &[0, 1, 8, 0], None),
            ("empty", &[], None),
        ];
        for (name, packet, want) in cases {
            let want: Option<IpAddr> = want.map(|text| text.parse().unwrap());
            assert_eq!(destination(packet), want, "{name}");
        }
    }
}
