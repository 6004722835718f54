//! Network namespaces of the tests' own, and processes in them that do as they are told.
//!
//! An *actor* is this test binary again: it enters a cgroup before it begins and a network
//! namespace before it opens a socket, then reads one command per line and answers each.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aya::{
    TestRunOptions,
    programs::{CgroupSkb, CgroupSkbAttachType, TestRun as _},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::raw;

/// Namespaces are `bwt<pid>-<name>`.
const PREFIX: &str = "bwt";
const FOLDER: &str = "/run/netns";

/// Two namespaces and the wire between them: one for the workloads, one for the whole world.
pub(crate) struct Net {
    pub(crate) inside: String,
    pub(crate) world: String,
}

impl Net {
    /// `here` and `there` are the addresses on the two sides; everything else is behind the other
    /// side.
    pub(crate) fn new(test: &str, here: &[&str], there: &[&str]) -> Self {
        remove_stale();
        let pid = std::process::id();
        let net = Self {
            inside: format!("{PREFIX}{pid}-{test}-in"),
            world: format!("{PREFIX}{pid}-{test}-out"),
        };
        ip(&["netns", "add", &net.inside]);
        ip(&["netns", "add", &net.world]);
        ip(&[
            "-n",
            &net.inside,
            "link",
            "add",
            "wire",
            "type",
            "veth",
            "peer",
            "name",
            "wire",
            "netns",
            &net.world,
        ]);
        for (space, addresses) in [(&net.inside, here), (&net.world, there)] {
            for address in addresses {
                let nodad: &[&str] = if address.contains(':') {
                    &["nodad"]
                } else {
                    &[]
                };
                let add = ["-n", space, "address", "add", address, "dev", "wire"];
                ip(&[&add, nodad].concat());
            }
            ip(&["-n", space, "link", "set", "wire", "up"]);
            ip(&["-n", space, "link", "set", "lo", "up"]);
            ip(&["-n", space, "route", "add", "default", "dev", "wire"]);
            ip(&["-n", space, "-6", "route", "add", "default", "dev", "wire"]);
        }
        net
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in [&self.inside, &self.world] {
            drop(Command::new("ip").args(["netns", "delete", space]).output());
        }
    }
}

/// `ip`, which has to succeed.
pub(crate) fn ip(arguments: &[&str]) {
    let out = Command::new("ip")
        .args(arguments)
        .output()
        .expect("iproute2 is installed");
    assert!(out.status.success(), "ip {arguments:?}: {out:?}");
}

/// Takes this thread, and what it starts, into a namespace.
pub(crate) fn enter(namespace: &str) {
    let file = File::open(Path::new(FOLDER).join(namespace)).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// What runs that were killed have left.
fn remove_stale() {
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            drop(Command::new("ip").args(["netns", "delete", &name]).output());
        }
    }
}

/// A process in a cgroup and a namespace.
pub(crate) struct Actor {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Actor {
    pub(crate) fn new(cgroup: &Path, namespace: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
            .arg(cgroup)
            .arg(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "net::actor",
                "--nocapture",
                "--test-threads",
                "1",
            ])
            .env("BAILIWICK_TEST_NETNS", namespace)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let mut actor = Self { child, to, from };
        assert_eq!(actor.answer(), "ready");
        actor
    }

    /// Gives a command, and hears what came of it.
    pub(crate) fn tell(&mut self, command: &str) -> String {
        writeln!(self.to, "{command}").unwrap();
        self.answer()
    }

    /// Gives a command that takes its time; [`Actor::answer`] waits for the end.
    pub(crate) fn begin(&mut self, command: &str) {
        writeln!(self.to, "{command}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.from.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the actor is gone");
            // The harness speaks on the same stream.
            if let Some(answer) = line.trim_end().strip_prefix('@') {
                return answer.to_owned();
            }
        }
    }

    /// Opens a UDP socket that counts what it receives.
    pub(crate) fn count_at(&mut self, address: &str) {
        assert_eq!(self.tell(&format!("count {address}")), "counting");
    }

    /// Datagrams received since the last question, once no more come.
    pub(crate) fn counted(&mut self) -> u64 {
        self.tell("counted").parse().unwrap()
    }

    /// Sends three datagrams; `sent` or the error's name.
    pub(crate) fn send(&mut self, from: &str, to: &str) -> String {
        self.tell(&format!("send {from} {to}"))
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How long an answer over TCP may take.
const PATIENCE: Duration = Duration::from_millis(700);

#[test]
#[ignore = "no test: the process that the others start"]
fn actor() {
    let namespace = std::env::var("BAILIWICK_TEST_NETNS").expect("started by a test");
    enter(&namespace);
    println!("\n@ready");
    let received = Arc::new(AtomicU64::new(0));
    let mut stream: Option<TcpStream> = None;
    let mut program: Option<CgroupSkb> = None;
    let mut wire = None;
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["count", address] => {
                let socket = UdpSocket::bind(address).unwrap();
                let received = Arc::clone(&received);
                thread::spawn(move || {
                    while socket.recv(&mut [0; 64]).is_ok() {
                        received.fetch_add(1, Ordering::SeqCst);
                    }
                });
                "counting".to_owned()
            }
            ["counted"] => settled(&received).to_string(),
            ["send", from, to] => send(from, to),
            ["scan", from, to, ports] => scan(from, to, ports.parse().unwrap()).to_string(),
            ["flood", from, to, millis] => flood(from, to, millis.parse().unwrap()).to_string(),
            ["open", pin] => {
                // Which hook it is for makes no difference to a run that no hook asked for.
                program = Some(CgroupSkb::from_pin(pin, CgroupSkbAttachType::Egress).unwrap());
                "open".to_owned()
            }
            ["judge", packet] => judge(
                program.as_ref().unwrap(),
                *wire.get_or_insert_with(wire_index),
                packet,
            ),
            ["sniff", device] => {
                raw::sniff(device, Arc::clone(&received));
                "counting".to_owned()
            }
            ["frame", device, protocol, frame] => {
                let frame = hex::decode(frame).unwrap();
                raw::send(device, protocol.parse().unwrap(), &frame)
            }
            ["option", name, length] => raw::option(name.parse().unwrap(), length.parse().unwrap()),
            ["echo", address] => {
                let listener = TcpListener::bind(address).unwrap();
                thread::spawn(move || {
                    for stream in listener.incoming() {
                        thread::spawn(move || echo(stream.unwrap()));
                    }
                });
                "echoing".to_owned()
            }
            ["connect", to] => {
                let to: SocketAddr = to.parse().unwrap();
                match TcpStream::connect_timeout(&to, PATIENCE) {
                    Ok(connected) => {
                        connected.set_read_timeout(Some(PATIENCE)).unwrap();
                        stream = Some(connected);
                        "connected".to_owned()
                    }
                    Err(err) => format!("{:?}", err.kind()),
                }
            }
            ["early", kind, to] => early(kind, to.parse().unwrap()),
            ["ask"] => ask(stream.as_mut().unwrap()),
            _ => panic!("{line}"),
        };
        println!("@{answer}");
    }
}

/// What connecting says at once; no wait for an answer.
fn early(kind: &str, to: SocketAddr) -> String {
    let outcome = match kind {
        "tcp" => TcpStream::connect_timeout(&to, Duration::from_millis(1)).map(drop),
        "mptcp" => raw::connect_mptcp(to),
        _ => {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(any).and_then(|socket| socket.connect(to))
        }
    };
    match outcome {
        Err(err) if err.raw_os_error() == Some(libc::EPERM) => "EPERM".to_owned(),
        Err(err) if err.raw_os_error() == Some(libc::EPROTONOSUPPORT) => "unknown".to_owned(),
        _ => "passed".to_owned(),
    }
}

/// The count, once it has stood still.
fn settled(received: &AtomicU64) -> u64 {
    let mut before = received.load(Ordering::SeqCst);
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(150) {
        thread::sleep(Duration::from_millis(10));
        let now = received.load(Ordering::SeqCst);
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    received.swap(0, Ordering::SeqCst)
}

fn send(from: &str, to: &str) -> String {
    let socket = UdpSocket::bind(from).unwrap();
    for _ in 0..3 {
        if let Err(err) = socket.send_to(b"bailiwick", to) {
            return format!("{:?}", err.kind());
        }
    }
    "sent".to_owned()
}

/// What the program returns for a packet on `wire`, given from its network header on.
fn judge(program: &CgroupSkb, wire: u32, packet: &str) -> String {
    let packet = hex::decode(packet).unwrap();
    let kind: [u8; 2] = match packet.first().map(|first| first >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [0x08, 0x00],
    };
    let frame = [&[0; 12], &kind[..], &packet].concat();
    // `struct __sk_buff`, up to `ifindex`: any device but the loopback device.
    let mut context = [0; 44];
    context[40..].copy_from_slice(&wire.to_ne_bytes());
    let run = program.test_run(TestRunOptions {
        data_in: Some(&frame),
        ctx_in: Some(&context),
        ..TestRunOptions::new()
    });
    match run {
        Ok(done) => done.return_value.to_string(),
        Err(err) => format!("{err:?}"),
    }
}

fn wire_index() -> u32 {
    // Of the namespace this thread is in: /sys shows the one it was mounted in.
    let out = Command::new("ip")
        .args(["-o", "link", "show", "wire"])
        .output()
        .unwrap();
    let line = String::from_utf8(out.stdout).unwrap();
    line.split(':').next().unwrap().parse().unwrap()
}

/// Tries each port once, whatever comes of it.
fn scan(from: &str, to: &str, ports: u16) -> u64 {
    let socket = UdpSocket::bind(from).unwrap();
    let mut tries = 0;
    for port in 1..=ports {
        drop(socket.send_to(b"bailiwick", (to, port)));
        tries += 1;
    }
    tries
}

/// Tries as often as it can, whatever comes of it.
fn flood(from: &str, to: &str, millis: u64) -> u64 {
    let socket = UdpSocket::bind(from).unwrap();
    let end = Instant::now() + Duration::from_millis(millis);
    let mut tries = 0;
    while Instant::now() < end {
        drop(socket.send_to(b"bailiwick", to));
        tries += 1;
    }
    tries
}

fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        stream.write_all(&byte).unwrap();
    }
}

fn ask(stream: &mut TcpStream) -> String {
    match stream
        .write_all(b"x")
        .and_then(|()| stream.read_exact(&mut [0]))
    {
        Ok(()) => "answered".to_owned(),
        Err(err) => format!("{:?}", err.kind()),
    }
}
