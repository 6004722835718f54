//! One virtual machine: its disks, its firmware's variables, its TPM. It can be booted again.
//!
//! QEMU interprets the processor, so that nothing of the host is needed. Both network cards end in
//! a hub inside QEMU: what leaves by the one arrives at the other, and nothing leaves the machine.

use std::fs;
use std::io::BufRead as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cmd::{self, step};
use crate::demo::daemon::tied;

const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd";
/// With Microsoft's keys, by which shim is signed.
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";
/// With no keys at all: everything boots.
const VARIABLES_OPEN: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

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
}

/// A machine that is off.
#[derive(Debug)]
pub(super) struct Machine {
    dir: PathBuf,
    boot: PathBuf,
    boots: u32,
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
            boots: 0,
        })
    }

    /// Powers on, listens until it powers off or `limit` is over: a value a line goes to `heard`. How
    /// long that took.
    pub(super) fn boot(&mut self, limit: Duration, heard: &mut Vec<Value>) -> Result<Duration> {
        self.boots += 1;
        let said = self.dir.join(format!("said-{}.jsonl", self.boots));
        let console = self.dir.join(format!("console-{}.log", self.boots));
        for file in [&said, &console] {
            fs::write(file, "").with_context(|| format!("make {}", file.display()))?;
        }
        let sockets = tempfile_dir()?;
        let socket = sockets.path.join("tpm");
        let mut tpm = self.power_tpm(&socket)?;
        let begun = Instant::now();
        let mut qemu = Running(
            self.qemu(&socket, &said, &console)
                .spawn()
                .context("start qemu-system-x86_64")?,
        );
        let listened = listen(&mut qemu.0, &said, begun + limit, heard);
        drop(qemu);
        let took = begun.elapsed();
        // It ends with the machine.
        cmd::wait_within(&mut tpm.0, Duration::from_secs(5))?;
        listened.with_context(|| last_words(&console))?;
        Ok(took)
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

    fn qemu(&self, tpm: &Path, said: &Path, console: &Path) -> std::process::Command {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let mut qemu = tied("qemu-system-x86_64");
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
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
        .args(["-chardev", &format!("socket,id=tpm,path={}", tpm.display())])
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
            "virtserialport,chardev=said",
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
        qemu.stdin(Stdio::null()).process_group(0);
        qemu
    }
}

/// Killed when dropped: nobody else's, for we started it.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A folder with a short path: a socket's name has room for some hundred bytes.
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
    let path = std::env::temp_dir().join(format!("bailiwick-vm-{}", std::process::id()));
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

/// Reads lines as they come, until the machine is off.
fn listen(qemu: &mut Child, file: &Path, deadline: Instant, said: &mut Vec<Value>) -> Result<()> {
    let mut from = std::io::BufReader::new(fs::File::open(file).context("open what it says")?);
    let mut line = String::new();
    loop {
        let off = qemu.try_wait().context("look after qemu")?.is_some();
        // Half a line stays, and is read on when the rest has come.
        while from.read_line(&mut line).context("read what it says")? > 0 && line.ends_with('\n') {
            if let Some(value) = value(&line) {
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
                said.push(value);
            }
            line.clear();
        }
        if off {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("the machine was still on when its time was over");
        }
        thread::sleep(Duration::from_millis(100));
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
