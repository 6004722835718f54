//! `studies/*.toml`.

use bailiwick_attestation::{FileError, StudyId, TomlFile};
use serde::Deserialize;
use toml::Spanned;

use super::devices::{self, RawDevices};
use super::raw::{self, RawGrant, RawSelect, Texts};
use super::{Mode, STUDY_FILE_LIMIT, Study};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStudy {
    name: Spanned<String>,
    mode: Spanned<String>,
    select: Spanned<RawSelect>,
    #[serde(default)]
    allow: RawGrant,
    #[serde(default)]
    deny: RawDeny,
    #[serde(default)]
    peers: RawPeers,
    #[serde(default)]
    unattested: RawGrant,
    #[serde(default)]
    devices: RawDevices,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDeny {
    #[serde(default)]
    prefixes: Texts,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeers {
    #[serde(default)]
    addresses: Texts,
    #[serde(default)]
    attested: bool,
}

/// Reads one study by itself.
pub(super) fn parse(path: &str, bytes: &[u8]) -> Result<Study, FileError> {
    let file = TomlFile::new(path, bytes, STUDY_FILE_LIMIT)?;
    let raw: RawStudy = file.parse()?;
    let place = file.place(raw.name.span());
    let name = StudyId::new(raw.name.get_ref())
        .map_err(|err| place.error(format!("{:?} {}", err.name, err.fault)))?;
    let mode = match raw.mode.get_ref().as_str() {
        "enforce" => Mode::Enforce,
        "audit" => Mode::Audit,
        other => {
            let fault = format!("{other:?} is no mode: enforce or audit");
            return Err(file.error(raw.mode.span(), fault));
        }
    };
    Ok(Study {
        name,
        mode,
        select: raw::select(&file, raw.select.get_ref(), &raw.select.span())?,
        allow: raw::grant(&file, &raw.allow)?,
        deny: raw::prefixes(&file, &raw.deny.prefixes)?,
        peers: raw::prefixes(&file, &raw.peers.addresses)?,
        peers_attested: raw.peers.attested,
        unattested: raw::grant(&file, &raw.unattested)?,
        devices: devices::of_study(&file, &raw.devices)?,
        place,
    })
}
