//! `cargo xtask attack fence`: builds what the rows need, and starts them.
//!
//! The rows are a program of their own, which virtual machines run too.

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

pub(super) fn run(args: &Args) -> Result<()> {
    if !args.list {
        capability::for_demo()?;
        install::for_demo()?;
        build::kernel_side()?;
    }
    build_them()?;
    let mut rows = Command::new(paths::binary(false, PROGRAM));
    if args.list {
        rows.arg("list");
    } else {
        rows.arg("run")
            .arg("--agent")
            .arg(paths::binary(false, "bailiwick-agent"))
            .args(&args.rows);
        if args.output == Output::Json {
            rows.args(["--output", "json"]);
        }
    }
    let ended = rows.status().with_context(|| format!("start {PROGRAM}"))?;
    if !ended.success() {
        bail!("{} ended with {ended}", cmd::shown(&rows));
    }
    Ok(())
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
