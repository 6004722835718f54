//! The kernel's measurement list, held against PCR 10 and against what the profile knows.

use std::collections::BTreeMap;

use super::{
    boot::{IMA_PCR, is_ima},
    claims::hash_of,
    logs::Part,
    result::{AppraisedClaim, Finding},
    verify::VerifiedEvidence,
};
use crate::{
    crypto::{Digest, HashAlgorithm},
    ids::{Sha256Digest, UnixTime},
    ima::{self, Aggregate, Entry, FileRefused, Form, Judged, KnownDigest, List, Position},
    profile::{FilesProfile, Profile, Provenance, Value},
};

const LIST: &str = "ima.list";
const WANT: &str = "a measurement list that replays to the quoted PCR 10";
const FILE: &str = "ima.file";
const KNOWN: &str = "a file that the profile lists or that a key it lists signed";
/// Files that are refused one by one; of more than these only their number is told.
const NAMED: usize = 16;
/// Most characters of a name: the longest path is far longer, and its end tells most.
const NAME: usize = 160;
/// Most bytes that a list may run ahead of its quote and still be read on from there.
const AHEAD: usize = 8 * 1024;

/// NVIDIA's modules as they were loaded: `ima.module.nvidia_uvm`.
pub(super) const MODULE: &str = "ima.module.";
/// What begins their names, and most of them; the driver has six.
const MODULES: (&[u8], usize) = (b"nvidia", 16);
/// Ends of a module's file: as it is, or compressed.
const MODULE_ENDS: [&[u8]; 4] = [b".ko", b".ko.xz", b".ko.zst", b".ko.gz"];

/// Whether the profile asks about the list.
fn asked(profile: &Profile) -> bool {
    let mut claims = profile.requirements.iter();
    profile.ima.is_some() || profile.strict.is_some() || claims.any(|one| is_ima(&one.claim))
}

/// Whether anything depends on the list: what was taken back is looked for unasked.
pub(super) fn wanted(profile: &Profile) -> bool {
    asked(profile) || !profile.revoked.is_empty()
}

/// A list that met a quote: where, and what the entries up to there are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Progress {
    /// Name of the list, with what it holds beyond the quote; nothing goes on from one without.
    list: Option<Sha256Digest>,
    position: Position,
    /// The entries beyond the quote.
    ahead: Vec<u8>,
    tally: Tally,
}

impl Progress {
    /// `None` without a name.
    pub(super) fn named(self, list: Option<Sha256Digest>) -> Option<Self> {
        list.is_some().then_some(Self { list, ..self })
    }
}

/// What the entries are that a quote covers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Tally {
    /// There was one.
    begun: bool,
    /// What the first one says of the registers; `None`: it does not.
    first: Option<Aggregate>,
    violations: u64,
    kernels: u64,
    listed: u64,
    signed: u64,
    unknown: u64,
    /// Files that are refused or unknown, the first of them by name, and how many more; what the
    /// profile takes back; whether the agent's program is among them.
    files: Part,
    named: usize,
    more: u64,
    /// Digests of NVIDIA's modules by the name of their file, of each the last that was loaded.
    modules: BTreeMap<String, KnownDigest>,
}

/// A list that was counted.
struct Counted {
    tally: Tally,
    /// How many entries that are.
    at: usize,
    /// Where to read on, and what follows that; of text, of more than may be ahead, and where no TPM
    /// signed, `None`.
    rest: Option<(Position, Vec<u8>)>,
}

/// One statement's list, and what it is held against.
pub(super) struct Against<'a> {
    evidence: &'a VerifiedEvidence,
    profile: &'a Profile,
    bank: HashAlgorithm,
    now: UnixTime,
}

impl<'a> Against<'a> {
    pub(super) const fn new(
        evidence: &'a VerifiedEvidence,
        profile: &'a Profile,
        now: UnixTime,
    ) -> Self {
        Self {
            evidence,
            profile,
            bank: hash_of(profile.tpm.bank),
            now,
        }
    }

    /// Replays the list from its first entry and judges what it is made of. Of lists in binary form
    /// that do not run far ahead of the quote it says where to read on.
    pub(super) fn read(&self) -> (Part, Option<Progress>) {
        let absent = self.evidence.ima_list.is_none();
        let read = wanted(self.profile).then(|| self.replayed());
        let (part, progress) = match read {
            None => (Part::default(), None),
            Some(Ok(Counted { tally, at, rest })) => {
                let part = self.concluded(&tally, at);
                let progress = rest.map(|(position, ahead)| Progress {
                    list: None,
                    position,
                    ahead,
                    tally,
                });
                (part, progress)
            }
            Some(Err(fault)) if asked(self.profile) => (fault, None),
            Some(Err(_unasked)) => (Part::default(), None),
        };
        (Part { absent, ..part }, progress)
    }

    /// What the entries are that the quote covers; where no TPM signed, all of them, by the node's word.
    fn replayed(&self) -> Result<Counted, Part> {
        let mut fault = Part::default();
        let quoted = self.quoted();
        if quoted.is_none() && !self.evidence.alone() {
            let found = "PCR 10 is not in the quote".to_owned();
            fault.refuse(LIST, "pcr-not-quoted", WANT, found);
            return Err(fault);
        }
        let Some(bytes) = &self.evidence.ima_list else {
            let found = "neither in this envelope nor kept from an earlier one".to_owned();
            fault.deviate(LIST, Finding::Unchecked, "ima-list-missing", WANT, found);
            return Err(fault);
        };
        let list = List::parse(bytes).map_err(|error| {
            let why = std::error::Error::source(&error);
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            let mut fault = Part::default();
            fault.refuse(LIST, "ima-list-malformed", WANT, format!("{error}{why}"));
            fault
        })?;
        let mut tally = Tally::default();
        let Some(quoted) = quoted else {
            self.count(&mut tally, &list, 0, list.len());
            return Ok(Counted {
                tally,
                at: list.len(),
                rest: None,
            });
        };
        let Some(position) = Position::find(&list, self.bank, quoted.as_slice()) else {
            let found = format!("{} entries, after none of which it is so", list.len());
            fault.refuse(LIST, "ima-replay", WANT, found);
            return Err(fault);
        };
        let ahead = self.count(&mut tally, &list, 0, position.at());
        let binary = list.form() == Form::Binary && ahead.len() <= AHEAD;
        let ahead = binary.then(|| ahead.to_vec());
        Ok(Counted {
            tally,
            at: position.at(),
            rest: ahead.map(|ahead| (position, ahead)),
        })
    }

    /// The same of what came since `earlier`. `None`: it does not follow, or does not lead to what is
    /// quoted now.
    pub(super) fn read_on(&self, earlier: &Progress) -> Option<(Part, Progress)> {
        let quoted = self.quoted()?;
        let (list, more) = self.evidence.list_since(earlier.list.as_ref()?)?;
        let bytes = [&earlier.ahead, more].concat();
        let more = List::following(&earlier.position, &bytes).ok()?;
        let position = earlier.position.advance(&more, quoted.as_slice())?;
        let mut tally = earlier.tally.clone();
        let ahead = self.count(&mut tally, &more, earlier.position.at(), position.at());
        let ahead = (ahead.len() <= AHEAD).then(|| ahead.to_vec())?;
        let progress = Progress {
            list: Some(list),
            position,
            ahead,
            tally,
        };
        Some((
            self.concluded(&progress.tally, progress.position.at()),
            progress,
        ))
    }

    fn quoted(&self) -> Option<&Digest> {
        self.evidence.register(self.bank, IMA_PCR)
    }

    /// Counts the entries after `from` and up to `to`; answers what follows them. What follows was
    /// measured after the quote, and the next one shows it.
    fn count<'l>(&self, tally: &mut Tally, list: &'l List<'_>, from: usize, to: usize) -> &'l [u8] {
        let mut entries = list.entries();
        for number in from..to {
            if let Some(entry) = entries.next() {
                self.entry(tally, as_u64(number).saturating_add(1), &entry);
            }
        }
        entries.rest()
    }

    /// What was not extended into PCR 10 was not proven.
    fn entry(&self, tally: &mut Tally, number: u64, entry: &Entry<'_>) {
        if entry.pcr != ima::IMA_PCR {
            return;
        }
        let first = !tally.begun;
        if first {
            tally.begun = true;
            tally.first = self.aggregate_of(entry);
        }
        tally.kernels += u64::from(ima::is_aggregate(entry));
        if entry.is_violation() {
            tally.violations += 1;
            return;
        }
        self.digest(tally, entry);
        module(tally, entry);
        let ima = self.profile.ima.as_ref();
        if let Some(files) = ima.and_then(|ima| ima.files.as_ref()) {
            self.file(tally, files, number, entry, first);
        }
    }

    /// What the profile says of a digest by itself.
    fn digest(&self, tally: &mut Tally, entry: &Entry<'_>) {
        let strict = self.profile.strict.as_ref();
        let strict = strict.filter(|_| !tally.files.agent);
        if strict.is_none() && self.profile.revoked.is_empty() {
            return;
        }
        let Some(measured) = entry.file_digest() else {
            return;
        };
        tally.files.agent |= strict.is_some_and(|strict| strict.agent.contains(measured.digest));
        let revoked = &mut tally.files.revoked;
        let told = |(_, digest): &(String, Vec<u8>)| digest == measured.digest;
        if self.profile.revoked.contains_key(measured.digest) && !revoked.iter().any(told) {
            revoked.push((FILE.to_owned(), measured.digest.to_vec()));
        }
    }

    /// One entry by its content.
    fn file(
        &self,
        tally: &mut Tally,
        files: &FilesProfile,
        number: u64,
        entry: &Entry<'_>,
        first: bool,
    ) {
        let refused = match files.known.judge(entry, self.now) {
            Ok(Judged::Listed(_)) => {
                tally.listed += 1;
                return;
            }
            Ok(Judged::Signed(_)) => {
                tally.signed += 1;
                return;
            }
            Ok(Judged::Unjudged(_)) => return,
            Err(refused) => refused,
        };
        let unknown = matches!(refused, FileRefused::Unknown { .. });
        if unknown && self.is_registers(entry, first) {
            return;
        }
        tally.unknown += 1;
        if tally.named == NAMED {
            tally.more += 1;
            return;
        }
        tally.named += 1;
        let finding = match unknown && !files.refuse_unknown {
            true => Finding::Warning,
            false => Finding::Refused,
        };
        let found = told(number, entry, &refused, files);
        let part = &mut tally.files;
        part.deviate(FILE, finding, refused.code(), KNOWN, found);
    }

    /// A `boot_aggregate` is known by the registers. The first one is the kernel's own, and what they do not
    /// show of it has been told already; any file may be called so.
    fn is_registers(&self, entry: &Entry<'_>, first: bool) -> bool {
        match self.aggregate_of(entry) {
            Some(Aggregate::Same | Aggregate::SameFirmware) => true,
            Some(Aggregate::Zero | Aggregate::Unchecked) => first,
            Some(Aggregate::Other) | None => false,
        }
    }

    fn aggregate_of(&self, entry: &Entry<'_>) -> Option<Aggregate> {
        let quoted = |index| self.evidence.register(self.bank, index);
        ima::boot_aggregate(entry, self.bank, quoted)
    }

    /// What the entries come to.
    fn concluded(&self, tally: &Tally, at: usize) -> Part {
        let mut part = Part {
            agent: tally.files.agent,
            aggregate: tally.first,
            revoked: tally.files.revoked.clone(),
            ..Part::default()
        };
        if !asked(self.profile) {
            return part;
        }
        let ima = self.profile.ima.as_ref();
        let alone = self.evidence.alone();
        if alone && ima.is_some() {
            part.unsigned(LIST, WANT);
        }
        if let Some(most) = ima.and_then(|ima| ima.max_violations)
            && tally.violations > most
        {
            let expected = format!("at most {most} files that changed while they were measured");
            let found = tally.violations.to_string();
            part.refuse("ima.violations", "ima-violations", &expected, found);
        }
        let mut rows = vec![
            ("ima.entries", Value::Number(as_u64(at))),
            ("ima.violations", Value::Number(tally.violations)),
            ("ima.kernels", Value::Number(tally.kernels)),
        ];
        // Without a TPM the kernel has nothing to write there.
        if !alone && let Some(same) = aggregate(&mut part, tally.first) {
            rows.push(("ima.boot_aggregate", Value::Flag(same)));
        }
        if let Some(files) = ima.and_then(|ima| ima.files.as_ref()) {
            rows.extend([
                ("ima.listed", Value::Number(tally.listed)),
                ("ima.signed", Value::Number(tally.signed)),
                ("ima.unknown", Value::Number(tally.unknown)),
            ]);
            part.deviations.extend(tally.files.deviations.clone());
            if tally.more > 0 {
                let finding = match files.refuse_unknown {
                    true => Finding::Refused,
                    false => Finding::Warning,
                };
                let found = format!("{} more that are not", tally.more);
                part.deviate(FILE, finding, "file-more", KNOWN, found);
            }
        }
        let modules = tally.modules.iter().map(|(name, digest)| {
            let value = Value::Text(digest.to_string());
            (format!("{MODULE}{name}"), value)
        });
        let rows = rows
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        let provenance = match alone {
            true => Provenance::SelfReported,
            false => Provenance::Measured,
        };
        part.claims = rows
            .chain(modules)
            .map(|(name, value)| (name, AppraisedClaim { value, provenance }))
            .collect();
        part
    }
}

/// Takes note of a module. The kernel measures a file again when it is loaded after it changed, or
/// from elsewhere. A name is chosen by whoever made the file: this tells which file was loaded under
/// that name, not that nothing was loaded under another; what may be loaded at all says `[ima]`.
fn module(tally: &mut Tally, entry: &Entry<'_>) {
    let (head, most) = MODULES;
    let path = entry.file_name().unwrap_or_default();
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let stem = MODULE_ENDS.iter().find_map(|end| file.strip_suffix(*end));
    let Some(stem) = stem.filter(|stem| stem.starts_with(head) && stem.len() <= 64) else {
        return;
    };
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(b);
    let measured = entry.file_digest().as_ref().and_then(KnownDigest::of);
    let (Some(measured), true) = (measured, stem.iter().all(plain)) else {
        return;
    };
    // The kernel writes one where files have the other.
    let name = String::from_utf8_lossy(stem).replace('-', "_");
    if tally.modules.len() < most || tally.modules.contains_key(&name) {
        tally.modules.insert(name, measured);
    }
}

/// The first entry ties the list to the registers of the boot before it.
fn aggregate(part: &mut Part, found: Option<Aggregate>) -> Option<bool> {
    const CLAIM: &str = "ima.boot_aggregate";
    const WANT: &str = "a first entry boot_aggregate over the quoted PCRs 0 to 9";
    let (finding, code, found) = match found {
        Some(Aggregate::Same | Aggregate::SameFirmware) => return Some(true),
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
    part.deviate(CLAIM, finding, code, WANT, found.to_owned());
    Some(false)
}

fn as_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
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
