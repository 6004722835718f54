//! A TPM from a shop: real, with its maker's certificate, and in nobody's inventory.

use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_agent::tpm::Tpm;
use bailiwick_attestation::NodeId;
use bailiwick_attestation::proto::v1::{self, enrolled};
use bailiwick_attestation::tlog::Head;
use bailiwick_collector::clock;
use bailiwick_collector::direct::read_approvers;

use super::tries::{Came, tell};
use super::wire::{Conversation, enroll};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The stranger's own agent configuration
    #[arg(long)]
    config: PathBuf,
    /// Name of the listed node it would like to be
    #[arg(long)]
    victim: String,
    /// SHA-256 of the manifest in force, hex
    #[arg(long)]
    manifest: String,
    /// Chassis serial it says it has
    #[arg(long, default_value = "")]
    chassis: String,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let config = super::config(&args.config)?;
    let tpm = Tpm::open(config.tpm_settings()).context("open the stranger's TPM")?;

    let mut claims = config.clone();
    claims.node = NodeId::new(&args.victim)?;
    let came = match enroll(&claims, &tpm, &args.chassis).await? {
        Ok(enrolled) => Came::Succeeded(format!("enrolled as {}", enrolled.node)),
        Err(status) => status.into(),
    };
    tell(
        "enrols under the listed node's name",
        "ek-not-of-node",
        &came,
    )?;

    let enrolled = enroll(&config, &tpm, &args.chassis).await?;
    let enrolled = enrolled.context("a genuine TPM under its own name was not heard at all")?;
    let came = match enrolled.state() {
        enrolled::State::Pending => Came::refused("pending", &enrolled.reason),
        _ => Came::Succeeded(format!("enrolled as {}", enrolled.node)),
    };
    tell("enrols under a name of its own", "pending", &came)?;

    let manifest = hex::decode(&args.manifest).context("read --manifest")?;
    let approvers = read_approvers(&config.policy.approvers, config.policy.threshold)?.digest();
    let chain = enrolled.certificate_chain.iter();
    let chain = chain.map(|der| der.clone().into()).collect();
    let mut stream = Conversation::open(&config, &tpm, chain).await?;
    for (sequence, node) in [(0, &args.victim), (1, &args.victim)] {
        let statement = v1::Statement {
            format: 1,
            deployment: config.deployment.to_string(),
            node: node.clone(),
            boot_id: vec![7; 16],
            wall_time_ms: clock::now().millis(),
            sequence,
            approvers_digest: approvers.as_bytes().to_vec(),
            previous: stream.last.map(|digest| digest.as_bytes().to_vec()),
            policy: Some(v1::PolicyState {
                version: 1,
                manifest_digest: manifest.clone(),
                world_digest: vec![0; 32],
                not_after_ms: 0,
            }),
            fence: Some(v1::FenceState {
                mode: v1::fence_state::Mode::Enforcing.into(),
                ..v1::FenceState::default()
            }),
            log: Some(Head::empty().to_proto()),
            ..v1::Statement::default()
        };
        let came = stream.say(&tpm, &statement).await?;
        tell(
            "attests as the listed node and waits for a gift",
            "no-standing",
            &came,
        )?;
    }

    let request = v1::FetchPolicyRequest {
        manifest_digest: manifest,
    };
    let came = match stream.client.fetch_policy(request).await {
        Ok(_) => Came::Succeeded("the policy was handed out".to_owned()),
        Err(status) => status.into(),
    };
    tell("asks for the policy by its digest", "node-pending", &came)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Enrol {
    /// Its agent configuration
    #[arg(long)]
    config: PathBuf,
    /// What is tried, in words
    #[arg(long)]
    tried: String,
    /// The refusal that is due
    #[arg(long)]
    expected: String,
    /// Chassis serial it says it has
    #[arg(long, default_value = "")]
    chassis: String,
    /// Name it says it has; else the configuration's
    #[arg(long)]
    node: Option<String>,
}

/// One enrolment.
pub(crate) async fn enrol(args: &Enrol) -> anyhow::Result<()> {
    let mut config = super::config(&args.config)?;
    if let Some(node) = &args.node {
        config.node = NodeId::new(node)?;
    }
    let tpm = Tpm::open(config.tpm_settings()).context("open the TPM")?;
    let came = match enroll(&config, &tpm, &args.chassis).await? {
        Ok(enrolled) if enrolled.state() == enrolled::State::Pending => {
            Came::refused("pending", enrolled.reason)
        }
        Ok(enrolled) => Came::Succeeded(format!("enrolled as {}", enrolled.node)),
        Err(status) => status.into(),
    };
    tell(&args.tried, &args.expected, &came)
}
