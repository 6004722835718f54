//! A real report, recorded and replayed by the ABI double of NVML: everything in it is genuine but
//! the challenge it answers.
//!
//! The report stands in the shared vectors, beside the checkout or where `BAILIWICK_VECTORS` says;
//! without them the trial is listed as ignored.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bailiwick_agent::collect::gpu::ask;
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::gpu::{
    Anchors, Checked, DeviceRefused, Evidence, judge, parse_evidence, unpack_report,
};
use bailiwick_attestation::x509::Bundle;
use bailiwick_nvml_double::{Recorded, Staged, library};
use libtest_mimic::{Arguments, Failed, Trial};

const NAME: &str = "a_recorded_report_answers_no_challenge";
const NONCE: [u8; 32] = [0x5a; 32];
/// 2026-01-01.
const AT: UnixTime = UnixTime::from_secs(1_767_225_600);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let vectors = std::env::var_os("BAILIWICK_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"),
        PathBuf::from,
    );
    let folder = vectors.join("gpu/hopper-550.90.07");
    let absent = !folder.is_dir();
    let trial = Trial::test(NAME, move || {
        replay(&folder).map_err(|error| Failed::from(format!("{error:#}")))
    });
    let trials = vec![trial.with_ignored_flag(absent)];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn replay(folder: &Path) -> anyhow::Result<()> {
    let report = fs::read(folder.join("report.hex"))?;
    let report = unpack_report(&report)?;
    let chain = fs::read(folder.join("chain.pem"))?;
    let scratch = tempfile::tempdir()?;
    let mut double = Staged::new(&library()?, scratch.path())?;
    double.add_recorded(
        1,
        Recorded {
            report: &report,
            chain: &chain,
        },
    )?;
    double.write()?;
    let here = std::env::current_exe()?;
    let agent = here.ancestors().nth(2).context("a target folder")?;
    let agent = agent.join("bailiwick-agent");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let patience = Duration::from_secs(30);
    let collected = runtime.block_on(ask(agent, Some(&double.path()), NONCE, patience));
    ensure!(collected.stopped.is_none(), "{:?}", collected.stopped);
    let stored = parse_evidence(&serde_json::to_vec(&collected)?)?;
    let stored = stored.first().context("one device")?;
    ensure!(stored.report == *report && stored.chain == chain);
    let chain = Bundle::parse(&stored.chain)?;
    let evidence = Evidence {
        report: &stored.report,
        chain: Some(&chain),
        stated_nonce: None,
    };
    let judged = judge(evidence, &Anchors::device(), Some(NONCE), AT);
    ensure!((judged.chain, judged.signature) == (Checked::Good, Checked::Good));
    let codes: Vec<_> = judged.refused.iter().map(DeviceRefused::code).collect();
    ensure!(codes == ["nonce-mismatch"], "{codes:?}");
    Ok(())
}
