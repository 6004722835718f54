//! A program that runs beside the demo, with a log of its own.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::scene::Scene;
use crate::cmd;

/// Time a program has to stop by itself.
const GRACE: Duration = Duration::from_secs(5);

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

/// `program` so wrapped that it dies with us, even by SIGKILL.
pub fn tied(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = cmd::command("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

impl Daemon {
    /// Starts a [`tied`] command; what it says goes to `NAME.log` in the scene's folder.
    pub fn start(scene: &Scene, name: &str, command: &mut Command) -> Result<Self> {
        let log = scene.path(&format!("{name}.log"));
        let open = || {
            File::options()
                .create(true)
                .append(true)
                .open(&log)
                .context("open a log")
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            // Ctrl-C is ours to answer, in our order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Fails, with the end of its log, once the program has ended.
    pub fn alive(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .with_context(|| format!("look after {}", self.name))?
        {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.last_words()),
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of the log.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(12)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// Asks to stop, and insists after a while.
    pub fn stop(mut self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Stops at once, as a power cut does.
    pub fn kill(mut self) -> Result<()> {
        self.end(Signal::KILL)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        if self
            .child
            .try_wait()
            .context("look after a child")?
            .is_some()
        {
            return Ok(());
        }
        let raw = i32::try_from(self.child.id()).context("a process number is positive")?;
        let pid = Pid::from_raw(raw).context("a process number is positive")?;
        kill_process(pid, signal).with_context(|| format!("stop {}", self.name))?;
        if cmd::wait_within(&mut self.child, GRACE)?.is_none() {
            self.child
                .kill()
                .with_context(|| format!("kill {}", self.name))?;
            self.child
                .wait()
                .with_context(|| format!("wait for {}", self.name))?;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nobody is left to tell.
        drop(self.end(Signal::TERM));
    }
}
