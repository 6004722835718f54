//! The agent's questions to vendors' libraries and nothing else: `bailiwick-probe probe …` answers as
//! `bailiwick-agent probe …` does, and needs no package, so that it can be carried to a machine with
//! a GPU (`cargo xtask test gpu --agent`).

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use bailiwick_agent::probe::Probe;
use clap::Parser;

/// What GPUs and their driver say, as JSON.
#[derive(Debug, Parser)]
#[command(name = "bailiwick-probe", version, disable_help_subcommand = true)]
enum Cli {
    /// What one source says
    #[command(subcommand)]
    Probe(Probe),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let code = u8::from(usage.use_stderr());
            // Nobody to tell if even this cannot be printed.
            drop(usage.print());
            return ExitCode::from(code);
        }
    };
    let Cli::Probe(probe) = cli;
    match probe.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Likewise.
            drop(writeln!(io::stderr(), "{why}"));
            ExitCode::FAILURE
        }
    }
}
