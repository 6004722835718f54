//! What no file can say by itself: names that must be known, and things that must not meet.

use std::collections::BTreeMap;

use bailiwick_attestation::{FileError, Place};
use ipnet::IpNet;

use super::{KernelTarget, Model, Rule, SELECTORS_TOTAL_LIMIT, STUDIES_LIMIT, Selector, prefix};

/// Checks all files against one another, sorts, and notes what is allowed but hardly meant.
pub(super) fn check(model: &mut Model) -> Result<(), FileError> {
    if let Some(extra) = model.studies.get(STUDIES_LIMIT) {
        return Err(extra
            .place
            .error(format!("more than {STUDIES_LIMIT} studies")));
    }
    names(model)?;
    services(model)?;
    selectors(model)?;
    peers(model)?;
    addresses(model)?;
    management(model)?;
    kernel(model)?;
    gates(model)?;
    model.warnings = warnings(model);
    model.studies.sort_by(|a, b| a.name.cmp(&b.name));
    model.hosts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(())
}

/// Studies and host services share one set of names: an event says one of them.
fn names(model: &Model) -> Result<(), FileError> {
    let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
    let studies = model.studies.iter().map(|s| (s.name.as_str(), &s.place));
    let hosts = model.hosts.iter().map(|h| (h.name.as_str(), &h.place));
    for (name, place) in studies.chain(hosts) {
        if name == crate::explain::KERNEL {
            let fault = format!("{name:?} means the host's own kernel; take another name");
            return Err(place.error(fault));
        }
        if let Some(first) = seen.insert(name, place) {
            return Err(place.error(format!("{name:?} is also the name in {first}")));
        }
    }
    Ok(())
}

fn services(model: &Model) -> Result<(), FileError> {
    let studies = model.studies.iter().flat_map(|s| [&s.allow, &s.unattested]);
    let grants = studies.chain(model.hosts.iter().map(|h| &h.allow));
    for rule in grants.flat_map(|grant| &grant.services) {
        if !model.services.contains_key(&rule.value) {
            let fault = format!("{:?} is no service of host-fence.toml", rule.value);
            return Err(rule.place.error(fault));
        }
    }
    Ok(())
}

/// The outermost study decides, else the deepest host service: whatever would never decide, or
/// depend on the order of files, is refused.
fn selectors(model: &Model) -> Result<(), FileError> {
    let studies = model.studies.iter().flat_map(|study| &study.select);
    let mut all = studies.chain(model.hosts.iter().flat_map(|host| &host.select));
    if let Some(extra) = all.nth(SELECTORS_TOTAL_LIMIT) {
        let fault = format!("more than {SELECTORS_TOTAL_LIMIT} selectors in all files together");
        return Err(extra.place.error(fault));
    }
    let mut owned: Vec<(&str, &Rule<Selector>)> = Vec::new();
    for study in &model.studies {
        for rule in &study.select {
            if let Some((name, other)) = owned.iter().find(|(name, other)| {
                *name != study.name.as_str() && other.value.overlaps(&rule.value)
            }) {
                let fault = format!(
                    "{} overlaps {} of study {name} ({})",
                    rule.value, other.value, other.place
                );
                return Err(rule.place.error(fault));
            }
            owned.push((study.name.as_str(), rule));
        }
    }
    let mut hosts: Vec<(&str, &Rule<Selector>)> = Vec::new();
    for host in &model.hosts {
        for rule in &host.select {
            if let Some((name, study)) = owned.iter().find(|(_, study)| {
                study.value.depth() <= rule.value.depth() && study.value.overlaps(&rule.value)
            }) {
                let fault = format!(
                    "{} lies inside {} of study {name} ({}), which decides first",
                    rule.value, study.value, study.place
                );
                return Err(rule.place.error(fault));
            }
            if let Some((name, other)) = hosts.iter().find(|(name, other)| {
                *name != host.name.as_str()
                    && other.value.depth() == rule.value.depth()
                    && other.value.overlaps(&rule.value)
            }) {
                let fault = format!(
                    "{} overlaps {} of host service {name} ({})",
                    rule.value, other.value, other.place
                );
                return Err(rule.place.error(fault));
            }
            hosts.push((host.name.as_str(), rule));
        }
    }
    Ok(())
}

/// An address belongs to one study, or "same study" has no meaning.
fn peers(model: &Model) -> Result<(), FileError> {
    // Sorted by first address, a prefix that overlaps an earlier one overlaps the widest so far.
    let mut all: Vec<(&IpNet, &str, &Place)> = Vec::new();
    for study in &model.studies {
        for rule in &study.peers {
            all.push((&rule.value, study.name.as_str(), &rule.place));
        }
    }
    all.sort_by_key(|(net, ..)| (net.network(), net.prefix_len()));
    let mut open: Vec<(&IpNet, &str, &Place)> = Vec::new();
    for (net, name, place) in all {
        // Prefixes nest or are apart: what does not hold this one holds none after it.
        while open
            .last()
            .is_some_and(|(outer, ..)| !prefix::overlap(outer, net))
        {
            open.pop();
        }
        if let Some((other, study, at)) = open.iter().find(|(_, study, _)| *study != name) {
            let fault = format!("{net} overlaps {other} of study {study} ({at})");
            return Err(place.error(fault));
        }
        open.push((net, name, place));
    }
    Ok(())
}

/// An address is a study's own, of the management plane, translated, or none of these.
fn addresses(model: &Model) -> Result<(), FileError> {
    let fence = &model.host_fence;
    let of = |what: &'static str, rules: &'_ [Rule<IpNet>]| -> Vec<(&'static str, Rule<IpNet>)> {
        rules.iter().map(|rule| (what, rule.clone())).collect()
    };
    let mut named = of("the management plane", &fence.management);
    named.extend(of("what is translated", &fence.translated));
    let mut own: Vec<(&'static str, Rule<IpNet>)> = Vec::new();
    for study in &model.studies {
        own.extend(of("a study's own addresses", &study.peers));
    }
    for (what, rule) in named.iter().chain(&own) {
        if rule.value.addr().is_multicast() {
            let fault = format!("{} is a group's, and cannot be of {what}", rule.value);
            return Err(rule.place.error(fault));
        }
    }
    for (at, (what, rule)) in named.iter().enumerate() {
        let others = named.iter().skip(at.saturating_add(1)).chain(&own);
        let met = others
            .filter(|(other, _)| other != what)
            .find(|(_, other)| prefix::overlap(&other.value, &rule.value));
        if let Some((kind, other)) = met {
            let fault = format!(
                "{} of {what} overlaps {} of {kind} ({})",
                rule.value, other.value, other.place
            );
            return Err(rule.place.error(fault));
        }
    }
    Ok(())
}

/// What a study is told and can never have, and a host service that is let into nothing.
fn management(model: &Model) -> Result<(), FileError> {
    let plane = &model.host_fence.management;
    let within = |net: &IpNet| plane.iter().find(|rule| rule.value.contains(net));
    let refuse = |place: &Place, net: &IpNet, rule: &Rule<IpNet>| {
        place.error(format!(
            "{net} is of the management plane ({}), which no study reaches",
            rule.place
        ))
    };
    for study in &model.studies {
        for grant in [&study.allow, &study.unattested] {
            for rule in &grant.prefixes {
                if let Some(inside) = within(&rule.value) {
                    return Err(refuse(&rule.place, &rule.value, inside));
                }
            }
            for rule in &grant.services {
                let service = model.services.get(&rule.value);
                if let Some(service) = service
                    && let Some(inside) = within(&service.address)
                {
                    return Err(refuse(&rule.place, &service.address, inside));
                }
            }
        }
    }
    if plane.is_empty()
        && let Some(place) = model.hosts.iter().find_map(|host| host.management.as_ref())
    {
        return Err(place.error("there is no management plane: name management.addresses"));
    }
    Ok(())
}

/// A target of the kernel's is one study's or the host's.
fn kernel(model: &Model) -> Result<(), FileError> {
    let served = |target: &KernelTarget| target.study.as_ref().map(|study| study.value.clone());
    let mut before: Vec<&KernelTarget> = Vec::new();
    for entry in &model.host_fence.kernel {
        if let Some(study) = &entry.study
            && !model
                .studies
                .iter()
                .any(|one| one.name.as_str() == study.value)
        {
            return Err(study.place.error(format!("{:?} is no study", study.value)));
        }
        let address = &entry.target.address;
        let met = before.iter().find(|other| {
            served(other) != served(entry) && prefix::overlap(&other.target.address, address)
        });
        if let Some(other) = met {
            let fault = format!(
                "{address} overlaps {} of {} ({}), which serves another",
                other.target.address, other.target.name, other.target.place
            );
            return Err(entry.target.place.error(fault));
        }
        before.push(entry);
    }
    Ok(())
}

/// A fence without a gate is a slip: a study that may go nowhere and open nothing needs no policy,
/// for what no study names is denied.
fn gates(model: &Model) -> Result<(), FileError> {
    let empty = model.studies.iter().find(|study| {
        study.allow.is_empty()
            && study.peers.is_empty()
            && study.unattested.is_empty()
            && study.devices.is_empty()
    });
    match empty {
        Some(study) => Err(study.place.error(format!(
            "study {} allows nothing: name a jurisdiction, prefix or service in [allow] or \
             [unattested], addresses in [peers], or a device",
            study.name
        ))),
        None => Ok(()),
    }
}

fn warnings(model: &Model) -> Vec<FileError> {
    let mut warnings = Vec::new();
    let nothing = "allows nothing: everything it sends is denied";
    for host in model.hosts.iter().filter(|host| host.allow.is_empty()) {
        warnings.push(
            host.place
                .error(format!("host service {} {nothing}", host.name)),
        );
    }
    warnings.extend(guests_without_registers(model));
    warnings
}

/// A guest without a TPM has no register, and stands under no profile that asks for one.
fn guests_without_registers(model: &Model) -> Option<FileError> {
    let guests = model.inventory.nodes.iter();
    let guest = guests.clone().find(|node| node.guest.is_some())?;
    let asked = !model.profile_of(Some(guest)).tpm.require.is_empty();
    let file = match &model.guest_profile {
        Some(_) => "guest-profile.toml",
        None => "profile.toml",
    };
    asked.then(|| FileError {
        file: file.to_owned(),
        line: 1,
        key: "tpm.require".to_owned(),
        fault: format!(
            "asks for registers, and {} has no TPM: it never stands; what guests are held against \
             instead of profile.toml is guest-profile.toml",
            guest.name
        ),
    })
}
