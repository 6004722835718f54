//! `bailiwick inspect gpu-rim`.

use std::path::{Path, PathBuf};

use bailiwick_attestation::gpu::Anchors;
use bailiwick_attestation::gpu::rim::{self, Checked, MAX_RIM_FILE};
use bailiwick_attestation::x509::{Bundle, Certificate};
use serde_json::{Map, Value};

use super::file::{self, read};
use super::report::{Finding, Report};

/// A root or a few.
const ROOTS_LIMIT: u64 = 256 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The RIM: XML, base64 of it, or the JSON of NVIDIA's RIM service.
    #[arg(value_name = "FILE")]
    rim: PathBuf,
    /// Certificates of the roots that are trusted instead of the one built in: PEM or DER.
    /// Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    roots: Vec<PathBuf>,
    /// The time at which the signer and the CAs above it have to be valid, seconds since 1970.
    /// Default: now.
    #[arg(long, value_name = "UNIX")]
    at: Option<u64>,
}

pub(super) fn inspect(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("gpu-rim");
    let at = file::time(args.at)?;
    let limit = u64::try_from(MAX_RIM_FILE).unwrap_or(u64::MAX);
    let bytes = read(&args.rim, limit, &mut report)?;
    let anchors = if args.roots.is_empty() {
        Anchors::rim()
    } else {
        let mut roots = Vec::new();
        for path in &args.roots {
            roots.extend(certificates(path, &mut report)?);
        }
        Anchors::of(&roots)
    };
    let Some(bytes) = bytes else {
        return Ok(report);
    };
    let checked = rim::check(&bytes, &anchors, at);
    if let Some(facts) = facts(&checked) {
        report.fact("rim", facts);
    }
    for why in &checked.refusals {
        report.refuse(Finding::from_error(why.code(), why));
    }
    Ok(report)
}

/// What can be said of it: the outcome of each check, and what it says only if that was signed.
fn facts(checked: &Checked) -> Option<Map<String, Value>> {
    let mut facts = Map::new();
    let mut fact = |name: &str, value: Value| facts.insert(name.to_owned(), value);
    let word = |good| Value::from(if good { "ok" } else { "bad" });
    fact("signature", word(checked.signature?));
    fact("chain", word(checked.chain?));
    fact("signer_valid", checked.signer_valid?.into());
    fact("sha256", checked.digest.to_string().into());
    if let Some(signer) = checked.certificates.first() {
        fact("signer", signer.subject().label().into());
        fact("not_before", signer.not_before().secs().into());
        fact("not_after", signer.not_after().secs().into());
    }
    if let Some(rim) = checked.content() {
        fact("id", rim.id.as_str().into());
        fact("product", rim.product.as_str().into());
        fact("edition", rim.edition.as_str().into());
        fact("version", rim.version.as_str().into());
        fact("active", rim.golden.len().into());
        let indices = rim.golden.iter().map(|golden| golden.index);
        fact("indices", indices.collect::<Vec<u8>>().into());
    }
    Some(facts)
}

/// Roots of one file; refused where none can be read.
fn certificates(path: &Path, report: &mut Report) -> anyhow::Result<Vec<Certificate>> {
    let Some(bytes) = read(path, ROOTS_LIMIT, report)? else {
        return Ok(Vec::new());
    };
    let refuse = |report: &mut Report, mut finding: Finding| {
        finding.prefix(&path.display().to_string());
        report.refuse(finding);
    };
    match Bundle::parse(&bytes) {
        Ok(bundle) => {
            for (_, error) in &bundle.unreadable {
                refuse(report, Finding::from_error("certificate-unreadable", error));
            }
            Ok(bundle.certificates)
        }
        Err(error) => {
            refuse(report, Finding::from_error("malformed", &error));
            Ok(Vec::new())
        }
    }
}
