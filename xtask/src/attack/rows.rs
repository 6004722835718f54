//! `cargo xtask attack fence|survival`: builds what the rows need, and starts them.
//!
//! The rows are a program of their own, which virtual machines run too.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Output;
use crate::cmd;
use crate::install::{self, capability};
use crate::{build, paths};

const PROGRAM: &str = "bailiwick-fence-rows";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or numbers of rows; none: all
    rows: Vec<String>,
    /// Says what there is, and tries nothing
    #[arg(long)]
    list: bool,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How much of each; what is not said is as much as the README promises.
#[derive(Debug, clap::Args)]
pub(crate) struct Survival {
    /// Packets sent meanwhile, at least
    #[arg(long)]
    packets: Option<u64>,
    /// SIGKILLs of the agent
    #[arg(long)]
    kills: Option<u64>,
    /// Replacements of the agent by another build of it
    #[arg(long)]
    upgrades: Option<u64>,
    /// Policies put in force
    #[arg(long)]
    policies: Option<u64>,
    /// World maps put in force
    #[arg(long)]
    worlds: Option<u64>,
    /// Calls at which the agent is killed, spread evenly over each story
    #[arg(long)]
    calls: Option<u64>,
    /// Only the part of this name; may be given more than once
    #[arg(long)]
    only: Vec<String>,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn survival(args: &Survival) -> Result<()> {
    prepare()?;
    let mut survive = Command::new(paths::binary(false, PROGRAM));
    survive.arg("survive").arg("--agent").arg(agent());
    for (option, number) in [
        ("--packets", args.packets),
        ("--kills", args.kills),
        ("--upgrades", args.upgrades),
        ("--policies", args.policies),
        ("--worlds", args.worlds),
        ("--calls", args.calls),
    ] {
        if let Some(number) = number {
            survive.arg(option).arg(number.to_string());
        }
    }
    for name in &args.only {
        survive.arg("--only").arg(name);
    }
    if args.output == Output::Json {
        survive.arg("--json");
    }
    start(survive)
}

fn agent() -> PathBuf {
    paths::binary(false, "bailiwick-agent")
}

fn prepare() -> Result<()> {
    capability::for_demo()?;
    install::for_demo()?;
    build::kernel_side()?;
    build_them()
}

fn start(mut program: Command) -> Result<()> {
    let ended = program
        .status()
        .with_context(|| format!("start {PROGRAM}"))?;
    if !ended.success() {
        bail!("{} ended with {ended}", cmd::shown(&program));
    }
    Ok(())
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.list {
        build_them()?;
    } else {
        prepare()?;
    }
    let mut rows = Command::new(paths::binary(false, PROGRAM));
    if args.list {
        rows.arg("list");
    } else {
        rows.arg("run").arg("--agent").arg(agent()).args(&args.rows);
        if args.output == Output::Json {
            rows.args(["--output", "json"]);
        }
    }
    start(rows)
}

fn build_them() -> Result<()> {
    cmd::step("building the agent and those who attack it");
    let mut cargo = cmd::cargo();
    cargo.args(["build", "--quiet", "-p", "bailiwick-agent"]);
    cargo.args([
        "-p",
        "bailiwick-tests",
        "--bin",
        "bailiwick-agent",
        "--bin",
        PROGRAM,
    ]);
    cmd::run(&mut cargo)
}
