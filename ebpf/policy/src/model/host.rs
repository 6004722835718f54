//! `host-fence.toml`: services that may be named, and what talks without being a study.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bailiwick_attestation::{FileError, TomlFile};
use serde::Deserialize;
use toml::Spanned;

use super::raw::{self, RawGrant, Texts};
use super::{HOSTS_LIMIT, Host, Protocol, SERVICES_LIMIT, STUDY_FILE_LIMIT, Service, prefix};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFence {
    #[serde(default)]
    service: Vec<RawService>,
    #[serde(default)]
    host: Vec<RawHost>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    name: Spanned<String>,
    address: Spanned<String>,
    protocol: Spanned<String>,
    ports: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHost {
    name: Spanned<String>,
    cgroups: Spanned<Texts>,
    #[serde(default)]
    allow: RawGrant,
}

/// Reads the host fence by itself.
pub(super) fn parse(
    path: &str,
    bytes: &[u8],
) -> Result<(BTreeMap<String, Service>, Vec<Host>), FileError> {
    let file = TomlFile::new(path, bytes, STUDY_FILE_LIMIT)?;
    let raw: RawFence = file.parse()?;
    if let Some(extra) = raw.service.get(SERVICES_LIMIT) {
        let fault = format!("more than {SERVICES_LIMIT} services");
        return Err(file.error(extra.name.span(), fault));
    }
    if let Some(extra) = raw.host.get(HOSTS_LIMIT) {
        let fault = format!("more than {HOSTS_LIMIT} host services");
        return Err(file.error(extra.name.span(), fault));
    }
    let mut services = BTreeMap::new();
    for entry in &raw.service {
        let service = service(&file, entry)?;
        let (name, place) = (service.name.clone(), service.place.clone());
        if services.insert(name.clone(), service).is_some() {
            return Err(place.error(format!("service {name:?} is named twice")));
        }
    }
    let mut hosts = Vec::with_capacity(raw.host.len());
    for entry in &raw.host {
        let place = file.place(entry.name.span());
        let name = raw::name(entry.name.get_ref()).map_err(|fault| place.error(fault))?;
        hosts.push(Host {
            name,
            select: raw::select(&file, &entry.cgroups)?,
            allow: raw::grant(&file, &entry.allow)?,
            place,
        });
    }
    Ok((services, hosts))
}

fn service(file: &TomlFile<'_>, raw: &RawService) -> Result<Service, FileError> {
    let place = file.place(raw.name.span());
    let name = raw::name(raw.name.get_ref()).map_err(|fault| place.error(fault))?;
    let address = prefix::parse(raw.address.get_ref())
        .map_err(|fault| file.error(raw.address.span(), fault))?;
    let protocol = match raw.protocol.get_ref().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmp" => Protocol::Icmp,
        "any" => Protocol::Any,
        other => {
            let fault = format!("{other:?} is no protocol: tcp, udp, icmp or any");
            return Err(file.error(raw.protocol.span(), fault));
        }
    };
    let ports = match &raw.ports {
        None => None,
        Some(text) if matches!(protocol, Protocol::Icmp | Protocol::Any) => {
            let fault = format!("protocol {} has no ports", protocol.as_str());
            return Err(file.error(text.span(), fault));
        }
        Some(text) => {
            let range = ports(text.get_ref()).ok_or_else(|| {
                let fault = format!(
                    "{:?} is no port or range: \"53\" or \"8000-8999\", 1 to 65535",
                    text.get_ref()
                );
                file.error(text.span(), fault)
            })?;
            Some(range)
        }
    };
    Ok(Service {
        name,
        address,
        protocol,
        ports,
        place,
    })
}

/// `53` or `8000-8999`: digits only, 1 to 65535, low before high.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits
            .then(|| text.parse::<u16>().ok())?
            .filter(|port| *port > 0)
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (port(low)?, port(high)?);
    (low <= high).then_some(low..=high)
}
