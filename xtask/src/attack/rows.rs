//! `cargo xtask attack fence|survival`: builds what the rows need, and starts them.
//!
//! The rows are a program of their own, which virtual machines run too: rows that take modules of
//! the kernel are played there. One that was not played is told with the reason, and is no pass.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use serde_json::{Value, json};

use super::Output;
use crate::cmd;
use crate::install::{self, capability};
use crate::vm::{self, Kernel, Played};
use crate::{build, paths};

const PROGRAM: &str = "bailiwick-fence-rows";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or numbers of rows; none: all
    rows: Vec<String>,
    /// Only rows that take a virtual machine, on this kernel
    #[arg(long, value_enum, value_name = "KERNEL", num_args = 0..=1, default_missing_value = "6.1")]
    vm: Option<Kernel>,
    /// Only rows that take none
    #[arg(long, conflicts_with = "vm")]
    host: bool,
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
    build_them()?;
    let mut program = Command::new(paths::binary(false, PROGRAM));
    if args.list {
        program.arg("list");
        return start(program);
    }
    let all = cmd::output(program.args(["list", "--output", "json"]))?;
    let all: Vec<Value> = serde_json::from_str(&all).context("read the list of rows")?;
    let all: Vec<Row> = all.iter().map(Row::read).collect::<Result<_>>()?;
    let (here, inside) = split(args, &all)?;
    let mut played = Vec::new();
    if !here.is_empty() {
        prepare()?;
        played.append(&mut on_this_machine(&here)?);
    }
    if !inside.is_empty() {
        let kernel = args.vm.unwrap_or(Kernel::V6_1);
        let names: Vec<&str> = inside.iter().map(|row| row.attack.as_str()).collect();
        let (done, why) = match vm::attacks(kernel, &names) {
            Ok((done, trouble)) => {
                let why = trouble.unwrap_or_else(|| "nothing was heard of it".to_owned());
                (done, why)
            }
            Err(error) => (Vec::new(), format!("no virtual machine: {error:#}")),
        };
        played.append(&mut complete(&inside, done, &why));
    }
    report(&played, args.output)
}

/// A row, as the program that plays it lists it.
#[derive(Clone, Debug)]
struct Row {
    row: u64,
    attack: String,
    /// `host` or `vm`.
    place: String,
    claimed: String,
}

impl Row {
    fn read(value: &Value) -> Result<Self> {
        let word = |key: &str| {
            let word = value[key].as_str().map(str::to_owned);
            word.with_context(|| format!("a row has no {key}: {value}"))
        };
        Ok(Self {
            row: value["row"].as_u64().context("a row has no number")?,
            attack: word("attack")?,
            place: word("where")?,
            claimed: word("claimed")?,
        })
    }
}

/// Which rows are asked for, of this machine and of a virtual one.
fn split(args: &Args, all: &[Row]) -> Result<(Vec<Row>, Vec<Row>)> {
    let meant = |row: &Row, word: &String| *word == row.attack || *word == row.row.to_string();
    if let Some(word) = args
        .rows
        .iter()
        .find(|word| !all.iter().any(|row| meant(row, word)))
    {
        bail!("there is no row {word:?}; --list says what there is");
    }
    let asked = |row: &&Row| args.rows.is_empty() || args.rows.iter().any(|word| meant(row, word));
    let (inside, here): (Vec<Row>, Vec<Row>) = all
        .iter()
        .filter(asked)
        .cloned()
        .partition(|row| row.place == "vm");
    Ok((
        if args.vm.is_some() { Vec::new() } else { here },
        if args.host { Vec::new() } else { inside },
    ))
}

/// The program says itself how each went, on stderr.
fn on_this_machine(rows: &[Row]) -> Result<Vec<Played>> {
    let mut program = Command::new(paths::binary(false, PROGRAM));
    program.args(["run", "--output", "lines", "--agent"]);
    program.arg(agent());
    program.args(rows.iter().map(|row| &row.attack));
    let out = program
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {PROGRAM}"))?;
    let text = String::from_utf8(out.stdout).context("the rows printed no UTF-8")?;
    let mut played = Vec::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).context("read a row")?;
        played.push((value["outcome"].clone(), value["good"] == true));
    }
    let why = format!("{PROGRAM} ended with {}", out.status);
    Ok(complete(rows, played, &why))
}

/// Adds those that were not played, and why not.
fn complete(rows: &[Row], played: Vec<Played>, why: &str) -> Vec<Played> {
    let mut all = played;
    for row in rows {
        if all.iter().any(|(value, _)| value["attack"] == *row.attack) {
            continue;
        }
        cmd::step(format_args!("{} was not played: {why}", row.attack));
        all.push((
            json!({
                "row": row.row,
                "attack": row.attack,
                "where": row.place,
                "attempts": 0,
                "leaked": 0,
                "stopped_by": "",
                "claimed": row.claimed,
                "evidence": format!("not played: {why}"),
            }),
            false,
        ));
    }
    all
}

fn report(played: &[Played], output: Output) -> Result<()> {
    match output {
        Output::Json => {
            let rows: Value = played.iter().map(|(value, _)| value.clone()).collect();
            cmd::result(format_args!("{rows:#}"))?;
        }
        Output::Text => {
            for (value, good) in played {
                cmd::result(line(value, *good))?;
            }
        }
    }
    let bad: Vec<&str> = played
        .iter()
        .filter(|(_, good)| !good)
        .filter_map(|(value, _)| value["attack"].as_str())
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    bail!("not as it must be: {}", bad.join(", "))
}

/// For people; what is claimed evidenced shows it.
fn line(value: &Value, good: bool) -> String {
    let word = |key: &str| value[key].as_str().unwrap_or_default();
    let mut line = format!(
        "{} {:<4} {:>2} {:<28} {:>6} tried {:>5} got out   {}",
        if good { "ok " } else { "BAD" },
        word("where"),
        value["row"],
        word("attack"),
        value["attempts"],
        value["leaked"],
        word("stopped_by"),
    );
    if !good || word("claimed") == "evidenced" {
        line += &format!("\n       evidence: {}", word("evidence"));
    }
    line
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Args, Kernel, Output, Row, complete, split};

    fn rows() -> Vec<Row> {
        let rows = [
            (1, "here", "host"),
            (7, "inside", "vm"),
            (7, "both", "host"),
        ];
        rows.map(|(row, attack, place)| Row {
            row,
            attack: attack.to_owned(),
            place: place.to_owned(),
            claimed: "stopped".to_owned(),
        })
        .into()
    }

    #[test]
    fn rows_are_played_where_they_can_be() {
        struct Case {
            asked: &'static [&'static str],
            vm: Option<Kernel>,
            host: bool,
            here: &'static [&'static str],
            inside: &'static [&'static str],
        }
        let case = |asked, here, inside| Case {
            asked,
            vm: None,
            host: false,
            here,
            inside,
        };
        let cases = [
            ("all", case(&[], &["here", "both"], &["inside"])),
            (
                "inside alone",
                Case {
                    vm: Some(Kernel::V6_12),
                    ..case(&[], &[], &["inside"])
                },
            ),
            (
                "here alone",
                Case {
                    host: true,
                    ..case(&[], &["here", "both"], &[])
                },
            ),
            ("a number", case(&["7"], &["both"], &["inside"])),
            ("a name", case(&["inside"], &[], &["inside"])),
        ];
        for (name, case) in cases {
            let args = args(case.asked, case.vm, case.host);
            let (here, inside) = split(&args, &rows()).unwrap();
            let names = |rows: &[Row]| -> Vec<String> {
                rows.iter().map(|row| row.attack.clone()).collect()
            };
            assert_eq!(names(&here), case.here, "{name}");
            assert_eq!(names(&inside), case.inside, "{name}");
        }
        split(&args(&["inside", "8"], None, false), &rows()).unwrap_err();
    }

    fn args(asked: &[&str], vm: Option<Kernel>, host: bool) -> Args {
        Args {
            rows: asked.iter().map(|&word| word.to_owned()).collect(),
            vm,
            host,
            list: false,
            output: Output::Text,
        }
    }

    #[test]
    fn what_was_not_played_is_no_pass() {
        let played = vec![(json!({ "attack": "here" }), true)];
        let all = complete(&rows(), played, "no room");
        let found: Vec<(&str, bool)> = all
            .iter()
            .map(|(value, good)| (value["attack"].as_str().unwrap(), *good))
            .collect();
        assert_eq!(found, [("here", true), ("inside", false), ("both", false)]);
        assert_eq!(all[1].0["evidence"], "not played: no room");
        assert_eq!(all[1].0["attempts"], 0);
    }
}
