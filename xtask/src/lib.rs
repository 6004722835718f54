//! Every chore of the repository, as `cargo xtask …`, and the stage on which the demo and the
//! whole-system tests play.
//!
//! A command first names what it needs and cannot have, then installs what is missing, then
//! works. Progress goes to stderr, one line per step; stdout carries only a command's result.

mod advisories;
mod attack;
mod bench;
mod build;
mod clean_machine;
mod cmd;
pub mod demo;
mod fuzz;
mod install;
mod mutants;
mod paths;
mod stack;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Every chore of the repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Installs what the machine lacks for every other chore, and says what and why
    Install,
    /// Builds the kernel side, then the programs
    Build(build::Args),
    /// Runs everything that must hold before a change goes in
    Test(test::Args),
    /// Tells the whole story on real parts: a software TPM, a collector, a node, a small world
    Demo(demo::Args),
    /// Plays those who are against us, on the demo's stage; every attempt must be refused
    #[command(subcommand)]
    Attack(attack::Family),
    /// Measures what the README promises
    Bench(bench::Args),
    /// Runs each fuzz target for a while
    Fuzz(fuzz::Args),
    /// Breaks the guarded functions in every way there is; a test must notice each
    Mutants(mutants::Args),
    /// Asks the advisory database about the dependencies
    Advisories,
    /// Boots virtual machines and fences them whole: Debian's kernels 6.1 and 6.12, Secure Boot, a TPM
    VmTest(vm::Args),
    /// Runs a command on a fresh Debian 12 with Rust and nothing else
    CleanMachine(clean_machine::Args),
    /// The processes that the demo starts
    #[command(subcommand, hide = true)]
    Helper(demo::helper::Helper),
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let outcome = match Cli::parse().chore {
        Chore::Install => install::everything().map(done),
        Chore::Build(args) => build::run(&args).map(done),
        Chore::Test(args) => test::run(&args),
        Chore::VmTest(args) => vm::run(&args).map(done),
        Chore::CleanMachine(args) => clean_machine::run(&args).map(done),
        Chore::Demo(args) => demo::run(&args).map(done),
        Chore::Attack(family) => attack::run(&family).map(done),
        Chore::Helper(helper) => demo::helper::run(&helper).map(done),
        Chore::Bench(args) => bench::run(&args).map(done),
        Chore::Fuzz(args) => fuzz::run(&args).map(done),
        Chore::Mutants(args) => mutants::run(&args).map(done),
        Chore::Advisories => advisories::run().map(done),
    };
    match outcome {
        Ok(status) => status,
        Err(error) => {
            cmd::step(format_args!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
