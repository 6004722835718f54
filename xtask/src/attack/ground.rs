//! The stage an attack plays on, and what attackers have in hand.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::outcome::Outcome;
use crate::cmd::{self, step};
use crate::demo::flows::{self, Matrix, Standing};
use crate::demo::policy::{DEPLOYMENT, Listed, NODE};
use crate::demo::scene::Scene;
use crate::demo::stage::Stage;
use crate::demo::tpm::{Factory, SoftTpm};
use crate::paths;

/// Seconds between statements.
const INTERVAL_SECONDS: u32 = 1;
/// Packets the fence dropped, counted where they would have arrived.
pub(super) const DROPPED: &str = "packets-dropped";

/// An attested node, its collector, and a world to get out into.
#[derive(Debug)]
pub(super) struct Ground {
    // Programs end before what they run on is taken away.
    pub(super) stage: Stage,
    pub(super) scene: Scene,
    pub(super) listed: Listed,
    /// A statement from before approvers had confirmed the AK.
    pub(super) unconfirmed: PathBuf,
    others: u32,
}

impl Ground {
    /// The ground that stands, if it still does; else a new one.
    pub(super) fn attested(slot: &mut Option<Self>) -> Result<&mut Self> {
        if let Some(ground) = slot
            && let Err(error) = ground.stands()
        {
            step(format_args!("   a new stage, for {error:#}"));
            *slot = None;
        }
        if slot.is_none() {
            *slot = Some(Self::set_up()?);
        }
        slot.as_mut().context("a stage was set up")
    }

    fn set_up() -> Result<Self> {
        let mut scene = Scene::open()?;
        let mut stage = Stage::set_up(&mut scene, false, INTERVAL_SECONDS)?;
        stage.attest(&scene)?;
        let listed = stage.enrolled()?;
        let mut ground = Self {
            stage,
            scene,
            listed,
            unconfirmed: PathBuf::new(),
            others: 0,
        };
        ground.confirm()?;
        Ok(ground)
    }

    /// Approvers sign the AK too.
    fn confirm(&mut self) -> Result<()> {
        let stored = self.stored_statement("unconfirmed-statement")?;
        self.unconfirmed.clone_from(&stored);
        let mut attacker = Command::new(paths::binary(false, "attacker"));
        let said = cmd::output(attacker.arg("identity").arg(stored))?;
        let said: Value = serde_json::from_str(&said).context("read an identity")?;
        self.listed.ak = said["ak"].as_str().map(str::to_owned);
        let listed = self.listed.clone();
        self.stage
            .apply(&self.scene, Some(&listed), "the AK is confirmed")?;
        self.stage.wait_for_policy(&self.scene)?;
        self.stage.wait_for_statement(&self.scene)?;
        self.stage.wait_for_verdict(&self.scene, true).map(drop)
    }

    /// Everything runs, the node is affirmed, and a study gets out.
    fn stands(&mut self) -> Result<()> {
        self.stage.collector.alive()?;
        self.stage.node.alive()?;
        self.stage.wait_for_verdict(&self.scene, true)?;
        self.stage.wait_for_standing(&self.scene, true)
    }

    /// The ends of the logs, for whoever looks into a failure.
    pub(super) fn last_words(&self) {
        for name in ["fence", "agent", "collector"] {
            let text = self.log(name).text();
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(10);
            for line in lines.get(from..).unwrap_or_default() {
                step(format_args!("{name}: {line}"));
            }
        }
    }

    /// A program's log, whole.
    pub(super) fn log(&self, name: &str) -> Log {
        let file = self.scene.path(&format!("{name}.log"));
        Log { file, from: 0 }
    }

    /// A program's log from now on.
    pub(super) fn log_from_now(&self, name: &str) -> Log {
        let log = self.log(name);
        let from = fs::metadata(&log.file).map_or(0, |meta| meta.len());
        Log { from, ..log }
    }

    /// One more machine of the same maker's TPMs, switched on, and an agent's configuration for it.
    pub(super) fn another_machine(&mut self, factory: &Factory) -> Result<(SoftTpm, PathBuf)> {
        self.others += 1;
        let name = format!("tpm-{}", self.others);
        let mut tpm = SoftTpm::of_the_same_maker(&self.scene, &name, factory)?;
        tpm.boot(&self.scene, false)?;
        let config = self.scene.path(&format!("agent-{name}.toml"));
        let text = fs::read_to_string(self.stage.node.config()).context("read agent.toml")?;
        let lines = text.lines().map(|line| match line.split_once(" = ") {
            Some(("node", _)) => format!("node = \"gpu-9{}\"", self.others),
            Some(("state_dir", _)) => {
                format!("state_dir = {:?}", self.scene.path(&format!("node-{name}")))
            }
            Some(("tcti", _)) => format!("tcti = \"{}\"", tpm.tcti()),
            _ => line.to_owned(),
        });
        fs::write(&config, lines.collect::<Vec<_>>().join("\n")).context("write agent.toml")?;
        Ok((tpm, config))
    }

    /// Lets the attacker's program try; every line it prints is an attempt.
    pub(super) fn attacker<'a>(
        &self,
        outcome: &mut Outcome,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let mut attacker = Command::new(paths::binary(false, "attacker"));
        attacker.args(words);
        let said = cmd::output(&mut attacker)?;
        for line in said.lines() {
            let row: Value =
                serde_json::from_str(line).with_context(|| format!("read {line:?}"))?;
            let word = |key: &str| row[key].as_str();
            outcome.tried(
                word("tried").context("what was tried")?,
                word("expected").context("what was due")?,
                word("refused"),
                word("said").unwrap_or_default(),
            );
        }
        Ok(())
    }

    /// What the client's `policy apply` is told of a folder: a code, or nothing where it is taken.
    pub(super) fn apply(&self, folder: &Path) -> Result<Option<(String, String)>> {
        let mut client = self.stage.collector.client();
        client.args(["policy", "apply"]).arg(folder);
        refusal(&mut client)
    }

    /// Measures what gets out while `standing` should hold, and counts what should not have. That
    /// what should pass does shows that it is the fence that counts, and not a broken cable.
    pub(super) fn outside(
        &mut self,
        outcome: &mut Outcome,
        tried: &str,
        standing: Standing,
    ) -> Result<()> {
        let matrix = self.at_most(outcome, tried, standing)?;
        if matrix.as_expected() || matrix.leaks() > 0 {
            return Ok(());
        }
        for line in matrix.table().lines() {
            step(format_args!("   {line}"));
        }
        bail!("{tried}: what should pass did not")
    }

    /// The same, where less than `standing` allows is no harm.
    pub(super) fn at_most(
        &mut self,
        outcome: &mut Outcome,
        tried: &str,
        standing: Standing,
    ) -> Result<Matrix> {
        let matrix = self.stage.measure(&self.scene, standing)?;
        let (attempts, through) = matrix.denied();
        outcome.counted(tried, DROPPED, attempts, through);
        if through > 0 {
            for line in matrix.table().lines() {
                step(format_args!("   {line}"));
            }
        }
        Ok(matrix)
    }

    /// Waits until no study gets out any more; answers after how long.
    pub(super) fn wait_for_the_end(&mut self, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let Self { scene, stage, .. } = self;
        let Stage {
            world, workloads, ..
        } = stage;
        scene.wait("the lease to end", limit, || {
            if flows::probe(world, workloads)? != Some(false) {
                bail!("datagrams still arrive");
            }
            Ok(())
        })?;
        Ok(begun.elapsed())
    }

    /// One attempt at an affirming verdict, as the collector judged it now.
    pub(super) fn judged(&self, outcome: &mut Outcome, tried: &str, expected: &str) -> Result<()> {
        let shown = self.stage.node()?;
        let verdict = shown["verdict"].as_str().unwrap_or_default().to_owned();
        let codes: Vec<&str> = shown["result"]["submods"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, submod)| submod["bailiwick.deviations"].as_array())
            .flatten()
            .filter_map(|deviation| deviation["code"].as_str())
            .collect();
        let code = if verdict == "affirming" {
            None
        } else if codes.contains(&expected) {
            Some(expected)
        } else {
            codes.first().copied().or(Some(&*verdict))
        };
        let why = self.stage.why()?.join("; ");
        outcome.tried(
            tried,
            expected,
            code,
            &format!("{verdict} {codes:?}: {why}"),
        );
        Ok(())
    }

    /// The newest stored statement of the node.
    pub(super) fn stored_statement(&self, name: &str) -> Result<PathBuf> {
        let file = self.scene.path(name);
        cmd::output(
            self.stage
                .collector
                .client()
                .args(["node", "statement", NODE, "--out"])
                .arg(&file),
        )?;
        Ok(file)
    }

    /// `bailiwick verify`, without a network and with an auditor's own anchors.
    pub(super) fn verify(&self, file: &Path) -> Result<Value> {
        self.verify_with(file, None)
    }

    /// The same by an auditor who knows a newer policy.
    pub(super) fn verify_with(&self, file: &Path, policy: Option<&Path>) -> Result<Value> {
        let (roots, between) = SoftTpm::maker(&self.scene)?;
        let mut verify = cmd::command("unshare");
        verify
            .args(["--net", "--"])
            .arg(paths::binary(false, "bailiwick"))
            .arg("verify")
            .arg(file)
            .args(["--output", "json", "--deployment", DEPLOYMENT])
            .args(["--threshold", "2", "--approvers"])
            .arg(self.stage.approvers.allowed_signers());
        for (option, files) in [("--roots", roots), ("--intermediates", between)] {
            for file in files {
                verify.arg(option).arg(file);
            }
        }
        if let Some(policy) = policy {
            verify.arg("--policy").arg(policy);
        }
        let out = verify
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .context("start the client")?;
        serde_json::from_slice(&out.stdout).with_context(|| {
            format!(
                "read {}: {}",
                cmd::shown(&verify),
                String::from_utf8_lossy(&out.stderr).trim()
            )
        })
    }
}

/// What a program of ours refuses with: `code: detail` on stderr. `None`: it took it.
pub(super) fn refusal(command: &mut Command) -> Result<Option<(String, String)>> {
    let out = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("start {}", cmd::shown(command)))?;
    if out.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let words = said
        .lines()
        .last()
        .and_then(|line| line.strip_prefix("bailiwick: "))
        .and_then(|line| line.split_once(": "));
    match words {
        Some((code, detail)) if is_code(code) => Ok(Some((code.to_owned(), detail.to_owned()))),
        _ => bail!("{}: {}", cmd::shown(command), said.trim()),
    }
}

fn is_code(word: &str) -> bool {
    word.contains('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

/// What a program wrote into its log after a moment.
#[derive(Debug)]
pub(super) struct Log {
    file: PathBuf,
    from: u64,
}

impl Log {
    fn text(&self) -> String {
        let bytes = fs::read(&self.file).unwrap_or_default();
        let from = usize::try_from(self.from).unwrap_or(usize::MAX);
        String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
    }

    /// Every line.
    pub(super) fn lines(&self) -> Vec<String> {
        self.text().lines().map(plain).collect()
    }

    /// The last line with this in it, without its date.
    pub(super) fn last(&self, with: &str) -> Option<String> {
        let text = self.text();
        let line = text.lines().rev().find(|line| line.contains(with))?;
        let line = plain(line);
        let said = line
            .split_once("Z ")
            .map(|(_, rest)| rest.trim().to_owned());
        Some(said.unwrap_or(line))
    }

    /// How many lines have this in them.
    pub(super) fn count(&self, with: &str) -> usize {
        self.text()
            .lines()
            .filter(|line| line.contains(with))
            .count()
    }

    /// The first line with this in it.
    pub(super) fn line(&self, with: &str) -> Result<String> {
        let text = self.text();
        let found = text.lines().find(|line| line.contains(with));
        found
            .map(plain)
            .with_context(|| format!("no line with {with:?} in {}", self.file.display()))
    }
}

/// A line without colours.
fn plain(line: &str) -> String {
    let mut out = Vec::new();
    let mut escaped = false;
    for byte in line.bytes() {
        match byte {
            0x1b => escaped = true,
            b'm' if escaped => escaped = false,
            _ if escaped => {}
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Compiles a library for the loader to put before the C library; attackers own their machines.
pub(super) fn shim(scene: &Scene, name: &str, source: &str) -> Result<PathBuf> {
    let file = scene.path(&format!("{name}.so"));
    let mut compiler = cmd::command("cc");
    compiler
        .args(["-shared", "-fPIC", "-O1", "-x", "c", "-o"])
        .arg(&file)
        .args(["-", "-ldl"])
        .stdin(Stdio::piped());
    let mut child = compiler.spawn().context("start the C compiler")?;
    child
        .stdin
        .take()
        .context("its stdin is piped")?
        .write_all(source.as_bytes())
        .context("write to the C compiler")?;
    if !child.wait().context("wait for the C compiler")?.success() {
        bail!("{} failed", cmd::shown(&compiler));
    }
    Ok(file)
}

#[cfg(test)]
mod unit {
    use super::{is_code, plain};

    #[test]
    fn codes_are_told_from_words() {
        for (word, code) in [
            ("policy-expired", true),
            ("policy", false),
            ("the collector ended the connection", false),
            ("Policy-Expired", false),
        ] {
            assert_eq!(is_code(word), code, "{word}");
        }
    }

    #[test]
    fn colours_are_left_out() {
        assert_eq!(plain("\u{1b}[31mWARN\u{1b}[0m refused"), "WARN refused");
    }
}
