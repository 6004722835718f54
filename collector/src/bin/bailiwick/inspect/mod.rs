//! `bailiwick inspect KIND FILE…`: reads one piece of evidence with no collector and no network.
//!
//! Whatever is wrong is said, not only the first thing found: whoever is on call sees all of it
//! at once. The library decides; nothing here accepts what the library refuses.

mod crls;
mod ek_cert;
mod file;
mod gpu;
mod gpu_chain;
mod gpu_facts;
mod gpu_lines;
mod gpu_rim;
mod hcl_report;
mod ima;
mod report;
mod snp_report;
mod tcg_eventlog;
mod tdx_quote;
mod tpm_quote;

use clap::Subcommand;

use crate::{Exit, Output};

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    kind: Kind,
    /// How the result is printed.
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// An EK certificate: the path to a maker's root.
    EkCert(ek_cert::Args),
    /// Reports of GPUs and switches: signature, path to NVIDIA's root, firmware, challenge, set.
    Gpu(gpu::Args),
    /// A certificate of a GPU, a switch or NVIDIA's: the path to NVIDIA's root for devices.
    GpuChain(gpu_chain::Args),
    /// Reference values (RIM) of a GPU or switch: signature, path to NVIDIA's root, what they are for.
    GpuRim(gpu_rim::Args),
    /// What Azure's paravisor says of its vTPM: the processor's report, and the AK it binds.
    HclReport(hcl_report::Args),
    /// An IMA measurement list: structure, replay, where a quoted value stands in it.
    Ima(ima::Args),
    /// An SEV-SNP attestation report: signature, chip, firmware versions, path to AMD's root.
    SnpReport(snp_report::Args),
    /// A boot event log: structure, replay, what its events may be believed for.
    TcgEventlog(tcg_eventlog::Args),
    /// A TDX quote: signatures up to Intel's root and, with collateral, what its firmware is worth.
    TdxQuote(tdx_quote::Args),
    /// A TPM quote: signature, challenge, PCR values.
    TpmQuote(tpm_quote::Args),
}

/// Reads the evidence, prints what it is worth, and says so in the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let report = match &args.kind {
        Kind::EkCert(args) => ek_cert::inspect(args)?,
        Kind::Gpu(args) => gpu::inspect(args)?,
        Kind::GpuChain(args) => gpu_chain::inspect(args)?,
        Kind::GpuRim(args) => gpu_rim::inspect(args)?,
        Kind::HclReport(args) => hcl_report::inspect(args)?,
        Kind::Ima(args) => ima::inspect(args)?,
        Kind::SnpReport(args) => snp_report::inspect(args)?,
        Kind::TcgEventlog(args) => tcg_eventlog::inspect(args)?,
        Kind::TdxQuote(args) => tdx_quote::inspect(args)?,
        Kind::TpmQuote(args) => tpm_quote::inspect(args)?,
    };
    report.print(args.output)?;
    Ok(report.exit())
}
