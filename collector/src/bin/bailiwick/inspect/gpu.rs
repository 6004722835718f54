//! `bailiwick inspect gpu`.

use std::path::{Path, PathBuf};

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::gpu::{
    self, Anchors, Answer, Asked, Checked, Device, Evidence, FwidState, MAX_EVIDENCE_BYTES,
    MAX_OCSP_BYTES, MAX_REPORT_FILE, Response, StoredEvidence, Topology,
    rim::{self, Comparison, Slot},
};
use bailiwick_attestation::x509::Bundle;

use super::crls;
use super::file::{self, read};
use super::gpu_chain::{CHAIN_LIMIT, roots};
use super::gpu_facts::facts;
use super::gpu_lines::lines;
use super::report::{Finding, Report};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Evidence of one device or more, as NVIDIA's tools write it (JSON). Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "report")]
    evidence: Vec<PathBuf>,
    /// A report as the driver returned it, or as hex.
    #[arg(long, value_name = "FILE", conflicts_with = "evidence")]
    report: Option<PathBuf>,
    /// The certificates of the device that made the report, leaf first.
    #[arg(long, value_name = "FILE", requires = "report")]
    chain: Option<PathBuf>,
    /// Reference values of the driver: XML, base64 of it, or the RIM service's JSON. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    driver_rim: Vec<PathBuf>,
    /// Reference values of VBIOS or switch firmware, in the same forms. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    vbios_rim: Vec<PathBuf>,
    /// OCSP responses, DER or base64. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    ocsp: Vec<PathBuf>,
    /// Lists of revoked certificates, DER, base64 or PEM. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    crl: Vec<PathBuf>,
    /// Certificates whose keys are trusted, instead of NVIDIA's roots. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    roots: Vec<PathBuf>,
    /// The challenge that every report has to answer: 32 bytes, hex.
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    nonce: Option<[u8; 32]>,
    /// The time at which everything has to count, seconds since 1970. Default: now.
    #[arg(long, value_name = "UNIX")]
    at: Option<u64>,
}

fn nonce(text: &str) -> Result<[u8; 32], String> {
    let mut nonce = [0; 32];
    match hex::decode_to_slice(text, &mut nonce) {
        Ok(()) => Ok(nonce),
        Err(error) => Err(format!("a nonce is 32 bytes of hex: {error}")),
    }
}

/// One device as given, before it is judged.
struct Given {
    /// What to call it where there is more than one.
    name: String,
    stored: StoredEvidence,
    chain: Option<Bundle>,
}

/// Files of reference values, and what to call them.
#[derive(Default)]
struct ReferenceValues {
    names: Vec<String>,
    checked: Vec<(Slot, rim::Checked)>,
}

pub(super) fn inspect(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("gpu");
    let at = file::time(args.at)?;
    let own = roots(&args.roots, &mut report)?;
    let anchors = own.clone().unwrap_or_else(Anchors::device);
    let rim_anchors = own.unwrap_or_else(Anchors::rim);
    let given = match &args.report {
        Some(path) => vec![alone(path, args.chain.as_deref(), &mut report)?],
        None => {
            let mut given = Vec::new();
            for path in &args.evidence {
                given.extend(from_json(path, &mut report)?);
            }
            given
        }
    };
    let rims = reference_values(args, &rim_anchors, at, &mut report)?;
    let (ocsp_names, ocsp) = responses(&args.ocsp, &mut report)?;
    let (crl_names, crls) = crls::read_all(&args.crl, &mut report)?;
    let devices: Vec<Evidence<'_>> = given
        .iter()
        .map(|one| Evidence {
            report: &one.stored.report,
            chain: one.chain.as_ref(),
            stated_nonce: one.stored.nonce,
        })
        .collect();
    let answer = gpu::appraise(&Asked {
        devices: &devices,
        anchors: &anchors,
        nonce: args.nonce,
        ocsp: &ocsp,
        crls: &crls,
        rims: &rims.checked,
        at,
        memory: None,
    });
    for (one, device) in given.iter().zip(&answer.devices) {
        tell_device(one, device, given.len() > 1, &mut report);
    }
    tell_comparisons(&given, &answer, !rims.checked.is_empty(), &mut report);
    for (place, why) in &answer.unfit {
        let mut finding = Finding::from_error(why.code(), why);
        finding.prefix(rims.names.get(*place).map_or("", String::as_str));
        report.refuse(finding);
    }
    tell_set(&answer, &ocsp_names, &crl_names, &mut report);
    facts(&answer, &mut report);
    let names: Vec<&str> = given.iter().map(|one| one.name.as_str()).collect();
    report.show(lines(&answer, &names));
    Ok(report)
}

/// A report and a chain in files of their own.
fn alone(path: &Path, chain: Option<&Path>, report: &mut Report) -> anyhow::Result<Given> {
    let as_u64 = |limit: usize| u64::try_from(limit).unwrap_or(u64::MAX);
    let bytes = read(path, as_u64(MAX_REPORT_FILE), report)?.unwrap_or_default();
    let unpacked = match gpu::unpack_report(&bytes) {
        Ok(bytes) => bytes.into_owned(),
        Err(error) => {
            report.refuse(Finding::from_error("report-framing", &error));
            Vec::new()
        }
    };
    let mut given = Given {
        name: path.display().to_string(),
        stored: StoredEvidence {
            architecture: None,
            nonce: None,
            report: unpacked,
            chain: Vec::new(),
        },
        chain: None,
    };
    if let Some(path) = chain {
        let bytes = read(path, CHAIN_LIMIT, report)?.unwrap_or_default();
        given.chain = Some(bundle(&bytes, path.display().to_string(), report));
    }
    Ok(given)
}

fn from_json(path: &Path, report: &mut Report) -> anyhow::Result<Vec<Given>> {
    let limit = u64::try_from(MAX_EVIDENCE_BYTES).unwrap_or(u64::MAX);
    let Some(bytes) = read(path, limit, report)? else {
        return Ok(Vec::new());
    };
    let stored = match gpu::parse_evidence(&bytes) {
        Ok(stored) => stored,
        Err(error) => {
            let mut finding = Finding::from_error("evidence-malformed", &error);
            finding.prefix(&path.display().to_string());
            report.refuse(finding);
            return Ok(Vec::new());
        }
    };
    let given = stored.into_iter().enumerate().map(|(place, stored)| {
        let name = format!("{}[{place}]", path.display());
        Given {
            chain: Some(bundle(&stored.chain, name.clone(), report)),
            name,
            stored,
        }
    });
    Ok(given.collect())
}

/// Certificates of one device. Bytes that hold none make a chain of none, which is refused.
fn bundle(bytes: &[u8], name: String, report: &mut Report) -> Bundle {
    match Bundle::parse(bytes) {
        Ok(bundle) => bundle,
        Err(error) => {
            let mut finding = Finding::from_error("certificate-unreadable", &error);
            finding.prefix(&name);
            report.refuse(finding);
            Bundle::default()
        }
    }
}

/// Files of reference values, each checked by itself; what is wrong with it is told here.
fn reference_values(
    args: &Args,
    anchors: &Anchors,
    at: UnixTime,
    report: &mut Report,
) -> anyhow::Result<ReferenceValues> {
    let limit = u64::try_from(rim::MAX_RIM_FILE).unwrap_or(u64::MAX);
    let drivers = args.driver_rim.iter().map(|path| (Slot::Driver, path));
    let vbioses = args.vbios_rim.iter().map(|path| (Slot::Vbios, path));
    let mut rims = ReferenceValues::default();
    for (slot, path) in drivers.chain(vbioses) {
        let Some(bytes) = read(path, limit, report)? else {
            continue;
        };
        let name = path.display().to_string();
        let checked = rim::check(&bytes, anchors, at);
        for why in &checked.refusals {
            let mut finding = Finding::from_error(why.code(), why);
            finding.prefix(&name);
            report.refuse(finding);
        }
        rims.names.push(name);
        rims.checked.push((slot, checked));
    }
    Ok(rims)
}

fn responses(
    paths: &[PathBuf],
    report: &mut Report,
) -> anyhow::Result<(Vec<String>, Vec<Response>)> {
    let limit = u64::try_from(MAX_OCSP_BYTES).unwrap_or(u64::MAX);
    let (mut names, mut responses) = (Vec::new(), Vec::new());
    for path in paths {
        let Some(bytes) = read(path, limit, report)? else {
            continue;
        };
        let name = path.display().to_string();
        match Response::parse(&bytes) {
            Ok(response) => {
                names.push(name);
                responses.push(response);
            }
            Err(error) => {
                let mut finding = Finding::from_error(error.code(), &error);
                finding.prefix(&name);
                report.refuse(finding);
            }
        }
    }
    Ok((names, responses))
}

fn tell_device(given: &Given, device: &Device<'_>, named: bool, report: &mut Report) {
    let told = |mut finding: Finding| {
        if named {
            finding.prefix(&given.name);
        }
        finding
    };
    for why in &device.refused {
        report.refuse(told(Finding::from_error(why.code(), why)));
    }
    if given.chain.is_none() {
        let detail = "no certificates to check the signature with";
        report.undecided(told(Finding::new("chain-not-given", detail)));
    }
    if let (Some(said), Some(found)) = (&given.stored.architecture, device.architecture)
        && !said.eq_ignore_ascii_case(found.name())
    {
        let detail = format!("the evidence calls it {said}, the signed data {found}");
        report.warn(told(Finding::new("arch-differs", detail)));
    }
    let Some(read) = &device.report else {
        return;
    };
    let mut warn = |code, detail: String| report.warn(told(Finding::new(code, detail)));
    if read.trailing_zeros > 0 {
        let detail = format!("{} zero bytes after the signature", read.trailing_zeros);
        warn("trailing-zeros", detail);
    }
    let opaque = &read.opaque;
    if !opaque.unknown.is_empty() {
        let detail = format!("opaque data of unknown types {:?}", opaque.unknown);
        warn("unknown-opaque-type", detail);
    }
    if !opaque.unread.is_empty() {
        let detail = format!(
            "opaque data of types {:?} have another shape",
            opaque.unread
        );
        warn("unread-opaque-type", detail);
    }
    if opaque.mode_is_contradicted() {
        let detail = "Protected PCIe and the feature flag tell different modes";
        warn("mode-contradicted", detail.to_owned());
    }
    if let (Some(features), None) = (opaque.features, opaque.mode()) {
        warn("unknown-mode", format!("feature flag {features:#06x}"));
    }
    if device.fwid == FwidState::NotReported && !device.is_switch() {
        let detail = "the report does not say which firmware holds the key";
        warn("fwid-not-reported", detail.to_owned());
    }
}

fn tell_comparisons(given: &[Given], answer: &Answer<'_>, any_rim: bool, report: &mut Report) {
    if !any_rim {
        let detail = "no reference values: measurements are compared with nothing";
        report.warn(Finding::new("rim-not-given", detail));
        return;
    }
    let devices = given.iter().zip(&answer.devices).zip(&answer.comparisons);
    for ((given, device), comparison) in devices {
        let told = |mut finding: Finding| {
            if answer.devices.len() > 1 {
                finding.prefix(&given.name);
            }
            finding
        };
        let Some(comparison) = comparison else {
            continue;
        };
        for finding in mismatches(comparison) {
            report.refuse(told(finding));
        }
        for slot in comparison.missing(device.edition()) {
            let detail = format!("no reference values of the {}", slot_name(slot));
            report.warn(told(Finding::new("rim-not-given", detail)));
        }
        if !comparison.uncovered_nonzero.is_empty() {
            let detail = format!(
                "measurements {:?} are not zero and no reference value covers them",
                comparison.uncovered_nonzero
            );
            report.warn(told(Finding::new("uncovered-measurement", detail)));
        }
    }
}

fn mismatches(comparison: &Comparison) -> Vec<Finding> {
    let mut findings = Vec::new();
    for index in &comparison.conflict {
        let detail = format!("driver and VBIOS both claim measurement {index}");
        findings.push(Finding::new("rim-conflict", detail));
    }
    for one in &comparison.mismatched {
        let expected: Vec<String> = one.expected.iter().map(hex::encode).collect();
        let detail = format!(
            "measurement {} ({}, {}): expected {}, found {}",
            one.index,
            one.name,
            slot_name(one.slot),
            expected.join(" or "),
            one.found
                .as_ref()
                .map_or_else(|| "none".to_owned(), hex::encode),
        );
        findings.push(Finding::new("measurement-mismatch", detail));
    }
    findings
}

const fn slot_name(slot: Slot) -> &'static str {
    match slot {
        Slot::Driver => "driver",
        Slot::Vbios => "VBIOS",
    }
}

fn tell_set(answer: &Answer<'_>, ocsp_names: &[String], crl_names: &[String], report: &mut Report) {
    for (place, why) in &answer.ocsp_refused {
        let mut finding = Finding::from_error(why.code(), why);
        if let Some(name) = ocsp_names.get(*place) {
            finding.prefix(name);
        }
        report.refuse(finding);
    }
    for (place, why) in &answer.crl_refused {
        crls::tell(crl_names.get(*place), why, report);
    }
    for why in &answer.topology_refused {
        report.refuse(Finding::from_error(why.code(), why));
    }
    if answer.topology == Some(Topology::Incomplete) {
        let detail = "GPUs in Protected-PCIe mode without their switches";
        report.warn(Finding::new("topology-incomplete", detail));
    }
    let judged = answer
        .devices
        .iter()
        .any(|d| d.chain != Checked::NotChecked);
    let told = !answer.ocsp_refused.is_empty() || !answer.crl_refused.is_empty();
    if judged && answer.revocation.is_empty() && !told {
        let detail = "no OCSP response and no list: nothing is known of revocation";
        report.warn(Finding::new("revocation-not-checked", detail));
    }
    if !judged && !ocsp_names.is_empty() {
        let detail = "no certificates that the OCSP responses could be about";
        report.undecided(Finding::new("ocsp-not-checked", detail));
    }
    if !judged && !crl_names.is_empty() {
        let detail = "no certificates that the lists could be about";
        report.undecided(Finding::new("crl-not-checked", detail));
    }
}
