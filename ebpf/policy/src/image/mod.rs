//! Studies and host services as the kernel reads them: who may go where.
//!
//! Prefixes are weighed here, once: allowed, denied and services of one subject become ordered
//! intervals, each with the decision that stands in it. What was compiled for one lease state is
//! complete: the kernel never joins two rule sets.
//!
//! Subjects are numbered by kind and name: studies first, each kind in the model's order. Cgroups
//! come last, from whoever knows the host: [`set_cgroups`]. So do the numbers of devices:
//! [`set_devices`].

mod cgroups;
mod devices;
mod intervals;
#[cfg(test)]
mod tests;

use bailiwick_attestation::{FileError, Place, Sha256Digest};
use bailiwick_ebpf_common::Plain;
use bailiwick_ebpf_common::policy::{
    ANY_PROTOCOL, ATTESTED, ICMP_PROTOCOL, INTERVALS, Interval, POLICY_FORMAT, POLICY_MAGIC,
    PolicyHeader, PolicyImage, RuleSet, SERVICES, SERVICES_PER_INTERVAL, SUBJECTS,
    Service as Target, Slice, Subject, essential, kind, mode, owned, peering,
};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::mem::offset_of;

pub use cgroups::{CgroupsRefused, set_cgroups};
pub use devices::{
    DeviceNames, HostGpu, HostNumbers, HostPart, Unmet, device_names, owner_id, set_devices,
};

use crate::model::{Essential, Grant, Host, Mode, Model, Protocol, Rule, Selector, Service, Study};
use crate::world::Codes;
use intervals::{Item, What};

/// A study or a host service, under its number.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// A study: the outermost on the way to a cgroup decides.
    Study(&'a Study),
    /// A host service: the deepest decides, where no study does.
    Host(&'a Host),
}

/// All subjects of a policy; the place in this list is the number the kernel knows them by.
#[must_use]
pub fn subjects(model: &Model) -> Vec<Who<'_>> {
    let studies = model.studies.iter().map(Who::Study);
    studies.chain(model.hosts.iter().map(Who::Host)).collect()
}

impl<'a> Who<'a> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        match self {
            Self::Study(study) => study.name.as_str(),
            Self::Host(host) => &host.name,
        }
    }

    /// Whose traffic is meant.
    #[must_use]
    pub fn select(&self) -> &'a [Rule<Selector>] {
        match self {
            Self::Study(study) => &study.select,
            Self::Host(host) => &host.select,
        }
    }

    /// Where its name stands.
    #[must_use]
    pub fn place(&self) -> &'a Place {
        match self {
            Self::Study(study) => &study.place,
            Self::Host(host) => &host.place,
        }
    }

    /// What it may reach. Standing takes nothing away, so a lease adds to `unattested`.
    #[must_use]
    pub fn grants(&self, attested: bool) -> Vec<&'a Grant> {
        match self {
            Self::Study(study) if attested => vec![&study.allow, &study.unattested],
            Self::Study(study) => vec![&study.unattested],
            Self::Host(host) => vec![&host.allow],
        }
    }

    /// What it may not, with a lease and without.
    #[must_use]
    pub fn deny(&self) -> &'a [Rule<IpNet>] {
        match self {
            Self::Study(study) => &study.deny,
            Self::Host(_) => &[],
        }
    }
}

/// Compiles a policy without cgroups, or says which rule has no room. Version and digest are the
/// manifest's.
pub fn compile(
    model: &Model,
    codes: &Codes,
    version: u64,
    manifest_digest: &Sha256Digest,
) -> Result<Box<PolicyImage>, FileError> {
    let mut image = PolicyImage::zeroed();
    image.header.magic = POLICY_MAGIC;
    image.header.format = POLICY_FORMAT;
    image.header.generation = version;
    image.header.manifest_digest = manifest_digest.0;
    image.header.own_table = codes.own_table();
    image.header.seed = 1;

    let mut tables = Tables {
        model,
        codes,
        intervals: Vec::new(),
        services: Vec::new(),
        lists: BTreeMap::new(),
    };
    let all = subjects(model);
    if let Some(extra) = all.get(SUBJECTS) {
        let fault = format!(
            "{} studies and host services; there is room for {SUBJECTS}",
            all.len()
        );
        return Err(extra.place().error(fault));
    }
    for (subject, who) in image.subjects.iter_mut().zip(&all) {
        *subject = tables.subject(who)?;
    }
    image.header.subjects = number(all.len());
    image.header.owners = tables.owners()?;
    image.header.kernel = tables.kernel()?;
    let fence = &model.host_fence;
    for rule in &fence.essentials {
        image.header.essentials |= bit(rule.value);
    }
    for (slot, rule) in image.header.ethertypes.iter_mut().zip(&fence.ethertypes) {
        *slot = rule.value;
    }
    for (slot, interval) in image.intervals.iter_mut().zip(&tables.intervals) {
        *slot = *interval;
    }
    for (slot, service) in image.services.iter_mut().zip(&tables.services) {
        *slot = *service;
    }
    image.header.digest = digest(&image).0;
    Ok(image)
}

/// Replaces what break-glass manifests say by these (subject number, end on the boot clock in ns),
/// and renews the digest. Numbers of no study are passed over.
pub fn set_break_glass(image: &mut PolicyImage, ends: &[(u32, u64)]) {
    for (number, subject) in (0_u32..).zip(image.subjects.iter_mut()) {
        let end = ends.iter().filter(|(study, _)| *study == number);
        subject.break_glass_boot_ns = match subject.kind {
            kind::STUDY => end.map(|(_, end)| *end).max().unwrap_or(0),
            _ => 0,
        };
    }
    image.header.digest = digest(image).0;
}

/// What the header of an intact image says in `digest`: SHA-256 over the whole of it, the digest
/// itself being zero.
#[must_use]
pub fn digest(image: &PolicyImage) -> Sha256Digest {
    let bytes = image.bytes();
    let from = offset_of!(PolicyHeader, digest);
    let to = from.saturating_add(32);
    Sha256Digest::of(&[
        bytes.get(..from).unwrap_or_default(),
        &[0; 32],
        bytes.get(to..).unwrap_or_default(),
    ])
}

/// A count that was checked against a table of some thousands.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The tables all subjects share, as far as they are filled.
struct Tables<'a> {
    model: &'a Model,
    codes: &'a Codes,
    intervals: Vec<Interval>,
    services: Vec<Target>,
    /// Lists of services that stand in `services` already.
    lists: BTreeMap<Vec<(u16, u16, u16)>, Slice>,
}

impl Tables<'_> {
    fn subject(&mut self, who: &Who<'_>) -> Result<Subject, FileError> {
        let unattested = self.rules(who, false)?;
        let mut name = [0; 64];
        for (byte, letter) in name.iter_mut().zip(who.name().bytes()) {
            *byte = letter;
        }
        let (kind, mode, attested) = match who {
            Who::Study(study) => {
                let mode = match study.mode {
                    Mode::Enforce => mode::ENFORCE,
                    Mode::Audit => mode::AUDIT,
                };
                (kind::STUDY, mode, self.rules(who, true)?)
            }
            Who::Host(_) => (kind::HOST, mode::ENFORCE, unattested),
        };
        let peers = match who {
            Who::Study(study) if study.peers_attested => peering::ATTESTED,
            Who::Study(_) | Who::Host(_) => peering::DECLARED,
        };
        let mut rules = [unattested; 2];
        if let Some(slot) = rules.get_mut(ATTESTED) {
            *slot = attested;
        }
        Ok(Subject {
            rules,
            name,
            break_glass_boot_ns: 0,
            kind,
            mode,
            peers,
            management: matches!(who, Who::Host(host) if host.management.is_some()).into(),
            reserved: [0; 4],
        })
    }

    fn rules(&mut self, who: &Who<'_>, attested: bool) -> Result<RuleSet, FileError> {
        let grants = who.grants(attested);
        let mut jurisdictions = [0_u64; 8];
        for rule in grants.iter().flat_map(|grant| &grant.jurisdictions) {
            let known = self.codes.number(rule.value.as_str());
            let number = known.filter(|known| known.0 != 0).ok_or_else(|| {
                rule.place.error(format!(
                    "{:?} is not a jurisdiction known here: no site and no range has it",
                    rule.value.as_str()
                ))
            })?;
            if let Some(word) = jurisdictions.get_mut(usize::from(number.0 / 64)) {
                *word |= 1 << (number.0 % 64);
            }
        }
        let mut items = Vec::new();
        for grant in &grants {
            for rule in &grant.prefixes {
                items.push((rule.value, What::Allow));
            }
            for rule in &grant.services {
                // The model was checked: every name is known.
                if let Some(service) = self.model.services.get(&rule.value) {
                    items.push((service.address, What::Service(target(service))));
                }
            }
        }
        items.extend(who.deny().iter().map(|rule| (rule.value, What::Deny)));
        let intervals = self.flatten(items, who)?;
        Ok(RuleSet {
            jurisdictions,
            intervals,
        })
    }

    fn flatten(&mut self, items: Vec<(IpNet, What)>, who: &Who<'_>) -> Result<Slice, FileError> {
        self.flatten_at(items, who.name(), who.place())
    }

    /// `what` and `place` are what a complaint names.
    fn flatten_at(
        &mut self,
        items: Vec<(IpNet, What)>,
        what: &str,
        place: &Place,
    ) -> Result<Slice, FileError> {
        let first = self.intervals.len();
        let items: Vec<Item> = items
            .into_iter()
            .flat_map(|(net, what)| intervals::items(net, what))
            .collect();
        for piece in intervals::flatten(items) {
            let services = self.list(&piece.services, what, place)?;
            self.intervals.push(Interval {
                hi: piece.start.hi,
                lo: piece.start.lo,
                services,
                owner: piece.owner,
                decision: piece.decision,
                reserved: [0; 3],
            });
        }
        self.slice(first, what, place)
    }

    /// Everything from `first` on, if it is not too much.
    fn slice(&self, first: usize, what: &str, place: &Place) -> Result<Slice, FileError> {
        if self.intervals.len() > INTERVALS {
            let fault = format!(
                "with {what} the rules of all studies and host services take more than {INTERVALS} \
                 intervals of addresses; join neighbouring prefixes, or name a jurisdiction"
            );
            return Err(place.error(fault));
        }
        Ok(Slice {
            first: number(first),
            count: number(self.intervals.len().saturating_sub(first)),
        })
    }

    /// The services of one interval; equal lists stand in the image once.
    fn list(
        &mut self,
        list: &[(u16, u16, u16)],
        what: &str,
        place: &Place,
    ) -> Result<Slice, FileError> {
        if list.is_empty() {
            return Ok(Slice::default());
        }
        if let Some(known) = self.lists.get(list) {
            return Ok(*known);
        }
        let room = SERVICES_PER_INTERVAL;
        if number(list.len()) > room {
            let fault = format!(
                "{what} names {} services that meet at one address; there is room for {room}: join \
                 their ports, or allow the prefix",
                list.len()
            );
            return Err(place.error(fault));
        }
        let slice = Slice {
            first: number(self.services.len()),
            count: number(list.len()),
        };
        let targets = list
            .iter()
            .map(|&(protocol, first_port, last_port)| Target {
                protocol,
                first_port,
                last_port,
                reserved: 0,
            });
        self.services.extend(targets);
        if self.services.len() > SERVICES {
            let fault = format!(
                "with {what} there are more than {SERVICES} combinations of services at one address"
            );
            return Err(place.error(fault));
        }
        self.lists.insert(list.to_vec(), slice);
        Ok(slice)
    }

    /// Of which study, or of what else, an address is: prefixes of different owners do not meet.
    fn owners(&mut self) -> Result<Slice, FileError> {
        let mut items = Vec::new();
        let mut last: Option<&Place> = None;
        for (owner, study) in (1_u32..).zip(&self.model.studies) {
            for rule in &study.peers {
                items.push((rule.value, What::Owner(owner)));
            }
            last = Some(&study.place);
        }
        let fence = &self.model.host_fence;
        for (rules, owner) in [
            (&fence.management, owned::MANAGEMENT),
            (&fence.translated, owned::TRANSLATED),
        ] {
            for rule in rules {
                items.push((rule.value, What::Owner(owner.saturating_add(1))));
                last = Some(&rule.place);
            }
        }
        match last {
            Some(place) => self.flatten_at(items, "addresses with an owner", place),
            None => Ok(Slice::default()),
        }
    }

    /// What the kernel's own sockets may reach; entries for different studies do not meet.
    fn kernel(&mut self) -> Result<Slice, FileError> {
        let mut items = Vec::new();
        let entries = &self.model.host_fence.kernel;
        for entry in entries {
            let address = entry.target.address;
            items.push((address, What::Service(target(&entry.target))));
            let study = entry.study.as_ref().and_then(|study| {
                let mut studies = (1_u32..).zip(&self.model.studies);
                studies.find(|(_, one)| one.name.as_str() == study.value)
            });
            if let Some((owner, _)) = study {
                items.push((address, What::Owner(owner)));
            }
        }
        match entries.last() {
            Some(last) => self.flatten_at(items, "the kernel's targets", &last.target.place),
            None => Ok(Slice::default()),
        }
    }
}

/// The bit of the header's mask.
const fn bit(essential: Essential) -> u64 {
    match essential {
        Essential::NeighbourDiscovery => essential::NEIGHBOUR_DISCOVERY,
        Essential::Dhcp => essential::DHCP,
        Essential::Groups => essential::GROUPS,
        Essential::IcmpErrors => essential::ICMP_ERRORS,
        Essential::TcpResets => essential::TCP_RESETS,
    }
}

/// Protocol, first and last port as the image spells them.
fn target(service: &Service) -> (u16, u16, u16) {
    const TCP: u16 = 6;
    const UDP: u16 = 17;
    let protocol = match service.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Icmp => ICMP_PROTOCOL,
        Protocol::Any => ANY_PROTOCOL,
    };
    match &service.ports {
        Some(ports) => (protocol, *ports.start(), *ports.end()),
        None => (protocol, 0, u16::MAX),
    }
}
