//! Statements signed while all was well, kept, and played when it is not.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bailiwick_agent::enroll::{self, Enrolment};
use bailiwick_agent::tpm::Tpm;
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::evidence::{Freshness, Nonce};
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
    /// SHA-256 of the last receipt, hex; all zero where the attacker has none
    #[arg(long)]
    receipt: Option<String>,
    /// Seconds between signing and playing: longer than a lease lasts
    #[arg(long)]
    wait: u64,
    /// A program that spoils the machine between signing and playing, and its arguments
    #[arg(last = true)]
    spoil: Vec<String>,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let config = super::config(&args.config)?;
    let bytes = std::fs::read(&args.stored).context("read the newest statement")?;
    let stored = v1::StoredStatement::decode(bytes.as_slice())?;
    let newest = stored.evidence.context("evidence")?;
    let last = v1::Statement::decode(newest.statement.as_slice())?;
    let last_receipt = match &args.receipt {
        Some(hex) => Sha256Digest::try_from(hex.clone())?,
        None => Sha256Digest([0; 32]),
    };
    let enrolment = Enrolment::read(&enroll::file(&config))?.context("no certificate")?;
    let tpm = Tpm::open(config.tpm_settings()).context("open the TPM")?;
    let mut stream = Conversation::open(&config, &tpm, enrolment.chain).await?;

    // All is well: the TPM signs what it is asked to sign.
    let mut before = Sha256Digest::of(&[&newest.statement]);
    let mut next = |number: u64| {
        let statement = v1::Statement {
            sequence: last.sequence + number,
            previous: Some(before.as_bytes().to_vec()),
            ..last.clone()
        };
        before = Sha256Digest::of(&[&statement.encode_to_vec()]);
        statement
    };
    let first = next(1);
    // What the fence put in force stays true, and travels with each of them.
    let log = v1::Log {
        name: "fence".to_owned(),
        content: std::fs::read(&config.fence.log).context("read the fence's log")?,
        ..v1::Log::default()
    };
    let mut answered = quote(&tpm, &first, Freshness::Challenged(stream.nonce)).await?;
    answered.logs.push(log.clone());
    let guessed = quote(&tpm, &first, Freshness::Challenged(Nonce::new([3; 32]))).await?;
    let mut kept = Vec::new();
    for number in 1..=5 {
        let freshness = Freshness::Unchallenged {
            last_receipt,
            number,
        };
        let mut evidence = quote(&tpm, &next(number + 1), freshness).await?;
        evidence.logs.push(log.clone());
        kept.push(evidence);
    }

    // And is no more.
    let (program, words) = args
        .spoil
        .split_first()
        .context("nothing spoils the machine")?;
    let spoilt = std::process::Command::new(program).args(words).output()?;
    anyhow::ensure!(spoilt.status.success(), "{program} failed");
    tokio::time::sleep(Duration::from_secs(args.wait)).await;

    let came = stream.play(guessed).await?;
    tell(
        "signed in advance for a challenge that was guessed",
        "nonce-unknown",
        &came,
    )?;
    let came = stream.play(answered).await?;
    let tried = format!(
        "an answer to an open challenge, held back for {} s",
        args.wait
    );
    tell(&tried, "nonce-expired", &came)?;
    for (place, evidence) in kept.into_iter().enumerate() {
        let came = stream.play(evidence).await?;
        let tried = format!("signed in advance as if out of reach, number {}", place + 1);
        tell(&tried, "no-standing", &came)?;
    }
    let came = stream.say(&tpm, &next(7)).await?;
    tell(
        "an honest answer of the spoilt machine",
        "no-standing",
        &came,
    )
}
