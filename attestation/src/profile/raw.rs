//! The profile as TOML spells it, and the checks that make a [`Profile`] of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::cvm::{self, RawCvm};
use super::gpu::{self, RawGpu};
use super::strict::{self, RawRevoked, RawStrict, revoked};
use super::{
    Alternative, Bank, BootProfile, Brake, Expected, FENCE_PCR_MAX, FenceProfile, Profile,
    Provenance, Requirement, TimeProfile, TpmProfile, Value, WorldProfile, claim_name, ima,
};
use crate::boot::Quirk;
use crate::term::Term;
use crate::toml_file::{FileError, TomlFile};
use crate::{NodeId, Sha256Digest, UnixTime};

/// Most requirements: every claim of a statement, several times over.
const REQUIREMENTS_LIMIT: usize = 256;
/// Most values of one PCR, and most alternatives of one claim: firmware versions in one fleet.
const ALTERNATIVES_LIMIT: usize = 256;
/// Most bytes of a text value: a kernel command line (`COMMAND_LINE_SIZE` is 2,048 on x86).
pub(super) const TEXT_LIMIT: usize = 4096;
/// Most bytes of what people call a value.
pub(super) const NAME_LIMIT: usize = 128;
/// PCRs of a PC Client TPM.
const PCR_COUNT: u8 = 24;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProfile {
    name: Spanned<String>,
    lease_seconds: Spanned<u32>,
    max_silence_seconds: Spanned<u32>,
    tpm: RawTpm,
    boot: Option<RawBoot>,
    ima: Option<ima::RawIma>,
    fence: Option<RawFence>,
    gpu: Option<RawGpu>,
    cvm: Option<RawCvm>,
    time: Option<RawTime>,
    #[serde(default)]
    world: RawWorld,
    #[serde(default)]
    revoked: Vec<RawRevoked>,
    strict: Option<RawStrict>,
    #[serde(default)]
    require: Vec<Spanned<RawRequirement>>,
    #[serde(default)]
    brake: RawBrake,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBrake {
    share_percent: Option<Spanned<u32>>,
    window_seconds: Option<Spanned<u32>>,
    min_nodes: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorld {
    sha256: Option<Spanned<String>>,
    max_age_days: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTpm {
    bank: Spanned<String>,
    require: Spanned<Vec<Spanned<u8>>>,
    #[serde(default)]
    values: BTreeMap<String, Spanned<Vec<Spanned<toml::Value>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBoot {
    #[serde(default)]
    quirks: Vec<Spanned<String>>,
    #[serde(default)]
    unreplayable: Vec<Spanned<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFence {
    pcr: Spanned<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTime {
    warn_skew_seconds: Option<Spanned<u32>>,
    max_skew_seconds: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequirement {
    claim: Spanned<String>,
    is: Option<Spanned<toml::Value>>,
    one_of: Option<Spanned<Vec<Spanned<toml::Value>>>>,
    at_least: Option<Spanned<u64>>,
    any: Option<Vec<RawAlternative>>,
    provenance: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAlternative {
    is: Spanned<toml::Value>,
    name: Option<Spanned<String>>,
    not_before: Option<Spanned<String>>,
    not_after: Option<Spanned<String>>,
    revoked: Option<Spanned<String>>,
}

pub(super) fn check(
    file: &TomlFile<'_>,
    raw: RawProfile,
    digest: Sha256Digest,
) -> Result<Profile, FileError> {
    if let Err(err) = NodeId::new(raw.name.get_ref()) {
        return Err(file.error(raw.name.span(), err.fault));
    }
    let lease_seconds = within(file, &raw.lease_seconds, 86_400)?;
    let max_silence_seconds = within(file, &raw.max_silence_seconds, 604_800)?;
    let tpm = tpm(file, &raw.tpm, raw.cvm.is_some())?;
    let boot = raw.boot.map(|raw| boot(file, &raw, &tpm)).transpose()?;
    let fence = raw.fence.map(|raw| fence(file, &raw, &tpm)).transpose()?;
    let time = raw
        .time
        .map_or_else(|| Ok(TimeProfile::default()), |raw| time(file, &raw))?;
    if let Some(extra) = raw.require.get(REQUIREMENTS_LIMIT) {
        let fault = format!("more than {REQUIREMENTS_LIMIT} requirements");
        return Err(file.error(extra.span(), fault));
    }
    let mut seen = BTreeSet::new();
    let mut requirements = Vec::with_capacity(raw.require.len());
    for entry in &raw.require {
        let requirement = requirement(file, entry)?;
        if !seen.insert(requirement.claim.clone()) {
            let fault = format!("claim {:?} is named twice", requirement.claim);
            return Err(file.error(entry.get_ref().claim.span(), fault));
        }
        requirements.push(requirement);
    }
    let revoked = revoked(file, &raw.revoked)?;
    let strict = raw.strict.as_ref();
    let strict = strict.map(|raw| strict::strict(file, raw, &tpm, boot.as_ref(), &seen));
    let strict = strict.transpose()?;
    Ok(Profile {
        revoked,
        strict,
        name: raw.name.into_inner(),
        lease_seconds,
        max_silence_seconds,
        tpm,
        boot,
        ima: raw.ima.map(|raw| ima::check(file, &raw)).transpose()?,
        fence,
        gpu: raw.gpu.map(|raw| gpu::check(file, &raw)).transpose()?,
        cvm: raw.cvm.map(|raw| cvm::check(file, &raw)).transpose()?,
        time,
        requirements,
        world: world(file, &raw.world)?,
        brake: brake(file, &raw.brake)?,
        digest,
    })
}

/// Ten years: what is older has no country of today in it.
const AGE_LIMIT: u32 = 3650;

fn world(file: &TomlFile<'_>, raw: &RawWorld) -> Result<WorldProfile, FileError> {
    let digest = raw.sha256.as_ref().map(|text| {
        let bytes = hex::decode(text.get_ref()).ok();
        let digest = bytes.as_deref().and_then(Sha256Digest::from_slice);
        digest.ok_or_else(|| file.error(text.span(), "a SHA-256 is 64 hexadecimal digits"))
    });
    let days = raw.max_age_days.as_ref().map(|days| match *days.get_ref() {
        found @ 1..=AGE_LIMIT => Ok(found),
        found => {
            let fault = format!("{found} is not within 1 and {AGE_LIMIT} days");
            Err(file.error(days.span(), fault))
        }
    });
    Ok(WorldProfile {
        digest: digest.transpose()?,
        max_age_days: days.transpose()?,
    })
}

/// A share of 100 never holds anything back, and says so.
fn brake(file: &TomlFile<'_>, raw: &RawBrake) -> Result<Brake, FileError> {
    let limits = Brake {
        share_percent: 100,
        window_seconds: 86_400,
        min_nodes: 100_000,
    };
    let default = Brake::default();
    let number = |found: &Option<Spanned<u32>>, otherwise: u32, most: u32| match found {
        None => Ok(otherwise),
        Some(found) if (1..=most).contains(found.get_ref()) => Ok(*found.get_ref()),
        Some(found) => {
            let fault = format!("{} is not within 1 and {most}", found.get_ref());
            Err(file.error(found.span(), fault))
        }
    };
    Ok(Brake {
        share_percent: number(
            &raw.share_percent,
            default.share_percent,
            limits.share_percent,
        )?,
        window_seconds: number(
            &raw.window_seconds,
            default.window_seconds,
            limits.window_seconds,
        )?,
        min_nodes: number(&raw.min_nodes, default.min_nodes, limits.min_nodes)?,
    })
}

fn within(file: &TomlFile<'_>, found: &Spanned<u32>, most: u32) -> Result<u32, FileError> {
    let value = *found.get_ref();
    if value == 0 || value > most {
        let fault = format!("{value} is not within 1 and {most} seconds");
        return Err(file.error(found.span(), fault));
    }
    Ok(value)
}

/// `processor`: somebody else is asked beside the TPM, or in its place.
fn tpm(file: &TomlFile<'_>, raw: &RawTpm, processor: bool) -> Result<TpmProfile, FileError> {
    let bank = match raw.bank.get_ref().as_str() {
        "sha256" => Bank::Sha256,
        "sha384" => Bank::Sha384,
        other => {
            let fault = format!("{other:?} is no bank that is judged: sha256 or sha384");
            return Err(file.error(raw.bank.span(), fault));
        }
    };
    let mut require = BTreeSet::new();
    for index in raw.require.get_ref() {
        if *index.get_ref() >= PCR_COUNT {
            return Err(file.error(index.span(), "a PCR index is 0 to 23"));
        }
        if !require.insert(*index.get_ref()) {
            return Err(file.error(index.span(), "PCR is named twice"));
        }
    }
    if require.is_empty() && !processor {
        let fault =
            "a quote over no PCR says nothing: name at least one, or ask the processor: [cvm]";
        return Err(file.error(raw.require.span(), fault));
    }
    let mut values = BTreeMap::new();
    for (name, entry) in &raw.values {
        let index = pcr_index(name).ok_or_else(|| {
            let fault = format!("{name:?} is no PCR index (\"0\" to \"23\")");
            file.error(entry.span(), fault)
        })?;
        if !require.contains(&index) {
            let fault = format!("PCR {index} has values but is not in tpm.require");
            return Err(file.error(entry.span(), fault));
        }
        values.insert(index, digests(file, bank, entry)?);
    }
    Ok(TpmProfile {
        bank,
        require,
        values,
    })
}

/// A year is as good as never.
const SKEW_LIMIT: u32 = 366 * 86_400;

fn time(file: &TomlFile<'_>, raw: &RawTime) -> Result<TimeProfile, FileError> {
    let default = TimeProfile::default();
    let bounded = |found: &Option<Spanned<u32>>, default| {
        found
            .as_ref()
            .map_or(Ok(default), |found| within(file, found, SKEW_LIMIT))
    };
    let time = TimeProfile {
        warn_skew_seconds: bounded(&raw.warn_skew_seconds, default.warn_skew_seconds)?,
        max_skew_seconds: bounded(&raw.max_skew_seconds, default.max_skew_seconds)?,
    };
    if let Some(warn) = &raw.warn_skew_seconds
        && time.warn_skew_seconds > time.max_skew_seconds
    {
        let fault = "a warning that comes after time.max_skew_seconds never comes";
        return Err(file.error(warn.span(), fault));
    }
    Ok(time)
}

fn boot(file: &TomlFile<'_>, raw: &RawBoot, tpm: &TpmProfile) -> Result<BootProfile, FileError> {
    let mut boot = BootProfile::default();
    for name in &raw.quirks {
        let quirk = Quirk::from_name(name.get_ref()).ok_or_else(|| {
            let known: Vec<&str> = Quirk::ALL.into_iter().map(Quirk::name).collect();
            let fault = format!("{:?} is no quirk: {}", name.get_ref(), known.join(", "));
            file.error(name.span(), fault)
        })?;
        boot.quirks.push(quirk);
    }
    for pcr in &raw.unreplayable {
        if !tpm.require.contains(pcr.get_ref()) {
            let fault = "is not in tpm.require, so nothing is asked of it";
            return Err(file.error(pcr.span(), fault));
        }
        boot.unreplayable.insert(*pcr.get_ref());
    }
    Ok(boot)
}

/// Registers from 16 on are reset by whoever may open the TPM, or by a late launch: what was
/// extended there can be taken back.
fn fence(file: &TomlFile<'_>, raw: &RawFence, tpm: &TpmProfile) -> Result<FenceProfile, FileError> {
    let pcr = *raw.pcr.get_ref();
    if pcr > FENCE_PCR_MAX {
        let fault = "the fence's PCR is 0 to 15: only a reset of the TPM clears those";
        return Err(file.error(raw.pcr.span(), fault));
    }
    if tpm.values.contains_key(&pcr) {
        let fault = "has values in tpm.values; the fence's PCR is judged by its log";
        return Err(file.error(raw.pcr.span(), fault));
    }
    Ok(FenceProfile { pcr })
}

/// `"7"`, and no second spelling such as `"07"` or `"+7"`.
fn pcr_index(name: &str) -> Option<u8> {
    let index: u8 = name.parse().ok()?;
    (index < PCR_COUNT && index.to_string() == name).then_some(index)
}

fn digests(
    file: &TomlFile<'_>,
    bank: Bank,
    entry: &Spanned<Vec<Spanned<toml::Value>>>,
) -> Result<Vec<Alternative>, FileError> {
    not_empty_nor_huge(file, entry.span(), entry.get_ref().len())?;
    let values = entry.get_ref().iter();
    values
        .map(|value| register_value(file, bank, value))
        .collect()
}

/// A digest, or a table with a digest and its time.
fn register_value(
    file: &TomlFile<'_>,
    bank: Bank,
    entry: &Spanned<toml::Value>,
) -> Result<Alternative, FileError> {
    let at = entry.span();
    let mut members = toml::Table::new();
    match entry.get_ref() {
        toml::Value::Table(table) => members.clone_from(table),
        digest => drop(members.insert("is".to_owned(), digest.clone())),
    }
    let mut text = |key: &str| match members.remove(key) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(Spanned::new(at.clone(), text))),
        Some(other) => {
            let fault = format!("{key}: {} is not text", other.type_str());
            Err(file.error(at.clone(), fault))
        }
    };
    let digest = text("is")?.and_then(|digest| hex::decode(digest.get_ref()).ok());
    let digest = digest.filter(|digest| digest.len() == bank.digest_len());
    let Some(digest) = digest else {
        let want = bank.digest_len().saturating_mul(2);
        let fault = format!("a {bank} value is {want} hexadecimal digits");
        return Err(file.error(at, fault));
    };
    let (name, not_before) = (text("name")?, text("not_before")?);
    let (not_after, revoked) = (text("not_after")?, text("revoked")?);
    if let Some(key) = members.keys().next() {
        let fault = format!("{key:?} is none of is, name, not_before, not_after, revoked");
        return Err(file.error(at, fault));
    }
    let dates = (not_before.as_ref(), not_after.as_ref(), revoked.as_ref());
    Ok(Alternative {
        value: Value::Text(hex::encode(digest)),
        name: named(file, name.as_ref())?,
        term: term(file, dates)?,
    })
}

fn not_empty_nor_huge(
    file: &TomlFile<'_>,
    span: Range<usize>,
    count: usize,
) -> Result<(), FileError> {
    if count == 0 {
        return Err(file.error(span, "an empty list can never be met"));
    }
    if count > ALTERNATIVES_LIMIT {
        let fault = format!("{count} alternatives exceed the limit of {ALTERNATIVES_LIMIT}");
        return Err(file.error(span, fault));
    }
    Ok(())
}

fn requirement(
    file: &TomlFile<'_>,
    entry: &Spanned<RawRequirement>,
) -> Result<Requirement, FileError> {
    let raw = entry.get_ref();
    let claim = raw.claim.get_ref();
    if !claim_name(claim) {
        let fault = "a claim is 1 to 128 of a-z, 0-9, '.', '_', '-', '/'";
        return Err(file.error(raw.claim.span(), fault));
    }
    let expected = match (&raw.is, &raw.one_of, &raw.at_least, &raw.any) {
        (Some(is), None, None, None) => Expected::Is(value(file, is)?),
        (None, None, None, Some(any)) => {
            not_empty_nor_huge(file, entry.span(), any.len())?;
            let all = any.iter().map(|one| alternative(file, one));
            Expected::Any(all.collect::<Result<_, _>>()?)
        }
        (None, Some(list), None, None) => {
            not_empty_nor_huge(file, list.span(), list.get_ref().len())?;
            let values = list.get_ref().iter().map(|item| value(file, item));
            Expected::OneOf(values.collect::<Result<_, _>>()?)
        }
        (None, None, Some(least), None) => Expected::AtLeast(*least.get_ref()),
        _ => {
            let fault = "needs exactly one of `is`, `one_of`, `at_least`, `any`";
            return Err(file.error(entry.span(), fault));
        }
    };
    let minimum: Provenance =
        raw.provenance
            .get_ref()
            .parse()
            .map_err(|err: super::UnknownProvenance| {
                file.error(raw.provenance.span(), err.to_string())
            })?;
    Ok(Requirement {
        claim: claim.clone(),
        expected,
        minimum,
    })
}

fn alternative(file: &TomlFile<'_>, raw: &RawAlternative) -> Result<Alternative, FileError> {
    let dates = (
        raw.not_before.as_ref(),
        raw.not_after.as_ref(),
        raw.revoked.as_ref(),
    );
    let term = term(file, dates)?;
    Ok(Alternative {
        name: named(file, raw.name.as_ref())?,
        value: value(file, &raw.is)?,
        term,
    })
}

fn named(file: &TomlFile<'_>, name: Option<&Spanned<String>>) -> Result<Option<String>, FileError> {
    match name {
        Some(name) if name.get_ref().is_empty() || name.get_ref().len() > NAME_LIMIT => {
            Err(file.error(name.span(), "a name has 1 to 128 bytes"))
        }
        name => Ok(name.map(|name| name.get_ref().clone())),
    }
}

type Date<'a> = Option<&'a Spanned<String>>;

/// From, until, revoked since.
fn term(
    file: &TomlFile<'_>,
    (from, until, revoked): (Date<'_>, Date<'_>, Date<'_>),
) -> Result<Term, FileError> {
    let term = Term {
        not_before: moment(file, from)?,
        not_after: moment(file, until)?,
        revoked: moment(file, revoked)?,
    };
    if let (Some(from), Some(end), Some(at)) = (term.not_before, term.not_after, until)
        && end <= from
    {
        return Err(file.error(at.span(), "ends before it begins"));
    }
    Ok(term)
}

pub(super) fn moment(
    file: &TomlFile<'_>,
    text: Option<&Spanned<String>>,
) -> Result<Option<UnixTime>, FileError> {
    let Some(text) = text else {
        return Ok(None);
    };
    match text.get_ref().parse::<der::DateTime>() {
        Ok(moment) => Ok(Some(UnixTime::from_secs(moment.unix_duration().as_secs()))),
        Err(_) => Err(file.error(text.span(), "is not a moment as in 2026-01-31T00:00:00Z")),
    }
}

fn value(file: &TomlFile<'_>, found: &Spanned<toml::Value>) -> Result<Value, FileError> {
    match found.get_ref() {
        toml::Value::String(text) if text.len() <= TEXT_LIMIT => Ok(Value::Text(text.clone())),
        toml::Value::String(text) => {
            let fault = format!("{} bytes exceed the limit of {TEXT_LIMIT}", text.len());
            Err(file.error(found.span(), fault))
        }
        toml::Value::Boolean(flag) => Ok(Value::Flag(*flag)),
        toml::Value::Integer(number) => match u64::try_from(*number) {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) => Err(file.error(found.span(), "a number is not negative")),
        },
        other => {
            let fault = format!("{} is not text, number or flag", other.type_str());
            Err(file.error(found.span(), fault))
        }
    }
}
