//! `cargo xtask test gpu`: what the agent asks of GPUs, asked of real ones.
//!
//! It needs neither a package nor a build where `--agent` names a program that can be asked: this
//! program and `bailiwick-probe` can be carried to a machine that has nothing. Where there is no GPU,
//! or what answers is none, nothing is counted as passed, and the exit status says so.

mod judge;
mod machine;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::judge::{Answer, Answers, Outcome, Report, judge};
use self::machine::Machine;
use crate::cmd::{self, step};
use crate::{build, install, paths};

/// The status of a run that had no GPU to ask: neither good (0) nor bad (1). Test harnesses know it
/// as *skipped*.
const NOT_RUN: u8 = 77;
/// A path where there is no library.
const NOWHERE: &str = "/nonexistent/libnvidia-ml.so.1";
const LIBRARIES: &str = "LD_LIBRARY_PATH";
/// How often the driver's word is asked for: none of these questions costs a GPU anything.
const TIMES: usize = 3;
/// `nvmlInit` wakes GPUs that sleep, and each takes its time to sign.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most of an answer that is read: sixteen GPUs with the longest report and chain, in base64.
const MAX_ANSWER: u64 = 512 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `bailiwick-agent`, or `bailiwick-probe`, which needs no packages; default: built here
    #[arg(long)]
    agent: Option<PathBuf>,
    /// The library to ask instead of the loader's: its GPUs count as hardware where `/proc` names them
    #[arg(long)]
    nvml: Option<PathBuf>,
    /// CUDA's driver API, instead of the loader's
    #[arg(long)]
    cuda: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => built()?,
    };
    ensure!(agent.is_file(), "{} is no program", agent.display());
    let machine = Machine::look(Path::new("/"));
    let nonce = nonce()?;
    step("asking a library that is not there, the driver, each GPU once, and for a computation");
    let library = args.nvml.as_deref().map(Path::as_os_str);
    let ask = |words: &[&str], library: Option<&OsStr>| ask(&agent, words, library);
    let gpu = ["probe", "gpu", "--nonce", &nonce];
    let nvml = ["probe", "nvml"];
    let mut oq = vec!["probe", "oq"];
    let cuda = args
        .cuda
        .as_ref()
        .map(|path| path.to_str().context("--cuda is no UTF-8"));
    if let Some(cuda) = cuda.transpose()? {
        oq.extend(["--cuda", cuda]);
    }
    let answers = Answers {
        absent: [&gpu[..], &nvml].map(|words| ask(words, Some(NOWHERE.as_ref()))),
        nvml: (0..TIMES).map(|_| ask(&nvml, library)).collect(),
        gpu: ask(&gpu, library),
        oq: ask(&oq, library),
        nonce,
    };
    let report = judge(&machine, args.nvml.is_some(), &answers);
    match args.output {
        Output::Text => print(&report)?,
        Output::Json => cmd::result(format_args!("{:#}", shown(&report)))?,
    }
    Ok(match report.verdict() {
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Failed => ExitCode::FAILURE,
        Verdict::NotRun => ExitCode::from(NOT_RUN),
    })
}

/// What came of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Passed,
    Failed,
    /// Nothing was tried on hardware.
    NotRun,
}

fn built() -> Result<PathBuf> {
    install::for_build()?;
    build::kernel_side()?;
    build::programs(false)?;
    Ok(paths::binary(false, "bailiwick-probe"))
}

/// 32 bytes of hex that no report can have been made for before.
fn nonce() -> Result<String> {
    let mut bytes = [0; 32];
    let mut random = File::open("/dev/urandom").context("/dev/urandom")?;
    random.read_exact(&mut bytes).context("/dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// One question to a process of its own, which gets no environment but where libraries lie: sandboxes
/// have the driver's in a folder that the loader does not know by itself.
fn ask(agent: &Path, words: &[&str], library: Option<&OsStr>) -> Answer {
    let begun = Instant::now();
    let said = child(agent, words, library);
    Answer {
        took: begun.elapsed(),
        said: said.map_err(|why| format!("{why:#}")),
    }
}

fn child(agent: &Path, words: &[&str], library: Option<&OsStr>) -> Result<Value> {
    let mut command = Command::new(agent);
    command.args(words).env_clear();
    if let Some(folders) = std::env::var_os(LIBRARIES) {
        command.env(LIBRARIES, folders);
    }
    if let Some(library) = library {
        command.arg("--library").arg(library);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("start {}", agent.display()))?;
    let stdout = child.stdout.take().context("its output is piped")?;
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout
            .take(MAX_ANSWER + 1)
            .read_to_end(&mut bytes)
            .map(|_| bytes)
    });
    let ended = cmd::wait_within(&mut child, PATIENCE)?;
    if ended.is_none() {
        child.kill().context("stop it")?;
    }
    let status = child.wait().context("wait for it")?;
    ensure!(ended.is_some(), "no answer within {PATIENCE:?}");
    ensure!(status.success(), "it ended with {status}");
    let bytes = reading.join().ok().context("its output was not read")?;
    let bytes = bytes.context("read its output")?;
    ensure!(
        u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_ANSWER),
        "more than {MAX_ANSWER} bytes"
    );
    serde_json::from_slice(&bytes).context("its answer is no JSON")
}

fn print(report: &Report) -> Result<()> {
    for check in &report.checks {
        let (word, detail) = match &check.outcome {
            Outcome::Good(detail) => ("ok ", detail),
            Outcome::Bad(why) => ("BAD", why),
            Outcome::NotRun(why) => ("-- ", why),
        };
        cmd::result(format_args!("{word} {}: {detail}", check.name))?;
    }
    for (name, figure) in &report.figures {
        cmd::result(format_args!("    {name}: {figure}"))?;
    }
    let [passed, failed, not_run] = report.counts();
    let why = match &report.hardware {
        Ok(()) => String::new(),
        Err(why) => format!(": {why}"),
    };
    cmd::result(format_args!(
        "{passed} passed, {failed} failed, {not_run} not run{why}"
    ))
}

fn shown(report: &Report) -> Value {
    let checks = report.checks.iter().map(|check| {
        let (ok, detail) = match &check.outcome {
            Outcome::Good(detail) => (Some(true), detail),
            Outcome::Bad(why) => (Some(false), why),
            Outcome::NotRun(why) => (None, why),
        };
        json!({ "check": check.name, "ok": ok, "detail": detail })
    });
    let [passed, failed, not_run] = report.counts();
    json!({
        "verdict": match report.verdict() {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::NotRun => "not-run",
        },
        "hardware": report.hardware.is_ok(),
        "not_hardware": report.hardware.as_ref().err(),
        "passed": passed,
        "failed": failed,
        "not_run": not_run,
        "checks": checks.collect::<Vec<_>>(),
        "figures": report.figures,
    })
}
