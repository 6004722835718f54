//! Small things that are done to the machine.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A file of `/proc` or `/sys`, without the newline at its end.
pub(crate) fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim_end().to_owned())
}

/// Runs `words`, separated by blanks; anything but success is an error with what it said.
pub(crate) fn run(words: &str) -> Result<String> {
    let mut split = words.split_whitespace();
    let out = Command::new(split.next().context("no command")?)
        .args(split)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {words}"))?;
    if !out.status.success() {
        bail!(
            "{words}: {}: {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Waits for a value; the last answer's words are in the error.
pub(crate) fn wait<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}
