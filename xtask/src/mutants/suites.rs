//! The tests that may notice, and running one of them.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, prlimit, waitid,
};
use serde_json::Value;

use super::copy::{Copy, Program};
use super::rewrite::Id;
use crate::cmd;

/// Names the mutant that is awake; `switch.rs` reads it.
const VARIABLE: &str = "BAILIWICK_MUTANT";

/// What a test may take beyond what it took with nothing broken, which counts several times.
const PATIENCE: Duration = Duration::from_secs(30);
const TIMES: u32 = 8;

/// A broken loop may ask for memory without end.
const MEMORY: u64 = 8 << 30;

/// A test, as nextest lists it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Test {
    pub(super) binary: String,
    pub(super) name: String,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    Passed,
    Failed,
    Late,
}

/// Every test of the copy.
#[derive(Debug)]
pub(super) struct Suites {
    programs: BTreeMap<String, Suite>,
    /// Nextest's name of the binary, a space, the test's.
    pub(super) listed: String,
    libraries: std::ffi::OsString,
    /// Tests that attach programs, make cgroups and namespaces, or measure: one at a time.
    machine: Mutex<()>,
}

#[derive(Debug)]
struct Suite {
    kind: String,
    program: PathBuf,
    folder: PathBuf,
}

impl Suites {
    /// What there is in the copy, which is built.
    pub(super) fn of(copy: &Copy) -> Result<Self> {
        let mut list = copy.cargo()?;
        list.args(["nextest", "list", "--workspace"])
            .args(["--message-format", "json"]);
        let libraries = cmd::output(cmd::command("rustc").args(["--print", "sysroot"]))?;
        let compiler = PathBuf::from(libraries.trim()).join("lib");
        let libraries = std::env::join_paths(copy.libraries().into_iter().chain([compiler]))
            .context("a folder's name has a colon")?;
        Self::parse(&cmd::output(&mut list)?, libraries)
    }

    fn parse(json: &str, libraries: std::ffi::OsString) -> Result<Self> {
        let list: Value = serde_json::from_str(json).context("cargo nextest list")?;
        let mut suites = Self {
            programs: BTreeMap::new(),
            listed: String::new(),
            libraries,
            machine: Mutex::new(()),
        };
        let all = list["rust-suites"].as_object();
        for (id, suite) in all.context("cargo nextest list: no suites")? {
            let text = |key: &str| {
                let value = suite[key].as_str().map(str::to_owned);
                value.with_context(|| format!("cargo nextest list: {id} has no {key}"))
            };
            for (name, case) in suite["testcases"].as_object().into_iter().flatten() {
                if case["ignored"] == false {
                    suites.listed += &format!("{id} {name}\n");
                }
            }
            let suite = Suite {
                kind: text("kind")?,
                program: PathBuf::from(text("binary-path")?),
                folder: PathBuf::from(text("cwd")?),
            };
            suites.programs.insert(id.clone(), suite);
        }
        Ok(suites)
    }

    /// From now on these programs are the ones to run.
    pub(super) fn take(&mut self, programs: &[Program]) {
        for program in programs {
            if let Some(suite) = self.programs.get_mut(&id(program)) {
                suite.program.clone_from(&program.file);
            }
        }
    }

    /// Runs one test with one mutant awake; `usual` is what it takes with none.
    pub(super) fn run(&self, test: &Test, awake: Id, usual: Duration) -> Result<(End, Duration)> {
        let suite = self.programs.get(&test.binary);
        let suite = suite.with_context(|| format!("there is no test program {}", test.binary))?;
        let alone = for_the_machine(&test.binary, &suite.kind, &test.name);
        let _one_at_a_time =
            alone.then(|| self.machine.lock().unwrap_or_else(PoisonError::into_inner));
        let mut command = cmd::command(&suite.program);
        command
            .args([test.name.as_str(), "--exact", "--nocapture"])
            .current_dir(&suite.folder)
            .env("CARGO_MANIFEST_DIR", &suite.folder)
            .env("LD_LIBRARY_PATH", &self.libraries)
            .env("PATH", cmd::path_with_tools()?)
            .env(VARIABLE, awake.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let begun = Instant::now();
        let patience = PATIENCE.saturating_add(usual.saturating_mul(TIMES));
        Ok((end(&mut command, patience)?, begun.elapsed()))
    }
}

/// What the group `machine` of `.config/nextest.toml` selects.
fn for_the_machine(binary: &str, kind: &str, name: &str) -> bool {
    let package = super::package(binary);
    let words = ["netns", "cgroup", "bpf"];
    let mut modules = name.split("::");
    package == "bailiwick-tests"
        || package == "bailiwick-agent"
            && (kind == "test"
                || modules.any(|part| words.iter().any(|word| part.starts_with(word))))
}

/// A test program as nextest names it.
fn id(program: &Program) -> String {
    let Program {
        package, target, ..
    } = program;
    match &*program.kind {
        "test" => format!("{package}::{target}"),
        "bin" => format!("{package}::bin/{target}"),
        _ => package.clone(),
    }
}

/// Runs to its end, or to the end of patience; what it started ends with it.
fn end(command: &mut Command, patience: Duration) -> Result<End> {
    let shown = cmd::shown(command);
    let mut child = command
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {shown}"))?;
    let pid = Pid::from_child(&child);
    let limit = Rlimit {
        current: Some(MEMORY),
        maximum: Some(MEMORY),
    };
    // It may have ended by now.
    prlimit(Some(pid), Resource::As, limit).ok();
    let late = !ended_within(pid, patience).with_context(|| format!("wait for {shown}"))?;
    // Before anybody waits for the first of the group its number is nobody else's.
    kill_process_group(pid, Signal::KILL).ok();
    let success = reap(&mut child).with_context(|| format!("wait for {shown}"))?;
    Ok(match (late, success) {
        (true, _) => End::Late,
        (false, true) => End::Passed,
        (false, false) => End::Failed,
    })
}

fn reap(child: &mut Child) -> std::io::Result<bool> {
    Ok(child.wait()?.success())
}

/// Whether it ends in time; it is left to be waited for.
fn ended_within(pid: Pid, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::Pid(pid), options)?.is_some() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod unit {
    use std::path::PathBuf;
    use std::process::Command;
    use std::time::Duration;

    use super::{End, Program, Suites, end, for_the_machine, id};

    #[test]
    fn what_nextest_lists_is_known() {
        let json = r#"{"rust-suites": {"p::wire": {"kind": "test", "binary-path": "/x/wire-1",
            "cwd": "/x/p", "testcases": {"a::b": {"ignored": false}, "c": {"ignored": true}}}}}"#;
        let suites = Suites::parse(json, "".into()).unwrap();
        assert_eq!(suites.listed, "p::wire a::b\n");
        assert!(Suites::parse("{}", "".into()).is_err());
    }

    #[test]
    fn programs_are_named_as_nextest_does() {
        let cases = [("lib", "p"), ("test", "p::t"), ("bin", "p::bin/t")];
        for (kind, want) in cases {
            let program = Program {
                package: "p".into(),
                target: "t".into(),
                kind: kind.into(),
                file: PathBuf::new(),
            };
            assert_eq!(id(&program), want);
        }
    }

    #[test]
    fn tests_that_share_the_machine_are_those_of_the_group() {
        let cases = [
            ("bailiwick-tests::spine", "test", "a", true),
            ("bailiwick-agent::fence", "test", "a", true),
            ("bailiwick-agent", "lib", "fence::netns_of::a", true),
            ("bailiwick-agent", "lib", "fence::my_netns", false),
            ("bailiwick-collector::wire", "test", "bpf", false),
        ];
        for (binary, kind, name, want) in cases {
            assert_eq!(for_the_machine(binary, kind, name), want, "{binary} {name}");
        }
    }

    #[test]
    fn a_test_passes_fails_or_is_late() {
        let cases = [
            ("exit 0", End::Passed),
            ("exit 1", End::Failed),
            ("kill -ABRT $$", End::Failed),
            ("sleep 60 & sleep 60", End::Late),
        ];
        for (script, want) in cases {
            let mut shell = Command::new("sh");
            let ended = end(shell.args(["-c", script]), Duration::from_millis(300));
            assert_eq!(ended.unwrap(), want, "{script}");
        }
    }
}
