//! Root has the TPM sign that the fence stands, whatever the fence is.

use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_agent::enroll::{self, Enrolment};
use bailiwick_agent::tpm::Tpm;
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::evidence::Freshness;
use bailiwick_attestation::proto::v1;
use prost::Message as _;

use super::tries::{Came, tell};
use super::wire::{Conversation, quote};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node's agent configuration: TPM, certificate and all are the attacker's
    #[arg(long)]
    config: PathBuf,
    /// The node's newest statement, as `bailiwick node statement` wrote it: what the next follows
    #[arg(long)]
    stored: PathBuf,
    /// The honest statement that the forgery is made of
    #[arg(long)]
    honest: PathBuf,
    /// The fence's own log, as it was
    #[arg(long)]
    log: PathBuf,
    /// The kernel's measurement list as it is now, where the node has one
    #[arg(long)]
    list: Option<PathBuf>,
    /// Id of this boot, 32 hex digits; else that of the stored statement
    #[arg(long)]
    boot: Option<String>,
    /// What is forged
    #[arg(long, value_enum)]
    forge: Forge,
    /// What is tried, in words
    #[arg(long)]
    tried: String,
    /// The refusal that is due
    #[arg(long)]
    expected: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Forge {
    /// Nothing: everything as it was, whatever it is now
    Nothing,
    /// The log is left out
    NoLog,
    /// The log ends before its last entry
    CutLog,
    /// The statement names another world map than the log
    World,
    /// The statement says that other programs judge
    Programs,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let config = super::config(&args.config)?;
    let (newest, last) = read(&args.stored)?;
    let (_, honest) = read(&args.honest)?;
    let enrolment = Enrolment::read(&enroll::file(&config))?.context("no certificate")?;
    let tpm = Tpm::open(config.tpm_settings()).context("open the TPM")?;
    let mut stream = Conversation::open(&config, &tpm, enrolment.chain).await?;

    let mut statement = v1::Statement {
        sequence: last.sequence + 1,
        previous: Some(newest.as_bytes().to_vec()),
        log: last.log,
        ..honest
    };
    if let Some(boot) = &args.boot {
        statement.boot_id = hex::decode(boot).context("read --boot")?;
    }
    let mut log = std::fs::read(&args.log).context("read the fence's log")?;
    match args.forge {
        Forge::Nothing | Forge::NoLog => {}
        Forge::CutLog => log.truncate(log.len().saturating_sub(1)),
        Forge::World => {
            let policy = statement.policy.as_mut().context("a policy")?;
            policy.world_digest = Sha256Digest::of(&[b"elsewhere"]).as_bytes().to_vec();
        }
        Forge::Programs => {
            let fence = statement.fence.as_mut().context("a fence")?;
            for link in &mut fence.links {
                link.program_tag = vec![7; 8];
            }
        }
    }
    let mut logs = Vec::new();
    if let Some(list) = &args.list {
        statement.logs.retain(|log| log.name != "ima");
        logs.push(("ima", std::fs::read(list).context("read the list")?));
    }
    if args.forge != Forge::NoLog {
        logs.push(("fence", log));
    }
    let mut evidence = quote(&tpm, &statement, Freshness::Challenged(stream.nonce)).await?;
    let whole = logs.into_iter().map(|(name, content)| v1::Log {
        name: name.to_owned(),
        content,
        ..v1::Log::default()
    });
    evidence.logs = whole.collect();
    let came = match stream.play(evidence).await? {
        // The code of the first reason, in brackets at its end.
        Came::Refused { said, .. } if said.contains('[') => {
            let first = said
                .split_once(']')
                .map_or(said.as_str(), |(first, _)| first);
            let code = first.rsplit_once('[').map_or("", |(_, code)| code);
            Came::refused(code, said.clone())
        }
        came => came,
    };
    tell(&args.tried, &args.expected, &came)
}

/// A stored statement, and its digest.
fn read(file: &std::path::Path) -> anyhow::Result<(Sha256Digest, v1::Statement)> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let stored = v1::StoredStatement::decode(bytes.as_slice())?;
    let evidence = stored.evidence.context("evidence")?;
    let statement = v1::Statement::decode(evidence.statement.as_slice())?;
    Ok((Sha256Digest::of(&[&evidence.statement]), statement))
}
