//! A software TPM of the test's own.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

/// One `swtpm` process on ports of its own, state in a temporary folder; killed when dropped.
#[derive(Debug)]
pub struct SoftTpm {
    folder: TempDir,
    port: u16,
    control: u16,
    child: Child,
}

impl SoftTpm {
    /// A TPM fresh from the factory, started up, without EK certificates.
    pub fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let state = folder.path().join("state");
        std::fs::create_dir(&state)?;
        // The control channel is the port after the data port; another process may take either
        // between our look and swtpm's bind, so look again.
        for _ in 0..50 {
            let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = probe.local_addr()?.port();
            let Some(control) = port.checked_add(1) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, control)).is_err() {
                continue;
            }
            drop(probe);
            if let Some(child) = spawn(&state, port, control)? {
                return Ok(Self {
                    folder,
                    port,
                    control,
                    child,
                });
            }
        }
        bail!("no pair of ports for swtpm")
    }

    /// The connection string for tpm2-tss.
    #[must_use]
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// A path in the TPM's folder, where [`Self::tool`] runs.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs one of tpm2-tools against this TPM; arguments are separated by spaces. Transient
    /// objects are flushed afterwards, since there is no resource manager to do it.
    pub fn tool(&self, command: &str) -> anyhow::Result<()> {
        let outcome = self.run(command);
        if !command.starts_with("tpm2_flushcontext") {
            self.run("tpm2_flushcontext -t")?;
        }
        outcome
    }

    /// A power cycle: registers begin anew, the reset is counted, keys and NV stay. Whoever is
    /// connected has to go first.
    pub fn power_cycle(&self) -> anyhow::Result<()> {
        self.run("tpm2_shutdown -c")?;
        let control = self.control;
        self.run(&format!("swtpm_ioctl --tcp 127.0.0.1:{control} -i"))?;
        self.run("tpm2_startup -c")
    }

    fn run(&self, command: &str) -> anyhow::Result<()> {
        let mut words = command.split_whitespace();
        let output = Command::new(words.next().context("no command")?)
            .args(words)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .current_dir(self.folder.path())
            .output()
            .with_context(|| format!("run {command} (package tpm2-tools)"))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command}: {stderr}");
        Ok(())
    }
}

impl Drop for SoftTpm {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `None`: it ended at once, most likely for want of the ports.
fn spawn(state: &Path, port: u16, control: u16) -> anyhow::Result<Option<Child>> {
    let mut child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", state.display()))
        .arg("--server")
        .arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"))
        .arg("--ctrl")
        .arg(format!("type=tcp,port={control},bindaddr=127.0.0.1"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("run swtpm (package swtpm)")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        // The control channel, for a connection to the data port would be the first client's.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, control)).is_ok() {
            return Ok(Some(child));
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    child.wait()?;
    bail!("swtpm did not listen within ten seconds")
}
