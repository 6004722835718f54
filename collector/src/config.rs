//! The daemon's one configuration file, parsed whole into checked types.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A configuration that cannot be used; says which file and which key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: cannot be read")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type. The source names key and line.
    #[error("{file}: {source}")]
    Parse {
        /// The file.
        file: PathBuf,
        /// Where and what.
        source: toml::de::Error,
    },
    /// A value outside what makes sense.
    #[error("{file}: {key}: {fault}")]
    Value {
        /// The file.
        file: PathBuf,
        /// Dotted key.
        key: &'static str,
        /// The rule it breaks.
        fault: &'static str,
    },
}

/// Everything the daemon is told. Paths are taken as written, relative to the working directory.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What `init` made: keys, certificates, and the database.
    pub state_dir: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// Which TPMs are real, and what they get.
    #[serde(default)]
    pub enroll: Enroll,
    /// Whose signatures make a policy.
    pub policy: Policy,
    /// What a node's stream may cost.
    #[serde(default)]
    pub ingest: Ingest,
    /// What vouches for GPUs.
    #[serde(default)]
    pub endorsements: Endorsements,
    /// Who is told.
    #[serde(default)]
    pub alert: Alert,
    /// Time the tasks have to stop before they are aborted.
    #[serde(default = "Config::default_grace")]
    pub grace_seconds: u64,
}

/// Addresses; port 0 takes any free one, and the log says which.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Enrolment: server-authenticated TLS.
    pub enroll: SocketAddr,
    /// Evidence: TLS with a node's certificate.
    pub evidence: SocketAddr,
    /// Queries: TLS with an operator's certificate.
    pub query: SocketAddr,
}

/// Enrolment.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Enroll {
    /// PEM files with the roots of TPM makers. Empty: only TPMs listed in the inventory enrol.
    pub ek_roots: Vec<PathBuf>,
    /// PEM files with intermediates, for TPMs that carry only their leaf.
    pub ek_intermediates: Vec<PathBuf>,
    /// PEM files with the roots of device makers, for nodes with an IAK certificate. Empty: no
    /// maker's word for an AK counts.
    pub iak_roots: Vec<PathBuf>,
    /// PEM files with intermediates of those.
    pub iak_intermediates: Vec<PathBuf>,
    /// Life of a node's transport certificate.
    pub certificate_seconds: u64,
    /// Time between challenge and answer.
    pub session_seconds: u64,
}

impl Default for Enroll {
    fn default() -> Self {
        Self {
            ek_roots: Vec::new(),
            ek_intermediates: Vec::new(),
            iak_roots: Vec::new(),
            iak_intermediates: Vec::new(),
            certificate_seconds: 24 * 3600,
            session_seconds: 60,
        }
    }
}

/// The approvers, as installed with this machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// OpenSSH `allowed_signers` file.
    pub approvers: PathBuf,
    /// How many of them must have signed.
    pub threshold: u32,
}

/// What vouches for GPUs beside NVIDIA's roots, which are built in.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Endorsements {
    /// The folder that `bailiwick endorsements import` fills. None: no reference values are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
}

/// Bounds of the evidence stream.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ingest {
    /// How long a challenge may be answered.
    pub nonce_seconds: u64,
    /// A stream on which nothing valid came for so long is closed.
    pub idle_seconds: u64,
    /// Messages a node may send a minute, averaged; more wait in its own send window.
    pub messages_per_minute: u32,
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            nonce_seconds: 600,
            idle_seconds: 900,
            messages_per_minute: 600,
        }
    }
}

/// Alerts.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alert {
    /// Base URLs of every Alertmanager of the cluster, each one by itself, no load balancer.
    pub alertmanagers: Vec<String>,
    /// How often a firing alert is sent again; it ends by itself after four times as long.
    pub resend_seconds: u64,
    /// How often state is compared with alerts.
    pub evaluate_seconds: u64,
    /// How long a node may take to settle: a fence without its policy yet, claims that could not
    /// be checked yet. Refused evidence alerts at once.
    pub grace_seconds: u64,
    /// How long a gap in a node's statements stays an alert.
    pub gap_hold_seconds: u64,
    /// Where a person reads what to do; the alert's name is appended.
    pub runbook_url: Option<String>,
}

impl Default for Alert {
    fn default() -> Self {
        Self {
            alertmanagers: Vec::new(),
            resend_seconds: 60,
            evaluate_seconds: 5,
            grace_seconds: 120,
            gap_hold_seconds: 3600,
            runbook_url: None,
        }
    }
}

impl Config {
    const fn default_grace() -> u64 {
        10
    }

    /// Reads and checks the file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(file, &text)
    }

    /// Parses and checks `text`, which came from `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|source| ConfigError::Parse {
            file: file.to_owned(),
            source,
        })?;
        match config.fault() {
            None => Ok(config),
            Some((key, fault)) => Err(ConfigError::Value {
                file: file.to_owned(),
                key,
                fault,
            }),
        }
    }

    fn fault(&self) -> Option<(&'static str, &'static str)> {
        let rules: &[(bool, &'static str, &'static str)] = &[
            (
                self.policy.threshold >= 1,
                "policy.threshold",
                "must be at least 1: a policy that nobody signed is none",
            ),
            (
                (10..=31 * 24 * 3600).contains(&self.enroll.certificate_seconds),
                "enroll.certificate_seconds",
                "must be 10 to 2678400",
            ),
            (
                (1..=600).contains(&self.enroll.session_seconds),
                "enroll.session_seconds",
                "must be 1 to 600",
            ),
            (
                (1..=86_400).contains(&self.ingest.nonce_seconds),
                "ingest.nonce_seconds",
                "must be 1 to 86400",
            ),
            (
                (1..=86_400).contains(&self.ingest.idle_seconds),
                "ingest.idle_seconds",
                "must be 1 to 86400",
            ),
            (
                self.ingest.messages_per_minute >= 1,
                "ingest.messages_per_minute",
                "must be at least 1",
            ),
            (
                (1..=3600).contains(&self.alert.resend_seconds),
                "alert.resend_seconds",
                "must be 1 to 3600",
            ),
            (
                (1..=3600).contains(&self.alert.evaluate_seconds),
                "alert.evaluate_seconds",
                "must be 1 to 3600",
            ),
            (
                self.alert
                    .alertmanagers
                    .iter()
                    .all(|url| url.starts_with("http://") || url.starts_with("https://")),
                "alert.alertmanagers",
                "each must begin with http:// or https://",
            ),
            (
                (1..=600).contains(&self.grace_seconds),
                "grace_seconds",
                "must be 1 to 600",
            ),
        ];
        rules
            .iter()
            .find(|(holds, ..)| !holds)
            .map(|(_, key, fault)| (*key, *fault))
    }

    /// Time the tasks have to stop.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
state_dir = "/var/lib/bailiwick"
[listen]
enroll = "127.0.0.1:0"
evidence = "127.0.0.1:0"
query = "[::1]:0"
[policy]
approvers = "/etc/bailiwick/allowed_signers"
threshold = 2
"#;

    #[test]
    fn a_small_file_is_enough_and_prints_whole() {
        let config = Config::parse(Path::new("c.toml"), GOOD).unwrap();
        assert_eq!(config.alert.resend_seconds, 60);
        let printed = toml::to_string(&config).unwrap();
        Config::parse(Path::new("printed"), &printed).unwrap();
    }

    #[test]
    fn errors_name_file_and_key() {
        let cases = [
            (
                "unknown key",
                GOOD.replace("threshold", "treshold"),
                "treshold",
            ),
            (
                "unknown table",
                format!("{GOOD}\n[alerts]\n"),
                "unknown field `alerts`",
            ),
            ("wrong type", GOOD.replace("= 2", "= \"two\""), "threshold"),
            (
                "no signature needed",
                GOOD.replace("= 2", "= 0"),
                "policy.threshold: must be at least 1",
            ),
            (
                "an address that is none",
                GOOD.replace("127.0.0.1:0", "here"),
                "enroll",
            ),
            (
                "a sender without scheme",
                format!("{GOOD}\n[alert]\nalertmanagers = [\"localhost\"]\n"),
                "alert.alertmanagers: each must begin",
            ),
        ];
        for (name, text, want) in cases {
            let error = Config::parse(Path::new("c.toml"), &text)
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("c.toml: "), "{name}: {error}");
            assert!(error.contains(want), "{name}: {error}");
        }
    }
}
