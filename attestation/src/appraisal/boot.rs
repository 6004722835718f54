//! What was booted, and what the kernel measured since: logs held against the registers quoted.
//!
//! A claim is made of an event only where the register it was extended into replays to what the
//! TPM signed for, and it is of no account that a node says the same in its statement: names that
//! stand here are answered here or not at all.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    booted,
    claims::{Found, hash_of},
    ima,
    logs::{LogsRead, Part},
    result::{AppraisedClaim, AttestationResult, Finding},
    verify::VerifiedEvidence,
};
use crate::{
    boot::{self, EventLog, Facts, Format, Replay, UserspaceLog},
    crypto::{Digest, HashAlgorithm},
    ids::UnixTime,
    profile::{BootProfile, Profile, Provenance, Value},
};

/// Claims that are made of the boot log, and of nothing else.
const BOOT: [&str; 22] = [
    "boot.secure_boot",
    "boot.firmware_version",
    "boot.pk",
    "boot.kek",
    "boot.db",
    "boot.dbx",
    "boot.authorities",
    "boot.sbat_level",
    "boot.applications",
    "boot.drivers",
    "boot.mok_list",
    "boot.mok_list_x",
    "boot.mok_list_trusted",
    "boot.command_line",
    "boot.files",
    "boot.initrd",
    "boot.load_options",
    "boot.firmware_blobs",
    "boot.order",
    "boot.grub_commands",
    "boot.extensions",
    "boot.phases",
];
/// Sections of a unified kernel image: `boot.section.linux`.
const SECTION: &str = "boot.section.";
/// Claims that are made of the measurement list.
const IMA: [&str; 7] = [
    "ima.entries",
    "ima.violations",
    "ima.kernels",
    "ima.boot_aggregate",
    "ima.listed",
    "ima.signed",
    "ima.unknown",
];

/// Registers that firmware, boot loaders and shim fill, and nothing after them. Whatever else they
/// hold stands in no log.
const FIRMWARE_ONLY: [u8; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14];
/// The register of unified kernel images, which systemd extends at each of these points.
const UNIFIED_IMAGE: u8 = 11;
const PHASES: [&str; 6] = [
    "enter-initrd",
    "leave-initrd",
    "sysinit",
    "ready",
    "shutdown",
    "final",
];
/// The kernel's measurement list.
pub(super) const IMA_PCR: u8 = 10;
/// One more than the highest register that logs of a boot are about.
const REGISTERS: u8 = 16;
/// Registers of a TDX guest that its firmware fills, and nothing after it, as its log numbers them.
const GUESTS_FIRMWARE_ONLY: [u8; 2] = [1, 2];

/// What logs show, at hand for whoever demands it.
pub(super) struct Measured(pub(super) Arc<LogsRead>);

/// Reads the logs that the profile asks about and holds them against the quoted registers.
pub(super) fn judge(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    profile: &Profile,
    now: UnixTime,
) -> Measured {
    let read = evidence.logs_under(profile, now);
    for part in [&*read.boot, &read.ima] {
        for deviation in &part.deviations {
            result.deviate(deviation.clone());
        }
    }
    Measured(read)
}

/// What the boot log shows.
pub(super) fn read(evidence: &VerifiedEvidence, profile: &Profile) -> Part {
    let mut part = Part {
        absent: evidence.boot_log.is_none(),
        ..Part::default()
    };
    let mut claims = profile.requirements.iter();
    let asked = claims.any(|one| is_boot(&one.claim));
    let revoked = !profile.revoked.is_empty();
    if profile.boot.is_none() && profile.strict.is_none() && !revoked && !asked {
        return part;
    }
    let bank = hash_of(profile.tpm.bank);
    let none = BootProfile::default();
    let boot = profile.boot.as_ref().unwrap_or(&none);
    let fence = profile.fence.map(|fence| fence.pcr);
    let mut look = Look {
        part: &mut part,
        evidence,
        bank,
    };
    look.boot(boot, fence, profile.boot.is_some());
    if revoked {
        part.revoked = taken_back(evidence, profile, bank);
    }
    part
}

/// Digests of the log that the profile takes back. A log that does not replay is refused for that;
/// what it names is looked at all the same.
fn taken_back(
    evidence: &VerifiedEvidence,
    profile: &Profile,
    bank: HashAlgorithm,
) -> Vec<(String, Vec<u8>)> {
    let log = evidence.boot_log.as_deref().map(EventLog::parse);
    let Some(Ok(log)) = &log else {
        return Vec::new();
    };
    let bank = bank_of(log, bank);
    let events = log.events().iter().filter(|event| event.extends());
    let named = events.filter_map(|event| {
        let digest = log.digest(event, bank)?;
        let name = register_name(log.format(), event.register);
        let revoked = profile.revoked.contains_key(digest);
        revoked.then(|| (name, digest.to_vec()))
    });
    named.collect()
}

/// Whether the profile asks about boot logs or measurement lists, so that somebody who kept them
/// has to look for them.
#[must_use]
pub fn asks_logs(profile: &Profile) -> bool {
    let mut claims = profile.requirements.iter().map(|one| one.claim.as_str());
    profile.boot.is_some()
        || profile.ima.is_some()
        || profile.strict.is_some()
        || !profile.revoked.is_empty()
        || claims.any(|one| is_boot(one) || is_ima(one))
}

fn is_boot(claim: &str) -> bool {
    BOOT.contains(&claim) || claim.starts_with(SECTION)
}

pub(super) fn is_ima(claim: &str) -> bool {
    IMA.contains(&claim) || claim.starts_with(ima::MODULE)
}

impl Measured {
    /// What the logs say under that name; `None` where the name is none of theirs. Of a log that is
    /// missing nobody can tell what it would have said.
    pub(super) fn find(&self, claim: &str) -> Option<Found> {
        let (boot, ima) = (is_boot(claim), is_ima(claim));
        if !boot && !ima {
            return None;
        }
        if boot && self.0.boot.absent {
            return Some(Found::Unavailable("no boot event log".to_owned()));
        }
        if ima && self.0.ima.absent {
            return Some(Found::Unavailable("no measurement list".to_owned()));
        }
        let part = if boot { &*self.0.boot } else { &self.0.ima };
        Some(part.claims.get(claim).map_or(Found::Missing, |claim| {
            Found::Is(claim.value.clone(), claim.provenance)
        }))
    }

    /// Shows them all.
    pub(super) fn note(&self, result: &mut AttestationResult) {
        for (name, claim) in self.0.boot.claims.iter().chain(&self.0.ima.claims) {
            result.note(name.clone(), claim.clone());
        }
    }
}

struct Look<'a> {
    part: &'a mut Part,
    evidence: &'a VerifiedEvidence,
    bank: HashAlgorithm,
}

impl Look<'_> {
    fn refuse(&mut self, claim: &str, code: &str, expected: &str, found: String) {
        self.part.refuse(claim, code, expected, found);
    }

    fn put(&mut self, name: String, value: Value, provenance: Provenance) {
        let claim = AppraisedClaim { value, provenance };
        self.part.claims.insert(name, claim);
    }

    /// `demanded`: the profile asks more of the log than what it shows.
    fn boot(&mut self, profile: &BootProfile, fence: Option<u8>, demanded: bool) {
        const LOG: &str = "boot.log";
        const WANT: &str = "the boot event log of this boot";
        let Some(bytes) = self.evidence.boot_log.clone() else {
            let found = "neither in this envelope nor kept from an earlier one".to_owned();
            let part = &mut self.part;
            part.deviate(LOG, Finding::Unchecked, "boot-log-missing", WANT, found);
            return;
        };
        let log = match EventLog::parse(&bytes) {
            Ok(log) => log,
            Err(error) => {
                let why = std::error::Error::source(&error);
                let why = why.map_or_else(|| error.to_string(), ToString::to_string);
                self.refuse(LOG, "boot-log-malformed", WANT, why);
                return;
            }
        };
        self.bank = bank_of(&log, self.bank);
        if let Err(error) = log.choose(Some(self.bank)) {
            self.refuse(LOG, error.code(), WANT, error.to_string());
            return;
        }
        let guests = log.format() == Format::Ccel;
        let alone = self.evidence.alone();
        if guests && !alone {
            let found = "one over the registers of a TDX guest".to_owned();
            self.refuse(
                LOG,
                "boot-log-of-guest",
                "a log over the TPM's registers",
                found,
            );
            return;
        }
        let content = boot::examine(&log, self.bank, &profile.quirks);
        for finding in &content.refusals {
            let at = finding.offset.unwrap_or_default();
            let found = format!("{}.{} at offset {at}", finding.detail, finding.field);
            self.refuse(LOG, finding.code, "a log without contradiction", found);
        }
        let good = match (alone, guests && self.evidence.rtmrs().is_some()) {
            (false, _) => self.replayed(&log, profile, fence),
            (true, true) => self.replayed_in_guest(&log),
            (true, false) => {
                if demanded {
                    self.part.unsigned(LOG, "a log that replays to registers");
                }
                let said = |register| (register, Provenance::SelfReported);
                (0..REGISTERS).map(said).collect()
            }
        };
        if content.refusals.is_empty() {
            let facts = Facts::of(&log, self.bank);
            for row in booted::rows(&facts, content.secure_boot, log.format()) {
                let Some(own) = good.get(&row.register) else {
                    continue;
                };
                // One that is not quoted may hold anything, and be said to hold nothing.
                let besides = row.besides.iter();
                let besides = besides.map(|other| good.get(other).copied());
                let worst = besides.map(|other| other.unwrap_or(Provenance::SelfReported));
                let provenance = worst.chain([row.best]).fold(*own, Provenance::min);
                self.put(format!("boot.{}", row.name), row.value, provenance);
            }
        }
    }

    /// Registers of the TPM that the log explains, and what it is worth there.
    fn replayed(
        &mut self,
        log: &EventLog<'_>,
        profile: &BootProfile,
        fence: Option<u8>,
    ) -> BTreeMap<u8, Provenance> {
        let replay = log.replay(self.bank);
        let later = self.userspace();
        let mut good: BTreeMap<u8, Provenance> = BTreeMap::new();
        for register in (0..REGISTERS).filter(|one| *one != IMA_PCR && Some(*one) != fence) {
            if profile.unreplayable.contains(&register) {
                good.insert(register, Provenance::SelfReported);
            } else if let Some(events) = self.register(register, log, &replay, &later) {
                good.insert(register, Provenance::Measured);
                if register == UNIFIED_IMAGE && events > 0 {
                    let phases = later.phases(self.bank, events).join(":");
                    let phases = Value::Text(phases);
                    self.put("boot.phases".to_owned(), phases, Provenance::Measured);
                }
            }
        }
        good
    }

    /// The same of a TDX guest's registers, by their numbers in the log: 1 to 4 are RTMR 0 to 3. What of
    /// the quote they stand in is its processor's, the result says.
    fn replayed_in_guest(&mut self, log: &EventLog<'_>) -> BTreeMap<u8, Provenance> {
        let replay = log.replay(self.bank);
        let mut good: BTreeMap<u8, Provenance> = BTreeMap::new();
        let quoted = self.evidence.rtmrs().into_iter().flatten();
        for (register, quoted) in (1_u8..).zip(quoted) {
            let extended = replay.values.get(&register.into()).cloned();
            // What is extended later stands in no log.
            if extended.is_none() && !GUESTS_FIRMWARE_ONLY.contains(&register) {
                continue;
            }
            let found = extended.unwrap_or_else(|| log.start(self.bank, register.into()));
            if found == *quoted {
                good.insert(register, Provenance::Measured);
            } else {
                let claim = register_name(log.format(), register.into());
                let expected = format!("{found}, by the boot event log");
                let found = format!("{quoted}, quoted");
                self.refuse(&claim, "boot-log-replay", &expected, found);
            }
        }
        good
    }

    /// What systemd measured after the log; nothing where it kept no log of its own.
    fn userspace(&mut self) -> UserspaceLog {
        const LOG: &str = "boot.userspace_log";
        const WANT: &str = "the log of what user space measured in this boot";
        let Some(bytes) = self.evidence.userspace_log.clone() else {
            return UserspaceLog::default();
        };
        UserspaceLog::parse(&bytes).unwrap_or_else(|error| {
            self.refuse(LOG, error.code(), WANT, error.to_string());
            UserspaceLog::default()
        })
    }

    /// After how many events of user space the logs explain what the register holds; `None`: after
    /// none. A register that is not quoted shows nothing.
    fn register(
        &mut self,
        register: u8,
        log: &EventLog<'_>,
        replay: &Replay,
        later: &UserspaceLog,
    ) -> Option<usize> {
        let quoted = self.evidence.register(self.bank, register)?.clone();
        let index = u32::from(register);
        let found = match replay.values.get(&index) {
            Some(value) => value.clone(),
            // Nothing was extended, so it holds what it began with.
            None if FIRMWARE_ONLY.contains(&register) => log.start(self.bank, index),
            // What comes later may stand in no log at all, and then it is not this one's to explain.
            None => return later.leads(self.bank, register, &log.start(self.bank, index), &quoted),
        };
        if let Some(events) = later.leads(self.bank, register, &found, &quoted) {
            return Some(events);
        }
        if register == UNIFIED_IMAGE && phases(self.bank, &found, &quoted) {
            return Some(0);
        }
        let claim = register_name(log.format(), index);
        let expected = format!("{found}, by the boot event log");
        let found = format!("{quoted}, quoted");
        self.refuse(&claim, "boot-log-replay", &expected, found);
        None
    }
}

/// The bank to read a log in: a guest's has one alone.
fn bank_of(log: &EventLog<'_>, bank: HashAlgorithm) -> HashAlgorithm {
    match log.format() {
        Format::Ccel => HashAlgorithm::Sha384,
        Format::CryptoAgile | Format::Sha1 => bank,
    }
}

/// What a register is called where a log does not explain it.
fn register_name(format: Format, register: u32) -> String {
    match (format, register.checked_sub(1)) {
        (Format::Ccel, Some(rtmr)) => format!("boot.log.rtmr.{rtmr}"),
        _ => format!("boot.log.pcr.{register}"),
    }
}

/// The register after some of the points that systemd extends it at, from the first on.
fn phases(bank: HashAlgorithm, replayed: &Digest, quoted: &Digest) -> bool {
    let mut value = replayed.clone();
    PHASES.iter().any(|phase| {
        let word = bank.digest(&[phase.as_bytes()]).unwrap_or_default();
        value = bank
            .digest(&[value.as_slice(), word.as_slice()])
            .unwrap_or_default();
        value == *quoted
    })
}

#[cfg(test)]
mod tests {
    use super::asks_logs;
    use crate::{fixture::PROFILE, profile::Profile};

    #[test]
    fn a_profile_that_asks_nothing_of_the_logs_has_nobody_look_for_them() {
        let claim = |claim: &str| {
            format!("[[require]]\nclaim = \"{claim}\"\nis = true\nprovenance = \"self-reported\"\n")
        };
        let rows = [
            ("nothing", String::new(), false),
            ("another claim", claim("host.lockdown"), false),
            ("boot", "[boot]\n".to_owned(), true),
            ("ima", "[ima]\n".to_owned(), true),
            ("a claim of the boot log", claim("boot.secure_boot"), true),
            ("one of its sections", claim("boot.section.linux"), true),
            ("a claim of the list", claim("ima.entries"), true),
            (
                "what is taken back",
                format!(
                    "[[revoked]]\ndigest = \"{}\"\nreason = \"CVE\"\n",
                    "07".repeat(32)
                ),
                true,
            ),
        ];
        for (name, more, want) in rows {
            let text = format!("{PROFILE}\n{more}");
            let profile = Profile::parse("profile.toml", text.as_bytes()).unwrap();
            assert_eq!(asks_logs(&profile), want, "{name}");
        }
    }
}
