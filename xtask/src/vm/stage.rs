//! A machine that is directed: agent and fence inside, the collector here, and a word for each thing
//! that may befall a node between two of its statements.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::machine::{Machine, Make, On};
use super::packages::Stack;
use super::site::{NODE, Site};
use super::{Disks, Outcome, image};
use crate::cmd::step;

/// From power on until the program inside takes orders, on an interpreted processor.
const BOOT: Duration = Duration::from_secs(600);
/// For one order. The fence's programs take the verifier five seconds on two idle processors.
const ORDER: Duration = Duration::from_secs(300);
/// Until a statement is judged that the machine made after something happened to it.
pub(super) const JUDGED: Duration = Duration::from_secs(420);

/// How a machine is to boot, where not as always.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Boot<'a> {
    /// Words more on the kernel's command line.
    pub(super) words: &'a str,
    /// Another initial ramdisk.
    pub(super) initrd: Option<&'a Path>,
    /// Another shim.
    pub(super) shim: Option<&'a Path>,
    /// GRUB runs the line without those words, too, as a command that does nothing.
    pub(super) retold: bool,
}

/// One directed machine and what is found out by it.
pub(super) struct Stage<'a> {
    pub(super) stack: &'a Stack,
    pub(super) disks: &'a Disks,
    pub(super) machine: Machine,
    pub(super) site: Site,
    on: Option<On>,
    boot_disk: PathBuf,
    command_line: String,
    outcome: &'a mut Outcome,
}

/// How a node stands, by the collector.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) verdict: String,
    /// Digest of the statement that was appraised last.
    pub(super) statement: String,
    /// The policy it was held against.
    pub(super) version: u64,
    /// The attestation result.
    pub(super) result: Value,
}

impl<'a> Stage<'a> {
    pub(super) fn open(
        outcome: &'a mut Outcome,
        stack: &'a Stack,
        disks: &'a Disks,
        command_line: String,
    ) -> Result<Self> {
        let name = outcome.scenario.name;
        let dir = disks.home.join(name);
        let boot_disk = disks.home.join(format!("{name}.fat"));
        let mut site = Site::make(&disks.home.join(format!("{name}-site")), &disks.approvers)?;
        let make = Make {
            secure_boot: outcome.scenario.secure_boot,
            banks: outcome.scenario.banks,
            root: &disks.root,
            boot: &boot_disk,
            carrier: Some(site.carrier(&stack.busybox)),
        };
        let machine = Machine::assemble(&dir, make)?;
        site.start(&machine)?;
        Ok(Self {
            stack,
            disks,
            machine,
            site,
            on: None,
            boot_disk,
            command_line,
            outcome,
        })
    }

    /// The bank that is quoted.
    pub(super) fn bank(&self) -> &'static str {
        let banks = self.outcome.scenario.banks;
        banks.split_once(',').map_or(banks, |(first, _)| first)
    }

    /// Powers on, and waits until orders are taken.
    pub(super) fn power_on(&mut self, boot: Boot<'_>) -> Result<()> {
        self.start_firmware(boot)?;
        self.ready()
    }

    /// Powers on, without knowing whether anything will boot.
    pub(super) fn start_firmware(&mut self, boot: Boot<'_>) -> Result<()> {
        let line = format!("{} {}", self.command_line, boot.words);
        let mut stack = self.stack.clone();
        if let Some(shim) = boot.shim {
            stack.shim = shim.to_owned();
        }
        let initrd = boot.initrd.unwrap_or(&self.disks.initrd);
        let runs = match boot.retold {
            true => format!("($root)/vmlinuz {}\n", self.command_line),
            false => String::new(),
        };
        image::boot(&stack, initrd, line.trim_end(), &runs, &self.boot_disk)?;
        self.on = Some(self.machine.power_on()?);
        Ok(())
    }

    /// Waits until the machine takes orders.
    pub(super) fn ready(&mut self) -> Result<()> {
        if !self.comes_up(BOOT)? {
            bail!("the machine went off; see {}", self.machine.dir().display());
        }
        Ok(())
    }

    /// Whether orders are taken within `limit`. `false`: the machine is off.
    pub(super) fn comes_up(&mut self, limit: Duration) -> Result<bool> {
        let on = self.on.as_mut().context("the machine is on")?;
        let ready = on.hear(limit, &mut self.outcome.said, |value| {
            value["hand"] == "ready"
        })?;
        Ok(ready.is_some())
    }

    /// As by a switch: nothing inside is told.
    pub(super) fn cut_power(&mut self) -> Result<()> {
        if let Some(on) = self.on.take() {
            let took = on.end()?;
            self.note(took);
        }
        Ok(())
    }

    /// What the console shows first of `words`.
    pub(super) fn console<'w>(
        &self,
        limit: Duration,
        words: &[&'w str],
    ) -> Result<Option<&'w str>> {
        let on = self.on.as_ref().context("the machine is on")?;
        on.console(limit, words)
    }

    /// In order, so that the disk has everything.
    pub(super) fn shut_down(&mut self) -> Result<()> {
        if let Some(mut on) = self.on.take() {
            on.last_order(&json!({ "end": true }))?;
            on.hear(ORDER, &mut self.outcome.said, |_| false)?;
            let took = on.end()?;
            self.note(took);
        }
        Ok(())
    }

    fn note(&mut self, took: Duration) {
        self.outcome.boots.push(took);
        let number = self.outcome.boots.len();
        step(format_args!(
            "   boot {number}: {:.1} s",
            took.as_secs_f64()
        ));
    }

    /// Has something done inside; an error if it did not succeed.
    pub(super) fn order(&mut self, order: &Value) -> Result<Value> {
        let answer = self.try_order(order)?;
        if answer["ok"] != true {
            bail!("{order}: {}", answer["error"]);
        }
        Ok(answer)
    }

    /// The same, whatever comes of it.
    pub(super) fn try_order(&mut self, order: &Value) -> Result<Value> {
        let on = self.on.as_mut().context("the machine is on")?;
        on.order(order, ORDER, &mut self.outcome.said)
    }

    /// For what is not answered, since nothing is left to answer.
    pub(super) fn last_order(&mut self, order: &Value) -> Result<()> {
        let on = self.on.as_mut().context("the machine is on")?;
        on.last_order(order)
    }

    /// Runs words separated by blanks.
    pub(super) fn run(&mut self, words: &str) -> Result<Value> {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.order(&json!({ "run": words }))
    }

    pub(super) fn read(&mut self, path: &str) -> Result<Vec<u8>> {
        let answer = self.order(&json!({ "read": path }))?;
        let text = answer["base64"].as_str().context("a file in base64")?;
        STANDARD.decode(text).context("a file in base64")
    }

    pub(super) fn write(&mut self, path: &str, bytes: &[u8], program: bool) -> Result<()> {
        let order = json!({ "write": path, "base64": STANDARD.encode(bytes), "program": program });
        self.order(&order).map(drop)
    }

    /// Starts the node's two processes as an operator configures them.
    pub(super) fn start_node(&mut self) -> Result<()> {
        let (config, ca) = self.site.agent(self.bank())?;
        self.write("/etc/bailiwick/agent.toml", config.as_bytes(), false)?;
        self.write("/etc/bailiwick/ca.pem", &ca, false)?;
        self.run("mkdir -p /sys/fs/cgroup/studies")?;
        self.start("fence")?;
        let order = json!({ "run": ["sh", "-c",
            "n=0; while [ ! -S /run/bailiwick/fence.sock ] && [ $n -lt 2000 ]; do usleep 100000; \
             n=$((n + 1)); done; [ -S /run/bailiwick/fence.sock ]"] });
        self.order(&order)?;
        self.start("run")
    }

    fn start(&mut self, process: &str) -> Result<()> {
        let words = ["/usr/bin/bailiwick-agent", process];
        self.order(&json!({ "start": process, "run": words }))
            .map(drop)
    }

    /// What the agent reads first, it reads again.
    pub(super) fn restart_agent(&mut self) -> Result<()> {
        self.order(&json!({ "stop": "run" }))?;
        self.start("run")
    }

    pub(super) fn standing(&self, node: &str) -> Result<Standing> {
        let shown = self.site.ask(&["node", "show", node])?;
        let result = shown["result"].clone();
        Ok(Standing {
            verdict: shown["verdict"].as_str().unwrap_or_default().to_owned(),
            statement: result["bailiwick.statement"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            version: result["bailiwick.policy"]["version"].as_u64().unwrap_or(0),
            result,
        })
    }

    /// Waits until a statement other than `before` is judged in such a way; the last one, if that
    /// does not come about.
    pub(super) fn judged(
        &mut self,
        before: &str,
        good: impl Fn(&Standing) -> bool,
    ) -> Result<Standing> {
        let deadline = Instant::now() + JUDGED;
        loop {
            let now = self.standing(NODE);
            if let Ok(now) = &now
                && now.statement != before
                && good(now)
            {
                return Ok(now.clone());
            }
            if Instant::now() > deadline {
                return now;
            }
            if let Some(on) = &mut self.on {
                // What it says meanwhile is heard, and that it went off.
                on.alive()?;
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits for a verdict over a statement that is not `before`, and says whether it came, and
    /// whether `why` says all of `words` in one breath with it.
    pub(super) fn verdict(
        &mut self,
        check: &str,
        before: &str,
        want: &str,
        words: &[&str],
    ) -> Result<Standing> {
        let standing = self.judged(before, |now| {
            now.verdict == want
                && words
                    .iter()
                    .all(|word| now.result.to_string().contains(word))
        })?;
        let why = self.site.told(&["node", "why", NODE])?;
        let missing: Vec<&&str> = words.iter().filter(|word| !why.contains(**word)).collect();
        let good = standing.verdict == want && standing.statement != before && missing.is_empty();
        let found = json!({
            "verdict": standing.verdict,
            "why": why.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>(),
            "not said": missing,
        });
        self.check(check, good, found);
        Ok(standing)
    }

    pub(super) fn check(&mut self, check: &str, passed: bool, found: Value) {
        let word = if passed { "ok  " } else { "FAIL" };
        step(format_args!("   {word} {check}: {found}"));
        self.outcome
            .said
            .push(json!({ "check": check, "passed": passed, "found": found }));
    }

    /// A file of this scenario's own on this machine.
    pub(super) fn scratch(&self, name: &str) -> PathBuf {
        self.machine.dir().join(name)
    }
}

/// What is measured of a boot: claims by name.
pub(super) type Claims = BTreeMap<String, Value>;

/// Registers that firmware and boot loaders fill.
const REGISTERS: [&str; 11] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "14"];

/// Claims of a result that stand in a boot log which replays, and what it replays to.
pub(super) fn measured(result: &Value, bank: &str) -> Result<Claims> {
    let registers = format!("tpm.pcr.{bank}.");
    let submods = result["submods"].as_object().context("no result")?;
    let claims = submods
        .values()
        .filter_map(|submod| submod["bailiwick.claims"].as_object());
    let asked = |name: &str, claim: &Value| match name.strip_prefix(&registers) {
        Some(register) => REGISTERS.contains(&register),
        None => name.starts_with("boot.") && claim["provenance"] == "measured",
    };
    let found: Claims = claims
        .flatten()
        .filter(|(name, claim)| asked(name, claim))
        .map(|(name, claim)| (name.clone(), claim["value"].clone()))
        .collect();
    if !found.keys().any(|name| name.starts_with("boot.")) {
        bail!("nothing of the boot is measured: {result}");
    }
    Ok(found)
}

/// A profile that begins with `head` and asks for all claims of any of these boots. Beside each
/// boot is when it is good: `not_after = "…"`, `revoked = "…"`, or nothing.
pub(super) fn profile(head: &str, boots: &[(&Claims, &str)]) -> String {
    let mut text = head.to_owned();
    let names: BTreeSet<&String> = boots.iter().flat_map(|(claims, _)| claims.keys()).collect();
    for name in names {
        text += &format!("\n[[require]]\nclaim = \"{name}\"\nprovenance = \"measured\"\nany = [\n");
        let mut seen: Vec<&Value> = Vec::new();
        for (claims, term) in boots {
            if let Some(value) = claims.get(name).filter(|value| !seen.contains(value)) {
                seen.push(value);
                // What all of them have, is good as long as any is.
                let shared = boots
                    .iter()
                    .all(|(claims, _)| claims.get(name) == Some(value));
                let term = if shared || term.is_empty() {
                    String::new()
                } else {
                    format!(", {term}")
                };
                // JSON spells texts, numbers and flags as TOML does.
                text += &format!("    {{ is = {value}{term} }},\n");
            }
        }
        text += "]\n";
    }
    text
}

/// Writes a file that is `from`, and something more behind it.
pub(super) fn appended(from: &Path, more: &[u8], to: &Path) -> Result<()> {
    let mut bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    bytes.extend_from_slice(more);
    fs::write(to, bytes).with_context(|| format!("write {}", to.display()))
}
