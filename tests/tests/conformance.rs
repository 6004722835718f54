//! Runs every case of the shared conformance vectors through the built `bailiwick inspect`.
//!
//! The vectors stand beside the checkout, in `../shared/vectors`, or where `BAILIWICK_VECTORS`
//! says. They are the one thing a test may lack: without them one ignored trial per kind says so
//! by name. The binary is the one in the target folder this test was built into (or
//! `BAILIWICK_BIN`): `cargo nextest run --workspace` and `cargo test --workspace` build it first.
#![expect(
    clippy::print_stdout,
    reason = "the count of cases is what this test reports"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// Kinds `inspect` knows. Cases of all others are listed as ignored.
const BUILT: [&str; 10] = [
    "tpm-quote",
    "ek-cert",
    "tcg-eventlog",
    "ima",
    "snp-report",
    "gpu",
    "gpu-chain",
    "gpu-rim",
    "tdx-quote",
    "hcl-report",
];

/// One entry of a `CASES.json`.
#[derive(Clone, Debug)]
struct Case {
    id: String,
    folder: PathBuf,
    args: Vec<String>,
    verdict: String,
    code: Option<String>,
    facts: Value,
}

impl Case {
    fn kind(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = match vectors() {
        Ok(Some(cases)) => trials(&cases),
        Ok(None) => BUILT.map(absent).into(),
        Err(error) => {
            let text = format!("{error:#}");
            vec![Trial::test("vectors-are-readable", move || {
                Err(Failed::from(text))
            })]
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn absent(kind: &str) -> Trial {
    Trial::test(format!("{kind}/vectors-absent"), || Ok(())).with_ignored_flag(true)
}

/// All cases, or `None` where there is no folder of vectors.
fn vectors() -> anyhow::Result<Option<Vec<Case>>> {
    let root = std::env::var_os("BAILIWICK_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"),
        PathBuf::from,
    );
    if !root.is_dir() {
        return Ok(None);
    }
    let mut cases = Vec::new();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&root)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    folders.sort();
    for folder in folders {
        let path = folder.join("CASES.json");
        if path.is_file() {
            read_cases(&folder, &path, &mut cases).with_context(|| path.display().to_string())?;
        }
    }
    cases.extend(beside_quotes(&root.join("tpm-quote")));
    Ok(Some(cases))
}

/// What Azure's paravisor said of the vTPM whose quotes are cases of their own, and of another's.
fn beside_quotes(folder: &Path) -> Vec<Case> {
    const REPORT: &str = "az_snp_vtpm/hcl-report.bin";
    if !folder.join(REPORT).is_file() {
        return Vec::new();
    }
    let case = |id: &str, ak: &str, verdict: &str, code: Option<&str>| Case {
        id: format!("hcl-report/{id}"),
        folder: folder.to_owned(),
        args: ["hcl-report", REPORT, "--ak", ak].map(str::to_owned).into(),
        verdict: verdict.to_owned(),
        code: code.map(str::to_owned),
        facts: serde_json::json!({
            "hardware": "sev-snp",
            "vmpl": 0,
            "runtime_data_bound": true,
            "id_key_digest": "0356215882a825279a85b300b0b742931d113bf7e32dde2e50ffde7ec743ca491e\
                              cdd7f336dc28a6e0b2bb57af7a44a3",
        }),
    };
    // Nobody published the certificate of the key that signed it.
    vec![
        case("azure", "az_snp_vtpm/v1/ak.pem", "undecided", None),
        case(
            "azure-other-ak",
            "az_snp_vtpm/v2/ak.pem",
            "refused",
            Some("ak-mismatch"),
        ),
    ]
}

fn read_cases(folder: &Path, path: &Path, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let list: Vec<Value> = serde_json::from_slice(&std::fs::read(path)?)?;
    for entry in list {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let args = entry["args"].as_array().context("args")?;
        cases.push(Case {
            id: text(&entry["id"]).context("id")?,
            folder: folder.to_owned(),
            args: args
                .iter()
                .map(text)
                .collect::<Option<_>>()
                .context("args")?,
            verdict: text(&entry["verdict"]).context("verdict")?,
            code: text(&entry["code"]),
            facts: entry["facts"].clone(),
        });
    }
    Ok(())
}

/// A trial for each case, and for each kind one that counts.
fn trials(cases: &[Case]) -> Vec<Trial> {
    let mut trials = Vec::new();
    for case in cases {
        let built = BUILT.contains(&case.kind());
        let own = case.clone();
        let trial = Trial::test(case.id.clone(), move || {
            check(&own).map_err(|error| Failed::from(format!("{error:#}")))
        });
        let label = if built {
            "inspect"
        } else {
            "kind not built yet"
        };
        trials.push(trial.with_kind(label).with_ignored_flag(!built));
    }
    for kind in BUILT {
        let all: Vec<Case> = cases
            .iter()
            .filter(|case| case.kind() == kind)
            .cloned()
            .collect();
        trials.push(Trial::test(format!("{kind}/all-counted"), move || {
            count(kind, &all)
        }));
    }
    trials
}

fn count(kind: &str, cases: &[Case]) -> Result<(), Failed> {
    let failed: Vec<&str> = cases
        .iter()
        .filter(|case| check(case).is_err())
        .map(|case| case.id.as_str())
        .collect();
    println!("{kind}: {} of {}", cases.len() - failed.len(), cases.len());
    if cases.is_empty() {
        return Err(Failed::from("the vectors hold no case of this kind"));
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failed::from(format!(
        "not as stated: {}",
        failed.join(", ")
    )))
}

fn check(case: &Case) -> anyhow::Result<()> {
    let output = Command::new(binary()?)
        .arg("inspect")
        .args(&case.args)
        .args(["--output", "json"])
        .current_dir(&case.folder)
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no JSON on stdout; stderr: {stderr}"))?;
    let wanted_exit = match case.verdict.as_str() {
        "ok" => 0,
        "undecided" => 1,
        "refused" => 2,
        other => bail!("{other:?} is no verdict"),
    };
    ensure!(
        report["verdict"] == case.verdict.as_str(),
        "wanted {}: {report:#}",
        case.verdict
    );
    ensure!(
        output.status.code() == Some(wanted_exit),
        "exit {}: {report:#}",
        output.status
    );
    let refusals = report["refusals"].as_array().context("refusals")?;
    if let Some(code) = &case.code {
        let found = refusals
            .iter()
            .any(|refusal| refusal["code"] == code.as_str());
        ensure!(found, "no refusal {code}: {report:#}");
    }
    let facts = &report["facts"];
    ensure!(
        contains(facts, &case.facts),
        "wanted {:#}: {report:#}",
        case.facts
    );
    Ok(())
}

/// `wanted` is a subset: objects may have more keys; lists are compared in order and length.
fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| found.get(key).is_some_and(|found| contains(found, wanted))),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && found
                    .iter()
                    .zip(wanted)
                    .all(|(found, wanted)| contains(found, wanted))
        }
        (found, wanted) => found == wanted,
    }
}

/// `bailiwick` in the folder above the one this test runs from, `target/<profile>/deps`.
fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("BAILIWICK_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    let profile = here
        .parent()
        .and_then(Path::parent)
        .context("no target folder")?;
    let path = profile.join("bailiwick");
    ensure!(
        path.is_file(),
        "{} is missing: build the workspace first (cargo build -p bailiwick-collector)",
        path.display()
    );
    Ok(path)
}
