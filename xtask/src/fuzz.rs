//! Runs the fuzz targets of `tests/fuzz`, each until its budget is spent, and keeps count.
//!
//! The stable compiler instruments them: what cargo-fuzz would pass, without its address
//! sanitizer, since the parsers hold no `unsafe` that it could watch. Each target bounds its own
//! memory (`tests/fuzz/src/lib.rs`). After its run the longest inputs are doubled a few times, whole,
//! and timed: twice the input may take twice the time.

mod doubled;
mod record;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::record::{Run, files_in};
use crate::cmd::{self, step};
use crate::{install, paths};

/// Executions after which a target has run enough.
const EXECUTIONS: u64 = 10_000_000;
/// Seconds after which it has, too.
const SECONDS: u32 = 30 * 60;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each target runs at most; ten million executions end it sooner
    #[arg(long, default_value_t = SECONDS)]
    seconds: u32,
    /// Prints what the runs so far came to, those kept with the sources too, and runs nothing
    #[arg(long)]
    report: bool,
    /// Keeps what this machine's runs came to with the sources, and runs nothing
    #[arg(long, conflicts_with = "report")]
    keep: bool,
    /// Leaves out targets whose budget is spent by the runs so far
    #[arg(long)]
    rest: bool,
    /// Only these targets
    targets: Vec<String>,
}

/// Coverage counters, comparison tracing, checks on, one unit: so that the counters stay dense.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks \
    -Ccodegen-units=1 -Clto=off";

pub(crate) fn run(args: &Args) -> Result<()> {
    let out = paths::target().join("fuzz");
    let manifest = paths::root().join("tests/fuzz/Cargo.toml");
    let kept = paths::root().join("tests/fuzz/runs.jsonl");
    if !args.report && !args.keep {
        install::for_build()?;
    }
    let all = targets(&manifest)?;
    if let Some(unknown) = args.targets.iter().find(|name| !all.contains(name)) {
        bail!("no fuzz target {unknown}; there are: {}", all.join(", "));
    }
    let mut chosen: Vec<&String> = all
        .iter()
        .filter(|name| args.targets.is_empty() || args.targets.contains(name))
        .collect();
    if args.report {
        return record::report(&kept, &out, &chosen);
    }
    if args.keep {
        let commit = cmd::output(cmd::command("git").args(["rev-parse", "--short", "HEAD"]))?;
        return record::keep(&kept, &out, &chosen, commit.trim());
    }
    if args.rest {
        chosen.retain(|name| !record::so_far(&kept, &out, name).is_some_and(spent));
    }
    let programs = build(&manifest, &out, &args.targets)?;
    let mut broken = Vec::new();
    for name in chosen {
        step(format_args!(
            "fuzzing {name} for {} s at most",
            args.seconds
        ));
        let target = Target {
            program: programs.join(name),
            corpus: out.join("corpus").join(name),
            artifacts: out.join("artifacts").join(name),
            seeds: paths::root().join("tests/fuzz/seeds").join(name),
            doubled: out.join("doubled").join(name),
        };
        let run = target.fuzz(args.seconds)?;
        record::add(&out, name, &run)?;
        cmd::result(record::line(name, &run))?;
        if run.crashes > 0 {
            broken.push(format!("{name} (see {})", target.artifacts.display()));
        }
        if run.growth.is_some_and(|growth| growth > doubled::LINEAR) {
            broken.push(format!(
                "{name} (twice the input takes more than twice the time)"
            ));
        }
    }
    if !broken.is_empty() {
        bail!("not as it must be: {}", broken.join(", "));
    }
    Ok(())
}

/// The kernel's ticks a second in `/proc`: `USER_HZ`, fixed on Linux.
const TICKS: f64 = 100.0;

/// What the processes that were waited for took of a processor. Time by the wall says little on a
/// machine that does other things besides.
fn children_ticks() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // cutime and cstime are the 16th and 17th field, the 14th and 15th after the name.
    let fields = after.split_whitespace().skip(13).take(2);
    let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, system] => Ok(user + system),
        _ => bail!("/proc/self/stat has no cutime and cstime"),
    }
}

/// It ran as often, or as long, as it has to.
fn spent(run: Run) -> bool {
    run.executions >= EXECUTIONS || run.seconds >= f64::from(SECONDS)
}

/// Where one target lives, and what it works on.
struct Target {
    program: PathBuf,
    corpus: PathBuf,
    artifacts: PathBuf,
    /// Kept with the sources; read and never written.
    seeds: PathBuf,
    /// Its longest inputs, made longer.
    doubled: PathBuf,
}

impl Target {
    fn fuzz(&self, seconds: u32) -> Result<Run> {
        for dir in [&self.corpus, &self.artifacts] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let before = files_in(&self.artifacts);
        let mut fuzzer = self.command();
        fuzzer.arg(&self.corpus);
        if self.seeds.is_dir() {
            fuzzer.arg(&self.seeds);
        }
        fuzzer
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-runs={EXECUTIONS}"))
            .arg(format!("-artifact_prefix={}/", self.artifacts.display()))
            .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .args(["-verbosity=0", "-print_funcs=0"]);
        let begun = children_ticks()?;
        let out = fuzzer
            .stdout(Stdio::inherit())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("start {}", cmd::shown(&fuzzer)))?;
        let seconds = (children_ticks()? - begun) / TICKS;
        let said = String::from_utf8_lossy(&out.stderr);
        if !out.status.success() {
            step(format_args!("it said:\n{said}"));
        }
        let found = files_in(&self.artifacts).saturating_sub(before);
        let crashes = match out.status.success() {
            true => found,
            false => found.max(1),
        };
        Ok(Run {
            executions: record::executions(&said).unwrap_or_default(),
            seconds,
            corpus: files_in(&self.corpus),
            crashes,
            growth: match crashes {
                0 => doubled::growth(self)?,
                _ => None,
            },
        })
    }

    fn command(&self) -> Command {
        cmd::command(&self.program)
    }
}

/// Builds the targets; the folder they are in.
fn build(manifest: &Path, out: &Path, only: &[String]) -> Result<PathBuf> {
    let host = host()?;
    step("building the fuzz targets, instrumented");
    let mut cargo = cmd::cargo();
    cargo
        .args(["build", "--quiet", "--release", "--target", &host])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(out)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS);
    for name in only {
        cargo.args(["--bin", name]);
    }
    cmd::run(&mut cargo)?;
    Ok(out.join(host).join("release"))
}

fn targets(manifest: &Path) -> Result<Vec<String>> {
    let text = cmd::output(
        cmd::cargo()
            .args([
                "metadata",
                "--no-deps",
                "--format-version=1",
                "--manifest-path",
            ])
            .arg(manifest),
    )?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let all = metadata["packages"][0]["targets"]
        .as_array()
        .context("no targets in cargo metadata")?;
    let bins = all.iter().filter(|target| target["kind"][0] == "bin");
    Ok(bins
        .filter_map(|bin| bin["name"].as_str().map(str::to_owned))
        .collect())
}

fn host() -> Result<String> {
    let text = cmd::output(cmd::command("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}
