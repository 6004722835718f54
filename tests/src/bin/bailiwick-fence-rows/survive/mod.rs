//! What must not matter: the agent killed, replaced by another build, given a thousand policies,
//! and killed at every call it makes into the BPF subsystem. Packets are counted outside.

mod calls;
mod flood;

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::ground::{self, Ground};
use crate::net::Shape;
use crate::row::progress;

/// How much of each.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent's program
    #[arg(long)]
    agent: PathBuf,
    /// Packets that are sent while it happens, at least
    #[arg(long, default_value_t = 5_000_000)]
    packets: u64,
    /// SIGKILLs of the agent
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Replacements of the agent by another build of it
    #[arg(long, default_value_t = 200)]
    upgrades: u32,
    /// Policies put in force, one after another
    #[arg(long, default_value_t = 1000)]
    policies: u32,
    /// World maps put in force
    #[arg(long, default_value_t = 100)]
    worlds: u32,
    /// Calls of each story before and after which the agent is killed, spread evenly; default all
    #[arg(long)]
    calls: Option<u64>,
    /// Only the parts of these names
    #[arg(long)]
    only: Vec<String>,
    /// Prints a list of what came of it
    #[arg(long)]
    json: bool,
}

/// What came of one part.
#[derive(Debug)]
struct Part {
    name: &'static str,
    /// How often it was done.
    times: u64,
    /// Packets that were judged meanwhile.
    packets: u64,
    /// Of these, how many otherwise than they must be.
    misjudged: u64,
    /// In words.
    said: Vec<String>,
    /// Why it is no pass, beside misjudged packets.
    wrong: Vec<String>,
}

impl Part {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            times: 0,
            packets: 0,
            misjudged: 0,
            said: Vec::new(),
            wrong: Vec::new(),
        }
    }

    fn is_good(&self) -> bool {
        self.times > 0 && self.packets > 0 && self.misjudged == 0 && self.wrong.is_empty()
    }

    fn json(&self) -> Value {
        json!({
            "survives": self.name,
            "times": self.times,
            "packets": self.packets,
            "misjudged": self.misjudged,
            "evidence": self.said.join("; "),
            "wrong": self.wrong,
        })
    }

    fn line(&self) -> String {
        let good = if self.is_good() { "ok " } else { "BAD" };
        let mut line = format!(
            "{good} {:<18} {:>5} times {:>9} packets {:>5} misjudged   {}",
            self.name,
            self.times,
            self.packets,
            self.misjudged,
            self.said.join("; ")
        );
        for wrong in &self.wrong {
            line += &format!("\n       NOT AS DUE: {wrong}");
        }
        line
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ground::remove_stale(&args.agent)?;
    type Play = fn(&mut Ground, &Args, &mut Part) -> Result<()>;
    let all: [(&'static str, Play); 9] = [
        ("sigkill", flood::kills),
        ("upgrade", flood::upgrades),
        ("policy-swap", flood::policies),
        ("world-swap", flood::worlds),
        ("calls-of-start", calls::start),
        ("calls-of-upgrade", calls::upgrade),
        ("calls-of-swap", calls::swap),
        ("calls-of-world", calls::world),
        ("calls-of-stop", calls::stop),
    ];
    let unknown = args
        .only
        .iter()
        .find(|word| all.iter().all(|(name, _)| name != word));
    if let Some(word) = unknown {
        let names = all.map(|(name, _)| name).join(", ");
        bail!("there is no part {word:?}; there are {names}");
    }
    let mut parts = Vec::new();
    for (number, (name, play)) in (1..).zip(all) {
        if !args.only.is_empty() && !args.only.iter().any(|word| word == name) {
            continue;
        }
        let mut part = Part::new(name);
        let done = Ground::new(&args.agent, number, Shape::Wire)
            .and_then(|mut ground| play(&mut ground, args, &mut part));
        if let Err(error) = done {
            part.wrong.push(format!("could not be tried: {error:#}"));
        }
        progress(&part.line());
        parts.push(part);
    }
    if args.json {
        let list: Value = parts.iter().map(Part::json).collect();
        crate::print(&format!("{list:#}"))?;
    }
    let bad: Vec<&str> = parts
        .iter()
        .filter(|part| !part.is_good())
        .map(|part| part.name)
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    bail!("not as it must be: {}", bad.join(", "))
}
