//! The command line's client, run beside a collector in the test's own process.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program of this build.
pub(crate) fn built(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    here.ancestors().nth(2).unwrap().join(name)
}

/// The client, beside the collector in this process.
pub(crate) async fn client(words: &[&str], config: Option<&Path>) -> Output {
    let mut command = Command::new(built("bailiwick"));
    command.args(words);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap()
}
