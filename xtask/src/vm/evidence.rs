//! What a machine left of a boot, read as an auditor would: on another machine, by `bailiwick
//! inspect`, against what its TPM said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::image::built;
use crate::cmd::{self, step};

/// A list that the initial ramdisk would have, proves nothing.
const IMA_LINES: u64 = 20;

/// One boot's.
#[derive(Debug)]
pub(super) struct Evidence {
    /// The firmware's log, as the kernel shows it.
    log: PathBuf,
    /// IMA's list, in text.
    list: PathBuf,
    /// As `inspect --pcrs` reads it.
    pcrs: PathBuf,
    /// By bank and index.
    values: Value,
}

/// Banks a machine's TPM may have; the first always.
const BANKS: [&str; 2] = ["sha256", "sha384"];

/// Takes out of what was said what is a file, and writes it beside the machine's disks.
pub(super) fn keep(dir: &Path, boot: u32, said: &mut Vec<Value>) -> Result<Option<Evidence>> {
    let mut file = |name: &str| -> Result<Option<PathBuf>> {
        let Some(at) = said.iter().position(|value| value["kept"] == name) else {
            return Ok(None);
        };
        let text = said.remove(at);
        let text = text["base64"].as_str().context("a file in base64")?;
        let path = dir.join(format!("{name}-{boot}"));
        let bytes = STANDARD
            .decode(text)
            .with_context(|| format!("read {name}"))?;
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        Ok(Some(path))
    };
    let (Some(log), Some(list)) = (file("boot-log")?, file("ima-list")?) else {
        return Ok(None);
    };
    let mut values = Map::new();
    for bank in BANKS {
        let name = format!("pcr-{bank}");
        let fact = said.iter().find(|value| value["fact"] == name.as_str());
        if let Some(fact) = fact {
            values.insert(bank.to_owned(), fact["value"].clone());
        }
    }
    let values = Value::Object(values);
    if !values["sha256"].is_object() {
        bail!("a machine left its logs and not its registers");
    }
    let pcrs = dir.join(format!("pcrs-{boot}.json"));
    fs::write(&pcrs, values.to_string()).with_context(|| format!("write {}", pcrs.display()))?;
    Ok(Some(Evidence {
        log,
        list,
        pcrs,
        values,
    }))
}

impl Evidence {
    /// What the logs say must be what the TPM said.
    pub(super) fn checks(&self, secure_boot: bool) -> Result<Vec<Value>> {
        let mut checks = Vec::new();
        for bank in self.banks() {
            let log = inspect(&[
                "tcg-eventlog",
                &text(&self.log),
                "--pcrs",
                &text(&self.pcrs),
                "--bank",
                bank,
            ])?;
            checks.push(check(
                &format!("inspect: the firmware's log replays to the TPM's {bank} registers"),
                log["verdict"] == "ok" && log["facts"]["mismatched_pcrs"] == json!([]),
                found(&log),
            ));
            checks.push(check(
                &format!("inspect: the log says by {bank} whether Secure Boot was on"),
                log["facts"]["secure_boot"] == secure_boot,
                log["facts"]["secure_boot"].clone(),
            ));
            let list = self.inspect_list(&self.list, bank)?;
            let entries = list["facts"]["entries"].as_u64().unwrap_or(0);
            checks.push(check(
                &format!("inspect: the TPM's {bank} PCR 10 stands in IMA's list"),
                list["verdict"] == "ok"
                    && list["facts"]["matched_at"].is_u64()
                    && entries > IMA_LINES,
                found(&list),
            ));
        }
        let cut = self.list.with_extension("cut");
        let whole = fs::read_to_string(&self.list).context("read IMA's list")?;
        let half: String = whole
            .lines()
            .take(whole.lines().count() / 2)
            .flat_map(|line| [line, "\n"])
            .collect();
        fs::write(&cut, half).context("write half a list")?;
        let list = self.inspect_list(&cut, "sha256")?;
        checks.push(check(
            "inspect: an IMA list cut short is refused",
            list["verdict"] == "refused",
            found(&list),
        ));
        Ok(checks)
    }

    fn banks(&self) -> impl Iterator<Item = &'static str> {
        BANKS
            .into_iter()
            .filter(|bank| self.values[*bank].is_object())
    }

    fn inspect_list(&self, list: &Path, bank: &str) -> Result<Value> {
        let value = self.values[bank]["10"].as_str().context("PCR 10")?;
        inspect(&["ima", &text(list), "--pcr10", &format!("{bank}:{value}")])
    }

    /// Which registers are not what they were at another boot, and whether the log of then, shown
    /// as this boot's, is told apart by them.
    pub(super) fn differs(&self, before: &Self, want: &[u32]) -> Result<Vec<Value>> {
        let boot: Vec<u32> = (0..10)
            .filter(|index| {
                let index = index.to_string();
                self.values["sha256"][&index] != before.values["sha256"][&index]
            })
            .collect();
        let stale = inspect(&[
            "tcg-eventlog",
            &text(&before.log),
            "--pcrs",
            &text(&self.pcrs),
        ])?;
        let mismatched = &stale["facts"]["mismatched_pcrs"];
        Ok(vec![
            check(
                "what changed turned its registers and no others",
                boot == want,
                json!(boot),
            ),
            check(
                "inspect: the log of before, shown for now, is refused by those registers",
                stale["verdict"] == "refused" && *mismatched == json!(want),
                found(&stale),
            ),
        ])
    }
}

fn check(check: &str, passed: bool, found: Value) -> Value {
    let word = if passed { "ok  " } else { "FAIL" };
    step(format_args!("   {word} {check}: {found}"));
    json!({ "check": check, "passed": passed, "found": found })
}

/// What people look at first.
fn found(report: &Value) -> Value {
    let refusals = report["refusals"].as_array().into_iter().flatten();
    let refusals: Vec<String> = refusals
        .map(|refusal| {
            let word = |key: &str| refusal[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", word("code"), word("detail"))
        })
        .collect();
    let mut facts = report["facts"].clone();
    if let Some(facts) = facts.as_object_mut() {
        // Too long for a line.
        facts.remove("pcrs");
    }
    let warnings = report["warnings"].as_array().into_iter().flatten();
    let warnings: Vec<&Value> = warnings.map(|warning| &warning["code"]).collect();
    json!({
        "verdict": report["verdict"],
        "refusals": refusals,
        "warnings": warnings,
        "facts": facts,
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Bytes that are refused make an exit code, and a report all the same.
fn inspect(words: &[&str]) -> Result<Value> {
    let mut command = cmd::command(built(false, "bailiwick")?);
    command
        .arg("inspect")
        .args(words)
        .args(["--output", "json"]);
    let out = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("start {}", cmd::shown(&command)))?;
    match serde_json::from_slice(&out.stdout) {
        Ok(report) => Ok(report),
        Err(_) => bail!(
            "{}: {}: {}",
            cmd::shown(&command),
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        ),
    }
}
