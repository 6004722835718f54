//! One virtual machine: its disks, its firmware's variables, its TPM. It can be booted again.
//!
//! QEMU interprets the processor, so that nothing of the host is needed. Two network cards end in
//! a hub inside QEMU: what leaves by the one arrives at the other, and nothing leaves the machine. A
//! third reaches two ports of this machine's loopback, where a collector is, and nothing else.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::cmd::{self, step};
use crate::demo::daemon::tied;

const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd";
/// With Microsoft's keys, by which shim is signed.
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";
/// With no keys at all: everything boots.
const VARIABLES_OPEN: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Where the machine finds a collector.
pub(super) const SITE: &str = "10.0.2.100";
/// Ports there: enrolment, evidence.
pub(super) const SITE_PORTS: [u16; 2] = [7001, 7002];

/// What carries connections to a collector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carrier<'a> {
    /// A busybox, for its `nc`.
    pub(super) busybox: &'a Path,
    /// On this machine's loopback, in the order of [`SITE_PORTS`].
    pub(super) ports: [u16; 2],
}

/// What distinguishes one machine from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Make<'a> {
    pub(super) secure_boot: bool,
    /// Banks of the TPM.
    pub(super) banks: &'a str,
    /// Its root disk is a copy of this one.
    pub(super) root: &'a Path,
    /// Its boot disk; not written to.
    pub(super) boot: &'a Path,
    pub(super) carrier: Option<Carrier<'a>>,
}

/// A machine that is off.
#[derive(Debug)]
pub(super) struct Machine {
    dir: PathBuf,
    boot: PathBuf,
    /// The third card's options, if it has one.
    carrier: Option<String>,
    boots: u32,
}

/// A machine that is on; powered off hard when dropped.
#[derive(Debug)]
pub(super) struct On {
    qemu: Running,
    tpm: Running,
    said: BufReader<fs::File>,
    /// Half a line, until the rest has come.
    half: String,
    orders: UnixStream,
    given: u64,
    console: PathBuf,
    begun: Instant,
    _sockets: Sockets,
}

impl Machine {
    pub(super) fn assemble(dir: &Path, make: Make<'_>) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("clear {}", dir.display()))?;
        }
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        cmd::run(
            cmd::command("cp")
                .arg("--sparse=always")
                .arg(make.root)
                .arg(dir.join("root.ext4")),
        )?;
        let variables = if make.secure_boot {
            VARIABLES
        } else {
            VARIABLES_OPEN
        };
        fs::copy(variables, dir.join("variables.fd")).context("copy the firmware's variables")?;
        manufacture(&dir.join("tpm"), make.banks)?;
        Ok(Self {
            dir: dir.to_owned(),
            boot: make.boot.to_owned(),
            carrier: make.carrier.as_ref().map(Carrier::options),
            boots: 0,
        })
    }

    /// Where its disks are, and what it said.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The firmware's variables, in a file; not while it is on.
    pub(super) fn variables(&self) -> PathBuf {
        self.dir.join("variables.fd")
    }

    /// Certificates of who made its TPM: roots, and what lies between.
    pub(super) fn maker(&self) -> Result<(PathBuf, Option<PathBuf>)> {
        let named =
            |name: &str| Some(self.dir.join("tpm/maker").join(name)).filter(|file| file.exists());
        let issuer = named("issuer.pem").context("swtpm_localca left no issuer")?;
        Ok(match named("swtpm-localca-rootca-cert.pem") {
            Some(root) => (root, Some(issuer)),
            None => (issuer, None),
        })
    }

    /// Powers on, listens until it powers off or `limit` is over: a value a line goes to `heard`. How
    /// long that took.
    pub(super) fn boot(&mut self, limit: Duration, heard: &mut Vec<Value>) -> Result<Duration> {
        let mut on = self.power_on()?;
        on.hear(limit, heard, |_| false)?;
        on.end()
    }

    pub(super) fn power_on(&mut self) -> Result<On> {
        self.boots += 1;
        let said = self.dir.join(format!("said-{}.jsonl", self.boots));
        let console = self.dir.join(format!("console-{}.log", self.boots));
        for file in [&said, &console] {
            fs::write(file, "").with_context(|| format!("make {}", file.display()))?;
        }
        let sockets = tempfile_dir()?;
        let tpm = self.power_tpm(&sockets.path.join("tpm"))?;
        let orders = UnixListener::bind(sockets.path.join("orders")).context("listen")?;
        let begun = Instant::now();
        let mut qemu = Running(
            self.qemu(&sockets.path, &said, &console)
                .spawn()
                .context("start qemu-system-x86_64")?,
        );
        let orders = accept(&orders, &mut qemu.0).with_context(|| last_words(&console))?;
        Ok(On {
            qemu,
            tpm,
            said: BufReader::new(fs::File::open(&said).context("open what it says")?),
            half: String::new(),
            orders,
            given: 0,
            console,
            begun,
            _sockets: sockets,
        })
    }

    fn power_tpm(&self, socket: &Path) -> Result<Running> {
        let mut command = tied("swtpm");
        command
            .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
            .arg(format!("dir={}", self.dir.join("tpm/state").display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", socket.display()))
            .process_group(0);
        let child = Running(command.spawn().context("start swtpm")?);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            if Instant::now() > deadline {
                bail!("swtpm did not listen on {}", socket.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(child)
    }

    fn qemu(&self, sockets: &Path, said: &Path, console: &Path) -> std::process::Command {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut qemu = tied("qemu-system-x86_64");
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            // No vector instructions beyond the first: an interpreter is slower at them than at
            // what they replace, and there would be hashes made of them.
            "-cpu",
            "qemu64",
            // A second one would have the first wait for it at each of firmware's management
            // interrupts, and on a machine that is busy that is most of a boot.
            "-smp",
            "1",
            "-m",
            "1536",
        ])
        .args([
            "-M",
            "q35,smm=on",
            "-global",
            "driver=cfi.pflash01,property=secure,value=on",
        ])
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-no-user-config",
        ])
        .args([
            "-drive",
            &format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}"),
        ])
        .args([
            "-drive",
            &format!("if=pflash,unit=1,format=raw,file={}", file("variables.fd")),
        ])
        .args([
            "-drive",
            &disk("boot", &self.boot.display().to_string(), "readonly=on,"),
        ])
        .args(["-device", "virtio-blk-pci,drive=boot,bootindex=0,addr=0x4"])
        .args(["-drive", &disk("root", &file("root.ext4"), "")])
        .args(["-device", "virtio-blk-pci,drive=root,addr=0x5"])
        .args([
            "-chardev",
            &format!("socket,id=tpm,path={}/tpm", sockets.display()),
        ])
        .args([
            "-tpmdev",
            "emulator,id=tpm0,chardev=tpm",
            "-device",
            "tpm-crb,tpmdev=tpm0",
        ])
        .args([
            "-chardev",
            &format!("file,id=console,path={}", console.display()),
        ])
        .args(["-serial", "chardev:console", "-device", "virtio-rng-pci"])
        .args(["-chardev", &format!("file,id=said,path={}", said.display())])
        .args([
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtserialport,chardev=said,nr=1",
        ])
        .args([
            "-chardev",
            &format!("socket,id=orders,path={}/orders", sockets.display()),
            "-device",
            "virtserialport,chardev=orders,nr=2",
        ]);
        for (card, number) in [("near", 1), ("far", 2)] {
            qemu.args(["-netdev", &format!("hubport,id={card},hubid=0")])
                .args([
                    "-device",
                    &format!(
                        "virtio-net-pci,netdev={card},mac=52:54:00:00:00:0{number},addr=0x{}",
                        number + 5
                    ),
                ]);
        }
        if let Some(carrier) = &self.carrier {
            qemu.args(["-netdev", carrier]).args([
                "-device",
                "virtio-net-pci,netdev=site,mac=52:54:00:00:00:03,addr=0x8",
            ]);
        }
        qemu.stdin(Stdio::null()).process_group(0);
        qemu
    }
}

impl Carrier<'_> {
    /// Nothing but these two ports answers, and nothing gets out.
    fn options(&self) -> String {
        let mut text = "user,id=site,ipv4=on,ipv6=off,restrict=on,net=10.0.2.0/24".to_owned();
        for (there, here) in SITE_PORTS.into_iter().zip(self.ports) {
            text += &format!(
                ",guestfwd=tcp:{SITE}:{there}-cmd:{} nc 127.0.0.1 {here}",
                self.busybox.display()
            );
        }
        text
    }
}

impl On {
    /// Reads lines as they come, until one is `wanted` or the machine is off: `None`.
    pub(super) fn hear(
        &mut self,
        limit: Duration,
        heard: &mut Vec<Value>,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>> {
        let deadline = Instant::now() + limit;
        loop {
            let off = self.qemu.0.try_wait().context("look after qemu")?.is_some();
            while self
                .said
                .read_line(&mut self.half)
                .context("read what it says")?
                > 0
                && self.half.ends_with('\n')
            {
                let line = std::mem::take(&mut self.half);
                let Some(value) = value(&line) else { continue };
                show(&value);
                heard.push(value.clone());
                if wanted(&value) {
                    return Ok(Some(value));
                }
            }
            if off {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                let words = last_words(&self.console);
                bail!("the machine was still on when its time was over: {words}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Has the program inside do something; its answer.
    pub(super) fn order(
        &mut self,
        order: &Value,
        limit: Duration,
        heard: &mut Vec<Value>,
    ) -> Result<Value> {
        self.given += 1;
        let number = self.given;
        let line = json!({ "order": number, "what": order });
        writeln!(self.orders, "{line}").context("give an order")?;
        let answer = self.hear(limit, heard, |value| value["answer"] == number)?;
        answer.with_context(|| format!("the machine went off: {}", last_words(&self.console)))
    }

    /// The same for what takes the machine down.
    pub(super) fn last_order(&mut self, order: &Value) -> Result<()> {
        self.given += 1;
        let line = json!({ "order": self.given, "what": order });
        writeln!(self.orders, "{line}").context("give an order")
    }

    /// Waits until the console shows one of these; which, or `None` when the time is over.
    pub(super) fn console<'w>(
        &self,
        limit: Duration,
        words: &[&'w str],
    ) -> Result<Option<&'w str>> {
        let deadline = Instant::now() + limit;
        loop {
            let bytes = fs::read(&self.console).context("read the console")?;
            let text = String::from_utf8_lossy(&bytes);
            if let Some(word) = words.iter().find(|word| text.contains(**word)) {
                return Ok(Some(word));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Fails once it is off.
    pub(super) fn alive(&mut self) -> Result<()> {
        match self.qemu.0.try_wait().context("look after qemu")? {
            None => Ok(()),
            Some(status) => bail!(
                "the machine went off ({status}): {}",
                last_words(&self.console)
            ),
        }
    }

    /// How long it was on. It is off, or is cut off.
    pub(super) fn end(self) -> Result<Duration> {
        let Self {
            qemu,
            mut tpm,
            begun,
            ..
        } = self;
        drop(qemu);
        let took = begun.elapsed();
        // It ends with the machine.
        cmd::wait_within(&mut tpm.0, Duration::from_secs(5))?;
        Ok(took)
    }
}

/// QEMU comes to us.
fn accept(orders: &UnixListener, qemu: &mut Child) -> Result<UnixStream> {
    orders.set_nonblocking(true).context("listen")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match orders.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).context("give orders")?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("listen"),
        }
        if let Some(status) = qemu.try_wait().context("look after qemu")? {
            bail!("qemu-system-x86_64 ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("qemu-system-x86_64 did not come for orders");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Killed when dropped: nobody else's, for we started it.
#[derive(Debug)]
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A folder with a short path: a socket's name has room for some hundred bytes.
#[derive(Debug)]
struct Sockets {
    path: PathBuf,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

fn tempfile_dir() -> Result<Sockets> {
    use std::os::unix::fs::DirBuilderExt as _;
    // Machines run side by side.
    static MADE: AtomicU32 = AtomicU32::new(0);
    let (pid, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(format!("bailiwick-vm-{pid}-{number}"));
    drop(fs::remove_dir_all(&path));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .with_context(|| format!("make {}", path.display()))?;
    Ok(Sockets { path })
}

fn disk(id: &str, file: &str, more: &str) -> String {
    format!("id={id},if=none,format=raw,cache=unsafe,{more}file={file}")
}

/// Makes a TPM and its EK certificates, by a maker that makes this one alone.
fn manufacture(dir: &Path, banks: &str) -> Result<()> {
    let (state, maker) = (dir.join("state"), dir.join("maker"));
    for dir in [&state, &maker] {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let local_ca = cmd::find("swtpm_localca").context("swtpm-tools brings swtpm_localca")?;
    let at = maker.display();
    for (name, text) in [
        (
            "localca.conf",
            format!(
                "statedir = {at}\nsigningkey = {at}/key.pem\nissuercert = {at}/issuer.pem\ncertserial = {at}/serial\n"
            ),
        ),
        (
            "localca.options",
            "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n"
                .to_owned(),
        ),
        (
            "setup.conf",
            format!(
                "create_certs_tool = {}\ncreate_certs_tool_config = {at}/localca.conf\n\
                 create_certs_tool_options = {at}/localca.options\nactive_pcr_banks = {banks}\n",
                local_ca.display()
            ),
        ),
    ] {
        fs::write(maker.join(name), text).with_context(|| format!("write {name}"))?;
    }
    let mut setup = cmd::command("swtpm_setup");
    setup
        .args([
            "--tpm2",
            "--create-ek-cert",
            "--lock-nvram",
            "--pcr-banks",
            banks,
            "--tpmstate",
        ])
        .arg(&state)
        .arg("--config")
        .arg(maker.join("setup.conf"));
    cmd::output(&mut setup).map(drop)
}

/// A check, as it comes.
fn show(value: &Value) {
    if let Some(check) = value["check"].as_str() {
        let word = if value["passed"] == true {
            "ok  "
        } else {
            "FAIL"
        };
        step(format_args!(
            "   {word} {check}: {}",
            shown(&value["found"])
        ));
    }
}

fn value(line: &str) -> Option<Value> {
    serde_json::from_str(line.trim()).ok()
}

fn shown(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(160) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

/// The end of the console, for whoever looks for the reason.
fn last_words(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let end = lines
        .get(lines.len().saturating_sub(25)..)
        .unwrap_or_default()
        .join("\n");
    format!("{}:\n{end}", console.display())
}
