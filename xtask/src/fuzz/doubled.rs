//! Whether twice the input takes twice the time: the longest inputs of a target, doubled a few times.
//!
//! A log or a list twice behind itself mostly still is one, so its parser works on all of it; of what
//! has one structure the second half is refused at once, and that takes no time to see.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};

use super::Target;
use crate::cmd;

/// Above this a byte of the long input takes that much more than one of the short: half of eight times
/// the length, for what is quadratic.
pub(super) const LINEAR: f64 = 4.0;
/// Inputs that are doubled.
const INPUTS: usize = 4;
/// Doublings that a growth is told for: eight times the length.
const DOUBLINGS: i32 = 3;
/// Doublings at most: short inputs take no time that could be told.
const MOST: u32 = 7;
/// Longest input that is doubled.
const LONGEST: u64 = 1 << 20;
/// Longest that one becomes, bytes.
const DOUBLED: usize = 8 << 20;
/// Executions of each.
const ROUNDS: u32 = 200;
/// Milliseconds below which the whole of them says nothing: they are told in whole ones.
const TOO_SHORT: f64 = 20.0;

/// How much more a byte takes in the longest of them than in the shortest, for the worst input; `None`
/// where all of them end too soon to tell.
pub(super) fn growth(target: &Target) -> Result<Option<f64>> {
    let folder = &target.doubled;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let mut worst: Option<f64> = None;
    for (index, input) in longest(&[&target.corpus, &target.seeds]).iter().enumerate() {
        let bytes = fs::read(input).with_context(|| format!("read {}", input.display()))?;
        let mut paths = Vec::new();
        for doublings in 0..=MOST {
            let path = folder.join(format!("{index}-{doublings}"));
            let doubled = bytes.repeat(1 << doublings);
            if doubled.len() > DOUBLED {
                break;
            }
            fs::write(&path, doubled).with_context(|| format!("write {}", path.display()))?;
            paths.push(path);
        }
        let mut fuzzer = target.command();
        let out = fuzzer
            .args(&paths)
            .arg(format!("-runs={ROUNDS}"))
            .args(["-timeout=60", "-rss_limit_mb=2048"])
            .stdout(Stdio::inherit())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("start {}", cmd::shown(&fuzzer)))?;
        let said = String::from_utf8_lossy(&out.stderr);
        let times: Vec<f64> = paths.iter().filter_map(|path| took(&said, path)).collect();
        let grown = grown(&times);
        worst = match (worst, grown) {
            (Some(worst), Some(grown)) => Some(worst.max(grown)),
            (one, other) => one.or(other),
        };
    }
    Ok(worst)
}

/// Per byte, the last against the first that took long enough to tell, as if eight times the length lay
/// between them. What is refused at once at some length says nothing of shorter ones.
fn grown(times: &[f64]) -> Option<f64> {
    let refused = times.iter().rposition(|time| *time < TOO_SHORT);
    let told = times.get(refused.map_or(0, |at| at + 1)..)?;
    let (first, last) = (told.first()?, told.last()?);
    let doublings = i32::try_from(told.len()).ok()? - 1;
    // Of one alone, quadratic cannot be told from a hiccup.
    (doublings >= 2).then(|| {
        let per_doubling = (last / first).powf(f64::from(doublings).recip());
        (per_doubling / 2.0).powi(DOUBLINGS)
    })
}

/// `Executed FILE in 12 ms`
fn took(said: &str, file: &Path) -> Option<f64> {
    let begin = format!("Executed {} in ", file.display());
    let mut lines = said.lines();
    lines.find_map(|line| {
        let time = line.trim_start_matches("*** ").strip_prefix(&begin)?;
        time.strip_suffix(" ms")?.parse().ok()
    })
}

fn longest(folders: &[&PathBuf]) -> Vec<PathBuf> {
    let files = folders.iter().flat_map(fs::read_dir).flatten();
    let files = files.filter_map(|file| {
        let file = file.ok()?;
        let len = file.metadata().ok()?.len();
        (1..=LONGEST).contains(&len).then(|| (len, file.path()))
    });
    let mut files: Vec<(u64, PathBuf)> = files.collect();
    files.sort();
    files.reverse();
    files.truncate(INPUTS);
    files.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn what_libfuzzer_timed_is_read_and_held_against_the_length() {
        let said = "Running: /a/0-0\nExecuted /a/0-0 in 12 ms\nRunning: /a/0-1\n\
                    Executed /a/0-1 in 30 ms\n*** NOTE: fuzzing was not performed\n";
        assert_eq!(took(said, Path::new("/a/0-0")), Some(12.0));
        assert_eq!(took(said, Path::new("/a/0-1")), Some(30.0));
        assert_eq!(took(said, Path::new("/a/0-2")), None);

        let rows: &[(&str, &[f64], Option<f64>)] = &[
            ("linear", &[20.0, 40.0, 80.0, 160.0], Some(1.0)),
            (
                "linear, once it can be told",
                &[0.0, 4.0, 20.0, 40.0, 80.0],
                Some(1.0),
            ),
            ("quadratic", &[20.0, 80.0, 320.0, 1280.0], Some(8.0)),
            (
                "quadratic, in fewer",
                &[0.0, 5.0, 20.0, 80.0, 320.0],
                Some(8.0),
            ),
            ("refused at once", &[30.0, 0.0, 0.0, 0.0], None),
            ("taken up at some length", &[0.0, 0.0, 67.0, 134.0], None),
            ("too short", &[0.0, 1.0, 2.0, 4.0], None),
            ("nothing", &[], None),
        ];
        for (name, times, want) in rows {
            let found = grown(times).map(|found| (found * 100.0).round() / 100.0);
            assert_eq!(found, *want, "{name}");
            assert_eq!(
                found.is_some_and(|found| found > LINEAR),
                name.starts_with("quadratic")
            );
        }
    }
}
