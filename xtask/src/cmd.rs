//! Starting other programs, and saying what happens.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::paths;

thread_local! {
    /// What this thread's lines are about, where several speak.
    static ABOUT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on this thread's progress is about this.
pub(crate) fn speak_of(what: String) {
    ABOUT.set(Some(what));
}

/// One line of progress, on stderr.
pub(crate) fn step(line: impl Display) {
    let line = ABOUT.with_borrow(|about| match about {
        Some(about) => format!("xtask: {about} {line}\n"),
        None => format!("xtask: {line}\n"),
    });
    // In one piece, for there may be others; and a closed stderr is no reason to stop.
    drop(io::stderr().write_all(line.as_bytes()));
}

/// One line of a command's result, on stdout.
pub(crate) fn result(line: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("write the result to stdout")
}

/// A command whose own stdout joins our stderr, run in the repository.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(paths::root()).stdin(Stdio::null());
    if let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() {
        command.stdout(stderr);
    }
    command
}

/// cargo, in the environment of a shell.
///
/// `cargo run` adds variables that describe the package it runs; a build script that watches one
/// of them would be run again each time we, and not the developer, call cargo.
pub(crate) fn cargo() -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
        if of_package.iter().any(|prefix| text.starts_with(prefix))
            || [
                "CARGO",
                "CARGO_CRATE_NAME",
                "CARGO_PRIMARY_PACKAGE",
                "LD_LIBRARY_PATH",
            ]
            .contains(&&*text)
        {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Runs to the end; anything but success is an error that shows the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Like [`output`], and what the command says on the way is heard.
pub(crate) fn heard(command: &mut Command) -> Result<String> {
    let out = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", shown(command)))?;
    if !out.status.success() {
        bail!("{} ended with {}", shown(command), out.status);
    }
    String::from_utf8(out.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// Runs to the end and returns stdout; stderr is shown only on failure.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("start {}", shown(command)))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!(
            "{} ended with {}: {}",
            shown(command),
            out.status,
            stderr.trim()
        );
    }
    String::from_utf8(out.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// Runs for at most `limit`, then kills. `Ok(false)`: it failed or took too long.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<bool> {
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", shown(command)))?;
    let ended = wait_within(&mut child, limit)?;
    if ended.is_none() {
        child.kill().context("stop a command that took too long")?;
        child.wait().context("wait for a killed command")?;
    }
    Ok(ended.unwrap_or(false))
}

/// `Some(success)` once the child has ended, `None` after `limit`.
pub(crate) fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<bool>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("wait for a child")? {
            return Ok(Some(status.success()));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Where `program` is on the path, ours included, or in the folders only root has on its path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    [paths::tools().join("bin")]
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The path with our own tools first and root's folders last.
pub(crate) fn path_with_tools() -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = [paths::tools().join("bin")]
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    std::env::join_paths(all).context("a folder on the path has a colon in its name")
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}
