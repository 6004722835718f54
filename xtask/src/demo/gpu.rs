//! GPUs in the demo: an ABI double of NVML answers for them, through the agent's whole path, and
//! has to be told from hardware by everybody.

use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::scene::Scene;
use super::stage::{AFFIRMING, Stage};

/// What was asked of them in the end. Nobody has reference values for a double, and none are
/// needed to tell it.
const ASKED: &str = "\n[gpu]\ncount = 2\nmeasurements = false\n";

/// What answers for GPUs, and what it was taken for.
#[derive(Debug)]
pub(super) struct Gpus {
    /// Reports that came with the node's evidence.
    pub(super) reports: u64,
    /// `gpu.hardware`, as the collector showed it while no profile asked.
    pub(super) shown: Option<bool>,
    /// Under a profile that asks for GPUs.
    pub(super) verdict: String,
    /// They were tried with a computation, beside no other work.
    pub(super) tried: bool,
    /// Why, as `node why` says: lines about GPUs.
    pub(super) why: Vec<String>,
}

impl Gpus {
    /// A double was there, and was taken for none.
    pub(super) fn as_expected(&self) -> bool {
        self.reports > 0
            && self.shown == Some(false)
            && self.tried
            && self.verdict != AFFIRMING
            && self.why.iter().any(|line| line.contains(".hardware"))
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "reports": self.reports,
            "hardware": self.shown,
            "tried": self.tried,
            "verdict": self.verdict,
            "why": self.why.first(),
        })
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let hardware = match self.shown {
            Some(true) => "hardware",
            Some(false) => "not hardware",
            None => "unknown",
        };
        let first = format!("{} GPUs gave reports; shown as: {hardware}", self.reports);
        let computed = match self.tried {
            true => "tried with a computation, by the host alone",
            false => "not tried",
        };
        let mut lines = vec![
            first,
            computed.to_owned(),
            format!("verdict: {}", self.verdict),
        ];
        lines.extend(self.why.iter().cloned());
        lines
    }
}

impl Stage {
    /// A claim about GPUs in the newest result.
    fn gpu_claim(&self, name: &str) -> Result<Value> {
        let shown = self.node()?;
        let claims = &shown["result"]["submods"]["gpu"]["bailiwick.claims"];
        let value = claims[name]["value"].clone();
        if value.is_null() {
            bail!("{name} is in no result");
        }
        Ok(value)
    }

    /// Looks what GPUs are taken for, first where nobody asks, then by a profile that does.
    pub(super) fn judge_gpus(&mut self, scene: &Scene) -> Result<Gpus> {
        let (reports, shown) = self.wait(scene, "reports of GPUs", |stage| {
            let reports = stage.gpu_claim("gpu.reports")?;
            let reports = reports.as_u64().context("gpu.reports is no number")?;
            Ok((reports, stage.gpu_claim("gpu.hardware")?.as_bool()))
        })?;
        let log = scene.path("agent.log");
        let tried = self.wait(scene, "GPUs tried", |_| {
            let said = fs::read_to_string(&log)?;
            // No baseline is there to pass by.
            if !said.contains("GPUs tried") || !said.contains("no baseline for mode") {
                bail!("the agent has not tried them");
            }
            Ok(true)
        })?;
        self.ask_of_gpus(scene, ASKED)?;
        let verdict = self.wait_for_verdict(scene, false)?;
        self.wait_for_standing(scene, false)?;
        let why = self.why()?.into_iter();
        let why = why.filter(|line| line.contains("gpu.")).collect();
        Ok(Gpus {
            reports,
            shown,
            tried,
            verdict,
            why,
        })
    }

    /// The policy before, signed again: what GPUs say is shown, and nobody asks.
    pub(super) fn forget_gpus(&mut self, scene: &Scene) -> Result<()> {
        self.ask_of_gpus(scene, "")?;
        self.wait_for_verdict(scene, true)?;
        self.wait_for_standing(scene, true)
    }

    fn ask_of_gpus(&mut self, scene: &Scene, asked: &str) -> Result<()> {
        let newest = self.approvers.newest().context("a policy was signed")?;
        let read = |path: &str| {
            fs::read_to_string(newest.join(path)).with_context(|| format!("read {path}"))
        };
        let profile = read("profile.toml")?;
        let profile = profile.replace(ASKED, "");
        let instead = [
            ("profile.toml".to_owned(), format!("{profile}{asked}")),
            ("inventory.toml".to_owned(), read("inventory.toml")?),
        ];
        self.apply_with(scene, None, "what GPUs have to prove", &instead, |_| {})
    }
}
