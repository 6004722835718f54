//! The units in `deploy/systemd`, before any machine has to start them.
//!
//! `systemd-analyze verify` ends with success on unknown keys and fails where a program is
//! missing, so it runs in a mount namespace of its own with the programs in place, and any line it
//! prints is a failure.

#![expect(clippy::unwrap_used, reason = "a test says best where it broke")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn units() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut units: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path().canonicalize().unwrap())
        .filter(|path| {
            let kind = path.extension().and_then(|kind| kind.to_str());
            matches!(kind, Some("service" | "socket" | "target" | "timer"))
        })
        .collect();
    units.sort();
    assert!(!units.is_empty(), "no unit in {}", dir.display());
    units
}

/// Programs that the units start, without the characters that modify how.
fn programs(units: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    for unit in units {
        let text = fs::read_to_string(unit).unwrap();
        for line in text.lines().filter(|line| line.starts_with("Exec")) {
            let command = line.split_once('=').unwrap().1;
            let program = command.split_whitespace().next().unwrap();
            found.push(
                program
                    .trim_start_matches(['@', '-', ':', '+', '!'])
                    .to_owned(),
            );
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Units first, a line `--`, then programs: each is put over a scratch copy of its folder.
const IN_PRIVATE: &str = r#"
set -eu
scratch=$1; shift
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work"
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$scratch/upper,workdir=$scratch/work" /usr
while [ "$1" != -- ]; do
    mkdir -p "$(dirname "$1")"
    [ -e "$1" ] || { printf '#!/bin/sh\n' > "$1"; chmod 755 "$1"; }
    shift
done
shift
exec systemd-analyze verify --man=no "$@"
"#;

#[test]
fn units_are_understood_to_the_last_line() {
    let units = units();
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            IN_PRIVATE,
            "sh",
        ])
        .arg(scratch.path())
        .args(programs(&units))
        .arg("--")
        .args(&units)
        .env("SYSTEMD_LOG_COLOR", "0")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn programs_lie_where_the_test_can_put_them() {
    for program in programs(&units()) {
        assert!(program.starts_with("/usr/"), "{program} is not below /usr");
    }
}

#[test]
fn units_say_what_they_may_do() {
    for unit in units() {
        if unit.extension().is_none_or(|kind| kind != "service") {
            continue;
        }
        let text = fs::read_to_string(&unit).unwrap();
        for key in [
            "Type=notify",
            "WatchdogSec=",
            "CapabilityBoundingSet=",
            "NoNewPrivileges=yes",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with(key)),
                "{} has no {key}",
                unit.display()
            );
        }
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=50", "--no-pager"])
            .arg(&unit)
            .output()
            .unwrap();
        // Tenths: 5.0 is where systemd's own word turns from "ok" to "medium".
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}:\n{said}", unit.display());
    }
}
