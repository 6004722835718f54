//! `profile capture|diff|merge|plan`: the validated stack, drafted from what good nodes showed, compared,
//! and tried on what is recorded.

mod capture;
mod diff;
mod merge;
pub(crate) mod plan;

use anyhow::Context as _;
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::appraisal::{TpmKind, VerifiedEvidence};
use bailiwick_attestation::profile::Profile;
use bailiwick_attestation::proto::v1;
use bailiwick_collector::recorded::recorded;
use clap::Subcommand;
use tonic::Status;

use crate::Exit;
use crate::client::{BytesRefused, Connection, block_on};

/// Arguments of `profile`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drafts a profile from the recorded evidence of good nodes.
    Capture(capture::Args),
    /// Says what the second profile allows that the first does not, and the reverse.
    Diff(diff::Args),
    /// Makes one profile of two for the time of an update: the second, and until a date what the first
    /// allows besides.
    Merge(merge::Args),
    /// Says which nodes would turn under a new profile, and why, by what they showed last.
    Plan(plan::Args),
}

/// Runs `profile …`.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Capture(capture) => capture::run(&args.connection, capture),
        Command::Diff(args) => diff::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Plan(plan) => plan::run(&args.connection, plan),
    }
}

/// Where no policy is in force: terms to begin with.
pub(crate) const TERMS: &str = "name = \"draft\"\nlease_seconds = 300\nmax_silence_seconds = 180\n\
                                [tpm]\nbank = \"sha256\"\nrequire = [0]\n";

/// A statement of the record that its AK spoke.
pub(crate) struct Evidence {
    /// Inventory name, else `ek-…`.
    pub(crate) node: String,
    /// When it came.
    pub(crate) at: UnixTime,
    /// What its TPM is, by its certificate alone.
    pub(crate) tpm: TpmKind,
    pub(crate) verified: VerifiedEvidence,
}

/// What was recorded of one node.
#[derive(Default)]
pub(crate) struct Record {
    /// In the order asked for.
    pub(crate) evidence: Vec<Evidence>,
    /// The profile in force; `None`: no policy is.
    pub(crate) profile: Option<Profile>,
}

/// Fetches it and verifies each statement again. A statement that is not its AK's is refused: the
/// record is not what it says.
pub(crate) fn fetch(
    connection: &Connection,
    request: v1::ListEvidenceRequest,
) -> anyhow::Result<Result<Record, Status>> {
    let messages = block_on(async {
        let mut client = connection.open().await?;
        let mut messages = Vec::new();
        let mut answers = match client.list_evidence(request).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            match answers.message().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return Ok(Ok(messages)),
                Err(status) => return Ok(Err(status)),
            }
        }
    })?;
    let messages: Vec<v1::RecordedEvidence> = match messages {
        Ok(messages) => messages,
        Err(status) => return Ok(Err(status)),
    };
    let mut record = Record::default();
    for message in messages {
        if !message.profile.is_empty() {
            let profile = Profile::parse("profile.toml in force", &message.profile)?;
            record.profile = Some(profile);
        }
        let stored = message.statement.context("the answer has no statement")?;
        // Approvers may know better than the certificate; whether it is so is not verified here.
        let tpm = stored
            .enrolment
            .as_ref()
            .map_or(TpmKind::Virtual, |enrolment| {
                TpmKind::of_chain(&enrolment.ek_chain)
            });
        let (_, verified) = recorded(&stored).map_err(|refused| BytesRefused {
            code: refused.code(),
            detail: format!("{}: {:#}", message.node, anyhow::Error::from(refused)),
        })?;
        record.evidence.push(Evidence {
            node: message.node,
            at: UnixTime(stored.received_ms),
            tpm,
            verified,
        });
    }
    Ok(Ok(record))
}
