//! Attackers: this program again, in a cgroup before it does anything, and in a namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::act::{Shot, Technique};

/// What an attacker's kernel said to it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tried {
    /// How often it tried.
    pub(crate) attempts: u64,
    /// How often it was told no, by what it was told.
    pub(crate) refused: BTreeMap<String, u64>,
}

impl Tried {
    /// One try.
    pub(crate) fn once<T>(&mut self, outcome: std::io::Result<T>) {
        self.attempts += 1;
        if let Err(error) = outcome {
            let said = match error.raw_os_error() {
                Some(libc::EPERM) => "EPERM".to_owned(),
                Some(libc::EINPROGRESS) => return,
                _ => format!("{:?}", error.kind()),
            };
            *self.refused.entry(said).or_default() += 1;
        }
    }

    /// Both together.
    pub(crate) fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        for (said, times) in &other.refused {
            *self.refused.entry(said.clone()).or_default() += times;
        }
    }

    /// As a line between the processes.
    pub(crate) fn line(&self) -> String {
        json!({ "attempts": self.attempts, "refused": self.refused }).to_string()
    }

    fn read(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("read {line:?}"))?;
        let refused = value["refused"].as_object().into_iter().flatten();
        Ok(Self {
            attempts: value["attempts"].as_u64().context("a number of attempts")?,
            refused: refused
                .map(|(said, times)| (said.clone(), times.as_u64().unwrap_or(0)))
                .collect(),
        })
    }
}

/// One attacker, from its start to its last word.
#[derive(Debug)]
pub(crate) struct Actor {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    technique: Technique,
}

impl Actor {
    /// It has not begun when this returns: it waits to be told.
    pub(crate) fn start(
        cgroup: &Path,
        space: &str,
        technique: Technique,
        shot: &Shot,
    ) -> Result<Self> {
        let program = std::env::current_exe().context("this program's file")?;
        let mut child = Command::new(program)
            .args(["act", "--space", space])
            .args(shot.arguments())
            .arg(technique.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start an attacker")?;
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().context("its stdout is piped")?);
        let mut actor = Self {
            child,
            to,
            from,
            technique,
        };
        actor.move_to(cgroup)?;
        Ok(actor)
    }

    /// Puts it into a cgroup. A socket stays what it was when it was made.
    pub(crate) fn move_to(&mut self, cgroup: &Path) -> Result<()> {
        fs::write(cgroup.join("cgroup.procs"), self.child.id().to_string())
            .with_context(|| format!("move an attacker to {}", cgroup.display()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on, and hears how far it came.
    pub(crate) fn step(&mut self) -> Result<String> {
        let input = self.to.as_mut().context("it was told to end")?;
        input.write_all(b"\n").context("tell an attacker")?;
        self.hear()
    }

    /// Lets it go on to its end.
    pub(crate) fn finish(mut self) -> Result<Tried> {
        let line = self.step()?;
        let tried = Tried::read(&line)?;
        drop(self.to.take());
        let ended = self.child.wait().context("wait for an attacker")?;
        if !ended.success() {
            bail!("{}: ended with {ended}", self.technique.name());
        }
        Ok(tried)
    }

    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.from
            .read_line(&mut line)
            .context("hear from an attacker")?;
        if line.is_empty() {
            bail!("{}: it could not be tried", self.technique.name());
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::Tried;

    #[test]
    fn what_was_tried_is_read_as_it_was_told() {
        let mut tried = Tried::default();
        tried.once::<()>(Err(io::Error::from_raw_os_error(libc::EPERM)));
        tried.once(Ok(()));
        tried.once::<()>(Err(io::Error::from_raw_os_error(libc::EINPROGRESS)));
        assert_eq!((tried.attempts, tried.refused["EPERM"]), (3, 1));
        assert_eq!(Tried::read(&tried.line()).unwrap(), tried);
        Tried::read("{}").unwrap_err();
    }
}
