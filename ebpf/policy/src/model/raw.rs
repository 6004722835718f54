//! Lists and grants as TOML spells them, shared by studies and host services.

use bailiwick_attestation::{FileError, JurisdictionCode, TomlFile};
use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;

use super::{Grant, PREFIXES_LIMIT, Rule, SELECTORS_LIMIT, SERVICES_LIMIT, Selector, prefix};

pub(super) type Texts = Vec<Spanned<String>>;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrant {
    #[serde(default)]
    jurisdictions: Texts,
    #[serde(default)]
    prefixes: Texts,
    #[serde(default)]
    services: Texts,
}

/// Whose traffic is meant: cgroups by path, slices and units by the paths systemd gives them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSelect {
    #[serde(default)]
    cgroups: Texts,
    #[serde(default)]
    slices: Texts,
    #[serde(default)]
    units: Texts,
}

impl RawSelect {
    pub(super) fn parts(cgroups: &Texts, slices: &Texts, units: &Texts) -> Self {
        Self {
            cgroups: cgroups.clone(),
            slices: slices.clone(),
            units: units.clone(),
        }
    }
}

/// Checks each text of a list; a value that stands there twice is a slip of the pen, and refused.
pub(super) fn rules<T: PartialEq>(
    file: &TomlFile<'_>,
    texts: &Texts,
    limit: usize,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<Rule<T>>, FileError> {
    if let Some(extra) = texts.get(limit) {
        return Err(file.error(extra.span(), format!("more than {limit} entries")));
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut rules: Vec<Rule<T>> = Vec::with_capacity(texts.len());
    for text in texts {
        let place = file.place(text.span());
        let value = check(text.get_ref()).map_err(|fault| place.error(fault))?;
        if !seen.insert(text.get_ref()) {
            return Err(place.error(format!("{:?} stands here twice", text.get_ref())));
        }
        rules.push(Rule { value, place });
    }
    Ok(rules)
}

pub(super) fn jurisdiction(code: &str) -> Result<JurisdictionCode, String> {
    let parsed = JurisdictionCode::new(code).map_err(|err| format!("{code:?} {}", err.fault))?;
    // An operator's own code is known once a site or the world map has it.
    if !code.starts_with("X-") && !crate::world::is_known(code) {
        return Err(format!("{code:?} is not a jurisdiction known here"));
    }
    Ok(parsed)
}

pub(super) fn prefixes(file: &TomlFile<'_>, texts: &Texts) -> Result<Vec<Rule<IpNet>>, FileError> {
    rules(file, texts, PREFIXES_LIMIT, prefix::parse)
}

/// Letters and digits that are safe in a label, a log line and a table: the rule for all names.
pub(super) fn name(text: &str) -> Result<String, String> {
    match bailiwick_attestation::StudyId::new(text) {
        Ok(id) => Ok(id.into()),
        Err(err) => Err(format!("{:?} {}", err.name, err.fault)),
    }
}

pub(super) fn grant(file: &TomlFile<'_>, raw: &RawGrant) -> Result<Grant, FileError> {
    // All codes there are, and as many of the operator's own.
    const JURISDICTIONS_LIMIT: usize = 512;
    Ok(Grant {
        jurisdictions: rules(file, &raw.jurisdictions, JURISDICTIONS_LIMIT, jurisdiction)?,
        prefixes: prefixes(file, &raw.prefixes)?,
        services: rules(file, &raw.services, SERVICES_LIMIT, name)?,
    })
}

/// At least one selector; `span` is where it is told that there is none.
pub(super) fn select(
    file: &TomlFile<'_>,
    raw: &RawSelect,
    span: &std::ops::Range<usize>,
) -> Result<Vec<Rule<Selector>>, FileError> {
    let mut all = rules(file, &raw.cgroups, SELECTORS_LIMIT, Selector::parse)?;
    all.extend(rules(file, &raw.slices, SELECTORS_LIMIT, Selector::slice)?);
    all.extend(rules(file, &raw.units, SELECTORS_LIMIT, Selector::unit)?);
    if all.is_empty() {
        let fault = "selects nothing: name at least one cgroup, slice or unit";
        return Err(file.error(span.clone(), fault));
    }
    if let Some(extra) = all.get(SELECTORS_LIMIT) {
        let fault = format!("more than {SELECTORS_LIMIT} selectors");
        return Err(extra.place.error(fault));
    }
    Ok(all)
}
