//! What the runs of the fuzz targets came to: a line of JSON each, below `target/`, and their sums.
//! A budget of half an hour for each of sixty targets is days of one machine: what runs on others
//! came to is kept with the sources, a line per target and commit.

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
    /// Of one processor.
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

/// All runs of a target: those kept with the sources, and those of this machine since.
pub(super) fn so_far(kept: &Path, out: &Path, name: &str) -> Option<Run> {
    let elsewhere = fs::read_to_string(kept).unwrap_or_default();
    let elsewhere = elsewhere.lines().filter(|line| is_of(line, name));
    let here = fs::read_to_string(file(out, name)).unwrap_or_default();
    sum(elsewhere.chain(here.lines()))
}

fn is_of(line: &str, name: &str) -> bool {
    serde_json::from_str(line).is_ok_and(|run: Value| run["target"] == name)
}

/// Moves this machine's runs to those kept with the sources.
pub(super) fn keep(kept: &Path, out: &Path, names: &[&String], commit: &str) -> Result<()> {
    let mut lines = fs::read_to_string(kept).unwrap_or_default();
    for name in names {
        let file = file(out, name);
        let Some(run) = sum(fs::read_to_string(&file).unwrap_or_default().lines()) else {
            continue;
        };
        let mut line = run.to_json();
        line["target"] = json!(name);
        line["commit"] = json!(commit);
        lines += &format!("{line}\n");
    }
    fs::write(kept, lines).with_context(|| format!("write {}", kept.display()))?;
    for name in names {
        let file = file(out, name);
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
        }
    }
    Ok(())
}

/// Prints the sums, a line per target, those that never ran too.
pub(super) fn report(kept: &Path, out: &Path, names: &[&String]) -> Result<()> {
    let mut all = Run::default();
    let mut never = 0_u32;
    for name in names {
        match so_far(kept, out, name) {
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
fn sum<'a>(kept: impl Iterator<Item = &'a str>) -> Option<Run> {
    kept.filter_map(Run::of).reduce(Run::and)
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
        let sum = sum(kept.lines()).unwrap();
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
        assert_eq!(super::sum("".lines()), None);
    }

    #[test]
    fn runs_of_other_machines_count_and_are_kept_once() {
        let folder = std::env::temp_dir().join(format!("bailiwick-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (kept, out) = (folder.join("runs.jsonl"), folder.join("out"));
        let run = |executions| Run {
            executions,
            seconds: 1.0,
            ..Run::default()
        };
        let (one, other) = ("ima_list".to_owned(), "ima".to_owned());
        assert_eq!(so_far(&kept, &out, &one), None);
        add(&out, &one, &run(100)).unwrap();
        add(&out, &one, &run(20)).unwrap();
        keep(&kept, &out, &[&one, &other], "abc").unwrap();
        assert!(fs::read_to_string(&kept).unwrap().contains("\"abc\""));
        add(&out, &one, &run(3)).unwrap();
        let sum = |name: &str| so_far(&kept, &out, name).map(|run| run.executions);
        assert_eq!((sum(&one), sum(&other)), (Some(123), None));
        keep(&kept, &out, &[&one, &other], "def").unwrap();
        assert_eq!(sum(&one), Some(123));
        assert_eq!(fs::read_to_string(&kept).unwrap().lines().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
