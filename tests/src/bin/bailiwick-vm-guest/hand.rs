//! Does what the host says, an order a line: the host directs, and is where the collector runs.
//!
//! Orders come by a port of their own, answers go where everything is told.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::Told;
use crate::host::{read, run, wait};
use crate::wire::card;

/// Second port of the virtio console.
const ORDERS: &str = "p2";
/// The card behind which the collector is.
const CARD: &str = "52:54:00:00:00:03";
/// Most of what a program said.
const SAID: usize = 64 * 1024;

pub(crate) fn run_orders(told: &mut Told) -> Result<()> {
    told.fact("kernel", read("/proc/sys/kernel/osrelease")?)?;
    drop(run("mount -t efivarfs none /sys/firmware/efi/efivars"));
    run("ip link set lo up")?;
    let site = card(CARD)?;
    run(&format!("ip link set {site} name site0"))?;
    run("ip addr add 10.0.2.15/24 dev site0")?;
    run("ip link set site0 up")?;
    wait("the third card", Duration::from_secs(20), || {
        match read("/sys/class/net/site0/carrier")?.as_str() {
            "1" => Ok(()),
            _ => bail!("no carrier"),
        }
    })?;
    let port = port()?;
    let mut orders = File::open(&port).with_context(|| format!("open {}", port.display()))?;
    told.line(&json!({ "hand": "ready" }))?;
    let mut children = Children::default();
    let mut text = Vec::new();
    loop {
        let line = next_line(&mut orders, &mut text)?;
        let order: Value = serde_json::from_slice(&line).context("read an order")?;
        if order["what"]["end"] == true {
            return Ok(());
        }
        let mut answer = match obey(&order["what"], &mut children) {
            Ok(answer) => answer,
            Err(error) => json!({ "ok": false, "error": format!("{error:#}") }),
        };
        answer["answer"] = order["order"].clone();
        told.line(&answer)?;
    }
}

/// Killed when dropped.
#[derive(Default)]
struct Children(BTreeMap<String, Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in self.0.values_mut() {
            drop(child.kill());
        }
    }
}

fn obey(what: &Value, children: &mut Children) -> Result<Value> {
    let word = |key: &str| what[key].as_str();
    if let Some(path) = word("write") {
        let bytes = STANDARD
            .decode(word("base64").context("bytes to write")?)
            .context("bytes to write")?;
        let folder = Path::new(path).parent().context("a file has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        fs::write(path, bytes).with_context(|| format!("write {path}"))?;
        let mode = if what["program"] == true {
            0o755
        } else {
            0o600
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("set the mode of {path}"))?;
        return Ok(json!({ "ok": true }));
    }
    if let Some(path) = word("read") {
        let bytes = fs::read(path).with_context(|| format!("read {path}"))?;
        return Ok(json!({ "ok": true, "base64": STANDARD.encode(bytes) }));
    }
    if let Some(name) = word("start") {
        let mut command = command(what)?;
        // The way to the host is one's alone; the console is everybody's.
        command.stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        children.0.insert(name.to_owned(), child);
        return Ok(json!({ "ok": true }));
    }
    if let Some(name) = word("stop") {
        let mut child = children.0.remove(name).context("no such child")?;
        let early = child.try_wait().context("look after a child")?;
        child.kill().with_context(|| format!("kill {name}"))?;
        child.wait().with_context(|| format!("wait for {name}"))?;
        return Ok(json!({ "ok": early.is_none() }));
    }
    if let Some(kernel) = word("kexec") {
        let initrd = word("initrd").context("a ramdisk")?;
        kexec(Path::new(kernel), Path::new(initrd))?;
    }
    if what["run"].is_array() {
        let out = command(what)?.output().context("run a program")?;
        let text = |bytes: &[u8]| {
            let bytes = bytes.get(..SAID).unwrap_or(bytes);
            String::from_utf8_lossy(bytes).into_owned()
        };
        return Ok(json!({
            "ok": out.status.success(),
            "out": text(&out.stdout),
            "error": text(&out.stderr),
        }));
    }
    bail!("no order is like {what}");
}

fn command(what: &Value) -> Result<Command> {
    let words = what["run"].as_array().context("words to run")?;
    let mut words = words.iter().map(|word| word.as_str().unwrap_or_default());
    let mut command = Command::new(words.next().context("a program to run")?);
    command.args(words).stdin(Stdio::null());
    Ok(command)
}

fn port() -> Result<PathBuf> {
    wait("the port for orders", Duration::from_secs(20), || {
        let entries = fs::read_dir("/dev").context("list the devices")?;
        let mut names = entries.flatten().map(|entry| entry.path());
        let ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("vport") && name.ends_with(ORDERS)
        };
        names.find(ours).context("no port")
    })
}

/// A port nobody is connected to reads as ended.
fn next_line(port: &mut File, text: &mut Vec<u8>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let rest = text.split_off(end + 1);
            return Ok(std::mem::replace(text, rest));
        }
        match port.read(&mut buffer).context("hear the host")? {
            0 => thread::sleep(Duration::from_millis(100)),
            length => text.extend_from_slice(buffer.get(..length).unwrap_or_default()),
        }
    }
}

/// Starts another kernel with this one's command line, as root may. Does not come back, unless it is
/// refused.
fn kexec(kernel: &Path, initrd: &Path) -> Result<()> {
    let open = |file: &Path| File::open(file).with_context(|| format!("open {}", file.display()));
    let (kernel, initrd) = (open(kernel)?, open(initrd)?);
    let line = CString::new(read("/proc/cmdline")?).context("a command line")?;
    let bytes = line.as_bytes_with_nul();
    // SAFETY: two descriptors that are open, and a string with the zero that is counted.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            bytes.len(),
            bytes.as_ptr(),
            0_u64,
        )
    };
    if loaded != 0 {
        return Err(io::Error::last_os_error()).context("load a kernel");
    }
    rustix::fs::sync();
    // SAFETY: no pointer is passed.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    Err(io::Error::last_os_error()).context("start the kernel")
}
