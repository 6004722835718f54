//! Attacks that take modules of the kernel: the rows of `bailiwick-fence-rows` for machines like
//! this one.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::Told;
use crate::host::read;

const ROWS: &str = "/usr/bin/bailiwick-fence-rows";
const AGENT: &str = "/usr/bin/bailiwick-agent";
/// A processor that is interpreted takes so many times as long.
const PACE: &str = "5";
/// Which rows, separated by commas, on the kernel's command line.
const CHOSEN: &str = "bailiwick.rows=";

pub(crate) fn run(told: &mut Told) -> Result<()> {
    told.fact("kernel", read("/proc/sys/kernel/osrelease")?)?;
    // Else each module of a tunnel puts a device into every namespace.
    fs::write("/proc/sys/net/core/fb_tunnels_only_for_init_net", "1")
        .context("no devices unasked")?;
    let words = read("/proc/cmdline")?;
    let chosen = words
        .split_whitespace()
        .find_map(|word| word.strip_prefix(CHOSEN))
        .unwrap_or_default();
    let mut child = Command::new(ROWS)
        .args([
            "run", "--where", "vm", "--output", "lines", "--agent", AGENT,
        ])
        .args(chosen.split(',').filter(|name| !name.is_empty()))
        .env("BAILIWICK_PACE", PACE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the attacks")?;
    let out = child.stdout.take().context("its stdout is piped")?;
    let mut bad = 0_u32;
    for line in BufReader::new(out).lines() {
        let line = line.context("hear from the attacks")?;
        let value: Value = serde_json::from_str(&line).with_context(|| format!("read {line:?}"))?;
        let outcome = &value["outcome"];
        let good = value["good"] == true;
        bad += u32::from(!good);
        let name = outcome["attack"].as_str().context("an attack has a name")?;
        told.line(&json!({ "attack": outcome, "good": good, "line": value["line"] }))?;
        let found = json!({
            "attempts": outcome["attempts"],
            "leaked": outcome["leaked"],
            "stopped_by": outcome["stopped_by"],
            "evidence": outcome["evidence"],
        });
        told.check(&format!("attack {name}"), good, found)?;
    }
    let ended = child.wait().context("wait for the attacks")?;
    // Those that went wrong were told one by one.
    if !ended.success() && bad == 0 {
        bail!("the attacks ended with {ended}");
    }
    Ok(())
}
