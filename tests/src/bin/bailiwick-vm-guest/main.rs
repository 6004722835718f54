//! What runs inside a test machine of `cargo xtask vm-test`: one scenario, told on stdout.
//!
//! A line is an object: `{"check", "passed", "found"}`, or `{"fact", "value"}` for what is only
//! shown. The machine is nobody's but the test's: the whole of it is fenced, rewired and stopped.

mod essentials;
mod facts;
mod fence;
mod hand;
mod host;
mod ways_out;
mod wire;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::{Value, json};

#[derive(Debug, Parser)]
#[command(disable_help_subcommand = true)]
enum Cli {
    /// What the kernel shows of how it was booted, Secure Boot on
    Boot,
    /// The same, Secure Boot off
    BootOpen,
    /// The first again, at each of two boots
    BootNext,
    /// The whole host fenced
    Fence,
    /// Attacks that take modules of the kernel
    WaysOut,
    /// What the host says, an order a line
    Hand,
    /// Joins a cgroup, then sends datagrams: a child of the others
    #[command(hide = true)]
    Send(wire::Send),
}

fn main() -> ExitCode {
    let mut told = Told;
    let outcome = match Cli::parse() {
        Cli::Boot | Cli::BootNext => facts::run(&mut told, true),
        Cli::BootOpen => facts::run(&mut told, false),
        Cli::Fence => fence::scenario(&mut told),
        Cli::WaysOut => ways_out::run(&mut told),
        Cli::Hand => hand::run_orders(&mut told),
        Cli::Send(send) => wire::send(&send),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The console keeps it for whoever reads the logs.
            drop(writeln!(io::stderr(), "vm-guest: {error:#}"));
            drop(told.check("the scenario ran to its end", false, format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Tells the host.
#[derive(Debug)]
struct Told;

impl Told {
    fn check(&mut self, check: &str, passed: bool, found: impl Into<Value>) -> Result<()> {
        self.line(&json!({ "check": check, "passed": passed, "found": found.into() }))
    }

    fn fact(&mut self, fact: &str, value: impl Into<Value>) -> Result<()> {
        self.line(&json!({ "fact": fact, "value": value.into() }))
    }

    fn line(&mut self, line: &Value) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .context("tell the host")
    }
}
