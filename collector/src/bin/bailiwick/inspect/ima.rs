//! `bailiwick inspect ima`.

use std::path::PathBuf;

use bailiwick_attestation::crypto::HashAlgorithm;
use bailiwick_attestation::ima::{self, ByteOrder, Extended, Form, List};
use serde_json::{Map, Value};

use super::file::read;
use super::report::{Finding, Report};

/// A server that measures all it runs writes some MiB in a year.
const LIST_LIMIT: u64 = 256 * 1024 * 1024;
/// Banks that are replayed unasked.
const BANKS: [HashAlgorithm; 4] = [
    HashAlgorithm::Sha1,
    HashAlgorithm::Sha256,
    HashAlgorithm::Sha384,
    HashAlgorithm::Sha512,
];
/// Entries of one kind that are named one by one.
const NAMED: usize = 8;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The list, binary or ASCII.
    #[arg(value_name = "FILE")]
    list: PathBuf,
    /// The quoted value of PCR 10.
    #[arg(long, value_name = "BANK:HEX", value_parser = quoted)]
    pcr10: Option<Quoted>,
}

/// A value of a register.
#[derive(Clone, Debug)]
struct Quoted {
    bank: HashAlgorithm,
    value: Vec<u8>,
}

fn quoted(text: &str) -> Result<Quoted, String> {
    let (bank, value) = text
        .split_once(':')
        .ok_or("is not BANK:HEX, for example sha256:00…")?;
    let bank =
        HashAlgorithm::from_name(bank).ok_or_else(|| format!("no bank is called {bank:?}"))?;
    let value = hex::decode(value).map_err(|error| error.to_string())?;
    if value.len() == bank.digest_len() {
        Ok(Quoted { bank, value })
    } else {
        Err(format!("a {bank} value has {} bytes", bank.digest_len()))
    }
}

pub(super) fn inspect(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("ima");
    let Some(bytes) = read(&args.list, LIST_LIMIT, &mut report)? else {
        return Ok(report);
    };
    match List::parse(&bytes) {
        Ok(list) => judge(&list, args.pcr10.as_ref(), &mut report),
        Err(error) => report.refuse(Finding::from_error(error.code(), &error)),
    }
    Ok(report)
}

fn judge(list: &List<'_>, quoted: Option<&Quoted>, report: &mut Report) {
    let last = list.entries().last();
    report.fact(
        "template",
        last.map(|entry| entry.template.name().to_owned()),
    );
    report.fact("entries", list.len());
    report.fact(
        "form",
        match list.form() {
            Form::Binary => "binary",
            Form::Ascii => "ascii",
        },
    );
    report.fact(
        "byte_order",
        match list.order() {
            ByteOrder::Little => "little-endian",
            ByteOrder::Big => "big-endian",
        },
    );
    report.fact("violations", list.violations());
    let mut registers = Map::new();
    let asked = quoted.map(|quoted| quoted.bank);
    for bank in BANKS.into_iter().chain(asked) {
        if let Some(replayed) = ima::replay(list, bank) {
            registers.insert(bank.name().to_owned(), replayed.value.to_string().into());
        }
    }
    report.fact("pcr10", Value::Object(registers));
    hashes(list, report);
    aggregate(list, report);
    if let Some(quoted) = quoted {
        compare(list, quoted, report);
    }
}

/// The hash in the list is nobody's word, but one that is wrong was changed by somebody.
fn hashes(list: &List<'_>, report: &mut Report) {
    let entries = (1..).zip(list.entries());
    let mut wrong = entries.filter(|(_, entry)| !entry.is_consistent());
    for (number, _) in wrong.by_ref().take(NAMED) {
        let detail = format!("entry {number}: the template hash is not that of the template data");
        report.refuse(Finding::new("template-hash", detail));
    }
    let more = wrong.count();
    if more > 0 {
        let detail = format!("{more} more entries with another template hash");
        report.refuse(Finding::new("template-hash", detail));
    }
    let violations = list.violations();
    if violations > 0 {
        let detail = format!("{violations} files were open for writing while they were measured");
        report.warn(Finding::new("violations", detail));
    }
}

/// The first entry ties the list to the boot: a hash of the registers before it.
fn aggregate(list: &List<'_>, report: &mut Report) {
    let first = list.entries().next();
    let named = first.filter(|entry| entry.file_name() == Some(b"boot_aggregate"));
    let Some(entry) = named else {
        let detail = "the first entry is no boot_aggregate: the list is cut off at its beginning";
        report.warn(Finding::new("no-boot-aggregate", detail));
        return;
    };
    let digest = entry.file_digest();
    if digest.is_none_or(|digest| digest.digest.iter().all(|byte| *byte == 0)) {
        let detail = "boot_aggregate is zero: IMA found no TPM when it started";
        report.warn(Finding::new("boot-aggregate-zero", detail));
    }
}

fn compare(list: &List<'_>, quoted: &Quoted, report: &mut Report) {
    let Some(matched) = ima::match_pcr(list, quoted.bank, &quoted.value) else {
        let detail = format!(
            "no part of the list replays to the {} value given",
            quoted.bank
        );
        report.refuse(Finding::new("pcr10-mismatch", detail));
        return;
    };
    report.fact("matched_at", matched.at);
    if matched.extended == Extended::PaddedSha1 {
        let detail = "the bank was extended with SHA-1 and zeroes: it is no stronger than SHA-1";
        report.warn(Finding::new("padded-sha1", detail));
    }
    let ahead = list.len().saturating_sub(matched.at);
    if ahead > 0 {
        let detail = format!("the last {ahead} entries are not covered by the value given");
        report.warn(Finding::new("list-ahead", detail));
    }
}
