//! What the runs of the fuzz targets came to: a line of JSON each, below `target/`, and their sums.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::cmd;

/// One run of one target, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Run {
    /// Inputs tried.
    pub(super) executions: u64,
    pub(super) seconds: f64,
    /// Inputs kept for what they reach, at the end.
    pub(super) corpus: u64,
    /// Inputs that broke it.
    pub(super) crashes: u64,
    /// How much more a byte takes in the longest doubled input than in the shortest; `None`: no input
    /// took long enough to tell.
    pub(super) growth: Option<f64>,
}

impl Run {
    /// With a later run of the same target.
    fn and(self, later: Self) -> Self {
        Self {
            executions: self.executions.saturating_add(later.executions),
            seconds: self.seconds + later.seconds,
            corpus: later.corpus,
            crashes: self.crashes.saturating_add(later.crashes),
            growth: later.growth.or(self.growth),
        }
    }

    fn to_json(self) -> Value {
        json!({
            "executions": self.executions,
            "seconds": self.seconds,
            "corpus": self.corpus,
            "crashes": self.crashes,
            "growth": self.growth,
        })
    }

    fn of(line: &str) -> Option<Self> {
        let run: Value = serde_json::from_str(line).ok()?;
        Some(Self {
            executions: run["executions"].as_u64()?,
            seconds: run["seconds"].as_f64()?,
            corpus: run["corpus"].as_u64()?,
            crashes: run["crashes"].as_u64()?,
            growth: run["growth"].as_f64(),
        })
    }
}

fn file(out: &Path, name: &str) -> PathBuf {
    out.join("runs").join(format!("{name}.jsonl"))
}

/// Keeps one run.
pub(super) fn add(out: &Path, name: &str, run: &Run) -> Result<()> {
    let file = file(out, name);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let mut kept = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .with_context(|| format!("open {}", file.display()))?;
    writeln!(kept, "{}", run.to_json()).with_context(|| format!("write {}", file.display()))
}

/// Prints the sums, a line per target, those that never ran too.
pub(super) fn report(out: &Path, names: &[&String]) -> Result<()> {
    let mut all = Run::default();
    let mut never = 0_u32;
    for name in names {
        let kept = fs::read_to_string(file(out, name)).unwrap_or_default();
        match sum(&kept) {
            Some(run) => {
                cmd::result(line(name, &run))?;
                all = Run {
                    corpus: all.corpus.saturating_add(run.corpus),
                    ..all.and(Run {
                        growth: None,
                        ..run
                    })
                };
            }
            None => {
                never += 1;
                cmd::result(format_args!("{name:<24} never ran"))?;
            }
        }
    }
    let sums = line("all", &all);
    cmd::result(format_args!("{sums}, {never} of {} never ran", names.len()))
}

/// Of the lines that were kept; `None` where there is none.
fn sum(kept: &str) -> Option<Run> {
    kept.lines().filter_map(Run::of).reduce(Run::and)
}

pub(super) fn line(name: &str, run: &Run) -> String {
    let Run {
        executions,
        seconds,
        corpus,
        crashes,
        growth,
    } = run;
    let growth = growth.map_or_else(|| "-".to_owned(), |growth| format!("{growth:.2}"));
    format!(
        "{name:<24} {executions:>11} executions {seconds:>8.0} s {corpus:>6} inputs {crashes:>3} crashes \
         growth {growth}"
    )
}

/// libFuzzer's own count, of what it prints at the end.
pub(super) fn executions(said: &str) -> Option<u64> {
    let mut lines = said.lines().rev();
    lines.find_map(|line| {
        let count = line.strip_prefix("stat::number_of_executed_units:")?;
        count.trim().parse().ok()
    })
}

/// Files of a folder; none of one that is not there.
pub(super) fn files_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).map(|files| files.filter_map(Result::ok).count());
    files.map_or(0, |count| u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn what_libfuzzer_counts_is_read() {
        let said = "INFO: seed corpus\nDone 812 runs in 2 second(s)\n\
                    stat::number_of_executed_units: 812\nstat::average_exec_per_sec:     406\n";
        assert_eq!(executions(said), Some(812));
        assert_eq!(executions("stat::number_of_executed_units: many\n"), None);
        assert_eq!(executions(""), None);
    }

    #[test]
    fn runs_of_a_target_are_added_up() {
        let run = |executions, crashes, growth| Run {
            executions,
            seconds: 1.5,
            corpus: executions / 10,
            crashes,
            growth,
        };
        let (first, second) = (run(100, 1, Some(1.25)), run(50, 0, None));
        let kept = format!("{}\n{}\nnot a run\n", first.to_json(), second.to_json());
        let sum = sum(&kept).unwrap();
        let want = Run {
            executions: 150,
            seconds: 3.0,
            corpus: 5,
            crashes: 1,
            growth: Some(1.25),
        };
        assert_eq!(sum, want);
        let told = line("ima_list", &sum);
        for part in [
            "ima_list",
            " 150 executions",
            " 3 s",
            " 5 inputs",
            " 1 crashes",
            "1.25",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(super::sum(""), None);
    }
}
