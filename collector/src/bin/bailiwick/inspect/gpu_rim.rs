//! `bailiwick inspect gpu-rim`.

use std::path::PathBuf;

use bailiwick_attestation::gpu::Anchors;
use bailiwick_attestation::gpu::rim::{self, Checked, MAX_RIM_FILE};
use serde_json::{Map, Value};

use super::file::{self, read};
use super::gpu_chain::roots;
use super::report::{Finding, Report};

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
    let anchors = match roots(&args.roots, &mut report)? {
        Some(anchors) => anchors,
        None => Anchors::rim(),
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
