//! The fence is tried before anybody is told that it stands.
//!
//! A child in a cgroup that no policy names sends one datagram to the loopback device. The kernel
//! must refuse it. Then a frame of an ethertype that nobody may send goes to every uplink, which
//! must refuse it too.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{FenceError, lines};

/// Name of the cgroup, below the fence root.
const CGROUP: &str = "bailiwick-probe";

/// More than this, and the machine is in no state to say that it is fenced.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the child says when the datagram was refused.
const DENIED: &str = "denied";

/// A fence root to try.
#[derive(Clone, Debug)]
pub struct Probe {
    root: PathBuf,
    /// Index and name of each uplink that is up.
    uplinks: Vec<(u32, String)>,
}

impl Probe {
    pub(super) fn new(root: &Path, uplinks: Vec<(u32, String)>) -> Self {
        Self {
            root: root.to_owned(),
            uplinks,
        }
    }

    /// Runs `program probe fence` in the cgroup; anything but a refusal is an error.
    pub fn run(&self, program: &Path) -> Result<(), FenceError> {
        let cgroup = self.root.join(CGROUP);
        let fault = |what: &str, err: io::Error| FenceError::Probe(format!("{what}: {err}"));
        match fs::create_dir(&cgroup) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                return Err(fault("make its cgroup", err));
            }
            _ => {}
        }
        let said = Command::new(program)
            .args(["probe", "fence"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .and_then(|mut child| {
                let said = hear(&mut child, &cgroup);
                if said.is_err() {
                    // It may be gone already; either way it has to be reaped.
                    drop(child.kill());
                }
                drop(child.wait());
                said
            });
        // A cgroup that cannot go yet is used again by the next probe.
        drop(fs::remove_dir(&cgroup));
        match said.map_err(|err| fault("ask the child", err))?.as_str() {
            DENIED => self.try_uplinks(),
            "" => Err(FenceError::Probe("the child said nothing".to_owned())),
            other => Err(FenceError::Probe(format!(
                "a datagram that must be denied: {}",
                other.escape_debug()
            ))),
        }
    }
}

impl Probe {
    /// A frame that nobody may send, by each uplink.
    pub(super) fn try_uplinks(&self) -> Result<(), FenceError> {
        for (index, name) in &self.uplinks {
            match lines::probe(*index) {
                Ok(true) => {}
                Ok(false) => {
                    let passed = format!("a frame that {name} must refuse: passed");
                    return Err(FenceError::Probe(passed));
                }
                // It went down or away since; nothing passes there.
                Err(err)
                    if matches!(
                        err.raw_os_error(),
                        Some(libc::ENETDOWN | libc::ENODEV | libc::ENXIO)
                    ) => {}
                Err(err) => return Err(FenceError::Probe(format!("a frame by {name}: {err}"))),
            }
        }
        Ok(())
    }
}

/// Moves the child, tells it to go on, and hears what it says.
fn hear(child: &mut Child, cgroup: &Path) -> io::Result<String> {
    fs::write(cgroup.join("cgroup.procs"), child.id().to_string())?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(b"\n")?;
    }
    let end = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        output.take(256).read_to_string(&mut said)?;
    }
    Ok(said)
}

/// The child's part: waits until it has been moved, for a socket belongs to the cgroup it was made
/// in, then sends.
#[must_use]
pub fn send() -> String {
    let mut go = [0];
    match io::stdin().read(&mut go) {
        Ok(1) => {}
        Ok(_) => return "the parent is gone".to_owned(),
        Err(err) => return format!("stdin: {err}"),
    }
    let sent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        // Port 9 discards, where anybody listens at all.
        .and_then(|socket| socket.send_to(b"bailiwick", (Ipv4Addr::LOCALHOST, 9)));
    match sent {
        Err(err) if err.raw_os_error() == Some(libc::EPERM) => DENIED.to_owned(),
        Err(err) => format!("failed otherwise: {err}"),
        Ok(_) => "passed".to_owned(),
    }
}
