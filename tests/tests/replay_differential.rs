//! What registers hold after a boot event log, by us and by `tpm2_eventlog` of tpm2-tools: the shared
//! vectors it can read, and logs made here.
//!
//! The vectors stand beside the checkout or where `BAILIWICK_VECTORS` says; without them their trials
//! are listed as ignored. What one of the two does not read is named below with the reason, and a
//! trial sees that it is still so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};
use bailiwick_attestation::boot::{EventLog, EventType};
use bailiwick_attestation::crypto::HashAlgorithm;
use libtest_mimic::{Arguments, Failed, Trial};

/// Bank, register, value; all lower-case words of the tool.
type Registers = BTreeMap<(String, u32), String>;

/// What registers hold, and those of events that extend none.
type Read = (Registers, BTreeSet<u32>);

/// Logs that the tool of tpm2-tools 5.4 cannot read, and how it fails. One that reads them has to agree.
const UNREAD: &[(&str, &str)] = &[
    ("bad_digest_count_huge.bin", "algorithm unsupported"),
    ("bad_event_size_ffffffff.bin", "size insufficient"),
    ("bad_keylime_bogus", "ends with SIGSEGV"),
    ("bad_keylime_empty", "failed to parse"),
    ("bad_specid_num_algs_huge.bin", "insufficient size"),
    ("bad_specid_zero_algs.bin", "numberOfAlgorithms is invalid"),
    ("bad_trailing_garbage.bin", "algorithm unsupported"),
    ("bad_truncated.bin", "size insufficient"),
    (
        "ccel_cos113_dupe_separator.bin",
        "bad pcrIndex for EV_NO_ACTION",
    ),
    ("ccel_ovmf.bin", "bad pcrIndex for EV_NO_ACTION"),
    ("option_rom_eventlog", "ends with SIGSEGV"),
    ("short_no_action_eventlog", "invalid eventDataSize"),
    ("windows_lenovo_yogax1v2", "PCR index -1 is out of bounds"),
];

/// Logs that it reads and that we refuse, by the code: a register that no TPM has, and a header with
/// more behind it than it says.
const REFUSED: &[(&str, &str)] = &[
    ("bad_pcr_index_25.bin", "malformed"),
    ("specid-vendordata.bin", "malformed"),
];

/// Logs of which the two say something else, and why.
const OTHERWISE: &[(&str, &str)] = &[(
    "bad_event_missing_sha256.bin",
    "an event without a digest of a bank: to us the register is unknown, to the tool as it was",
)];

/// Logs made here.
const MADE: u64 = 32;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let vectors = std::env::var_os("BAILIWICK_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"),
        PathBuf::from,
    );
    let mut trials = of_vectors(&vectors.join("tcg-eventlog"));
    trials.extend((0..MADE).map(|seed| {
        trial(format!("made/{seed}"), move || {
            let folder = tempfile::tempdir()?;
            let file = folder.path().join("log");
            fs::write(&file, made(seed))?;
            agree(&file)
        })
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, run: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        run().map_err(|error| Failed::from(format!("{error:#}")))
    })
}

/// A trial for each log of the folder.
fn of_vectors(folder: &Path) -> Vec<Trial> {
    let Ok(files) = fs::read_dir(folder) else {
        let absent = trial("vectors-absent".to_owned(), || Ok(()));
        return vec![absent.with_ignored_flag(true)];
    };
    let files = files.filter_map(|file| Some(file.ok()?.path()));
    let mut files: Vec<PathBuf> = files
        .filter(|file| {
            !matches!(
                file.extension().and_then(|end| end.to_str()),
                Some("json" | "md")
            )
        })
        .collect();
    files.sort();
    let trials = files.into_iter().map(|file| {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        trial(format!("vectors/{name}"), move || match () {
            () if listed(UNREAD, &name).is_some() => {
                let read = theirs(&file)?.is_some();
                if read { agree(&file) } else { Ok(()) }
            }
            () if listed(OTHERWISE, &name).is_some() => {
                ensure!(agree(&file).is_err(), "they agree now");
                Ok(())
            }
            () => match listed(REFUSED, &name) {
                Some(code) => {
                    let refused = ours(&file)?.err().context("we read it now")?;
                    ensure!(refused == code, "{refused}, not {code}");
                    Ok(())
                }
                None => agree(&file),
            },
        })
    });
    trials.collect()
}

fn listed(rows: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    rows.iter()
        .find(|(row, _)| *row == name)
        .map(|(_, why)| *why)
}

fn agree(file: &Path) -> anyhow::Result<()> {
    let theirs = theirs(file)?.context("tpm2_eventlog does not read it")?;
    let (ours, unextended) = match ours(file)? {
        Ok(ours) => ours,
        Err(code) => bail!("we refuse it: {code}; tpm2_eventlog says {theirs:?}"),
    };
    // EV_NO_ACTION is never extended, as the registers that the vectors' TPMs reported say; the tool
    // extends it, and does not know what it says of the locality.
    let same = |(_, register): &(String, u32)| !unextended.contains(register);
    for (place, value) in theirs.iter().filter(|(place, _)| same(place)) {
        let found = ours.get(place);
        ensure!(
            found == Some(value),
            "{place:?}: {found:?}, and {value} by tpm2_eventlog"
        );
    }
    let more: Vec<_> = ours
        .keys()
        .filter(|place| !theirs.contains_key(place))
        .collect();
    ensure!(more.is_empty(), "{more:?} by us alone");
    Ok(())
}

/// By us, and registers of events that extend none; the code where we refuse it.
fn ours(file: &Path) -> anyhow::Result<Result<Read, &'static str>> {
    let bytes = fs::read(file)?;
    let log = match EventLog::parse(&bytes) {
        Ok(log) => log,
        Err(refused) => return Ok(Err(refused.code())),
    };
    let mut registers = Registers::new();
    for bank in log.banks().iter().filter_map(|bank| bank.hash()) {
        for (register, value) in log.replay(bank).values {
            registers.insert((bank.name().to_owned(), register), value.to_string());
        }
    }
    let events = log.events().iter().skip(1);
    let unextended = events.filter(|event| event.kind == EventType::NO_ACTION);
    let unextended = unextended.map(|event| event.register).collect();
    Ok(Ok((registers, unextended)))
}

/// By the tool; `None` where it cannot read the log.
fn theirs(file: &Path) -> anyhow::Result<Option<Registers>> {
    let output = Command::new("tpm2_eventlog").arg(file).output();
    let output = output.context("start tpm2_eventlog of tpm2-tools")?;
    if !output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut registers = Registers::new();
    let mut bank = None;
    for line in text.lines().skip_while(|line| *line != "pcrs:").skip(1) {
        let (key, value) = line.split_once(':').context("a line without a colon")?;
        match value.trim().strip_prefix("0x") {
            None => bank = Some(key.trim().to_owned()),
            Some(value) => {
                let bank = bank.clone().context("a value without its bank")?;
                let register = key.trim().parse()?;
                registers.insert((bank, register), value.to_owned());
            }
        }
    }
    Ok(Some(registers))
}

/// Numbers that are the same in every run (xorshift, Marsaglia).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A log with some of the banks, some of the registers, some lengths of data.
fn made(seed: u64) -> Vec<u8> {
    const KINDS: [EventType; 5] = [
        EventType::SEPARATOR,
        EventType::ACTION,
        EventType::IPL,
        EventType::POST_CODE,
        EventType::COMPACT_HASH,
    ];
    let mut numbers = Numbers(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let all = [
        HashAlgorithm::Sha1,
        HashAlgorithm::Sha256,
        HashAlgorithm::Sha384,
        HashAlgorithm::Sha512,
    ];
    let count = numbers.below(4) + 1;
    let banks: Vec<HashAlgorithm> = all
        .into_iter()
        .rev()
        .take(usize::try_from(count).unwrap_or(1))
        .collect();
    let mut header = b"Spec ID Event03\0\0\0\0\0\0\x02\x00\x02".to_vec();
    header.extend(u32::try_from(banks.len()).unwrap_or_default().to_le_bytes());
    for bank in &banks {
        header.extend(bank.tpm_id().to_le_bytes());
        header.extend(
            u16::try_from(bank.digest_len())
                .unwrap_or_default()
                .to_le_bytes(),
        );
    }
    header.push(0);
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or_default().to_le_bytes();
    let mut log = [
        &0_u32.to_le_bytes()[..],
        &EventType::NO_ACTION.0.to_le_bytes(),
        &[0; 20],
    ]
    .concat();
    log.extend(len(&header));
    log.extend(&header);
    let mut event = |register: u32,
                     kind: EventType,
                     digests: &dyn Fn(HashAlgorithm) -> Vec<u8>,
                     data: &[u8]| {
        log.extend(register.to_le_bytes());
        log.extend(kind.0.to_le_bytes());
        log.extend(u32::try_from(banks.len()).unwrap_or_default().to_le_bytes());
        for bank in &banks {
            log.extend(bank.tpm_id().to_le_bytes());
            log.extend(digests(*bank));
        }
        log.extend(len(data));
        log.extend(data);
    };
    if numbers.below(2) == 0 {
        let locality = [3, 4][usize::from(numbers.below(2) == 0)];
        let data = [b"StartupLocality\0".as_slice(), &[locality]].concat();
        event(
            0,
            EventType::NO_ACTION,
            &|bank| vec![0; bank.digest_len()],
            &data,
        );
    }
    for _ in 0..numbers.below(60) + 1 {
        let register = u32::try_from(numbers.below(16)).unwrap_or_default();
        let kind = KINDS[usize::try_from(numbers.below(5)).unwrap_or_default()];
        let data: Vec<u8> = match kind {
            EventType::SEPARATOR => vec![0; 4],
            _ => (0..numbers.below(90) + 1)
                .map(|_| b'a' + u8::try_from(numbers.below(26)).unwrap_or_default())
                .collect(),
        };
        let digest = |bank: HashAlgorithm| {
            let digest = bank.digest(&[&data]).unwrap_or_default();
            digest.as_slice().to_vec()
        };
        event(register, kind, &digest, &data);
    }
    log
}
