//! `sites.toml`: the operator's own networks.

use std::collections::BTreeSet;

use bailiwick_attestation::{FileError, TomlFile};
use serde::Deserialize;
use toml::Spanned;

use super::{SITES_FILE_LIMIT, SITES_LIMIT, Site, prefix, raw};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSites {
    #[serde(default)]
    site: Vec<RawSite>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSite {
    prefix: Spanned<String>,
    jurisdiction: Spanned<String>,
}

/// Reads the sites by themselves.
pub(crate) fn parse(path: &str, bytes: &[u8]) -> Result<Vec<Site>, FileError> {
    let file = TomlFile::new(path, bytes, SITES_FILE_LIMIT)?;
    let raw: RawSites = file.parse()?;
    if let Some(extra) = raw.site.get(SITES_LIMIT) {
        let fault = format!("more than {SITES_LIMIT} sites");
        return Err(file.error(extra.prefix.span(), fault));
    }
    let mut seen = BTreeSet::new();
    let mut sites = Vec::with_capacity(raw.site.len());
    for entry in &raw.site {
        let prefix = prefix::parse(entry.prefix.get_ref())
            .map_err(|fault| file.error(entry.prefix.span(), fault))?;
        if !seen.insert(prefix) {
            let fault = format!("{prefix} is named twice");
            return Err(file.error(entry.prefix.span(), fault));
        }
        let jurisdiction = raw::jurisdiction(entry.jurisdiction.get_ref())
            .map_err(|fault| file.error(entry.jurisdiction.span(), fault))?;
        sites.push(Site {
            prefix,
            jurisdiction,
            place: file.place(entry.prefix.span()),
        });
    }
    Ok(sites)
}
