//! Machines that really boot: Debian's signed chain from firmware to kernel, a software TPM, IMA over
//! an ext4 root, and the fence on the root of the cgroup hierarchy and on a real network card.
//!
//! What a test may not do to the machine it runs on, it does in here.
//!
//! | file | holds |
//! |---|---|
//! | `packages`, `modules` | what Debian brings, and in which order it loads |
//! | `image` | disks made from folders |
//! | `policy` | what is signed, and how the agent inside is configured |
//! | `machine` | firmware, TPM, disks; power on, listen, power off |
//! | `scenario` | what is tried |
//! | `lanes` | which machine runs when |
//! | `evidence` | what a boot left, read by `bailiwick inspect` |
//! | `site`, `stage` | a collector here, and a machine that is directed |
//! | `validated` | what a node's verdict turns on |
//! | `runtime` | what root does while it runs |
//! | `restarts` | other ways into another kernel than a clean boot |
//! | `variables` | the firmware's settings, changed as by a person in its menus |
//! | `initrd.sh`, `init.sh` | first programs inside; the rest is `tests/src/bin/bailiwick-vm-guest` |

mod evidence;
mod image;
mod lanes;
mod machine;
mod modules;
mod packages;
mod policy;
mod restarts;
mod runtime;
mod scenario;
mod site;
mod stage;
mod validated;
mod variables;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use self::image::Root;
use self::machine::{Machine, Make};
pub(crate) use self::packages::Kernel;
use self::packages::Stack;
use self::policy::Approvers;
use self::scenario::{Acts, SCENARIOS, Scenario};
use self::stage::Stage;
use crate::cmd::{self, step};
use crate::install;

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
    /// Programs inside are a release build: longer to make, and a third of the time in a machine
    #[arg(long)]
    release: bool,
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
const PROGRAMS: [&str; 4] = [
    "bailiwick-agent",
    "bailiwick-vm-guest",
    "bailiwick-fence-rows",
    "attacker",
];

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
        build(args.release)?;
    }
    let kernels: Vec<Kernel> = [Kernel::V6_1, Kernel::V6_12]
        .into_iter()
        .filter(|kernel| args.kernel.is_none_or(|only| only == *kernel))
        .collect();
    let outcomes = lanes::play_all(&kernels, &wanted, args.release, "")?;
    report(&outcomes, args.output)
}

/// Every scenario on Debian's oldest kernel, with the programs as they were built last: how many of
/// their checks passed, and how many did not.
pub(crate) fn check() -> Result<(u64, u64)> {
    install::for_vm()?;
    let wanted: Vec<&Scenario> = SCENARIOS.iter().collect();
    let outcomes = lanes::play_all(&[Kernel::V6_1], &wanted, false, "")?;
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let mut passed = 0;
    let mut failed = 0;
    for one in &outcomes {
        step(one.line());
        let right = one.checks().count().saturating_sub(one.failed());
        passed += count(right);
        // One that could not be told, or said nothing, is not right for want of a wrong check.
        failed += count(one.failed()).max(u64::from(!one.passed()));
    }
    Ok((passed, failed))
}

/// An attack's result, and whether it is as it must be.
pub(crate) type Played = (Value, bool);

/// Plays attacks in a machine of that kernel: each as `bailiwick-fence-rows` tells it, and whether
/// it is as it must be; then why some may be missing.
pub(crate) fn attacks(kernel: Kernel, names: &[&str]) -> Result<(Vec<Played>, Option<String>)> {
    install::for_vm()?;
    build(false)?;
    let wanted = chosen(&[scenario::WAYS_OUT.to_owned()])?;
    let outcomes = lanes::play_all(
        &[kernel],
        &wanted,
        false,
        &format!("bailiwick.rows={}", names.join(",")),
    )?;
    let outcome = outcomes.into_iter().next().context("one was played")?;
    let played = outcome.said.iter();
    let played = played
        .filter(|value| value["attack"].is_object())
        .map(|value| (value["attack"].clone(), value["good"] == true))
        .collect();
    Ok((played, outcome.trouble))
}

fn build(release: bool) -> Result<()> {
    crate::build::kernel_side()?;
    step("building the programs");
    let make = |release: bool, programs: &[&str]| {
        let mut cargo = cmd::cargo();
        cargo.args(["build", "--package=bailiwick-agent"]);
        cargo.args(["--package=bailiwick-collector", "--package=bailiwick-tests"]);
        cargo.args(release.then_some("--release"));
        cargo.args(programs.iter().map(|program| format!("--bin={program}")));
        cmd::run(&mut cargo)
    };
    // The client and the collector run here.
    make(false, &["bailiwick", "bailiwick-collector"])?;
    make(release, &PROGRAMS)
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

/// What every machine with one kernel starts from.
struct Disks {
    home: PathBuf,
    root: PathBuf,
    initrd: PathBuf,
    /// Who signs for all of them.
    approvers: Approvers,
}

impl Disks {
    fn make(home: &Path, stack: &Stack, release: bool) -> Result<Self> {
        step(format_args!("making disks with Linux {}", stack.release));
        let programs: Vec<PathBuf> = PROGRAMS
            .iter()
            .map(|name| image::built(release, name))
            .collect::<Result<_>>()?;
        let initrd = home.join("initrd");
        image::initrd(stack, &home.join("ramdisk"), &initrd)?;
        let root = Root::stage(&home.join("root"), stack, &programs)?;
        root.kernel(stack, &initrd)?;
        let approvers = policy::install(&root, &home.join("approvers"))?;
        let disks = Self {
            home: home.to_owned(),
            root: home.join("root.ext4"),
            initrd,
            approvers,
        };
        root.disk(&disks.root)?;
        Ok(disks)
    }
}

fn play(
    scenario: &'static Scenario,
    kernel: Kernel,
    stack: &Stack,
    disks: &Disks,
    more: &str,
) -> Outcome {
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
    if let Err(error) = act(&mut outcome, stack, disks, more) {
        step(format_args!("   could not tell: {error:#}"));
        outcome.trouble = Some(format!("{error:#}"));
    }
    outcome
}

fn act(outcome: &mut Outcome, stack: &Stack, disks: &Disks, more: &str) -> Result<()> {
    let Scenario {
        name,
        secure_boot,
        acts,
        modules,
        limit,
        banks,
        ..
    } = *outcome.scenario;
    let dir = disks.home.join(name);
    let disk = disks.home.join(format!("{name}.fat"));
    let inside = match acts {
        Acts::Inside { .. } => name,
        Acts::Directed(_) => "hand",
    };
    // An interpreted processor may miss the ticks by which the kernel checks its timer; a kernel
    // that stopped powers the machine off.
    let command_line = format!(
        "console=ttyS0 quiet loglevel=4 no_timer_check panic=-1 ima_policy=tcb \
         bailiwick.scenario={inside} \
         bailiwick.limit={} bailiwick.modules={modules} {more}",
        limit.as_secs()
    );
    let command_line = command_line.trim_end();
    let (boots, next) = match acts {
        Acts::Directed(play) => {
            let mut stage = Stage::open(outcome, stack, disks, command_line.to_owned())?;
            return play(&mut stage);
        }
        Acts::Inside { boots, next } => (boots, next),
    };
    image::boot(stack, &disks.initrd, command_line, "", &disk)?;
    let make = Make {
        secure_boot,
        banks,
        root: &disks.root,
        boot: &disk,
        carrier: None,
    };
    let mut machine = Machine::assemble(&dir, make)?;
    let mut before = None;
    for number in 1..=boots {
        if let Some((words, _)) = next.filter(|_| number == 2) {
            let command_line = format!("{command_line} {words}");
            image::boot(stack, &disks.initrd, &command_line, "", &disk)?;
        }
        let mut said = Vec::new();
        let booted = machine.boot(limit + FIRMWARE, &mut said);
        let left = evidence::keep(&dir, number, &mut said);
        let end = said.last().and_then(|value| value["end"].as_i64());
        // Also of a machine that did not come to its end.
        outcome.said.append(&mut said);
        let took = booted?;
        step(format_args!(
            "   boot {number}: {:.1} s",
            took.as_secs_f64()
        ));
        outcome.boots.push(took);
        if let Some(left) = left? {
            outcome.said.append(&mut left.checks(secure_boot)?);
            if let (Some(before), Some((_, registers))) = (&before, next) {
                outcome.said.append(&mut left.differs(before, registers)?);
            }
            before = Some(left);
        }
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

    fn line(&self) -> String {
        format!(
            "{:<5} {:<10} {} {:>3} checks, {} failed, {:>6.1} s",
            self.kernel.name(),
            self.scenario.name,
            if self.passed() { "passed" } else { "FAILED" },
            self.checks().count(),
            self.failed(),
            self.boots.iter().sum::<Duration>().as_secs_f64(),
        )
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
                for check in one.checks() {
                    let word = if check["passed"] == true {
                        "ok  "
                    } else {
                        "FAIL"
                    };
                    cmd::result(format_args!(
                        "{:<5} {:<10} {word} {}",
                        one.kernel.name(),
                        one.scenario.name,
                        check["check"].as_str().unwrap_or_default(),
                    ))?;
                }
                cmd::result(one.line())?;
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
