//! `bailiwick inspect tdx-quote`.

use std::path::PathBuf;

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::cvm::tdx::{
    self, Certified, Collateral, Endorsements, MAX_COLLATERAL_BYTES, MAX_QUOTE_BYTES, Quote, Tcb,
    TcbStatus, TdxRefused,
};

use super::file::{self, read};
use super::report::{Finding, Report};

/// How long before collateral ends it is said: Intel renews it every thirty days.
const SOON_MS: u64 = 7 * 24 * 60 * 60 * 1000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The quote, as the quoting enclave made it; zero bytes may follow.
    #[arg(value_name = "FILE")]
    quote: PathBuf,
    /// What Intel publishes of this processor: one JSON object of TCB info, identity of the quoting
    /// enclave, revocation lists and their issuers.
    #[arg(long, value_name = "FILE")]
    collateral: Option<PathBuf>,
    /// The time at which certificates and collateral have to be good, seconds since 1970.
    /// Default: now.
    #[arg(long, value_name = "UNIX")]
    at: Option<u64>,
}

pub(super) fn inspect(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("tdx-quote");
    let at = file::time(args.at)?;
    let bytes = read(&args.quote, limit(MAX_QUOTE_BYTES), &mut report)?;
    let collateral = match &args.collateral {
        Some(path) => read(path, limit(MAX_COLLATERAL_BYTES), &mut report)?,
        None => {
            let detail = "nothing says which firmware is current, or what was revoked";
            report.undecided(Finding::new("collateral-not-given", detail));
            None
        }
    };
    let collateral = collateral.and_then(|bytes| {
        let read = Collateral::parse(&bytes);
        read.map_err(|error| report.refuse(Finding::from_error("collateral-malformed", &error)))
            .ok()
    });
    let Some(bytes) = bytes else {
        return Ok(report);
    };
    let quote = match Quote::parse(&bytes) {
        Ok(quote) => quote,
        Err(error) => {
            report.refuse(Finding::from_error("malformed", &error));
            return Ok(report);
        }
    };
    facts(&quote, &mut report);
    let endorsements = collateral
        .as_ref()
        .and_then(|collateral| taken(tdx::endorse(collateral, at), &mut report));
    let kept = collateral
        .as_ref()
        .and_then(|collateral| collateral.pck_certificate_chain.as_ref());
    let certified = match quote.pck_chain.as_ref().or(kept) {
        Some(chain) => taken(tdx::verify(&quote, chain, at), &mut report),
        None => {
            let detail = "neither quote nor collateral has the certificate of the processor's key";
            report.undecided(Finding::new("pck-certificate-not-given", detail));
            None
        }
    };
    if let Some(certified) = &certified {
        processor(certified, &mut report);
    }
    if let Some(endorsements) = &endorsements {
        ends(endorsements, at, &mut report);
    }
    if let (Some(certified), Some(endorsements)) = (&certified, &endorsements)
        && let Some(tcb) = taken(tdx::evaluate(certified, endorsements), &mut report)
    {
        firmware(&tcb, &mut report);
    }
    Ok(report)
}

fn limit(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// What was concluded; every refusal is told.
fn taken<T>(outcome: Result<T, Vec<TdxRefused>>, report: &mut Report) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(refused) => {
            for why in refused {
                report.refuse(Finding::from_error(why.code(), &why));
            }
            None
        }
    }
}

fn facts(quote: &Quote<'_>, report: &mut Report) {
    let body = &quote.body;
    report.fact("version", quote.version);
    report.fact("qe_vendor_id", hex::encode(quote.qe_vendor_id));
    report.fact("qe_svn", quote.qe_report.isv_svn);
    report.fact("tee_tcb_svn", hex::encode(body.tee_tcb_svn));
    report.fact("mrseam", hex::encode(body.mr_seam));
    report.fact("mrsignerseam", hex::encode(body.mr_signer_seam));
    report.fact("seam_attributes", hex::encode(body.seam_attributes));
    report.fact("td_attributes", hex::encode(body.td_attributes));
    report.fact("debug", body.debug());
    report.fact("xfam", hex::encode(body.xfam));
    report.fact("mrtd", hex::encode(body.mr_td));
    report.fact("mrconfigid", hex::encode(body.mr_config_id));
    report.fact("mrowner", hex::encode(body.mr_owner));
    report.fact("mrownerconfig", hex::encode(body.mr_owner_config));
    let rtmr: Vec<String> = body.rtmr.iter().map(hex::encode).collect();
    report.fact("rtmr", rtmr);
    report.fact("report_data", hex::encode(body.report_data));
    if let Some(svn) = body.tee_tcb_svn2 {
        report.fact("tee_tcb_svn2", hex::encode(svn));
    }
    if let Some(service) = body.mr_service_td {
        report.fact("mrservicetd", hex::encode(service));
    }
    if let Some(id) = body.td_id {
        report.fact("td_id", hex::encode(id));
    }
    if let Some(vmid) = body.vmid {
        report.fact("vmid", vmid);
    }
    if body.vmid.is_some_and(|vmid| vmid != 0) {
        let detail = "a partition of the guest asked, not the guest itself";
        report.warn(Finding::new("partition", detail));
    }
    if body.debug() {
        let detail = "the guest's attributes let its host read it";
        report.warn(Finding::new("debug-allowed", detail));
    }
}

fn processor(certified: &Certified<'_>, report: &mut Report) {
    report.fact("fmspc", hex::encode(certified.pck.fmspc));
    report.fact("pce_id", hex::encode(certified.pck.pce_id));
    report.fact("pce_svn", certified.pck.pce_svn);
    report.fact("cpu_svn", hex::encode(certified.pck.components));
}

fn ends(endorsements: &Endorsements, at: UnixTime, report: &mut Report) {
    report.fact("collateral_until", endorsements.until.secs());
    let left = endorsements.until.since(at);
    if left < SOON_MS {
        let detail = format!("the collateral ends in {} hours", left / 3_600_000);
        report.warn(Finding::new("collateral-ends-soon", detail));
    }
}

fn firmware(tcb: &Tcb, report: &mut Report) {
    report.fact("tcb_status", tcb.status.name());
    report.fact("tcb_platform", tcb.platform.name());
    report.fact("tcb_module", tcb.module.map(TcbStatus::name));
    report.fact("tcb_qe", tcb.qe.name());
    report.fact("advisories", tcb.advisories.clone());
    report.fact("tcb_evaluation", tcb.evaluation);
    report.fact("qe_evaluation", tcb.qe_evaluation);
    if tcb.status != TcbStatus::UpToDate {
        let detail = format!(
            "{} (platform {}, TDX module {}, quoting enclave {})",
            tcb.status.name(),
            tcb.platform.name(),
            tcb.module.map_or("listed with it", TcbStatus::name),
            tcb.qe.name()
        );
        report.warn(Finding::new("tcb-status", detail));
    }
}
