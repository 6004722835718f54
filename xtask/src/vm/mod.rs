//! Machines that really boot: Debian's signed chain from firmware to kernel, a software TPM, IMA over
//! an ext4 root, and the fence on the root of the cgroup hierarchy and on a real network card.
//!
//! What a test may not do to the machine it runs on, it does in here. One machine at a time: a
//! processor that is interpreted takes all there is.
//!
//! | file | holds |
//! |---|---|
//! | `packages`, `modules` | what Debian brings, and in which order it loads |
//! | `image` | disks made from folders |
//! | `policy` | what is signed, and how the agent inside is configured |
//! | `machine` | firmware, TPM, disks; power on, listen, power off |
//! | `scenario` | what is tried |
//! | `initrd.sh`, `init.sh` | first programs inside; the rest is `tests/src/bin/bailiwick-vm-guest` |

mod image;
mod machine;
mod modules;
mod packages;
mod policy;
mod scenario;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use self::image::Root;
use self::machine::{Machine, Make};
use self::packages::{Kernel, Stack};
use self::scenario::{SCENARIOS, Scenario};
use crate::cmd::{self, step};
use crate::{install, paths};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this kernel
    #[arg(long)]
    kernel: Option<Kernel>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Takes the programs as they were built last
    #[arg(long)]
    no_build: bool,
    /// Lists the scenarios
    #[arg(long)]
    list: bool,
    /// Only these
    scenarios: Vec<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// What firmware, boot loader and kernel may take: 20 s on two idle processors.
const FIRMWARE: Duration = Duration::from_secs(600);

/// Programs that go inside.
const PROGRAMS: [&str; 2] = ["bailiwick-agent", "bailiwick-vm-guest"];

/// What became of one scenario on one kernel.
struct Outcome {
    scenario: &'static Scenario,
    kernel: Kernel,
    said: Vec<Value>,
    boots: Vec<Duration>,
    /// Why it could not be told how it went.
    trouble: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.list {
        for Scenario { name, about, .. } in SCENARIOS {
            cmd::result(format_args!("{name:<10} {about}"))?;
        }
        return Ok(());
    }
    let wanted = chosen(&args.scenarios)?;
    install::for_vm()?;
    if !args.no_build {
        build()?;
    }
    let home = paths::target().join("vm");
    fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
    let _alone = alone(&home)?;
    let mut outcomes = Vec::new();
    for kernel in [Kernel::V6_1, Kernel::V6_12] {
        if args.kernel.is_some_and(|only| only != kernel) {
            continue;
        }
        let stack = packages::stack(kernel)?;
        let disks = Disks::make(&home.join(kernel.name()), &stack)?;
        for scenario in &wanted {
            outcomes.push(play(scenario, kernel, &stack, &disks));
        }
    }
    report(&outcomes, args.output)
}

fn build() -> Result<()> {
    crate::build::kernel_side()?;
    step("building the programs");
    cmd::run(cmd::cargo().args([
        "build",
        "--bins",
        "--package=bailiwick-agent",
        "--package=bailiwick-collector",
        "--package=bailiwick-tests",
    ]))
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if let Some(unknown) = names
        .iter()
        .find(|name| SCENARIOS.iter().all(|one| one.name != **name))
    {
        let known: Vec<&str> = SCENARIOS.iter().map(|one| one.name).collect();
        bail!(
            "no scenario is called {unknown}; there are {}",
            known.join(", ")
        );
    }
    let wanted = |one: &&Scenario| names.is_empty() || names.iter().any(|name| name == one.name);
    Ok(SCENARIOS.iter().filter(wanted).collect())
}

/// Held while machines run.
fn alone(home: &Path) -> Result<fs::File> {
    let lock = fs::File::create(home.join("lock")).context("make a lock")?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .context("another `cargo xtask vm-test` is running")?;
    Ok(lock)
}

/// What every machine with one kernel starts from.
struct Disks {
    home: PathBuf,
    root: PathBuf,
    initrd: PathBuf,
}

impl Disks {
    fn make(home: &Path, stack: &Stack) -> Result<Self> {
        step(format_args!("making disks with Linux {}", stack.release));
        let disks = Self {
            home: home.to_owned(),
            root: home.join("root.ext4"),
            initrd: home.join("initrd"),
        };
        let programs: Vec<PathBuf> = PROGRAMS
            .iter()
            .map(|name| image::built(name))
            .collect::<Result<_>>()?;
        let root = Root::stage(&home.join("root"), stack, &programs)?;
        policy::install(&root, &home.join("approvers"))?;
        root.disk(&disks.root)?;
        image::initrd(stack, &home.join("ramdisk"), &disks.initrd)?;
        Ok(disks)
    }
}

fn play(scenario: &'static Scenario, kernel: Kernel, stack: &Stack, disks: &Disks) -> Outcome {
    step(format_args!(
        "== {} on Linux {}",
        scenario.name, stack.release
    ));
    let mut outcome = Outcome {
        scenario,
        kernel,
        said: Vec::new(),
        boots: Vec::new(),
        trouble: None,
    };
    if let Err(error) = act(&mut outcome, stack, disks) {
        step(format_args!("   could not tell: {error:#}"));
        outcome.trouble = Some(format!("{error:#}"));
    }
    outcome
}

fn act(outcome: &mut Outcome, stack: &Stack, disks: &Disks) -> Result<()> {
    let Scenario {
        name,
        secure_boot,
        boots,
        modules,
        limit,
        ..
    } = *outcome.scenario;
    let dir = disks.home.join(name);
    let disk = disks.home.join(format!("{name}.fat"));
    let command_line = format!(
        "console=ttyS0 quiet loglevel=4 ima_policy=tcb bailiwick.scenario={name} \
         bailiwick.limit={} bailiwick.modules={modules}",
        limit.as_secs()
    );
    image::boot(stack, &disks.initrd, &command_line, &disk)?;
    let make = Make {
        secure_boot,
        banks: "sha256",
        root: &disks.root,
        boot: &disk,
    };
    let mut machine = Machine::assemble(&dir, make)?;
    for number in 1..=boots {
        let boot = machine.boot(limit + FIRMWARE)?;
        step(format_args!(
            "   boot {number}: {:.1} s",
            boot.took.as_secs_f64()
        ));
        outcome.boots.push(boot.took);
        let end = boot.said.last().and_then(|value| value["end"].as_i64());
        outcome.said.extend(boot.said);
        match end {
            Some(0) => {}
            Some(code) => bail!(
                "the program inside ended with {code}; see {}",
                dir.display()
            ),
            None => bail!(
                "the machine stopped before its program did; see {}",
                dir.display()
            ),
        }
    }
    Ok(())
}

impl Outcome {
    fn checks(&self) -> impl Iterator<Item = &Value> {
        self.said.iter().filter(|value| value["check"].is_string())
    }

    fn failed(&self) -> usize {
        self.checks()
            .filter(|check| check["passed"] != true)
            .count()
    }

    /// A scenario without a check says nothing.
    fn passed(&self) -> bool {
        self.trouble.is_none() && self.failed() == 0 && self.checks().next().is_some()
    }
}

fn report(outcomes: &[Outcome], output: Output) -> Result<()> {
    let seconds =
        |boots: &[Duration]| -> Vec<f64> { boots.iter().map(Duration::as_secs_f64).collect() };
    match output {
        Output::Json => {
            let row = |one: &Outcome| {
                json!({
                    "scenario": one.scenario.name,
                    "kernel": one.kernel.name(),
                    "passed": one.passed(),
                    "trouble": one.trouble,
                    "boot_seconds": seconds(&one.boots),
                    "said": one.said,
                })
            };
            cmd::result(outcomes.iter().map(row).collect::<Value>())?;
        }
        Output::Table => {
            for one in outcomes {
                let word = if one.passed() { "passed" } else { "FAILED" };
                cmd::result(format_args!(
                    "{:<5} {:<10} {word} {:>3} checks, {} failed, {:>6.1} s",
                    one.kernel.name(),
                    one.scenario.name,
                    one.checks().count(),
                    one.failed(),
                    one.boots.iter().sum::<Duration>().as_secs_f64(),
                ))?;
            }
        }
    }
    let bad: Vec<String> = outcomes
        .iter()
        .filter(|one| !one.passed())
        .map(|one| format!("{} on {}", one.scenario.name, one.kernel.name()))
        .collect();
    if !bad.is_empty() {
        bail!("not as it must be: {}", bad.join(", "));
    }
    Ok(())
}
