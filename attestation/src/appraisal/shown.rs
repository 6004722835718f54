//! Everything that one piece of evidence shows, under the names by which a profile can demand it.
//!
//! What drafts a profile and what compares two points of time read evidence here, with the code that
//! judges it, so that nothing is drafted or told that an appraisal would see otherwise.

use std::collections::BTreeMap;

use super::{
    boot, claims,
    fence::{self, FenceClaims, LogSays},
    result::{AppraisedClaim, AttestationResult, Deviation},
    verify::VerifiedEvidence,
    voice::{TpmKind, voice},
};
use crate::{
    crypto::HashAlgorithm,
    evidence::ClaimValue,
    fence_log,
    ids::{Sha256Digest, UnixTime},
    ima,
    profile::{FENCE_PCR_MAX, FenceProfile, ImaProfile, Profile, Provenance, Value},
};

/// What evidence shows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Shown {
    /// By name, each with who says so.
    pub claims: BTreeMap<String, AppraisedClaim>,
    /// What kept claims from being made: logs that are missing, malformed or do not replay.
    pub faults: Vec<Deviation>,
    /// Files of the measurement list that a profile can list: digest as it is spelt there, and name.
    pub files: BTreeMap<String, String>,
    /// The register that the fence's log replays to: the profile's, or the one that was found.
    pub fence: Option<u8>,
}

/// Reads all of it. Of `profile` counts how it has logs read (bank, quirks, registers that do not
/// replay, the fence's register), and nothing of what it demands. No processor is heard: a guest's TPM is
/// held for its provider's.
#[must_use]
pub fn shown(evidence: &VerifiedEvidence, tpm: TpmKind, profile: &Profile) -> Shown {
    let mut look = profile.clone();
    // What was read under the profile itself does not answer for this.
    look.digest = Sha256Digest([0; 32]);
    look.requirements.clear();
    look.revoked.clear();
    look.strict = None;
    look.boot.get_or_insert_default();
    look.ima = Some(ImaProfile::default());
    look.fence = profile.fence.or_else(|| register(evidence, profile));
    let bank = claims::hash_of(profile.tpm.bank);
    let mut result = AttestationResult::empty(evidence, UnixTime(0));
    result.tpm = voice(evidence, tpm, None);
    let logged = look.fence;
    let shown = logged.map_or(LogSays::Nothing, |log| {
        fence::replay(&mut result, evidence, log.pcr, bank)
    });
    FenceClaims::new(evidence, &shown).note(&mut result);
    let measured = boot::judge(&mut result, evidence, &look, UnixTime(0));
    measured.note(&mut result);
    let mut shown = Shown {
        files: files(evidence, bank),
        fence: look.fence.map(|log| log.pcr),
        ..Shown::default()
    };
    let best = result.by("tpm.", Provenance::HardwareSigned);
    for submod in result.submods.into_values() {
        shown.claims.extend(submod.claims);
        shown.faults.extend(submod.deviations);
    }
    let mut put = |name: String, value, provenance| {
        let claim = AppraisedClaim { value, provenance };
        shown.claims.entry(name).or_insert(claim);
    };
    let hardware = best;
    for (found, index, digest) in evidence.registers().filter(|(found, ..)| *found == bank) {
        let value = Value::Text(digest.to_string());
        put(format!("tpm.pcr.{found}.{index}"), value, hardware);
    }
    if let Some(version) = evidence.firmware_version() {
        let version = Value::Text(format!("{version:016x}"));
        put("tpm.firmware_version".to_owned(), version, hardware);
    }
    for (name, value) in &evidence.statement.claims {
        let value = match value {
            ClaimValue::Text(text) => Value::Text(text.clone()),
            ClaimValue::Number(number) => Value::Number(*number),
            ClaimValue::Flag(flag) => Value::Flag(*flag),
            ClaimValue::Data(data) => Value::Text(hex::encode(data)),
            ClaimValue::Unavailable(_) => continue,
        };
        // Names that logs answer are not the statement's to fill.
        if measured.find(name).is_none() {
            put(name.clone(), value, Provenance::SelfReported);
        }
    }
    shown
}

/// What the list holds up to where it meets the quote.
fn files(evidence: &VerifiedEvidence, bank: HashAlgorithm) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let list = evidence.ima_list.as_deref().map(ima::List::parse);
    let (Some(Ok(list)), Some(quoted)) = (list, evidence.register(bank, boot::IMA_PCR)) else {
        return files;
    };
    let Some(matched) = ima::match_pcr(&list, bank, quoted.as_slice()) else {
        return files;
    };
    let entries = list.entries().take(matched.at);
    let own = entries.filter(|entry| {
        entry.pcr == ima::IMA_PCR && !entry.is_violation() && !ima::is_aggregate(entry)
    });
    for entry in own {
        let digest = entry.file_digest();
        if let Some(digest) = digest.as_ref().and_then(ima::KnownDigest::of) {
            let name = String::from_utf8_lossy(entry.file_name().unwrap_or_default());
            files
                .entry(digest.to_string())
                .or_insert_with(|| name.into_owned());
        }
    }
    files
}

/// The register that the fence's log replays to, where no profile says which.
fn register(evidence: &VerifiedEvidence, profile: &Profile) -> Option<FenceProfile> {
    let bank = claims::hash_of(profile.tpm.bank);
    let log = evidence
        .fence_log
        .as_deref()
        .filter(|log| !log.is_empty())?;
    let mut registers = 0..=FENCE_PCR_MAX;
    let pcr = registers.find(|index| {
        let quoted = evidence.register(bank, *index);
        quoted.is_some_and(|quoted| fence_log::replay(log, bank, quoted).is_ok())
    })?;
    Some(FenceProfile { pcr })
}
