//! Talking to a collector: configuration, TLS with an operator's certificate, and what its
//! refusals mean.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bailiwick_collector::proto::query_service_client::QueryServiceClient;
use serde::Deserialize;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use crate::Exit;

/// Largest answer: a policy slice, or a statement with its logs and policy.
const ANSWER: usize = 96 * 1024 * 1024;
/// How long the collector may take to let us in.
const CONNECT: Duration = Duration::from_secs(10);

/// `~/.config/bailiwick/client.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// `https://collector.example:7443`.
    endpoint: String,
    /// Certificate the collector is verified with.
    ca: PathBuf,
    /// The operator's certificate.
    cert: PathBuf,
    /// The operator's key.
    key: PathBuf,
    /// Name in the collector's certificate, where it is not the endpoint's.
    server_name: Option<String>,
}

/// Where the configuration lies.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Connection {
    /// The client's configuration.
    #[arg(long, global = true, env = "BAILIWICK_CONFIG")]
    config: Option<PathBuf>,
}

/// A connected client.
pub(crate) type Client = QueryServiceClient<Channel>;

impl Connection {
    /// Connects.
    pub(crate) async fn open(&self) -> anyhow::Result<Client> {
        let file = match &self.config {
            Some(file) => file.clone(),
            None => {
                let home = std::env::var_os("HOME").context("HOME is not set; use --config")?;
                Path::new(&home).join(".config/bailiwick/client.toml")
            }
        };
        let shown = file.display().to_string();
        let text = std::fs::read_to_string(&file).with_context(|| shown.clone())?;
        let config: Config = toml::from_str(&text).with_context(|| shown.clone())?;
        let read = |key: &str, path: &Path| {
            std::fs::read(path).with_context(|| format!("{shown}: {key}: {}", path.display()))
        };
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ca", &config.ca)?))
            .identity(Identity::from_pem(
                read("cert", &config.cert)?,
                read("key", &config.key)?,
            ));
        if let Some(name) = &config.server_name {
            tls = tls.domain_name(name);
        }
        let endpoint = Endpoint::from_shared(config.endpoint.clone())
            .with_context(|| format!("{shown}: endpoint"))?
            .tls_config(tls)
            .with_context(|| format!("{shown}: TLS"))?
            .connect_timeout(CONNECT);
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("cannot reach the collector at {}", config.endpoint))?;
        Ok(QueryServiceClient::new(channel).max_decoding_message_size(ANSWER))
    }
}

/// Bytes that were looked at and refused here, before any collector saw them.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {detail}")]
pub(crate) struct BytesRefused {
    /// Stable word for scripts.
    pub(crate) code: &'static str,
    /// Which bytes, and what is wrong with them.
    pub(crate) detail: String,
}

impl BytesRefused {
    /// What an error that reached `main` ends the process with.
    pub(crate) fn exit(error: &anyhow::Error) -> Exit {
        match error.downcast_ref::<Self>() {
            Some(_) => Exit::Refused,
            None => Exit::CouldNotTell,
        }
    }
}

/// What a refusal ends the process with, and what it says.
pub(crate) fn refused(status: &Status) -> anyhow::Result<Exit> {
    match status.code() {
        Code::NotFound => {
            eprintln!("bailiwick: {}", status.message());
            Ok(Exit::Unknown)
        }
        Code::FailedPrecondition | Code::InvalidArgument => {
            eprintln!("bailiwick: {}", status.message());
            Ok(Exit::Refused)
        }
        // TLS 1.3 shows a refused client certificate only here, as a broken connection.
        Code::Cancelled | Code::Unknown => Err(anyhow!(
            "the collector ended the connection ({}): is this an operator's certificate it issued, \
             and not expired?",
            status.message()
        )),
        code => Err(anyhow!("{}: {}", code.description(), status.message())),
    }
}

/// Runs a future to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("runtime")?
        .block_on(future)
}
