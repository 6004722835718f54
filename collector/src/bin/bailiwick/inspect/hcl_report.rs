//! `bailiwick inspect hcl-report`.

use std::path::PathBuf;

use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::crypto::PublicKey;
use bailiwick_attestation::cvm::hcl::{Hardware, HclReport, MAX_HCL_BYTES};
use bailiwick_attestation::cvm::snp::Report as Snp;

use super::file::{self, read};
use super::report::{Finding, Report};
use super::snp_report::{self, Keys};
use super::tpm_quote::{Ak, read_ak};

/// A public area, or PEM.
const AK_LIMIT: u64 = 16 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What Azure's paravisor laid into its vTPM: the content of NV index 0x01400001.
    #[arg(value_name = "FILE")]
    report: PathBuf,
    /// The key that signs the vTPM's quotes: TPMT_PUBLIC, TPM2B_PUBLIC, PEM or DER.
    #[arg(long, value_name = "FILE")]
    ak: Option<PathBuf>,
    #[command(flatten)]
    keys: Keys,
}

pub(super) fn inspect(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("hcl-report");
    let at = file::time(args.keys.at)?;
    let limit = u64::try_from(MAX_HCL_BYTES).unwrap_or(u64::MAX);
    let bytes = read(&args.report, limit, &mut report)?;
    let ak = match &args.ak {
        Some(path) => read(path, AK_LIMIT, &mut report)?,
        None => {
            let detail = "nobody says which key signs the quotes";
            report.warn(Finding::new("ak-not-given", detail));
            None
        }
    };
    let ak = ak.and_then(|bytes| read_ak(&bytes, &mut report));
    let Some(bytes) = bytes else {
        return Ok(report);
    };
    let hcl = match HclReport::parse(&bytes) {
        Ok(hcl) => hcl,
        Err(error) => {
            report.refuse(Finding::from_error("malformed", &error));
            return Ok(report);
        }
    };
    report.fact("hash", hcl.hash.to_string());
    runtime(&hcl, ak.as_ref().map(Ak::key), &mut report);
    match hcl.hardware {
        Hardware::SevSnp(bytes) => {
            report.fact("hardware", "sev-snp");
            match Snp::parse(bytes) {
                Ok(snp) => {
                    bound(&hcl, snp.report_data, &mut report);
                    level(snp.vmpl, &mut report);
                    snp_report::judge(&snp, &args.keys, at, &mut report)?;
                }
                Err(error) => report.refuse(Finding::from_error("malformed", &error)),
            }
        }
        Hardware::Tdx(td) => {
            report.fact("hardware", "tdx");
            bound(&hcl, td.report_data, &mut report);
            let detail = "a TD report: only its own processor can check it, or a quote made of it";
            report.undecided(Finding::new("quote-not-given", detail));
        }
        Hardware::None => {
            report.fact("hardware", "none");
            let detail = "the VM is no confidential one: nothing speaks for its vTPM";
            report.refuse(Finding::new("no-hardware", detail));
        }
        Hardware::Other(kind) => {
            report.fact("hardware", kind);
            let detail = "a report of a kind that cannot be checked here";
            report.undecided(Finding::new("hardware-unknown", detail));
        }
    }
    Ok(report)
}

fn runtime(hcl: &HclReport<'_>, ak: Option<&PublicKey>, report: &mut Report) {
    let runtime = match hcl.runtime() {
        Ok(runtime) => runtime,
        Err(error) => return report.refuse(Finding::from_error("malformed", &error)),
    };
    let digest = |key: &PublicKey| Sha256Digest::of(&[&key.to_spki_der()]).to_string();
    report.fact("ak", digest(&runtime.ak));
    if let Some(question) = runtime.question {
        report.fact("user_data", hex::encode(question));
    }
    if let Some(vm) = runtime.vm {
        report.fact("vm_id", vm);
    }
    if let Some(ak) = ak.filter(|ak| **ak != runtime.ak) {
        let detail = format!(
            "it names the AK with key {}, and the one given is {}",
            digest(&runtime.ak),
            digest(ak)
        );
        report.refuse(Finding::new("ak-mismatch", detail));
    }
}

/// The processor's report is about this text.
fn bound(hcl: &HclReport<'_>, found: &[u8; 64], report: &mut Report) {
    let want = hcl.report_data();
    report.fact("runtime_data_bound", *found == want);
    if *found != want {
        let (found, want) = (hex::encode(found), hex::encode(want));
        let detail = format!("the processor bound {found}, and the runtime data would be {want}");
        report.refuse(Finding::new("runtime-data", detail));
    }
}

/// From where a guest could ask, too, nothing is a paravisor's word.
fn level(vmpl: u32, report: &mut Report) {
    if vmpl != 0 {
        let detail = format!("VMPL {vmpl:#x} asked for it, and a paravisor asks at 0");
        report.refuse(Finding::new("vtpm-level", detail));
    }
}
