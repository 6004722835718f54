//! The daemon as a service manager sees it: ready, alive, stopping, and what it says of a
//! configuration it cannot use.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::Fixture;
use rustix::process::{Pid, Signal, kill_process};

fn daemon() -> Command {
    Command::new(env!("CARGO_BIN_EXE_bailiwick-collector"))
}

fn write_config(fixture: &Fixture) -> PathBuf {
    let file = fixture.dir.path().join("collector.toml");
    std::fs::write(&file, toml::to_string(&fixture.config).unwrap()).unwrap();
    file
}

fn check(file: &Path) -> Output {
    daemon()
        .args(["check", "--config"])
        .arg(file)
        .output()
        .unwrap()
}

/// Waits for a message that begins with `want`.
fn expect(socket: &UnixDatagram, want: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut buffer = [0; 512];
    while Instant::now() < deadline {
        let Ok(len) = socket.recv(&mut buffer) else {
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        if text.lines().any(|line| line == want) {
            return;
        }
    }
    panic!("{want} did not come");
}

#[test]
fn it_says_when_it_is_ready_alive_and_stopping() {
    let fixture = Fixture::new();
    let file = write_config(&fixture);
    let path = fixture.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut child = daemon()
        .args(["run", "--config"])
        .arg(&file)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "400000")
        .env_remove("WATCHDOG_PID")
        .spawn()
        .unwrap();
    expect(&socket, "READY=1");
    expect(&socket, "WATCHDOG=1");
    expect(&socket, "WATCHDOG=1");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    expect(&socket, "STOPPING=1");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_configuration_it_cannot_use_is_named_before_anything_starts() {
    let fixture = Fixture::new();
    let file = write_config(&fixture);
    let good = check(&file);
    assert!(good.status.success());
    let text = std::fs::read_to_string(&file).unwrap();
    let roots = fixture.dir.path().join("no-roots.pem");
    let cases = [
        (
            "an unknown key",
            format!("{text}\n[alerts]\n"),
            "alerts".to_owned(),
        ),
        (
            "approvers that are not there",
            text.replace("allowed_signers", "nobody"),
            "policy.approvers".to_owned(),
        ),
        (
            "roots that are not there",
            text.replace("ek_roots = []", &format!("ek_roots = [{roots:?}]")),
            roots.display().to_string(),
        ),
        (
            "no state folder",
            text.replace("/state\"", "/nowhere\""),
            "bailiwick-collector init".to_owned(),
        ),
    ];
    for (name, text, want) in cases {
        std::fs::write(&file, text).unwrap();
        let refused = check(&file);
        assert_eq!(refused.status.code(), Some(1), "{name}");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(&want), "{name}: {said}");
        assert!(said.contains("collector.toml"), "{name}: {said}");
    }
}
