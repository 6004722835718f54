//! `bailiwick inspect ek-cert`.

use std::path::PathBuf;

use bailiwick_attestation::tpm::{EkChain, read_leaf, tpm_identity};
use bailiwick_attestation::x509::{Bundle, Certificate};
use serde_json::Value;

use super::file::{self, read};
use super::report::{Finding, Report};

/// One certificate and, in PEM, a few that vouch for it.
const LEAF_LIMIT: u64 = 256 * 1024;
/// Every CA of every maker is a third of a megabyte.
const BUNDLE_LIMIT: u64 = 4 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The certificate: DER as read from NV, padding included, or PEM.
    #[arg(value_name = "FILE")]
    certificate: PathBuf,
    /// Certificates of the roots that are trusted: PEM or DER. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    roots: Vec<PathBuf>,
    /// Certificates that may stand between: PEM or DER, any order. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    intermediates: Vec<PathBuf>,
    /// The time at which every certificate has to be valid, seconds since 1970. Default: now.
    #[arg(long, value_name = "UNIX")]
    at: Option<u64>,
}

pub(super) fn inspect(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("ek-cert");
    let at = file::time(args.at)?;
    let leaf = read(&args.certificate, LEAF_LIMIT, &mut report)?;
    let roots = bundles(&args.roots, true, &mut report)?;
    let intermediates = bundles(&args.intermediates, false, &mut report)?;
    let Some(leaf) = leaf else {
        return Ok(report);
    };
    if let Ok((certificate, _)) = read_leaf(&leaf) {
        leaf_facts(&certificate, &mut report);
    }
    match EkChain::verify(&leaf, &intermediates, &roots, at) {
        Ok(chain) => {
            let names = chain.path().iter().map(|c| c.subject().common_name());
            report.fact("chain", names.map(Value::from).collect::<Vec<_>>());
        }
        Err(error) => report.refuse(Finding::from_error(error.code(), &error)),
    }
    Ok(report)
}

fn leaf_facts(certificate: &Certificate, report: &mut Report) {
    let identity = tpm_identity(certificate);
    for (fact, value) in [
        ("subject_manufacturer", identity.manufacturer),
        ("subject_model", identity.model),
        ("subject_version", identity.version),
    ] {
        if let Some(value) = value {
            report.fact(fact, value);
        }
    }
    if let Ok(key) = certificate.key() {
        report.fact("key", key.kind());
    }
    report.fact("not_before", certificate.not_before().secs());
    report.fact("not_after", certificate.not_after().secs());
}

/// Certificates of all these files. A file of roots that cannot be read is refused; one of
/// intermediates is of no help, and no harm.
fn bundles(
    paths: &[PathBuf],
    roots: bool,
    report: &mut Report,
) -> anyhow::Result<Vec<Certificate>> {
    let mut all = Vec::new();
    for path in paths {
        let Some(bytes) = read(path, BUNDLE_LIMIT, report)? else {
            continue;
        };
        match Bundle::parse(&bytes) {
            Ok(bundle) => {
                for (place, error) in &bundle.unreadable {
                    let mut finding = Finding::from_error("certificate-unreadable", error);
                    finding.prefix(&format!("{}, certificate {place}", path.display()));
                    report.warn(finding);
                }
                all.extend(bundle.certificates);
            }
            Err(error) => {
                let mut finding = Finding::from_error("malformed", &error);
                finding.prefix(&path.display().to_string());
                if roots {
                    report.refuse(finding);
                } else {
                    report.warn(finding);
                }
            }
        }
    }
    Ok(all)
}
