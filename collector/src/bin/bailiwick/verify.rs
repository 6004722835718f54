//! `verify FILE`: appraises a stored statement again, offline.

use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_attestation::appraisal::Status;
use bailiwick_attestation::gpu::Endorsements;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{DeploymentId, UnixTime};
use bailiwick_collector::direct::read_approvers;
use bailiwick_collector::endorsements;
use bailiwick_collector::enroll::read_all;
use bailiwick_collector::verify::{Anchors, Outcome, Report, verify};
use prost::Message as _;
use serde_json::json;

use crate::Exit;
use crate::format::{Format, Listing, print, time};
use crate::policy::read_bundle;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What `bailiwick node statement` wrote.
    file: PathBuf,
    /// OpenSSH `allowed_signers` file of the approvers.
    #[arg(long)]
    approvers: PathBuf,
    /// How many of them must have signed the policy.
    #[arg(long)]
    threshold: u32,
    /// Whose record it is to be.
    #[arg(long)]
    deployment: String,
    /// PEM files with the roots of TPM makers.
    #[arg(long, num_args = 1..)]
    roots: Vec<PathBuf>,
    /// PEM files with intermediates.
    #[arg(long, num_args = 1..)]
    intermediates: Vec<PathBuf>,
    /// PEM files with the roots of device makers, whose IAK certificates vouch for AKs.
    #[arg(long, num_args = 1..)]
    iak_roots: Vec<PathBuf>,
    /// PEM files with intermediates of those.
    #[arg(long, num_args = 1..)]
    iak_intermediates: Vec<PathBuf>,
    /// A folder with the newest policy you know, signed: which keys of the log are revoked since.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// A folder that `bailiwick endorsements import` filled: reference values of GPUs.
    #[arg(long, value_name = "FOLDER")]
    endorsements: Option<PathBuf>,
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let bytes = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
    let stored = match v1::StoredStatement::decode(bytes.as_slice()) {
        Ok(stored) => stored,
        Err(error) => {
            eprintln!(
                "bailiwick: {}: StoredStatement: {error}",
                args.file.display()
            );
            return Ok(Exit::Refused);
        }
    };
    let deployment = DeploymentId::new(&args.deployment)?;
    let approvers = read_approvers(&args.approvers, args.threshold)?;
    let (roots, intermediates) = (read_all(&args.roots)?, read_all(&args.intermediates)?);
    let iak_roots = read_all(&args.iak_roots)?;
    let iak_intermediates = read_all(&args.iak_intermediates)?;
    let keys = args.policy.as_deref().map(read_bundle).transpose()?;
    let at = UnixTime(stored.received_ms);
    let endorsements = match &args.endorsements {
        Some(folder) => {
            let read = endorsements::read(folder, at);
            read.with_context(|| folder.display().to_string())?
                .endorsements
        }
        None => Endorsements::default(),
    };
    let report = verify(
        &stored,
        &Anchors {
            deployment: &deployment,
            approvers: &approvers,
            roots: &roots,
            intermediates: &intermediates,
            iak_roots: &iak_roots,
            iak_intermediates: &iak_intermediates,
            keys: keys.as_ref(),
            endorsements: &endorsements,
        },
    );
    show(&report, args.output)?;
    Ok(match (report.outcome(), report.verdict) {
        (Outcome::Refused, _) => Exit::Refused,
        (Outcome::Undecided, _) | (Outcome::Ok, None | Some(Status::None)) => Exit::CouldNotTell,
        (Outcome::Ok, Some(Status::Affirming)) => Exit::Good,
        (Outcome::Ok, Some(Status::Warning | Status::Contraindicated)) => Exit::NotTrusted,
    })
}

fn show(report: &Report, format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        return print(&format!("{}\n", serde_json::to_string_pretty(report)?));
    }
    let checks = Listing {
        columns: &["check", "outcome", "detail"],
        rows: report
            .checks
            .iter()
            .map(|check| json!({"check": check.name, "outcome": check.outcome, "detail": check.detail}))
            .collect(),
    };
    if format == Format::Csv {
        return checks.print(format);
    }
    let verdict = report
        .verdict
        .map_or_else(|| "not appraised".to_owned(), |status| status.to_string());
    print(&format!(
        "{}: {verdict}, received {}\nak: {}\n\n",
        report.node.as_deref().unwrap_or("unknown node"),
        time(report.received_ms),
        report.ak,
    ))?;
    checks.print(format)?;
    for reason in &report.reasons {
        print(&format!("  {reason}\n"))?;
    }
    Ok(())
}
