//! `host-fence.toml`: services that may be named, what talks without being a study, what the kernel
//! itself may reach, and the few things that concern every packet.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bailiwick_attestation::{FileError, TomlFile};
use serde::Deserialize;
use toml::Spanned;

use super::devices::{self, RawHostDevices};
use super::raw::{self, RawGrant, RawSelect, Texts};
use super::{
    ETHERTYPES_LIMIT, Essential, HOSTS_LIMIT, Host, HostFence, KernelTarget, Protocol, Rule,
    SERVICES_LIMIT, STUDY_FILE_LIMIT, Service, prefix,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFence {
    #[serde(default)]
    essentials: Texts,
    #[serde(default)]
    ethertypes: Texts,
    #[serde(default)]
    translated: Texts,
    #[serde(default)]
    management: RawManagement,
    #[serde(default)]
    service: Vec<RawService>,
    #[serde(default)]
    host: Vec<RawHost>,
    #[serde(default)]
    kernel: Vec<RawKernel>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManagement {
    #[serde(default)]
    addresses: Texts,
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
    #[serde(default)]
    cgroups: Texts,
    #[serde(default)]
    slices: Texts,
    #[serde(default)]
    units: Texts,
    management: Option<Spanned<bool>>,
    #[serde(default)]
    allow: RawGrant,
    #[serde(default)]
    devices: RawHostDevices,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKernel {
    name: Spanned<String>,
    address: Spanned<String>,
    protocol: Spanned<String>,
    ports: Option<Spanned<String>>,
    study: Option<Spanned<String>>,
}

/// What the file holds.
pub(super) struct Parsed {
    pub(super) services: BTreeMap<String, Service>,
    pub(super) hosts: Vec<Host>,
    pub(super) fence: HostFence,
}

/// Reads the host fence by itself.
pub(super) fn parse(path: &str, bytes: &[u8]) -> Result<Parsed, FileError> {
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
        let select = RawSelect::parts(&entry.cgroups, &entry.slices, &entry.units);
        let management = entry.management.as_ref().filter(|said| *said.get_ref());
        hosts.push(Host {
            name,
            select: raw::select(&file, &select, &entry.name.span())?,
            allow: raw::grant(&file, &entry.allow)?,
            management: management.map(|said| file.place(said.span())),
            devices: devices::of_host(&file, &entry.devices)?,
            place,
        });
    }
    let fence = HostFence {
        essentials: raw::rules(&file, &raw.essentials, ESSENTIALS.len(), essential)?,
        ethertypes: raw::rules(&file, &raw.ethertypes, ETHERTYPES_LIMIT, ethertype)?,
        translated: raw::prefixes(&file, &raw.translated)?,
        management: raw::prefixes(&file, &raw.management.addresses)?,
        kernel: kernel(&file, &raw.kernel)?,
    };
    Ok(Parsed {
        services,
        hosts,
        fence,
    })
}

/// Names of what the host needs to have a network at all.
pub(super) const ESSENTIALS: [(&str, Essential); 5] = [
    ("neighbour-discovery", Essential::NeighbourDiscovery),
    ("dhcp", Essential::Dhcp),
    ("groups", Essential::Groups),
    ("icmp-errors", Essential::IcmpErrors),
    ("tcp-resets", Essential::TcpResets),
];

fn essential(text: &str) -> Result<Essential, String> {
    let found = ESSENTIALS.iter().find(|(name, _)| *name == text);
    found.map(|(_, essential)| *essential).ok_or_else(|| {
        let known: Vec<&str> = ESSENTIALS.iter().map(|(name, _)| *name).collect();
        format!("{text:?} is none of {}", known.join(", "))
    })
}

/// `0x88cc`: four hexadecimal digits, no length (below 0x600) and none that are judged by address.
fn ethertype(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 4);
    let number = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
    let Some(number) = number else {
        return Err(format!("{text:?} is no ethertype, such as \"0x88cc\""));
    };
    match number {
        0..0x600 => Err(format!("{text} is a length, and no ethertype")),
        0x0800 | 0x86dd | 0x0806 => Err(format!(
            "{text} needs no naming: IPv4 and IPv6 are judged by address, ARP passes"
        )),
        0x8100 | 0x88a8 | 0x9100 => Err(format!("{text} is a tag: what it wraps is judged")),
        number => Ok(number),
    }
}

fn kernel(file: &TomlFile<'_>, entries: &[RawKernel]) -> Result<Vec<KernelTarget>, FileError> {
    if let Some(extra) = entries.get(SERVICES_LIMIT) {
        let fault = format!("more than {SERVICES_LIMIT} targets of the kernel's");
        return Err(file.error(extra.name.span(), fault));
    }
    let mut targets: Vec<KernelTarget> = Vec::with_capacity(entries.len());
    for raw in entries {
        let service = target(file, &raw.name, &raw.address, &raw.protocol, &raw.ports)?;
        if let Some(first) = targets
            .iter()
            .find(|first| first.target.name == service.name)
        {
            let fault = format!(
                "{:?} is also the name in {}",
                service.name, first.target.place
            );
            return Err(service.place.error(fault));
        }
        let study = raw.study.as_ref().map(|study| Rule {
            value: study.get_ref().clone(),
            place: file.place(study.span()),
        });
        targets.push(KernelTarget {
            target: service,
            study,
        });
    }
    Ok(targets)
}

fn service(file: &TomlFile<'_>, raw: &RawService) -> Result<Service, FileError> {
    target(file, &raw.name, &raw.address, &raw.protocol, &raw.ports)
}

fn target(
    file: &TomlFile<'_>,
    name: &Spanned<String>,
    address: &Spanned<String>,
    protocol: &Spanned<String>,
    port_range: &Option<Spanned<String>>,
) -> Result<Service, FileError> {
    let place = file.place(name.span());
    let name = raw::name(name.get_ref()).map_err(|fault| place.error(fault))?;
    let address =
        prefix::parse(address.get_ref()).map_err(|fault| file.error(address.span(), fault))?;
    let spoken = match protocol.get_ref().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmp" => Protocol::Icmp,
        "any" => Protocol::Any,
        other => {
            let fault = format!("{other:?} is no protocol: tcp, udp, icmp or any");
            return Err(file.error(protocol.span(), fault));
        }
    };
    let ports = match port_range {
        None => None,
        Some(text) if matches!(spoken, Protocol::Icmp | Protocol::Any) => {
            let fault = format!("protocol {} has no ports", spoken.as_str());
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
        protocol: spoken,
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
