//! `bailiwick inspect snp-report`.

use std::path::PathBuf;

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::cvm::snp::{self, Endorsement, Report as Snp};
use bailiwick_attestation::x509::Certificate;

use super::file::{self, read};
use super::report::{Finding, Report};

/// A report has 1184 bytes.
const REPORT_LIMIT: u64 = 16 * 1024;
/// Certificates of the whole chain.
const CHAIN_LIMIT: u64 = 256 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `ATTESTATION_REPORT`, as the firmware returned it.
    #[arg(value_name = "FILE")]
    report: PathBuf,
    #[command(flatten)]
    keys: Keys,
}

/// What vouches for a report, and when.
#[derive(Debug, clap::Args)]
pub(super) struct Keys {
    /// Certificate of the chip's key.
    #[arg(long, value_name = "FILE", conflicts_with = "vlek")]
    vcek: Option<PathBuf>,
    /// Certificate of the cloud provider's key.
    #[arg(long, value_name = "FILE")]
    vlek: Option<PathBuf>,
    /// Certificates between the key and AMD's root, and the root: PEM or DER. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    chain: Vec<PathBuf>,
    /// The time at which every certificate has to be valid, seconds since 1970. Default: now.
    #[arg(long, value_name = "UNIX")]
    pub(super) at: Option<u64>,
}

pub(super) fn inspect(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("snp-report");
    let at = file::time(args.keys.at)?;
    let Some(bytes) = read(&args.report, REPORT_LIMIT, &mut report)? else {
        return Ok(report);
    };
    match Snp::parse(&bytes) {
        Ok(snp) => judge(&snp, &args.keys, at, &mut report)?,
        Err(error) => report.refuse(Finding::from_error("malformed", &error)),
    }
    Ok(report)
}

/// Says what stands in a report, and holds it against the keys.
pub(super) fn judge(
    snp: &Snp<'_>,
    keys: &Keys,
    at: UnixTime,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut chain = Vec::new();
    for path in &keys.chain {
        chain.extend(file::certificates(path, CHAIN_LIMIT, report)?);
    }
    let (endorsement, key) = match (&keys.vcek, &keys.vlek) {
        (Some(path), _) => (Endorsement::Vcek, Some(path)),
        (None, Some(path)) => (Endorsement::Vlek, Some(path)),
        (None, None) => (Endorsement::Vcek, None),
    };
    let key = match key {
        Some(path) => file::certificates(path, CHAIN_LIMIT, report)?
            .into_iter()
            .next(),
        None => {
            let detail = "no VCEK or VLEK to check the signature with";
            report.undecided(Finding::new("key-not-given", detail));
            None
        }
    };
    facts(snp, report);
    if let Some(key) = key {
        check(snp, endorsement, &key, &chain, at, report);
    }
    Ok(())
}

fn facts(snp: &Snp<'_>, report: &mut Report) {
    report.fact("version", snp.version);
    report.fact("vmpl", snp.vmpl);
    report.fact("guest_svn", snp.guest_svn);
    report.fact("policy", format!("{:016x}", snp.policy));
    report.fact("debug", snp.debug());
    report.fact("platform_info", format!("{:016x}", snp.platform_info));
    report.fact("chip_id", hex::encode(snp.chip_id));
    report.fact("measurement", hex::encode(snp.measurement));
    report.fact("report_data", hex::encode(snp.report_data));
    report.fact("host_data", hex::encode(snp.host_data));
    report.fact("id_key_digest", hex::encode(snp.id_key_digest));
    report.fact("family_id", hex::encode(snp.family_id));
    report.fact("image_id", hex::encode(snp.image_id));
    report.fact("report_id", hex::encode(snp.report_id));
    for (name, tcb) in [
        ("reported_tcb", snp.reported_tcb),
        ("current_tcb", snp.current_tcb),
        ("committed_tcb", snp.committed_tcb),
        ("launch_tcb", snp.launch_tcb),
    ] {
        report.fact(name, hex::encode(tcb.0));
    }
    if snp.debug() {
        let detail = "the guest's policy lets its host read it";
        report.warn(Finding::new("debug-allowed", detail));
    }
    if snp.hides_chip() {
        let detail = "the host hides which chip this is";
        report.warn(Finding::new("chip-masked", detail));
    }
}

fn check(
    snp: &Snp<'_>,
    endorsement: Endorsement,
    key: &Certificate,
    chain: &[Certificate],
    at: UnixTime,
    report: &mut Report,
) {
    match snp::verify(snp, endorsement, key, chain, at) {
        Ok(product) => report.fact("product", product.name()),
        Err(refused) => {
            for why in refused {
                report.refuse(Finding::from_error(why.code(), &why));
            }
        }
    }
}
