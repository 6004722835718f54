//! The attacker's part: what a study's code may try, being root in its container.
//!
//! `bailiwick-fence-rows act` waits for a line on stdin before it does anything, so that it can be
//! put into a cgroup first; then it enters its namespace, tries, and prints what it was told.

mod asked;
mod flood;
mod frame;
mod header;
mod held;
mod other;
mod packet;
mod ring;
mod roce;
mod socket;

pub(crate) use self::flood::{MAY_REFUSED, MAY_SENT, MUST_NOT_REFUSED, MUST_NOT_SENT, OTHERWISE};

use std::io::{self, BufRead as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::actor::Tried;
use crate::net::{self, WIRE};

/// Where to, where from, how often.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shot {
    /// Source address
    #[arg(long, default_value = "10.9.1.1")]
    pub(crate) from: IpAddr,
    /// What is to be reached
    #[arg(long)]
    pub(crate) to: IpAddr,
    /// What it is to look like, for whoever looks at one place alone
    #[arg(long)]
    pub(crate) via: Option<IpAddr>,
    #[arg(long, default_value_t = 5000)]
    pub(crate) port: u16,
    #[arg(long, default_value_t = 5)]
    pub(crate) count: u32,
    /// Last byte of the link address of the next hop
    #[arg(long, default_value_t = 2)]
    pub(crate) mac: u8,
    /// The device that frames are written to
    #[arg(long, default_value = WIRE)]
    pub(crate) device: String,
    /// A socket in the file system, where two attackers meet
    #[arg(long)]
    pub(crate) meet: Option<PathBuf>,
}

impl Shot {
    /// From the study's address of that family.
    pub(crate) fn at(to: &str) -> Self {
        let to: IpAddr = to.parse().expect("a row names an address");
        let from = if to.is_ipv4() {
            "10.9.1.1"
        } else {
            "2001:db8:9::1"
        };
        Self {
            from: from.parse().expect("an address"),
            to,
            via: None,
            port: 5000,
            count: 5,
            mac: 2,
            device: WIRE.to_owned(),
            meet: None,
        }
    }

    pub(crate) fn via(mut self, via: &str) -> Self {
        self.via = Some(via.parse().expect("a row names an address"));
        self
    }

    pub(crate) fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    pub(crate) fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    pub(crate) fn mac(mut self, mac: u8) -> Self {
        self.mac = mac;
        self
    }

    pub(crate) fn on(mut self, device: &str) -> Self {
        device.clone_into(&mut self.device);
        self
    }

    pub(crate) fn from(mut self, from: &str) -> Self {
        self.from = from.parse().expect("a row names an address");
        self
    }

    pub(crate) fn meet(mut self, at: PathBuf) -> Self {
        self.meet = Some(at);
        self
    }

    /// As another process of this program reads it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut words = vec![
            format!("--from={}", self.from),
            format!("--to={}", self.to),
            format!("--port={}", self.port),
            format!("--count={}", self.count),
            format!("--mac={}", self.mac),
            format!("--device={}", self.device),
        ];
        words.extend(self.via.map(|via| format!("--via={via}")));
        words.extend(
            self.meet
                .iter()
                .map(|at| format!("--meet={}", at.display())),
        );
        words
    }

    fn target(&self) -> Vec<u8> {
        crate::sys::internet(self.to, self.port)
    }

    fn source(&self) -> Vec<u8> {
        crate::sys::internet(self.from, 0)
    }

    /// AF_INET or AF_INET6.
    fn family(&self) -> i32 {
        if self.to.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        }
    }
}

macro_rules! techniques {
    ($($(#[doc = $doc:literal])* $name:ident $word:literal $run:path,)*) => {
        /// How something is tried.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
        pub(crate) enum Technique {
            $($(#[doc = $doc])* #[value(name = $word)] $name,)*
        }

        impl Technique {
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            fn run(self, shot: &Shot) -> Result<Tried> {
                match self {
                    $(Self::$name => $run(shot),)*
                }
            }
        }
    };
}

techniques! {
    /// Datagrams from an unconnected socket
    Udp "udp" socket::udp,
    /// A connection, which ends with its first segment
    Tcp "tcp" socket::tcp,
    /// IPv4 in an IPv6 socket
    MappedUdp "mapped-udp" socket::mapped_udp,
    /// Likewise, a connection
    MappedTcp "mapped-tcp" socket::mapped_tcp,
    /// An echo request of an unprivileged socket
    Ping "ping" socket::ping,
    /// Datagrams to an address that is nobody's alone
    Special "special" socket::special,
    /// Joins groups, and lets the kernel tell
    Join "join" socket::join,
    /// Data in the first segment, without `connect`
    FastOpen "fast-open" socket::fast_open,
    /// A connection of several paths
    Mptcp "mptcp" socket::mptcp,
    /// A path that the other end names later
    MptcpPath "mptcp-path" socket::mptcp_path,
    /// An association, by `connect`, by an option, and by sending
    Sctp "sctp" other::sctp,
    /// A path that the other end names
    SctpPath "sctp-path" other::sctp_path,
    /// By RDMA, over a card in software
    Roce "roce" roce::roce,
    /// A stream to this machine's own context
    Vsock "vsock" asked::vsock,
    /// Calls bpf(2)
    Bpf "bpf" asked::bpf,
    /// Loads a module
    Module "module" asked::module,
    /// Detaches a link
    Detach "detach" asked::detach,
    /// More than fits a packet
    Large "large" socket::large,
    /// `connect` and `send` by a ring, no call of either name
    Ring "ring" ring::both,
    /// Own IPv4 or IPv6 header
    Raw "raw" packet::raw,
    /// A fragment whose ports are in another packet
    LateFragment "late-fragment" packet::late_fragment,
    /// A frame from a packet socket
    Frame "frame" frame::frame,
    /// The same from a socket that says it is something else
    Lie "lie" frame::lie,
    /// IP behind VLAN tags
    Tagged "tagged" frame::tagged,
    /// IP behind what is not unwrapped
    Wrapped "wrapped" frame::wrapped,
    /// Past the queue
    Bypass "bypass" frame::bypass,
    /// From a tap
    Tap "tap" frame::tap,
    /// From an AF_XDP socket
    Express "express" frame::express,
    /// IPv6 within: the address is an IPv4 one in the header itself
    Extended "extended" header::extended,
    /// More extension headers than anybody walks
    ManyExtensions "many-extensions" header::many,
    /// What neighbours say to one another, and more behind it
    Neighbour "neighbour" header::neighbour,
    /// A routing header of each type
    Routing "routing" header::routing,
    /// A source route, by socket option and by own header
    SourceRoute "source-route" header::source_route,
    /// A connection made, and used later
    Established "established" held::established,
    /// A datagram socket made, and used later
    Early "early" held::early,
    /// The same, and a new one as well
    EarlyAndNew "early-and-new" held::early_and_new,
    /// A socket handed to another process
    Lend "lend" held::lend,
    /// Uses a socket of another process
    Borrow "borrow" held::borrow,
    /// From a new network namespace, once it is connected
    Unshare "unshare" held::unshare,
    /// Passes on what it is sent on the loopback device
    Relay "relay" held::relay,
    /// To `to` and to `via` by turns, as fast as it goes, until told to stop
    Flood "flood" flood::flood,
    /// One datagram to each of a list, whenever asked
    Probe "probe" flood::probe,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Network namespace
    #[arg(long)]
    space: String,
    #[command(flatten)]
    shot: Shot,
    technique: Technique,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    wait()?;
    net::enter_named(&args.space)?;
    let tried = args.technique.run(&args.shot)?;
    say(&tried.line())
}

/// Until the parent says go on.
fn wait() -> Result<()> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("stdin")?;
    ensure!(!line.is_empty(), "the parent is gone");
    Ok(())
}

/// Tells the parent how far this came, and waits.
fn step(line: &str) -> Result<()> {
    say(line)?;
    wait()
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("stdout")
}
