//! Root rewrites the node's own log between two quotes. The TPM signs whatever root wants; the log is
//! what root says it is.

use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_agent::enroll::{self, Enrolment};
use bailiwick_agent::tpm::Tpm;
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::evidence::Freshness;
use bailiwick_attestation::proto::v1;
use prost::Message as _;

use super::tries::tell;
use super::wire::{Conversation, quote};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node's agent configuration: TPM, certificate and all are the attacker's
    #[arg(long)]
    config: PathBuf,
    /// The node's newest statement, as `bailiwick node statement` wrote it
    #[arg(long)]
    stored: PathBuf,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let config = super::config(&args.config)?;
    let bytes = std::fs::read(&args.stored).context("read the newest statement")?;
    let stored = v1::StoredStatement::decode(bytes.as_slice())?;
    let newest = stored.evidence.context("evidence")?;
    let last = v1::Statement::decode(newest.statement.as_slice())?;
    let head = last.log.clone().context("the statement names no log")?;
    anyhow::ensure!(head.size > 1, "nothing was logged yet");
    let enrolment = Enrolment::read(&enroll::file(&config))?.context("no certificate")?;
    let tpm = Tpm::open(config.tpm_settings()).context("open the TPM")?;
    let mut stream = Conversation::open(&config, &tpm, enrolment.chain).await?;

    let other = |size: u64| v1::LogHead {
        size,
        root: Sha256Digest::of(&[b"a milder story"]).as_bytes().to_vec(),
    };
    let proof = |from_size: u64, hashes: usize| {
        Some(v1::LogConsistency {
            from_size,
            path: vec![vec![7; 32]; hashes],
        })
    };
    let mut edited = head.clone();
    *edited.root.first_mut().context("an empty root")? ^= 1;
    let rows = [
        (
            "the last entry cut off",
            other(head.size - 1),
            None,
            "log-rewritten",
        ),
        (
            "every entry but the first cut off",
            other(1),
            None,
            "log-rewritten",
        ),
        (
            "one entry made milder, the size kept",
            edited,
            None,
            "log-rewritten",
        ),
        (
            "a milder log goes on, with no proof",
            other(head.size + 1),
            None,
            "log-unproven",
        ),
        (
            "a milder log goes on, with a made-up proof",
            other(head.size + 1),
            proof(head.size, 5),
            "log-rewritten",
        ),
        (
            "a milder log goes on, with a proof from another size",
            other(head.size + 1),
            proof(head.size - 1, 5),
            "log-unproven",
        ),
    ];
    for (tried, log, log_consistency, expected) in rows {
        let statement = v1::Statement {
            sequence: last.sequence + 1,
            previous: Some(Sha256Digest::of(&[&newest.statement]).as_bytes().to_vec()),
            log: Some(log),
            ..last.clone()
        };
        let mut evidence = quote(&tpm, &statement, Freshness::Challenged(stream.nonce)).await?;
        evidence.log_consistency = log_consistency;
        let came = stream.play(evidence).await?;
        tell(tried, expected, &came)?;
    }
    Ok(())
}
