//! One TOML file, checked whole before anything starts.
//!
//! Errors name the file, the line and the key. Paths of `/proc`, `/sys` and the fence root are
//! configuration, so that a test never touches the machine it runs on.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest, profile::FENCE_PCR_MAX};
use serde::{Deserialize, Serialize};

use crate::fence::{Recorder, TpmRegister};
use crate::tpm::{AkKind, Bank, EkKind, Settings, Tcti};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong type.
    #[error("{file}, line {line} ({text}): {fault}")]
    Parse {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// That line, which names the key.
        text: String,
        /// What is wrong.
        fault: String,
    },
    /// A value that is well-formed and makes no sense.
    #[error("{file}: {key}: {fault}")]
    Value {
        /// The file.
        file: PathBuf,
        /// Dotted key.
        key: &'static str,
        /// What is wrong.
        fault: String,
    },
}

/// The agent's configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Installation this node belongs to.
    pub deployment: DeploymentId,
    /// What the node calls itself; the signed inventory has the last word.
    pub node: NodeId,
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
    /// Addresses of studies on this host.
    #[serde(default)]
    pub peers: PeersSection,
}

/// `[peers]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeersSection {
    /// Addresses of workloads in other network namespaces; the host's own are found. What may be
    /// signed for, and for which study, say inventory and policy.
    pub addresses: Vec<IpAddr>,
}

/// `[collector]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Collector {
    /// `host:port` of the enrolment service.
    pub enroll: Endpoint,
    /// `host:port` of the evidence service.
    pub evidence: Endpoint,
    /// PEM file of the CA of the collector's server certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Or: SHA-256 of the `SubjectPublicKeyInfo` of the collector's server certificate, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spki_pin: Option<Sha256Digest>,
}

impl Collector {
    /// Whether there is anything to recognise the collector by. Without, the agent does not enrol.
    #[must_use]
    pub const fn verifiable(&self) -> bool {
        self.ca_file.is_some() || self.spki_pin.is_some()
    }
}

/// `host:port`; the host is also the name the server's certificate must bear.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// DNS name or address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl TryFrom<String> for Endpoint {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port != 0);
        match port {
            Some(port) if !host.is_empty() && !host.contains('/') => Ok(Self {
                host: host.to_owned(),
                port,
            }),
            _ => Err(wrong()),
        }
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `[tpm]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TpmSection {
    /// `device:PATH` or `swtpm:host=HOST,port=PORT`.
    pub tcti: Tcti,
    /// Endorsement key that names the TPM.
    pub ek: EkKind,
    /// Kind of AK, where there is none yet.
    pub ak: AkKind,
    /// Bank to quote.
    pub bank: Bank,
    /// PCRs to quote.
    pub pcrs: Vec<u8>,
    /// The maker's attestation key, where it provided one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iak: Option<Iak>,
}

/// `[tpm.iak]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Iak {
    /// Persistent handle, for example `0x81090000`.
    pub handle: u32,
    /// Its certificate and what else leads to the maker's root, leaf first: PEM or DER files, or
    /// NV indices as `nv:0x01c90000`.
    pub certificates: Vec<String>,
}

impl Default for TpmSection {
    fn default() -> Self {
        Self {
            tcti: Tcti::device(),
            ek: EkKind::default(),
            ak: AkKind::default(),
            bank: Bank::default(),
            // Firmware and boot (0 to 7), boot loader (8, 9), IMA (10), UKI (11 to 13), shim (14).
            pcrs: (0..=14).collect(),
            iak: None,
        }
    }
}

/// `[policy]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The first approvers, in OpenSSH's `allowed_signers` format; part of the machine's image.
    pub approvers: PathBuf,
    /// How many of them have to sign.
    pub threshold: u32,
}

/// `[fence]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FenceSection {
    /// Cgroup below the cgroup v2 mount; `/` is the whole host.
    pub root: PathBuf,
    /// Has to be said beside `root = "/"`, so that no trial fences a machine by an omission.
    pub whole_host: bool,
    /// Folder for pins, on a BPF file system.
    pub bpffs: PathBuf,
    /// Socket between the `fence` and `run` processes.
    pub socket: PathBuf,
    /// Whether what takes effect is extended into a PCR first. False is for a host without a TPM,
    /// and for trials; statements say so.
    pub measured: bool,
    /// PCR that is extended before anything takes effect, 0 to 15: those that only a reset of the
    /// TPM clears. It is quoted whatever `tpm.pcrs` names.
    pub pcr: u8,
    /// Log of those extensions. It has to live exactly as long as the PCR, so on a tmpfs.
    pub log: PathBuf,
    /// Devices by which packets leave the host: `["auto"]`, names, or none. Not said: found where
    /// the whole host is fenced, none where a part of it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplinks: Option<Devices>,
    /// Devices on whose other side workloads are: `["auto"]`, names, or none; as `uplinks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Devices>,
    /// Bits of a packet's mark in which a port writes whose it is, for the uplink to read: at
    /// least eight, side by side, that nothing else on the host uses.
    pub mark_mask: u32,
    /// Root of /proc and /sys, as far as they tell of drivers and their numbers.
    pub drivers: PathBuf,
    /// A device that nobody holds and nobody has opened for so long is free for another study.
    /// Not shorter than a driver takes to open one.
    pub device_idle_seconds: u64,
    /// Seconds after which what passed is told: packets and bytes by study and jurisdiction.
    pub count_s: u64,
    /// One in so many packets that pass is told with its addresses; 0: none.
    pub sample: u32,
}

/// Network devices to attach to.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub enum Devices {
    /// Found, and followed as they come and go.
    Auto,
    /// These, as soon as they are there. Empty: none.
    Named(BTreeSet<String>),
}

impl TryFrom<Vec<String>> for Devices {
    type Error = String;
    fn try_from(names: Vec<String>) -> Result<Self, String> {
        if names == ["auto"] {
            return Ok(Self::Auto);
        }
        let fits = |name: &str| {
            // What the kernel takes for a device's name (`dev_valid_name`).
            (1..16).contains(&name.len())
                && !matches!(name, "." | "..")
                && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
        };
        match names.iter().find(|name| !fits(name) || *name == "auto") {
            None => Ok(Self::Named(names.into_iter().collect())),
            Some(name) if name == "auto" => Err("\"auto\" stands alone".to_owned()),
            Some(name) => Err(format!("{name:?} is no device's name")),
        }
    }
}

impl From<Devices> for Vec<String> {
    fn from(devices: Devices) -> Self {
        match devices {
            Devices::Auto => vec!["auto".to_owned()],
            Devices::Named(names) => names.into_iter().collect(),
        }
    }
}

impl FenceSection {
    /// Which uplinks.
    #[must_use]
    pub fn uplinks(&self) -> Devices {
        self.devices(self.uplinks.as_ref())
    }

    /// Which ports of workloads.
    #[must_use]
    pub fn ports(&self) -> Devices {
        self.devices(self.ports.as_ref())
    }

    /// Nothing is found by itself that a trial did not ask for.
    fn devices(&self, said: Option<&Devices>) -> Devices {
        match said {
            Some(devices) => devices.clone(),
            None if self.whole_host => Devices::Auto,
            None => Devices::Named(BTreeSet::new()),
        }
    }
}

impl Default for FenceSection {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            whole_host: true,
            bpffs: PathBuf::from("/sys/fs/bpf/bailiwick"),
            socket: PathBuf::from("/run/bailiwick/fence.sock"),
            measured: true,
            pcr: 13,
            log: PathBuf::from("/run/bailiwick/fence.log"),
            uplinks: None,
            ports: None,
            // Ten bits for the study, two for the policy that numbered it.
            mark_mask: 0xfff0_0000,
            drivers: PathBuf::from("/"),
            device_idle_seconds: 30,
            count_s: 300,
            sample: 0,
        }
    }
}

/// `[spool]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolSection {
    /// Folder; default `spool` in the state folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Most bytes kept on disk for the collector.
    pub max_bytes: u64,
}

impl Default for SpoolSection {
    fn default() -> Self {
        Self {
            dir: None,
            max_bytes: 256 << 20,
        }
    }
}

/// `[evidence]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvidenceSection {
    /// Seconds between statements nobody asked for.
    pub interval_s: u64,
    /// Part of the interval by which each one is drawn earlier or later, 0 to 0.5.
    pub jitter: f64,
}

impl Default for EvidenceSection {
    fn default() -> Self {
        Self {
            interval_s: 60,
            jitter: 0.2,
        }
    }
}

impl EvidenceSection {
    /// Time between statements, before jitter.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_s)
    }
}

/// `[host]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSection {
    /// Root of procfs.
    pub proc: PathBuf,
    /// Root of sysfs.
    pub sys: PathBuf,
    /// NVML to ask for GPUs; default the loader's `libnvidia-ml.so.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvml: Option<PathBuf>,
}

impl Default for HostSection {
    fn default() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
            sys: PathBuf::from("/sys"),
            nvml: None,
        }
    }
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
        let config: Self = toml::from_str(text).map_err(|err| {
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
        config.check().map_err(|(key, fault)| ConfigError::Value {
            file: file.to_owned(),
            key,
            fault,
        })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let pcrs = &self.tpm.pcrs;
        if pcrs.is_empty() || !pcrs.is_sorted_by(|a, b| a < b) || pcrs.iter().any(|i| *i > 23) {
            return Err((
                "tpm.pcrs",
                "must ascend within 0 to 23, and name one".into(),
            ));
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
            let fault = "must be at least 16777216: one first statement of a boot has 8 MiB";
            return Err(("spool.max_bytes", fault.into()));
        }
        if !(1..=3600).contains(&self.evidence.interval_s) {
            return Err(("evidence.interval_s", "must lie within 1 to 3600".into()));
        }
        if !(0.0..=0.5).contains(&self.evidence.jitter) {
            return Err(("evidence.jitter", "must lie within 0 to 0.5".into()));
        }
        Ok(())
    }

    /// What the TPM's thread needs.
    #[must_use]
    pub fn tpm_settings(&self) -> Settings {
        Settings {
            tcti: self.tpm.tcti.clone(),
            ek: self.tpm.ek,
            ak: self.tpm.ak,
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

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
deployment = "demo"
node = "gpu-01"
[collector]
enroll = "collector.example:7443"
evidence = "[::1]:7444"
[policy]
approvers = "/etc/bailiwick/allowed_signers"
threshold = 2
"#;

    #[test]
    fn what_is_not_said_has_a_default_and_prints_back() {
        let config = Config::parse(Path::new("a.toml"), SMALL).unwrap();
        assert!(!config.collector.verifiable());
        assert_eq!(config.collector.evidence.host, "::1");
        let printed = toml::to_string(&config).unwrap();
        let again = Config::parse(Path::new("b.toml"), &printed).unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), printed);
    }

    #[test]
    fn devices_are_found_only_where_the_whole_host_is_fenced() {
        let named = |names: &[&str]| Devices::Named(names.iter().map(|n| (*n).into()).collect());
        let trial = "root = \"/trial\"\nwhole_host = false";
        for (lines, want) in [
            (String::new(), Devices::Auto),
            (trial.to_owned(), named(&[])),
            (format!("{trial}\nuplinks = [\"auto\"]"), Devices::Auto),
            (
                format!("{trial}\nuplinks = [\"b\", \"a\"]"),
                named(&["a", "b"]),
            ),
            ("uplinks = []".to_owned(), named(&[])),
            ("uplinks = [\"eth0\"]".to_owned(), named(&["eth0"])),
        ] {
            let text = format!("{SMALL}\n[fence]\n{lines}\n");
            let config = Config::parse(Path::new("a.toml"), &text).unwrap();
            assert_eq!(config.fence.uplinks(), want, "{lines}");
        }
    }

    #[test]
    fn the_fences_pcr_is_quoted() {
        for (lines, want) in [
            ("", (0..=14).collect()),
            ("[tpm]\npcrs = [0, 7]", vec![0, 7, 13]),
            ("[tpm]\npcrs = [0, 7]\n[fence]\npcr = 3", vec![0, 3, 7]),
        ] {
            let text = format!("{SMALL}\n{lines}\n");
            let config = Config::parse(Path::new("a.toml"), &text).unwrap();
            assert_eq!(config.tpm_settings().pcrs, want, "{lines}");
        }
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let cases: &[(&str, &str, &str)] = &[
            (
                "unknown key",
                "[tpm]\nalgorithm = 1",
                "a.toml, line 12 (algorithm = 1): unknown field `algorithm`",
            ),
            (
                "wrong type",
                "[evidence]\ninterval_s = \"x\"",
                "a.toml, line 12 (interval_s = \"x\"): invalid type: string \"x\", expected u64",
            ),
            (
                "tcti",
                "[tpm]\ntcti = \"usb\"",
                "a.toml, line 12 (tcti = \"usb\"): TCTI \"usb\" is not one of",
            ),
            (
                "pcr 24",
                "[tpm]\npcrs = [0, 24]",
                "a.toml: tpm.pcrs: must ascend within 0 to 23",
            ),
            ("pcr twice", "[tpm]\npcrs = [1, 1]", "a.toml: tpm.pcrs: "),
            (
                "a trial that would fence the host",
                "[fence]\nroot = \"/trial\"",
                "a.toml: fence.whole_host: ",
            ),
            (
                "the debug PCR",
                "[fence]\npcr = 16",
                "a.toml: fence.pcr: must lie within 0 to 15",
            ),
            (
                "a device that is both",
                "[fence]\nuplinks = [\"a\", \"b\"]\nports = [\"b\"]",
                "a.toml: fence.ports: \"b\" is an uplink",
            ),
            (
                "no device",
                "[fence]\nuplinks = [\"a/b\"]",
                "a.toml, line 12 (uplinks = [\"a/b\"]): \"a/b\" is no device's name",
            ),
            (
                "found, and named",
                "[fence]\nports = [\"auto\", \"b\"]",
                "a.toml, line 12 (ports = [\"auto\", \"b\"]): \"auto\" stands alone",
            ),
            (
                "seven bits",
                "[fence]\nmark_mask = 0xfe000000",
                "a.toml: fence.mark_mask: must be at least eight bits",
            ),
            (
                "bits with others between",
                "[fence]\nmark_mask = 0x00ff00ff",
                "a.toml: fence.mark_mask: must be at least eight bits side by side",
            ),
            (
                "counted at every moment",
                "[fence]\ncount_s = 0",
                "a.toml: fence.count_s: must lie within",
            ),
            (
                "never counted",
                "[fence]\ncount_s = 86401",
                "a.toml: fence.count_s: must lie within",
            ),
            (
                "no mark",
                "[fence]\nmark_mask = 0",
                "a.toml: fence.mark_mask: ",
            ),
            (
                "a log beside whoever starts the agent",
                "[fence]\nlog = \"fence.log\"",
                "a.toml: fence.log: must be an absolute path",
            ),
            (
                "no jitter",
                "[evidence]\njitter = 0.6",
                "a.toml: evidence.jitter: ",
            ),
            (
                "small spool",
                "[spool]\nmax_bytes = 9",
                "a.toml: spool.max_bytes: ",
            ),
        ];
        for (name, lines, want) in cases {
            let text = format!("{SMALL}\n{lines}\n");
            let err = Config::parse(Path::new("a.toml"), &text).unwrap_err();
            assert!(err.to_string().starts_with(want), "{name}: {err}");
        }
    }

    #[test]
    fn endpoints_are_host_and_port() {
        for bad in [
            "a",
            "a:",
            ":1",
            "a:0",
            "http://a:1",
            "::1:5",
            "[::1:5",
            "a:70000",
        ] {
            assert!(Endpoint::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        for good in ["a:1", "10.0.0.1:65535", "[::1]:5"] {
            let endpoint = Endpoint::try_from(good.to_owned()).unwrap();
            assert_eq!(endpoint.to_string(), good);
        }
    }
}
