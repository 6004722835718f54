//! `cargo xtask test gpu` on a machine without a GPU: it says so, and nothing counts as passed,
//! whatever plays NVML.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;

use bailiwick_nvml_double::{Fault, Staged, library};
use serde_json::Value;

fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let binary = here.ancestors().nth(2).unwrap().join(name);
    assert!(
        binary.is_file(),
        "{} is missing: build the workspace first",
        binary.display()
    );
    binary
}

fn chore(nvml: Option<&Path>) -> (Option<i32>, Value) {
    let mut command = Command::new(program("xtask"));
    command
        .args(["test", "gpu", "--output", "json", "--agent"])
        .arg(program("bailiwick-probe"))
        // Carried somewhere: no repository, no cargo, no package.
        .current_dir("/")
        .env_clear();
    if let Some(nvml) = nvml {
        command.arg("--nvml").arg(nvml);
    }
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), report)
}

#[test]
fn without_a_gpu_nothing_passes_and_the_status_says_so() {
    let (status, report) = chore(Some(Path::new("/nonexistent/nvml")));
    assert_eq!(status, Some(77), "{report:#}");
    assert_eq!(report["verdict"], "not-run");
    assert_eq!(
        (&report["passed"], &report["failed"]),
        (&0.into(), &0.into())
    );
    let why = report["not_hardware"].as_str().unwrap();
    assert!(why.starts_with("no"), "{why}");
}

#[test]
fn a_double_is_asked_and_is_not_hardware() {
    let folder = tempfile::tempdir().unwrap();
    let mut double = Staged::new(&library().unwrap(), folder.path()).unwrap();
    double.add_made(1).unwrap();
    double.write().unwrap();
    let (status, report) = chore(Some(&double.path()));
    assert_eq!(status, Some(77), "{report:#}");
    assert_eq!(report["hardware"], false);
    let why = report["not_hardware"].as_str().unwrap();
    assert!(why.starts_with("not hardware: "), "{why}");
    assert_eq!(
        (&report["passed"], &report["not_run"]),
        (&0.into(), &5.into())
    );
    let sizes = report["figures"]["report_bytes"].as_array().unwrap();
    assert_eq!(sizes.len(), 1, "its answers are looked at all the same");
    let calls = double.calls().unwrap();
    assert_eq!(calls.len(), 2, "one chain and one report: {calls:?}");

    double.script.faults.insert(
        "nvmlDeviceGetConfComputeGpuAttestationReport".to_owned(),
        Fault::Crash,
    );
    double.write().unwrap();
    let (status, report) = chore(Some(&double.path()));
    assert_eq!(status, Some(1), "{report:#}");
    assert_eq!(report["verdict"], "failed");
}

#[test]
fn what_is_carried_needs_no_package_of_ours() {
    for name in ["bailiwick-probe", "xtask"] {
        let output = Command::new("ldd").arg(program(name)).output().unwrap();
        let needs = String::from_utf8(output.stdout).unwrap();
        assert!(needs.contains("libc.so.6"), "{needs}");
        for ours in ["tss2", "crypto", "ssl"] {
            assert!(!needs.contains(ours), "{name}: {needs}");
        }
    }
}
