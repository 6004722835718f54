//! Which mutant is awake in this process.
//!
//! A crate of its own in the copy that `cargo xtask mutants` breaks; no part of the workspace.

use std::fs;
use std::sync::LazyLock;

/// Number of the mutant; zero is none.
const VARIABLE: &str = "BAILIWICK_MUTANT";

static AWAKE: LazyLock<u32> = LazyLock::new(|| match std::env::var(VARIABLE) {
    Ok(text) => text.parse().unwrap_or(0),
    // Somebody began this process with an environment of its own.
    Err(_) => inherited().unwrap_or(0),
});

/// Whether it is this one.
pub fn is(id: u32) -> bool {
    *AWAKE == id
}

/// What the nearest ancestor was told that was told anything.
fn inherited() -> Option<u32> {
    let mut process = "self".to_owned();
    loop {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        process = parent.trim().to_owned();
        let told = fs::read(format!("/proc/{process}/environ")).ok()?;
        let mut variables = told.split(|byte| *byte == 0);
        let mine = variables.find_map(|variable| {
            let text = std::str::from_utf8(variable).ok()?;
            text.strip_prefix(VARIABLE)?.strip_prefix('=')
        });
        if let Some(number) = mine {
            return number.parse().ok();
        }
    }
}
