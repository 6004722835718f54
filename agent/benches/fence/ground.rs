//! Where traffic is measured: two namespaces and a wire between them, and processes in them that
//! do as they are told. No packet can leave the machine.
//!
//! An *actor* is this program again: it enters a cgroup before it begins and a network namespace
//! before it opens a socket, then reads one command per line and answers each.

use std::{
    env,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    TestRunOptions,
    programs::{CgroupSkb, CgroupSkbAttachType, TestRun as _},
};
use rustix::thread::{
    CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_getaffinity, sched_setaffinity,
};

/// Tells an actor its namespace.
const ACTOR: &str = "BAILIWICK_BENCH_NAMESPACE";
const FOLDER: &str = "/run/netns";

/// Where the workloads are.
pub(crate) const HERE: &str = "10.9.1.1";
/// Where everything else is: an address that the map of the bench puts in Germany.
pub(crate) const THERE: &str = "192.0.2.10";

const ECHO: u16 = 7001;
const SINK: u16 = 7002;
const COUNT: u16 = 7003;

/// With 14 bytes of Ethernet, 28 of IP and UDP, and 4 of checksum: frames of 64 bytes.
const SMALL: [u8; 18] = [0; 18];

/// Two namespaces and the wire between them.
pub(crate) struct Net {
    pub(crate) inside: String,
    pub(crate) outside: String,
}

impl Net {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let pid = std::process::id();
        let net = Self {
            inside: format!("bwb{pid}-{name}-in"),
            outside: format!("bwb{pid}-{name}-out"),
        };
        let Self { inside, outside } = &net;
        ip(&format!("netns add {inside}"))?;
        ip(&format!("netns add {outside}"))?;
        ip(&format!(
            "-n {inside} link add wire type veth peer name wire netns {outside}"
        ))?;
        for (space, address) in [(inside, HERE), (outside, THERE)] {
            ip(&format!("-n {space} address add {address}/32 dev wire"))?;
            ip(&format!("-n {space} link set wire up"))?;
            ip(&format!("-n {space} link set lo up"))?;
            ip(&format!("-n {space} route add default dev wire"))?;
        }
        Ok(net)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in [&self.inside, &self.outside] {
            // What cannot go is named after a process that is gone, and holds nothing.
            drop(ip(&format!("netns delete {space}")));
        }
    }
}

fn ip(arguments: &str) -> Result<()> {
    let out = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .context("iproute2 is not installed")?;
    if !out.status.success() {
        bail!("ip {arguments}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

/// A process in a cgroup and a namespace.
pub(crate) struct Actor {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Actor {
    pub(crate) fn new(cgroup: &Path, namespace: &str) -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
            .arg(cgroup)
            .arg(env::current_exe()?)
            .env(ACTOR, namespace)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().context("a pipe")?;
        let from = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut actor = Self { child, to, from };
        if actor.answer()? != "ready" {
            bail!("the actor is not ready");
        }
        Ok(actor)
    }

    /// Gives a command, and hears what came of it.
    pub(crate) fn tell(&mut self, command: &str) -> Result<String> {
        writeln!(self.to, "{command}")?;
        let answer = self.answer()?;
        if let Some(fault) = answer.strip_prefix("failed: ") {
            bail!("{command}: {fault}");
        }
        Ok(answer)
    }

    /// The same for an answer that is a number.
    pub(crate) fn ask(&mut self, command: &str) -> Result<f64> {
        let answer = self.tell(command)?;
        answer
            .parse()
            .with_context(|| format!("{command}: {answer}"))
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("the actor is gone");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Does as it is told, if this process is an actor.
pub(crate) fn act() -> Option<Result<()>> {
    let namespace = env::var(ACTOR).ok()?;
    Some(serve(&namespace))
}

#[expect(clippy::print_stdout, reason = "the answers")]
fn serve(namespace: &str) -> Result<()> {
    let file = File::open(Path::new(FOLDER).join(namespace))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut actor = Acting::default();
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        match actor.act(&words) {
            Ok(answer) => println!("{answer}"),
            Err(fault) => println!("failed: {fault:#}"),
        }
    }
    Ok(())
}

#[derive(Default)]
struct Acting {
    received: Arc<AtomicU64>,
    echo: Option<TcpStream>,
}

impl Acting {
    fn act(&mut self, words: &[&str]) -> Result<String> {
        Ok(match *words {
            ["cpu", number] => {
                stay_on(number.parse()?)?;
                "there".to_owned()
            }
            ["serve", address] => {
                self.listen(address)?;
                "serving".to_owned()
            }
            ["received"] => self.settled().to_string(),
            ["rtt", address, rounds] => self.rtt(address, rounds.parse()?)?.to_string(),
            ["stream", address, millis] => stream(address, millis.parse()?)?.to_string(),
            ["udp", address, millis] => flood(address, millis.parse()?)?.to_string(),
            ["judge", pin, repeat] => judge(pin, repeat.parse()?)?.to_string(),
            _ => bail!("{words:?}"),
        })
    }

    fn listen(&self, address: &str) -> Result<()> {
        let echo = TcpListener::bind((address, ECHO))?;
        thread::spawn(move || {
            for mut stream in echo.incoming().flatten() {
                let mut byte = [0];
                // Until the other side is done.
                let _done = stream.set_nodelay(true);
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            }
        });
        let sink = TcpListener::bind((address, SINK))?;
        thread::spawn(move || {
            let mut room = vec![0; 1 << 17];
            for mut stream in sink.incoming().flatten() {
                let mut taken = 0_u64;
                while let Ok(read @ 1..) = stream.read(&mut room) {
                    taken = taken.saturating_add(u64::try_from(read).unwrap_or(0));
                }
                let _told = stream.write_all(&taken.to_be_bytes());
            }
        });
        let count = UdpSocket::bind((address, COUNT))?;
        let received = Arc::clone(&self.received);
        thread::spawn(move || {
            while count.recv(&mut [0; 64]).is_ok() {
                received.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(())
    }

    /// Datagrams received since the last question, once no more come.
    fn settled(&self) -> u64 {
        let mut before = self.received.load(Ordering::Relaxed);
        loop {
            thread::sleep(Duration::from_millis(50));
            let now = self.received.load(Ordering::Relaxed);
            if now == before {
                return self.received.swap(0, Ordering::Relaxed);
            }
            before = now;
        }
    }

    /// Nanoseconds of one request and its answer: the median of batches of a hundred.
    fn rtt(&mut self, address: &str, batches: usize) -> Result<f64> {
        if self.echo.is_none() {
            let to: SocketAddr = format!("{address}:{ECHO}").parse()?;
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            self.echo = Some(stream);
        }
        let stream = self.echo.as_mut().context("connected")?;
        let mut all = Vec::with_capacity(batches);
        for _ in 0..batches {
            let begun = Instant::now();
            for _ in 0..100 {
                stream.write_all(b"x")?;
                stream.read_exact(&mut [0])?;
            }
            all.push(begun.elapsed().as_secs_f64() * 1e7);
        }
        all.sort_by(f64::total_cmp);
        all.get(batches / 2).copied().context("no batch")
    }
}

/// Moves this thread, and those it starts, to one processor.
fn stay_on(number: usize) -> Result<()> {
    let allowed = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .cycle();
    let mut only = CpuSet::new();
    only.set(cpus.nth(number).context("no processor")?);
    sched_setaffinity(None, &only)?;
    Ok(())
}

/// Bytes a second, as the receiver counted them.
fn stream(address: &str, millis: u64) -> Result<f64> {
    let to: SocketAddr = format!("{address}:{SINK}").parse()?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    let bytes = vec![0; 1 << 17];
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(millis) {
        stream.write_all(&bytes)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut taken = [0; 8];
    stream.read_exact(&mut taken)?;
    let taken = u32::try_from(u64::from_be_bytes(taken) >> 10)?;
    Ok(f64::from(taken) * 1024.0 / begun.elapsed().as_secs_f64())
}

/// Sends as many datagrams as it can; gives how many seconds that took.
fn flood(address: &str, millis: u64) -> Result<f64> {
    let socket = UdpSocket::bind((HERE, 0))?;
    socket.connect((address, COUNT))?;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(millis) {
        for _ in 0..64 {
            // A full queue loses one, which the receiver does not count.
            let _sent = socket.send(&SMALL);
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Nanoseconds that a pinned program takes for one datagram out, and whether it lets it pass.
fn judge(pin: &str, repeat: u32) -> Result<f64> {
    let program = CgroupSkb::from_pin(pin, CgroupSkbAttachType::Egress)?;
    // Ethernet, IPv4 from HERE to THERE, UDP.
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(HERE.parse::<std::net::Ipv4Addr>()?.octets());
    frame.extend(THERE.parse::<std::net::Ipv4Addr>()?.octets());
    frame.extend([0x1b, 0x5b, 0x1b, 0x5b, 0, 26, 0, 0]);
    frame.extend(SMALL);
    // `struct __sk_buff` up to `ifindex`: any device but the loopback device.
    let mut context = [0; 44];
    if let Some(index) = context.last_chunk_mut() {
        *index = 2_u32.to_ne_bytes();
    }
    let done = program.test_run(TestRunOptions {
        data_in: Some(&frame),
        ctx_in: Some(&context),
        repeat,
        ..TestRunOptions::new()
    })?;
    if done.return_value & 1 == 0 {
        bail!("the datagram is denied");
    }
    Ok(done.duration.as_secs_f64() * 1e9)
}
