//! `inventory.toml`: which TPM is which node, which guests have none, and what is out of service.

mod guest;

use std::collections::BTreeSet;

use bailiwick_attestation::appraisal::TpmKind;
use bailiwick_attestation::cvm::GuestIdentity;
use bailiwick_attestation::{
    FileError, JurisdictionCode, NodeId, Sha256Digest, TomlFile, UnixTime,
};
use ipnet::IpNet;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use toml::Spanned;

use super::{
    ADDRESSES_LIMIT, DEVICES_LIMIT, INVENTORY_FILE_LIMIT, NODES_LIMIT, prefix,
    raw::{self, Texts},
};
use crate::ssh::SIGNATURE_LIMIT;
use guest::RawGuest;

/// Most bytes of a serial number, a place or a device id.
const WORDS: usize = 200;

/// The nodes of a deployment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inventory {
    /// Guests without a TPM among them. Sorted by name; names, EK digests, AK names, serials, devices but
    /// processors, and addresses are each one node's. No report of a processor is of two guests.
    pub nodes: Vec<Node>,
    /// TPMs and guests that are no node any more, sorted by EK digest; none of them is a node's.
    pub retired: Vec<Retired>,
}

/// A TPM, or a guest without one, that approvers took out of service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Retired {
    /// What it was called.
    pub name: NodeId,
    /// SHA-256 of the endorsement key's marshalled `TPMT_PUBLIC`, or what stands for a guest.
    pub ek: Sha256Digest,
    /// When, whole seconds.
    pub at: UnixTime,
    /// Why, for people.
    pub reason: String,
}

impl Inventory {
    /// The node whose TPM has this endorsement key.
    #[must_use]
    pub fn by_ek(&self, ek: &Sha256Digest) -> Option<&Node> {
        self.nodes.iter().find(|node| node.ek == *ek)
    }

    /// The node of this name.
    #[must_use]
    pub fn by_name(&self, name: &NodeId) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|node| node.name.cmp(name));
        at.ok().and_then(|at| self.nodes.get(at))
    }

    /// The node this device (a GPU's UUID or serial, a chip id) belongs to.
    #[must_use]
    pub fn by_device(&self, device: &str) -> Option<&Node> {
        self.nodes
            .iter()
            .find(|node| node.devices.iter().any(|own| own == device))
    }

    /// Whether approvers took this TPM out of service, and in what words. A TPM that another
    /// one replaced is out of service, too.
    #[must_use]
    pub fn retired(&self, ek: &Sha256Digest) -> Option<String> {
        if let Some(retired) = self.retired.iter().find(|retired| retired.ek == *ek) {
            return Some(format!("{} was retired: {}", retired.name, retired.reason));
        }
        self.nodes
            .iter()
            .find(|node| node.replaces == Some(*ek))
            .map(|node| format!("replaced as {} by the TPM with EK {}", node.name, node.ek))
    }
}

/// One node, as approvers know it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: NodeId,
    /// SHA-256 of the endorsement key's marshalled `TPMT_PUBLIC`; of a guest without a TPM what stands
    /// for it: `bailiwick_attestation::evidence::guest_id`.
    pub ek: Sha256Digest,
    /// The chips a guest without a TPM may run on, and what has to be launched there; `None`: it has a
    /// TPM.
    pub guest: Option<GuestIdentity>,
    /// Name of the attestation key (`TPM2B_NAME` without its size), where approvers bind the
    /// node to one. Whose word it is that EK and AK are one TPM's, says [`Node::confirmed`].
    pub ak: Option<Vec<u8>>,
    /// Serial number of the chassis, as DMI spells it.
    pub chassis_serial: Option<String>,
    /// GPU UUIDs, serials, identifiers of chips (`PDI-` and 16 hex digits), and processors that the
    /// node runs on as a guest (`SNP-…`, `TDX-…`), sorted; empty: nobody wrote them down. Of a guest
    /// without a TPM all its chips are among them.
    pub devices: Vec<String>,
    /// Where it stands, for people.
    pub place: Option<String>,
    /// Where it stands, for the law.
    pub jurisdiction: JurisdictionCode,
    /// What it may host: a peer entry it signs counts inside these ranges only. Sorted.
    pub addresses: Vec<IpNet>,
    /// Highest epoch of the node's log an approver has acknowledged: 0 unless it lost one.
    pub epoch: u64,
    /// What its TPM is, by approvers' word, which counts before its certificate's; `None`: as the
    /// certificate says, and without one nobody does.
    pub tpm: Option<TpmKind>,
    /// Geotags written before this do not count, whoever signed them.
    pub geotags_since: Option<UnixTime>,
    /// The endorsement key this node had before, on another board.
    pub replaces: Option<Sha256Digest>,
    /// An approver's signature that he or she challenged EK and AK.
    pub confirmed: Option<Confirmed>,
}

/// The signature of whoever challenged a node's EK and AK. Nothing in it is trusted yet:
/// [`verify`](super::confirm::verify) says whether it holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Confirmed {
    /// Who signed, for people; what counts is whose key it is.
    pub by: String,
    /// When, whole seconds.
    pub at: UnixTime,
    /// Armored SSHSIG over [`confirm::text`](super::confirm::text).
    pub signature: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInventory {
    #[serde(default)]
    node: Vec<RawNode>,
    #[serde(default)]
    guest: Vec<RawGuest>,
    #[serde(default)]
    retired: Vec<RawRetired>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: Spanned<String>,
    ek: Spanned<String>,
    ak: Option<Spanned<String>>,
    chassis_serial: Option<Spanned<String>>,
    #[serde(default)]
    devices: Texts,
    place: Option<Spanned<String>>,
    jurisdiction: Spanned<String>,
    #[serde(default)]
    addresses: Texts,
    epoch: Option<Spanned<u64>>,
    tpm: Option<Spanned<String>>,
    geotags_since: Option<Spanned<String>>,
    replaces: Option<Spanned<String>>,
    confirmed: Option<RawConfirmed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfirmed {
    by: Spanned<String>,
    at: Spanned<String>,
    signature: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRetired {
    name: Spanned<String>,
    ek: Spanned<String>,
    at: Spanned<String>,
    reason: Spanned<String>,
}

/// Reads the inventory by itself. What identifies a node identifies one node.
pub(super) fn parse(path: &str, bytes: &[u8]) -> Result<Inventory, FileError> {
    let file = TomlFile::new(path, bytes, INVENTORY_FILE_LIMIT)?;
    let raw: RawInventory = file.parse()?;
    let names = raw.node.iter().map(|entry| &entry.name);
    let mut names = names.chain(raw.guest.iter().map(|entry| &entry.name));
    let many = names.nth(NODES_LIMIT);
    let many = many.or_else(|| raw.retired.get(NODES_LIMIT).map(|extra| &extra.name));
    if let Some(extra) = many {
        let fault = format!("more than {NODES_LIMIT} nodes");
        return Err(file.error(extra.span(), fault));
    }
    let mut seen = BTreeSet::new();
    let mut once = |kind: &'static str, text: &Spanned<String>| {
        if seen.insert((kind, text.get_ref().clone())) {
            return Ok(());
        }
        let fault = format!("{kind} {:?} is named twice", text.get_ref());
        Err(file.error(text.span(), fault))
    };
    let mut nodes = Vec::with_capacity(raw.node.len().saturating_add(raw.guest.len()));
    for entry in &raw.node {
        nodes.push(node(&file, entry)?);
        once("node", &entry.name)?;
        once("EK", &entry.ek)?;
        for (kind, text) in [
            ("AK", entry.ak.as_ref()),
            ("chassis serial", entry.chassis_serial.as_ref()),
            ("replaced EK", entry.replaces.as_ref()),
        ] {
            if let Some(text) = text {
                once(kind, text)?;
            }
        }
        // Several guests run on one chip, and its host may be a node, too.
        let of_others = entry.devices.iter().filter(|one| !is_chip(one.get_ref()));
        for device in of_others {
            once("device", device)?;
        }
    }
    let mut guests = Vec::with_capacity(raw.guest.len());
    for entry in &raw.guest {
        guests.push(guest::guest(&file, entry)?);
        once("node", &entry.name)?;
        if let Some(serial) = &entry.chassis_serial {
            once("chassis serial", serial)?;
        }
        for device in &entry.devices {
            once("device", device)?;
        }
    }
    let mut retired = Vec::with_capacity(raw.retired.len());
    for entry in &raw.retired {
        retired.push(retire(&file, entry)?);
        once("retired EK", &entry.ek)?;
    }
    for (entry, guest) in raw.guest.iter().zip(&guests) {
        let id = guest.ek.to_string();
        if seen.contains(&("EK", id.clone())) {
            let fault = format!(
                "{:?} is known by {id}, which is the EK of a node",
                entry.name.get_ref()
            );
            return Err(file.error(entry.name.span(), fault));
        }
        seen.insert(("guest", id));
    }
    // A TPM is in service or out of it, and so is a guest.
    let gone = raw.node.iter().filter_map(|entry| entry.replaces.as_ref());
    for text in gone.chain(raw.retired.iter().map(|entry| &entry.ek)) {
        let own = |kind| seen.contains(&(kind, text.get_ref().clone()));
        let whose = match (own("EK"), own("guest")) {
            (true, _) => "the EK of a node",
            (_, true) => "what a guest is known by",
            _ => continue,
        };
        let fault = format!("{:?} is out of service, and {whose}", text.get_ref());
        return Err(file.error(text.span(), fault));
    }
    let of_nodes = raw.node.iter().map(|it| (&it.name, &it.addresses));
    let of_guests = raw.guest.iter().map(|it| (&it.name, &it.addresses));
    addresses_apart(&file, of_nodes.chain(of_guests))?;
    guest::apart(&file, &raw.guest, &guests)?;
    nodes.append(&mut guests);
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    retired.sort_by_key(|retired| retired.ek);
    Ok(Inventory { nodes, retired })
}

/// An address is one node's, or its peer entries could name another node's workloads.
fn addresses_apart<'a>(
    file: &TomlFile<'_>,
    nodes: impl Iterator<Item = (&'a Spanned<String>, &'a Texts)>,
) -> Result<(), FileError> {
    let mut all = Vec::new();
    for (number, (name, addresses)) in nodes.enumerate() {
        for text in addresses {
            let net =
                prefix::parse(text.get_ref()).map_err(|fault| file.error(text.span(), fault))?;
            all.push((net, number, text, name));
        }
    }
    all.sort_by_key(|(net, ..)| (net.network(), net.prefix_len()));
    // Prefixes nest or are apart: sorted, whatever lies inside another follows it at once.
    let mut open: Option<(IpNet, usize, &Spanned<String>)> = None;
    for (net, number, text, name) in all {
        match open {
            Some((outer, owner, first)) if prefix::overlap(&outer, &net) => {
                if owner != number {
                    let (fault, span) = (
                        format!("{net} overlaps {outer} of node {:?}", first.get_ref()),
                        text.span(),
                    );
                    return Err(file.error(span, fault));
                }
            }
            _ => open = Some((net, number, name)),
        }
    }
    Ok(())
}

fn retire(file: &TomlFile<'_>, raw: &RawRetired) -> Result<Retired, FileError> {
    Ok(Retired {
        name: node_id(file, &raw.name)?,
        ek: ek(file, &raw.ek)?,
        at: instant(file, &raw.at)?,
        reason: words(file, &raw.reason)?,
    })
}

fn node(file: &TomlFile<'_>, raw: &RawNode) -> Result<Node, FileError> {
    let at = |text: &Spanned<String>, fault: &str| {
        file.error(text.span(), format!("{:?} {fault}", text.get_ref()))
    };
    let ak = match &raw.ak {
        None => None,
        Some(text) => match ak_name(text.get_ref()) {
            Some(name) => Some(name),
            None => {
                let fault = "is no name of a key: 68 or 100 lower-case hexadecimal digits, \
                             beginning with 000b or 000c";
                return Err(at(text, fault));
            }
        },
    };
    let maybe_words =
        |text: &Option<Spanned<String>>| text.as_ref().map(|text| words(file, text)).transpose();
    let mut devices = raw::rules(file, &raw.devices, DEVICES_LIMIT, device)?
        .into_iter()
        .map(|rule| rule.value)
        .collect::<Vec<_>>();
    devices.sort();
    let confirmed = match (&raw.confirmed, &ak) {
        (None, _) => None,
        (Some(raw), Some(_)) => Some(confirmed(file, raw)?),
        (Some(raw), None) => {
            let fault = "confirms no AK: the entry names none";
            return Err(file.error(raw.by.span(), fault));
        }
    };
    Ok(Node {
        name: node_id(file, &raw.name)?,
        ek: ek(file, &raw.ek)?,
        guest: None,
        ak,
        chassis_serial: maybe_words(&raw.chassis_serial)?,
        devices,
        place: maybe_words(&raw.place)?,
        jurisdiction: raw::jurisdiction(raw.jurisdiction.get_ref())
            .map_err(|fault| file.error(raw.jurisdiction.span(), fault))?,
        addresses: addresses(file, &raw.addresses)?,
        epoch: epoch(file, raw.epoch.as_ref())?,
        tpm: raw.tpm.as_ref().map(|text| tpm(file, text)).transpose()?,
        geotags_since: raw
            .geotags_since
            .as_ref()
            .map(|text| instant(file, text))
            .transpose()?,
        replaces: raw
            .replaces
            .as_ref()
            .map(|text| ek(file, text))
            .transpose()?,
        confirmed,
    })
}

fn addresses(file: &TomlFile<'_>, texts: &Texts) -> Result<Vec<IpNet>, FileError> {
    let rules = raw::rules(file, texts, ADDRESSES_LIMIT, prefix::parse)?;
    let mut addresses: Vec<IpNet> = rules.into_iter().map(|rule| rule.value).collect();
    addresses.sort();
    Ok(addresses)
}

/// Stored as a signed number of 64 bits.
fn epoch(file: &TomlFile<'_>, number: Option<&Spanned<u64>>) -> Result<u64, FileError> {
    match number {
        Some(number) if i64::try_from(*number.get_ref()).is_err() => {
            Err(file.error(number.span(), "exceeds 2^63 - 1"))
        }
        number => Ok(number.map_or(0, |number| *number.get_ref())),
    }
}

/// What a TPM is, as `inventory.toml` spells it.
pub(super) const TPM_KINDS: [(&str, TpmKind); 2] =
    [("chip", TpmKind::Chip), ("virtual", TpmKind::Virtual)];

fn tpm(file: &TomlFile<'_>, text: &Spanned<String>) -> Result<TpmKind, FileError> {
    let mut kinds = TPM_KINDS.iter();
    let found = kinds.find(|(word, _)| word == text.get_ref());
    let found = found.map(|(_, kind)| *kind);
    found.ok_or_else(|| {
        let fault = format!("{:?} is neither chip nor virtual", text.get_ref());
        file.error(text.span(), fault)
    })
}

fn confirmed(file: &TomlFile<'_>, raw: &RawConfirmed) -> Result<Confirmed, FileError> {
    let signature = raw.signature.get_ref();
    if signature.len() > SIGNATURE_LIMIT {
        return Err(file.error(raw.signature.span(), "longer than any signature is"));
    }
    Ok(Confirmed {
        by: words(file, &raw.by)?,
        at: instant(file, &raw.at)?,
        signature: signature.clone(),
    })
}

fn node_id(file: &TomlFile<'_>, text: &Spanned<String>) -> Result<NodeId, FileError> {
    NodeId::new(text.get_ref())
        .map_err(|err| file.error(text.span(), format!("{:?} {}", text.get_ref(), err.fault)))
}

fn ek(file: &TomlFile<'_>, text: &Spanned<String>) -> Result<Sha256Digest, FileError> {
    Sha256Digest::try_from(text.get_ref().clone())
        .map_err(|err| file.error(text.span(), format!("{:?} {}", text.get_ref(), err.fault)))
}

/// RFC 3339, whole seconds of UTC: one spelling, for it is signed.
pub(super) fn instant(file: &TomlFile<'_>, text: &Spanned<String>) -> Result<UnixTime, FileError> {
    let at = OffsetDateTime::parse(text.get_ref(), &Rfc3339).ok();
    let at = at.and_then(|at| u64::try_from(at.unix_timestamp()).ok());
    let at = at.map(UnixTime::from_secs);
    at.filter(|at| super::confirm::rfc3339(*at) == *text.get_ref())
        .ok_or_else(|| file.error(text.span(), "is no time: 2027-01-01T00:00:00Z"))
}

fn words(file: &TomlFile<'_>, text: &Spanned<String>) -> Result<String, FileError> {
    plain_words(text.get_ref()).map_err(|fault| file.error(text.span(), fault))
}

/// A device. An identifier of a chip is written in one way only: another spelling would name no
/// chip, and nobody would miss it.
fn device(text: &str) -> Result<String, String> {
    let words = plain_words(text)?;
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let pdi = words
        .get(..4)
        .filter(|head| head.eq_ignore_ascii_case("PDI-"));
    let digits = words.strip_prefix("PDI-").unwrap_or_default();
    if let Some(fault) = chip_fault(text) {
        return Err(fault);
    }
    if pdi.is_some() && (digits.len() != 16 || !digits.bytes().all(lower)) {
        return Err(format!(
            "{text:?} is no identifier of a chip: PDI- and 16 lower-case hexadecimal digits"
        ));
    }
    Ok(words)
}

/// Names of processors, which guests run on: `SNP-` and `CHIP_ID` (Milan and Genoa 64 bytes, Turin 8),
/// `TDX-` and `PPID` (16 bytes).
const CHIPS: [(&str, &[usize]); 2] = [("SNP-", &[128, 16]), ("TDX-", &[32])];

fn is_chip(text: &str) -> bool {
    CHIPS.iter().any(|(prefix, _)| text.starts_with(prefix))
}

fn chip_fault(text: &str) -> Option<String> {
    let head = text.get(..4)?;
    let mut all = CHIPS.iter();
    let (prefix, lengths) = all.find(|(prefix, _)| head.eq_ignore_ascii_case(prefix))?;
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let digits = text.strip_prefix(prefix).unwrap_or_default();
    let good = lengths.contains(&digits.len()) && digits.bytes().all(lower);
    let lengths: Vec<String> = lengths.iter().map(ToString::to_string).collect();
    let lengths = lengths.join(" or ");
    (!good).then(|| {
        format!("{text:?} is no chip: {prefix} and {lengths} lower-case hexadecimal digits")
    })
}

/// DMI strings, device ids and rack names; whatever is shown in a table or a label, and what is
/// signed line by line.
fn plain_words(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > WORDS || text.chars().any(char::is_control) {
        return Err(format!(
            "{text:?} must have 1 to {WORDS} bytes and no control characters"
        ));
    }
    Ok(text.to_owned())
}

/// `TPMT_HA`: algorithm and digest. TPM 2.0 Library Part 1, "Names".
fn ak_name(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let name = hex::decode(text).ok()?;
    let sound = match name.get(..2)? {
        [0, 0x0b] => name.len() == 34,
        [0, 0x0c] => name.len() == 50,
        _ => false,
    };
    sound.then_some(name)
}
