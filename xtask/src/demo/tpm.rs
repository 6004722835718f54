//! The software TPM, and the bus it sits on.
//!
//! swtpm serves one connection at a time, and the agent keeps its own. A real TPM is shared by
//! whoever may open the device, so a bus stands between: each client has a connection, commands
//! take turns. That is what lets somebody extend a PCR behind the agent's back.

use std::fs;
use std::io::{self, Read, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::daemon::{Daemon, tied};
use super::scene::Scene;
use crate::cmd;

/// What "firmware" measures at each clean boot: PCR, and the digest it is extended with.
const MEASUREMENTS: [(u8, &str); 3] = [
    (
        0,
        "5b1f0d7a9c3e4826b7d1f0a2c4e6880913579bdf02468ace13579bdf02468ace",
    ),
    (
        4,
        "a7c3e1905d2b4f68b09e7d5c3a1f8e6d4c2b0a9988776655443322110ffeeddc",
    ),
    (
        7,
        "0f1e2d3c4b5a69788796a5b4c3d2e1f00112233445566778899aabbccddeeff0",
    ),
];

/// What a changed boot loader would leave in PCR 4.
const TAMPERED: &str = "deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef";

/// The longest command or response; TPMs are built with 4 KiB buffers.
const FRAME_LIMIT: usize = 16 * 1024;

type Upstream = Arc<Mutex<Option<Powered>>>;

/// A TPM that is on: its connection for commands, and the port of its control channel.
#[derive(Debug)]
struct Powered {
    commands: TcpStream,
    control: u16,
}

/// How a factory works, where it does not work as always.
#[derive(Clone, Debug, Default)]
pub struct Factory {
    /// Added to the environment of its tools.
    pub environment: Vec<(&'static str, String)>,
}

/// A TPM with an EK certificate of a manufacturer of its own.
#[derive(Debug)]
pub struct SoftTpm {
    name: String,
    state: PathBuf,
    bus: u16,
    upstream: Upstream,
    process: Option<Daemon>,
}

impl SoftTpm {
    /// Makes the TPM and its certificate as a factory would.
    pub fn manufacture(scene: &Scene) -> Result<Self> {
        Self::of_the_same_maker(scene, "tpm", &Factory::default())
    }

    /// One more of the same maker's, with a name of its own.
    pub fn of_the_same_maker(scene: &Scene, name: &str, factory: &Factory) -> Result<Self> {
        let state = scene.path(name);
        let ca = scene.path("tpm-maker");
        for dir in [&state, &ca] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let local_ca = cmd::find("swtpm_localca").context("swtpm-tools brings swtpm_localca")?;
        let conf = scene.path("tpm-maker/localca.conf");
        let options = scene.path("tpm-maker/localca.options");
        let setup = scene.path("tpm-maker/setup.conf");
        let dir = ca.display();
        let files = [
            (
                &conf,
                format!(
                    "statedir = {dir}\nsigningkey = {dir}/key.pem\nissuercert = {dir}/issuer.pem\ncertserial = {dir}/serial\n"
                ),
            ),
            (
                &options,
                "--platform-manufacturer Demo\n--platform-version 1\n--platform-model Demo\n"
                    .to_owned(),
            ),
            (
                &setup,
                format!(
                    "create_certs_tool = {}\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\nactive_pcr_banks = sha256\n",
                    local_ca.display(),
                    conf.display(),
                    options.display()
                ),
            ),
        ];
        for (file, text) in files {
            fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        }
        cmd::output(
            cmd::command("swtpm_setup")
                .args(["--tpm2", "--create-ek-cert", "--lock-nvram", "--tpmstate"])
                .arg(&state)
                .arg("--config")
                .arg(&setup)
                .envs(
                    factory
                        .environment
                        .iter()
                        .map(|(name, value)| (name, value)),
                ),
        )?;
        let upstream = Upstream::default();
        Ok(Self {
            name: name.to_owned(),
            state,
            bus: bus(Arc::clone(&upstream))?,
            upstream,
            process: None,
        })
    }

    /// The maker's certificates: the roots that an EK chain ends in, then what lies between.
    pub fn maker(scene: &Scene) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let ca = scene.path("tpm-maker");
        let named = |name: &str| Some(ca.join(name)).filter(|file| file.exists());
        let issuer = named("issuer.pem").context("swtpm_localca left no issuer")?;
        Ok(match named("swtpm-localca-rootca-cert.pem") {
            Some(root) => (vec![root], vec![issuer]),
            None => (vec![issuer], Vec::new()),
        })
    }

    /// How the agent and the tools reach it.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.bus)
    }

    /// Power on: a TPM reset, then what the firmware measures.
    pub fn boot(&mut self, scene: &Scene, tampered: bool) -> Result<()> {
        self.power_off()?;
        let (data, control) = port_pair()?;
        let mut command = tied("swtpm");
        command
            .args([
                "socket",
                "--tpm2",
                "--flags",
                "not-need-init,startup-clear",
                "--tpmstate",
            ])
            .arg(format!("dir={}", self.state.display()))
            .arg("--server")
            .arg(format!("type=tcp,port={data},bindaddr=127.0.0.1"))
            .arg("--ctrl")
            .arg(format!("type=tcp,port={control},bindaddr=127.0.0.1"));
        let mut process = Daemon::start(scene, &format!("sw{}", self.name), &mut command)?;
        let stream = scene.wait("the software TPM", Duration::from_secs(10), || {
            process.alive()?;
            TcpStream::connect((Ipv4Addr::LOCALHOST, data)).context("connect to swtpm")
        })?;
        stream.set_nodelay(true).context("set up the TPM's bus")?;
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = Some(Powered {
            commands: stream,
            control,
        });
        self.process = Some(process);
        for (pcr, digest) in MEASUREMENTS {
            self.extend(pcr, digest)?;
        }
        if tampered {
            self.tamper()?;
        }
        Ok(())
    }

    /// Power off. State that must last is on disk.
    fn power_off(&mut self) -> Result<()> {
        let old = self
            .upstream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(powered) = old {
            drop(powered.commands.shutdown(Shutdown::Both));
        }
        self.process.take().map_or(Ok(()), Daemon::stop)
    }

    /// Extends PCR 4 behind the agent's back.
    pub fn tamper(&self) -> Result<()> {
        self.extend(4, TAMPERED)
    }

    /// Clears it as its owner may who stands before it: every key made under the owner is gone, and
    /// so are its clock and its count of resets.
    pub fn clear(&self) -> Result<()> {
        cmd::output(cmd::command("tpm2_clear").args(["-T", &self.tcti(), "-c", "p"])).map(drop)
    }

    fn extend(&self, pcr: u8, digest: &str) -> Result<()> {
        cmd::output(
            cmd::command("tpm2_pcrextend")
                .args(["-T", &self.tcti()])
                .arg(format!("{pcr}:sha256={digest}")),
        )
        .map(drop)
    }

    /// The SHA-256 values of PCRs 0 to 7 now: what an approver writes into the profile.
    pub fn values(&self) -> Result<Vec<(u8, String)>> {
        let text = cmd::output(cmd::command("tpm2_pcrread").args([
            "-T",
            &self.tcti(),
            "sha256:0,1,2,3,4,5,6,7",
        ]))?;
        let values: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter_map(|(index, value)| {
                let digest = value.trim().strip_prefix("0x")?.to_lowercase();
                Some((index.trim().parse().ok()?, digest))
            })
            .collect();
        if values.len() != 8 {
            bail!("tpm2_pcrread printed {} of 8 values:\n{text}", values.len());
        }
        Ok(values)
    }
}

/// swtpm wants two ports and takes numbers only, so somebody else may take them first; a demo
/// that loses that race says so and can be run again.
fn port_pair() -> Result<(u16, u16)> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    Ok((
        port(&first).context("find a free port")?,
        port(&second).context("find a free port")?,
    ))
}

type Serve = fn(TcpStream, &Upstream) -> io::Result<()>;

/// Two ports in a row on loopback, as clients expect them: commands, where each connection's are
/// passed on in turn, and the control channel, where they say which locality they speak from.
fn bus(upstream: Upstream) -> Result<u16> {
    for _ in 0..50 {
        let commands = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("open the TPM's bus")?;
        let port = commands.local_addr().context("open the TPM's bus")?.port();
        let Some(next) = port.checked_add(1) else {
            continue;
        };
        let Ok(control) = TcpListener::bind((Ipv4Addr::LOCALHOST, next)) else {
            continue;
        };
        let channels: [(TcpListener, Serve); 2] = [(commands, serve), (control, serve_control)];
        for (listener, work) in channels {
            let upstream = Arc::clone(&upstream);
            thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let upstream = Arc::clone(&upstream);
                    // A client that goes away, or a TPM without power, ends the connection.
                    thread::spawn(move || drop(work(client, &upstream)));
                }
            });
        }
        return Ok(port);
    }
    bail!("no two free ports in a row for the TPM's bus")
}

fn serve(mut client: TcpStream, upstream: &Upstream) -> io::Result<()> {
    client.set_nodelay(true)?;
    loop {
        let command = frame(&mut client)?;
        let mut guard = upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let tpm = &mut guard.as_mut().ok_or(io::ErrorKind::NotConnected)?.commands;
        tpm.write_all(&command)?;
        let response = frame(tpm)?;
        drop(guard);
        client.write_all(&response)?;
    }
}

/// Control commands have no length of their own, so bytes are passed on as they come.
fn serve_control(mut client: TcpStream, upstream: &Upstream) -> io::Result<()> {
    let guard = upstream.lock().unwrap_or_else(PoisonError::into_inner);
    let port = guard.as_ref().ok_or(io::ErrorKind::NotConnected)?.control;
    drop(guard);
    let mut tpm = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let (mut answers, mut back) = (tpm.try_clone()?, client.try_clone()?);
    thread::spawn(move || io::copy(&mut answers, &mut back).map(drop));
    io::copy(&mut client, &mut tpm)?;
    tpm.shutdown(Shutdown::Write)
}

/// One command or response: tag, length of the whole in big-endian, the rest.
fn frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = [0; 6];
    stream.read_exact(&mut head)?;
    let [_, _, a, b, c, d] = head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let rest = length
        .checked_sub(head.len())
        .filter(|_| length <= FRAME_LIMIT);
    let mut whole = head.to_vec();
    whole.resize(head.len() + rest.ok_or(io::ErrorKind::InvalidData)?, 0);
    if let Some(body) = whole.get_mut(head.len()..) {
        stream.read_exact(body)?;
    }
    Ok(whole)
}
