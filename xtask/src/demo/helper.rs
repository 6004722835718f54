//! The processes the demo moves into cgroups and namespaces: they send, and they count.
//!
//! `cargo xtask helper …` is not for people. A sender reads targets from stdin, a line each, and
//! answers with what its kernel said; a receiver prints one line for everything that arrives.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::stream::DISCARD;

/// Datagrams per try.
pub(super) const DATAGRAMS: u32 = 3;
/// A handshake inside one machine takes microseconds; what has not come by now was dropped.
const PATIENCE: Duration = Duration::from_millis(700);
/// A stream's datagrams in each direction, and the pause after them: dense enough for an upgrade to
/// be met by some, thin enough to leave the machine to it.
const BURST: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Helper {
    /// Reads `udp|tcp SOURCE TARGET` lines, tries all at once, prints an outcome for each
    Send,
    /// Sends datagrams to both until stdin ends; prints how many were taken and refused of each
    Stream {
        source: IpAddr,
        may: SocketAddr,
        must_not: SocketAddr,
    },
    /// Receives on these addresses, datagrams and connections
    Receive {
        /// Prints every IP packet that comes in, before any socket sees it
        #[arg(long)]
        observe: bool,
        listen: Vec<SocketAddr>,
    },
}

pub(crate) fn run(helper: &Helper) -> Result<()> {
    match helper {
        Helper::Send => send(),
        Helper::Stream {
            source,
            may,
            must_not,
        } => stream(*source, *may, *must_not),
        Helper::Receive { observe, listen } => receive(*observe, listen),
    }
}

/// Each input line is a batch: tries separated by commas, outcomes likewise.
fn send() -> Result<()> {
    for line in io::stdin().lines() {
        let line = line.context("read the targets")?;
        let tries: Vec<_> = line
            .split(',')
            .map(str::to_owned)
            .map(|one| thread::spawn(move || attempt(&one)))
            .collect();
        let outcomes: Vec<String> = tries
            .into_iter()
            .map(|one| match one.join() {
                Ok(Ok(said)) => said,
                Ok(Err(error)) => format!("{error:#}").replace([',', '\n'], ";"),
                Err(_) => "the try panicked".to_owned(),
            })
            .collect();
        say(&outcomes.join(","))?;
    }
    Ok(())
}

fn attempt(one: &str) -> Result<String> {
    let [protocol, source, target] = one.split_whitespace().collect::<Vec<_>>()[..] else {
        bail!("not a target: {one:?}");
    };
    let source: IpAddr = source.parse().context("read the source")?;
    let target: SocketAddr = target.parse().context("read the target")?;
    match protocol {
        "udp" => {
            let socket = UdpSocket::bind((source, 0)).context("bind")?;
            for _ in 0..DATAGRAMS {
                socket.send_to(b"bailiwick demo", target).context("send")?;
            }
        }
        "tcp" => connect(source, target)?,
        _ => bail!("not a protocol: {protocol:?}"),
    }
    Ok("sent".to_owned())
}

fn connect(source: IpAddr, target: SocketAddr) -> Result<()> {
    let family = if target.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(family, SocketType::STREAM, flags, None).context("socket")?;
    rustix::net::bind(&socket, &SocketAddr::new(source, 0)).context("bind")?;
    match rustix::net::connect(&socket, &target) {
        Err(error) if error != rustix::io::Errno::INPROGRESS => {
            return Err(error).context("connect");
        }
        _ => {}
    }
    let wait = rustix::event::Timespec::try_from(PATIENCE).context("a short time")?;
    let mut ready = [rustix::event::PollFd::new(
        &socket,
        rustix::event::PollFlags::OUT,
    )];
    if rustix::event::poll(&mut ready, Some(&wait)).context("wait for the connection")? == 0 {
        bail!("no answer");
    }
    rustix::net::sockopt::socket_error(&socket)
        .context("connect")?
        .context("connect")?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"bailiwick demo").context("write")
}

/// Taken and refused of the first, the same of the second, and what failed otherwise.
fn stream(source: IpAddr, may: SocketAddr, must_not: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind((source, 0)).context("bind")?;
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    thread::spawn(move || {
        drop(io::stdin().read_to_end(&mut Vec::new()));
        end.store(true, Ordering::SeqCst);
    });
    let (mut counts, mut otherwise) = ([[0_u64; 2]; 2], 0_u64);
    let mut begun = false;
    while !ended.load(Ordering::SeqCst) {
        for (target, [sent, refused]) in [may, must_not].into_iter().zip(&mut counts) {
            for _ in 0..BURST {
                match socket.send_to(b"bailiwick demo", target) {
                    Ok(_) => *sent += 1,
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => *refused += 1,
                    Err(_) => otherwise += 1,
                }
            }
        }
        if !begun {
            begun = true;
            say("flows")?;
        }
        thread::sleep(PAUSE);
    }
    let [[may_sent, may_refused], [sent, refused]] = counts;
    say(&format!(
        "{may_sent} {may_refused} {sent} {refused} {otherwise}"
    ))
}

fn receive(observe: bool, listen: &[SocketAddr]) -> Result<()> {
    for address in listen {
        let datagrams = UdpSocket::bind(address).with_context(|| format!("bind {address}"))?;
        let streams = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        thread::spawn(move || datagrams_in(&datagrams));
        thread::spawn(move || streams_in(&streams));
    }
    // Nobody reads them: a full queue drops in silence, where a closed port would answer.
    let discard: Vec<UdpSocket> = listen
        .iter()
        .map(|address| UdpSocket::bind((address.ip(), DISCARD)).context("bind discard"))
        .collect::<Result<_>>()?;
    if observe {
        for kind in [0x0800_u16, 0x86dd] {
            let protocol = rustix::net::Protocol::from_raw(
                u32::from(kind.to_be())
                    .try_into()
                    .context("a protocol is not zero")?,
            );
            // Packets without their link header, all that come in, and none that go out.
            let tap = rustix::net::socket(AddressFamily::PACKET, SocketType::DGRAM, Some(protocol))
                .context("open a packet socket")?;
            thread::spawn(move || packets_in(&tap));
        }
    }
    say("ready")?;
    // Until the demo closes our input, or dies.
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the end")?;
    drop(discard);
    Ok(())
}

fn datagrams_in(socket: &UdpSocket) {
    let mut buffer = [0; 64];
    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
        drop(say(&format!("datagram {} udp", from.ip())));
    }
}

fn streams_in(listener: &TcpListener) {
    for mut stream in listener.incoming().flatten() {
        if let Ok(from) = stream.peer_addr() {
            drop(say(&format!("connection {} tcp", from.ip())));
        }
        thread::spawn(move || stream.read_to_end(&mut Vec::new()).map(drop));
    }
}

fn packets_in(tap: &rustix::fd::OwnedFd) {
    let mut buffer = [0; 2048];
    while let Ok((_, length)) = rustix::net::recv(tap, &mut buffer[..], RecvFlags::empty()) {
        if let Some(line) = buffer.get(..length).and_then(describe) {
            drop(say(&line));
        }
    }
}

/// `packet SOURCE PROTOCOL` of an IP packet without options; nothing of a stream's, whose packets
/// the kernel counts.
fn describe(packet: &[u8]) -> Option<String> {
    let (source, protocol, port): (IpAddr, u8, _) = match packet.first()? >> 4 {
        4 => (
            <[u8; 4]>::try_from(packet.get(12..16)?).ok()?.into(),
            *packet.get(9)?,
            packet.get(22..24),
        ),
        6 => (
            <[u8; 16]>::try_from(packet.get(8..24)?).ok()?.into(),
            *packet.get(6)?,
            packet.get(42..44),
        ),
        _ => return None,
    };
    if protocol == 17 && port == Some(&DISCARD.to_be_bytes()[..]) {
        return None;
    }
    let name = match protocol {
        6 => "tcp",
        17 => "udp",
        // Neighbour discovery is between the namespaces' kernels.
        58 => return None,
        _ => "other",
    };
    Some(format!("packet {source} {name}"))
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("tell the demo")
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn packets_are_told_apart() {
        let mut v4 = [0_u8; 28];
        v4[0] = 0x45;
        v4[9] = 17;
        v4[12..16].copy_from_slice(&[10, 9, 1, 1]);
        let mut v6 = [0_u8; 48];
        v6[0] = 0x60;
        v6[6] = 6;
        v6[23] = 1;
        let mut discovery = v6;
        discovery[6] = 58;
        let (mut stream, mut stream6) = (v4, v6);
        stream[23] = 9;
        (stream6[6], stream6[43]) = (17, 9);
        let cases: [(&str, &[u8], Option<&str>); 7] = [
            ("a stream's", &stream, None),
            ("the same, IPv6", &stream6, None),
            ("IPv4 datagram", &v4, Some("packet 10.9.1.1 udp")),
            ("IPv6 segment", &v6, Some("packet ::1 tcp")),
            ("neighbour discovery", &discovery, None),
            ("cut short", &v4[..15], None),
            ("empty", &[], None),
        ];
        for (name, packet, want) in cases {
            assert_eq!(describe(packet).as_deref(), want, "{name}");
        }
    }
}
