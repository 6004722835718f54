//! `bailiwick`: what an operator, an auditor or a script asks with.
//!
//! Every command has a module of its own that defines its arguments and runs it; this file only
//! chooses. Exit codes are the same for all: 0 good, 1 could not tell, 2 bytes refused, 3 node
//! not trusted, 4 stale, 5 unknown.

mod acts;
mod brake;
mod client;
mod drift;
mod endorsements;
mod enroll;
mod explain;
mod flows;
mod format;
mod glass;
mod gpus;
mod inspect;
mod keys;
mod lists;
mod nodes;
mod policy;
mod profile;
mod restore;
mod verify;
mod why;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// Asks a Bailiwick collector, and reads evidence without one.
#[derive(Debug, Parser)]
#[command(name = "bailiwick", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reference values that an operator brings: takes them into a folder, says when they end.
    Endorsements(endorsements::Args),
    /// Reads one piece of evidence with no collector and no network.
    Inspect(inspect::Args),
    /// Lists every node and its standing.
    Nodes(nodes::List),
    /// One node.
    Node(nodes::Args),
    /// Has a node challenged at once.
    Challenge(nodes::Challenge),
    /// One entry of a node's log with its proof, for `verify`
    Event(keys::Event),
    /// Keys of what nodes sealed
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Who is let in, and who says so.
    Enroll(enroll::Args),
    /// Lists what fences denied.
    Events(lists::Events),
    /// Lists what passed fences by jurisdiction, or where to.
    Flows(flows::Args),
    /// Lists alerts.
    Alerts(lists::Alerts),
    /// Causes for which many nodes lost standing at once.
    Brake(brake::Args),
    /// Standing for a while without appraisal, signed beforehand.
    BreakGlass(glass::Args),
    /// What approvers sign.
    Policy(policy::Args),
    /// The validated stack nodes are held against.
    Profile(profile::Args),
    /// Appraises a stored statement again, with no collector and no network.
    Verify(verify::Args),
    /// Where addresses lie: makes a map of geo databases, compares two, asks one.
    World(world::Args),
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For machines.
    Json,
}

/// What the process ends with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// As it should be.
    Good,
    /// Usage, network, missing input.
    CouldNotTell,
    /// The bytes were read and refused.
    Refused,
    /// The node is not trusted.
    NotTrusted,
    /// The last word on the node is too old.
    Stale,
    /// The collector does not know it.
    Unknown,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Good => 0u8,
            Exit::CouldNotTell => 1,
            Exit::Refused => 2,
            Exit::NotTrusted => 3,
            Exit::Stale => 4,
            Exit::Unknown => 5,
        })
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own exit code for a usage error, 2, means "bytes refused" here.
            let exit = if error.use_stderr() {
                Exit::CouldNotTell
            } else {
                Exit::Good
            };
            return match error.print() {
                Ok(()) => exit.into(),
                Err(_) => Exit::CouldNotTell.into(),
            };
        }
    };
    let done = match cli.command {
        Command::Endorsements(args) => endorsements::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Nodes(args) => nodes::list(&args),
        Command::Node(args) => nodes::run(&args),
        Command::Challenge(args) => nodes::challenge(&args),
        Command::Event(args) => keys::event(&args),
        Command::Keys(command) => keys::keys(&command),
        Command::Enroll(args) => enroll::run(&args),
        Command::Events(args) => lists::events(&args),
        Command::Flows(args) => flows::run(&args),
        Command::Alerts(args) => lists::alerts(&args),
        Command::Brake(args) => brake::run(&args),
        Command::BreakGlass(args) => glass::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::World(args) => world::run(&args),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("bailiwick: {error:#}");
            client::BytesRefused::exit(&error).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn no_two_arguments_of_a_command_have_one_name() {
        super::Cli::command().debug_assert();
    }
}
