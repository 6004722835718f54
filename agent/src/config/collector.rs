//! Where evidence goes, and how the collector is recognised.

use std::path::PathBuf;

use bailiwick_attestation::Sha256Digest;
use serde::{Deserialize, Serialize};

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
