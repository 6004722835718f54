//! Everything that must hold before a change goes in. `.ci/run` calls exactly this.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cmd::{self, step};
use crate::install;
use crate::install::capability;

mod gpu;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    only: Option<Only>,
    /// Leave the demo out
    #[arg(long)]
    no_demo: bool,
    /// Leave the machines out that boot, which the whole run ends with
    #[arg(long)]
    no_vm: bool,
}

/// What the run without a word leaves out.
#[derive(Debug, clap::Subcommand)]
enum Only {
    /// What the agent asks of GPUs, asked of real ones; ends with 77 where there are none
    Gpu(gpu::Args),
}

/// One check, in the order of the report.
struct Step {
    name: &'static str,
    work: fn() -> Result<Tally>,
}

/// What a step counted: itself, or the tests it ran.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

const ONE: Tally = Tally {
    passed: 1,
    failed: 0,
    ignored: 0,
};

const STEPS: &[Step] = &[
    Step {
        name: "formatting",
        work: formatting,
    },
    Step {
        name: "kernel side",
        work: || crate::build::kernel_side().map(|()| ONE),
    },
    Step {
        name: "clippy",
        work: clippy,
    },
    Step {
        name: "deny",
        work: deny,
    },
    Step {
        name: "programs",
        work: programs,
    },
    Step {
        name: "tests",
        work: tests,
    },
    Step {
        name: "named rows",
        work: || {
            crate::mutants::check_table().map(|passed| Tally {
                passed,
                ..Tally::default()
            })
        },
    },
];

/// What the programs themselves are needed for, of this build.
const DEMO: Step = Step {
    name: "demo",
    work: || crate::demo::check().map(|()| ONE),
};
const MACHINES: Step = Step {
    name: "machines",
    work: machines,
};

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.only {
        Some(Only::Gpu(args)) => gpu::run(args),
        None => everything(args).map(|()| ExitCode::SUCCESS),
    }
}

fn everything(args: &Args) -> Result<()> {
    capability::for_demo()?;
    install::for_test()?;
    if !args.no_vm {
        install::for_vm()?;
    }
    let mut all = Tally::default();
    let mut broken = Vec::new();
    let mut report = Vec::new();
    let played = [(DEMO, args.no_demo), (MACHINES, args.no_vm)];
    let played: Vec<Step> = played
        .into_iter()
        .filter_map(|(step, left_out)| (!left_out).then_some(step))
        .collect();
    for Step { name, work } in STEPS.iter().chain(&played) {
        if played.iter().any(|one| one.name == *name) && broken.contains(&"programs") {
            // Old programs would tell an old story.
            continue;
        }
        step(format_args!("== {name}"));
        let begun = Instant::now();
        let tally = work().unwrap_or_else(|error| {
            step(format_args!("{name} failed: {error:#}"));
            broken.push(*name);
            Tally {
                failed: 1,
                ..Tally::default()
            }
        });
        report.push((*name, tally, begun.elapsed()));
        all = all.plus(tally);
    }
    for (name, tally, took) in report {
        cmd::result(line(name, tally, took))?;
    }
    cmd::result(format_args!(
        "{} passed, {} failed, {} ignored",
        all.passed, all.failed, all.ignored
    ))?;
    if all.failed > 0 {
        bail!("not as it must be: {}", broken.join(", "));
    }
    Ok(())
}

fn line(name: &str, tally: Tally, took: Duration) -> String {
    format!(
        "{name:<12} {:>5} passed {:>3} failed {:>6.1} s",
        tally.passed,
        tally.failed,
        took.as_secs_f64()
    )
}

/// The fuzz targets: another build, instrumented.
const FUZZ: &str = "tests/fuzz/Cargo.toml";
/// What is no member of the workspace: another target, another build, other providers.
const OUTSIDE: [&str; 3] = [
    "ebpf/programs/Cargo.toml",
    FUZZ,
    "attestation/benches/providers/Cargo.toml",
];

fn formatting() -> Result<Tally> {
    cmd::run(cmd::cargo().args(["fmt", "--all", "--check"]))?;
    for outside in OUTSIDE {
        if crate::paths::root().join(outside).exists() {
            cmd::run(cmd::cargo().args(["fmt", "--check", "--manifest-path", outside]))?;
        }
    }
    Ok(ONE)
}

fn clippy() -> Result<Tally> {
    cmd::run(cmd::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    cmd::run(crate::build::bpf_cargo("clippy")?.args(["--release", "--", "-D", "warnings"]))?;
    // Beside the workspace's own build: what the two have in common is there already.
    cmd::run(
        cmd::cargo()
            .args(["clippy", "--locked", "--manifest-path", FUZZ])
            .arg("--target-dir")
            .arg(crate::paths::target())
            .args(["--", "-D", "warnings"]),
    )?;
    Ok(ONE)
}

/// Programs and tests in one build: what tests ask of a dependency would else build it twice.
fn programs() -> Result<Tally> {
    cmd::run(cmd::cargo().args(["build", "--workspace", "--bins", "--tests"]))?;
    Ok(ONE)
}

/// Machines that really boot, on the oldest kernel; the other is `cargo xtask vm-test`'s.
fn machines() -> Result<Tally> {
    let (passed, failed) = crate::vm::check()?;
    Ok(Tally {
        passed,
        failed,
        ignored: 0,
    })
}

/// Advisories are a chore of their own: their database is not always reachable.
fn deny() -> Result<Tally> {
    let deny = cmd::find("cargo-deny").context("cargo-deny was installed above")?;
    // It reads the crates of every platform, and a build fetches those of this one.
    cmd::run(cmd::cargo().args(["fetch", "--locked"]))?;
    cmd::run(cmd::command(deny).args([
        "--offline",
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))?;
    Ok(ONE)
}

fn tests() -> Result<Tally> {
    let mut nextest = cmd::cargo();
    nextest
        .args([
            "nextest",
            "run",
            "--workspace",
            "--no-fail-fast",
            "--no-tests",
            "pass",
        ])
        .env("PATH", cmd::path_with_tools()?);
    let mut child = nextest
        .stderr(Stdio::piped())
        .spawn()
        .context("start cargo nextest")?;
    let mut tally = None;
    let lines = child.stderr.take().context("nextest's stderr is piped")?;
    for line in BufReader::new(lines).lines() {
        let line = line.context("read what nextest says")?;
        if line.trim_start().starts_with("Summary") {
            tally = Some(summary(&line));
        }
        writeln!(std::io::stderr(), "{line}").context("write to stderr")?;
    }
    let status = child.wait().context("wait for cargo nextest")?;
    match tally {
        Some(tally) if status.success() || tally.failed > 0 => Ok(tally),
        _ => bail!("cargo nextest ended with {status}"),
    }
}

/// Reads `Summary [ 1.2s] 12 tests run: 10 passed (1 slow), 2 failed, 3 skipped`.
///
/// Whatever did not pass counts as failed, timeouts too; skipped ones are those marked ignored.
fn summary(line: &str) -> Tally {
    let words: Vec<&str> = line
        .split_whitespace()
        .map(|word| word.trim_end_matches([',', ':']))
        .collect();
    let count = |what: &str| {
        words
            .windows(2)
            .filter(|pair| pair.get(1) == Some(&what))
            .find_map(|pair| pair.first()?.parse().ok())
    };
    let passed = count("passed").unwrap_or(0);
    let run = words.iter().position(|word| *word == "run").and_then(|at| {
        words
            .get(..at)?
            .iter()
            .rev()
            .find_map(|word| word.split('/').next()?.parse().ok())
    });
    let failed = run.map_or_else(
        || count("failed").unwrap_or(0),
        |run: u64| run.saturating_sub(passed),
    );
    Tally {
        passed,
        failed,
        ignored: count("skipped").unwrap_or(0),
    }
}

impl Tally {
    fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
        }
    }
}

#[cfg(test)]
mod unit {
    use super::summary;

    #[test]
    fn summaries_are_counted() {
        let cases = [
            (
                "Summary [   1.2s] 12 tests run: 12 passed, 0 skipped",
                (12, 0, 0),
            ),
            (
                "     Summary [ 0.1s] 12 tests run: 10 passed (1 slow), 2 failed, 3 skipped",
                (10, 2, 3),
            ),
            (
                "Summary [ 9.0s] 3 tests run: 1 passed, 1 failed, 1 timed out, 0 skipped",
                (1, 2, 0),
            ),
            (
                "Summary [ 9.0s] 2/5 tests run: 1 passed, 1 failed, 0 skipped",
                (1, 1, 0),
            ),
            ("Summary [ 0.0s] 1 test run: 1 passed, 0 skipped", (1, 0, 0)),
        ];
        for (line, want) in cases {
            let got = summary(line);
            assert_eq!((got.passed, got.failed, got.ignored), want, "{line}");
        }
    }
}
