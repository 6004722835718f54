//! The kernel's measurement list, held against PCR 10 and against what the profile knows.

use super::boot::{IMA_PCR, Look, Measured};
use super::result::Finding;
use crate::ids::UnixTime;
use crate::ima::{self, Aggregate, Entry, FileRefused, Judged, KnownDigest, List};
use crate::profile::{FilesProfile, ImaProfile, Provenance, Value};

const LIST: &str = "ima.list";
const WANT: &str = "a measurement list that replays to the quoted PCR 10";
const FILE: &str = "ima.file";
/// Files that are refused one by one; of more than these only their number is told.
const NAMED: usize = 16;
/// Most characters of a name: the longest path is far longer, and its end tells most.
const NAME: usize = 160;

/// How many entries were known, and how.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts {
    listed: u64,
    signed: u64,
    unknown: u64,
}

impl Look<'_> {
    /// Replays the list and judges what it is made of.
    pub(super) fn ima(&mut self, profile: &ImaProfile, now: UnixTime, measured: &mut Measured) {
        let Some(quoted) = self.evidence.pcrs.get(self.bank, IMA_PCR).cloned() else {
            let found = "PCR 10 is not in the quote".to_owned();
            self.refuse(LIST, "pcr-not-quoted", WANT, found);
            return;
        };
        let Some(bytes) = self.evidence.ima_list.clone() else {
            let found = "neither in this envelope nor kept from an earlier one".to_owned();
            self.deviate(LIST, Finding::Unchecked, "ima-list-missing", WANT, found);
            return;
        };
        let list = match List::parse(&bytes) {
            Ok(list) => list,
            Err(error) => {
                let why = std::error::Error::source(&error);
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                self.refuse(LIST, "ima-list-malformed", WANT, format!("{error}{why}"));
                return;
            }
        };
        let Some(matched) = ima::match_pcr(&list, self.bank, quoted.as_slice()) else {
            let found = format!("{} entries, after none of which it is so", list.len());
            self.refuse(LIST, "ima-replay", WANT, found);
            return;
        };
        // What follows was measured after the quote, and the next one shows it.
        let proven = || list.entries().take(matched.at);
        let violations = count(proven().filter(|entry| own(entry) && entry.is_violation()));
        if let Some(most) = profile.max_violations
            && violations > most
        {
            let expected = format!("at most {most} files that changed while they were measured");
            let found = violations.to_string();
            self.refuse("ima.violations", "ima-violations", &expected, found);
        }
        let mut put = |name: &str, value| {
            measured.put(name.to_owned(), value, Provenance::Measured);
        };
        put("ima.entries", Value::Number(as_u64(matched.at)));
        put("ima.violations", Value::Number(violations));
        let kernels = count(proven().filter(|entry| own(entry) && ima::is_aggregate(entry)));
        put("ima.kernels", Value::Number(kernels));
        if let Some(same) = self.aggregate(proven().next().as_ref()) {
            put("ima.boot_aggregate", Value::Flag(same));
        }
        if let Some(files) = &profile.files {
            let counts = self.files(files, proven(), now);
            put("ima.listed", Value::Number(counts.listed));
            put("ima.signed", Value::Number(counts.signed));
            put("ima.unknown", Value::Number(counts.unknown));
        }
    }

    /// The first entry ties the list to the registers of the boot before it.
    fn aggregate(&mut self, first: Option<&Entry<'_>>) -> Option<bool> {
        const CLAIM: &str = "ima.boot_aggregate";
        const WANT: &str = "a first entry boot_aggregate over the quoted PCRs 0 to 9";
        let found = first.and_then(|entry| self.aggregate_of(entry));
        let (finding, code, found) = match found {
            Some(Aggregate::Same) => return Some(true),
            None => (
                Finding::Refused,
                "boot-aggregate-missing",
                "another entry: the beginning of the list is gone",
            ),
            Some(Aggregate::Other) => (
                Finding::Refused,
                "boot-aggregate",
                "another value: the kernel found other registers than are quoted",
            ),
            Some(Aggregate::Zero) => (
                Finding::Warning,
                "boot-aggregate-zero",
                "zeroes: the kernel found no TPM, or no bank that suits it",
            ),
            Some(Aggregate::Unchecked) => return None,
        };
        self.deviate(CLAIM, finding, code, WANT, found.to_owned());
        Some(false)
    }

    fn aggregate_of(&self, entry: &Entry<'_>) -> Option<Aggregate> {
        let pcrs = &self.evidence.pcrs;
        ima::boot_aggregate(entry, self.bank, |index| pcrs.get(self.bank, index))
    }

    /// Every entry by its content. What was not extended into PCR 10 was not proven either.
    fn files<'l>(
        &mut self,
        files: &FilesProfile,
        entries: impl Iterator<Item = Entry<'l>>,
        now: UnixTime,
    ) -> Counts {
        const WANT: &str = "a file that the profile lists or that a key it lists signed";
        let mut counts = Counts::default();
        let (mut named, mut more) = (0, 0_u64);
        let numbered = (1_u64..).zip(entries);
        for (number, entry) in numbered.filter(|(_, entry)| own(entry) && !entry.is_violation()) {
            let refused = match files.known.judge(&entry, now) {
                Ok(Judged::Listed(_)) => {
                    counts.listed += 1;
                    continue;
                }
                Ok(Judged::Signed(_)) => {
                    counts.signed += 1;
                    continue;
                }
                Ok(Judged::Unjudged(_)) => continue,
                Err(refused) => refused,
            };
            let unknown = matches!(refused, FileRefused::Unknown { .. });
            if unknown && self.is_registers(&entry) {
                continue;
            }
            counts.unknown += 1;
            if named == NAMED {
                more += 1;
                continue;
            }
            named += 1;
            let finding = match unknown && !files.refuse_unknown {
                true => Finding::Warning,
                false => Finding::Refused,
            };
            let found = told(number, &entry, &refused, files);
            self.deviate(FILE, finding, refused.code(), WANT, found);
        }
        if more > 0 {
            let finding = match files.refuse_unknown {
                true => Finding::Refused,
                false => Finding::Warning,
            };
            let found = format!("{more} more that are not");
            self.deviate(FILE, finding, "file-more", WANT, found);
        }
        counts
    }

    /// A `boot_aggregate` is known by the registers. What they do not show has been told already.
    fn is_registers(&self, entry: &Entry<'_>) -> bool {
        self.aggregate_of(entry)
            .is_some_and(|found| found != Aggregate::Other)
    }
}

fn own(entry: &Entry<'_>) -> bool {
    entry.pcr == ima::IMA_PCR
}

fn as_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn count<'l>(entries: impl Iterator<Item = Entry<'l>>) -> u64 {
    as_u64(entries.count())
}

/// `"/usr/bin/tool" sha256:… (entry 17): unsigned; known under that name: tool 1.2, sha256:…`
fn told(number: u64, entry: &Entry<'_>, refused: &FileRefused, files: &FilesProfile) -> String {
    let name = entry.file_name().unwrap_or_default();
    let digest = entry.file_digest().map_or_else(
        || "no digest".to_owned(),
        |digest| {
            let algorithm: String = digest.algorithm.chars().take(32).collect();
            format!("{algorithm}:{}", hex::encode(digest.digest))
        },
    );
    let of = |(digest, file): (&KnownDigest, &ima::KnownFile)| {
        format!("; known under that name: {}, {digest}", file.name)
    };
    let nearest = files.known.nearest(name).map(of).unwrap_or_default();
    let text = String::from_utf8_lossy(name);
    let cut = text.chars().count().saturating_sub(NAME);
    let text: String = text.chars().skip(cut).collect();
    format!("{text:?} {digest} (entry {number}): {refused}{nearest}")
}
