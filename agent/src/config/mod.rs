//! One TOML file, checked whole before anything starts.
//!
//! Errors name the file, the line and the key. Paths of `/proc`, `/sys` and the fence root are
//! configuration, so that a test never touches the machine it runs on.

mod collector;
mod error;
mod fence;
mod sections;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use bailiwick_attestation::{DeploymentId, NodeId, profile::FENCE_PCR_MAX};
use serde::{Deserialize, Serialize};

pub use self::collector::{Collector, Endpoint};
pub use self::error::ConfigError;
pub use self::fence::{Devices, FenceSection};
pub use self::sections::{
    EvidenceSection, HostSection, Iak, OqSection, PeersSection, Policy, SignedBy, SpoolSection,
    TeeSection, TpmSection,
};
use crate::fence::{Recorder, TpmRegister};
use crate::tpm::Settings;

/// The agent's configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Installation this node belongs to.
    pub deployment: DeploymentId,
    /// What the node calls itself; the signed inventory has the last word.
    pub node: NodeId,
    /// Who signs what the node says.
    #[serde(default)]
    pub signer: SignedBy,
    /// Keys, policy and log of the node.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Where evidence goes.
    pub collector: Collector,
    /// The TPM.
    #[serde(default)]
    pub tpm: TpmSection,
    /// Who signs policy.
    pub policy: Policy,
    /// What is fenced, and how.
    #[serde(default)]
    pub fence: FenceSection,
    /// What is kept until a receipt covers it.
    #[serde(default)]
    pub spool: SpoolSection,
    /// When evidence is sent.
    #[serde(default)]
    pub evidence: EvidenceSection,
    /// Where facts about the host are read.
    #[serde(default)]
    pub host: HostSection,
    /// Who speaks for the confidential guest this may be.
    #[serde(default)]
    pub tee: TeeSection,
    /// Addresses of studies on this host.
    #[serde(default)]
    pub peers: PeersSection,
    /// Whether GPUs are tried, and what they are held against.
    #[serde(default)]
    pub oq: OqSection,
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/bailiwick")
}

impl Config {
    /// Reads and checks the file.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(file).map_err(|source| ConfigError::Read {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(file, &text)
    }

    /// Checks `text`, which was read from `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|err| {
            let start = err.span().map_or(0, |span| span.start.min(text.len()));
            let line = text
                .bytes()
                .take(start)
                .filter(|byte| *byte == b'\n')
                .count();
            ConfigError::Parse {
                file: file.to_owned(),
                line: line + 1,
                text: text.lines().nth(line).unwrap_or_default().trim().to_owned(),
                fault: err.message().to_owned(),
            }
        })?;
        let value = |(key, fault): (Cow<'static, str>, String)| ConfigError::Value {
            file: file.to_owned(),
            key,
            fault,
        };
        if config.signer == SignedBy::Tee {
            config.without_tpm(text).map_err(value)?;
        }
        let checked = config.check();
        checked.map_err(|(key, fault)| value((key.into(), fault)))?;
        Ok(config)
    }

    /// As [`Config::parse`] reads it, defaults filled in.
    pub fn print(&self) -> Result<String, toml::ser::Error> {
        if self.signer == SignedBy::Tpm {
            return toml::to_string(self);
        }
        let mut table = toml::Table::try_from(self)?;
        table.remove("tpm");
        toml::to_string(&table)
    }

    /// Nothing that was written may ask for a TPM that nobody opens; what was not is without one.
    fn without_tpm(&mut self, text: &str) -> Result<(), (Cow<'static, str>, String)> {
        // It was read whole a moment ago.
        let written: toml::Table = toml::from_str(text).unwrap_or_default();
        let of = |section: &str| written.get(section).and_then(toml::Value::as_table);
        if let Some(key) = of("tpm").and_then(|tpm| tpm.keys().next()) {
            let fault = "stands beside signer = \"tee\", with which no TPM is opened";
            return Err((format!("tpm.{key}").into(), fault.to_owned()));
        }
        let said = of("fence").is_some_and(|fence| fence.contains_key("measured"));
        if said && self.fence.measured {
            let fault = "cannot be true with signer = \"tee\": there is no TPM to measure it into";
            return Err(("fence.measured".into(), fault.to_owned()));
        }
        self.fence.measured = false;
        if !self.tee.key.is_absolute() || self.tee.key.file_name().is_none() {
            let fault = "must be the absolute path of a file";
            return Err(("tee.key".into(), fault.to_owned()));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let pcrs = &self.tpm.pcrs;
        if pcrs.is_empty() || !pcrs.is_sorted_by(|a, b| a < b) || pcrs.iter().any(|i| *i > 23) {
            return Err((
                "tpm.pcrs",
                "must ascend within 0 to 23, and name one".into(),
            ));
        }
        let persistent = 0x8100_0000..=0x81ff_ffff_u32;
        if self
            .tpm
            .ak_handle
            .is_some_and(|handle| !persistent.contains(&handle))
        {
            let fault = "is no persistent handle: 0x81000000 to 0x81ffffff";
            return Err(("tpm.ak_handle", fault.into()));
        }
        if self.collector.ca_file.is_some() && self.collector.spki_pin.is_some() {
            let fault = "stands beside collector.ca_file; name one of them";
            return Err(("collector.spki_pin", fault.into()));
        }
        if self.policy.threshold == 0 {
            return Err(("policy.threshold", "must be at least 1".into()));
        }
        if self.fence.whole_host != (self.fence.root == Path::new("/")) {
            let fault = "must be true for root = \"/\", and false for every other root";
            return Err(("fence.whole_host", fault.into()));
        }
        if self.fence.pcr > FENCE_PCR_MAX {
            let fault = "must lie within 0 to 15: only a reset of the TPM clears those";
            return Err(("fence.pcr", fault.into()));
        }
        if !(1..=86_400).contains(&self.fence.count_s) {
            let fault = "must lie within 1 and 86,400 seconds";
            return Err(("fence.count_s", fault.into()));
        }
        let mask = self.fence.mark_mask;
        let side_by_side = mask >> mask.trailing_zeros().min(31);
        if mask.count_ones() < 8 || side_by_side.count_ones() != side_by_side.trailing_ones() {
            let fault = "must be at least eight bits side by side";
            return Err(("fence.mark_mask", fault.into()));
        }
        if let (Devices::Named(uplinks), Devices::Named(ports)) =
            (self.fence.uplinks(), self.fence.ports())
            && let Some(name) = uplinks.intersection(&ports).next()
        {
            return Err(("fence.ports", format!("{name:?} is an uplink")));
        }
        if !self.fence.log.is_absolute() {
            return Err(("fence.log", "must be an absolute path".into()));
        }
        if !self.fence.root.is_absolute()
            || self
                .fence
                .root
                .components()
                .any(|part| part == std::path::Component::ParentDir)
        {
            let fault = "must be a cgroup path from the v2 mount, without '..'";
            return Err(("fence.root", fault.into()));
        }
        if self.spool.max_bytes < 16 << 20 {
            let fault = "must be at least 16777216: a first statement of a boot may have 8 MiB, and one with a \
                         long list is not kept";
            return Err(("spool.max_bytes", fault.into()));
        }
        if !(1..=3600).contains(&self.evidence.interval_s) {
            return Err(("evidence.interval_s", "must lie within 1 to 3600".into()));
        }
        if !(60..=86_400).contains(&self.evidence.gpu_interval_s) {
            let fault = "must lie within 60 and 86,400 seconds";
            return Err(("evidence.gpu_interval_s", fault.into()));
        }
        if !(0.0..=0.5).contains(&self.evidence.jitter) {
            return Err(("evidence.jitter", "must lie within 0 to 0.5".into()));
        }
        self.oq.check()
    }

    /// What the TPM's thread needs.
    #[must_use]
    pub fn tpm_settings(&self) -> Settings {
        Settings {
            tcti: self.tpm.tcti.clone(),
            ek: self.tpm.ek,
            ak: self.tpm.ak,
            ak_handle: self.tpm.ak_handle,
            bank: self.tpm.bank,
            pcrs: self.quoted_pcrs(),
            keys: self.state_dir.join("keys"),
        }
    }

    /// What is quoted: the fence's PCR is among it.
    fn quoted_pcrs(&self) -> Vec<u8> {
        let mut pcrs = self.tpm.pcrs.clone();
        pcrs.push(self.fence.pcr);
        pcrs.sort_unstable();
        pcrs.dedup();
        pcrs
    }

    /// What extends the fence's PCR.
    #[must_use]
    pub fn fence_recorder(&self) -> Recorder {
        if !self.fence.measured {
            return Recorder::default();
        }
        let tcti = self.tpm.tcti.to_string();
        let register = TpmRegister::new(&tcti, self.tpm.bank.hash(), self.fence.pcr);
        Recorder::new(Box::new(register), &self.fence.log)
    }

    /// Folder of the spool.
    #[must_use]
    pub fn spool_dir(&self) -> PathBuf {
        self.spool
            .dir
            .clone()
            .unwrap_or_else(|| self.state_dir.join("spool"))
    }
}
