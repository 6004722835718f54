//! `bailiwick inspect tcg-eventlog`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bailiwick_attestation::boot::{self, EventLog, Facts, Quirk, Replay, UserspaceLog};
use bailiwick_attestation::crypto::{Digest, HashAlgorithm};
use bailiwick_attestation::tpm::PcrValues;
use serde_json::{Map, Value};

use super::file::read;
use super::report::{Finding, Report};

/// Windows writes the longest logs, some hundred KiB.
const LOG_LIMIT: u64 = 4 * 1024 * 1024;
/// Every PCR of every bank as text is below 64 KiB.
const PCRS_LIMIT: u64 = 256 * 1024;

/// Phases, disks and logins of a boot; the parser takes as much.
const USERSPACE_LIMIT: u64 = 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The log as the kernel shows it: `binary_bios_measurements`, or a CCEL table.
    #[arg(value_name = "FILE")]
    log: PathBuf,
    /// PCR values to compare with: JSON, tpm2-tools YAML, or its serialized form.
    #[arg(long, value_name = "FILE")]
    pcrs: Option<PathBuf>,
    /// What systemd measured after the log: `/run/log/systemd/tpm2-measure.log`.
    #[arg(long, value_name = "FILE")]
    userspace: Option<PathBuf>,
    /// Bank to replay; the strongest that every event carries where none is given.
    #[arg(long, value_name = "NAME", value_parser = bank)]
    bank: Option<HashAlgorithm>,
    /// A known firmware defect to excuse.
    #[arg(long = "quirk", value_name = "NAME", value_parser = quirk)]
    quirks: Vec<Quirk>,
}

fn bank(text: &str) -> Result<HashAlgorithm, String> {
    HashAlgorithm::from_name(text).ok_or_else(|| format!("no bank is called {text:?}"))
}

fn quirk(text: &str) -> Result<Quirk, String> {
    Quirk::from_name(text).ok_or_else(|| {
        let known: Vec<_> = Quirk::ALL.iter().map(|quirk| quirk.name()).collect();
        format!("no quirk is called {text:?}; known: {}", known.join(", "))
    })
}

pub(super) fn inspect(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("tcg-eventlog");
    let bytes = read(&args.log, LOG_LIMIT, &mut report)?;
    let pcrs = match &args.pcrs {
        Some(path) => read(path, PCRS_LIMIT, &mut report)?,
        None => None,
    };
    let pcrs = pcrs.and_then(|bytes| match PcrValues::parse_file(&bytes) {
        Ok(values) => Some(values),
        Err(error) => {
            report.refuse(Finding::from_error("pcr-values", &error));
            None
        }
    });
    let later = match &args.userspace {
        Some(path) => read(path, USERSPACE_LIMIT, &mut report)?,
        None => None,
    };
    let later = later.and_then(|bytes| match UserspaceLog::parse(&bytes) {
        Ok(log) => {
            report.fact("userspace_events", log.events.len());
            Some(log)
        }
        Err(error) => {
            report.refuse(Finding::from_error(error.code(), &error));
            None
        }
    });
    let later = later.unwrap_or_default();
    let Some(bytes) = bytes else {
        return Ok(report);
    };
    match EventLog::parse(&bytes) {
        Ok(log) => judge(&log, &later, args, pcrs.as_ref(), &mut report),
        Err(error) => report.refuse(Finding::from_error(error.code(), &error)),
    }
    Ok(report)
}

fn judge(
    log: &EventLog<'_>,
    later: &UserspaceLog,
    args: &Args,
    pcrs: Option<&PcrValues>,
    report: &mut Report,
) {
    let banks: Vec<Value> = log.banks().iter().map(|bank| bank.name().into()).collect();
    report.fact("format", log.format().name());
    report.fact("events", log.events().len());
    report.fact("banks", banks);
    report.fact("startup_locality", log.startup_locality());

    if let Some(pcrs) = pcrs {
        compare(log, later, pcrs, report);
    }
    let bank = match log.choose(args.bank) {
        Ok(bank) => bank,
        Err(error) => {
            report.refuse(Finding::from_error(error.code(), &error));
            return;
        }
    };
    report.fact("bank", bank.name());
    let mut replay = log.replay(bank);
    later.extend(&mut replay);
    report.fact("pcrs", values(&replay));

    let content = boot::examine(log, bank, &args.quirks);
    report.fact("secure_boot", content.secure_boot);
    report.fact("boot", booted(&Facts::of(log, bank)));
    if !later.events.is_empty() {
        report.fact("phases", later.phases(bank, later.events.len()));
    }
    let finding = |found: boot::Finding| {
        Finding::at(
            found.code,
            "TCG_PCR_EVENT2",
            found.field,
            found.offset,
            found.detail,
        )
    };
    for found in content.refusals {
        report.refuse(finding(found));
    }
    for found in content.warnings {
        report.warn(finding(found));
    }
}

fn compare(log: &EventLog<'_>, later: &UserspaceLog, pcrs: &PcrValues, report: &mut Report) {
    let compared = boot::compare(log, later, pcrs);
    let mismatched: Vec<u32> = compared.mismatched.into_iter().collect();
    if compared.compared == 0 {
        let detail = "no register is both in the log and among the values given";
        report.undecided(Finding::new("pcr-not-compared", detail));
    }
    if !mismatched.is_empty() {
        let names: Vec<String> = mismatched.iter().map(ToString::to_string).collect();
        let detail = format!("replayed and reported values differ: {}", names.join(", "));
        report.refuse(Finding::new("pcr-mismatch", detail));
    }
    report.fact("mismatched_pcrs", mismatched);
}

/// What was booted, as far as digests show it; what the log does not say is left out.
fn booted(facts: &Facts) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |name: &str, value: Value| {
        let empty = match &value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            _ => false,
        };
        if !empty {
            all.insert(name.to_owned(), value);
        }
    };
    let digests = |all: &[Digest]| -> Value { all.iter().map(Digest::to_string).collect() };
    put("firmware_version", facts.firmware_version.clone().into());
    put("firmware_blobs", digests(&facts.firmware_blobs));
    put("boot_order", facts.boot_order.clone().into());
    let options = facts.boot_options.iter();
    put(
        "boot_options",
        options
            .map(|(number, text)| (number.clone(), text.clone()))
            .collect(),
    );
    put("drivers", digests(&facts.drivers));
    put("applications", digests(&facts.applications));
    put("authorities", digests(&facts.authorities));
    put("sbat_level", facts.sbat_level.clone().into());
    let named = |all: &BTreeMap<&'static str, Digest>| -> Value {
        let all = all
            .iter()
            .map(|(name, digest)| ((*name).to_owned(), digest.to_string()));
        all.collect()
    };
    put("keys", named(&facts.keys));
    put("mok", named(&facts.mok));
    put("grub_commands", facts.commands.clone().into());
    put(
        "grub_files",
        digests(facts.files.as_deref().unwrap_or_default()),
    );
    let line = facts.command_line.as_ref().map(|line| line.text.clone());
    put("command_line", line.into());
    put("initrd", digests(&facts.initrd));
    put(
        "load_options",
        facts.load_options.as_ref().map(Digest::to_string).into(),
    );
    let sections = facts.sections.iter();
    put(
        "sections",
        sections
            .map(|(name, digest)| (name.clone(), digest.to_string()))
            .collect(),
    );
    put("extensions", digests(&facts.extensions));
    put("manifests", facts.manifests.clone().into());
    put("cut", facts.cut.then_some(true).into());
    all
}

fn values(replay: &Replay) -> Map<String, Value> {
    let registers = replay.values.iter();
    let registers: Map<String, Value> = registers
        .map(|(register, value)| (register.to_string(), value.to_string().into()))
        .collect();
    let bank = (replay.bank.name().to_owned(), registers.into());
    Map::from_iter([bank])
}
