//! A cgroup to fence, and processes in it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Once,
};

use bailiwick_agent::{
    config::FenceSection,
    fence::{Fence, Recorder},
};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_bailiwick-agent");

/// Cgroups and folders of tests: `bailiwick-test-<pid>-<name>`.
const PREFIX: &str = "bailiwick-test-";

/// A cgroup with a BPF file system for its pins; both go when this does.
pub(crate) struct Scene {
    name: String,
    pub(crate) section: FenceSection,
}

impl Scene {
    pub(crate) fn new(test: &str) -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(remove_stale);
        let name = format!("{PREFIX}{}-{test}", std::process::id());
        fs::create_dir_all(mount().join(&name).join("studies/cardio")).unwrap();
        let section = section(&name);
        Self { name, section }
    }

    pub(crate) fn open(&self) -> Fence {
        Fence::open(&self.section, Recorder::default()).unwrap()
    }

    /// Folder of a cgroup below the root.
    pub(crate) fn cgroup(&self, below: &str) -> PathBuf {
        mount().join(&self.name).join(below)
    }

    /// Path of a cgroup below the root, as policies spell it.
    pub(crate) fn path(&self, below: &str) -> String {
        format!("/{}/{below}", self.name)
    }

    /// A private folder, beside the pins.
    pub(crate) fn folder(&self) -> PathBuf {
        folder(&self.name)
    }

    pub(crate) fn pin(&self, below: &str) -> PathBuf {
        self.section.bpffs.join("v3").join(below)
    }

    /// What a process in that cgroup is told when it sends a datagram to the loopback device.
    pub(crate) fn send(&self, below: &str) -> String {
        let out = run_in(&self.cgroup(below), PROGRAM, &["probe", "fence"]);
        String::from_utf8(out.stdout).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let left = clean(&self.name);
        assert!(std::thread::panicking() || left.is_ok(), "{left:?}");
    }
}

/// Runs a program that is in the cgroup before it begins.
pub(crate) fn run_in(cgroup: &Path, program: &str, arguments: &[&str]) -> Output {
    let mut child = Command::new("sh")
        .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
        .arg(cgroup)
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait_with_output().unwrap()
}

fn section(name: &str) -> FenceSection {
    FenceSection {
        root: PathBuf::from(format!("/{name}")),
        whole_host: false,
        bpffs: folder(name).join("bpf"),
        socket: folder(name).join("fence.sock"),
        ..FenceSection::default()
    }
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// The cgroup2 mount.
fn mount() -> PathBuf {
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .expect("cgroup2 is mounted");
    PathBuf::from(line.split(' ').nth(1).unwrap())
}

/// Nothing may be left; what cannot go now is tried again by the next run.
fn clean(name: &str) -> Result<(), String> {
    let pins = Fence::remove_pins(&section(name));
    // What a process has left that was ended between its pins and its file system, or that a child
    // of another test's thread held for the moment between fork and exec.
    let bpffs = folder(name).join("bpf");
    drop(Command::new("umount").arg("--quiet").arg(&bpffs).output());
    let left = match fs::remove_dir_all(folder(name)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(format!("{name}: {err}, {pins:?}"))
        }
        _ => Ok(()),
    };
    remove_cgroups(&mount().join(name));
    left
}

fn remove_cgroups(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    drop(fs::remove_dir(folder));
}

/// What runs that were killed have left.
fn remove_stale() {
    for place in [mount(), std::env::temp_dir()] {
        for entry in fs::read_dir(place).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next());
            let gone = pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists());
            if gone {
                drop(clean(&name));
            }
        }
    }
}
