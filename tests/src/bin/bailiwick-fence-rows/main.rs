//! Every known way round a fence, tried on the real one.
//!
//! Two nets alike are made of network namespaces: on one of them workloads are fenced by the real
//! `bailiwick-agent`, on the other by nobody. Each row is an attack of a process in a study's
//! cgroup; what gets out is counted in the namespace where it arrives, and the same attack has to
//! arrive on the other net, or the row is worth nothing.
//!
//! `cargo xtask attack fence` runs it here, `cargo xtask vm-test` in virtual machines. It needs
//! root, iproute2 and the agent's program, and touches only cgroups, namespaces and folders that
//! it made.

mod act;
mod actor;
mod ground;
mod net;
mod pace;
mod play;
mod policy;
mod rdma;
mod row;
mod rows;
mod signer;
mod survive;
mod sys;
mod trace;
mod wire;
mod witness;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};

use self::ground::Ground;
use self::net::Shape;
use self::play::Play;
use self::row::{Outcome, Place, Row, progress};

#[derive(Debug, Parser)]
#[command(name = "bailiwick-fence-rows", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays the rows
    Run(Run),
    /// Kills, upgrades and swaps under a flood, and kills at every call
    Survive(survive::Args),
    /// Says what there is
    List {
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// One attacker's process, started by the others
    #[command(hide = true)]
    Act(act::Args),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The agent's program
    #[arg(long)]
    agent: PathBuf,
    /// Which machine this is
    #[arg(long = "where", value_enum, default_value_t = Place::Host)]
    place: Place,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Names or numbers of rows; none: all of this machine
    rows: Vec<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    Text,
    /// One list, at the end
    Json,
    /// An object a line, as each is done
    Lines,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Survive(args) => survive::run(&args),
        Command::List { output } => list(output),
        Command::Act(args) => act::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("bailiwick-fence-rows: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn list(output: Output) -> Result<()> {
    if output == Output::Text {
        for row in rows::all() {
            let place = row.place.name();
            print(&format!(
                "{:>2} {:<28} {place:<4} {}",
                row.number, row.attack, row.what
            ))?;
        }
        return Ok(());
    }
    let value = |row: &Row| {
        json!({
            "row": row.number,
            "attack": row.attack,
            "where": row.place.name(),
            "claimed": row.claim.name(),
        })
    };
    let all: Value = rows::all().into_iter().map(value).collect();
    print(&format!("{all:#}"))
}

fn print(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("stdout")
}

fn run(args: &Run) -> Result<()> {
    let chosen = choose(args)?;
    ground::remove_stale(&args.agent)?;
    let mut stage = Stage {
        agent: &args.agent,
        made: 0,
        grounds: Vec::new(),
    };
    let mut bad = Vec::new();
    let mut values = Vec::new();
    for row in chosen {
        let begun = Instant::now();
        let mut outcome = Outcome::default();
        if let Err(error) = stage.play(row, &mut outcome) {
            outcome.wrong(format!("could not be tried: {error:#}"));
            stage.grounds.clear();
        }
        let line = outcome.line(row);
        progress(&format!("{line} ({:.1} s)", begun.elapsed().as_secs_f64()));
        let good = outcome.is_good(row.claim);
        if !good {
            bad.push(row.attack);
        }
        let value = outcome.json(row, args.place);
        if args.output == Output::Lines {
            let line = json!({ "outcome": value, "good": good, "line": line });
            print(&line.to_string())?;
        }
        values.push(value);
    }
    if args.output == Output::Json {
        print(&format!("{:#}", Value::from(values)))?;
    }
    if bad.is_empty() {
        return Ok(());
    }
    bail!("not as it must be: {}", bad.join(", "))
}

fn choose(args: &Run) -> Result<Vec<&'static Row>> {
    let meant = |row: &Row, word: &String| *word == row.attack || *word == row.number.to_string();
    let all = rows::all();
    for word in &args.rows {
        if !all.iter().any(|row| meant(row, word)) {
            bail!("there is no row {word:?}; `list` says what there is");
        }
    }
    let here = all.into_iter().filter(|row| {
        if args.rows.is_empty() {
            row.place == args.place
        } else {
            args.rows.iter().any(|word| meant(row, word))
        }
    });
    Ok(here.collect())
}

/// The grounds that stand.
struct Stage<'a> {
    agent: &'a Path,
    made: u32,
    /// One of a shape.
    grounds: Vec<(Shape, Ground)>,
}

impl Stage<'_> {
    fn play(&mut self, row: &Row, outcome: &mut Outcome) -> Result<()> {
        if row.alone {
            let mut ground = self.make(row.shape)?;
            let ground = &mut ground;
            return (row.run)(&mut Play { ground, outcome });
        }
        if !self.grounds.iter().any(|(shape, _)| *shape == row.shape) {
            let mut ground = self.make(row.shape)?;
            ground.stand()?;
            self.grounds.push((row.shape, ground));
        }
        let found = self
            .grounds
            .iter_mut()
            .find(|(shape, _)| *shape == row.shape);
        let (_, ground) = found.context("one was made")?;
        (row.run)(&mut Play { ground, outcome })
    }

    fn make(&mut self, shape: Shape) -> Result<Ground> {
        self.made += 1;
        Ground::new(self.agent, self.made, shape)
    }
}
