//! What somebody runs who has read the sources and means no good: a thief of keys and
//! certificates, a TPM from a shop, a collector gone bad, root on a node.
//!
//! `cargo xtask attack` starts it on the demo's stage, against the real programs. It speaks their
//! protocols with their own code and breaks one rule at a time. One JSON object a line on stdout
//! for each thing tried; what could not be tried ends it with an error, and is no refusal.

mod backdate;
mod certificate;
mod compose;
mod fleet;
mod forge;
mod hostile;
mod invent;
mod lease;
mod peer;
mod policy;
mod rewrite;
mod stock;
mod stranger;
mod tries;
mod wire;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use bailiwick_agent::config::Config;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "attacker", version)]
struct Cli {
    #[command(subcommand)]
    attack: Attack,
}

#[derive(Debug, Subcommand)]
enum Attack {
    /// A genuine TPM that nobody listed
    Stranger(stranger::Args),
    /// One enrolment of a TPM that should not get in
    Enrol(stranger::Enrol),
    /// Statements signed in advance, and played when the machine is no longer what they say
    Stock(stock::Args),
    /// A node's certificate in other hands
    Certificate(certificate::Args),
    /// A certificate made with the collector's stolen CA
    Issued(certificate::Issued),
    /// A receipt under the log's stolen key, of any date
    Backdate(backdate::Args),
    /// A collector that means no good, where the node's own should be
    Hostile(hostile::Args),
    /// Leases for a fence that grants itself standing
    Lease(lease::Args),
    /// A policy handed to the fence, whoever delivers it
    Policy(policy::Args),
    /// A peer entry made up by whoever carries it
    Peer(peer::Args),
    /// A node's log rewritten between two quotes
    Rewrite(rewrite::Args),
    /// A statement about a fence that is not what it says
    Forge(forge::Args),
    /// A stored statement of a node that is a software key
    Invent(invent::Args),
    /// Nobody's attack: a fleet of nodes that are programs
    Fleet(fleet::Args),
    /// Nobody's attack: a manifest of any kind, to be signed
    Compose(compose::Args),
    /// Nobody's attack: reads EK and AK out of a stored statement
    Identity(invent::Identity),
}

fn main() -> ExitCode {
    match run(&Cli::parse().attack) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attacker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(attack: &Attack) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("runtime")?;
    runtime.block_on(async {
        match attack {
            Attack::Stranger(args) => stranger::run(args).await,
            Attack::Enrol(args) => stranger::enrol(args).await,
            Attack::Stock(args) => stock::run(args).await,
            Attack::Certificate(args) => certificate::run(args).await,
            Attack::Issued(args) => certificate::issued(args).await,
            Attack::Backdate(args) => backdate::run(args),
            Attack::Hostile(args) => hostile::run(args).await,
            Attack::Lease(args) => lease::run(args).await,
            Attack::Policy(args) => policy::run(args).await,
            Attack::Peer(args) => peer::run(args).await,
            Attack::Rewrite(args) => rewrite::run(args).await,
            Attack::Forge(args) => forge::run(args).await,
            Attack::Invent(args) => invent::run(args),
            Attack::Fleet(args) => fleet::run(args).await,
            Attack::Compose(args) => compose::run(args),
            Attack::Identity(args) => invent::identity(args),
        }
    })
}

/// An agent's configuration, as the agent reads it.
fn config(file: &Path) -> anyhow::Result<Config> {
    Config::read(file).with_context(|| file.display().to_string())
}
