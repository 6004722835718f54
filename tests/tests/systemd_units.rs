//! The units in `deploy/systemd`, before any machine has to start them.
//!
//! `systemd-analyze verify` ends with success on unknown keys and fails where a program is
//! missing, so it runs in a mount namespace of its own with the programs in place, and any line it
//! prints is a failure.

#![expect(clippy::unwrap_used, reason = "a test says best where it broke")]

use std::collections::BTreeSet;
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
    let said = verify(scratch.path(), &programs(&units), &units, None);
    assert!(said.is_empty(), "{said}");
}

/// What systemd says of the units, with the programs in place; nothing if all is well. `beside` is
/// a folder of units that they may name.
fn verify(scratch: &Path, programs: &[String], units: &[PathBuf], beside: Option<&Path>) -> String {
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            IN_PRIVATE,
            "sh",
        ])
        .arg(scratch)
        .args(programs)
        .arg("--")
        .args(units)
        .env("SYSTEMD_LOG_COLOR", "0");
    if let Some(folder) = beside {
        // The empty entry at the end stands for the usual folders.
        command.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display()));
    }
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if said.is_empty() && !output.status.success() {
        return format!("systemd-analyze ended with {}", output.status);
    }
    said
}

/// Who starts workloads, on one host or another.
const STARTERS: [&str; 7] = [
    "containerd.service",
    "crio.service",
    "docker.service",
    "kubelet.service",
    "slurmd.service",
    "systemd-machined.service",
    "user@.service",
];

/// Folders of drop-ins, by the unit they belong to.
fn drop_ins() -> Vec<(String, PathBuf)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let mut found: Vec<(String, PathBuf)> = fs::read_dir(&dir)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".d")?.to_owned();
            Some((name, path))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn what_starts_workloads_requires_the_fence() {
    let found = drop_ins();
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, STARTERS);
    let fence = units();
    let fence = fence
        .iter()
        .find(|unit| unit.ends_with("bailiwick-fence.service"))
        .unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("units");
    fs::create_dir(&folder).unwrap();
    fs::copy(fence, folder.join("bailiwick-fence.service")).unwrap();
    let mut asked = Vec::new();
    for (name, drop_in) in &found {
        let conf = fs::read_to_string(drop_in.join("10-bailiwick.conf")).unwrap();
        for line in [
            "[Unit]",
            "Requires=bailiwick-fence.service",
            "After=bailiwick-fence.service",
        ] {
            assert!(
                conf.lines().any(|found| found == line),
                "{name} has no {line}"
            );
        }
        // As distributions have them, but for what they start.
        let unit = "[Unit]\nDescription=Starts workloads\nAfter=network.target\n\
                    [Service]\nExecStart=/usr/bin/bailiwick-agent\n";
        fs::write(folder.join(name), unit).unwrap();
        let own = folder.join(format!("{name}.d"));
        fs::create_dir(&own).unwrap();
        fs::write(own.join("10-bailiwick.conf"), conf).unwrap();
        asked.push(folder.join(name.replace("@.", "@1000.")));
    }
    let template = folder.join("user@1000.service");
    fs::copy(folder.join("user@.service"), template).unwrap();
    let mount = scratch.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let programs = programs(std::slice::from_ref(fence));
    let output = verify(&mount, &programs, &asked, Some(&folder));
    assert!(output.is_empty(), "{output}");

    // The check sees what it is for: without the fence's unit there is a complaint.
    fs::remove_file(folder.join("bailiwick-fence.service")).unwrap();
    let output = verify(&mount, &programs, &asked, Some(&folder));
    assert!(output.contains("bailiwick-fence.service"), "{output}");
}

#[test]
fn the_fence_stands_before_the_network_and_what_talks() {
    let all = units();
    let fence = all
        .iter()
        .find(|unit| unit.ends_with("bailiwick-fence.service"))
        .unwrap();
    let text = fs::read_to_string(fence).unwrap();
    let words = |key: &str| -> Vec<&str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(key));
        lines.flat_map(str::split_whitespace).collect()
    };
    assert_eq!(words("DefaultDependencies="), ["no"]);
    assert!(words("Before=").contains(&"network-pre.target"));
    assert!(words("Before=").contains(&"sysinit.target"));
    assert!(words("Wants=").contains(&"network-pre.target"));
    assert!(words("RequiresMountsFor=").contains(&"/sys/fs/bpf"));
    assert!(text.contains("mount -t bpf"));
    assert_eq!(words("WantedBy="), ["sysinit.target"]);
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

/// Values of a key, in the order they stand.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().filter_map(move |line| line.strip_prefix(key));
    lines.flat_map(str::split_whitespace)
}

/// The system calls in a set of systemd's, and in those that it names.
fn set(name: &str) -> BTreeSet<String> {
    let output = Command::new("systemd-analyze")
        .args(["syscall-filter", "--no-pager", name])
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}");
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.lines().filter(|line| line.starts_with(' '));
    let words = words.map(str::trim).filter(|word| !word.starts_with('#'));
    words
        .flat_map(|word| match word.starts_with('@') {
            true => set(word),
            false => BTreeSet::from([word.to_owned()]),
        })
        .collect()
}

/// What the lines of a unit allow, one after the other.
fn allowed(text: &str) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    let lines = text.lines();
    for line in lines.filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (words, off) = match line.strip_prefix('~') {
            Some(words) => (words, true),
            None => (line, false),
        };
        for word in words.split_whitespace() {
            let calls = match word.starts_with('@') {
                true => set(word),
                false => BTreeSet::from([word.to_owned()]),
            };
            if off {
                allowed.retain(|call| !calls.contains(call));
            } else {
                allowed.extend(calls);
            }
        }
    }
    allowed
}

/// Libraries of vendors find their device nodes and what they ask the kernel, and nothing more.
#[test]
fn vendors_libraries_have_what_they_take_and_no_more() {
    let all = units();
    let agent = all
        .iter()
        .find(|unit| unit.ends_with("bailiwick-agent.service"));
    let text = fs::read_to_string(agent.unwrap()).unwrap();
    let devices: Vec<&str> = values(&text, "DeviceAllow=").collect();
    let want = [
        "/dev/tpmrm0",
        "char-nvidia",
        "char-nvidia-frontend",
        "char-nvidia-uvm",
        "char-nvidia-nvswitch",
        // The agent's own, in a confidential guest.
        "/dev/sev-guest",
    ];
    let want: Vec<&str> = want.into_iter().flat_map(|name| [name, "rw"]).collect();
    assert_eq!(devices, want);
    assert_eq!(
        values(&text, "DevicePolicy=").collect::<Vec<_>>(),
        ["closed"]
    );
    let after: Vec<&str> = values(&text, "After=").collect();
    for unit in [
        "nvidia-persistenced.service",
        "nvidia-fabricmanager.service",
    ] {
        assert!(after.contains(&unit), "{unit}");
    }
    // These hide the nodes, or refuse code that is made at run time.
    for key in ["PrivateDevices=", "MemoryDenyWriteExecute=", "ProcSubset="] {
        assert_eq!(values(&text, key).next(), None, "{key}");
    }
    let allowed = allowed(&text);
    for call in [
        "ioctl",
        "mmap",
        "mprotect",
        "munmap",
        "mremap",
        "madvise",
        "mlock",
        "openat",
        "futex",
        "clone3",
        "eventfd2",
        "memfd_create",
        "poll",
        "prctl",
        "sched_getaffinity",
        "get_mempolicy",
        "getrandom",
        "socket",
        "statx",
    ] {
        assert!(allowed.contains(call), "{call}");
    }
    for call in [
        "mount",
        "bpf",
        "init_module",
        "finit_module",
        "kexec_load",
        "ptrace",
        "setuid",
        "chown",
        "sched_setscheduler",
        "set_mempolicy",
        "perf_event_open",
        "settimeofday",
    ] {
        assert!(!allowed.contains(call), "{call}");
    }
}
